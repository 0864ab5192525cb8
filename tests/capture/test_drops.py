"""Moving what was dropped from ACCEPT to REJECT, without a kernel."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from vnotch.capture.drops import Drops, settle, without
from vnotch.capture.layout import FLOW_KEY, FLOW_VALUE, flow_table
from vnotch.deciders import HOST_FIREWALL_NUMBER
from vnotch.flow import Outcome

ACCEPT, REJECT, EXCLUDED = int(Outcome.ACCEPT), int(Outcome.REJECT), int(Outcome.EXCLUDED)


def key(port: int, outcome: int, rule: int = 0, direction: int = 1) -> Any:
    made = np.zeros(1, FLOW_KEY)
    made["src"], made["dport"], made["proto"], made["rule"] = (
        np.void(bytes([10, 0, 0, 1]).ljust(16, b"\0")),
        port,
        6,
        rule,
    )
    made["bits"] = direction | outcome << 1
    return made


def table(*rows: tuple[Any, int, int]) -> tuple[Any, Any]:
    keys = np.concatenate([key for key, _, _ in rows]) if rows else np.empty(0, FLOW_KEY)
    values = np.zeros(len(rows), FLOW_VALUE)
    values["packets"], values["bytes"] = [p for _, p, _ in rows], [b for _, _, b in rows]
    return keys, values


def drops(*rows: tuple[int, int, int]) -> Drops:
    return Drops(*table(*((key(port, REJECT, HOST_FIREWALL_NUMBER), packets, size) for port, packets, size in rows)))


def told(part: Drops) -> dict[int, tuple[int, int]]:
    return {
        int(key["dport"]): (int(value["packets"]), int(value["bytes"]))
        for key, value in zip(part.keys, part.values, strict=True)
    }


def settled(flows: tuple[Any, Any], now: Drops, earlier: Drops | None = None) -> Any:
    keys, values = flows
    return settle(keys, values["packets"], values["bytes"], now, earlier or Drops.none())


def test_a_part_of_a_flow_is_moved() -> None:
    result = settled(table((key(80, ACCEPT), 10, 1000), (key(81, ACCEPT), 5, 500)), drops((80, 3, 240)))
    assert result.packets.tolist() == [3, 0]
    assert result.bytes.tolist() == [240, 0]
    assert told(result.rejected) == {80: (3, 240)}
    assert told(result.rest) == {}
    assert result.unmatched == (0, 0)


def test_a_flow_of_nothing_is_no_row() -> None:
    keys, values = table((key(80, ACCEPT), 3, 240), (key(81, ACCEPT), 5, 500))
    result = settle(keys, values["packets"], values["bytes"], drops((80, 3, 240)), Drops.none())
    left = without(flow_table(keys, values, 0, 0), result)
    assert [(row["dstport"], row["packets"], row["bytes"]) for row in left.to_pylist()] == [(81, 5, 500)]


def test_rows_of_a_flow_give_by_the_number_of_their_rule() -> None:
    """And rows of one key, which the ring buffer makes, in their order."""
    flows = table((key(80, ACCEPT, 9), 5, 500), (key(80, ACCEPT, 4), 2, 300), (key(80, ACCEPT, 9), 1, 60))
    result = settled(flows, drops((80, 4, 480)))
    assert result.packets.tolist() == [2, 2, 0]
    assert result.bytes.tolist() == [180, 300, 0]


def test_what_the_next_drain_counts_is_kept_for_it() -> None:
    first = settled(table((key(80, ACCEPT), 2, 200)), drops((80, 3, 300), (81, 1, 60)))
    assert told(first.rejected) == {80: (2, 200)}
    assert told(first.rest) == {80: (1, 100), 81: (1, 60)}
    second = settled(table((key(80, ACCEPT), 4, 400), (key(81, ACCEPT), 1, 60)), drops((80, 2, 200)), first.rest)
    assert told(second.rejected) == {80: (3, 300), 81: (1, 60)}
    assert told(second.rest) == {}
    assert second.unmatched == (0, 0)


def test_what_has_no_flow_in_the_next_drain_either_is_unmatched() -> None:
    """The drops of that drain itself are kept, as ever."""
    result = settled(table(), drops((80, 2, 80)), drops((80, 1, 40), (81, 5, 500)))
    assert result.unmatched == (6, 540)
    assert told(result.rest) == {80: (2, 80)}


def test_a_packet_that_was_rejected_stays_with_its_rule() -> None:
    flows = table((key(80, REJECT, 7), 3, 120), (key(81, ACCEPT, 7), 2, 80), (key(81, REJECT, 8), 1, 40))
    result = settled(flows, drops((80, 3, 120), (81, 2, 80)))
    assert result.packets.tolist() == [0, 2, 0]
    assert told(result.rest) == {}


@pytest.mark.parametrize("other", [key(80, EXCLUDED), key(80, ACCEPT, direction=0), key(443, ACCEPT)])
def test_other_rows_give_nothing(other: Any) -> None:
    result = settled(table((other, 9, 900)), drops((80, 1, 40)))
    assert result.packets.tolist() == [0]
    assert told(result.rest) == {80: (1, 40)}


def test_times_and_flags_of_what_was_kept_are_added() -> None:
    earlier, now = drops((80, 1, 40)), drops((80, 1, 40), (81, 1, 40))
    earlier.values["first"], earlier.values["last"], earlier.values["tcp_flags"] = 100, 110, 2
    now.values["first"], now.values["last"], now.values["tcp_flags"] = 200, 210, 4
    both = now.after(earlier)
    rows = {int(k["dport"]): v for k, v in zip(both.keys, both.values, strict=True)}
    assert [int(rows[80][name]) for name in ("packets", "first", "last", "tcp_flags")] == [2, 100, 210, 6]
    assert [int(rows[81][name]) for name in ("packets", "first", "last", "tcp_flags")] == [1, 200, 210, 4]


@pytest.mark.parametrize("seed", range(20))
def test_any_packets_in_any_drains_are_told_exactly(seed: int) -> None:
    """A model: packets of equal length a flow, some dropped, whose drops come up to one drain early."""
    random = Random(seed)
    sizes = {port: random.randint(40, 1500) for port in range(8)}
    truth: Counter[tuple[int, bool]] = Counter()
    found: Counter[tuple[int, bool]] = Counter()
    rest, early = Drops.none(), Counter[int]()
    for drain in range(6):
        accepted: Counter[tuple[int, int]] = Counter()
        dropped: Counter[int] = Counter()
        for port, number in early.items():
            accepted[port, random.randint(1, 3)] += number
        early = Counter()
        for _ in range(random.randint(0, 60)):
            port, is_dropped = random.randrange(8), random.random() < 0.4
            truth[port, is_dropped] += 1
            dropped[port] += is_dropped
            if is_dropped and drain < 5 and random.random() < 0.3:
                early[port] += 1
            else:
                accepted[port, random.randint(1, 3)] += 1
        flows = table(*((key(p, ACCEPT, rule), n, n * sizes[p]) for (p, rule), n in accepted.items()))
        result = settled(flows, drops(*((p, n, n * sizes[p]) for p, n in dropped.items() if n)), rest)
        rest = result.rest
        left = without(flow_table(*flows, 0, 0), result)
        for row in left.to_pylist():
            assert row["bytes"] == row["packets"] * sizes[row["dstport"]]
            found[row["dstport"], False] += row["packets"]
        for port, (packets, size) in told(result.rejected).items():
            assert size == packets * sizes[port]
            found[port, True] += packets
        assert result.unmatched == (0, 0)
    assert len(rest) == 0
    assert +found == +truth
