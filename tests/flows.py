"""Builders of flows and losses for tests: one dict a row, everything that is not said has a plain value."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Loss, Outcome


def address(text: str) -> bytes:
    """16 bytes as in FLOW_SCHEMA."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text).ljust(16, b"\0")


def flow(src: str = "192.0.2.1", dst: str = "10.0.0.1", **values: Any) -> dict[str, Any]:
    """A row of FLOW_SCHEMA; `start` and `end` are Unix seconds."""
    start_s = values.pop("start", 1_700_000_000)
    end_s = values.pop("end", start_s)
    row = {
        "slot": 1,
        "direction": Direction.INGRESS,
        "outcome": Outcome.ACCEPT,
        "exclusion": 0,
        "family": 6 if ":" in src else 4,
        "protocol": 6,
        "srcaddr": address(src),
        "dstaddr": address(dst),
        "srcport": 0,
        "dstport": 0,
        "rule": 0,
        "packets": 1,
        "bytes": 40,
        "start_ns": start_s * 10**9,
        "end_ns": end_s * 10**9,
        "tcp_flags": 0,
    }
    assert not set(values) - set(row), set(values) - set(row)
    return row | values


def excluded(reason: int, **values: Any) -> dict[str, Any]:
    row = flow(outcome=Outcome.EXCLUDED, exclusion=reason, family=0, protocol=0, **values)
    return row | {"srcaddr": bytes(16), "dstaddr": bytes(16)}


def flow_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**row} for row in rows], schema=FLOW_SCHEMA)


def loss(slot: int = 1, **values: Any) -> dict[str, Any]:
    return {"slot": slot, "direction": Direction.INGRESS, "loss": Loss.RING_FULL, "packets": 1, "bytes": 40} | values


def loss_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**row} for row in rows], schema=LOSS_SCHEMA)
