"""THE table of record fields: name, version, type, meaning and source of each; all else on fields derives from it.

The 54 fields are those of version 11 of VPC flow logs in the order of AWS's own table (VPC user guide, "Flow log
records"); version 6 exists for transit gateways only. The fields that begin with `x-` are ours, are in no default, and
do not raise a format's version. `python -m vnotch.fields` prints docs/fields.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TypeAlias

import pyarrow as pa

from vnotch.errors import InputError

ABSENT = "-"
"""What a line has in the place of a value that is missing, does not apply or cannot be computed."""

SEPARATOR = " "

EXTENSION_PREFIX = "x-"


@dataclass(frozen=True)
class Field:
    """One field of a record.

    `version` is the record version that introduced the field, None for an extension field. `type` is the type of the
    Parquet column (AWS: INT_32, INT_64 or STRING). `values`, where given, are all the values the field can have.
    """

    name: str
    version: int | None
    type: pa.DataType
    meaning: str
    source: str
    """Where vnotch takes the value from; with `known` False: why it prints `-`."""
    known: bool = True
    required: bool = False
    """Never `-`."""
    static: bool = False
    """Describes the interface or the window, not a flow, so it stays on NODATA and SKIPDATA lines. AWS's example lines
    show which version 2 fields stay; for later versions nothing is published and we keep what describes the ENI."""
    values: tuple[str, ...] = ()
    address: bool = False
    tag: tuple[str, int] | None = None
    """The resource type of TagFieldSpecifications that it needs and which of its tag keys (1 or 2) it shows."""

    @property
    def column(self) -> str:
        return column_name(self.name)

    @property
    def extension(self) -> bool:
        return self.version is None


def column_name(field_name: str) -> str:
    """The name of a field as Parquet and SQL column: `-` becomes `_` (Athena user guide, flow logs in Parquet)."""
    return field_name.replace("-", "_")


_TEXT, _INT, _LONG = pa.string(), pa.int32(), pa.int64()
_ENI = "the interface's entry in the inventory"
_FLOW = "the flow"
_NO_ECS = "prints `-`: vnotch runs no ECS tasks"
_NO_SUBLOCATION = "prints `-`: there are no Local Zones, Wavelength Zones or Outposts"
_NO_GROUPS = "prints `-`: there are no Auto Scaling groups"
_RANGES = "the address in the file that `vnotch agent --ip-ranges` names (AWS's ip-ranges.json); `-` without a file"
_PEERS = (
    "the interface of the same VPC that has the far address, or the NAT gateway or interface that the subnet's route "
    "leads to; `-` over an internet gateway, and on ingress from load balancers and transit gateways"
)
_NO_OWNER = "`-` where the flow does not end on this host or that is not known (docs/hosts.md)"
_VERDICT_LAYERS = ("security-group", "network-acl", "tracked", "host-firewall", "default")
_TYPES = "`nat_gateway`, `network_load_balancer`, `regional_nat_gateway`, `transit_gateway` or `vpc_endpoint`"


def _ecs(name: str, meaning: str) -> Field:
    return Field(name, 7, _TEXT, meaning, _NO_ECS, known=False)


def _tag(name: str, resource_type: str, number: int, owner: str) -> Field:
    ordinal = ("first", "second")[number - 1]
    meaning = f"Value of the {ordinal} tag key asked for of the {owner}, percent-encoded UTF-8."
    known = resource_type != "auto-scaling-group"
    source = f"the {owner}'s tags, by the flow log's TagFieldSpecifications; `-` without the tag"
    source = source if known else _NO_GROUPS
    return Field(name, 11, _TEXT, meaning, source, known=known, static=True, tag=(resource_type, number))


def _next_hop(name: str, meaning: str) -> Field:
    return Field(name, 11, _TEXT, meaning, _PEERS)


FIELDS: tuple[Field, ...] = (
    Field(
        "version", 2, _INT, "Version of the record: the highest version among the format's fields.",
        "the flow log's format", required=True, static=True,
    ),
    Field("account-id", 2, _TEXT, "Account that owns the interface, or `unknown`.", _ENI, static=True),
    Field(
        "interface-id", 2, _TEXT, "The interface that saw the traffic.",
        f"{_ENI}; `-` on a regional NAT gateway's traffic", static=True,
    ),
    Field(
        "srcaddr", 2, _TEXT, "Source address. On egress the interface's own side: its primary private IPv4 address, "
        "whatever the packet says.", "the flow's source; IPv4 on egress: the primary address in the inventory",
        address=True,
    ),
    Field(
        "dstaddr", 2, _TEXT, "Destination address. On ingress the interface's own side: its primary private IPv4 "
        "address, whatever the packet says.",
        "the flow's destination; IPv4 on ingress: the primary address in the inventory", address=True,
    ),
    Field("srcport", 2, _INT, "Source port; 0 for protocols without ports.", _FLOW),
    Field("dstport", 2, _INT, "Destination port; 0 for protocols without ports.", _FLOW),
    Field("protocol", 2, _INT, "IANA protocol number: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6.", _FLOW),
    Field("packets", 2, _LONG, "Packets of the flow in the interval.", f"{_FLOW}, in packets as on the wire"),
    Field("bytes", 2, _LONG, "Bytes of the flow in the interval.", f"{_FLOW}: total length of the IP packets"),
    Field(
        "start", 2, _LONG, "Time of the flow's first packet in the interval, Unix seconds.",
        f"{_FLOW}; the window's beginning on NODATA and SKIPDATA", required=True, static=True,
    ),
    Field(
        "end", 2, _LONG, "Time of the flow's last packet in the interval, Unix seconds.",
        f"{_FLOW}; the window's end on NODATA and SKIPDATA", required=True, static=True,
    ),
    Field(
        "action", 2, _TEXT, "`ACCEPT` or `REJECT`.", f"{_FLOW}: the datapath's verdict", values=("ACCEPT", "REJECT"),
    ),
    Field(
        "log-status", 2, _TEXT, "`OK`: a flow. `NODATA`: the interface had no traffic in the interval. `SKIPDATA`: "
        "some of its traffic is in no record.",
        "`OK` from flows, `SKIPDATA` from counted losses, `NODATA` where neither is",
        required=True, static=True, values=("OK", "NODATA", "SKIPDATA"),
    ),
    Field("vpc-id", 3, _TEXT, "VPC of the interface.", _ENI, static=True),
    Field(
        "subnet-id", 3, _TEXT, "Subnet of the interface.", f"{_ENI}; `-` on a regional NAT gateway's traffic",
        static=True,
    ),
    Field(
        "instance-id", 3, _TEXT, "Instance that the interface is attached to.",
        f"{_ENI}; `-` where it is requester-managed or not attached", static=True,
    ),
    Field(
        "tcp-flags", 3, _INT, "OR of FIN 1, SYN 2, RST 4 and, for a SYN-ACK packet, 18. ACK and PSH alone are 0.",
        f"{_FLOW}; 0 for protocols other than TCP",
    ),
    Field("type", 3, _TEXT, "`IPv4`, `IPv6` or `EFA`.", f"{_FLOW}; never `EFA`", values=("IPv4", "IPv6", "EFA")),
    Field("pkt-srcaddr", 3, _TEXT, "Source address in the packet itself.", _FLOW, address=True),
    Field("pkt-dstaddr", 3, _TEXT, "Destination address in the packet itself.", _FLOW, address=True),
    Field("region", 4, _TEXT, "Region of the interface.", _ENI, static=True),
    Field("az-id", 4, _TEXT, "Zone ID (`use1-az1`, not `us-east-1a`) of the interface.", _ENI, static=True),
    Field(
        "sublocation-type", 4, _TEXT, "`wavelength`, `outpost` or `localzone`.", _NO_SUBLOCATION, known=False,
        static=True, values=("wavelength", "outpost", "localzone"),
    ),
    Field("sublocation-id", 4, _TEXT, "ID of the sublocation.", _NO_SUBLOCATION, known=False, static=True),
    Field("pkt-src-aws-service", 5, _TEXT, "AWS service whose range holds pkt-srcaddr.", _RANGES),
    Field("pkt-dst-aws-service", 5, _TEXT, "AWS service whose range holds pkt-dstaddr.", _RANGES),
    Field(
        "flow-direction", 5, _TEXT, "`ingress` or `egress`, from the interface's point of view.", _FLOW,
        values=("ingress", "egress"),
    ),
    Field(
        "traffic-path", 5, _INT, "Path of egress traffic: 1 within the VPC, 2 to 8 by the kind of gateway.",
        "the longest route of the subnet's route table that holds pkt-dstaddr: 1 for the VPC's own CIDRs, a NAT "
        "gateway and an interface, 8 for an internet gateway; `-` where there is none, and on ingress",
    ),
    _ecs("ecs-cluster-arn", "ARN of the ECS cluster."),
    _ecs("ecs-cluster-name", "Name of the ECS cluster."),
    _ecs("ecs-container-instance-arn", "ARN of the ECS container instance."),
    _ecs("ecs-container-instance-id", "ID of the ECS container instance."),
    _ecs("ecs-container-id", "Docker runtime ID of the task's first container."),
    _ecs("ecs-second-container-id", "Docker runtime ID of the task's second container."),
    _ecs("ecs-service-name", "Name of the ECS service."),
    _ecs("ecs-task-definition-arn", "ARN of the ECS task definition."),
    _ecs("ecs-task-arn", "ARN of the ECS task."),
    _ecs("ecs-task-id", "ID of the ECS task."),
    Field(
        "reject-reason", 8, _TEXT, "`BPA` (Block Public Access) or `EC` (encryption controls).",
        "prints `-`: there is neither Block Public Access nor encryption control, and AWS prints `-` for security "
        "groups and network ACLs; see `x-rule-id`", known=False, values=("BPA", "EC"),
    ),
    Field(
        "resource-id", 9, _TEXT, "ID of the regional NAT gateway.",
        "prints `-`: the inventory has no regional NAT gateway IDs", known=False,
    ),
    Field(
        "encryption-status", 10, _INT, "0 not encrypted, 1 by the Nitro system, 2 by the application, 3 both.",
        "prints `-`, as on AWS without encryption controls", known=False,
    ),
    _tag("instance-tag", "instance", 1, "instance"),
    _tag("instance-tag-2", "instance", 2, "instance"),
    _tag("interface-tag", "network-interface", 1, "interface"),
    _tag("interface-tag-2", "network-interface", 2, "interface"),
    _tag("asg-tag", "auto-scaling-group", 1, "Auto Scaling group"),
    _tag("asg-tag-2", "auto-scaling-group", 2, "Auto Scaling group"),
    Field(
        "interface-type", 11, _TEXT, f"Kind of a service's interface: {_TYPES}.",
        f"{_ENI}; `-` for ordinary interfaces", static=True,
    ),
    _next_hop("next-hop-interface-id", "Egress: the interface that receives. Ingress: the interface that sends."),
    _next_hop("next-hop-subnet-id", "Subnet of the next hop's interface."),
    _next_hop("next-hop-az-id", "Zone ID of the next hop's interface."),
    _next_hop("next-hop-vpc-id", "VPC of the next hop's interface."),
    _next_hop("next-hop-interface-type", "Kind of the next hop's interface, as in interface-type."),
    Field(
        "x-rule-id", None, _TEXT, "The rule that decided: `sgr-...`, `acl-.../ingress/100`, `acl-.../egress/*`.",
        f"{_FLOW}'s rule number by the agent's table of rules; `-` where no rule decided, and for `host-firewall`: "
        "the kernel tells that its firewall dropped a packet, not by which of its rules",
    ),
    Field(
        "x-rule-layer", None, _TEXT, "The layer that decided: `security-group`, `network-acl`, `tracked`, "
        "`host-firewall` or `default`.", "as `x-rule-id`", values=_VERDICT_LAYERS,
    ),
    Field(
        "x-lost-packets", None, _LONG, "Packets of the interface that are in no record of the interval.",
        "the window's losses, on SKIPDATA lines; `-` on others",
    ),
    Field(
        "x-lost-bytes", None, _LONG, "Bytes of the interface that are in no record of the interval.",
        "as `x-lost-packets`",
    ),
    Field(
        "x-process", None, _TEXT, "Process at the interface's own end: the kernel's name and PID, `nginx/812`, "
        "percent-encoded.", "the one process that holds the flow's socket, or the listening one, when the flow was "
        f"drained; {_NO_OWNER}",
    ),
    Field(
        "x-unit", None, _TEXT, "Its systemd unit, `nginx.service`.",
        f"the cgroup of the process, or of the socket; {_NO_OWNER}",
    ),
    Field(
        "x-container", None, _TEXT, "Its container: the first 12 digits of the id, or the name for LXC and nspawn.",
        f"as `x-unit`; {_NO_OWNER}",
    ),
)  # fmt: skip

FIELD_BY_NAME: Mapping[str, Field] = {item.name: item for item in FIELDS}

TagKeys: TypeAlias = "tuple[tuple[str, tuple[str, ...]], ...]"
"""A flow log's TagFieldSpecifications: resource type and its one or two tag keys."""


@dataclass(frozen=True)
class Format:
    """A flow log's format: its fields in output order and the text that names them.

    `version` is the number that records print: the highest version among the fields, at least 2 (VPC user guide, "Flow
    log records"). Extension fields do not count.
    """

    fields: tuple[Field, ...]
    text: str
    tag_keys: TagKeys = ()

    def tag_key(self, item: Field) -> str | None:
        """The tag key whose value a tag field shows; None for other fields."""
        if item.tag is None:
            return None
        resource_type, number = item.tag
        return dict(self.tag_keys)[resource_type][number - 1]

    @cached_property
    def version(self) -> int:
        return max((item.version for item in self.fields if item.version is not None), default=2)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.fields)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(item.column for item in self.fields)

    @cached_property
    def header(self) -> str:
        """The first line of a text file in a bucket; log groups have none."""
        return SEPARATOR.join(self.names)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types of the Parquet file, in the format's order."""
        return parquet_schema(self.fields)


def parquet_schema(fields: Sequence[Field]) -> pa.Schema:
    """AWS's Parquet column names and types for these fields; a field that is never `-` is not nullable."""
    return pa.schema([pa.field(item.column, item.type, nullable=not item.required) for item in fields])


def format_text(names: Sequence[str]) -> str:
    """Field names -> `${a} ${b}`; nothing is checked."""
    return SEPARATOR.join(f"${{{name}}}" for name in names)


DEFAULT_FORMAT = format_text([item.name for item in FIELDS if item.version == 2])
"""The default format: the fields of version 2, and it never gains another."""

_TOKEN = re.compile(r"\$\{([^${}\s]+)\}")


def parse_format(text: str, tag_keys: Mapping[str, Sequence[str]] | None = None) -> Format:
    """`${field} ${field} ...` -> Format.

    `tag_keys` are the flow log's TagFieldSpecifications: resource type (`instance`, `network-interface`,
    `auto-scaling-group`) to its one or two tag keys. A tag field without its key is refused.

    Raises InputError with AWS's validation text; its remedy says what is wrong with which field. AWS's own answer to an
    unknown or repeated field is not published, so both are refused like any other format that cannot be read.
    """
    fields: list[Field] = []
    if not text:
        raise _invalid(text, "a format has at least one field, for instance ${version}")
    if text != text.strip(SEPARATOR):
        raise _invalid(text, "remove the space at its beginning or end")
    for token in text.split(SEPARATOR):
        if not token:
            raise _invalid(text, "separate fields by exactly one space")
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise _invalid(text, f"{token!r} is not of the form ${{field}}; separate fields by exactly one space")
        item = _field(text, match[1])
        if item in fields:
            raise _invalid(text, f"the field {item.name} occurs twice")
        _check_tag(text, item, tag_keys or {})
        fields.append(item)
    return Format(tuple(fields), text, tuple((kind, tuple(keys)) for kind, keys in (tag_keys or {}).items()))


def _field(text: str, name: str) -> Field:
    if name in FIELD_BY_NAME:
        return FIELD_BY_NAME[name]
    similar = get_close_matches(name.lower().replace("_", "-"), FIELD_BY_NAME, n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise _invalid(text, f"there is no field {name}{hint}")


def _check_tag(text: str, item: Field, tag_keys: Mapping[str, Sequence[str]]) -> None:
    if item.tag is None:
        return
    resource_type, number = item.tag
    if len(tag_keys.get(resource_type, ())) < number:
        keys = "a tag key" if number == 1 else "two tag keys"
        raise _invalid(
            text, f"the field {item.name} needs {keys} for the resource type {resource_type} in TagFieldSpecifications"
        )


def _invalid(text: str, remedy: str) -> InputError:
    return InputError(f"1 validation error detected: Value '{text}' at 'logFormat' has an invalid format", remedy)


def fields_document() -> str:
    """docs/fields.md: the table for people."""
    lines = [
        "# Record fields",
        "",
        "Written by `python -m vnotch.fields`; the table is `src/vnotch/fields.py`.",
        "",
        "The fields of VPC flow logs, version 11, in AWS's order, then vnotch's own, which begin with `x-`, are in no",
        "default format and do not raise a format's version. A value that is missing or does not apply is `-`.",
        "In Parquet the columns have `_` for `-`. On NODATA and SKIPDATA lines the fields marked *stays* keep their",
        "value, and SKIPDATA lines have `x-lost-packets` and `x-lost-bytes`; all others are `-`.",
        "",
        "Default format:",
        "",
        "```",
        DEFAULT_FORMAT,
        "```",
        "",
        "| field | version | type | meaning | where vnotch has it from | NODATA, SKIPDATA |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for item in FIELDS:
        version = "own" if item.version is None else str(item.version)
        stays = "stays" if item.static else "on SKIPDATA" if item.name.startswith("x-lost-") else "`-`"
        kind = {_INT: "INT_32", _LONG: "INT_64", _TEXT: "STRING"}[item.type]
        lines.append(f"| `{item.name}` | {version} | {kind} | {item.meaning} | {item.source} | {stays} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(fields_document(), end="")
