"""Private addresses of network interfaces: assign and unassign, and how an address is chosen and checked.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from vnotch.api.ec2.addresses import ipv4_in, ipv6_in, random_ipv6, usable_ipv4
from vnotch.api.ec2.part import INTERFACE, SUBNET, Ec2Part, arns, ec2_operation, required
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, elastic_addresses, network
from vnotch.store.rule_book import groups_of

ADDRESSES_MAX = 50
"""Private addresses of one family on an interface (EC2 user guide: the largest instances)."""

PRIMARY_IPV6 = "IsPrimaryIpv6"
"""Of an interface's IPv6 addresses none is a primary one."""

ON_INTERFACE = arns("network-interface:NetworkInterfaceId")


class InterfaceAddresses(Ec2Part):
    @ec2_operation(
        "AssignPrivateIpAddresses",
        "NetworkInterfaceId PrivateIpAddresses SecondaryPrivateIpAddressCount AllowReassignment",
        ON_INTERFACE,
    )
    def assign_private_ip_addresses(self, call: Call) -> dict[str, Any]:
        given, count = call.params.get("PrivateIpAddresses"), call.params.get("SecondaryPrivateIpAddressCount")
        _one_of(given, count, "PrivateIpAddresses", "SecondaryPrivateIpAddressCount")
        with self.state.write() as session:
            interface, subnet = _locked(session, call)
            before = len(interface.addresses_of(4))
            if call.params.get("AllowReassignment"):
                for address in given or ():
                    _take_from_another(session, interface, address)
            for address in given or [None] * (count or 0):
                add_ipv4(session, interface, subnet, address)
            _tell(session, interface)
            return {
                "NetworkInterfaceId": interface.interface_id,
                "AssignedPrivateIpAddresses": [
                    {"PrivateIpAddress": address} for address in interface.addresses_of(4)[before:]
                ],
            }

    @ec2_operation("UnassignPrivateIpAddresses", "NetworkInterfaceId PrivateIpAddresses", ON_INTERFACE)
    def unassign_private_ip_addresses(self, call: Call) -> dict[str, Any]:
        given = required(call, "PrivateIpAddresses")
        with self.state.write() as session:
            interface, _ = _locked(session, call)
            if interface.addresses_of(4)[0] in given:
                raise ApiError(  # memory
                    "InvalidParameterValue", "The primary private IP address of an interface cannot be unassigned"
                )
            _remove(session, interface, 4, given)
        return {}

    @ec2_operation("AssignIpv6Addresses", "NetworkInterfaceId Ipv6Addresses Ipv6AddressCount", ON_INTERFACE)
    def assign_ipv6_addresses(self, call: Call) -> dict[str, Any]:
        given, count = call.params.get("Ipv6Addresses"), call.params.get("Ipv6AddressCount")
        _one_of(given, count, "Ipv6Addresses", "Ipv6AddressCount")
        with self.state.write() as session:
            interface, subnet = _locked(session, call)
            before = len(interface.addresses_of(6))
            block = _ipv6_block(subnet)
            for address in given or [None] * (count or 0):
                add_ipv6(session, interface, subnet, address or str(random_ipv6(block)))
            _tell(session, interface)
            return {
                "NetworkInterfaceId": interface.interface_id,
                "AssignedIpv6Addresses": interface.addresses_of(6)[before:],
            }

    @ec2_operation("UnassignIpv6Addresses", "NetworkInterfaceId Ipv6Addresses", ON_INTERFACE)
    def unassign_ipv6_addresses(self, call: Call) -> dict[str, Any]:
        given = required(call, "Ipv6Addresses")
        with self.state.write() as session:
            interface, _ = _locked(session, call)
            removed = _remove(session, interface, 6, given)
            return {"NetworkInterfaceId": interface.interface_id, "UnassignedIpv6Addresses": removed}


def _one_of(given: Any, count: Any, given_name: str, count_name: str) -> None:
    if bool(given) == bool(count):
        raise ApiError("InvalidParameterCombination", f"Exactly one of {given_name} and {count_name} must be given")
    if count is not None and count < 0:
        raise ApiError("InvalidParameterValue", f"Value ({count}) for parameter {count_name} is invalid.")


def _locked(session: Session, call: Call) -> tuple[network.NetworkInterface, network.Subnet]:
    """The call's interface, and its subnet held against others who give out its addresses."""
    interface = INTERFACE.find(session, required(call, "NetworkInterfaceId"))
    return interface, SUBNET.find(session, interface.subnet_id, lock=True)


def _tell(session: Session, interface: network.NetworkInterface) -> None:
    """Agents learn an interface's addresses with the interface, with groups that name its groups, and as a peer."""
    agents.touch_members(session, groups_of(session, interface.interface_id), interface.interface_id)
    agents.touch_neighbours(session, interface)


def _take_from_another(session: Session, interface: network.NetworkInterface, address: str) -> None:
    """A secondary address that another interface of the subnet has leaves it (API AssignPrivateIpAddresses,
    AllowReassignment)."""
    row = network.Address
    found = session.scalar(
        select(row).where(
            row.subnet_id == interface.subnet_id,
            row.address == address,
            row.primary.is_(False),
            row.interface_id != interface.interface_id,
        )
    )
    if found is not None:
        _remove(session, INTERFACE.find(session, found.interface_id), 4, [address])


def _remove(session: Session, interface: network.NetworkInterface, family: int, given: list[str]) -> list[str]:
    """All of `given` or none. Returns them as they stood."""
    own: dict[Any, network.Address] = {
        ip_address(row.address): row for row in interface.addresses if row.family == family
    }
    rows = [own.get(_parsed(text)) for text in dict.fromkeys(given)]
    if None in rows:
        raise ApiError(
            "InvalidParameterValue",
            f"Some of the specified addresses are not assigned to interface {interface.interface_id}",
        )
    removed = [row.address for row in rows if row is not None]
    elastic_addresses.disassociate(session, interface.interface_id, removed)
    for row in rows:
        if row is not None:
            interface.addresses.remove(row)
    session.flush()
    _tell(session, interface)
    return removed


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _ipv6_block(subnet: network.Subnet) -> IPv6Network:
    if subnet.ipv6_cidr is None:
        raise ApiError("InvalidParameterValue", f"The subnet '{subnet.subnet_id}' has no IPv6 CIDR block")
    return IPv6Network(subnet.ipv6_cidr)


def give_ipv4(
    session: Session, interface: network.NetworkInterface, subnet: network.Subnet, params: Mapping[str, Any]
) -> None:
    """As `params` asks, by the members of CreateNetworkInterface.

    The primary address first: the one given as such, or else the next free one; then the secondary ones."""
    listed = params.get("PrivateIpAddresses") or []
    count = params.get("SecondaryPrivateIpAddressCount") or 0
    primaries = [item["PrivateIpAddress"] for item in listed if item.get("Primary")]
    if params.get("PrivateIpAddress"):
        primaries.insert(0, params["PrivateIpAddress"])
    if len(primaries) > 1:
        raise ApiError("InvalidParameterCombination", "Only one primary private IP address can be specified.")
    if count < 0 or (count and len(listed) > 1):
        raise ApiError(
            "InvalidParameterCombination",
            "The parameter secondaryPrivateIpAddressCount cannot be used with more than one privateIpAddresses",
        )
    secondary = [item.get("PrivateIpAddress") for item in listed if not item.get("Primary")]
    # Addresses that are named come before those that are chosen, so that none is chosen that the call names.
    for address in filter(None, secondary):
        add_ipv4(session, interface, subnet, address)
    add_ipv4(session, interface, subnet, primaries[0] if primaries else None, primary=True)
    for _ in range(count + secondary.count(None)):
        add_ipv4(session, interface, subnet, None)


def add_ipv4(
    session: Session,
    interface: network.NetworkInterface,
    subnet: network.Subnet,
    text: str | None,
    primary: bool = False,
) -> None:
    """Gives the interface this address, or the subnet's next free one."""
    block = IPv4Network(subnet.cidr)
    address = ipv4_in(block, text, subnet.reserves_addresses) if text else _next_ipv4(session, subnet.subnet_id, block)
    row = network.Address(family=4, primary=primary, address=str(address), value=int(address))
    _add(session, interface, row)


def give_ipv6(
    session: Session, interface: network.NetworkInterface, subnet: network.Subnet, params: Mapping[str, Any]
) -> None:
    given, count = params.get("Ipv6Addresses") or [], params.get("Ipv6AddressCount") or 0
    if not given and not count and not subnet.gives_ipv6:
        return
    if not given and params.get("Ipv6AddressCount") is None:
        count = 1  # the subnet's AssignIpv6AddressOnCreation, which a count of 0 overrides (API ModifySubnetAttribute)
    if count < 0 or (given and count):
        raise ApiError(
            "InvalidParameterCombination", "The parameter ipv6AddressCount cannot be used with ipv6Addresses"
        )
    block = _ipv6_block(subnet)
    for item in given:
        add_ipv6(session, interface, subnet, item.get("Ipv6Address") or "")
    for _ in range(count):
        _add(session, interface, network.Address(family=6, address=str(random_ipv6(block)), value=0))


def add_ipv6(session: Session, interface: network.NetworkInterface, subnet: network.Subnet, text: str) -> None:
    """Gives the interface this address; the subnet has an IPv6 block."""
    address = ipv6_in(IPv6Network(subnet.ipv6_cidr or ""), text, subnet.reserves_addresses)
    _add(session, interface, network.Address(family=6, address=str(address), value=0))


def _add(session: Session, interface: network.NetworkInterface, address: network.Address) -> None:
    row = network.Address
    if session.scalar(select(exists().where(row.subnet_id == interface.subnet_id, row.address == address.address))):
        raise ApiError("InvalidIPAddress.InUse", "The specified address is already in use.")
    if len(interface.addresses_of(address.family)) >= ADDRESSES_MAX:
        raise ApiError("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
    address.subnet_id = interface.subnet_id
    interface.addresses.append(address)
    session.flush()


def _next_ipv4(session: Session, subnet_id: str, block: IPv4Network) -> IPv4Address:
    """The lowest free address; AWS chooses one without saying how."""
    first, last = usable_ipv4(block)
    here, after = aliased(network.Address), aliased(network.Address)
    if not session.scalar(select(exists().where(here.subnet_id == subnet_id, here.family == 4, here.value == first))):
        return IPv4Address(first)
    follows = exists().where(after.subnet_id == subnet_id, after.family == 4, after.value == here.value + 1)
    gap = session.scalar(
        select(func.min(here.value + 1)).where(
            here.subnet_id == subnet_id, here.family == 4, here.value < last, ~follows
        )
    )
    if gap is None:
        raise ApiError(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        )
    return IPv4Address(gap)
