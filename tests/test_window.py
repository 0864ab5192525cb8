"""Windows: what is added comes out again, once, or is counted as lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from flows import excluded, flow, flow_table, loss, loss_table
from hypothesis import given
from hypothesis import strategies as st

from vnotch.errors import InputError
from vnotch.flow import FLOW_KEY, FLOW_SCHEMA, LOSS_SCHEMA, Direction, Exclusion, Loss, Outcome
from vnotch.window import Window, Windows, tick_seconds, without_rule

S = 1_000_000_000


def closed(windows: Windows, now_s: float) -> list[Window]:
    return windows.close(int(now_s * S))


def sums(table: pa.Table) -> tuple[int, int]:
    return pc.sum(table["packets"]).as_py() or 0, pc.sum(table["bytes"]).as_py() or 0


def test_windows_are_at_multiples_of_the_interval_since_the_epoch():
    windows = Windows(60)
    windows.add(flow_table([flow(packets=3)]), 119 * S)
    windows.add(flow_table([flow(packets=4)]), 120 * S)
    assert windows.open_starts == (60, 120)
    first, second = closed(windows, 180)
    assert (first.start_s, first.end_s, sums(first.flows)[0]) == (60, 120, 3)
    assert (second.start_s, second.end_s, sums(second.flows)[0]) == (120, 180, 4)


def test_a_window_is_open_until_its_end():
    windows = Windows(60)
    windows.add(flow_table([flow()]), 100 * S)
    assert closed(windows, 119.999) == []
    assert len(closed(windows, 120)) == 1
    assert closed(windows, 10_000) == []


def test_equal_keys_are_added_up_and_flags_are_ored():
    windows = Windows(10)
    key = {"srcport": 4000, "dstport": 443, "rule": 7}
    windows.add(flow_table([flow(**key, packets=2, bytes=100, start=21, end=23, tcp_flags=2)]), 20 * S)
    windows.add(flow_table([flow(**key, packets=5, bytes=900, start=20, end=22, tcp_flags=18)]), 22 * S)
    windows.add(flow_table([flow(**key, packets=1, bytes=40, start=24, end=29, tcp_flags=1)]), 29 * S)
    (window,) = closed(windows, 30)
    expected = flow(**key, packets=8, bytes=1040, start=20, end=29, tcp_flags=19)
    assert window.flows.to_pylist() == [expected]
    assert window.flows.schema == FLOW_SCHEMA
    assert window.losses.schema == LOSS_SCHEMA


@pytest.mark.parametrize("name", FLOW_KEY)
def test_every_part_of_the_key_keeps_flows_apart(name: str):
    one = flow()
    other = one | {name: b"\1" * 16 if name in ("srcaddr", "dstaddr") else 2}
    windows = Windows(10)
    windows.add(flow_table([one, other]), 0)
    (window,) = closed(windows, 10)
    assert window.flows.num_rows == 2


def test_an_empty_drain_opens_a_window():
    windows = Windows(10)
    windows.add(FLOW_SCHEMA.empty_table(), 5 * S)
    (window,) = closed(windows, 12)
    assert (window.start_s, window.flows.num_rows, window.losses.num_rows) == (0, 0, 0)


def test_losses_are_added_up_by_slot_direction_and_reason():
    windows = Windows(10)
    windows.add_losses(loss_table([loss(packets=2, bytes=80), loss(direction=Direction.EGRESS)]), 1 * S)
    windows.add_losses(loss_table([loss(packets=3, bytes=120), loss(slot=2)]), 2 * S)
    (window,) = closed(windows, 10)
    assert {tuple(row.values()) for row in window.losses.to_pylist()} == {
        (1, Direction.INGRESS, Loss.RING_FULL, 5, 200),
        (1, Direction.EGRESS, Loss.RING_FULL, 1, 40),
        (2, Direction.INGRESS, Loss.RING_FULL, 1, 40),
    }


def test_what_is_late_for_a_closed_window_goes_to_the_one_after_and_is_counted():
    windows = Windows(60)
    windows.add(flow_table([flow()]), 30 * S)
    closed(windows, 61)
    added = windows.add(flow_table([flow(packets=7)]), 59 * S)
    assert (added.start_s, added.late) == (60, True)
    assert (windows.late_flows, windows.late_packets) == (1, 7)
    (window,) = closed(windows, 120)
    assert (window.start_s, sums(window.flows)[0]) == (60, 7)


def test_a_window_that_was_never_opened_takes_its_late_flows():
    windows = Windows(60)
    windows.add(flow_table([flow()]), 30 * S)
    closed(windows, 130)
    assert not windows.add(flow_table([flow()]), 100 * S).late
    assert [window.start_s for window in closed(windows, 130)] == [60]


def test_the_clock_jumps_forwards():
    windows = Windows(60)
    windows.add(flow_table([flow(packets=2)]), 30 * S)
    year_s = 365 * 86_400
    (window,) = closed(windows, year_s)
    assert (window.start_s, sums(window.flows)[0]) == (0, 2)
    assert windows.add(flow_table([flow()]), year_s * S).start_s == year_s


def test_the_clock_is_set_back_far():
    windows = Windows(60)
    windows.add(flow_table([flow(packets=1)]), 90_030 * S)
    assert len(closed(windows, 90_060)) == 1
    windows.add(flow_table([flow(packets=2)]), 90_070 * S)
    windows.add(flow_table([flow(packets=4)]), 600 * S)  # set back before this drain: it is late for now
    assert [sums(window.flows)[0] for window in closed(windows, 610)] == [6]  # not held back for a day
    assert windows.add(flow_table([flow(packets=8)]), 615 * S).start_s == 600
    assert [(window.start_s, sums(window.flows)[0]) for window in closed(windows, 660)] == [(600, 8)]


def test_the_clock_is_set_back_a_little():
    windows = Windows(60)
    windows.add(flow_table([flow(packets=1)]), 30 * S)
    assert len(closed(windows, 60)) == 1
    assert closed(windows, 59.5) == []
    assert windows.add(flow_table([flow(packets=2)]), int(59.6 * S)).start_s == 60  # no second window from 0
    assert [(window.start_s, sums(window.flows)[0]) for window in closed(windows, 120)] == [(60, 2)]


def test_beyond_the_bound_new_flows_are_lost_and_old_ones_still_counted():
    windows = Windows(10, max_flows=2)
    ports = [flow(dstport=port, packets=port, bytes=10 * port) for port in (1, 2)]
    windows.add(flow_table([*ports, excluded(Exclusion.ARP, packets=9)]), 0)
    added = windows.add(
        flow_table(
            [
                flow(dstport=2, packets=5, bytes=50),
                flow(dstport=3, packets=3, bytes=30),
                flow(dstport=4, packets=4, bytes=44, outcome=Outcome.REJECT),
                excluded(Exclusion.DNS, packets=6),
            ]
        ),
        1 * S,
    )
    lost = sorted(added.lost.to_pylist(), key=lambda row: row["outcome"])
    assert [(row["outcome"], row["packets"], row["bytes"]) for row in lost] == [(0, 3, 30), (1, 4, 44)]
    (window,) = closed(windows, 10)
    kept = {(row["dstport"], row["packets"]) for row in window.flows.to_pylist()}
    assert kept == {(1, 1), (2, 7), (0, 9), (0, 6)}
    assert window.losses.to_pylist() == [loss(loss=Loss.AGENT, packets=7, bytes=74)]


def test_the_bound_is_over_all_open_windows():
    windows = Windows(10, max_flows=3)
    windows.add(flow_table([flow(dstport=1), flow(dstport=2)]), 0)
    windows.add(flow_table([flow(dstport=1), flow(dstport=2)]), 10 * S)
    first, second = closed(windows, 20)
    assert (sums(first.flows)[0], sums(first.losses)[0]) == (2, 0)
    assert (sums(second.flows)[0], sums(second.losses)[0]) == (1, 1)


def test_close_all_gives_what_is_open():
    windows = Windows(600)
    windows.add(flow_table([flow()]), 700 * S)
    assert [(window.start_s, window.end_s) for window in windows.close_all()] == [(600, 1200)]
    assert windows.close_all() == []


def test_without_rule_merges_over_the_rule_alone():
    table = flow_table(
        [
            flow(rule=1, packets=1, bytes=10, tcp_flags=2, start=5, end=5),
            flow(rule=2, packets=2, bytes=20, tcp_flags=1, start=3, end=9),
            flow(rule=1, dstport=9),
        ]
    )
    merged = without_rule(table)
    assert merged.schema == FLOW_SCHEMA
    assert merged.to_pylist() == [
        flow(packets=3, bytes=30, tcp_flags=3, start=3, end=9),
        flow(dstport=9),
    ]
    assert without_rule(merged).equals(merged)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [([60], 10), ([60, 600], 10), ([5, 60], 5), ([1, 600], 1), ([15, 60], 5), ([14], 7), ([11], 1), ([], 10), ([8], 8)],
)
def test_ticks_divide_every_interval(intervals: list[int], expected: int):
    assert tick_seconds(intervals) == expected


@pytest.mark.parametrize("interval", [0, -1, 901])
def test_intervals_are_from_1_to_900(interval: int):
    with pytest.raises(InputError, match="from 1 to 900 s"):
        Windows(interval)
    with pytest.raises(InputError):
        tick_seconds([60, interval])


def test_state_that_cannot_be_read_is_refused():
    with pytest.raises(InputError, match="state of windows"):
        Windows.from_tables(FLOW_SCHEMA.empty_table(), LOSS_SCHEMA.empty_table())


rows = st.builds(
    flow,
    src=st.sampled_from(["192.0.2.1", "198.51.100.2"]),
    slot=st.integers(0, 2),
    direction=st.sampled_from(list(Direction)),
    outcome=st.sampled_from([Outcome.ACCEPT, Outcome.REJECT]),
    dstport=st.integers(0, 5),
    rule=st.integers(0, 2),
    packets=st.integers(1, 2**40),
    bytes=st.integers(20, 2**50),
    start=st.integers(0, 2000),
    tcp_flags=st.sampled_from([0, 1, 2, 3, 4, 18, 19]),
) | st.builds(excluded, st.sampled_from(list(Exclusion)), packets=st.integers(1, 9), slot=st.integers(0, 2))
loss_rows = st.builds(loss, slot=st.integers(0, 2), packets=st.integers(1, 99), bytes=st.integers(40, 999))
drains = st.lists(
    st.tuples(
        st.lists(rows, max_size=12),
        st.lists(loss_rows, max_size=2),
        st.integers(0, 4000).map(lambda tenths: tenths * S // 10),  # at
        st.integers(0, 4000).map(lambda tenths: tenths * S // 10),  # the clock when windows are closed: anywhere
    ),
    max_size=12,
)


def by_place(table: pa.Table | Iterable[dict[str, Any]]) -> Counter[tuple[int, int, str]]:
    """Packets and bytes by slot and direction."""
    total: Counter[tuple[int, int, str]] = Counter()
    for row in table.to_pylist() if isinstance(table, pa.Table) else table:
        total[row["slot"], row["direction"], "packets"] += row["packets"]
        total[row["slot"], row["direction"], "bytes"] += row["bytes"]
    return total


@given(drains, st.integers(1, 900), st.integers(1, 20))
def test_conservation(drains: list[tuple[Any, ...]], interval: int, max_flows: int):
    """Whatever the drains, the interval, the bound and the clock: sum in = sum out + counted loss, place by place."""
    windows = Windows(interval, max_flows)
    put_in: Counter[tuple[int, int, str]] = Counter()
    turned_away: Counter[tuple[int, int, str]] = Counter()
    out: list[Window] = []
    for flow_rows, losses, at_ns, now_ns in drains:
        put_in += by_place(flow_rows) + by_place(losses)
        turned_away += by_place(windows.add(flow_table(flow_rows), at_ns).lost)
        windows.add_losses(loss_table(losses), at_ns)
        out += windows.close(now_ns)
    out += windows.close_all()
    agent = sum((by_place(w.losses.filter(pc.equal(w.losses["loss"], Loss.AGENT))) for w in out), Counter())
    assert agent == turned_away
    assert put_in == sum((by_place(w.flows) + by_place(w.losses) for w in out), Counter())
    for window in out:
        assert window.start_s % interval == 0
        assert window.end_s == window.start_s + interval
        recorded = window.flows.filter(pc.not_equal(window.flows["outcome"], Outcome.EXCLUDED))
        assert recorded.num_rows <= max_flows
        keys = [tuple(row[name] for name in FLOW_KEY) for row in window.flows.to_pylist()]
        assert len(keys) == len(set(keys))
        merged = without_rule(window.flows)
        assert by_place(merged) == by_place(window.flows)
        rest = [tuple(row[name] for name in FLOW_KEY if name != "rule") for row in merged.to_pylist()]
        assert len(rest) == len(set(rest))


@given(drains, st.integers(1, 900), st.integers(0, 12))
def test_restored_state_goes_on_as_if_nothing_had_been(drains: list[tuple[Any, ...]], interval: int, cut: int):
    """State written and read at any point, and the same calls replayed, give the same windows afterwards."""
    through, restored = Windows(interval, 10), Windows(interval, 10)
    for number, (flow_rows, losses, at_ns, now_ns) in enumerate(drains):
        if number == cut:
            restored = Windows.from_tables(*restored.to_tables(), max_flows=10)
        results = []
        for windows in (through, restored):
            windows.add(flow_table(flow_rows), at_ns)
            windows.add_losses(loss_table(losses), at_ns)
            results.append(windows.close(now_ns))
        assert results[0] == results[1]
    assert through.close_all() == restored.close_all()
    assert (through.late_flows, through.late_packets) == (restored.late_flows, restored.late_packets)
