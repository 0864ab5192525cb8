"""What the host's own firewall drops becomes REJECT: nftables at each of its hooks, held against its own counters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drains import Flow, Sum, drain_all, flows, totals
from links import SLOT
from routed import MATCH, Routed, chain, packet_bytes, protocol_number

from vnotch.capture.kernel import Datapath, Drain
from vnotch.deciders import HOST_FIREWALL_NUMBER
from vnotch.flow import Direction, Outcome

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
COUNT = 30


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Routed]:
    made = Routed()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def routed(namespaces: Routed) -> Iterator[Routed]:
    """Without rules at first."""
    yield namespaces
    namespaces.nft("flush ruleset")


@pytest.fixture
def datapath(routed: Routed) -> Iterator[Datapath]:
    opened = Datapath.open(netns=routed.host, flows_per_map=8192)
    try:
        assert opened.host_firewall().unseen is None
        opened.set_interface(SLOT)
        opened.attach(routed.host_device, SLOT)
        yield opened
    finally:
        opened.destroy()


PACKETS = [(protocol, family) for protocol in ("udp", "tcp", "icmp") for family in (4, 6)]


def every_third(verdict: str) -> list[str]:
    return [f"{MATCH[packet]} numgen inc mod 3 == 0 counter {verdict}" for packet in PACKETS]


def expected(direction: int, addresses: dict[int, tuple[str, str]]) -> dict[Flow, Sum]:
    """A third of the packets of each protocol and family is rejected."""
    found = {}
    for protocol, family in PACKETS:
        source, destination = addresses[family]
        ports = (0, 0) if protocol == "icmp" else (5000, 4000)
        flow = Flow(direction, source, ports[0], destination, ports[1], protocol_number(protocol, family))
        size = packet_bytes(protocol, family)
        found[flow] = Sum(COUNT - COUNT // 3, (COUNT - COUNT // 3) * size)
        found[flow._replace(outcome=Outcome.REJECT)] = Sum(COUNT // 3, COUNT // 3 * size)
    return found


def rejected(found: dict[Flow, Sum]) -> Sum:
    sums = [total for flow, total in found.items() if flow.outcome == Outcome.REJECT]
    return Sum(sum(total.packets for total in sums), sum(total.bytes for total in sums))


def assert_exact(datapath: Datapath, drains: list[Drain]) -> None:
    for way in (IN, OUT):
        assert totals(drains, SLOT, way) == Sum(*datapath.seen()[SLOT, way])
    assert datapath.host_firewall().to_json() == {"seen": True, "message": None, "untold": 0, "unmatched": 0}


@pytest.mark.parametrize(
    ("hook", "verdict"),
    [
        ("prerouting", "drop"),
        ("prerouting", "reject"),
        ("input", "drop"),
        ("input", "reject"),
        ("forward", "drop"),
        ("forward", "reject"),
        ("postrouting", "drop"),
        ("ingress", "drop"),
    ],
)
def test_what_came_in_and_is_dropped(routed: Routed, datapath: Datapath, hook: str, verdict: str) -> None:
    """Every third packet of each flow."""
    to = "far" if hook in ("forward", "postrouting") else "host"
    device = routed.host_device if hook == "ingress" else ""
    routed.nft(chain(hook, every_third(verdict), device=device))
    drains = [drain_all(datapath)]
    for protocol, family in PACKETS:
        routed.send_from_instance(protocol, family, routed.address(to, family), COUNT)
    routed.settle()
    drains.append(drain_all(datapath))
    found = flows(drains[1])
    addresses = {family: (routed.address("instance", family), routed.address(to, family)) for family in (4, 6)}
    sent = expected(OUT, addresses)
    assert {flow: found.get(flow) for flow in sent} == sent
    assert rejected(found) == routed.dropped()
    rules = {row["rule"] for row in drains[1].flows.to_pylist() if row["outcome"] == Outcome.REJECT}
    assert rules == {HOST_FIREWALL_NUMBER}
    assert_exact(datapath, drains)


@pytest.mark.parametrize(
    ("hook", "verdict"), [("output", "drop"), ("output", "reject"), ("postrouting", "drop"), ("egress", "drop")]
)
def test_what_would_have_gone_out_and_is_dropped(routed: Routed, datapath: Datapath, hook: str, verdict: str) -> None:
    """Our program at the interface never sees them: they are added, to what was seen as well."""
    device = routed.host_device if hook == "egress" else ""
    routed.nft(chain(hook, every_third(verdict), device=device))
    drains = [drain_all(datapath)]
    for protocol, family in PACKETS:
        routed.send_from_host(protocol, family, routed.address("instance", family), COUNT)
    routed.settle()
    drains.append(drain_all(datapath))
    found = flows(drains[1])
    addresses = {family: (routed.address("host", family), routed.address("instance", family)) for family in (4, 6)}
    sent = expected(IN, addresses)
    assert {flow: found.get(flow) for flow in sent} == sent
    told = routed.dropped()
    # At egress the packet has its Ethernet header already, and nftables counts it.
    assert rejected(found) == Sum(told.packets, told.bytes - (14 * told.packets if hook == "egress" else 0))
    assert_exact(datapath, drains)
