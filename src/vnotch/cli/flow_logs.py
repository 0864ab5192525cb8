"""`vnotch flow-logs`: the three calls of EC2 about flow logs, with the role made and the errors said in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from vnotch.cli.completion import flow_log_ids, log_groups, resource_ids, role_arns
from vnotch.cli.destination import BucketFiles, FileFormat, Hive, PerHour, To, destination_words
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import counted, err, literal, out, plain, step
from vnotch.errors import InputError

KINDS = {"vpc": "VPC", "subnet": "Subnet", "eni": "NetworkInterface"}
DEFAULT_GROUP = "/vnotch/{resource}"
INTERVAL_SECONDS = 60
"""AWS's own default is 600; who looks at a terminal wants to see something."""

flow_logs = typer.Typer(
    name="flow-logs",
    help="Make, list and delete flow logs, with the role that delivers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@flow_logs.command()
def create(
    resources: Annotated[
        list[str],
        typer.Argument(
            metavar="RESOURCE...",
            help="VPCs, subnets or network interfaces, by id or Name tag, all of one kind.",
            autocompletion=resource_ids,
        ),
    ],
    group: Annotated[
        str | None,
        typer.Option(
            "--log-group",
            help="Where records go.",
            autocompletion=log_groups,
            show_default=DEFAULT_GROUP.format(resource="RESOURCE"),
        ),
    ] = None,
    to: To = None,
    file_format: FileFormat = None,
    hive: Hive = False,
    per_hour: PerHour = False,
    traffic_type: Annotated[str, typer.Option(help="ALL, ACCEPT or REJECT.")] = "ALL",
    interval: Annotated[
        int,
        typer.Option(help="Aggregation interval in seconds: 60 or 600; 1 to 900 where the server has --any-interval."),
    ] = INTERVAL_SECONDS,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Fields of a record, as AWS writes them: '${srcaddr} ${action}'; or names alone: 'srcaddr action'.",
            show_default="the default format",
        ),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="ARN of the role that delivers.",
            show_default="one that may write to this log group alone; made if need be",
            autocompletion=role_arns,
        ),
    ] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
) -> None:
    """Make a flow log for each RESOURCE. Its records begin with the next packet."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    files = BucketFiles.of(to, file_format, hive, per_hour, {"--log-group": group, "--role": role})
    ec2 = endpoint.client("ec2")
    ids = [_resource_id(ec2, name) for name in resources]
    kind = kind_of(ids)
    request: dict[str, Any] = {
        "ResourceIds": ids,
        "ResourceType": kind,
        "TrafficType": traffic_type.upper(),
        "MaxAggregationInterval": interval,
        **({"LogFormat": format_of(log_format)} if log_format else {}),
    }
    if files is not None:
        request |= files.parameters()
    else:
        group = group or DEFAULT_GROUP.format(resource=resources[0])
        request |= {"LogGroupName": group, "DeliverLogsPermissionArn": role or role_for(endpoint, group)}
        if role is None:
            refuse_early(ec2, request)
            role = make_role(endpoint, group)
            if not as_json:
                step(f"role {role} may deliver to {group}, and to nothing else")
    answer = ec2.create_flow_logs(**request)
    failed = answer.get("Unsuccessful", [])
    where = files.url if files else str(group)
    made = [
        {"flow_log_id": flow_log_id, "resource_id": resource_id}
        for flow_log_id, resource_id in zip(
            answer["FlowLogIds"], [item for item in ids if item not in {f["ResourceId"] for f in failed}], strict=True
        )
    ]
    if as_json:
        refused = [{"resource_id": item["ResourceId"], "error": item["Error"]["Message"]} for item in failed]
        document = {
            "flow_logs": made,
            "log_group": group,
            "role_arn": role,
            "bucket_url": files.url if files else None,
            "unsuccessful": refused,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        for item in made:
            out.print(f"{item['flow_log_id']}  {item['resource_id']} -> {plain(where)}, {interval} s")
    for item in failed:
        err.print(f"{item['ResourceId']}: {item['Error']['Message']}")
    if failed:
        if files and not as_json and any(item["Error"]["Message"].endswith("does not exist") for item in failed):
            step(f"without --s3-endpoint the server's buckets are folders: mkdir -p DATA-DIR/buckets/{files.bucket}")
        raise typer.Exit(1)
    if as_json:
        return
    if files is None:
        step(f"records as they arrive: vnotch tail {group}")
    else:
        step("the first file is there within half a minute of the first record, then one every five minutes")


@flow_logs.command("list")
def list_(data_dir: DataDir = None, endpoint_url: EndpointUrl = None, as_json: Json = False) -> None:
    """List flow logs: what each covers, where it delivers to, and whether that works."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    found = described(endpoint.client("ec2"))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, default=str) + "\n")
    elif not found:
        step("there is no flow log yet: vnotch flow-logs create RESOURCE")
    else:
        out.print(flow_logs_table(found))


@flow_logs.command()
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="FLOW-LOG...", help="Their ids.", autocompletion=flow_log_ids)],
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
) -> None:
    """Delete flow logs: all of those named, or none. Records that were delivered stay, and so do their groups."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    ec2 = endpoint.client("ec2")
    rows = {row["FlowLogId"]: row for row in described(ec2)}
    ec2.delete_flow_logs(FlowLogIds=ids)
    deleted = [rows[flow_log_id] for flow_log_id in dict.fromkeys(ids) if flow_log_id in rows]
    remaining = [row for flow_log_id, row in rows.items() if flow_log_id not in ids]
    if as_json:
        document = {"deleted": [row["FlowLogId"] for row in deleted], "stays": what_stays(deleted, remaining)}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    for row in deleted:
        out.print(f"{row['FlowLogId']} is deleted; what was captured for it until now is still delivered")
    for sentence in what_stays(deleted, remaining):
        out.print(plain(sentence))


# What is asked for


def kind_of(ids: Sequence[str]) -> str:
    """AWS's resource type of ids that are all of one kind. Raises InputError."""
    kinds = {resource_id: KINDS.get(resource_id.partition("-")[0]) for resource_id in ids}
    for resource_id, kind in kinds.items():
        if kind is None:
            raise InputError(f"{resource_id} is no resource of a flow log", "name a vpc-..., subnet-... or eni-...")
    if len(set(kinds.values())) > 1:
        raise InputError("the resources are of several kinds", "make those of each kind by a command of its own")
    return str(next(iter(kinds.values())))


def format_of(text: str) -> str:
    """AWS's `${field} ${field}` of what a person wrote, who may leave out what stands round the names. What is no
    field is the server's to refuse."""
    if "$" in text:
        return text
    return " ".join(f"${{{name}}}" for name in text.replace(",", " ").split())


def _resource_id(ec2: Any, name: str) -> str:
    """The id itself, or that of the only VPC, subnet or network interface with this Name tag. Raises InputError."""
    if name.partition("-")[0] in KINDS and any(character.isdigit() for character in name):
        return name
    tagged = [{"Name": "tag:Name", "Values": [name]}]
    found = [
        row[f"{kind}Id"]
        for call, member, kind in (
            (ec2.describe_vpcs, "Vpcs", "Vpc"),
            (ec2.describe_subnets, "Subnets", "Subnet"),
            (ec2.describe_network_interfaces, "NetworkInterfaces", "NetworkInterface"),
        )
        for row in call(Filters=tagged)[member]
    ]
    if not found:
        raise InputError(f"there is no VPC, subnet or network interface {name}", "name it by its id or its Name tag")
    if len(found) > 1:
        raise InputError(f"several are named {name}", f"name one of {', '.join(found)}")
    return str(found[0])


def refuse_early(ec2: Any, request: Mapping[str, Any]) -> None:
    """Raises what the flow logs would be refused with, before a role is made for them. EC2's dry run asks for the
    permissions and reads the request, but does not look for the resources."""
    from botocore.exceptions import ClientError

    describe = {
        "VPC": lambda ids: ec2.describe_vpcs(VpcIds=ids),
        "Subnet": lambda ids: ec2.describe_subnets(SubnetIds=ids),
        "NetworkInterface": lambda ids: ec2.describe_network_interfaces(NetworkInterfaceIds=ids),
    }
    describe[request["ResourceType"]](request["ResourceIds"])
    try:
        ec2.create_flow_logs(**request, DryRun=True)
    except ClientError as error:
        if error.response["Error"]["Code"] != "DryRunOperation":
            raise


def role_for(endpoint: Endpoint, group: str) -> str:
    """The ARN that `make_role` gives the log group's role."""
    from vnotch.iam.delivery_role import role_name_for

    return f"arn:aws:iam::{endpoint.account}:role/{role_name_for(group)}"


def make_role(endpoint: Endpoint, group: str) -> str:
    """The ARN of the role that may deliver to this log group alone."""
    from vnotch.iam.delivery_role import ensure_delivery_role, role_name_for

    iam, account, region = endpoint.client("iam"), endpoint.account, endpoint.region
    return ensure_delivery_role(iam, [group], account=account, region=region, name=role_name_for(group))


def described(ec2: Any) -> list[dict[str, Any]]:
    """All flow logs, as DescribeFlowLogs has them."""
    return [row for page in ec2.get_paginator("describe_flow_logs").paginate() for row in page["FlowLogs"]]


# What is shown


def format_words(log_format: str) -> str:
    """A short form of a log format: `default`, or how many fields it has and its first ones."""
    from vnotch.fields import DEFAULT_FORMAT

    if log_format == DEFAULT_FORMAT:
        return "default"
    names = log_format.replace("${", "").replace("}", "").split()
    shown = " ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} ... ({len(names)} fields)"


def delivery_words(row: Mapping[str, Any]) -> str:
    """DeliverLogsStatus in a word or two; a flow log that has delivered nothing yet has AWS's `SUCCESS` as well."""
    message = row.get("DeliverLogsErrorMessage")
    return f"{row['DeliverLogsStatus']}: {message}" if message else str(row["DeliverLogsStatus"])


WIDTHS = {"flow log": len("fl-") + 17, "delivery": len("delivery"), "resource": len("subnet-") + 17}
"""Columns of ids are as wide as an id, so that it can be copied; the others fold."""


def flow_logs_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("flow log", "delivery", "resource", "traffic", "every", "destination", "format"):
        table.add_column(column, overflow="fold", min_width=WIDTHS.get(column))
    for row in rows:
        failed = row["DeliverLogsStatus"] != "SUCCESS"
        table.add_row(
            row["FlowLogId"],
            f"[bold red]{delivery_words(row)}[/]" if failed else f"[green]{delivery_words(row)}[/]",
            row["ResourceId"],
            row["TrafficType"],
            f"{row['MaxAggregationInterval']} s",
            literal(destination_words(row)),
            format_words(row["LogFormat"]),
        )
    return table


def what_stays(deleted: Iterable[Mapping[str, Any]], remaining: Iterable[Mapping[str, Any]]) -> list[str]:
    """Sentences: the log groups with their records, the files, and the roles that no flow log names any more."""
    deleted, remaining = list(deleted), list(remaining)
    buckets = dict.fromkeys(destination_words(row) for row in deleted if row.get("LogDestinationType") == "s3")
    sentences = [f"the files in {bucket} stay" for bucket in buckets]
    for group in dict.fromkeys(row["LogGroupName"] for row in deleted if row.get("LogGroupName")):
        others = sum(1 for row in remaining if row.get("LogGroupName") == group)
        also = (
            f", where {counted(others, 'other flow log')} {'delivers' if others == 1 else 'deliver'} to"
            if others
            else ""
        )
        remove = "" if others else f"; to remove it: vnotch aws logs delete-log-group --log-group-name {group}"
        sentences.append(f"the log group {group} stays with its records{also}{remove}")
    named = {row.get("DeliverLogsPermissionArn") for row in remaining}
    for role in dict.fromkeys(
        row["DeliverLogsPermissionArn"] for row in deleted if row.get("DeliverLogsPermissionArn")
    ):
        if role not in named:
            sentences.append(f"the role {role} stays, and no flow log names it any more")
    return sentences
