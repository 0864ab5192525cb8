"""SQL functions that questions have besides DuckDB's own.

    in_cidr(address, cidr)    whether the CIDR holds the address; false for what is no address
    is_private(address)       whether the address is on no internet
    ipv4(address)             an IPv4 address as a number, NULL for everything else
    label(address)            the label of an address, NULL where it has none
    protocol_name(number)     tcp, udp, icmp, ..., or the number
    utc(seconds)              Unix seconds as a timestamp

IPv4 is arithmetic in SQL, which DuckDB runs on all cores. IPv6 and labels are looked up in Python, at about a
microsecond a row: group by address first where there are many rows.
"""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from duckdb.func import ARROW, SPECIAL

from vnotch.errors import InputError

if TYPE_CHECKING:
    from vnotch.query.labels import Labels

_PRIVATE = "|".join((
    r"^10\.|^192\.168\.|^172\.(1[6-9]|2[0-9]|3[01])\.",  # RFC 1918
    r"^100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.",  # RFC 6598
    r"^169\.254\.|^127\.",  # RFC 3927, RFC 1122
    r"^f[cd][0-9a-f]{2}:|^fe[89ab][0-9a-f]:|^::1$",  # RFC 4193, RFC 4291
))  # fmt: skip
"""Addresses that are on no internet, as texts."""

_CIDRS_REMEMBERED = 1000
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp"}

_MACROS = """
CREATE MACRO ipv4(address) AS CASE WHEN length(address) <= 15 THEN
    try_cast(split_part(address, '.', 1) AS UTINYINT)::BIGINT * 16777216
    + try_cast(split_part(address, '.', 2) AS UTINYINT)::BIGINT * 65536
    + try_cast(split_part(address, '.', 3) AS UTINYINT)::BIGINT * 256
    + try_cast(split_part(address, '.', 4) AS UTINYINT) END;
CREATE MACRO ipv4_base(cidr) AS coalesce(ipv4(split_part(cidr, '/', 1)), error(cidr || ' is no CIDR'));
CREATE MACRO ipv4_size(cidr) AS CASE
    WHEN NOT contains(cidr, '/') THEN 1
    WHEN try_cast(split_part(cidr, '/', 2) AS UTINYINT) <= 32 THEN 1::BIGINT << (32 - split_part(cidr, '/', 2)::BIGINT)
    ELSE error(cidr || ' is no CIDR') END;
CREATE MACRO in_cidr(address, cidr) AS CASE
    WHEN contains(cidr, ':') THEN contains(address, ':') AND in_cidr6(address, cidr)
    ELSE coalesce(ipv4(address) // ipv4_size(cidr) = ipv4_base(cidr) // ipv4_size(cidr), false) END;
CREATE MACRO utc(seconds) AS make_timestamp(seconds::BIGINT * 1000000);
"""


def add_functions(connection: duckdb.DuckDBPyConnection, labels: Labels | None) -> None:
    by_cidr: dict[str, Labels] = {}

    def label(addresses: pa.ChunkedArray) -> pa.Array:
        return pa.nulls(len(addresses), pa.string()) if labels is None else labels.of(addresses)

    def in_cidr6(addresses: pa.ChunkedArray, cidrs: pa.ChunkedArray) -> pa.Array:
        texts = cidrs.to_pylist()
        for cidr in set(texts) - set(by_cidr):
            if len(by_cidr) > _CIDRS_REMEMBERED:
                by_cidr.clear()
            by_cidr[cidr] = _ipv6_cidr(cidr)
        if len(set(texts)) == 1:
            return by_cidr[texts[0]].have(addresses)
        pairs = zip(addresses.to_pylist(), texts, strict=True)
        return pa.array([by_cidr[cidr].have(pa.array([address]))[0].as_py() for address, cidr in pairs], pa.bool_())

    connection.create_function("label", label, ["VARCHAR"], "VARCHAR", type=ARROW, null_handling=SPECIAL)
    connection.create_function("in_cidr6", in_cidr6, ["VARCHAR", "VARCHAR"], "BOOLEAN", type=ARROW)
    connection.execute(_MACROS)
    connection.execute(f"CREATE MACRO is_private(address) AS regexp_matches(address, '{_PRIVATE}')")
    names = " ".join(f"WHEN {number} THEN '{name}'" for number, name in _PROTOCOLS.items())
    connection.execute(f"CREATE MACRO protocol_name(number) AS CASE number {names} ELSE number::VARCHAR END")


def _ipv6_cidr(cidr: str) -> Labels:
    """Raises InputError."""
    from vnotch.query.labels import Labels

    try:
        return Labels([str(IPv6Network(cidr, strict=False))], [cidr])
    except ValueError:
        raise InputError(f"{cidr} is no CIDR") from None
