"""The flow: what one interface saw of one 5-tuple in one direction with one outcome.

This is the shape in which packets leave the capture, from the kernel's maps and from capture files alike, and in which
windows add them up. The numbers are those of bpf/vnotch.h; `capture/layout.py` asserts that they agree.
"""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa


class Direction(IntEnum):
    """The direction from the ENI's point of view (AWS: flow-direction)."""

    INGRESS = 0
    EGRESS = 1


class Outcome(IntEnum):
    """What became of a packet. Every packet has exactly one; a packet that is lost has none and is counted apart."""

    ACCEPT = 0
    REJECT = 1
    EXCLUDED = 2


class Exclusion(IntEnum):
    """Why a packet is in no record. Order: what cannot be a record first, then AWS's list of traffic not captured
    (VPC user guide, flow log limitations)."""

    ARP = 1
    NON_IP = 2
    """An ethertype other than ARP, IPv4 and IPv6."""
    MALFORMED = 3
    """Cut short, a length that contradicts itself, a bad version or header length, too many extension headers."""
    NEIGHBOUR_DISCOVERY = 4
    """ICMPv6 types 133 to 137. AWS's list is silent; it is what ARP is to IPv4, so treated like it."""
    MULTICAST = 5
    """Multicast and broadcast. AWS's list is silent, its VPCs do not carry them."""
    DNS = 6
    """To and from the Amazon DNS server: VPC base + 2, 169.254.169.253, fd00:ec2::253; port 53."""
    ACTIVATION = 7
    """Windows licence activation: 169.254.169.250 and .251, fd00:ec2::250, tcp 1688."""
    METADATA = 8
    """Instance metadata: 169.254.169.254, fd00:ec2::254."""
    TIME = 9
    """Amazon Time Sync: 169.254.169.123, fd00:ec2::123."""
    DHCP = 10
    """udp 67/68 and DHCPv6 546/547."""
    ROUTER = 11
    """The reserved address of the default VPC router: base + 1 of VPC and subnet, fe80:ec2::1, ::1 of the subnet."""
    FLOODED = 12
    """A unicast frame for another MAC address, which a switch has sent to all its ports; known where the ENI's own
    address is. A VPC floods nothing, so AWS's list is silent."""


class Loss(IntEnum):
    """Why a packet could not be counted into a flow."""

    RING_FULL = 1
    """The flow map had no room and the ring buffer behind it had none either."""
    AGENT = 2
    """The agent's own bound on open flows was reached."""
    UPGRADE = 3
    """Counted by the programs of a release whose maps this one cannot read, and not drained before that one ended."""


FLOW_SCHEMA = pa.schema(
    [
        pa.field("slot", pa.uint16(), nullable=False),
        pa.field("direction", pa.uint8(), nullable=False),  # Direction
        pa.field("outcome", pa.uint8(), nullable=False),  # Outcome
        pa.field("exclusion", pa.uint8(), nullable=False),  # Exclusion, 0 unless EXCLUDED
        pa.field("family", pa.uint8(), nullable=False),  # 4 or 6; 0 where EXCLUDED
        pa.field("protocol", pa.uint8(), nullable=False),  # IANA number
        pa.field("srcaddr", pa.binary(16), nullable=False),  # IPv4 in the first 4 bytes, the rest zero
        pa.field("dstaddr", pa.binary(16), nullable=False),
        pa.field("srcport", pa.uint16(), nullable=False),  # host order; 0 where the protocol has none
        pa.field("dstport", pa.uint16(), nullable=False),
        pa.field("rule", pa.uint32(), nullable=False),  # number of the deciding rule, 0 for none
        pa.field("packets", pa.uint64(), nullable=False),  # as on the wire: a GSO frame counts as its segments
        pa.field("bytes", pa.uint64(), nullable=False),  # IP total length, no link header
        pa.field("start_ns", pa.int64(), nullable=False),  # Unix time of the first packet
        pa.field("end_ns", pa.int64(), nullable=False),  # Unix time of the last packet
        pa.field("tcp_flags", pa.uint8(), nullable=False),  # AWS's sense: OR of FIN 1, SYN 2, RST 4, SYN-ACK 18
    ]
)
"""One flow a row. An EXCLUDED row has only slot, direction, exclusion, packets, bytes and times; the rest is zero."""

FLOW_KEY = (
    "slot",
    "direction",
    "outcome",
    "exclusion",
    "family",
    "protocol",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "rule",
)
"""The columns by which flows are added up."""

LOSS_SCHEMA = pa.schema(
    [
        pa.field("slot", pa.uint16(), nullable=False),
        pa.field("direction", pa.uint8(), nullable=False),
        pa.field("loss", pa.uint8(), nullable=False),  # Loss
        pa.field("packets", pa.uint64(), nullable=False),
        pa.field("bytes", pa.uint64(), nullable=False),
    ]
)
"""Packets that are in no flow, by slot, direction and reason."""
