"""What CreateFlowLogs asks for, checked as far as the request alone shows.

The order of the checks is that of AWS's own answers where they are known: resources, destination, role, options,
interval, format. Texts are AWS's; where none is published the comment beside the choice says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vnotch.api.ec2.part import invalid_value, required
from vnotch.api.service import ApiError, Call
from vnotch.bucket_keys import EXTENSIONS, parse_bucket_arn
from vnotch.delivery_streams import stream_name
from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, TagKeys, parse_format
from vnotch.iam.delivery_role import LOG_GROUP_NAME, LOG_GROUP_NAME_RIGHT
from vnotch.store.network import CLOUD_WATCH_LOGS, FIREHOSE, S3

TRANSIT_GATEWAY_TYPES = ("TransitGateway", "TransitGatewayAttachment")
ID_PREFIX = {
    "VPC": "vpc",
    "Subnet": "subnet",
    "NetworkInterface": "eni",
    "TransitGateway": "tgw",
    "TransitGatewayAttachment": "tgw-attach",
    "RegionalNatGateway": "nat",
}
TRAFFIC_TYPES = ("ACCEPT", "REJECT", "ALL")
FILE_FORMATS = tuple(EXTENSIONS)
INTERVALS = (60, 600)
INTERVAL_DEFAULT = 600
ANY_INTERVAL_MAX = 900

TAGGED_TYPES = ("network-interface", "instance", "auto-scaling-group")
TAG_KEYS_MAX = 2
TAG_KEY_CHARACTERS = 128
"""Bounds of TagFieldSpecifications (API TagFieldSpecificationRequest)."""

FOLDER_BYTES_MAX = 700
"""A key has at most 1024 bytes (S3 user guide), and what follows the folder in it less than 300."""

IDS_MAX = 1000
TRANSIT_GATEWAY_IDS_MAX = 25
"""Resources of one call (API CreateFlowLogs)."""

_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/[\w+=,.@/-]+")
_GROUP_ARN = re.compile(r"arn:aws[a-z-]*:logs:([a-z0-9-]+):(\d{12}):log-group:([A-Za-z0-9_./#-]{1,512})(:\*)?")
_FORMAT = re.compile(r"\$\{[^}]+\}( \$\{[^}]+\})*")


@dataclass(frozen=True)
class FileOptions:
    """DestinationOptions of a bucket, with AWS's defaults."""

    file_format: str = FILE_FORMATS[0]
    hive_compatible_partitions: bool = False
    per_hour_partition: bool = False


@dataclass(frozen=True)
class FlowLogRequest:
    """`undeliverable`, where not None, is the message of every resource's `Unsuccessful` item. For a bucket there are
    `files`, and for a bucket and a delivery stream neither group nor role."""

    resource_ids: tuple[str, ...]
    resource_type: str
    traffic_type: str
    log_destination_type: str
    log_destination: str | None  # as given
    log_group_name: str
    deliver_logs_permission_arn: str
    log_format: str
    max_aggregation_interval: int
    undeliverable: str | None = None
    tag_keys: TagKeys = ()
    files: FileOptions | None = None

    @classmethod
    def of(cls, call: Call, any_interval: bool) -> FlowLogRequest:
        """Raises ApiError. `any_interval` allows 1 to 900 s beside AWS's 60 and 600."""
        params = call.params
        resource_type = _resource_type(call)
        _check_destination(call)
        interval = _interval(params, resource_type, any_interval)
        tag_keys = _tag_keys(params)
        log_format = _log_format(params, tag_keys)
        kind = params.get("LogDestinationType", CLOUD_WATCH_LOGS)
        group, undeliverable = _log_group(call) if kind == CLOUD_WATCH_LOGS else ("", None)
        return cls(
            resource_ids=tuple(params["ResourceIds"]),
            resource_type=resource_type,
            traffic_type=params.get("TrafficType") or "",
            log_destination_type=kind,
            log_destination=params.get("LogDestination"),
            log_group_name=group,
            deliver_logs_permission_arn=params.get("DeliverLogsPermissionArn") or "",
            log_format=log_format,
            max_aggregation_interval=interval,
            undeliverable=undeliverable,
            tag_keys=tag_keys,
            files=_file_options(params) if kind == S3 else None,
        )

    @property
    def bucket(self) -> tuple[str, str]:
        """The bucket and the folder in it."""
        parsed = parse_bucket_arn(self.log_destination or "")
        assert parsed is not None, "it was checked"
        return parsed


def _file_options(params: dict[str, Any]) -> FileOptions:
    options = params.get("DestinationOptions") or {}
    return FileOptions(
        options.get("FileFormat", FILE_FORMATS[0]),
        bool(options.get("HiveCompatiblePartitions", False)),
        bool(options.get("PerHourPartition", False)),
    )


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameter", message)


def _resource_type(call: Call) -> str:
    resource_ids, resource_type = required(call, "ResourceIds"), required(call, "ResourceType")
    if resource_type not in ID_PREFIX:
        raise invalid_value(resource_type, "ResourceType", f"It is one of {', '.join(ID_PREFIX)}.")
    of_transit_gateway = resource_type in TRANSIT_GATEWAY_TYPES
    ids_max = TRANSIT_GATEWAY_IDS_MAX if of_transit_gateway else IDS_MAX
    if len(resource_ids) > ids_max:
        raise invalid_value(len(resource_ids), "ResourceId", f"At most {ids_max} resources can be named at once.")
    for resource_id in resource_ids:
        if resource_id.rpartition("-")[0] != ID_PREFIX[resource_type]:
            raise _invalid(f"Invalid Resource id {resource_id} for resource-type {resource_type}")
    traffic_type = call.params.get("TrafficType")
    if of_transit_gateway and traffic_type is not None:
        # That it is refused is documented, the text is not; it is formed like its neighbours.
        raise _invalid(
            "traffic-type is not supported when the resource-type is TransitGateway or TransitGatewayAttachment"
        )
    if not of_transit_gateway and traffic_type is None:
        # The text was seen, its code was not.
        raise _invalid("traffic-type is required when the resource-type is VPC, Subnet or NetworkInterface")
    if traffic_type is not None and traffic_type not in TRAFFIC_TYPES:
        raise invalid_value(traffic_type, "TrafficType", f"It is one of {', '.join(TRAFFIC_TYPES)}.")
    return str(resource_type)


def _check_destination(call: Call) -> None:
    """Which of destination, group, role and options go together."""
    params = call.params
    kind = params.get("LogDestinationType", CLOUD_WATCH_LOGS)
    destination, group = params.get("LogDestination"), params.get("LogGroupName")
    role = params.get("DeliverLogsPermissionArn")
    if kind not in (CLOUD_WATCH_LOGS, S3, FIREHOSE):
        raise invalid_value(kind, "LogDestinationType", f"It is one of {CLOUD_WATCH_LOGS}, {S3}, {FIREHOSE}.")
    if not destination and not group:
        raise _invalid("LogDestination can't be empty if LogGroupName is not provided.")
    if group and kind != CLOUD_WATCH_LOGS:
        raise _invalid("LogDestination type must be cloud-watch-logs if LogGroupName is provided.")
    if group and destination:
        raise _invalid("Please only provide LogGroupName or only provide LogDestination.")
    if kind == CLOUD_WATCH_LOGS and not role:
        raise _invalid("DeliverLogsPermissionArn can't be empty if LogDestinationType is cloud-watch-logs.")
    if kind == S3 and role:
        raise _invalid("DeliverLogsPermissionArn is not applicable for s3 delivery")
    if kind != S3 and params.get("DestinationOptions") is not None:
        raise _invalid(f"DestinationOptions is not supported when LogDestinationType is {kind}")
    if kind != FIREHOSE and params.get("DeliverCrossAccountRole"):
        # API CreateFlowLogs: for delivery across accounts to Firehose. The text is formed like its neighbours.
        raise _invalid(f"DeliverCrossAccountRole is not applicable for {kind} delivery")
    if role:
        _check_role(role, call.account)
    if kind == S3:
        _check_bucket(destination or "", params.get("DestinationOptions") or {})
    if kind == FIREHOSE and role:
        # A role, and DeliverCrossAccountRole, are for a stream of another account, of which there is none here.
        raise _invalid(f"DeliverLogsPermissionArn is not applicable for {kind} delivery within one account")
    if params.get("DeliverCrossAccountRole"):
        raise _invalid("DeliverCrossAccountRole is not supported by vnotch, which has one account")
    if kind == FIREHOSE and stream_name(destination or "") is None:
        raise invalid_value(destination, "LogDestination", "It is the ARN of a Firehose delivery stream.")


def _check_role(role: str, account: str) -> None:
    """Only the form and the account: a role that does not exist or trusts nobody shows later, as `Access error`."""
    match = _ROLE_ARN.fullmatch(role)
    if match is None:
        raise invalid_value(role, "DeliverLogsPermissionArn", "It is the ARN of an IAM role.")
    if match[1] != account:
        # The role is in the account of the flow log's owner (VPC user guide). IAM words it so for other services.
        raise _invalid("Cross-account pass role is not allowed.")


def _check_bucket(destination: str, options: dict[str, Any]) -> None:
    parsed = parse_bucket_arn(destination)
    if parsed is None:
        raise invalid_value(destination, "LogDestination", "It is the ARN of an S3 bucket, with a folder or without.")
    if len(parsed[1].encode(errors="surrogateescape")) > FOLDER_BYTES_MAX:
        raise invalid_value(destination, "LogDestination", f"The folder has at most {FOLDER_BYTES_MAX} bytes.")
    if parsed[1].split("/")[0] == "AWSLogs":
        raise invalid_value(destination, "LogDestination", "AWSLogs is reserved and cannot be the folder.")
    file_format = options.get("FileFormat", FILE_FORMATS[0])
    if file_format not in FILE_FORMATS:
        raise invalid_value(file_format, "FileFormat", f"It is one of {', '.join(FILE_FORMATS)}.")


def _interval(params: dict[str, Any], resource_type: str, any_interval: bool) -> int:
    interval = params.get("MaxAggregationInterval")
    interval = INTERVAL_DEFAULT if interval is None else int(interval)
    if resource_type in TRANSIT_GATEWAY_TYPES and interval != 60:
        raise _invalid(
            "max-aggregation-interval other than 60 sec / 1 min is not supported when the resource-type is "
            "TransitGateway or TransitGatewayAttachment"
        )
    if interval not in INTERVALS and not (any_interval and 1 <= interval <= ANY_INTERVAL_MAX):
        raise _invalid("Invalid Flow Log Max Aggregation Interval")
    return interval


def _tag_keys(params: dict[str, Any]) -> TagKeys:
    """TagFieldSpecifications. Keys that no field of the format shows are taken, as AWS forbids them nowhere."""
    found: dict[str, tuple[str, ...]] = {}
    for item in params.get("TagFieldSpecifications") or ():
        kind, keys = item.get("ResourceType"), tuple(item.get("TagKeys") or ())
        if kind not in TAGGED_TYPES:
            raise invalid_value(kind, "TagFieldSpecification", f"The ResourceType is one of {', '.join(TAGGED_TYPES)}.")
        # What each of these refusals says is not published; the limits are.
        if kind in found:
            raise _invalid(f"TagFieldSpecifications has the resource type {kind} more than once")
        if not 1 <= len(keys) <= TAG_KEYS_MAX or len(set(keys)) < len(keys):
            raise _invalid(f"TagFieldSpecifications needs one or two different tag keys for the resource type {kind}")
        for key in keys:
            if not 1 <= len(key) <= TAG_KEY_CHARACTERS:
                raise invalid_value(key, "TagKey", f"Tag keys have 1 to {TAG_KEY_CHARACTERS} characters.")
        found[kind] = keys
    return tuple(found.items())


def _log_format(params: dict[str, Any], tag_keys: TagKeys) -> str:
    """The format's text; the default is written out in full, as DescribeFlowLogs shows it."""
    text = params.get("LogFormat")
    if text is None:
        return DEFAULT_FORMAT
    try:
        return parse_format(text, dict(tag_keys)).text
    except InputError as error:
        # The code is not published. For a format that cannot be read the text is, and stands alone; for one that can
        # be read but has an unknown or repeated field it is not, and what is wrong follows.
        legible = _FORMAT.fullmatch(text) and error.remedy
        raise _invalid(f"{error.message} ({error.remedy})" if legible else error.message) from None


def _log_group(call: Call) -> tuple[str, str | None]:
    """The log group's name, and the message of `Unsuccessful` where the role could never write to it."""
    group, destination = call.params.get("LogGroupName"), call.params.get("LogDestination")
    if group:
        if not LOG_GROUP_NAME.fullmatch(group):
            raise invalid_value(group, "LogGroupName", LOG_GROUP_NAME_RIGHT)
        return group, None
    match = _GROUP_ARN.fullmatch(destination or "")
    if match is None:
        raise invalid_value(destination, "LogDestination", "It is the ARN of a log group, without :* at its end.")
    region, account, name, star = match.groups()
    if star or (region, account) != (call.region, call.account):
        denied = f"{name}{star or ''}"
        return name, f"Access Denied for LogDestination: {denied}. Please check LogDestination permission"
    return name, None
