"""Elastic IP addresses: allocate, describe, associate, disassociate, release.

Which addresses there are is the business of the network round vnotch: a call may name one, and gets one of `RANGE`
where it names none. So is what an association does to packets. A lab translates by it; records have the private address
on an interface's own side, here as on AWS.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.filters import TAG_KEY, Filter, column, constant, present
from vnotch.api.ec2.instances import only_interface
from vnotch.api.ec2.part import (
    ELASTIC_ADDRESS,
    INSTANCE,
    INTERFACE,
    Describe,
    Ec2Part,
    arn,
    arns,
    ec2_operation,
    invalid_value,
    required,
    tag_set,
)
from vnotch.api.ec2.room import refuse_without, room
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import elastic_addresses, network, routing
from vnotch.store.elastic_addresses import ElasticAddress
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

RANGE = IPv4Network("203.0.113.0/24")
"""Addresses of no network (TEST-NET-3, RFC 5737). A lab has them outside its VPC and gives itself the first ones, so
those given here begin at the end."""

DOMAIN, POOL = "vpc", "amazon"

DESCRIBE = Describe(
    ELASTIC_ADDRESS,
    "AllocationIds",
    {
        **TAG_KEY,
        "allocation-id": column(ElasticAddress.allocation_id),
        "association-id": column(ElasticAddress.association_id),
        "instance-id": Filter(lambda row: present(row.interface and row.interface.instance_id)),
        "network-interface-id": column(ElasticAddress.interface_id),
        "private-ip-address": column(ElasticAddress.private_ip),
        "public-ip": column(ElasticAddress.public_ip),
    },
    ShownRows(ElasticAddress, "tags interface.attachment interface.binding"),
    of_account=lambda account, region: {
        "network-border-group": constant(region),
        "network-interface-owner-id": Filter(lambda row: (account,) if row.interface_id else ()),
    },
)


def _associated(call: Call) -> list[str]:
    """AssociateAddress is authorised on the address and on what the request names, interface or instance."""
    named = {"AllocationId": ELASTIC_ADDRESS, "NetworkInterfaceId": INTERFACE, "InstanceId": INSTANCE}
    return [arn(call, kind.name, call.params[name]) for name, kind in named.items() if call.params.get(name)] or ["*"]


class ElasticAddresses(Ec2Part):
    @ec2_operation(
        "AllocateAddress",
        "Domain Address PublicIpv4Pool NetworkBorderGroup TagSpecifications",
        arns("elastic-ip"),
        only={"Domain": (DOMAIN,), "PublicIpv4Pool": (POOL,)},
    )
    def allocate_address(self, call: Call) -> dict[str, Any]:
        self._check_border_group(call)
        wanted = _unicast(call.params["Address"]) if call.params.get("Address") else None
        tags = tags_at_creation(call, ELASTIC_ADDRESS)
        with self.state.write() as session:
            left = room(session, self.quotas.elastic_addresses, ElasticAddress)
            refuse_without(left, "AddressLimitExceeded", "addresses")
            row = ElasticAddress(
                allocation_id=new_id("eipalloc"), public_ip=free_address(session, wanted), created_ms=call.now_ms
            )
            session.add(row)
            session.flush()
            put_tags(session, ELASTIC_ADDRESS, row.allocation_id, tags)
            return {"AllocationId": row.allocation_id, "PublicIp": row.public_ip, **_place(call)}

    @ec2_operation("DescribeAddresses", "PublicIps AllocationIds Filters", filters=DESCRIBE.names)
    def describe_addresses(self, call: Call) -> dict[str, Any]:
        given = call.params.get("PublicIps") or []
        with self.state.read() as session:
            known = set(session.scalars(select(ElasticAddress.public_ip).where(ElasticAddress.public_ip.in_(given))))
            for address in given:
                if address not in known:
                    raise ApiError("InvalidAddress.NotFound", f"Address '{address}' not found.")
            rows, _ = DESCRIBE.rows(session, call, *([ElasticAddress.public_ip.in_(given)] if given else []))
            return {"Addresses": [_describe(row, call) for row in rows]}

    @ec2_operation("DescribeAddressesAttribute", "AllocationIds Attribute MaxResults NextToken")
    def describe_addresses_attribute(self, call: Call) -> dict[str, Any]:
        """No address has a name of its own (ModifyAddressAttribute); how AWS shows such is not published."""
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            addresses = [{"PublicIp": row.public_ip, "AllocationId": row.allocation_id} for row in rows]
            return {"Addresses": addresses, **more}

    @ec2_operation(
        "AssociateAddress",
        "AllocationId PublicIp InstanceId NetworkInterfaceId PrivateIpAddress AllowReassociation",
        _associated,
    )
    def associate_address(self, call: Call) -> dict[str, Any]:
        allocation_id = _by_id(
            call,
            "AllocationId",
            ApiError(
                "InvalidParameterCombination",
                "You must specify an allocation id when mapping an address to a VPC instance",
            ),
        )
        with self.state.write() as session:
            row: ElasticAddress = ELASTIC_ADDRESS.find(session, allocation_id, lock=True)
            _refuse_held(row.interface)
            interface = _asked_interface(session, call)
            private_ip = _asked_private(interface, call)
            if (row.interface_id, row.private_ip) != (interface.interface_id, private_ip):
                _make_room(session, row, interface, private_ip, bool(call.params.get("AllowReassociation")))
                _check_way_out(session, interface.vpc_id)
                row.associate(interface.interface_id, private_ip)
            return {"AssociationId": row.association_id}

    @ec2_operation("DisassociateAddress", "AssociationId PublicIp", "ends_of_association")
    def disassociate_address(self, call: Call) -> dict[str, Any]:
        association_id = _by_id(
            call,
            "AssociationId",
            ApiError(
                "InvalidParameterValue",
                "You must specify an association id when unmapping an address from a VPC instance",
            ),
        )
        with self.state.write() as session:
            found = select(ElasticAddress).where(ElasticAddress.association_id == association_id)
            row = session.scalar(found.with_for_update())
            if row is None:
                raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{association_id}' does not exist")
            _refuse_held(row.interface)
            row.disassociate()
        return {}

    def ends_of_association(self, call: Call) -> list[str]:
        """DisassociateAddress is authorised on the address and the interface, which its request does not name."""
        row = ElasticAddress
        mine = row.association_id == (call.params.get("AssociationId") or "")
        return self.arns_of(
            call,
            (ELASTIC_ADDRESS, select(row.allocation_id).where(mine)),
            (INTERFACE, select(row.interface_id).where(mine)),
        )

    @ec2_operation("ReleaseAddress", "AllocationId PublicIp NetworkBorderGroup", arns("elastic-ip:AllocationId"))
    def release_address(self, call: Call) -> dict[str, Any]:
        self._check_border_group(call)
        allocation_id = _by_id(
            call,
            "AllocationId",
            ApiError(
                "InvalidParameterValue",
                "You must specify an allocation id when releasing a VPC elastic IP address",
            ),
        )
        with self.state.write() as session:
            row: ElasticAddress = ELASTIC_ADDRESS.find(session, allocation_id, lock=True)
            _refuse_held(row.interface)
            if row.association_id is not None:
                raise ApiError("InvalidIPAddress.InUse", f"Address {row.public_ip} is in use.")
            drop_tags(session, [allocation_id])
            session.execute(delete(ElasticAddress).where(ElasticAddress.allocation_id == allocation_id))
        return {}

    def _check_border_group(self, call: Call) -> None:
        group = call.params.get("NetworkBorderGroup")
        if group not in (None, self.region):
            raise invalid_value(group, "networkBorderGroup", f"The only one is {self.region}.")


def _by_id(call: Call, member: str, without: ApiError) -> str:
    """The id that names the address, or its association: a public address is no name for it in a VPC."""
    resource_id, public_ip = call.params.get(member), call.params.get("PublicIp")
    if resource_id and public_ip:
        raise ApiError(
            "InvalidParameterCombination", "You may specify public IP or allocation id, but not both in the same call"
        )
    if public_ip:
        raise without
    return str(required(call, member))


def _unicast(text: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        address = IPv4Address(0)
    if address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local:
        raise ApiError("InvalidAddress.Malformed", f"Address '{text}' is no unicast IPv4 address.")
    return address


def free_address(session: Session, wanted: IPv4Address | None = None) -> str:
    """The one that is wanted, else the next one of `RANGE`. Raises ApiError where it is taken, or all are."""
    taken = elastic_addresses.taken(session)
    if wanted is not None:
        if str(wanted) in taken:
            raise ApiError("InvalidAddress.NotFound", f"Address '{wanted}' is allocated already.")
        return str(wanted)
    numbers = range(int(RANGE.broadcast_address) - 1, int(RANGE.network_address), -1)
    free = next((text for number in numbers if (text := str(IPv4Address(number))) not in taken), None)
    if free is None:
        raise ApiError(  # EC2's error list
            "InsufficientAddressCapacity", "Not enough available addresses to satisfy your minimum request.", 503
        )
    return free


def _refuse_held(interface: network.NetworkInterface | None) -> None:
    """A NAT gateway's address comes and goes with the gateway."""
    if interface is not None and interface.created_type == network.NAT_GATEWAY:
        raise ApiError("AuthFailure", "You do not have permission to access the specified resource.")


def _asked_interface(session: Session, call: Call) -> network.NetworkInterface:
    interface_id, instance_id = call.params.get("NetworkInterfaceId"), call.params.get("InstanceId")
    if interface_id and instance_id:
        raise ApiError("InvalidParameterCombination", "You may specify instanceId or networkInterfaceId, but not both.")
    if instance_id:
        interface = only_interface(INSTANCE.find(session, instance_id))
    elif interface_id:
        interface = INTERFACE.find(session, interface_id)
    else:
        raise ApiError("MissingParameter", "Either instance ID or network interface id must be specified")
    _refuse_held(interface)
    return interface


def _asked_private(interface: network.NetworkInterface, call: Call) -> str:
    """The private address that is named, else the primary one."""
    own, given = interface.addresses_of(4), call.params.get("PrivateIpAddress")
    if given and given not in own:
        raise ApiError(
            "InvalidParameterValue",
            f"Some of the specified addresses are not assigned to interface {interface.interface_id}",
        )
    return given or own[0]


def _make_room(
    session: Session, row: ElasticAddress, interface: network.NetworkInterface, private_ip: str, reassociate: bool
) -> None:
    """A public address has one private address and a private one public address: another association is an error, or
    gives way where the call says so."""
    if row.association_id is not None and not reassociate:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"resource {row.allocation_id} is already associated with associate-id {row.association_id}",
        )
    table = ElasticAddress
    held = table.interface_id == interface.interface_id, table.private_ip == private_ip
    other = session.scalar(select(table).where(*held))
    if other is not None and not reassociate:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"resource {interface.interface_id} and {private_ip} is already associated with public address "
            f"{other.public_ip}",
        )
    if other is not None:
        other.disassociate()
    if private_ip == interface.addresses_of(4)[0]:
        interface.public_ip = None  # that of its launch gives way (EC2 user guide, "Elastic IP addresses")


def _check_way_out(session: Session, vpc_id: str) -> None:
    if not session.scalar(select(exists().where(routing.InternetGateway.vpc_id == vpc_id))):
        raise ApiError("Gateway.NotAttached", f"Network {vpc_id} is not attached to any internet gateway")


def _place(call: Call) -> dict[str, str]:
    return {"Domain": DOMAIN, "PublicIpv4Pool": POOL, "NetworkBorderGroup": call.region}


def _describe(row: ElasticAddress, call: Call) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "AllocationId": row.allocation_id,
        "PublicIp": row.public_ip,
        **_place(call),
        "Tags": tag_set(row.tags),
    }
    interface = row.interface
    if interface is not None:
        answer |= {
            "AssociationId": row.association_id,
            "NetworkInterfaceId": interface.interface_id,
            "NetworkInterfaceOwnerId": call.account,
            "PrivateIpAddress": row.private_ip,
        }
        answer |= {"InstanceId": interface.instance_id} if interface.instance_id else {}
    return answer
