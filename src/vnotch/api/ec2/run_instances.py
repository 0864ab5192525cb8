"""RunInstances: instances that a host in lab mode builds, with their interfaces in the VPC's address space.

What has no meaning for a network namespace (disks, keys, user data, markets) is refused like every parameter that is
not honoured. Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.attachments import DEVICE_INDEX_MAX, attach
from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.elastic_addresses import free_address
from vnotch.api.ec2.images import check_image
from vnotch.api.ec2.instances import forget_old, reservations
from vnotch.api.ec2.interface_addresses import PRIMARY_IPV6
from vnotch.api.ec2.interfaces import new_interface
from vnotch.api.ec2.part import (
    INSTANCE,
    INTERFACE,
    SUBNET,
    Ec2Part,
    Kind,
    arn,
    ec2_operation,
    invalid_value,
    required,
)
from vnotch.api.ec2.room import INTERFACE_LIMIT, refuse_without, room
from vnotch.api.ec2.subnets import available
from vnotch.api.ec2.tags import put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import firewall, instances, network
from vnotch.store.instances import Instance
from vnotch.store.state import new_id

INSTANCE_TYPE = "t3.nano"
"""Where the call names none. A namespace has no size: the type is kept and shown."""

_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_ONE_NETWORK = ("SubnetId", "SecurityGroupIds", "SecurityGroups", "PrivateIpAddress", "Ipv6Addresses")
_HONOURED = (
    "ImageId InstanceType MinCount MaxCount SubnetId SecurityGroupIds SecurityGroups PrivateIpAddress Ipv6AddressCount "
    "Ipv6Addresses TagSpecifications ClientToken DisableApiTermination KeyName "
    + " ".join(
        f"NetworkInterfaces.{member}"
        for member in (
            *("DeviceIndex", "NetworkInterfaceId", "SubnetId", "Groups", "Description", "DeleteOnTermination"),
            *("PrivateIpAddress", "PrivateIpAddresses", "SecondaryPrivateIpAddressCount"),
            *("Ipv6Addresses", "Ipv6AddressCount", "InterfaceType", "AssociatePublicIpAddress"),
        )
    )
)


@dataclass(frozen=True)
class Asked:
    """One interface of each instance: one that is there, or a new one in a subnet."""

    device_index: int
    interface_id: str | None
    subnet_id: str | None
    groups: tuple[str, ...]
    description: str
    delete_on_termination: bool
    addresses: Mapping[str, Any]  # the members of CreateNetworkInterface that give addresses
    public: bool | None = None  # whether it gets a public address; None: as its subnet says


class RunInstances(Ec2Part):
    @ec2_operation(
        "RunInstances",
        _HONOURED,
        "run_resources",
        unsupported=f"Ipv6Addresses.{PRIMARY_IPV6} NetworkInterfaces.Ipv6Addresses.{PRIMARY_IPV6}",
    )
    def run_instances(self, call: Call) -> dict[str, Any]:
        """As many as there is room for, from MinCount to MaxCount; fewer is an error and makes nothing."""
        check_image(required(call, "ImageId"))
        least, most = _counts(call)
        kind = call.params.get("InstanceType") or INSTANCE_TYPE
        if not _TYPE.fullmatch(kind):
            raise invalid_value(kind, "InstanceType", "It has the form family.size, such as t3.nano.")
        if key := call.params.get("KeyName"):
            raise ApiError("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
        tags = _tags(call)
        with self.state.write() as session:
            if earlier := replay(session, call):
                return _answer(session, earlier["ReservationId"], call)
            forget_old(session, call.now_ms)
            asked = self._asked(session, call)
            if most > 1 and any(_is_single(each) for each in asked):
                raise ApiError(
                    "InvalidParameterCombination",
                    "Network interfaces and private addresses that are named are for one instance: MaxCount is 1 then",
                )
            vpc_id, count = self._room(session, call, asked, least, most)
            host = instances.host_for(session, vpc_id, call.now_ms)
            if host is None:
                raise ApiError(
                    "InsufficientInstanceCapacity",
                    f"There is no host in lab mode for {vpc_id}. Run vnotch lab follow on one, as root, and repeat.",
                    500,
                )
            host.vpc_id = vpc_id
            reservation_id = new_id("r")
            for index in range(count):
                row = Instance(
                    instance_id=new_id("i"),
                    origin=instances.LAUNCHED,
                    state="pending",
                    host=host.name,
                    reservation_id=reservation_id,
                    launch_index=index,
                    image_id=call.params["ImageId"],
                    instance_type=kind,
                    vpc_id=vpc_id,
                    protected=bool(call.params.get("DisableApiTermination")),
                    launched_ms=call.now_ms,
                )
                session.add(row)
                session.flush()
                put_tags(session, INSTANCE, row.instance_id, tags[INSTANCE.name])
                for each in asked:
                    self._give(session, call, row, each, tags[INTERFACE.name])
            remember(session, call, {"ReservationId": reservation_id})
            return _answer(session, reservation_id, call)

    def run_resources(self, call: Call) -> list[str]:
        """RunInstances is authorised on the image, the instance to be made, and its interfaces with their subnets and
        groups, wherever the request names them and also where it leaves them to a default."""
        image = f"arn:aws:ec2:{call.region}::image/{call.params.get('ImageId') or '*'}"  # of no account: it is public
        found = [image, arn(call, INSTANCE.name)]
        for interface_id, subnet_id, group_ids in self._named(call):
            found.append(arn(call, INTERFACE.name, interface_id or "*"))
            if not interface_id:
                found += [arn(call, SUBNET.name, subnet_id or "*"), *self.group_arns(call, subnet_id, group_ids)]
        return list(dict.fromkeys(found))

    def _named(self, call: Call) -> list[tuple[str, str, Sequence[str]]]:
        """(interface that is there, subnet, groups) of each interface. Nothing is refused before the caller is
        authorised: what is wrong with them, `_asked` says."""
        if given := call.params.get("NetworkInterfaces"):
            return [
                (item.get("NetworkInterfaceId") or "", item.get("SubnetId") or "", item.get("Groups") or ())
                for item in given
            ]
        with self.state.read() as session:
            subnet_id = call.params.get("SubnetId") or default_subnet(session) or ""
            vpc_id = session.scalar(select(network.Subnet.vpc_id).where(network.Subnet.subnet_id == subnet_id))
            by_name = _groups_by_name(session, vpc_id or "") if call.params.get("SecurityGroups") else {}
        names = [by_name.get(name, "*") for name in call.params.get("SecurityGroups") or ()]
        return [("", subnet_id, [*(call.params.get("SecurityGroupIds") or ()), *names])]

    def _asked(self, session: Session, call: Call) -> list[Asked]:
        given = call.params.get("NetworkInterfaces") or []
        if not given:
            return [self._only(session, call)]
        if both := [name for name in _ONE_NETWORK if call.params.get(name)]:
            raise ApiError(
                "InvalidParameterCombination",
                f"Network interfaces and an instance-level {both[0]} may not be specified on the same request",
            )
        found = [_interface_asked(item) for item in given]
        indexes = [each.device_index for each in found]
        if sorted(indexes) != list(range(len(indexes))):
            raise ApiError(
                "InvalidParameterValue", "The device indexes of network interfaces are 0, 1, 2 and so on, each once."
            )
        if len(found) > 1:
            if any(each.public for each in found):
                raise ApiError(
                    "InvalidParameterCombination",
                    "The associatePublicIPAddress parameter cannot be specified when launching with multiple network "
                    "interfaces.",
                )
            found = [replace(each, public=False) for each in found]
        return sorted(found, key=lambda each: each.device_index)

    def _only(self, session: Session, call: Call) -> Asked:
        subnet_id = call.params.get("SubnetId") or default_subnet(session)
        if subnet_id is None:
            raise ApiError("VPCIdNotSpecified", "No default VPC for this user. Name a subnet with SubnetId.")
        groups = [*(call.params.get("SecurityGroupIds") or ()), *_by_name(session, call, subnet_id)]
        addresses = {name: call.params.get(name) for name in ("PrivateIpAddress", "Ipv6AddressCount", "Ipv6Addresses")}
        return Asked(0, None, subnet_id, tuple(groups), "", True, addresses)

    def _room(self, session: Session, call: Call, asked: list[Asked], least: int, most: int) -> tuple[str, int]:
        """The one VPC of all interfaces, and how many instances their subnets and the quota have room for."""
        alive = (Instance.state.in_(instances.ALIVE), Instance.origin == instances.LAUNCHED)
        left = room(session, self.quotas.instances, Instance, *alive)
        if left < least:
            raise ApiError(
                "InstanceLimitExceeded",
                f"Your quota allows for {left} more running instance(s). You requested at least {least}",
            )
        count, vpcs, zones = min(most, left), set(), set()
        if new := sum(not each.interface_id for each in asked):
            interfaces = self.room_for_interfaces(session)
            refuse_without(interfaces, *INTERFACE_LIMIT, wanted=new * least)
            count = min(count, interfaces // new)
        for each in asked:
            if each.interface_id:
                subnet = INTERFACE.find(session, each.interface_id, lock=True).subnet
            else:
                subnet = SUBNET.find(session, each.subnet_id or "", lock=True)
                session.refresh(subnet, ["used_ipv4"])
                count = min(count, available(subnet))
            vpcs.add(subnet.vpc_id)
            zones.add(subnet.zone)
        if len(vpcs) > 1 or len(zones) > 1:
            raise ApiError(
                "InvalidParameterCombination",
                "The interfaces of an instance are in one VPC and one availability zone",  # memory
            )
        if count < least:
            raise ApiError(
                "InsufficientFreeAddressesInSubnet",
                "The specified subnet does not have enough free addresses to satisfy the request.",
            )
        return vpcs.pop(), count

    def _give(self, session: Session, call: Call, row: Instance, asked: Asked, tags: Mapping[str, str]) -> None:
        """The interface, made where it is not there, attached to the instance."""
        if asked.interface_id:
            interface = INTERFACE.find(session, asked.interface_id, lock=True)
            if interface.status == "in-use":
                raise ApiError("InvalidNetworkInterface.InUse", f"Interface: [{interface.interface_id}] in use.")
        else:
            subnet = SUBNET.find(session, asked.subnet_id or "", lock=True)
            groups = self.checked_groups(session, subnet.vpc_id, asked.groups)
            interface = new_interface(
                session, subnet, "interface", asked.description, groups, asked.addresses, call.now_ms
            )
            put_tags(session, INTERFACE, interface.interface_id, tags)
            if subnet.maps_public if asked.public is None else asked.public:
                interface.public_ip = free_address(session)
        if asked.device_index == 0:
            row.subnet_id = interface.subnet_id
        attach(session, interface, row, asked.device_index, asked.delete_on_termination, call.now_ms)


def _counts(call: Call) -> tuple[int, int]:
    least, most = required(call, "MinCount"), required(call, "MaxCount")
    if least < 1 or most < least:
        raise invalid_value(
            f"{least}, {most}", "MinCount, MaxCount", "They are numbers from 1 on, the first no larger."
        )
    return least, most


def _tags(call: Call) -> dict[str, dict[str, str]]:
    """The tags of TagSpecifications by the kind of resource that they are for."""
    given = call.params.get("TagSpecifications") or []
    kinds: dict[str, Kind] = {kind.name: kind for kind in (INSTANCE, INTERFACE)}
    for item in given:
        if item.get("ResourceType") not in kinds:
            raise ApiError(
                "InvalidParameterValue",
                f"'{item.get('ResourceType')}' is not a valid taggable resource type for this operation.",
            )
    return {
        name: tags_at_creation(call, kind, [item for item in given if item["ResourceType"] == name])
        for name, kind in kinds.items()
    }


def _interface_asked(item: Mapping[str, Any]) -> Asked:
    index, interface_id = item.get("DeviceIndex"), item.get("NetworkInterfaceId")
    if index is None or not 0 <= index <= DEVICE_INDEX_MAX:
        raise ApiError(
            "InvalidParameterValue", f"Each network interface requires a device index from 0 to {DEVICE_INDEX_MAX}."
        )
    public = item.get("AssociatePublicIpAddress")
    if public and index > 0:
        raise ApiError(
            "InvalidParameterCombination",
            "The associatePublicIPAddress parameter is only supported for the primary network interface.",
        )
    new = (
        "AssociatePublicIpAddress",
        "SubnetId",
        "Groups",
        "Description",
        "PrivateIpAddress",
        "PrivateIpAddresses",
        "Ipv6Addresses",
    )
    if interface_id and any(item.get(member) for member in new):
        raise ApiError(
            "InvalidParameterCombination", "A network interface may not specify both a network interface ID and more"
        )
    if not interface_id and not item.get("SubnetId"):
        raise ApiError("MissingParameter", "Each network interface requires either a subnet or an interface ID.")
    keeps = item.get("DeleteOnTermination")
    return Asked(
        device_index=index,
        interface_id=interface_id,
        subnet_id=item.get("SubnetId"),
        groups=tuple(item.get("Groups") or ()),
        description=item.get("Description") or "",
        delete_on_termination=bool(not interface_id if keeps is None else keeps),
        addresses=item,
        public=public,
    )


def _is_single(asked: Asked) -> bool:
    named = ("PrivateIpAddress", "PrivateIpAddresses", "Ipv6Addresses")
    return bool(asked.interface_id) or any(asked.addresses.get(name) for name in named)


def default_subnet(session: Session) -> str | None:
    row = network.Subnet
    return session.scalar(select(row.subnet_id).where(row.default_for_zone).order_by(row.zone))


def _groups_by_name(session: Session, vpc_id: str) -> dict[str, str]:
    row = firewall.SecurityGroup
    groups = select(row.name, row.group_id).where(row.vpc_id == vpc_id)
    return {name: group_id for name, group_id in session.execute(groups)}  # noqa: C416


def _by_name(session: Session, call: Call, subnet_id: str) -> list[str]:
    """Groups by name are those of the subnet's VPC (EC2: of the default VPC alone)."""
    names = call.params.get("SecurityGroups") or []
    if not names:
        return []
    vpc_id = SUBNET.find(session, subnet_id).vpc_id
    known = _groups_by_name(session, vpc_id)
    for name in names:
        if name not in known:
            raise ApiError("InvalidGroup.NotFound", f"The security group '{name}' does not exist in VPC '{vpc_id}'")
    return [known[name] for name in names]


def _answer(session: Session, reservation_id: str, call: Call) -> dict[str, Any]:
    session.expire_all()
    rows = session.scalars(
        select(Instance).where(Instance.reservation_id == reservation_id).order_by(Instance.number)
    ).all()
    [answer] = reservations(rows, call)
    return answer
