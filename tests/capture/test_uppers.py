"""Which ENI a drop at an interface above captured ones concerns."""

from __future__ import annotations

from vnotch.capture.layout import (
    UPPER_IN,
    UPPER_ITSELF,
    UPPER_MAC,
    UPPER_OUT,
    UPPER_UNSURE,
    UPPER_V4,
    UPPER_V6,
)
from vnotch.capture.uppers import Device, Identity, places

BRIDGE, WEB, DB, NIC, UPPER = 10, 11, 12, 20, 30
MAC, FOUR, SIX = b"\x02\0\0\0\0\1", bytes([10, 0, 0, 1]), bytes(15) + b"\1"
PORTS = [Device(BRIDGE, "bridge"), Device(WEB, "veth", BRIDGE), Device(DB, "veth", BRIDGE)]


def test_ports_are_told_by_their_addresses() -> None:
    found = places(PORTS, {WEB: 3}, {3: Identity(False, MAC, (FOUR, SIX))})
    assert found == {
        (BRIDGE, UPPER_ITSELF, b""): 3,  # the other port's packets pass the bridge as well
        (BRIDGE, UPPER_MAC, MAC): 3,
        (BRIDGE, UPPER_V4, FOUR): 3,
        (BRIDGE, UPPER_V6, SIX): 3,
    }


def test_nothing_is_above() -> None:
    assert places(PORTS, {NIC: 3}, {3: Identity(addresses=(FOUR,))}) == {}
    assert places([Device(NIC)], {NIC: 3}, {}) == {}


def test_an_upper_interface_that_is_captured_itself_is_its_own_eni() -> None:
    assert places(PORTS, {WEB: 3, BRIDGE: 4}, {3: Identity(addresses=(FOUR,))}) == {}


def test_one_address_at_two_ports() -> None:
    found = places(PORTS, {WEB: 3, DB: 4}, {3: Identity(addresses=(FOUR,)), 4: Identity(addresses=(FOUR, FOUR))})
    assert found[BRIDGE, UPPER_V4, FOUR] == 3 | UPPER_UNSURE
    assert found[BRIDGE, UPPER_ITSELF, b""] == 3 | UPPER_IN | UPPER_UNSURE, "all ports are captured"


def test_a_bridge_with_one_port() -> None:
    """What comes in came in there. What goes out may be for nobody, unless the port is the way to all others."""
    one = PORTS[:2]
    assert places(one, {WEB: 3}, {3: Identity()}) == {(BRIDGE, UPPER_ITSELF, b""): 3 | UPPER_IN}
    found = places(one, {WEB: 3}, {3: Identity(inside=True, addresses=(FOUR,))})
    assert found == {(BRIDGE, UPPER_ITSELF, b""): 3 | UPPER_IN | UPPER_OUT}


def test_an_uplink_has_no_address_of_its_own_on_a_bridge() -> None:
    """The host's address is the bridge's, and what a container sends to it did not come in at the uplink."""
    found = places(PORTS, {WEB: 3}, {3: Identity(inside=True, addresses=(FOUR,))})
    assert found == {(BRIDGE, UPPER_ITSELF, b""): 3}


def test_a_vlan() -> None:
    found = places([Device(NIC), Device(UPPER, "vlan", lower=NIC)], {NIC: 3}, {3: Identity(inside=True)})
    assert found == {(UPPER, UPPER_ITSELF, b""): 3 | UPPER_IN | UPPER_OUT}


def test_a_bond_of_one_and_of_two() -> None:
    bond = [Device(UPPER, "bond"), Device(NIC, master=UPPER)]
    itself = UPPER, UPPER_ITSELF, b""
    assert places(bond, {NIC: 3}, {}) == {itself: 3 | UPPER_IN | UPPER_OUT}
    two = [*bond, Device(NIC + 1, master=UPPER)]
    assert places(two, {NIC: 3}, {}) == {itself: 3 | UPPER_IN | UPPER_OUT | UPPER_UNSURE}


def test_one_above_the_other() -> None:
    """A VLAN on a bridge; links that lead round in a circle come to an end."""
    found = places([*PORTS, Device(UPPER, "vlan", lower=BRIDGE)], {WEB: 3}, {3: Identity(addresses=(FOUR,))})
    assert found[UPPER, UPPER_V4, FOUR] == found[BRIDGE, UPPER_V4, FOUR] == 3
    assert found[UPPER, UPPER_ITSELF, b""] == 3
    circle = [Device(1, "vlan", lower=2), Device(2, "vlan", lower=1), Device(3, master=1)]
    assert places(circle, {3: 7}, {})[1, UPPER_ITSELF, b""] & 0xFFFF == 7
