"""traffic-path and the next hop: one VPC with a public subnet, a private one behind a NAT gateway, and a router.

Expectations are written from the VPC user guide, "Flow log records" (traffic-path, next-hop-*), for each direction.
"""

from __future__ import annotations

from typing import Any

import pytest
from flows import flow
from test_record import flow_log, interface, lines_of, window

from vnotch.errors import InputError
from vnotch.fields import format_text
from vnotch.flow import Direction, Outcome
from vnotch.inventory import Peer
from vnotch.paths import Peers

IN, OUT = Direction.INGRESS, Direction.EGRESS
CIDRS = ["10.0.0.0/16", "2001:db8:1::/56"]
IGW = "igw-0123456789abcdef0"
NAT, WEB, APP, ROUTER = "eni-nat", "eni-web", "eni-app", "eni-router"
PUBLIC_ROUTES = [["0.0.0.0/0", IGW], ["::/0", IGW]]
PRIVATE_ROUTES = [["0.0.0.0/0", NAT], ["192.168.0.0/16", ROUTER], ["10.0.9.0/24", ROUTER], ["203.0.113.128/25", ""]]


def peer(interface_id: str, *addresses: str, vpc: str = "vpc-1", kind: str | None = None, zone: str = "a") -> Peer:
    return Peer(interface_id, vpc, f"subnet-{zone}", f"use1-az-{zone}", kind, addresses)


PEERS = Peers(
    [
        peer(NAT, "10.0.0.220", kind="nat_gateway"),
        peer(WEB, "10.0.0.10", "10.0.0.11", "2001:db8:1::10"),
        peer(APP, "10.0.1.10", "2001:db8:1:1::10", zone="b"),
        peer(ROUTER, "10.0.1.250", zone="b"),
        peer("eni-balancer", "10.0.0.30", kind="network_load_balancer"),
        peer("eni-transit", "10.0.0.31", kind="transit_gateway"),
        peer("eni-lambda", "10.0.0.32", kind="lambda"),
        peer("eni-elsewhere", "10.0.1.99", vpc="vpc-2"),
    ]
)


def web(**more: Any) -> Any:
    return interface(WEB, vpc_id="vpc-1", private_ipv4=["10.0.0.10"], vpc_cidrs=CIDRS, routes=PUBLIC_ROUTES, **more)


def app(**more: Any) -> Any:
    return interface(APP, vpc_id="vpc-1", private_ipv4=["10.0.1.10"], vpc_cidrs=CIDRS, routes=PRIVATE_ROUTES, **more)


def nat() -> Any:
    nat = {"private_ipv4": ["10.0.0.220"], "interface_type": "nat_gateway"}
    return interface(NAT, vpc_id="vpc-1", vpc_cidrs=CIDRS, routes=PUBLIC_ROUTES, **nat)


def line(eni: Any, format_: str, direction: Direction, src: str, dst: str, **values: Any) -> str:
    of_log = flow_log(format_, interface_ids=(eni.interface_id,))
    (found,) = lines_of(window([flow(src, dst, direction=direction, **values)]), {1: eni}, of_log, peers=PEERS)
    return found


@pytest.mark.parametrize(
    ("eni", "dst", "path"),
    [
        (web(), "10.0.1.10", "1"),
        (web(), "10.0.200.1", "1"),  # the VPC's own range, whoever has the address
        (web(), "198.51.100.1", "8"),
        (web(), "2001:db8:1:1::10", "1"),
        (web(), "2001:db8:2::9", "8"),
        (app(), "198.51.100.1", "1"),  # over a NAT gateway, which is an interface that AWS manages in the VPC
        (app(), "192.168.3.4", "1"),  # over an interface in the VPC
        (app(), "10.0.9.1", "1"),
        (app(), "203.0.113.200", "-"),  # the longer route leads nowhere
        (app(), "203.0.113.9", "1"),
        (app(), "2001:db8:2::9", "-"),  # no route
        (nat(), "198.51.100.1", "8"),
        (interface(vpc_cidrs=CIDRS), "198.51.100.1", "-"),
        (interface(vpc_cidrs=CIDRS), "10.0.0.1", "1"),
        (interface(), "10.0.0.1", "-"),
    ],
)
def test_traffic_path_is_that_of_the_longest_route(eni: Any, dst: str, path: str):
    assert line(eni, "${traffic-path}", OUT, "10.0.0.1" if ":" not in dst else "2001:db8:1::1", dst) == path


def test_traffic_path_is_of_egress_only_whatever_the_action():
    assert line(web(), "${traffic-path}", IN, "198.51.100.1", "10.0.0.10") == "-"
    assert line(web(), "${traffic-path}", IN, "10.0.1.10", "10.0.0.10") == "-"
    rejected = {"outcome": Outcome.REJECT}
    assert line(web(), "${traffic-path} ${action}", OUT, "10.0.0.10", "198.51.100.1", **rejected) == "8 REJECT"


NEXT_HOP = format_text(["next-hop-interface-id"])


@pytest.mark.parametrize(
    ("case", "eni", "direction", "src", "dst", "hop"),
    [
        ("to an interface", web(), OUT, "10.0.0.10", "10.0.1.10", APP),
        ("from an interface", app(), IN, "10.0.0.10", "10.0.1.10", WEB),
        ("to a secondary address", app(), OUT, "10.0.1.10", "10.0.0.11", WEB),
        ("from a secondary address", app(), IN, "10.0.0.11", "10.0.1.10", WEB),
        ("IPv6", web(), OUT, "2001:db8:1::10", "2001:db8:1:1::10", APP),
        ("to an address that nobody has", web(), OUT, "10.0.0.10", "10.0.7.7", "-"),
        ("an interface of another VPC is none", web(), OUT, "10.0.0.10", "10.0.1.99", "-"),
        ("over the internet gateway", web(), OUT, "10.0.0.10", "198.51.100.1", "-"),
        ("from the internet gateway", web(), IN, "198.51.100.1", "10.0.0.10", "-"),
        ("over the NAT gateway", app(), OUT, "10.0.1.10", "198.51.100.1", NAT),
        ("back from the NAT gateway", app(), IN, "198.51.100.1", "10.0.1.10", NAT),
        ("over a router", app(), OUT, "10.0.1.10", "192.168.1.1", ROUTER),
        ("over a router within the VPC", app(), OUT, "10.0.1.10", "10.0.9.7", ROUTER),
        ("nowhere", app(), OUT, "10.0.1.10", "203.0.113.200", "-"),
        ("the NAT gateway, from the instance", nat(), IN, "10.0.1.10", "203.0.113.5", APP),
        ("the NAT gateway, to the host", nat(), OUT, "10.0.0.220", "203.0.113.5", "-"),
        ("the NAT gateway, from the host", nat(), IN, "203.0.113.5", "10.0.0.220", "-"),
        ("the NAT gateway, to the instance", nat(), OUT, "203.0.113.5", "10.0.1.10", APP),
        ("to a load balancer", web(), OUT, "10.0.0.10", "10.0.0.30", "eni-balancer"),
        ("from a load balancer", web(), IN, "10.0.0.30", "10.0.0.10", "-"),
        ("from a transit gateway", web(), IN, "10.0.0.31", "10.0.0.10", "-"),
        ("from another service", web(), IN, "10.0.0.32", "10.0.0.10", "eni-lambda"),
    ],
)  # fmt: skip
def test_next_hop(case: str, eni: Any, direction: Direction, src: str, dst: str, hop: str):
    assert line(eni, NEXT_HOP, direction, src, dst) == hop, case


ALL_OF_IT = format_text(
    [f"next-hop-{name}" for name in ("interface-id", "subnet-id", "az-id", "vpc-id", "interface-type")]
)


@pytest.mark.parametrize(
    ("dst", "hop"),
    [
        ("198.51.100.1", f"{NAT} subnet-a use1-az-a vpc-1 nat_gateway"),
        ("10.0.0.10", f"{WEB} subnet-a use1-az-a vpc-1 -"),
        ("10.0.0.32", "eni-lambda subnet-a use1-az-a vpc-1 -"),  # no value of the documented list
        ("10.0.1.250", f"{ROUTER} subnet-b use1-az-b vpc-1 -"),
        ("203.0.113.200", "- - - - -"),
    ],
)
def test_what_is_said_of_the_next_hop(dst: str, hop: str):
    assert line(app(), ALL_OF_IT, OUT, "10.0.1.10", dst) == hop


def test_interfaces_of_one_window_have_their_own_routes_and_vpcs():
    other = interface("eni-other", vpc_id="vpc-2", vpc_cidrs=["10.0.0.0/16"], routes=[])
    flows = [
        flow("10.0.1.10", "10.0.1.99", slot=1, direction=OUT),
        flow("10.0.1.10", "10.0.1.99", slot=2, direction=OUT),
        flow("10.0.0.10", "198.51.100.1", slot=3, direction=OUT),
        flow("10.0.0.10", "198.51.100.1", slot=1, direction=OUT, dstport=9),
    ]
    enis = {1: app(), 2: other, 3: web()}
    format_ = "${interface-id} ${traffic-path} ${next-hop-interface-id} ${next-hop-vpc-id}"
    of_log = flow_log(format_, interface_ids=(APP, "eni-other", WEB))
    assert sorted(lines_of(window(flows), enis, of_log, peers=PEERS)) == [
        f"{APP} 1 - -",
        f"{APP} 1 {NAT} vpc-1",
        "eni-other 1 eni-elsewhere vpc-2",
        f"{WEB} 8 - -",
    ]


def test_without_peers_there_is_no_next_hop_and_status_lines_have_none():
    of_log = flow_log(ALL_OF_IT + " ${traffic-path} ${log-status}", interface_ids=(APP,))
    flows = window([flow("10.0.1.10", "10.0.0.10", direction=OUT)])
    assert lines_of(flows, {1: app()}, of_log) == ["- - - - - 1 OK"]
    assert lines_of(window(), {1: app()}, of_log, {APP}, peers=PEERS) == ["- - - - - - NODATA"]


def test_routes_that_cannot_be_read_are_an_error_and_never_a_wrong_path():
    with pytest.raises(InputError, match=r"'10\.0\.0\.1/8' has a bit set behind its prefix"):
        line(interface(routes=[["10.0.0.1/8", IGW]]), "${traffic-path}", OUT, "10.0.0.1", "10.0.0.2")
