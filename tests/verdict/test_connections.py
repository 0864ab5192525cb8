"""The table of connections by itself: bounds, sweeps, and whom a slot's end takes along."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from vnotch.connections import Connections, TcpState, Timeouts, UdpState, connection_key
from vnotch.errors import InputError
from vnotch.flow import Direction
from vnotch.packet import ACK, FIN, RST, SYN, Fragment, Packet

SECOND = 1_000_000_000
SERVER, CLIENT = ip_address("10.0.1.10"), ip_address("203.0.113.9")


def tcp(direction: Direction, flags: int, port: int = 40000) -> Packet:
    ends = ((CLIENT, SERVER), (port, 22)) if direction is Direction.INGRESS else ((SERVER, CLIENT), (22, port))
    return Packet(direction, *ends[0], 6, *ends[1], tcp_flags=flags)


def opened(connections: Connections[str], slot: int = 1, port: int = 40000, now_ns: int = 0) -> bool:
    packet = tcp(Direction.INGRESS, SYN, port)
    key = connection_key(slot, packet, packet.direction)
    assert key is not None
    return connections.open(key, packet, "sgr-1", now_ns)


def test_both_directions_have_one_key() -> None:
    there, back = tcp(Direction.INGRESS, SYN), tcp(Direction.EGRESS, SYN | ACK)
    assert connection_key(1, there, there.direction) == connection_key(1, back, back.direction)
    assert connection_key(1, there, there.direction) != connection_key(2, there, there.direction)


def test_a_full_table_counts_what_it_turns_away() -> None:
    connections: Connections[str] = Connections(capacity=2)
    assert [opened(connections, port=port) for port in (1, 2, 3, 1)] == [True, True, False, True]
    assert connections.refused == 1
    assert len(connections.entries) == 2


def test_a_sweep_removes_what_is_not_live_and_nothing_else() -> None:
    connections: Connections[str] = Connections()
    opened(connections, port=1, now_ns=0)
    opened(connections, port=2, now_ns=SECOND)
    assert connections.sweep(60 * SECOND) == 0
    assert connections.sweep(61 * SECOND) == 1
    assert [key.remote_port for key in connections.entries] == [2]


def test_a_slot_takes_its_entries_along() -> None:
    connections: Connections[str] = Connections()
    opened(connections, slot=1)
    opened(connections, slot=2)
    first = Packet(Direction.INGRESS, CLIENT, SERVER, 17, fragment=Fragment.FIRST, fragment_id=7)
    connections.keep_fragment(1, first, "kept", 0)
    connections.forget_slot(1)
    assert [key.slot for key in connections.entries] == [2]
    assert connections.find_fragment(1, first, 0) is None


def test_fragments_have_a_bound_and_are_swept() -> None:
    connections: Connections[str] = Connections(fragments_capacity=1)
    packets = [Packet(Direction.INGRESS, CLIENT, SERVER, 17, fragment_id=number) for number in (1, 2)]
    for packet in packets:
        connections.keep_fragment(1, packet, f"kept {packet.fragment_id}", 0)
    assert [connections.find_fragment(1, packet, 0) for packet in packets] == ["kept 1", None]
    assert connections.fragments_refused == 1
    connections.sweep(31 * SECOND)
    connections.keep_fragment(1, packets[1], "kept 2", 31 * SECOND)
    assert connections.find_fragment(1, packets[1], 31 * SECOND) == "kept 2"


def test_an_ipv6_fragment_is_known_by_what_the_fragments_carry() -> None:
    connections: Connections[str] = Connections()
    ends = (ip_address("2001:db8::1"), ip_address("2001:db8::2"))
    first = Packet(Direction.INGRESS, *ends, 17, fragment=Fragment.FIRST, fragment_id=7, fragment_protocol=60)
    later = Packet(Direction.INGRESS, *ends, 60, fragment=Fragment.LATER, fragment_id=7, fragment_protocol=60)
    connections.keep_fragment(1, first, "kept", 0)
    assert connections.find_fragment(1, later, 0) == "kept"


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ([], TcpState.OPENING),
        ([("out", SYN | ACK)], TcpState.ANSWERED),
        ([("in", SYN)], TcpState.OPENING),
        ([("in", ACK)], TcpState.OPENING),
        ([("out", SYN | ACK), ("in", SYN)], TcpState.ANSWERED),
        ([("out", SYN | ACK), ("out", SYN | ACK)], TcpState.ANSWERED),
        ([("out", SYN | ACK), ("in", ACK)], TcpState.ESTABLISHED),
        ([("out", SYN | ACK), ("in", ACK), ("in", FIN | ACK)], TcpState.CLOSING_BY_OPENER),
        ([("out", SYN | ACK), ("in", ACK), ("out", FIN | ACK)], TcpState.CLOSING_BY_ANSWERER),
        ([("out", SYN | ACK), ("in", ACK), ("out", FIN | ACK), ("in", ACK)], TcpState.CLOSING_BY_ANSWERER),
        ([("out", SYN | ACK), ("in", FIN | ACK), ("in", FIN | ACK)], TcpState.CLOSING_BY_OPENER),
        ([("out", SYN | ACK), ("in", FIN | ACK), ("out", FIN | ACK)], TcpState.CLOSED),
        ([("out", SYN | ACK), ("out", FIN | ACK), ("in", FIN | ACK)], TcpState.CLOSED),
        ([("out", RST | ACK)], TcpState.CLOSED),
        ([("out", SYN | ACK), ("in", ACK), ("in", RST)], TcpState.CLOSED),
        ([("in", FIN | RST)], TcpState.CLOSED),
        ([("out", RST | ACK), ("out", SYN | ACK), ("in", ACK)], TcpState.CLOSED),
    ],
)
def test_tcp_states(flags: list[tuple[str, int]], state: TcpState) -> None:
    connections: Connections[str] = Connections()
    opened(connections)
    (entry,) = connections.entries.values()
    for way, bits in flags:
        entry.advance(tcp(Direction.INGRESS if way == "in" else Direction.EGRESS, bits), 0)
    assert entry.state == state


def test_udp_states() -> None:
    connections: Connections[str] = Connections()
    packets = {
        "in": Packet(Direction.INGRESS, CLIENT, SERVER, 17, 5000, 53),
        "out": Packet(Direction.EGRESS, SERVER, CLIENT, 17, 53, 5000),
    }
    key = connection_key(1, packets["in"], Direction.INGRESS)
    assert key is not None
    connections.open(key, packets["in"], "sgr-1", 0)
    states = []
    for way in ("in", "out", "out", "in", "in", "out", "in"):
        connections.entries[key].advance(packets[way], 0)
        states.append(connections.entries[key].state)
    assert states == [
        UdpState.ASKED,
        UdpState.ANSWERED,
        UdpState.ANSWERED,
        UdpState.ASKED_AGAIN,
        UdpState.ASKED_AGAIN,
        UdpState.STREAM,
        UdpState.STREAM,
    ]


def test_time_does_not_go_back() -> None:
    """Packets of one connection may be judged on two processors whose clocks were read in another order."""
    connections: Connections[str] = Connections()
    opened(connections, now_ns=5 * SECOND)
    (entry,) = connections.entries.values()
    entry.advance(tcp(Direction.EGRESS, SYN | ACK), 4 * SECOND)
    assert entry.last_ns == 5 * SECOND


@pytest.mark.parametrize(
    "values", [{"tcp_established": 59}, {"tcp_established": 432_001}, {"udp": 61}, {"udp_stream": 59}]
)
def test_timeouts_have_awss_bounds(values: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"timeouts.{next(iter(values))}"):
        Timeouts(**values)
