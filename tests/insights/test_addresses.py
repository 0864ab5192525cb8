"""Conditions on addresses agree with Python's `ipaddress`, which reads them by itself."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import duckdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vnotch.insights.addresses import in_ipv4, in_ipv6, is_ipv4, is_ipv6
from vnotch.insights.values import Sql, bound

DATABASE = duckdb.connect()
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)


def holds(condition: Sql) -> bool:
    (row,) = DATABASE.execute(f"SELECT {condition.text}", list(condition.parameters)).fetchall()
    return bool(row[0])


def reads(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return "%" not in text  # a zone is no part of an address


sparse = st.builds(lambda number, mask: number & mask, st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
groups = st.sampled_from(["0", "1", "db8", "ffff", "FE80", "12345", "g", ""])
texts = st.one_of(
    sparse.map(lambda number: str(IPv6Address(number))),
    st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number))),
    st.lists(groups, max_size=9).map(":".join),
    st.lists(st.sampled_from(["0", "1", "01", "255", "256", ""]), max_size=5).map(".".join),
    st.builds("{}{}".format, st.sampled_from(["::", "::ffff:", "1:2:3:4:5:6:", "1::", "1:2:3:4:5:6:7:"]),
              st.just("1.2.3.4")),
)  # fmt: skip


@SETTINGS
@given(texts)
@example("::")
@example("1::2::3")
@example("::2:3:4:5:6:7:8")
@example("1:2:3:4:5:6:7::")
@example("fe80::1%eth0")
@example("1.2.3.4 ")
def test_which_texts_are_addresses(text: str) -> None:
    assert holds(is_ipv4(bound(text))) == reads(IPv4Address, text)
    assert holds(is_ipv6(bound(text))) == reads(IPv6Address, text)


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(-2, 2), st.booleans())
def test_ipv4_addresses_in_and_round_a_subnet(base: int, length: int, step: int, at_end: bool) -> None:
    network = IPv4Network((base, length), strict=False)
    edge = int(network.broadcast_address if at_end else network.network_address)
    address = IPv4Address((edge + step) % 2**32)
    assert holds(in_ipv4(bound(str(address)), network)) == (address in network)


@SETTINGS
@given(sparse, st.integers(0, 128), st.integers(-2, 2), st.booleans(), st.booleans())
def test_ipv6_addresses_in_and_round_a_subnet(base: int, length: int, step: int, at_end: bool, exploded: bool) -> None:
    network = IPv6Network((base, length), strict=False)
    edge = int(network.broadcast_address if at_end else network.network_address)
    address = IPv6Address((edge + step) % 2**128)
    text = address.exploded.upper() if exploded else str(address)
    assert holds(in_ipv6(bound(text), network)) == (address in network)
