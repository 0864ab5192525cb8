"""Connections that an interface's security groups remember, and first fragments whose datagrams are under way.

AWS: EC2 user guide, "Amazon EC2 security group connection tracking". Time is passed in, nothing here does I/O. The
datapath keeps the same entries in a preallocated hash map; this text is the specification of both.

**Key.** (slot, protocol, family, local address, remote address, local port, remote port). Local is the interface's end:
the destination of what comes in, the source of what goes out; so both directions have one key, without sorting.
- TCP, UDP: the two ports.
- ICMP and ICMPv6 queries and their replies (packet.ICMP_QUERIES): local port = identifier; remote port = the request's
  type, + 256 if the request goes out. Pings in both directions with one identifier are two connections. Other ICMP
  types have no key.
- Other protocols: ports 0 (AWS tracks the addresses and the protocol number alone).
- A later fragment of TCP, UDP or ICMP has no key.

**Entry.** Which direction opened it, the id of the security group rule that opened it, its state, the time of its last
packet. An entry is live while now - last <= the timeout of its state; one that is not live is as good as none, and is
overwritten in place or swept.

**States and timeouts** (seconds). `by answerer` means: in the direction other than the one that opened it.

| TCP | timeout | goes on with an accepted packet |
| --- | --- | --- |
| 0 OPENING | 60 | RST: 5; FIN: 3 or 4; any other by answerer: 1 |
| 1 ANSWERED | 60 | RST: 5; FIN: 3 or 4; any other by opener but SYN without ACK: 2 |
| 2 ESTABLISHED | 432000 | RST: 5; FIN: 3 or 4 |
| 3 CLOSING_BY_OPENER | 120 | RST: 5; FIN by answerer: 5 |
| 4 CLOSING_BY_ANSWERER | 120 | RST: 5; FIN by opener: 5 |
| 5 CLOSED | 10 | stays, and its time stays that of the close |

(FIN by opener leads to 3, by answerer to 4; a packet with RST counts as RST, else one with FIN as FIN.)

| UDP | timeout | goes on with an accepted packet |
| --- | --- | --- |
| 0 ASKED | 30 | by answerer: 1 |
| 1 ANSWERED | 30 | by opener: 2 |
| 2 ASKED_AGAIN | 30 | by answerer: 3 |
| 3 STREAM | 180 | |

ICMP: one state, 30. Other protocols: one state, 600.

432000, 30, 180 and 600 are AWS's defaults. The others AWS does not document; they are Linux's
(Documentation/networking/ nf_conntrack-sysctl: tcp_timeout_syn_recv 60, fin_wait 120, close 10, icmp_timeout 30).
CLOSED is there so that packets under way at the close still belong to the connection; after it, a packet of the
connection finds none and is rejected ("packets arrived after the connection was closed"). Sequence numbers are not
looked at: who can send a reset with the right addresses and ports can close a connection.

**Refresh.** Every accepted packet that finds a live entry sets its time, but in CLOSED. Rejected packets, ICMP errors
and later fragments change nothing.

**Room.** The table is bounded; an entry that finds no room is not made, is counted in `refused`, and its packet is
rejected (verdict.py). Entries of a slot are removed when the slot is given to another interface; rule changes touch no
entry.

**Fragments.** A first fragment leaves its verdict under (slot, direction, source, destination, protocol,
identification) for 30 seconds (Linux ipfrag_time), which later fragments of the datagram share. A first fragment that
finds no room is counted in `fragments_refused`; its later ones are judged as if it had not been seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from vnotch.errors import InputError
from vnotch.flow import Direction
from vnotch.packet import FIN, ICMP_QUERIES, ICMPV6_QUERIES, RST, Address, Packet, Quoted
from vnotch.rules import ICMP, ICMPV6, PORT_PROTOCOLS, TCP, UDP

NANOSECONDS = 1_000_000_000
CONNECTIONS_MAX = 262_144
"""Entries of the table by default, for all interfaces together."""
FRAGMENTS_MAX = 16_384
FRAGMENT_SECONDS = 30


class TcpState(IntEnum):
    OPENING = 0
    ANSWERED = 1
    ESTABLISHED = 2
    CLOSING_BY_OPENER = 3
    CLOSING_BY_ANSWERER = 4
    CLOSED = 5


class UdpState(IntEnum):
    ASKED = 0
    ANSWERED = 1
    ASKED_AGAIN = 2
    STREAM = 3


@dataclass(frozen=True)
class Timeouts:
    """Idle timeouts in seconds. The first three can be set on AWS (ConnectionTrackingSpecification), in these
    bounds."""

    tcp_established: int = 432_000
    udp: int = 30
    udp_stream: int = 180
    tcp_opening: int = 60
    tcp_closing: int = 120
    tcp_closed: int = 10
    icmp: int = 30
    other: int = 600

    def __post_init__(self) -> None:
        for name, low, high in (("tcp_established", 60, 432_000), ("udp", 30, 60), ("udp_stream", 60, 180)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"timeouts.{name}: {getattr(self, name)} is not from {low} to {high} seconds")

    def seconds(self, protocol: int, state: int) -> int:
        if protocol == TCP:
            closing = self.tcp_closing
            return (self.tcp_opening, self.tcp_opening, self.tcp_established, closing, closing, self.tcp_closed)[state]
        if protocol == UDP:
            return self.udp_stream if state == UdpState.STREAM else self.udp
        return self.icmp if protocol in (ICMP, ICMPV6) else self.other


class ConnectionKey(NamedTuple):
    slot: int
    protocol: int
    family: int
    local: Address
    remote: Address
    local_port: int
    remote_port: int


def connection_key(slot: int, packet: Packet | Quoted, direction: Direction) -> ConnectionKey | None:
    """The key of the connection that a packet going in this direction belongs to; None if it can belong to none."""
    ends = [(packet.source, packet.source_port), (packet.destination, packet.destination_port)]
    (local, local_port), (remote, remote_port) = ends if direction is Direction.EGRESS else reversed(ends)
    if isinstance(packet, Packet) and packet.lacks_ports:
        return None
    if packet.protocol in (ICMP, ICMPV6):
        queries = ICMP_QUERIES if packet.protocol == ICMP else ICMPV6_QUERIES
        requests = {reply: request for request, reply in queries.items()}
        if packet.icmp_type in queries:
            request, asker = packet.icmp_type, direction
        elif packet.icmp_type in requests:
            request, asker = requests[packet.icmp_type], Direction(1 - direction)
        else:
            return None
        local_port, remote_port = packet.icmp_id, request + 256 * (asker is Direction.EGRESS)
    elif packet.protocol not in PORT_PROTOCOLS:
        local_port = remote_port = 0
    return ConnectionKey(slot, packet.protocol, local.version, local, remote, local_port, remote_port)


def quoted_key(slot: int, error: Packet) -> ConnectionKey | None:
    """The key of the connection that an ICMP error is about; None if it is about none.

    What is quoted went the other way, and the error goes to the one who sent it (RFC 792).
    """
    if not error.is_icmp_error or error.quoted is None or error.quoted.source != error.destination:
        return None
    return connection_key(slot, error.quoted, Direction(1 - error.direction))


@dataclass
class Connection:
    """An entry of the table. `state` is a TcpState, a UdpState or 0, by the protocol."""

    opened_by: Direction
    rule_id: str
    last_ns: int
    state: int = 0

    def advance(self, packet: Packet, now_ns: int) -> None:
        """Takes in an accepted packet of the connection."""
        by_answerer = packet.direction is not self.opened_by
        if packet.protocol == TCP and self.state == TcpState.CLOSED:
            return
        self.last_ns = max(self.last_ns, now_ns)
        if packet.protocol == TCP:
            self.state = _next_tcp_state(TcpState(self.state), packet, by_answerer)
        elif packet.protocol == UDP and self.state < UdpState.STREAM and by_answerer == (self.state % 2 == 0):
            self.state += 1


def _next_tcp_state(state: TcpState, packet: Packet, by_answerer: bool) -> TcpState:
    if packet.tcp_flags & RST:
        return TcpState.CLOSED
    if packet.tcp_flags & FIN:
        if state <= TcpState.ESTABLISHED:
            return TcpState.CLOSING_BY_ANSWERER if by_answerer else TcpState.CLOSING_BY_OPENER
        first_by_answerer = state is TcpState.CLOSING_BY_ANSWERER
        return state if by_answerer == first_by_answerer else TcpState.CLOSED
    if state is TcpState.OPENING and by_answerer:
        return TcpState.ANSWERED
    if state is TcpState.ANSWERED and not by_answerer and not packet.opens:
        return TcpState.ESTABLISHED
    return state


class FragmentKey(NamedTuple):
    slot: int
    direction: Direction
    source: Address
    destination: Address
    protocol: int
    fragment_id: int


Kept = TypeVar("Kept")


@dataclass
class Connections(Generic[Kept]):
    """The table of connections and that of fragments; `Kept` is what is kept of a first fragment (its verdict)."""

    capacity: int = CONNECTIONS_MAX
    timeouts: Timeouts = field(default_factory=Timeouts)
    fragments_capacity: int = FRAGMENTS_MAX
    refused: int = 0
    fragments_refused: int = 0
    entries: dict[ConnectionKey, Connection] = field(default_factory=dict)
    fragments: dict[FragmentKey, tuple[int, Kept]] = field(default_factory=dict)

    def find(self, key: ConnectionKey | None, now_ns: int) -> Connection | None:
        """The live entry under the key."""
        entry = self.entries.get(key) if key is not None else None
        return entry if key is not None and entry is not None and self._is_live(key, entry, now_ns) else None

    def open(self, key: ConnectionKey, packet: Packet, rule_id: str, now_ns: int) -> bool:
        """Makes the entry, over an old one of the same key; False, and counted, if there is no room."""
        if key not in self.entries and len(self.entries) >= self.capacity:
            self.refused += 1
            return False
        self.entries[key] = Connection(packet.direction, rule_id, now_ns)
        return True

    def remove(self, key: ConnectionKey) -> None:
        self.entries.pop(key, None)

    def keep_fragment(self, slot: int, packet: Packet, kept: Kept, now_ns: int) -> None:
        key = _fragment_key(slot, packet)
        if key not in self.fragments and len(self.fragments) >= self.fragments_capacity:
            self.fragments_refused += 1
            return
        self.fragments[key] = (now_ns, kept)

    def find_fragment(self, slot: int, packet: Packet, now_ns: int) -> Kept | None:
        """What was kept of the first fragment of the packet's datagram."""
        known = self.fragments.get(_fragment_key(slot, packet))
        return known[1] if known is not None and now_ns - known[0] <= FRAGMENT_SECONDS * NANOSECONDS else None

    def sweep(self, now_ns: int) -> int:
        """Removes what is not live; returns how many connections that were."""
        old = [key for key, entry in self.entries.items() if not self._is_live(key, entry, now_ns)]
        for key in old:
            del self.entries[key]
        limit = FRAGMENT_SECONDS * NANOSECONDS
        self.fragments = {key: kept for key, kept in self.fragments.items() if now_ns - kept[0] <= limit}
        return len(old)

    def forget_slot(self, slot: int) -> None:
        """Removes the entries of an interface that is no longer under capture."""
        self.entries = {key: entry for key, entry in self.entries.items() if key.slot != slot}
        self.fragments = {key: kept for key, kept in self.fragments.items() if key.slot != slot}

    def _is_live(self, key: ConnectionKey, entry: Connection, now_ns: int) -> bool:
        return now_ns - entry.last_ns <= self.timeouts.seconds(key.protocol, entry.state) * NANOSECONDS


def _fragment_key(slot: int, packet: Packet) -> FragmentKey:
    protocol = packet.protocol if packet.fragment_protocol is None else packet.fragment_protocol
    return FragmentKey(slot, packet.direction, packet.source, packet.destination, protocol, packet.fragment_id)
