"""Longest prefixes, against the standard library's own networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnotch.address import Prefixes
from vnotch.errors import InputError

Network = IPv4Network | IPv6Network


def find(prefixes: Prefixes, addresses: list[str]) -> list[int]:
    parsed = [ip_address(text) for text in addresses]
    raw = np.array([list(address.packed.ljust(16, b"\0")) for address in parsed], np.uint8).reshape(-1, 16)
    return [int(place) for place in prefixes.find(raw, np.array([address.version == 4 for address in parsed], bool))]


def test_the_longest_prefix_is_found_whatever_the_order():
    cidrs = ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3", "10.1.0.0/16", "2001:db8::/32", "2001:db8::1/128", "10.1.0.0/16"]
    found = find(
        Prefixes(cidrs),
        ["10.1.2.3", "10.1.2.4", "10.2.0.0", "11.0.0.0", "2001:db8::1", "2001:db8::2", "2001:db9::", "::"],
    )
    assert found == [2, 3, 1, 0, 5, 4, -1, -1]


def test_no_prefixes_hold_nothing_and_no_address_is_no_error():
    assert find(Prefixes([]), ["10.0.0.1", "::1"]) == [-1, -1]
    assert find(Prefixes(["10.0.0.0/8"]), []) == []


@pytest.mark.parametrize(
    "cidr", ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/٣", "::/129", "x/8", "10.0.0.0/8/8"]
)
def test_what_is_no_cidr_is_refused(cidr: str):
    with pytest.raises(InputError, match="is no CIDR"):
        Prefixes([cidr])


def test_bits_behind_the_prefix_are_refused():
    for cidr in ("10.0.0.1/24", "2001:db8::1/64", "128.0.0.0/0"):
        with pytest.raises(InputError, match="has a bit set behind its prefix"):
            Prefixes([cidr])


# Few distinct bits, so that generated prefixes hold generated addresses.
four = st.integers(0, 255).map(lambda bits: IPv4Address((bits & 15) << 28 | bits >> 4))
six = st.integers(0, 255).map(lambda bits: IPv6Address((bits & 15) << 124 | bits >> 4))


def networks(draw: st.DrawFn) -> Network:
    address = draw(four | six)
    length = draw(st.sampled_from([0, 1, 2, 3, 4, 5, address.max_prefixlen - 2, address.max_prefixlen]))
    return ip_network(f"{address}/{length}", strict=False)


@given(st.lists(st.composite(networks)(), max_size=12), st.lists(four | six, max_size=12))
def test_prefixes_find_what_the_standard_library_finds(
    cidrs: list[Network], addresses: list[IPv4Address | IPv6Address]
):
    def expected(address: IPv4Address | IPv6Address) -> int:
        holding = [place for place, cidr in enumerate(cidrs) if address in cidr]
        return min(holding, key=lambda place: (-cidrs[place].prefixlen, place), default=-1)

    found = find(Prefixes(map(str, cidrs)), [str(address) for address in addresses])
    assert found == [expected(address) for address in addresses]
