"""The blocks of a VPC and subnet that are made for a network: within the sizes that EC2 takes (VPC user guide)."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest

from vnotch.cli.enrolment import block_of, ipv6_blocks_of
from vnotch.links import Addresses


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("192.0.2.10/24", "192.0.2.0/24"),
        ("172.17.0.2/16", "172.17.0.0/16"),
        ("10.1.2.3/8", "10.1.0.0/16"),  # larger than a VPC may be: the part round the address
        ("192.0.2.18/28", "192.0.2.16/28"),
        ("192.0.2.18/30", "192.0.2.0/24"),  # smaller than a subnet may be
        ("10.8.0.2/32", "10.8.0.0/24"),
    ],
)
def test_a_network_is_taken_as_it_is_within_ec2s_sizes(address: str, block: str) -> None:
    assert str(block_of(Addresses(IPv4Interface(address)))) == block


def test_ipv6_has_a_56_and_the_64_round_its_address() -> None:
    addresses = Addresses(IPv4Interface("192.0.2.10/24"), ipv6=(IPv6Interface("2001:db8:0:12ab::10/128"),))
    blocks = ipv6_blocks_of(addresses)
    assert blocks is not None
    assert [str(block) for block in blocks] == ["2001:db8:0:1200::/56", "2001:db8:0:12ab::/64"]
    assert ipv6_blocks_of(Addresses(IPv4Interface("192.0.2.10/24"))) is None
