"""Address translation of the two gateways, given to nf_tables by netlink: the `nft` program need not be installed.

Only what the lab needs is here: a table of family `ip` with base chains and rules of six expressions. Names and numbers
are those of the kernel's include/uapi/linux/netfilter/nf_tables.h; every integer attribute is big-endian.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from vnotch.errors import KernelError

TABLE = "vnotch_lab"

_NETLINK_NETFILTER = 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # the batch is one datagram; the usual limit would be 212,992 bytes
_BATCH_BYTES_MAX = 4 << 20
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NESTED = 0x8000
_ERROR = 2  # NLMSG_ERROR
_FAMILY_IPV4 = 2  # NFPROTO_IPV4
_NETWORK_HEADER = 1  # NFT_PAYLOAD_NETWORK_HEADER
_SOURCE_OFFSET, _DESTINATION_OFFSET = 12, 16  # in the IPv4 header
_IIFNAME, _OIFNAME = 6, 7  # NFT_META_*
_DROP, _ACCEPT = 0, 1  # NF_*
_PREROUTING, _INPUT, _FORWARD, _POSTROUTING = 0, 1, 2, 4  # NF_INET_*
_DNAT_PRIORITY, _FILTER_PRIORITY, _SNAT_PRIORITY = -100, 0, 100
_SOURCE, _DESTINATION = 0, 1  # NFT_NAT_*


def _attribute(kind: int, payload: bytes, nested: bool = False) -> bytes:
    padding = b"\0" * (-len(payload) % 4)
    return struct.pack("=HH", len(payload) + 4, kind | (_NESTED if nested else 0)) + payload + padding


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _expression(name: str, *attributes: bytes) -> bytes:
    return _attribute(1, _text(1, name) + _attribute(2, b"".join(attributes), nested=True), nested=True)


def _value(kind: int, data: bytes) -> bytes:
    return _attribute(kind, _attribute(1, data), nested=True)


def _compare(data: bytes) -> bytes:
    return _expression("cmp", _number(1, 1), _number(2, 0), _value(3, data))  # register 1 equals data


def _device(key: int, name: str) -> bytes:
    return _expression("meta", _number(1, 1), _number(2, key)) + _compare(name.encode().ljust(16, b"\0"))


def _address(offset: int, address: IPv4Address) -> bytes:
    load = _expression("payload", _number(1, 1), _number(2, _NETWORK_HEADER), _number(3, offset), _number(4, 4))
    return load + _compare(address.packed)


def _translate(which: int, address: IPv4Address) -> bytes:
    load = _expression("immediate", _number(1, 1), _value(2, address.packed))
    return load + _expression("nat", _number(1, which), _number(2, _FAMILY_IPV4), _number(3, 1), _number(4, 1))


def _verdict(code: int) -> bytes:
    verdict = _attribute(2, _number(1, code), nested=True)
    return _expression("immediate", _number(1, 0), _attribute(2, verdict, nested=True))


@dataclass(frozen=True)
class _Chain:
    name: str
    kind: str  # nat, filter
    hook: int
    priority: int
    rules: tuple[bytes, ...]
    policy: int = _ACCEPT


def translate_internet_gateway(device: str, pairs: Iterable[tuple[IPv4Address, IPv4Address]]) -> None:
    """In the calling thread's namespace: an internet gateway at `device` with (private, public) pairs, one to one.

    What has no public address does not get out (VPC user guide, "Internet gateways"). Replaces what was there before,
    atomically; connections that exist go on.
    """
    known = list(pairs)
    inward = [
        _device(_IIFNAME, device) + _address(_DESTINATION_OFFSET, public) + _translate(_DESTINATION, private)
        for private, public in known
    ]
    outward = [
        _device(_OIFNAME, device) + _address(_SOURCE_OFFSET, private) + _translate(_SOURCE, public)
        for private, public in known
    ]
    gate = [_device(_OIFNAME, device) + _address(_SOURCE_OFFSET, private) + _verdict(_ACCEPT) for private, _ in known]
    gate.append(_device(_OIFNAME, device) + _verdict(_DROP))
    _replace_table(
        _Chain("inward", "nat", _PREROUTING, _DNAT_PRIORITY, tuple(inward)),
        _Chain("outward", "nat", _POSTROUTING, _SNAT_PRIORITY, tuple(outward)),
        _Chain("gate", "filter", _FORWARD, _FILTER_PRIORITY, tuple(gate)),
    )


def translate_nat_gateway(device: str, address: IPv4Address) -> None:
    """In the calling thread's namespace: what is forwarded out of `device` leaves from `address`, and what nobody
    inside asked for is dropped (VPC user guide, "NAT gateway basics")."""
    _replace_table(
        _Chain(
            "outward",
            "nat",
            _POSTROUTING,
            _SNAT_PRIORITY,
            (_device(_OIFNAME, device) + _translate(_SOURCE, address),),
        ),
        _Chain("unsolicited", "filter", _INPUT, _FILTER_PRIORITY, (), policy=_DROP),
    )


def _message(kind: int, flags: int, sequence: int, body: bytes, family: int = _FAMILY_IPV4, resource: int = 0) -> bytes:
    payload = struct.pack(">BBH", family, 0, resource) + body
    return struct.pack("=IHHII", len(payload) + 16, kind, flags, sequence, 0) + payload


def _replace_table(*chains: _Chain) -> None:
    """One transaction: the old table goes, where there is one, and the new one comes."""
    steps: list[tuple[int, int, bytes]] = [
        (_NEW_TABLE, _CREATE, _text(1, TABLE)),  # so that there is one to delete
        (_DELETE_TABLE, 0, _text(1, TABLE)),
        (_NEW_TABLE, _CREATE, _text(1, TABLE)),
    ]
    for chain in chains:
        hook = _attribute(4, _number(1, chain.hook) + _number(2, chain.priority), nested=True)
        body = _text(1, TABLE) + _text(3, chain.name) + hook + _number(5, chain.policy) + _text(7, chain.kind)
        steps.append((_NEW_CHAIN, _CREATE, body))
        for rule in chain.rules:
            body = _text(1, TABLE) + _text(2, chain.name) + _attribute(4, rule, nested=True)
            steps.append((_NEW_RULE, _CREATE | _APPEND, body))
    batch = [_message(_BATCH_BEGIN, _REQUEST, 0, b"", family=0, resource=_SUBSYSTEM)]
    for number, (kind, flags, body) in enumerate(steps, 1):
        batch.append(_message(_SUBSYSTEM << 8 | kind, _REQUEST | _ACK | flags, number, body))
    batch.append(_message(_BATCH_END, _REQUEST, len(steps) + 1, b"", family=0, resource=_SUBSYSTEM))
    _send(b"".join(batch), len(steps))


def _send(batch: bytes, steps: int) -> None:
    """Sends a batch and reads its acknowledgements; the first error is the one that made the kernel refuse it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            netlink.setsockopt(socket.SOL_SOCKET, option, _BATCH_BYTES_MAX)
        netlink.settimeout(10)
        netlink.bind((0, 0))
        try:
            netlink.send(batch)
            answered = 0
            while answered < steps:
                data = netlink.recv(1 << 17)
                while len(data) >= 20:
                    length, kind, _, sequence, _, error = struct.unpack_from("=IHHIIi", data)
                    if kind == _ERROR and error:
                        raise KernelError(f"nf_tables: step {sequence} of the address translation", -error, _REMEDY)
                    answered += kind == _ERROR
                    data = data[(length + 3) & ~3 :]
        except OSError as error:
            raise KernelError("nf_tables: set up address translation", error.errno or 0, _REMEDY) from error


_REMEDY = "the kernel needs nf_tables with NAT: modprobe nft_chain_nat nft_nat, or a kernel that has them"
