"""SQL functions that questions have besides DuckDB's own.

    label(address)            the label of an address, NULL where it has none
    in_cidr(address, cidr)    whether the CIDR holds the address; false for what is no address
    is_private(address)       whether the address is on no internet
    protocol_name(number)     tcp, udp, icmp, ..., or the number
    utc(seconds)              Unix seconds as a timestamp

The first three cost a microsecond a row: group by address first where there are many rows.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import ARROW

from vnotch.query.labels import Labels

PRIVATE = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
    "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8",  # RFC 6598, RFC 3927, RFC 1122
    "fc00::/7", "fe80::/10", "::1/128",  # RFC 4193, RFC 4291
)  # fmt: skip
"""Addresses that are on no internet."""

_CIDRS_REMEMBERED = 1000
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp"}


def add_functions(connection: duckdb.DuckDBPyConnection, labels: Labels | None) -> None:
    private = Labels(PRIVATE, ["private"] * len(PRIVATE))
    by_cidr: dict[str, Labels] = {}

    def label(addresses: pa.ChunkedArray) -> pa.Array:
        return pa.nulls(len(addresses), pa.string()) if labels is None else labels.of(addresses)

    def is_private(addresses: pa.ChunkedArray) -> pa.Array:
        return private.have(addresses)

    def in_cidr(addresses: pa.ChunkedArray, cidrs: pa.ChunkedArray) -> pa.Array:
        parts = []
        for cidr in pc.unique(cidrs).to_pylist():
            if cidr not in by_cidr:
                if len(by_cidr) > _CIDRS_REMEMBERED:
                    by_cidr.clear()
                by_cidr[cidr] = Labels([cidr], [cidr])
            parts.append((cidr, by_cidr[cidr].have(addresses)))
        if len(parts) == 1:
            return parts[0][1]
        result = pa.array(np.zeros(len(addresses), bool))
        for cidr, held in parts:
            result = pc.if_else(pc.equal(cidrs.combine_chunks(), cidr), held, result)
        return result

    connection.create_function("label", label, ["VARCHAR"], "VARCHAR", type=ARROW)
    connection.create_function("is_private", is_private, ["VARCHAR"], "BOOLEAN", type=ARROW)
    connection.create_function("in_cidr", in_cidr, ["VARCHAR", "VARCHAR"], "BOOLEAN", type=ARROW)
    names = " ".join(f"WHEN {number} THEN '{name}'" for number, name in _PROTOCOLS.items())
    connection.execute(f"CREATE MACRO protocol_name(number) AS CASE number {names} ELSE number::VARCHAR END")
    connection.execute("CREATE MACRO utc(seconds) AS make_timestamp(seconds * 1000000)")
