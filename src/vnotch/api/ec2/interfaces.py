"""Network interfaces: create with addresses, describe, modify, delete."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.filters import NEVER, TAG_KEY, Filter, column, constant, present
from vnotch.api.ec2.interface_addresses import PRIMARY_IPV6, add_ipv4, add_ipv6, give_ipv4, give_ipv6
from vnotch.api.ec2.part import (
    INTERFACE,
    SECURITY_GROUP,
    SUBNET,
    Describe,
    Ec2Part,
    arn,
    arns,
    ec2_operation,
    group_set,
    only_attribute,
    required,
    tag_set,
    timestamp,
    zulu,
)
from vnotch.api.ec2.room import INTERFACE_LIMIT, refuse_without
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, elastic_addresses, firewall, network
from vnotch.store.elastic_addresses import ElasticAddress
from vnotch.store.rule_book import groups_of
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

CREATED_TYPES = ("interface", "efa", "trunk", "branch")
"""API CreateNetworkInterface; `efa-only` has no addresses and is refused."""

AMAZON = "amazon"
"""The owner of a public address that is not the account's (API NetworkInterfaceAssociation)."""

SERVICE_TYPES = (
    "api_gateway_managed",
    "aws_codestar_connections_managed",
    "gateway_load_balancer",
    "gateway_load_balancer_endpoint",
    "global_accelerator_managed",
    "iot_rules_managed",
    "lambda",
    "load_balancer",
    "nat_gateway",
    "network_load_balancer",
    "quicksight",
    "transit_gateway",
    "vpc_endpoint",
)
"""The types of interfaces that services hold (API DescribeNetworkInterfaces, filter interface-type)."""


def _addresses(family: int) -> Filter:
    return Filter(lambda interface: interface.addresses_of(family))


def _primary(interface: network.NetworkInterface) -> tuple[str, ...]:
    return tuple(interface.addresses_of(4)[:1])


def _requester(interface: network.NetworkInterface) -> tuple[str, ...]:
    return present(interface.binding.requester_id) if interface.binding else ()


def _attached(value: Callable[[Any], Any]) -> Filter:
    """Of what attaches it: the attachment where there is one, else the binding."""
    return Filter(lambda row: present(value(row.attachment or row.binding)) if row.attachment or row.binding else ())


def _elastic(value: Callable[[ElasticAddress], Any]) -> Filter:
    return Filter(lambda row: (value(address) for address in row.elastic_addresses))


def _owners(account: str) -> Filter:
    return Filter(lambda row: (account if row.elastic_address(each) else AMAZON for each in row.public_addresses))


_PUBLIC = Filter(lambda row: row.public_addresses.values())

DESCRIBE = Describe(
    INTERFACE,
    "NetworkInterfaceIds",
    {
        **TAG_KEY,
        "addresses.association.public-ip": _PUBLIC,
        "addresses.primary": Filter(lambda row: (place == 0 for place, _ in enumerate(row.addresses_of(4)))),
        "addresses.private-ip-address": _addresses(4),
        "association.allocation-id": _elastic(lambda row: row.allocation_id),
        "association.association-id": _elastic(lambda row: row.association_id),
        "association.public-dns-name": Filter(lambda row: ("" for _ in row.public_addresses)),
        "association.public-ip": _PUBLIC,
        "attachment.attach-time": _attached(lambda by: zulu(by.attached_ms)),
        "attachment.attachment-id": _attached(lambda by: by.attachment_id),
        "attachment.delete-on-termination": _attached(lambda by: getattr(by, "delete_on_termination", False)),
        "attachment.device-index": _attached(lambda by: getattr(by, "device_index", 0)),
        "attachment.instance-id": _attached(lambda by: by.instance_id),
        "attachment.status": Filter(
            lambda row: ("attached",) if row.binding else ("attaching",) if row.attachment else ()
        ),
        "availability-zone": Filter(lambda row: (row.subnet.zone,)),
        "availability-zone-id": Filter(lambda row: (row.subnet.zone_id,)),
        "description": column(network.NetworkInterface.description),
        "group-id": Filter(lambda row: (group.group_id for group in row.groups)),
        "group-name": Filter(lambda row: (group.name for group in row.groups)),
        "interface-type": Filter(lambda row: (row.interface_type,)),
        "ipv6-addresses.ipv6-address": _addresses(6),
        "mac-address": column(network.NetworkInterface.mac),
        "network-interface-id": column(network.NetworkInterface.interface_id),
        "operator.managed": constant(False),
        "operator.principal": NEVER,
        "private-dns-name": NEVER,
        "private-ip-address": Filter(_primary),
        "requester-id": Filter(_requester),
        "requester-managed": Filter(lambda row: (row.requester_managed,)),
        "source-dest-check": constant(True),
        "status": Filter(lambda row: (row.status,)),
        "subnet-id": column(network.NetworkInterface.subnet_id),
        "vpc-id": column(network.NetworkInterface.vpc_id),
    },
    ShownRows(network.NetworkInterface, "subnet addresses binding tags groups attachment elastic_addresses"),
    of_account=lambda account, region: {
        "owner-id": constant(account),
        "addresses.association.owner-id": _owners(account),
        "association.ip-owner-id": _owners(account),
        "attachment.instance-owner-id": _attached(
            lambda by: (by.requester_id if getattr(by, "requester_managed", False) else None) or account
        ),
    },
)


class NetworkInterfaces(Ec2Part):
    @ec2_operation(
        "CreateNetworkInterface",
        "SubnetId Description PrivateIpAddress PrivateIpAddresses SecondaryPrivateIpAddressCount Ipv6Addresses "
        "Ipv6AddressCount Groups InterfaceType TagSpecifications ClientToken",
        "new_interface_resources",
        unsupported=f"Ipv6Addresses.{PRIMARY_IPV6}",
        only={"InterfaceType": CREATED_TYPES},
    )
    def create_network_interface(self, call: Call) -> dict[str, Any]:
        kind = call.params.get("InterfaceType") or "interface"
        tags = tags_at_creation(call, INTERFACE)
        with self.state.write() as session:
            if earlier := replay(session, call):
                interface = INTERFACE.find(session, earlier["NetworkInterfaceId"])
                return _created(interface, call)
            subnet = SUBNET.find(session, required(call, "SubnetId"), lock=True)
            groups = self.checked_groups(session, subnet.vpc_id, call.params.get("Groups") or ())
            refuse_without(self.room_for_interfaces(session), *INTERFACE_LIMIT)
            description = call.params.get("Description") or ""
            interface = new_interface(session, subnet, kind, description, groups, call.params, call.now_ms)
            put_tags(session, INTERFACE, interface.interface_id, tags)
            remember(session, call, {"NetworkInterfaceId": interface.interface_id})
            return _created(interface, call)

    def new_interface_resources(self, call: Call) -> list[str]:
        """CreateNetworkInterface is authorised on the interface to be made, its subnet and its groups."""
        subnet_id = call.params.get("SubnetId") or ""
        return [
            arn(call, INTERFACE.name),
            arn(call, SUBNET.name, subnet_id or "*"),
            *self.group_arns(call, subnet_id, call.params.get("Groups") or ()),
        ]

    @ec2_operation(
        "DescribeNetworkInterfaces",
        "NetworkInterfaceIds Filters MaxResults NextToken IncludeManagedResources",
        filters=DESCRIBE.names,
    )
    def describe_network_interfaces(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"NetworkInterfaces": [_describe(row, call) for row in rows], **more}

    @ec2_operation("DeleteNetworkInterface", "NetworkInterfaceId", arns("network-interface:NetworkInterfaceId"))
    def delete_network_interface(self, call: Call) -> dict[str, Any]:
        """Its flow logs stay (VPC user guide: they are deleted by themselves)."""
        with self.state.write() as session:
            interface = INTERFACE.find(session, required(call, "NetworkInterfaceId"), lock=True)
            if interface.status == "in-use":
                raise ApiError(
                    "InvalidParameterValue", f"Network interface '{interface.interface_id}' is currently in use."
                )
            delete_interface(session, interface)
        return {}

    @ec2_operation(
        "ModifyNetworkInterfaceAttribute",
        "NetworkInterfaceId Groups Description SourceDestCheck Attachment",
        arns("network-interface:NetworkInterfaceId", "security-group:Groups"),
        unsupported="Attachment.DefaultEnaQueueCount Attachment.EnaQueueCount",
        only={"SourceDestCheck.Value": (True,)},
    )
    def modify_network_interface_attribute(self, call: Call) -> dict[str, Any]:
        """One attribute a call (API ModifyNetworkInterfaceAttribute)."""
        attribute = only_attribute(call, ("Groups", "Description", "SourceDestCheck", "Attachment"))
        with self.state.write() as session:
            interface = INTERFACE.find(session, required(call, "NetworkInterfaceId"), lock=True)
            if attribute == "Description":
                interface.description = call.params["Description"].get("Value") or ""
            if attribute == "Groups":
                self._change_groups(session, interface, call)
            if attribute == "Attachment":
                _change_attachment(interface, call.params["Attachment"])
        return {}

    @ec2_operation(
        "DescribeNetworkInterfaceAttribute",
        "NetworkInterfaceId Attribute",
        only={"Attribute": ("description", "groupSet", "sourceDestCheck", "attachment")},
    )
    def describe_network_interface_attribute(self, call: Call) -> dict[str, Any]:
        name = required(call, "Attribute")
        with self.state.read() as session:
            interface = INTERFACE.find(session, required(call, "NetworkInterfaceId"))
            shown: dict[str, tuple[str, Any]] = {
                "description": ("Description", {"Value": interface.description}),
                "groupSet": ("Groups", group_set(interface.groups)),
                "sourceDestCheck": ("SourceDestCheck", {"Value": True}),
                "attachment": ("Attachment", describe_attachment(interface, call)),
            }
            member, value = shown[name]
            return {"NetworkInterfaceId": interface.interface_id} | ({} if value is None else {member: value})

    def _change_groups(self, session: Session, interface: network.NetworkInterface, call: Call) -> None:
        if interface.interface_type in firewall.GROUPLESS:
            raise ApiError(
                "OperationNotPermitted",
                f"Interfaces of type {interface.interface_type} cannot have security groups.",
            )
        before, after = groups_of(session, interface.interface_id), self._groups_for(session, interface, call)
        firewall.set_groups(session, interface.interface_id, after)
        agents.touch_members(session, before.symmetric_difference(after), interface.interface_id)

    def _groups_for(self, session: Session, interface: network.NetworkInterface, call: Call) -> list[str]:
        return self.checked_groups(session, interface.vpc_id, call.params.get("Groups") or ())


def service_interface(
    session: Session, subnet: network.Subnet, kind: str, description: str, address: str | None, now_ms: int
) -> network.NetworkInterface:
    """A new interface that a service holds, without security groups, at this address or the next free one. The caller
    has locked the subnet."""
    interface = _new_interface(session, subnet, kind, description, now_ms)
    add_ipv4(session, interface, subnet, address, primary=True)
    agents.touch_neighbours(session, interface)
    return interface


def new_interface(
    session: Session,
    subnet: network.Subnet,
    kind: str,
    description: str,
    group_ids: Sequence[str],
    addresses: Mapping[str, Any],
    now_ms: int,
) -> network.NetworkInterface:
    """A new interface in these groups of its VPC, with the addresses that members of CreateNetworkInterface ask for.
    The caller has locked the subnet."""
    interface = _new_interface(session, subnet, kind, description, now_ms)
    firewall.set_groups(session, interface.interface_id, group_ids)
    give_ipv4(session, interface, subnet, addresses)
    give_ipv6(session, interface, subnet, addresses)
    agents.touch_members(session, group_ids)
    agents.touch_neighbours(session, interface)
    session.refresh(interface)
    return interface


def enrolled_interface(
    session: Session,
    subnet: network.Subnet,
    addresses: list[str],
    group_ids: list[str],
    description: str,
    now_ms: int,
) -> network.NetworkInterface:
    """A new interface with these addresses, the first one primary, and these groups of its VPC, or the default one.

    Raises ApiError: an address is taken or reserved, a group is not there or of another VPC.
    """
    interface = _new_interface(session, subnet, "interface", description, now_ms)
    for group_id in group_ids:
        if SECURITY_GROUP.find(session, group_id).vpc_id != subnet.vpc_id:
            raise ApiError("InvalidParameterValue", f"Security group {group_id} is of another VPC.")
    groups = group_ids or [firewall.default_group_id(session, subnet.vpc_id)]
    firewall.set_groups(session, interface.interface_id, groups)
    add_ipv4(session, interface, subnet, addresses[0], primary=True)
    for text in addresses[1:]:
        if ":" in text:
            add_ipv6(session, interface, subnet, text)
        else:
            add_ipv4(session, interface, subnet, text)
    agents.touch_members(session, groups)
    agents.touch_neighbours(session, interface)
    session.refresh(interface)
    return interface


def _new_interface(
    session: Session, subnet: network.Subnet, kind: str, description: str, now_ms: int
) -> network.NetworkInterface:
    """Without addresses yet."""
    interface = network.NetworkInterface(
        interface_id=new_id("eni"),
        subnet_id=subnet.subnet_id,
        vpc_id=subnet.vpc_id,
        mac=_new_mac(),
        description=description,
        created_type=kind,
        created_ms=now_ms,
    )
    session.add(interface)
    session.flush()
    return interface


def delete_interface(session: Session, interface: network.NetworkInterface) -> None:
    """Forgets an interface that is bound no longer, and its tags."""
    drop_tags(session, [interface.interface_id])
    elastic_addresses.disassociate(session, interface.interface_id)
    agents.touch_members(session, groups_of(session, interface.interface_id))
    agents.touch_neighbours(session, interface)
    row = network.NetworkInterface
    session.execute(delete(row).where(row.interface_id == interface.interface_id))


def _change_attachment(interface: network.NetworkInterface, given: dict[str, Any]) -> None:
    """Whether the interface goes with its instance."""
    attachment, attachment_id = interface.attachment, given.get("AttachmentId")
    if attachment is None or attachment.attachment_id != attachment_id:
        raise ApiError("InvalidAttachmentID.NotFound", f"The attachment '{attachment_id}' does not exist")
    if given.get("DeleteOnTermination") is not None:
        attachment.delete_on_termination = bool(given["DeleteOnTermination"])


def _new_mac() -> str:
    """A locally administered unicast address, in the form of EC2's."""
    return "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5))


def _created(interface: network.NetworkInterface, call: Call) -> dict[str, Any]:
    answer: dict[str, Any] = {"NetworkInterface": {**_describe(interface, call), "Status": "pending"}}
    if token := call.params.get("ClientToken"):
        answer["ClientToken"] = token
    return answer


def _describe(interface: network.NetworkInterface, call: Call) -> dict[str, Any]:
    binding = interface.binding
    answer: dict[str, Any] = {
        **describe_members(interface, call),
        "AvailabilityZone": interface.subnet.zone,
        "AvailabilityZoneId": interface.subnet.zone_id,
        "RequesterManaged": interface.requester_managed,
        "TagSet": tag_set(interface.tags),
    }
    if (attachment := describe_attachment(interface, call)) is not None:
        answer["Attachment"] = attachment
    if interface.requester_managed:
        answer["RequesterId"] = (binding.requester_id if binding else None) or call.account
    return answer


def describe_members(interface: network.NetworkInterface, call: Call, *, of_instance: bool = False) -> dict[str, Any]:
    """What an interface shows by itself (API NetworkInterface) and in its instance (API InstanceNetworkInterface),
    which has the public address without its ids."""
    ipv4 = interface.addresses_of(4)
    public = {address: _association(interface, address, call, of_instance) for address in ipv4}
    return {
        "NetworkInterfaceId": interface.interface_id,
        "VpcId": interface.vpc_id,
        "SubnetId": interface.subnet_id,
        "OwnerId": call.account,
        "Description": interface.description,
        "InterfaceType": interface.interface_type,
        "MacAddress": interface.mac,
        "PrivateIpAddress": ipv4[0],
        "PrivateIpAddresses": [
            {"PrivateIpAddress": address, "Primary": place == 0, **public[address]}
            for place, address in enumerate(ipv4)
        ],
        "Ipv6Addresses": [{"Ipv6Address": address} for address in interface.addresses_of(6)],
        "Groups": group_set(interface.groups),
        "SourceDestCheck": True,
        "Status": interface.status,
        **public[ipv4[0]],
    }


def _association(interface: network.NetworkInterface, address: str, call: Call, of_instance: bool) -> dict[str, Any]:
    """Of a private address that has a public one. There is no DNS, so no name of it."""
    public_ip = interface.public_addresses.get(address)
    if public_ip is None:
        return {}
    row = interface.elastic_address(address)
    shown = {"IpOwnerId": call.account if row else AMAZON, "PublicDnsName": "", "PublicIp": public_ip}
    if row is not None and not of_instance:
        shown |= {"AllocationId": row.allocation_id, "AssociationId": row.association_id or ""}
    return {"Association": shown}


def describe_attachment(interface: network.NetworkInterface, call: Call) -> dict[str, Any] | None:
    """Of an interface that is given to an instance or bound to a device. A service's interface is attached to no
    instance of the account: no InstanceId, and the service as owner."""
    given, binding = interface.attachment, interface.binding
    if given is not None:
        return {
            "AttachmentId": given.attachment_id,
            "AttachTime": timestamp(given.attached_ms),
            "DeleteOnTermination": given.delete_on_termination,
            "DeviceIndex": given.device_index,
            "NetworkCardIndex": 0,
            "Status": "attached" if binding is not None else "attaching",
            "InstanceId": given.instance_id,
            "InstanceOwnerId": call.account,
        }
    if binding is None:
        return None
    attachment = {
        "AttachmentId": binding.attachment_id,
        "AttachTime": timestamp(binding.attached_ms),
        "DeleteOnTermination": False,
        "DeviceIndex": 0,
        "NetworkCardIndex": 0,
        "Status": "attached",
        "InstanceOwnerId": (binding.requester_id if binding.requester_managed else None) or call.account,
    }
    return attachment | ({"InstanceId": binding.instance_id} if binding.instance_id else {})
