"""Interfaces as they are found on hosts: seen from inside, without a link header, behind a bridge."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import packets as pk
import pytest
from drains import Flow, Sum, drain_all, excluded, flows, totals
from letting import let_in
from links import SLOT, Pair, run
from packets import ethernet, ipv4, ipv6, tcp, udp

from vnotch.capture.kernel import Datapath
from vnotch.flow import Direction, Exclusion, Outcome

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
HOST, ENI = Pair.host_v4, Pair.instance_v4
HOST_MAC, ENI_MAC = (bytes.fromhex(mac.replace(":", "")) for mac in (Pair.host_mac, Pair.instance_mac))
# To a MAC address that nobody has, so that nobody answers.
TO_ENI = ethernet(ipv4(HOST, ENI, udp(5000, 7000, b"x" * 20)))
FROM_ENI = ethernet(ipv4(ENI, HOST, udp(7000, 5000, b"y" * 10)))
INGRESS = Flow(IN, HOST, 5000, ENI, 7000, 17)
EGRESS = Flow(OUT, ENI, 7000, HOST, 5000, 17)


# Seen from inside ----------------------------------------------------------------------------------------------------


@pytest.fixture
def inside(pair: Pair, mode: str) -> Iterator[Datapath]:
    """The instance's own device captured, in its own namespace."""
    opened = Datapath.open(netns=pair.instance, attach_mode=mode, flows_per_map=1024)
    try:
        opened.set_interface(SLOT, inside=True)
        opened.attach(pair.instance_device, SLOT)
        yield opened
    finally:
        opened.destroy()


def test_what_comes_in_at_the_eni_itself_is_ingress(pair: Pair, inside: Datapath) -> None:
    pair.inject_from_host([TO_ENI] * 3)
    pair.inject_from_instance([FROM_ENI] * 2)
    pair.settle()
    assert flows(drain_all(inside)) == {INGRESS: Sum(3, 144), EGRESS: Sum(2, 76)}
    assert inside.seen() == {(SLOT, IN): (3, 144), (SLOT, OUT): (2, 76)}


def test_what_is_rejected_at_the_eni_itself_does_not_reach_its_sockets(pair: Pair, inside: Datapath) -> None:
    let_in(inside, SLOT, (17, 7001))
    one = ethernet(ipv4(HOST, ENI, udp(5000, 7000, b"x" * 20)), destination=ENI_MAC)
    other = ethernet(ipv4(HOST, ENI, udp(5000, 7001, b"z")), destination=ENI_MAC)

    def bound(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((ENI, port))
        made.settimeout(0.3)
        return made

    with pair.in_instance(bound, 7000) as closed, pair.in_instance(bound, 7001) as opened:
        for enforce in (False, True):
            inside.set_interface(SLOT, inside=True, enforce=enforce)
            pair.inject_from_host([one, other])
            assert opened.recv(100) == b"z"
            if enforce:
                with pytest.raises(TimeoutError):
                    closed.recv(100)
            else:
                assert closed.recv(100) == b"x" * 20
            assert flows(drain_all(inside)) == {
                INGRESS._replace(outcome=Outcome.REJECT): Sum(1, 48),
                INGRESS._replace(destination_port=7001): Sum(1, 29),
            }


@pytest.mark.parametrize("pinned", [False, True])
def test_an_interface_is_turned_round_while_it_is_captured(pair: Pair, mode: str, pin_dir: Path, pinned: bool) -> None:
    with Datapath.open(netns=pair.host, attach_mode=mode, pin_dir=pin_dir if pinned else None) as datapath:
        try:
            datapath.set_interface(SLOT)
            datapath.attach(pair.host_device, SLOT)
            for turned in (False, True, False):
                datapath.set_interface(SLOT, inside=turned)
                datapath.attach(pair.host_device, SLOT)
                pair.inject_from_host([TO_ENI])
                pair.settle()
                found = INGRESS._replace(direction=OUT) if turned else INGRESS
                assert flows(drain_all(datapath)) == {found: Sum(1, 48)}
        finally:
            datapath.destroy()


def test_a_successor_goes_on_in_the_same_sense(pair: Pair, mode: str, pin_dir: Path) -> None:
    options = {"netns": pair.instance, "attach_mode": mode, "pin_dir": pin_dir}
    with Datapath.open(**options) as first:  # type: ignore[arg-type]
        first.set_interface(SLOT, inside=True)
        first.attach(pair.instance_device, SLOT)
    with Datapath.open(**options) as second:  # type: ignore[arg-type]
        try:
            pair.inject_from_host([TO_ENI])
            pair.settle()
            second.set_interface(SLOT, inside=True)
            second.attach(pair.instance_device, SLOT)
            pair.inject_from_host([TO_ENI])
            pair.settle()
            assert flows(drain_all(second)) == {INGRESS: Sum(2, 96)}
        finally:
            second.destroy()


# Without a link header -----------------------------------------------------------------------------------------------

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # include/uapi/linux/if_tun.h


class Tun:
    """A tun device in the pair's host namespace; packets written here come in there."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.fd = pair.in_host(self._open, name)
        run("ip", "-n", pair.host, "addr", "add", "10.78.0.1/24", "dev", name)
        run("ip", "-n", pair.host, "link", "set", name, "up")

    @staticmethod
    def _open(name: str) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        return fd

    def write(self, *packets: bytes) -> None:
        for packet in packets:
            os.write(self.fd, packet)


def test_a_device_without_a_link_header(pair: Pair, mode: str) -> None:
    tun = Tun(pair, "vn-tun")
    try:
        with Datapath.open(netns=pair.host, attach_mode=mode) as datapath:
            datapath.set_interface(SLOT, inside=True)
            datapath.attach("vn-tun", SLOT)
            datapath.set_interface(SLOT, inside=True)  # what the device is like is kept
            tun.write(
                ipv4("10.78.0.2", "10.78.0.1", udp(5000, 7000, b"x" * 20)),
                ipv6("fd78::2", "fd78::1", tcp(5000, 80, pk.SYN)),
                ipv4("10.78.0.2", "10.78.0.1", pk.icmp(8)),
                b"\x4f" + bytes(19),  # an IPv4 header of 60 bytes in a packet of 20
            )

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.bind(("10.78.0.1", 7000))
                    sender.sendto(b"y" * 10, ("10.78.0.2", 5000))

            pair.in_host(send)
            icmp_bytes = len(ipv4("10.78.0.2", "10.78.0.1", pk.icmp(8)))
            drain = drain_all(datapath)
            assert {
                flow: found for flow, found in flows(drain).items() if flow.protocol != 1 or flow.direction == IN
            } == {
                Flow(IN, "10.78.0.2", 5000, "10.78.0.1", 7000, 17): Sum(1, 48),
                Flow(IN, "fd78::2", 5000, "fd78::1", 80, 6): Sum(1, 60),
                Flow(IN, "10.78.0.2", 0, "10.78.0.1", 0, 1): Sum(1, icmp_bytes),
                Flow(OUT, "10.78.0.1", 7000, "10.78.0.2", 5000, 17): Sum(1, 38),
            }
            assert excluded(drain)[IN, Exclusion.MALFORMED] == 1
            assert datapath.seen()[SLOT, IN] == totals([drain], SLOT, IN)
    finally:
        os.close(tun.fd)


# Behind a bridge -----------------------------------------------------------------------------------------------------


def test_frames_that_a_bridge_floods_to_the_port_are_not_the_enis(pair: Pair, mode: str) -> None:
    """The bridge has never heard of the receiver and sends the frame to all its ports."""
    bridge = ("ip", "-n", pair.host, "link")
    run(*bridge, "add", "br0", "type", "bridge", "mcast_snooping", "0")
    run(*bridge, "add", "other", "type", "veth", "peer", "name", "far")
    for device in (pair.host_device, "other"):
        run(*bridge, "set", device, "master", "br0")
    for device in ("br0", "other", "far"):
        run(*bridge, "set", device, "up")

    def inject(frames: list[bytes]) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("far", 0))
            for frame in frames:
                raw.send(frame)

    payload = ipv4("10.77.0.9", ENI, udp(1, 2))
    unknown = ethernet(payload, destination=b"\2\0\0\0\x99\x99")
    own = ethernet(payload, destination=ENI_MAC)
    with Datapath.open(netns=pair.host, attach_mode=mode) as datapath:
        datapath.set_interface(SLOT, mac=ENI_MAC)
        datapath.attach(pair.host_device, SLOT)
        pair.in_host(inject, [unknown] * 3 + [own] * 2)
        pair.settle()
        drain = drain_all(datapath)
        assert flows(drain) == {Flow(IN, "10.77.0.9", 1, ENI, 2, 17): Sum(2, 56)}
        assert excluded(drain)[IN, Exclusion.FLOODED] == 3
        assert datapath.seen()[SLOT, IN] == totals([drain], SLOT, IN)
        # Where nobody says which address is the ENI's, all frames are.
        datapath.set_interface(SLOT)
        pair.in_host(inject, [unknown])
        pair.settle()
        assert flows(drain_all(datapath)) == {Flow(IN, "10.77.0.9", 1, ENI, 2, 17): Sum(1, 28)}


def test_a_bridge_itself_is_captured_from_inside(pair: Pair, mode: str) -> None:
    bridge = ("ip", "-n", pair.host, "link")
    run(*bridge, "add", "br0", "address", Pair.host_mac, "type", "bridge", "mcast_snooping", "0")
    run("ip", "-n", pair.host, "addr", "flush", "dev", pair.host_device)
    run(*bridge, "set", pair.host_device, "master", "br0")
    run(*bridge, "set", "br0", "up")
    run("ip", "-n", pair.host, "addr", "add", f"{HOST}/24", "dev", "br0")
    run("ip", "-n", pair.host, "neigh", "replace", ENI, "lladdr", Pair.instance_mac, "dev", "br0")
    with Datapath.open(netns=pair.host, attach_mode=mode) as datapath:
        datapath.set_interface(SLOT, inside=True)
        datapath.attach("br0", SLOT)
        pair.inject_from_instance([ethernet(ipv4(ENI, HOST, udp(7000, 5000, b"y" * 10)), destination=HOST_MAC)])

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((HOST, 5000))
                sender.sendto(b"x" * 20, (ENI, 7000))

        pair.in_host(send)
        pair.settle()
        found = flows(drain_all(datapath))
        assert found[EGRESS._replace(direction=IN)] == Sum(1, 38)
        assert found[INGRESS._replace(direction=OUT)] == Sum(1, 48)
