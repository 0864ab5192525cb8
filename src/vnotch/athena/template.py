"""The CloudFormation template of GetFlowLogsIntegrationTemplate (API reference; VPC user guide, "Query flow logs using
Amazon Athena"): database, workgroup, table, named queries, and a Lambda function with its role that adds partitions.

The names are AWS's, without the hyphen of the flow log's id, which Athena's own names do not have. The resources are
ours; what AWS generates is not published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files as package_files
from typing import Any

from vnotch.athena.queries import queries_of
from vnotch.athena.table import Files, table_input
from vnotch.fields import Format

AHEAD_DAYS = {"daily": 2, "weekly": 8, "monthly": 32}
"""Days for which a run of the schedule adds partitions: until the next one, and one more."""
_RATES = {"daily": "cron(5 0 * * ? *)", "weekly": "cron(5 0 ? * SUN *)", "monthly": "cron(5 0 1 * ? *)"}
INLINE_CODE_CHARACTERS_MAX = 4096
"""Of ZipFile (CloudFormation user guide, AWS::Lambda::Function Code); raised since, and kept to for older stacks."""


@dataclass(frozen=True)
class Integration:
    """One of AthenaIntegrations. `results` is a bucket and a folder; `begin` and `end` come together or not at all."""

    results: tuple[str, str]
    frequency: str
    begin: datetime | None = None
    end: datetime | None = None

    @property
    def span(self) -> str:
        if self.begin is None or self.end is None:
            return ""
        return f"{self.begin:%Y%m%d%H%M}{self.end:%Y%m%d%H%M}"


def database_name(flow_log_id: str) -> str:
    return f"vpcflowlogsathenadatabase{_plain(flow_log_id)}"


def table_name(flow_log_id: str, integration: Integration) -> str:
    return f"{_plain(flow_log_id)}{integration.frequency}{integration.span}"


def template(flow_log_id: str, format: Format, files: Files, integrations: Sequence[Integration]) -> str:
    """The template's text: JSON, which is YAML too. Tables of one name are the caller's mistake."""
    database = database_name(flow_log_id)
    resources: dict[str, Any] = {
        "Database": {
            "Type": "AWS::Glue::Database",
            "Properties": {"CatalogId": {"Ref": "AWS::AccountId"}, "DatabaseInput": {"Name": database}},
        }
    }
    for number, integration in enumerate(integrations):
        resources |= _integration(f"Integration{number}", database, flow_log_id, format, files, integration)
    document = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Athena for the VPC flow log {flow_log_id} in {files.location}",
        "Resources": resources,
    }
    return json.dumps(document, indent=2) + "\n"


def _integration(
    prefix: str, database: str, flow_log_id: str, format: Format, files: Files, integration: Integration
) -> dict[str, Any]:
    table = table_name(flow_log_id, integration)
    bucket, folder = integration.results
    results = f"s3://{bucket}/{folder.strip('/')}/" if folder.strip("/") else f"s3://{bucket}/"
    made = {
        f"{prefix}Table": {
            "Type": "AWS::Glue::Table",
            "DependsOn": "Database",
            "Properties": {
                "CatalogId": {"Ref": "AWS::AccountId"},
                "DatabaseName": database,
                "TableInput": table_input(table, format, files),
            },
        },
        f"{prefix}WorkGroup": {
            "Type": "AWS::Athena::WorkGroup",
            "Properties": {
                "Name": f"{table}workgroup",
                "RecursiveDeleteOption": True,
                "WorkGroupConfiguration": {"ResultConfiguration": {"OutputLocation": results}},
            },
        },
    }
    for query in queries_of(format):
        made[f"{prefix}{query.name}"] = {
            "Type": "AWS::Athena::NamedQuery",
            "DependsOn": f"{prefix}Table",
            "Properties": {
                "Name": query.name,
                "Description": query.meaning,
                "Database": database,
                "WorkGroup": {"Ref": f"{prefix}WorkGroup"},
                "QueryString": query.sql.format(table=f'"{database}"."{table}"'),
            },
        }
    return made | _loader(prefix, database, table, files, integration)


def _loader(prefix: str, database: str, table: str, files: Files, integration: Integration) -> dict[str, Any]:
    """The function that adds partitions, and what calls it."""
    function, role = f"{prefix}PartitionLoader", f"{prefix}PartitionLoaderRole"
    variables = {
        "DATABASE": database,
        "TABLE": table,
        "HIVE": "true" if files.hive else "false",
        "AHEAD_DAYS": str(AHEAD_DAYS.get(integration.frequency, 0)),
    }
    first: dict[str, Any] = {"ServiceToken": _of(function, "Arn")}
    if integration.begin is not None and integration.end is not None:
        first |= {"Begin": integration.begin.isoformat(), "End": integration.end.isoformat()}
    made: dict[str, Any] = {
        role: {"Type": "AWS::IAM::Role", "Properties": _role(database, table)},
        function: {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Description": f"Adds partitions to {database}.{table}",
                "Runtime": "python3.12",
                "Handler": "index.handler",
                "Timeout": 300,
                "MemorySize": 256,
                "Role": _of(role, "Arn"),
                "Environment": {"Variables": variables},
                "Code": {"ZipFile": loader_code()},
            },
        },
        f"{prefix}FirstPartitions": {
            "Type": "AWS::CloudFormation::CustomResource",
            "DependsOn": f"{prefix}Table",
            "Properties": first,
        },
    }
    if integration.frequency in _RATES and integration.begin is None:
        made[f"{prefix}Schedule"] = {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Description": f"Adds partitions to {database}.{table}, {integration.frequency}",
                "ScheduleExpression": _RATES[integration.frequency],
                "Targets": [{"Id": "loader", "Arn": _of(function, "Arn")}],
            },
        }
        made[f"{prefix}SchedulePermission"] = {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": {"Ref": function},
                "Principal": "events.amazonaws.com",
                "SourceArn": _of(f"{prefix}Schedule", "Arn"),
            },
        }
    return made


def _role(database: str, table: str) -> dict[str, Any]:
    names = ("catalog", f"database/{database}", f"table/{database}/{table}")
    glue = [{"Fn::Sub": f"arn:${{AWS::Partition}}:glue:${{AWS::Region}}:${{AWS::AccountId}}:{name}"} for name in names]
    logs = {"Fn::Sub": "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/aws/lambda/*"}
    return {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        },
        "Policies": [
            {
                "PolicyName": "load-partitions",
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Action": ["glue:GetTable", "glue:CreatePartition", "glue:BatchCreatePartition"],
                            "Resource": glue,
                        },
                        {
                            "Effect": "Allow",
                            "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
                            "Resource": logs,
                        },
                    ],
                },
            }
        ],
    }


def loader_code() -> str:
    return package_files("vnotch.athena").joinpath("partition_loader.py").read_text()


def _of(resource: str, attribute: str) -> dict[str, list[str]]:
    return {"Fn::GetAtt": [resource, attribute]}


def _plain(flow_log_id: str) -> str:
    return flow_log_id.replace("-", "")
