"""The ledger: packets = ACCEPT + REJECT + excluded + lost, and a single missing packet shows."""

from __future__ import annotations

import json

import pytest
from flows import excluded, flow, flow_table, loss, loss_table
from hypothesis import given
from hypothesis import strategies as st
from test_window import loss_rows, rows

from vnotch.errors import InputError
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Exclusion, Loss, Outcome
from vnotch.ledger import Balance, Count, Difference, Ledger
from vnotch.window import Windows

IN, OUT = Direction.INGRESS, Direction.EGRESS


def booked() -> Ledger:
    ledger = Ledger()
    flows = [
        flow(packets=10, bytes=1000),
        flow(packets=5, bytes=500, dstport=22),
        flow(packets=2, bytes=80, outcome=Outcome.REJECT),
        excluded(Exclusion.ARP, packets=3, bytes=0),
        excluded(Exclusion.DNS, packets=4, bytes=280, direction=OUT),
    ]
    ledger.add(flow_table(flows), loss_table([loss(packets=7, bytes=700)]), 60)
    return ledger


def test_every_packet_is_in_one_account():
    account = booked().balance(1, IN)
    assert account == Balance(
        Count(15, 1500), Count(2, 80), {Exclusion.ARP: Count(3, 0)}, {Loss.RING_FULL: Count(7, 700)}
    )
    assert (account.packets, account.bytes) == (27, 2280)
    assert booked().balance(1, OUT).excluded == {Exclusion.DNS: Count(4, 280)}
    assert booked().balance(2, IN) == Balance()


def test_comparison_with_what_was_seen_is_exact():
    seen = {(1, 0): (27, 2280), (1, 1): (4, 280), (3, 0): (0, 0)}
    assert booked().compare(seen) == []
    assert booked().compare(seen | {(1, 0): (28, 2340)}) == [Difference(1, IN, 1, 60)]
    assert booked().compare({(1, 0): (27, 2280)}) == [Difference(1, OUT, -4, -280)]
    assert booked().compare(seen | {(9, 1): (2, 99)}) == [Difference(9, OUT, 2, 99)]


def test_windows_are_kept_apart_and_old_ones_stay_in_the_totals():
    ledger = Ledger(keep_windows=2)
    for start_s in (0, 60, 120):
        ledger.add(flow_table([flow(packets=start_s + 1)]), LOSS_SCHEMA.empty_table(), start_s)
    assert ledger.balance(1, IN, 120).accept.packets == 121
    assert ledger.balance(1, IN, 60).accept.packets == 61
    assert ledger.balance(1, IN, 0) == Balance()
    assert ledger.balance(1, IN).accept.packets == 183
    assert ledger.total().packets == 183


def test_what_the_windows_turned_away_moves_to_lost():
    windows, ledger = Windows(60, max_flows=1), Ledger()
    drain = flow_table([flow(packets=5), flow(packets=3, bytes=90, dstport=9, outcome=Outcome.REJECT)])
    added = windows.add(drain, 0)
    ledger.add(drain, LOSS_SCHEMA.empty_table(), added.start_s)
    ledger.lose(added.lost, added.start_s)
    assert ledger.balance(1, IN) == Balance(Count(5, 40), Count(0, 0), {}, {Loss.AGENT: Count(3, 90)})


def test_a_slot_given_out_again_begins_at_nothing():
    ledger = booked()
    ledger.forget(1)
    assert ledger.compare({}) == []
    assert ledger.total() == Balance()


def test_json_names_interfaces_and_reasons():
    document = json.loads(json.dumps(booked().to_json({1: "eni-1"})))
    assert document["interfaces"][0] == {
        "slot": 1,
        "interface_id": "eni-1",
        "direction": "ingress",
        "packets": 27,
        "bytes": 2280,
        "accept": {"packets": 15, "bytes": 1500},
        "reject": {"packets": 2, "bytes": 80},
        "excluded": {"ARP": {"packets": 3, "bytes": 0}},
        "lost": {"RING_FULL": {"packets": 7, "bytes": 700}},
    }
    assert document["total"]["packets"] == 31
    assert [window["start_s"] for window in document["windows"]] == [60]
    assert Ledger.from_json(document).to_json({1: "eni-1"}) == document


def test_a_document_that_is_no_ledger_is_refused():
    with pytest.raises(InputError, match="ledger"):
        Ledger.from_json({"interfaces": [{"slot": 1}], "windows": []})


@given(st.lists(rows, max_size=30), st.lists(loss_rows, max_size=5), st.integers(1, 20))
def test_sums_are_those_of_the_drain_and_agree_with_the_windows(flow_rows: list, losses: list, max_flows: int):
    windows, ledger = Windows(60, max_flows), Ledger()
    drain, lost = flow_table(flow_rows), loss_table(losses)
    added = windows.add(drain, 0)
    windows.add_losses(lost, 0)
    ledger.add(drain, lost, 0)
    ledger.lose(added.lost, 0)
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    for row in flow_rows + losses:
        packets, bytes_ = seen.get((row["slot"], row["direction"]), (0, 0))
        seen[row["slot"], row["direction"]] = packets + row["packets"], bytes_ + row["bytes"]
    assert ledger.compare(seen) == []
    (window,) = windows.close_all()
    recorded = Ledger()
    recorded.add(window.flows, window.losses, 0)
    for slot in range(3):
        for direction in Direction:
            assert accounts(recorded.balance(slot, direction, 0)) == accounts(ledger.balance(slot, direction, 0))


def accounts(balance: Balance) -> dict[object, tuple[int, int]]:
    """Accounts that are not empty."""
    named = {"accept": balance.accept, "reject": balance.reject, **balance.excluded, **balance.lost}
    keyed = {(type(name).__name__, name): (count.packets, count.bytes) for name, count in named.items()}
    return {name: pair for name, pair in keyed.items() if pair != (0, 0)}


def test_an_empty_drain_books_nothing():
    ledger = Ledger()
    ledger.add(FLOW_SCHEMA.empty_table(), LOSS_SCHEMA.empty_table(), 0)
    assert ledger.to_json()["interfaces"] == []
