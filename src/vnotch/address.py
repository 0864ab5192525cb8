"""Addresses of flows by the million: distinct ones, their texts, and which lie in a CIDR.

An address is 16 bytes as in FLOW_SCHEMA: IPv4 in the first four, the rest zero; whether it is IPv4 is told apart, since
an IPv6 address may have the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from socket import AF_INET6, inet_ntop
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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


def addresses_within(cidrs: Sequence[str], distinct: Values, is_four: Values) -> Values:
    """Of each distinct address, whether one of the CIDRs holds it."""
    inside = np.zeros(len(distinct), bool)
    for cidr in cidrs:
        network = ip_network(cidr)
        mask = np.frombuffer(network.netmask.packed.ljust(16, b"\0"), np.uint8)
        base = np.frombuffer(network.network_address.packed.ljust(16, b"\0"), np.uint8)
        inside |= ((distinct & mask) == base).all(axis=1) & (is_four == (network.version == 4))
    return inside


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
