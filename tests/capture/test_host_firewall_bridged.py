"""What the host firewall drops behind a bridge whose ports are captured: attributed by who is behind the port."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from bridged import Bridged
from drains import Flow, Sum, drain_all, flows
from links import SLOT, run
from routed import chain, mac_bytes, send_udp
from test_host_firewall import COUNT, IN, OUT, PACKETS, assert_exact, every_third, expected, rejected

from vnotch.capture.kernel import Datapath
from vnotch.flow import Outcome

pytestmark = pytest.mark.root

STRANGER = "10.77.0.99"


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Bridged]:
    made = Bridged()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def bridged(namespaces: Bridged) -> Iterator[Bridged]:
    """Without rules at first."""
    yield namespaces
    namespaces.nft("flush ruleset")
    namespaces.through_netfilter(False)


def know(datapath: Datapath, bridged: Bridged, slot: int = SLOT, *, side: str = "instance", mac: bool = False) -> None:
    datapath.set_interface(
        slot,
        addresses=[ip_address(bridged.address(side, family)).packed for family in (4, 6)],
        mac=mac_bytes(getattr(bridged, f"{side}_mac")) if mac else None,
    )


@pytest.fixture
def datapath(bridged: Bridged) -> Iterator[Datapath]:
    """One port is captured, the other is not."""
    opened = Datapath.open(netns=bridged.host, flows_per_map=8192)
    try:
        assert opened.host_firewall().unseen is None
        know(opened, bridged)
        opened.attach(bridged.host_device, SLOT)
        opened.follow_links()
        yield opened
    finally:
        opened.destroy()


def also_capture_second(datapath: Datapath, bridged: Bridged, *, mac: bool = False) -> None:
    know(datapath, bridged, SLOT + 1, side="second", mac=mac)
    datapath.attach(bridged.second_device, SLOT + 1)
    datapath.follow_links()


def from_instance(bridged: Bridged, source: str, destination: str, count: int, mac: str = "") -> None:
    bridged.send_from(
        bridged.instance,
        "udp",
        (source, destination),
        count,
        source_mac=mac or bridged.instance_mac,
        to_mac=bridged.host_mac,
    )


@pytest.mark.parametrize(
    ("hook", "verdict", "by"),
    [
        ("prerouting", "drop", "address"),
        ("prerouting", "reject", "mac"),
        ("input", "drop", "mac"),
        ("input", "reject", "address"),
        ("forward", "drop", "address"),
        ("forward", "reject", "address"),
        ("forward", "drop", "mac"),
        ("postrouting", "drop", "address"),
        ("postrouting", "drop", "mac"),
        ("ingress", "drop", "address"),
        ("egress", "drop", "mac"),
    ],
)
def test_what_came_in_at_a_port(bridged: Bridged, datapath: Datapath, hook: str, verdict: str, by: str) -> None:
    """Every third packet of each flow, to the host or on to the third namespace."""
    know(datapath, bridged, mac=by == "mac")
    to = "far" if hook in ("forward", "postrouting", "egress") else "host"
    device = {"ingress": bridged.bridge, "egress": bridged.far_device}.get(hook, "")
    bridged.nft(chain(hook, every_third(verdict), device=device))
    drains = [drain_all(datapath)]
    for protocol, family in PACKETS:
        bridged.send_from_instance(protocol, family, bridged.address(to, family), COUNT)
    bridged.settle()
    drains.append(drain_all(datapath))
    found = flows(drains[1])
    addresses = {family: (bridged.address("instance", family), bridged.address(to, family)) for family in (4, 6)}
    sent = expected(OUT, addresses)
    assert {flow: found.get(flow) for flow in sent} == sent
    told = bridged.dropped()
    assert rejected(found) == Sum(told.packets, told.bytes - (14 * told.packets if hook == "egress" else 0))
    assert_exact(datapath, drains)


@pytest.mark.parametrize(
    ("hook", "verdict"), [("output", "drop"), ("output", "reject"), ("postrouting", "drop"), ("egress", "drop")]
)
def test_what_the_host_would_have_sent_to_a_port(bridged: Bridged, datapath: Datapath, hook: str, verdict: str) -> None:
    device = bridged.bridge if hook == "egress" else ""
    bridged.nft(chain(hook, every_third(verdict), device=device))
    drains = [drain_all(datapath)]
    for protocol, family in PACKETS:
        bridged.send_from_host(protocol, family, bridged.address("instance", family), COUNT)
    bridged.settle()
    drains.append(drain_all(datapath))
    found = flows(drains[1])
    addresses = {family: (bridged.address("host", family), bridged.address("instance", family)) for family in (4, 6)}
    sent = expected(IN, addresses)
    assert {flow: found.get(flow) for flow in sent} == sent
    told = bridged.dropped()
    assert rejected(found) == Sum(told.packets, told.bytes - (14 * told.packets if hook == "egress" else 0))
    assert_exact(datapath, drains)


@pytest.mark.parametrize("hook", ["forward", "postrouting"])
def test_what_came_from_outside(bridged: Bridged, datapath: Datapath, hook: str) -> None:
    bridged.nft(chain(hook, ["udp dport 4000 counter drop"]))
    drains = [drain_all(datapath)]
    bridged.in_far(send_udp, bridged.instance_v4, 10)
    bridged.in_far(send_udp, bridged.second_v4, 7)  # not captured
    bridged.settle()
    drains.append(drain_all(datapath))
    assert bridged.dropped().packets == 17
    flow = Flow(IN, bridged.far_v4, 5000, bridged.instance_v4, 4000, 17, Outcome.REJECT)
    assert flows(drains[1]) == {flow: Sum(10, 10 * 128)}
    assert_exact(datapath, drains)


@pytest.mark.parametrize("hook", ["prerouting", "forward", "input", "postrouting"])
def test_a_port_that_is_not_captured(bridged: Bridged, datapath: Datapath, hook: str) -> None:
    """Nothing of its packets is anybody else's."""
    to = bridged.host_v4 if hook == "input" else bridged.far_v4
    bridged.nft(chain(hook, ["udp dport 4000 counter drop"]))
    drains = [drain_all(datapath)]
    bridged.in_second(send_udp, to, 10)
    bridged.settle()
    drains.append(drain_all(datapath))
    assert bridged.dropped().packets == 10
    assert flows(drains[1]) == {}
    assert_exact(datapath, drains)


@pytest.mark.parametrize("hook", ["prerouting", "forward", "postrouting"])
def test_the_uplink_is_captured_too(bridged: Bridged, datapath: Datapath, hook: str) -> None:
    """The sender has it, and the uplink nothing."""
    datapath.set_interface(SLOT + 1, inside=True)
    datapath.attach(bridged.far_device, SLOT + 1)
    datapath.follow_links()
    bridged.nft(chain(hook, ["udp dport 4000 counter drop"]))
    drains = [drain_all(datapath)]
    from_instance(bridged, bridged.instance_v4, bridged.far_v4, 10)
    bridged.settle()
    drains.append(drain_all(datapath))
    flow = Flow(OUT, bridged.instance_v4, 5000, bridged.far_v4, 4000, 17, Outcome.REJECT)
    assert flows(drains[1]) == {flow: Sum(10, 10 * 128)}
    told = [row for row in drains[1].flows.to_pylist() if row["outcome"] != Outcome.EXCLUDED]  # as `flows` does
    assert {row["slot"] for row in told} == {SLOT}


@pytest.mark.parametrize("hook", ["prerouting", "forward", "postrouting"])
@pytest.mark.parametrize("both", [True, False])
def test_from_port_to_port(bridged: Bridged, datapath: Datapath, hook: str, both: bool) -> None:
    """By the bridge alone, whose packets IP's rules see where br_netfilter is switched on."""
    if not bridged.has_br_netfilter():
        pytest.skip("this kernel has no br_netfilter")
    if both:
        also_capture_second(datapath, bridged)
    bridged.through_netfilter(True)
    bridged.nft(chain(hook, ["udp dport 4000 counter drop"]))
    drains = [drain_all(datapath)]
    bridged.in_instance(send_udp, bridged.second_v4, 10)
    bridged.settle()
    drains.append(drain_all(datapath))
    assert bridged.dropped().packets == 10
    flow = Flow(OUT, bridged.instance_v4, 5000, bridged.second_v4, 4000, 17, Outcome.REJECT)
    assert flows(drains[1]) == {flow: Sum(10, 10 * 128)}
    assert set(drains[1].flows["slot"].to_pylist()) == {SLOT}


def test_rules_of_the_bridge_family(bridged: Bridged, datapath: Datapath) -> None:
    """There the packet names its port at every hook."""
    also_capture_second(datapath, bridged)
    rule = "ether type ip udp dport 4000 counter drop"
    bridged.nft(f"table bridge t {{ chain c {{ type filter hook forward priority 0; {rule}\n}}\n}}\n")
    bridged.in_instance(send_udp, bridged.second_v4, 10)
    bridged.settle()
    assert bridged.dropped().packets == 10
    flow = Flow(OUT, bridged.instance_v4, 5000, bridged.second_v4, 4000, 17, Outcome.REJECT)
    assert flows(drain_all(datapath)) == {flow: Sum(10, 10 * 128)}


def test_translated_addresses(bridged: Bridged, datapath: Datapath) -> None:
    """As a container runtime does it: what leaves has the host's address where it is dropped, and what comes from
    outside to a published port has the ENI's."""
    bridged.nft(
        "table ip nat {\n"
        "chain p { type nat hook prerouting priority -100; ip daddr 10.78.0.1 udp dport 4000 dnat to 10.77.0.2:53; }\n"
        "chain o { type nat hook postrouting priority 100; udp dport 4000 masquerade; }\n}\n"
    )
    bridged.nft(chain("forward", ["udp dport 53 counter drop"]))
    late = chain("postrouting", ["udp dport 4000 counter drop"], priority=200)
    bridged.nft(late.replace("chain c", "chain d"))
    from_instance(bridged, bridged.instance_v4, bridged.far_v4, 10)
    bridged.in_far(send_udp, bridged.host_far_v4, 5)
    bridged.settle()
    assert bridged.dropped().packets == 15
    assert flows(drain_all(datapath)) == {
        Flow(OUT, bridged.instance_v4, 5000, bridged.far_v4, 4000, 17, Outcome.REJECT): Sum(10, 10 * 128),
        Flow(IN, bridged.far_v4, 5000, bridged.instance_v4, 53, 17, Outcome.REJECT): Sum(5, 5 * 128),
    }


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("target", ["DROP", "REJECT"])
def test_iptables(bridged: Bridged, datapath: Datapath, program: str, target: str) -> None:
    rule = ["FORWARD", "-p", "udp", "--dport", "4000", "-j", target]
    bridged.in_host(run, program, "-A", *rule)
    try:
        from_instance(bridged, bridged.instance_v4, bridged.far_v4, 10)
        bridged.settle()
    finally:
        bridged.in_host(run, program, "-D", *rule)
    flow = Flow(OUT, bridged.instance_v4, 5000, bridged.far_v4, 4000, 17)
    found = flows(drain_all(datapath))
    assert found[flow._replace(outcome=Outcome.REJECT)] == Sum(10, 10 * 128)
    assert flow not in found


def test_an_address_that_the_eni_does_not_own(bridged: Bridged, datapath: Datapath) -> None:
    """Without a MAC address it may be the other port's, which is not captured; with one it is told."""
    bridged.nft(chain("input", ["udp dport 4000 counter drop"]))
    flow = Flow(OUT, STRANGER, 5000, bridged.host_v4, 4000, 17)
    from_instance(bridged, STRANGER, bridged.host_v4, 10)
    bridged.settle()
    assert flows(drain_all(datapath)) == {flow: Sum(10, 10 * 128)}
    know(datapath, bridged, mac=True)
    datapath.follow_links()
    from_instance(bridged, STRANGER, bridged.host_v4, 10)
    bridged.settle()
    assert flows(drain_all(datapath)) == {flow._replace(outcome=Outcome.REJECT): Sum(10, 10 * 128)}
    assert datapath.host_firewall().to_json() == {"seen": True, "message": None, "untold": 0, "unmatched": 0}


def test_somebody_else_under_the_enis_address(bridged: Bridged, datapath: Datapath) -> None:
    """The MAC address says that it is not the ENI, whose flow of the same name stays accepted."""
    know(datapath, bridged, mac=True)
    datapath.follow_links()
    bridged.nft(chain("input", [f"ether saddr {bridged.second_mac} udp dport 4000 counter drop"]))
    drains = [drain_all(datapath)]
    from_instance(bridged, bridged.instance_v4, bridged.host_v4, 10)
    bridged.send_from(
        bridged.second,
        "udp",
        (bridged.instance_v4, bridged.host_v4),
        10,
        source_mac=bridged.second_mac,
        to_mac=bridged.host_mac,
    )
    bridged.settle()
    drains.append(drain_all(datapath))
    assert bridged.dropped().packets == 10
    flow = Flow(OUT, bridged.instance_v4, 5000, bridged.host_v4, 4000, 17)
    assert flows(drains[1])[flow] == Sum(10, 10 * 128)
    assert rejected(flows(*drains)) == Sum(0, 0)
    assert_exact(datapath, drains)


def test_what_cannot_be_told_is_counted(bridged: Bridged, datapath: Datapath) -> None:
    """Both ports are captured; a sender that is neither by its address came in at one of them."""
    also_capture_second(datapath, bridged)
    bridged.nft(chain("input", ["udp dport 4000 counter drop"]))
    from_instance(bridged, STRANGER, bridged.host_v4, 10)
    bridged.settle()
    flow = Flow(OUT, STRANGER, 5000, bridged.host_v4, 4000, 17)
    assert flows(drain_all(datapath)) == {flow: Sum(10, 10 * 128)}
    assert datapath.host_firewall().untold == {(SLOT, OUT): 10}
    assert datapath.host_firewall().unmatched == 0


def test_links_are_followed(bridged: Bridged, datapath: Datapath) -> None:
    """A bridge with one port needs no address; one that the port comes to is found by the next drain."""
    bridged.nft(chain("input", ["udp dport 4000 counter drop"]))
    flow = Flow(OUT, STRANGER, 5000, bridged.host_v4, 4000, 17)
    ip = ("ip", "-n", bridged.host, "link", "set")
    run(*ip, bridged.second_device, "nomaster")
    try:
        drain_all(datapath)
        from_instance(bridged, STRANGER, bridged.host_v4, 10)
        bridged.settle()
        assert flows(drain_all(datapath)) == {flow._replace(outcome=Outcome.REJECT): Sum(10, 10 * 128)}
    finally:
        run(*ip, bridged.second_device, "master", bridged.bridge)
    drain_all(datapath)
    from_instance(bridged, STRANGER, bridged.host_v4, 10)
    bridged.settle()
    assert flows(drain_all(datapath)) == {flow: Sum(10, 10 * 128)}


def test_a_detached_port_gets_nothing(bridged: Bridged, datapath: Datapath) -> None:
    also_capture_second(datapath, bridged)
    datapath.detach(SLOT)
    drain_all(datapath)
    bridged.nft(chain("forward", ["udp dport 4000 counter drop"]))
    from_instance(bridged, bridged.instance_v4, bridged.far_v4, 10)
    bridged.in_far(send_udp, bridged.instance_v4, 10)
    bridged.settle()
    assert bridged.dropped().packets == 20
    assert flows(drain_all(datapath)) == {}
