"""The condition keys of EC2 (service authorization reference, Amazon EC2): tags, ids, and where a resource is.

For a resource that is to be made, the VPC or the subnets that the call names. Where several are named, as by the
interfaces of RunInstances, a condition has all of them: no one hides behind another (`Variants`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.images import IMAGE_KEYS
from vnotch.api.ec2.part import (
    ELASTIC_ADDRESS,
    INSTANCE,
    INTERFACE,
    INTERNET_GATEWAY,
    KINDS,
    NAT_GATEWAY,
    NETWORK_ACL,
    ROUTE_TABLE,
    SECURITY_GROUP,
    SUBNET,
    VPC,
    Kind,
    arn,
)
from vnotch.api.ec2.run_instances import INSTANCE_TYPE, default_subnet
from vnotch.api.ec2.zone_ids import zones_of
from vnotch.api.request_context import request_tag_keys, tag_context
from vnotch.api.service import Call
from vnotch.iam.variables import Variants
from vnotch.store import network
from vnotch.store.state import State

Keys = dict[str, str | tuple[str, ...]]

_KIND_OF_ARN = {kind.name: kind for kind in KINDS.values()}
_ID_KEYS = {
    ELASTIC_ADDRESS: "ec2:allocationid",
    INSTANCE: "ec2:instanceid",
    INTERFACE: "ec2:networkinterfaceid",
    INTERNET_GATEWAY: "ec2:internetgatewayid",
    NETWORK_ACL: "ec2:networkaclid",
    ROUTE_TABLE: "ec2:routetableid",
    SECURITY_GROUP: "ec2:securitygroupid",
    SUBNET: "ec2:subnetid",
    VPC: "ec2:vpcid",
}
_ALWAYS: dict[Kind, Mapping[str, str]] = {
    ELASTIC_ADDRESS: {"ec2:domain": "vpc"},
    INSTANCE: {"ec2:tenancy": "default", "ec2:rootdevicetype": "instance-store", "ec2:ebsoptimized": "false"},
    VPC: {"ec2:tenancy": "default"},
}
"""What is the same of every one that there is or will be, as its description says it."""

_IN_SUBNETS = (INTERFACE, INSTANCE, NAT_GATEWAY)


def resource_keys(state: State, call: Call, resource: str) -> Keys:
    """All keys that a call has because of one resource. Tags that it asks for are keys of the resource that is to have
    them, and of no other: the subnet of a new instance is not tagged."""
    kind_name, _, resource_id = resource.rpartition(":")[2].partition("/")
    if kind_name == "image":
        return {**IMAGE_KEYS, "ec2:imageid": resource_id, "ec2:owner": call.account}
    kind = _KIND_OF_ARN.get(kind_name)
    if kind is None:
        return {}
    keys: Keys = {**_ALWAYS.get(kind, {})}
    with state.read() as session:
        if resource_id == "*":
            specifications = call.params.get("TagSpecifications") or ()
            asked = [item for item in specifications if item.get("ResourceType") == kind.name]
            tags = request_tag_keys([tag for item in asked for tag in item.get("Tags") or ()])
            return keys | _of_new(session, call, kind) | tags
        if kind in _ID_KEYS:
            keys[_ID_KEYS[kind]] = resource_id
        rows = session.scalars(select(network.Tag).where(network.Tag.resource_id == resource_id)).all()
        listed = [{"Key": row.key, "Value": row.value} for row in rows]
        keys |= tag_context(listed, "aws:resourcetag/", "ec2:resourcetag/")
        row = session.scalar(select(kind.entity).where(kind.id_column == resource_id))
        return keys if row is None else keys | _of_place(session, call, kind, row)


def _of_new(session: Session, call: Call, kind: Kind) -> Keys:
    """Where a resource that is to be made will be."""
    keys: Keys = {}
    if kind is not VPC and isinstance(vpc_id := call.params.get("VpcId"), str):
        keys["ec2:vpc"] = arn(call, VPC.name, vpc_id)
    if kind is INSTANCE:
        keys["ec2:instancetype"] = call.params.get("InstanceType") or INSTANCE_TYPE
    if kind is SUBNET:
        for zone in zones_of(call.region):
            if (
                call.params.get("AvailabilityZone") == zone.name
                or call.params.get("AvailabilityZoneId") == zone.zone_id
            ):
                keys |= {"ec2:availabilityzone": zone.name, "ec2:availabilityzoneid": zone.zone_id}
    return keys | (_of_subnets(call, kind, _subnets_asked(session, call)) if kind in _IN_SUBNETS else {})


def _subnets_asked(session: Session, call: Call) -> list[network.Subnet]:
    """The subnets of what the call makes, by whatever it names them."""
    row, given = network.Subnet, call.params.get("NetworkInterfaces") or ()
    named = {call.params.get("SubnetId"), *(item.get("SubnetId") for item in given)} - {None, ""}
    interfaces = {item.get("NetworkInterfaceId") for item in given} - {None, ""}
    if not named and not interfaces and call.operation == "RunInstances":
        named = {default_subnet(session)}
    interface = network.NetworkInterface
    of_interfaces = select(interface.subnet_id).where(interface.interface_id.in_(interfaces))
    return list(session.scalars(select(row).where(row.subnet_id.in_(named) | row.subnet_id.in_(of_interfaces))))


def _of_place(session: Session, call: Call, kind: Kind, row: Any) -> Keys:
    if kind is SUBNET:
        return {
            "ec2:vpc": arn(call, VPC.name, row.vpc_id),
            "ec2:availabilityzone": row.zone,
            "ec2:availabilityzoneid": row.zone_id,
        }
    if kind is ELASTIC_ADDRESS:
        return {"ec2:publicipaddress": row.public_ip}
    if kind in _IN_SUBNETS:
        keys = _of_subnets(call, kind, session.scalars(select(network.Subnet).filter_by(subnet_id=row.subnet_id)))
        return keys | ({"ec2:instancetype": row.instance_type} if kind is INSTANCE and row.instance_type else {})
    vpc_id = getattr(row, "vpc_id", None)
    return {"ec2:vpc": arn(call, VPC.name, vpc_id)} if kind is not VPC and isinstance(vpc_id, str) else {}


def _of_subnets(call: Call, kind: Kind, subnets: Iterable[network.Subnet]) -> Keys:
    """Of an interface, an instance or a NAT gateway in one of these subnets."""
    found: dict[str, list[str]] = {}
    for subnet in subnets:
        each = {"ec2:vpc": arn(call, VPC.name, subnet.vpc_id), "ec2:availabilityzone": subnet.zone}
        if kind is INTERFACE:
            each["ec2:subnet"] = arn(call, SUBNET.name, subnet.subnet_id)
        if kind is INSTANCE:
            each["ec2:availabilityzoneid"] = subnet.zone_id
        for key, value in each.items():
            found.setdefault(key, []).append(value)
    return {key: values[0] if len(set(values)) == 1 else Variants(values) for key, values in found.items()}
