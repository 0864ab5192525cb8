"""The condition keys of EC2 (service authorization reference, Amazon EC2): tags, VPC, subnet and zone of a resource.

For a resource that is to be made, the VPC or subnet that the call names.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.part import INSTANCE, INTERFACE, KINDS, SUBNET, VPC, Kind, arn
from vnotch.api.ec2.run_instances import INSTANCE_TYPE
from vnotch.api.request_context import request_tag_keys, tag_context
from vnotch.api.service import Call
from vnotch.store import network
from vnotch.store.state import State

Keys = dict[str, str | tuple[str, ...]]

_KIND_OF_ARN = {kind.name: kind for kind in KINDS.values()}
_ID_KEYS = {
    "vpc": "ec2:vpcid",
    "subnet": "ec2:subnetid",
    "network-interface": "ec2:networkinterfaceid",
    "security-group": "ec2:securitygroupid",
}


def resource_keys(state: State, call: Call, resource: str) -> Keys:
    """All keys that a call has because of one resource. Tags that it asks for are keys of the resource that is to have
    them, and of no other: the subnet of a new instance is not tagged."""
    kind_name, _, resource_id = resource.rpartition(":")[2].partition("/")
    kind = _KIND_OF_ARN.get(kind_name)
    if kind is None:
        return {}
    with state.read() as session:
        if resource_id == "*":
            specifications = call.params.get("TagSpecifications") or ()
            asked = [item for item in specifications if item.get("ResourceType") == kind.name]
            return _of_new(session, call, kind) | request_tag_keys(
                [tag for item in asked for tag in item.get("Tags") or ()]
            )
        keys: Keys = {_ID_KEYS[kind.name]: resource_id} if kind.name in _ID_KEYS else {}
        tags = session.scalars(select(network.Tag).where(network.Tag.resource_id == resource_id)).all()
        listed = [{"Key": tag.key, "Value": tag.value} for tag in tags]
        keys |= tag_context(listed, "aws:resourcetag/", "ec2:resourcetag/")
        row = session.scalar(select(kind.entity).where(kind.id_column == resource_id))
        return keys if row is None else keys | _of_place(call, kind, row)


def _of_new(session: Session, call: Call, kind: Kind) -> Keys:
    """Where a resource that is to be made will be."""
    keys: Keys = {}
    if kind is not VPC and isinstance(vpc_id := call.params.get("VpcId"), str):
        keys["ec2:vpc"] = arn(call, VPC.name, vpc_id)
    subnet_id = call.params.get("SubnetId")
    if kind is INSTANCE:
        keys["ec2:instancetype"] = call.params.get("InstanceType") or INSTANCE_TYPE
    if kind in (INTERFACE, INSTANCE) and isinstance(subnet_id, str):
        subnet = session.scalar(select(network.Subnet).where(network.Subnet.subnet_id == subnet_id))
        if subnet is not None:
            keys |= _of_subnet(call, subnet)
    return keys


def _of_place(call: Call, kind: Kind, row: Any) -> Keys:
    if kind is INTERFACE:
        return _of_subnet(call, row.subnet)
    keys: Keys = {}
    vpc_id = getattr(row, "vpc_id", None)
    if kind is not VPC and isinstance(vpc_id, str):
        keys["ec2:vpc"] = arn(call, VPC.name, vpc_id)
    if kind is SUBNET:
        keys["ec2:availabilityzone"] = row.zone
    if kind is INSTANCE and row.instance_type:
        keys["ec2:instancetype"] = row.instance_type
    return keys


def _of_subnet(call: Call, subnet: network.Subnet) -> Keys:
    """Of an interface in it."""
    return {
        "ec2:vpc": arn(call, VPC.name, subnet.vpc_id),
        "ec2:subnet": arn(call, SUBNET.name, subnet.subnet_id),
        "ec2:availabilityzone": subnet.zone,
    }
