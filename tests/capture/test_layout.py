"""layout.py against the C compiler: every offset and constant, asserted in C."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vnotch import deciders
from vnotch.capture import layout
from vnotch.capture.layout import flow_table, loss_table, spill_table, total_table
from vnotch.connections import TcpState, UdpState
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Exclusion, Loss, Outcome

BPF = Path(__file__).resolve().parents[2] / "bpf"

STRUCTS = {
    "flow_key": layout.FLOW_KEY,
    "flow_value": layout.FLOW_VALUE,
    "spill": layout.SPILL,
    "eni": layout.ENI,
    "fragment_key": layout.FRAGMENT_KEY,
    "fragment_value": layout.FRAGMENT_VALUE,
    "connection_key": layout.CONNECTION_KEY,
    "connection": layout.CONNECTION,
    "counter": layout.COUNTER,
    "upper_key": layout.UPPER_KEY,
}

CONSTANTS = {
    "LAYOUT_VERSION": layout.LAYOUT_VERSION,
    "MAX_SLOTS": layout.MAX_SLOTS,
    "NEAR_INDEXES": layout.NEAR_INDEXES,
    "MOMENT_SHIFT": layout.MOMENT_SHIFT,
    "FRAGMENT_NS": layout.FRAGMENT_NS,
    "ENI_ENFORCE": layout.ENI_ENFORCE,
    "ENI_ADOPT": layout.ENI_ADOPT,
    "ENI_INSIDE": layout.ENI_INSIDE,
    "ENI_NO_LINK_HEADER": layout.ENI_NO_LINK_HEADER,
    "ENI_MAC": layout.ENI_MAC,
    "ARENA_WORDS": layout.ARENA_WORDS,
    "BITMAP_WORDS": layout.BITMAP_WORDS,
    "RULE_ALLOW": layout.RULE_ALLOW,
    "SERVICE_PORTLESS": layout.SERVICE_PORTLESS,
    "COUNT_CONNECTIONS_FULL": layout.COUNTS.index("connections_full"),
    "RULE_DEFAULT": deciders.DEFAULT_NUMBER,
    "RULE_TABLE_FULL": deciders.TABLE_FULL_NUMBER,
    "RULE_HOST_FIREWALL": deciders.HOST_FIREWALL_NUMBER,
    "RULE_TRACKED": deciders.TRACKED_BIT,
    **{name: getattr(layout, name) for name in dir(layout) if name.startswith(("POLICY_", "TABLE_", "SERVICE_OPEN_"))},
    **{name: getattr(layout, name) for name in dir(layout) if name.startswith("UPPER_") and name != "UPPER_KEY"},
    **{f"TCP_{state.name}": int(state) for state in TcpState},
    "UDP_STREAM": int(UdpState.STREAM),
    "COUNTS": len(layout.COUNTS),
    "COUNT_UNKNOWN_INTERFACE": layout.COUNTS.index("unknown_interface"),
    "COUNT_FRAGMENTS_FULL": layout.COUNTS.index("fragments_full"),
    "COUNT_SPILLED": layout.COUNTS.index("spilled"),
    **{f"DIR_{direction.name}": int(direction) for direction in Direction},
    **{f"OUT_{outcome.name}": int(outcome) for outcome in Outcome},
    **{f"EXCL_{exclusion.name}": int(exclusion) for exclusion in Exclusion},
}


def compile_c(text: str, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = output.with_suffix(".c")
    source.write_text(text)
    command = [sys.executable, "-m", "ziglang", "cc", *arguments, f"-I{BPF}", str(source), "-o", str(output)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_offsets_sizes_and_constants_are_the_compilers(tmp_path: Path) -> None:
    lines = ['#include "vnotch.h"']
    for struct, kind in STRUCTS.items():
        lines.append(f'_Static_assert(sizeof(struct {struct}) == {kind.itemsize}, "{struct}");')
        assert kind.fields
        for name, (field, offset, *_) in kind.fields.items():
            if name == "bits":  # bit fields have no offset of their own; their bytes are looked at below
                continue
            member = f"__builtin_offsetof(struct {struct}, {name})"
            size = f"sizeof(((struct {struct} *)0)->{name})"
            lines.append(f'_Static_assert({member} == {offset} && {size} == {field.itemsize}, "{struct}.{name}");')
    for name, value in CONSTANTS.items():
        lines.append(f'_Static_assert({name} == {value}, "{name}");')
    done = compile_c("\n".join(lines) + "\n", tmp_path / "layout.o", "-c")
    assert done.returncode == 0, done.stderr


def test_bit_fields_are_where_numpy_looks(tmp_path: Path) -> None:
    """The BPF compiler's layout, read from its output: a struct in .rodata."""
    text = """#include "vnotch.h"
    const struct flow_key keys[4] __attribute__((section("data"), used)) = {
        { .dir = 1 }, { .outcome = 2 }, { .v6 = 1 }, { .slot = 0x0201, .dir = 1, .outcome = 1, .v6 = 1, .rule = 7 } };
    """
    output = tmp_path / "keys.o"
    done = compile_c(text, output, "-target", "bpfel-freestanding", "-c")
    assert done.returncode == 0, done.stderr
    data = output.read_bytes()
    at = data.index(b"\x01\x02\x00\x0b\x07\0\0\0") - 36 - 3 * 44
    keys = np.frombuffer(data, layout.FLOW_KEY, 4, at)
    table = flow_table(keys, np.zeros(4, layout.FLOW_VALUE), 0, 0)
    assert table["direction"].to_pylist() == [1, 0, 0, 1]
    assert table["outcome"].to_pylist() == [0, 2, 0, 1]
    assert table["family"].to_pylist() == [4, 0, 6, 6]
    assert table["slot"].to_pylist() == [0, 0, 0, 0x0201]
    assert table["rule"].to_pylist() == [0, 0, 0, 7]


def test_tables_have_the_schemas_and_say_what_the_structs_say() -> None:
    keys, values = np.zeros(3, layout.FLOW_KEY), np.zeros(3, layout.FLOW_VALUE)
    keys["src"] = np.void(bytes([10, 0, 0, 1]).ljust(16, b"\0"))
    keys["dst"][1] = np.void(bytes(range(16)))
    keys["sport"], keys["dport"] = 40000, 443
    keys["proto"] = [6, 17, int(Exclusion.DNS)]
    keys["bits"] = [0, 1 | 1 << 1 | 8, 2 << 1]
    values["packets"], values["bytes"] = [1, 2, 1 << 60], [40, 80, 1 << 61]
    values["first"], values["last"], values["tcp_flags"] = 1000, 2000, 19
    table = flow_table(keys, values, 3000 << 20, 5)
    assert table.schema == FLOW_SCHEMA
    first, second, third = table.to_pylist()
    assert first["srcaddr"] == bytes([10, 0, 0, 1]) + bytes(12)
    assert (first["family"], first["protocol"], first["exclusion"], first["outcome"]) == (4, 6, 0, 0)
    assert (first["start_ns"], first["end_ns"], first["tcp_flags"]) == ((1000 << 20) + 5, (2000 << 20) + 5, 19)
    assert second["dstaddr"] == bytes(range(16))
    assert (second["family"], second["protocol"], second["direction"], second["outcome"]) == (6, 17, 1, 1)
    assert (third["family"], third["protocol"], third["exclusion"]) == (0, 0, int(Exclusion.DNS))
    assert (third["packets"], third["bytes"]) == (1 << 60, 1 << 61)

    spills = np.zeros(1, layout.SPILL)
    spills["key"] = keys[0]
    spills["packets"], spills["bytes"], spills["ns"], spills["tcp_flags"] = 3, 120, 7, 2
    (row,) = spill_table(spills, 1).to_pylist()
    assert {name: row[name] for name in ("packets", "bytes", "start_ns", "end_ns", "tcp_flags", "srcport")} == {
        "packets": 3,
        "bytes": 120,
        "start_ns": 8,
        "end_ns": 8,
        "tcp_flags": 2,
        "srcport": 40000,
    }


def test_moments_wrap_after_52_days() -> None:
    keys, values = np.zeros(2, layout.FLOW_KEY), np.zeros(2, layout.FLOW_VALUE)
    values["first"], values["last"] = (1 << 32) - 3, [(1 << 32) - 1, 4]
    table = flow_table(keys, values, (2 << 52) + (5 << 20) + 77, 0)
    assert table["start_ns"].to_pylist() == [(2 << 52) - (3 << 20)] * 2
    assert table["end_ns"].to_pylist() == [(2 << 52) - (1 << 20), (2 << 52) + (4 << 20)]


def test_totals_of_the_native_build() -> None:
    keys, totals = np.zeros(1, layout.FLOW_KEY), np.zeros(1, layout.FLOW_TOTAL)
    totals["packets"], totals["bytes"], totals["first_ns"], totals["last_ns"] = 2, 80, 1_700_000_000_000_000_001, 7
    (row,) = total_table(keys, totals).to_pylist()
    assert (row["packets"], row["bytes"], row["start_ns"], row["end_ns"]) == (2, 80, 1_700_000_000_000_000_001, 7)


def test_empty_tables() -> None:
    table = flow_table(np.zeros(0, layout.FLOW_KEY), np.zeros(0, layout.FLOW_VALUE), 0, 0)
    assert (table.num_rows, table.schema) == (0, FLOW_SCHEMA)
    zero = np.zeros(8, layout.COUNTER)
    assert loss_table(zero, zero, Loss.RING_FULL).num_rows == 0


def test_losses_are_what_grew() -> None:
    before, now = np.zeros(8, layout.COUNTER), np.zeros(8, layout.COUNTER)
    before["packets"][3], before["bytes"][3] = 5, 50
    now["packets"][3], now["bytes"][3] = 7, 90
    now["packets"][4], now["bytes"][4] = 1, 40
    table = loss_table(now, before, Loss.RING_FULL)
    assert table.schema == LOSS_SCHEMA
    assert table.to_pylist() == [
        {"slot": 1, "direction": 1, "loss": 1, "packets": 2, "bytes": 40},
        {"slot": 2, "direction": 0, "loss": 1, "packets": 1, "bytes": 40},
    ]


@pytest.mark.parametrize("_", range(3))
def test_the_monotonic_clock_leads_to_unix_time(_: int) -> None:
    import time

    unix = time.monotonic_ns() + layout.monotonic_to_unix_ns()
    assert abs(unix - time.time_ns()) < 5_000_000
