"""CIDR blocks and addresses as EC2 checks them. Pure; errors have AWS's codes and texts.

Sizes (VPC user guide, VPC CIDR blocks and subnet CIDR blocks): VPC and subnet IPv4 /16 to /28, VPC IPv6 /44 to /60 in
steps of four, subnet IPv6 /64. In each subnet the first four addresses and the last are reserved.
"""

from __future__ import annotations

import secrets
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError

from vnotch.api.service import ApiError

NOT_HOSTS = tuple(IPv4Network(block) for block in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4"))
"""This host, loopback and multicast (RFC 6890, RFC 5771): no interface of a VPC has such an address. AWS's own list of
what it refuses is not published."""

RESERVED_FIRST = 4
RESERVED_LAST = 1


def ipv4_cidr(text: str, range_code: str) -> IPv4Network:
    """A VPC's or subnet's IPv4 block in canonical form (API CreateVpc: host bits are cleared).

    Raises InvalidParameterValue for what is no CIDR block and `range_code` (InvalidVpc.Range, InvalidSubnet.Range) for
    a size that is not allowed and for addresses that no host has.
    """
    try:
        network = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise no_cidr(text, "cidrBlock") from None
    if "/" not in text or not text.rpartition("/")[2].isdigit():
        raise no_cidr(text, "cidrBlock")
    if not 16 <= network.prefixlen <= 28 or any(network.overlaps(block) for block in NOT_HOSTS):
        raise invalid_range(text, range_code)
    return network


def ipv6_cidr(text: str, lengths: range, range_code: str) -> IPv6Network:
    """As `ipv4_cidr`, for IPv6 and the prefix lengths `lengths`; host bits are refused."""
    try:
        network = IPv6Network(text)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise no_cidr(text, "ipv6CidrBlock") from None
    if network.prefixlen not in lengths:
        raise invalid_range(text, range_code)
    return network


def no_cidr(text: str, parameter: str) -> ApiError:
    return ApiError(
        "InvalidParameterValue", f"Value ({text}) for parameter {parameter} is invalid. This is not a valid CIDR block."
    )


def invalid_range(text: object, code: str) -> ApiError:
    return ApiError(code, f"The CIDR '{text}' is invalid.")


def local_ipv6_block() -> IPv6Network:
    """A /56 that stands for one of Amazon's: unique local addresses with random bits (RFC 4193)."""
    return IPv6Network(((0xFD << 48 | secrets.randbits(48)) << 72, 56))


def ipv4_in(subnet: IPv4Network, text: str, reserves: bool = True) -> IPv4Address:
    """An address that an interface in `subnet` may have; `reserves`: whether the subnet has AWS's own addresses.
    Raises InvalidParameterValue."""
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise ApiError("InvalidParameterValue", f"invalid value for parameter address: {text}") from None
    if address not in subnet:
        raise _outside(text)
    if reserves and not usable_ipv4(subnet)[0] <= int(address) <= usable_ipv4(subnet)[1]:
        raise _reserved(text)
    return address


def ipv6_in(subnet: IPv6Network, text: str, reserves: bool = True) -> IPv6Address:
    """As `ipv4_in`."""
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise ApiError("InvalidParameterValue", f"invalid value for parameter address: {text}") from None
    if address not in subnet:
        raise _outside(text)
    if reserves and not _usable_ipv6(subnet, int(address)):
        raise _reserved(text)
    return address


def usable_ipv4(subnet: IPv4Network) -> tuple[int, int]:
    """The first and the last address that interfaces may have, as numbers."""
    return int(subnet.network_address) + RESERVED_FIRST, int(subnet.broadcast_address) - RESERVED_LAST


def capacity(subnet: IPv4Network) -> int:
    """How many addresses a subnet has for interfaces."""
    return subnet.num_addresses - RESERVED_FIRST - RESERVED_LAST


def random_ipv6(subnet: IPv6Network) -> IPv6Address:
    """An address with a random interface identifier, as EC2 gives out."""
    while True:
        value = int(subnet.network_address) + secrets.randbits(128 - subnet.prefixlen)
        if _usable_ipv6(subnet, value):
            return IPv6Address(value)


def _usable_ipv6(subnet: IPv6Network, value: int) -> bool:
    first = int(subnet.network_address)
    return RESERVED_FIRST <= value - first < subnet.num_addresses - RESERVED_LAST


def _outside(text: str) -> ApiError:
    return ApiError("InvalidParameterValue", f"Address {text} does not fall within the subnet's address range")


def _reserved(text: str) -> ApiError:
    return ApiError("InvalidParameterValue", f"Address {text} is in subnet's reserved address range")
