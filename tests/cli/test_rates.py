"""Rates from two looks at an agent, on answers made here; the expected numbers are those of the packets."""

from __future__ import annotations

import io
import ipaddress
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from vnotch.agent.view import Answer
from vnotch.cli.rates import Meter, Rates
from vnotch.cli.top import Look, bits, end, rate
from vnotch.flow import FLOW_SCHEMA, Direction, Outcome

SECOND = 1_000_000_000


def flow(source: str, packets: int, slot: int = 0, outcome: Outcome = Outcome.ACCEPT, **more: Any) -> dict[str, Any]:
    address = ipaddress.ip_address(source)
    row: dict[str, Any] = dict.fromkeys(FLOW_SCHEMA.names, 0)
    row |= {
        "slot": slot,
        "direction": Direction.INGRESS,
        "outcome": outcome,
        "family": address.version,
        "protocol": 6,
        "srcaddr": address.packed.ljust(16, b"\0"),
        "dstaddr": bytes([10, 0, 0, 5]).ljust(16, b"\0"),
        "srcport": 40000,
        "dstport": 443,
        "packets": packets,
        "bytes": packets * 100,
    }
    return row | more


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=FLOW_SCHEMA)


def answer(
    at_s: float, number: int, live: list[Any], drained: Sequence[Any] = (), window: Sequence[Any] = (), **about: Any
) -> Answer:
    members = {
        "taken_ns": int(at_s * SECOND),
        "number": number,
        "complete": True,
        "window_seconds": 60,
        "omitted_flows": {"live": 0, "drained": 0, "window": 0},
        "interfaces": {
            "0": {"interface_id": "eni-a", "device": "veth0", "enforce": False},
            "1": {"interface_id": "eni-b", "device": "veth1", "enforce": True},
        },
        "rules": {"17": ["sgr-1", "security-group"]},
    }
    return Answer(members | about, (table(*live), table(*drained), table(*window)))


def look(meter: Meter, given: Answer, **more: Any) -> Rates:
    return meter.rates(given, **{"sort": "bytes", "limit": 10, **more})


def test_without_a_drain_in_between_a_rate_is_the_growth_of_the_map() -> None:
    meter = Meter()
    first = look(meter, answer(100, 7, [flow("192.0.2.1", 10)]))
    assert (first.seconds, first.flows[0].packets) == (None, 10)
    assert meter.since == 7
    second = look(meter, answer(102, 7, [flow("192.0.2.1", 16), flow("192.0.2.2", 1)]))
    assert second.seconds == 2
    assert [(item.srcaddr, item.packets, item.bytes) for item in second.flows] == [
        ("192.0.2.1", 6, 600),
        ("192.0.2.2", 1, 100),
    ]


def test_what_a_drain_took_away_counts() -> None:
    meter = Meter()
    look(meter, answer(100, 7, [flow("192.0.2.1", 10)]))
    # The drain had 13, 3 of them since; then 4 came into the new map.
    drained = [flow("192.0.2.1", 13)]
    found = look(meter, answer(102, 8, [flow("192.0.2.1", 4)], drained, window=drained))
    assert [(item.packets, item.window_packets) for item in found.flows] == [(7, 17)]


def test_a_flow_that_has_stopped_is_not_shown() -> None:
    meter = Meter()
    look(meter, answer(100, 7, [flow("192.0.2.1", 10)]))
    found = look(meter, answer(102, 8, [], [flow("192.0.2.1", 10)], window=[flow("192.0.2.1", 10)]))
    assert (found.flows, found.flows_all) == ((), 0)
    assert [item.accept_packets for item in found.interfaces] == [0, 0]


@pytest.mark.parametrize(("number", "complete"), [(9, False), (3, True)])
def test_after_a_gap_or_a_restart_it_begins_anew(number: int, complete: bool) -> None:
    meter = Meter()
    look(meter, answer(100, 7, [flow("192.0.2.1", 1000)]))
    found = look(meter, answer(102, number, [flow("192.0.2.1", 5)], complete=complete))
    assert (found.seconds, found.flows[0].packets) == (None, 5)


def test_interfaces_by_what_became_of_their_packets() -> None:
    meter = Meter()
    look(meter, answer(100, 7, []))
    arp = flow("0.0.0.0", 9, outcome=Outcome.EXCLUDED, exclusion=1, family=0, protocol=0)
    rows = [
        flow("192.0.2.1", 10),
        flow("192.0.2.9", 3, outcome=Outcome.REJECT),
        arp,
        flow("2001:db8::1", 4, slot=1, direction=Direction.EGRESS),
    ]
    found = look(meter, answer(101, 7, rows))
    a, b = found.interfaces
    assert (a.interface_id, a.accept_packets, a.reject_packets, a.excluded_packets, a.flows) == ("eni-a", 10, 3, 9, 2)
    assert (a.ingress_bytes, a.egress_bytes) == (1300, 0)
    assert (b.interface_id, b.accept_packets, b.egress_bytes) == ("eni-b", 4, 400)
    assert found.flows_all == 3, "what is excluded is in no flow"


def test_the_largest_come_first_by_what_is_asked_for() -> None:
    rows = [flow("192.0.2.1", 10, bytes=400), flow("192.0.2.2", 2, bytes=3000)]
    for sort, first in (("packets", "192.0.2.1"), ("bytes", "192.0.2.2")):
        meter = Meter()
        look(meter, answer(100, 7, []))
        found = look(meter, answer(101, 7, rows), sort=sort, limit=1)
        assert [item.srcaddr for item in found.flows] == [first]
        assert found.flows_all == 2


@pytest.mark.parametrize("interface", ["eni-b", "veth1"])
def test_one_interface_alone(interface: str) -> None:
    rows = [flow("192.0.2.1", 10), flow("2001:db8::1", 4, slot=1, rule=17)]
    found = look(Meter(), answer(100, 7, rows), interface=interface)
    assert [item.interface_id for item in found.interfaces] == ["eni-b"]
    assert [(item.srcaddr, item.rule_id, item.rule_layer) for item in found.flows] == [
        ("2001:db8::1", "sgr-1", "security-group")
    ]


def test_a_look_for_machines_and_for_people() -> None:
    meter = Meter()
    look(meter, answer(100, 7, []))
    rates = look(meter, answer(102, 7, [flow("192.0.2.1", 10), flow("192.0.2.9", 3, outcome=Outcome.REJECT)]))
    shown = Look([("host", rates)], {"eni-a": "web"}, "bytes", 1)
    document = json.loads(json.dumps(shown.to_json()))
    assert document["flows"][0]["packets_per_second"] == 5
    assert document["flows"][0]["bytes_per_second"] == 500
    assert document["flows"][0]["name"] == "web"
    assert document["flows"][0]["window_packets"] == 10
    assert (len(document["flows"]), document["flows_all"]) == (1, 2)
    first = next(item for item in document["interfaces"] if item["interface_id"] == "eni-a")
    assert (first["accept_packets_per_second"], first["reject_packets_per_second"]) == (5, 1.5)

    for width in (80, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(shown.shown(width))
        text = console.export_text()
        assert max(len(line) for line in text.splitlines()) <= width
        assert "192.0.2.1:40000" in text
        assert "and 1 more" in text


def test_what_is_in_brackets_is_shown_as_it_is() -> None:
    """Rich would take `[fd76::10]` and `[red]` for its markup and show nothing."""
    meter = Meter()
    look(meter, answer(100, 7, []))
    rates = look(meter, answer(102, 7, [flow("fd76::10", 10, dstaddr=ipaddress.ip_address("fd76::11").packed)]))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(Look([("host", rates)], {"eni-a": "[red]web"}, "bytes", 1).shown(160))
    text = console.export_text()
    assert "[fd76::10]:40000" in text
    assert "[fd76::11]:443" in text
    assert text.count("[red]web") == 2


@pytest.mark.parametrize(
    ("size", "seconds", "text"),
    [(0, 1, "0"), (1, 1, "8"), (125, 1, "1.0 k"), (125_000, 2, "500 k"), (125_000_000, 1, "1.0 G"), (5, None, "-")],
)
def test_bits_are_counted_in_tens(size: int, seconds: float | None, text: str) -> None:
    assert bits(size, seconds) == text


def test_a_little_is_not_nothing() -> None:
    assert [rate(count, 10) for count in (0, 1, 10, 12345)] == ["0", "<1", "1", "1,234"]


def test_an_end_has_a_port_where_its_protocol_has() -> None:
    assert end("10.0.0.1", 443, "tcp") == "10.0.0.1:443"
    assert end("2001:db8::1", 443, "udp") == "[2001:db8::1]:443"
    assert end("10.0.0.1", 0, "icmp") == "10.0.0.1"
