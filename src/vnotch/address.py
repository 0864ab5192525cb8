"""Addresses of flows by the million: distinct ones, their texts, and which CIDR holds them.

An address is 16 bytes as in FLOW_SCHEMA: IPv4 in the first four, the rest zero; whether it is IPv4 is told apart, since
an IPv6 address may have the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.errors import InputError

Values: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


def distinct_addresses(raw: Values, four: Values) -> tuple[Values, Values, Values]:
    """(n, 16) bytes, which are IPv4 -> (int32 code of each, (k, 16) distinct bytes, which of those are IPv4).

    Among the distinct ones IPv4 comes first.
    """
    codes = np.empty(len(raw), np.int32)
    ipv4 = pa.array(np.ascontiguousarray(raw[four, :4]).view(np.uint32).reshape(-1)).dictionary_encode()
    codes[four] = ipv4.indices.to_numpy()
    count = len(ipv4.dictionary)
    distinct = np.zeros((count, 16), np.uint8)
    distinct[:, :4] = ipv4.dictionary.to_numpy().view(np.uint8).reshape(-1, 4)
    if not four.all():
        rest = np.ascontiguousarray(raw[~four])
        ipv6 = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rest), [None, pa.py_buffer(rest)])
        ipv6 = ipv6.dictionary_encode()
        codes[~four] = ipv6.indices.to_numpy() + count
        distinct = np.concatenate([distinct, as_numpy(ipv6.dictionary)])
    return codes, distinct, np.arange(len(distinct)) < count


def address_texts(distinct: Values, is_four: Values) -> pa.Array:
    """Texts of addresses of which IPv4 ones come first: dotted quads, and RFC 5952 for IPv6."""
    octets = pa.array([str(number) for number in range(256)])
    four = distinct[is_four]
    parts = [octets.take(pa.array(four[:, position].astype(np.int32))) for position in range(4)]
    ipv4 = pc.binary_join_element_wise(*parts, pa.scalar("."))
    ipv6 = pa.array([inet_ntop(AF_INET6, address.tobytes()) for address in distinct[~is_four]], pa.string())
    return pa.concat_arrays([ipv4, ipv6])


class Prefixes:
    """CIDRs, to find for each of many addresses the longest one that holds it.

    A CIDR without `/` is one address. Of equal CIDRs the first counts.
    """

    def __init__(self, cidrs: Iterable[str]) -> None:
        """Raises InputError for what is no CIDR or has a bit set behind the prefix."""
        found: dict[tuple[bool, int], dict[bytes, int]] = {}
        for position, cidr in enumerate(cidrs):
            four, base, length = _parse_cidr(cidr)
            found.setdefault((four, length), {}).setdefault(base, position)
        lengths = sorted(found, key=lambda key: -key[1])
        self._tables = [_Length(four, length, found[four, length]) for four, length in lengths]

    def find(self, distinct: Values, is_four: Values) -> Values:
        """(k, 16) bytes, which are IPv4 -> int32 position of the CIDR of each, -1 where none holds it."""
        found = np.full(len(distinct), -1, np.int32)
        rows = {four: np.flatnonzero(is_four == four) for four in (True, False)}
        for table in self._tables:
            left = rows[table.four]
            if len(left):
                positions = table.positions(distinct[left])
                found[left] = positions
                rows[table.four] = left[positions < 0]
        return found


class _Length:
    """The CIDRs of one family and one length."""

    def __init__(self, four: bool, length: int, positions: Mapping[bytes, int]) -> None:
        self.four = four
        width = 4 if four else 16
        self._mask = np.frombuffer(((1 << 128) - (1 << 128 - length)).to_bytes(16, "big")[:width], np.uint8)
        self._bases = _keys(np.frombuffer(b"".join(positions), np.uint8).reshape(-1, width), four)
        self._positions = np.array([*positions.values(), -1], np.int32)

    def positions(self, addresses: Values) -> Values:
        keys = _keys(addresses[:, : len(self._mask)] & self._mask, self.four)
        places = pc.index_in(keys, value_set=self._bases).fill_null(-1)  # -1: the last element, which says none
        positions: Values = self._positions[places.to_numpy()]
        return positions


def _keys(addresses: Values, four: bool) -> pa.Array:
    """(n, 4) or (n, 16) bytes as an array that Arrow can look up."""
    raw = np.ascontiguousarray(addresses)
    if four:
        return pa.array(raw.view(np.uint32).reshape(-1))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(raw), [None, pa.py_buffer(raw)])


def _parse_cidr(cidr: str) -> tuple[bool, bytes, int]:
    """-> (whether it is IPv4, the network address, its length)."""
    text, slash, digits = cidr.partition("/")
    four = ":" not in text
    bits = 32 if four else 128
    try:
        base = inet_pton(AF_INET if four else AF_INET6, text)
    except OSError:
        raise InputError(f"{cidr!r} is no CIDR") from None
    if slash and not (digits.isascii() and digits.isdigit() and int(digits) <= bits):
        raise InputError(f"{cidr!r} is no CIDR")
    length = int(digits) if slash else bits
    if int.from_bytes(base, "big") & (1 << bits - length) - 1:
        raise InputError(f"{cidr!r} has a bit set behind its prefix")
    return four, base, length


def as_numpy(column: pa.Array | pa.ChunkedArray) -> Values:
    """A column as numpy, zero-copy where it is one chunk; (rows, 16) bytes for addresses."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if not pa.types.is_fixed_size_binary(column.type):
        numbers: Values = column.to_numpy()
        return numbers
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return data[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
