"""The predefined queries of AWS's integration template (VPC user guide, "Predefined queries"): its names and what each
answers. AWS does not publish their SQL; this is ours.

A query is there only where the flow log has the fields that it reads. `?` is a value that Athena asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vnotch.fields import Format

_ADMIN_PORTS = "22, 23, 135, 139, 445, 1433, 3306, 3389, 5432, 5900, 5985, 5986"
TCP = 6


@dataclass(frozen=True)
class NamedQuery:
    """`{table}` stands for the table."""

    name: str
    meaning: str
    sql: str
    needs: tuple[str, ...]
    """Columns."""


def _top(name: str, meaning: str, keys: str) -> NamedQuery:
    needs = tuple(keys.split(", "))
    sql = (
        f"SELECT {keys}, sum(bytes) AS total_bytes, sum(packets) AS total_packets\nFROM {{table}}\n"
        f"WHERE {' AND '.join(f'{key} IS NOT NULL' for key in needs)}\n"
        f"GROUP BY {keys}\nORDER BY total_bytes DESC\nLIMIT 50"
    )
    return NamedQuery(name, meaning, sql, (*needs, "bytes", "packets"))


def _addresses(name: str, meaning: str, source: str, destination: str) -> NamedQuery:
    sql = (
        f"SELECT address, sum(bytes) AS total_bytes\nFROM (\n  SELECT {source} AS address, bytes FROM {{table}}\n"
        f"  UNION ALL\n  SELECT {destination} AS address, bytes FROM {{table}}\n)\nWHERE address IS NOT NULL\n"
        "GROUP BY address\nORDER BY total_bytes DESC\nLIMIT 50"
    )
    return NamedQuery(name, meaning, sql, (source, destination, "bytes"))


def _rows(name: str, meaning: str, condition: str, *needs: str) -> NamedQuery:
    sql = f"SELECT *\nFROM {{table}}\nWHERE {condition}\nLIMIT 1000"
    return NamedQuery(name, meaning, sql, needs)


def _family(version: str) -> NamedQuery:
    sql = f"SELECT sum(bytes) AS total_bytes\nFROM {{table}}\nWHERE type = 'IPv{version}'"
    return NamedQuery(f"VpcFlowLogsIPv{version}Traffic", f"Bytes of IPv{version} traffic.", sql, ("type", "bytes"))


QUERIES: tuple[NamedQuery, ...] = (
    _rows(
        "VpcFlowLogsAcceptedTraffic", "TCP connections that security groups and network ACLs allowed.",
        f"action = 'ACCEPT' AND protocol = {TCP}", "action", "protocol",
    ),
    NamedQuery(
        "VpcFlowLogsAdminPortTraffic", "The 10 addresses with the most traffic on administrative ports.",
        "SELECT srcaddr, sum(bytes) AS total_bytes\nFROM {table}\n"
        f"WHERE dstport IN ({_ADMIN_PORTS})\nGROUP BY srcaddr\nORDER BY total_bytes DESC\nLIMIT 10",
        ("srcaddr", "dstport", "bytes"),
    ),
    _family("4"),
    _family("6"),
    _rows(
        "VpcFlowLogsRejectedTCPTraffic", "TCP connections that security groups or network ACLs rejected.",
        f"action = 'REJECT' AND protocol = {TCP}", "action", "protocol",
    ),
    _rows(
        "VpcFlowLogsRejectedTraffic", "Traffic that security groups or network ACLs rejected.", "action = 'REJECT'",
        "action",
    ),
    _rows("VpcFlowLogsSshRdpTraffic", "SSH and RDP.", "dstport IN (22, 3389)", "dstport"),
    _addresses("VpcFlowLogsTopTalkers", "The 50 addresses with the most traffic.", "srcaddr", "dstaddr"),
    _addresses(
        "VpcFlowLogsTopTalkersPacketLevel", "The 50 packet-level addresses with the most traffic.", "pkt_srcaddr",
        "pkt_dstaddr",
    ),
    _top("VpcFlowLogsTopTalkingInstances", "The 50 instances with the most traffic.", "instance_id"),
    _top("VpcFlowLogsTopTalkingSubnets", "The 50 subnets with the most traffic.", "subnet_id"),
    _rows(
        "VpcFlowLogsTopTCPTraffic", "TCP traffic of a source address.", f"protocol = {TCP} AND srcaddr = ?", "protocol",
        "srcaddr",
    ),
    _top(
        "VpcFlowLogsTotalBytesTransferred", "The 50 pairs of source and destination with the most bytes.",
        "srcaddr, dstaddr",
    ),
    _top(
        "VpcFlowLogsTotalBytesTransferredPacketLevel",
        "The 50 pairs of packet-level source and destination with the most bytes.", "pkt_srcaddr, pkt_dstaddr",
    ),
    _rows("VpcFlowLogsTrafficFrmSrcAddr", "Traffic of a source address.", "srcaddr = ?", "srcaddr"),
    _rows("VpcFlowLogsTrafficToDstAddr", "Traffic to a destination address.", "dstaddr = ?", "dstaddr"),
)  # fmt: skip


def queries_of(format: Format) -> Iterator[NamedQuery]:
    """Those whose fields a flow log of the format has."""
    return (query for query in QUERIES if set(query.needs) <= set(format.columns))
