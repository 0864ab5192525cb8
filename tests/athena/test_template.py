"""The template for Athena: AWS's names, shapes of Glue and Athena, queries that run, partitions that fit."""

from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import duckdb
import pyarrow as pa
import pytest
from botocore.stub import Stubber
from botocore.validate import ParamValidator

from vnotch.athena import partition_loader
from vnotch.athena.queries import QUERIES, queries_of
from vnotch.athena.table import Files, projected_ddl, storage, table_input
from vnotch.athena.template import INLINE_CODE_CHARACTERS_MAX, Integration, loader_code, template
from vnotch.bucket_keys import partition_seconds
from vnotch.fields import DEFAULT_FORMAT, parse_format

DEFAULT = parse_format(DEFAULT_FORMAT)
V5 = parse_format(DEFAULT_FORMAT + " ${instance-id} ${subnet-id} ${type} ${pkt-srcaddr} ${pkt-dstaddr}")
PLAIN = Files("logs", "my/folder/", "123456789012", "us-east-1")
HIVE = Files("logs", "", "123456789012", "us-east-1", parquet=True, hive=True, per_hour=True)
NONE = Integration(("answers", "x/"), "none", datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 1, 31, 12, tzinfo=UTC))
DAILY = Integration(("answers", ""), "daily")
DAY = datetime(2026, 1, 31, 12, 7, tzinfo=UTC)


def resources(files: Files = PLAIN, format: Any = DEFAULT, *integrations: Integration) -> dict[str, Any]:
    return dict(json.loads(template("fl-1234abcd", format, files, integrations or [DAILY]))["Resources"])


def of_type(found: dict[str, Any], type_: str) -> list[dict[str, Any]]:
    return [item["Properties"] for item in found.values() if item["Type"] == type_]


def test_names_are_those_of_the_user_guide():
    """vpcflowlogsathenadatabase<flow-log>, <flow-log><frequency><start><end>, the same + workgroup."""
    found = resources(PLAIN, DEFAULT, DAILY, NONE)
    assert [item["DatabaseInput"]["Name"] for item in of_type(found, "AWS::Glue::Database")] == [
        "vpcflowlogsathenadatabasefl1234abcd"
    ]
    tables = [item["TableInput"]["Name"] for item in of_type(found, "AWS::Glue::Table")]
    assert tables == ["fl1234abcddaily", "fl1234abcdnone202601300000202601311200"]
    groups = [item["Name"] for item in of_type(found, "AWS::Athena::WorkGroup")]
    assert groups == [f"{table}workgroup" for table in tables]


@pytest.mark.parametrize("files", [PLAIN, HIVE])
def test_tables_are_what_glue_takes(files: Files):
    """Judge: botocore's model of Glue."""
    model = botocore.session.Session().get_service_model("glue")
    made = table_input("t", V5, files)
    assert not ParamValidator().validate(made, model.shape_for("TableInput")).has_errors()
    assert [column["Name"] for column in made["StorageDescriptor"]["Columns"]] == list(V5.columns)
    assert {column["Type"] for column in made["StorageDescriptor"]["Columns"]} == {"int", "bigint", "string"}
    keys = {key["Name"] for key in made["PartitionKeys"]}
    assert not keys & {item.column for item in V5.fields}, "Athena refuses a key that is a column"


def test_workgroups_and_queries_are_what_athena_takes():
    model = botocore.session.Session().get_service_model("athena")
    found = resources(PLAIN, V5)
    (group,) = of_type(found, "AWS::Athena::WorkGroup")
    call = {"Name": group["Name"], "Configuration": group["WorkGroupConfiguration"]}
    assert not ParamValidator().validate(call, model.operation_model("CreateWorkGroup").input_shape).has_errors()
    for query in of_type(found, "AWS::Athena::NamedQuery"):
        call = {key: value for key, value in query.items() if key != "WorkGroup"}
        assert not ParamValidator().validate(call, model.operation_model("CreateNamedQuery").input_shape).has_errors()


def test_only_queries_whose_fields_exist_are_there():
    names = {query.name for query in queries_of(DEFAULT)}
    assert "VpcFlowLogsTopTalkers" in names
    assert not names & {
        "VpcFlowLogsIPv4Traffic", "VpcFlowLogsIPv6Traffic", "VpcFlowLogsTopTalkersPacketLevel",
        "VpcFlowLogsTopTalkingInstances", "VpcFlowLogsTopTalkingSubnets", "VpcFlowLogsTotalBytesTransferredPacketLevel",
    }  # fmt: skip
    assert {query.name for query in queries_of(V5)} == {query.name for query in QUERIES}
    assert len(QUERIES) == 16


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_every_query_runs(query: Any):
    """In DuckDB, which knows all of SQL that they use."""
    connection = duckdb.connect()
    flow_logs = pa.Table.from_pylist(
        [
            {
                "version": 5, "srcaddr": "10.0.0.1", "dstaddr": "10.0.0.2", "srcport": 1, "dstport": 22, "protocol": 6,
                "packets": 2, "bytes": 100, "start": 1, "end": 2, "action": action, "log_status": "OK", "type": type_,
                "instance_id": "i-1", "subnet_id": "subnet-1", "pkt_srcaddr": "10.0.0.1", "pkt_dstaddr": "10.0.0.9",
            }
            for action, type_ in (("ACCEPT", "IPv4"), ("REJECT", "IPv6"))
        ],
        schema=V5.schema,
    )  # fmt: skip
    connection.register("flow_logs", flow_logs)
    sql = query.sql.format(table="flow_logs")
    value = "10.0.0.2" if "ToDst" in query.name else "10.0.0.1"
    rows = connection.execute(sql, [value] if "?" in sql else []).to_arrow_table()
    assert rows.num_rows
    if "total_bytes" in rows.schema.names:
        assert set(rows["total_bytes"].to_pylist()) <= {100, 200}


def test_everything_referred_to_is_there():
    found = resources(HIVE, V5, DAILY, NONE)

    def references(item: Any) -> list[str]:
        if isinstance(item, list):
            return [name for part in item for name in references(part)]
        if not isinstance(item, dict):
            return []
        here = [item["Ref"]] if "Ref" in item else [item["Fn::GetAtt"][0]] if "Fn::GetAtt" in item else []
        here += [item["DependsOn"]] if "DependsOn" in item else []
        return here + [name for part in item.values() for name in references(part)]

    assert {name for name in references(found) if not name.startswith("AWS::")} <= set(found)
    assert all(name.isalnum() for name in found)


def test_a_schedule_is_there_only_without_dates():
    assert len(of_type(resources(PLAIN, DEFAULT, DAILY), "AWS::Events::Rule")) == 1
    assert not of_type(resources(PLAIN, DEFAULT, NONE), "AWS::Events::Rule")
    dated = Integration(("answers", ""), "monthly", NONE.begin, NONE.end)
    assert not of_type(resources(PLAIN, DEFAULT, dated), "AWS::Events::Rule")


def test_the_function_fits_into_a_template_and_is_python():
    assert len(loader_code()) <= INLINE_CODE_CHARACTERS_MAX
    compile(loader_code(), "index.py", "exec")


class Glue:
    """botocore's own client of Glue, which checks requests, and answers as the service would."""

    def __init__(self, table: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> None:
        session = botocore.session.Session()
        self.client = session.create_client("glue", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        self.made: list[dict[str, Any]] = []
        self.client.meta.events.register("before-parameter-build.glue.BatchCreatePartition", self._keep)
        self.stub = Stubber(self.client)
        answer = {"Table": {"Name": "t", **{key: table[key] for key in ("StorageDescriptor", "PartitionKeys")}}}
        self.stub.add_response("get_table", answer)
        for _ in range(20):
            self.stub.add_response("batch_create_partition", {"Errors": errors or []})
        self.stub.activate()

    def _keep(self, params: dict[str, Any], **_: Any) -> None:
        self.made += params["PartitionInputList"]


@pytest.mark.parametrize("files", [PLAIN, HIVE])
def test_partitions_lie_where_the_files_of_their_time_are(files: Files):
    glue = Glue(table_input("t", DEFAULT, files))
    settings = {"DATABASE": "d", "TABLE": "t", "HIVE": "true" if files.hive else "false"}
    count = partition_loader.load(glue.client, NONE.begin, NONE.end, settings)
    assert count == len(glue.made) == (37 if files.per_hour else 2)
    step = 3600 if files.per_hour else 86_400
    begin = int(datetime(2026, 1, 30, tzinfo=UTC).timestamp())
    for number, made in enumerate(glue.made):
        span = partition_seconds(made["StorageDescriptor"]["Location"])
        assert span == (begin + number * step, begin + (number + 1) * step)
        assert made["StorageDescriptor"]["Location"] == files.partition_location(tuple(made["Values"])) + "/"
        assert made["StorageDescriptor"]["Columns"] == storage(DEFAULT, files)["Columns"]


def test_a_partition_that_is_there_is_right_and_other_errors_are_not():
    settings = {"DATABASE": "d", "TABLE": "t", "HIVE": "false"}

    def failing(code: str) -> Glue:
        return Glue(table_input("t", DEFAULT, PLAIN), [{"PartitionValues": ["1"], "ErrorDetail": {"ErrorCode": code}}])

    assert partition_loader.load(failing("AlreadyExistsException").client, DAY, DAY, settings) == 1
    with pytest.raises(RuntimeError, match="InternalServiceException"):
        partition_loader.load(failing("InternalServiceException").client, DAY, DAY, settings)


@pytest.mark.parametrize("given", [True, False])
def test_cloudformation_is_told_how_the_first_partitions_went(monkeypatch: pytest.MonkeyPatch, given: bool):
    """A custom resource answers by PUT to the URL of the event (CloudFormation user guide)."""
    told: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    glue = Glue(table_input("t", DEFAULT, PLAIN))
    monkeypatch.setattr(partition_loader.boto3, "client", lambda name: glue.client)
    for name, value in {"DATABASE": "d", "TABLE": "t", "HIVE": "false", "AHEAD_DAYS": "2"}.items():
        monkeypatch.setenv(name, value)
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        days = {"Begin": "2026-01-30T00:00:00+00:00", "End": "2026-01-31T12:00:00+00:00"} if given else {}
        event = {
            "RequestType": "Create", "ResponseURL": f"http://127.0.0.1:{server.server_port}/", "StackId": "s",
            "RequestId": "r", "LogicalResourceId": "l", "ResourceProperties": days,
        }  # fmt: skip
        partition_loader.handler(event, None)
    (answer,) = told
    assert (answer["Status"], answer["StackId"], answer["RequestId"], answer["LogicalResourceId"]) == (
        "SUCCESS", "s", "r", "l",
    )  # fmt: skip
    assert len(glue.made) == (2 if given else 4)


def test_the_ddl_projects_the_folders_that_the_files_lie_in():
    text = projected_ddl("flow_logs", DEFAULT, PLAIN, date(2026, 1, 1))
    assert (
        "'storage.location.template' = 's3://logs/my/folder/AWSLogs/123456789012/vpcflowlogs/us-east-1/${day}'" in text
    )
    assert "'projection.day.format' = 'yyyy/MM/dd'" in text
    assert "'skip.header.line.count' = '1'" in text
    hive = projected_ddl("flow_logs", DEFAULT, HIVE, date(2026, 1, 1))
    assert (
        "s3://logs/AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/year=${year}/"
        "month=${month}/day=${day}/hour=${hour}'"
    ) in hive
    assert "ParquetHiveSerDe" in hive


@pytest.mark.parametrize("files", [PLAIN, HIVE])
def test_the_documentation_shows_the_ddl_that_is_made(files: Files):
    page = (Path(__file__).parents[2] / "docs" / "athena.md").read_text()
    files = Files("my-flow-logs", "", "123456789012", "us-east-1", files.parquet, files.hive, files.per_hour)
    assert projected_ddl("flow_logs", DEFAULT, files, date(2026, 1, 1)) in page
