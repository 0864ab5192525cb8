"""Subnets: create, describe, delete."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.addresses import capacity, invalid_range, ipv4_cidr, ipv6_cidr
from vnotch.api.ec2.filters import NEVER, TAG_KEY, Filter, column, constant, present
from vnotch.api.ec2.part import (
    SUBNET,
    VPC,
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
from vnotch.api.ec2.zone_ids import Zone, zones_of
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, firewall, network
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

IPV6_LENGTHS = range(64, 65)

_ZONE, _ZONE_ID, _CIDR = column(network.Subnet.zone), column(network.Subnet.zone_id), column(network.Subnet.cidr)

_DEFAULT_FOR_ZONE = Filter(lambda subnet: (subnet.default_for_zone,))

DESCRIBE = Describe(
    SUBNET,
    "SubnetIds",
    {
        **TAG_KEY,
        "availability-zone": _ZONE,
        "availabilityZone": _ZONE,
        "availability-zone-id": _ZONE_ID,
        "availabilityZoneId": _ZONE_ID,
        "available-ip-address-count": Filter(lambda subnet: (available(subnet),)),
        "cidr-block": _CIDR,
        "cidr": _CIDR,
        "cidrBlock": _CIDR,
        "default-for-az": _DEFAULT_FOR_ZONE,
        "defaultForAz": _DEFAULT_FOR_ZONE,
        "enable-dns64": constant(False),
        "ipv6-cidr-block-association.ipv6-cidr-block": Filter(lambda subnet: present(subnet.ipv6_cidr)),
        "ipv6-cidr-block-association.association-id": Filter(lambda subnet: present(subnet.ipv6_association_id)),
        "ipv6-cidr-block-association.state": Filter(lambda subnet: ("associated",) if subnet.ipv6_cidr else ()),
        "ipv6-native": constant(False),
        "customer-owned-ipv4-pool": NEVER,
        "enable-lni-at-device-index": NEVER,
        "outpost-arn": NEVER,
        "private-dns-name-options-on-launch.hostname-type": constant("ip-name"),
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record": constant(False),
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": constant(False),
        "map-customer-owned-ip-on-launch": constant(False),
        "map-public-ip-on-launch": Filter(lambda subnet: (subnet.maps_public,)),
        "state": constant("available"),
        "subnet-id": column(network.Subnet.subnet_id),
        "vpc-id": column(network.Subnet.vpc_id),
    },
    ShownRows(network.Subnet, "tags", columns="used_ipv4"),
    of_account=lambda account, region: {
        "owner-id": constant(account),
        "subnet-arn": Filter(lambda subnet: (f"arn:aws:ec2:{region}:{account}:subnet/{subnet.subnet_id}",)),
    },
)


class Subnets(Ec2Part):
    @ec2_operation(
        "CreateSubnet",
        "VpcId CidrBlock Ipv6CidrBlock AvailabilityZone AvailabilityZoneId TagSpecifications",
        arns("subnet", "vpc:VpcId"),
    )
    def create_subnet(self, call: Call) -> dict[str, Any]:
        block = ipv4_cidr(required(call, "CidrBlock"), "InvalidSubnet.Range")
        given = call.params.get("Ipv6CidrBlock")
        ipv6 = ipv6_cidr(given, IPV6_LENGTHS, "InvalidSubnet.Range") if given else None
        zone = asked_zone(self.region, call)
        tags = tags_at_creation(call, SUBNET)
        with self.state.write() as session:
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            self.refuse_more_subnets(session, vpc)
            subnet = new_subnet(session, vpc, block, ipv6, zone, call.now_ms)
            put_tags(session, SUBNET, subnet.subnet_id, tags)
            agents.touch_tagged(session, [subnet.subnet_id], tags)
            session.refresh(subnet)
            return {"Subnet": describe_subnet(subnet, call)}

    def refuse_more_subnets(self, session: Session, vpc: network.Vpc) -> None:
        left = room(session, self.quotas.subnets_per_vpc, network.Subnet, network.Subnet.vpc_id == vpc.vpc_id)
        refuse_without(left, "SubnetLimitExceeded", "subnets")

    @ec2_operation("DescribeSubnets", "SubnetIds Filters MaxResults NextToken", filters=DESCRIBE.names)
    def describe_subnets(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"Subnets": [describe_subnet(subnet, call) for subnet in rows], **more}

    @ec2_operation("DeleteSubnet", "SubnetId", arns("subnet:SubnetId"))
    def delete_subnet(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            subnet = SUBNET.find(session, required(call, "SubnetId"), lock=True)
            if session.scalar(select(exists().where(network.NetworkInterface.subnet_id == subnet.subnet_id))):
                raise ApiError(
                    "DependencyViolation", f"The subnet '{subnet.subnet_id}' has dependencies and cannot be deleted."
                )
            keys = {tag.key for tag in subnet.tags}
            drop_tags(session, [subnet.subnet_id])
            agents.touch_tagged(session, [subnet.subnet_id], keys)
            session.execute(delete(network.Subnet).where(network.Subnet.subnet_id == subnet.subnet_id))
        return {}


def asked_zone(region: str, call: Call) -> Zone:
    """The zone that is asked for; without one the first, where AWS chooses."""
    zones = zones_of(region)
    name, zone_id = call.params.get("AvailabilityZone"), call.params.get("AvailabilityZoneId")
    for zone in zones:
        if name in (None, zone.name) and zone_id in (None, zone.zone_id):
            return zone
    member, value = ("availabilityZone", name) if name else ("availabilityZoneId", zone_id)
    known = ", ".join(zone.name if name else zone.zone_id for zone in zones)
    raise invalid_value(
        value, member, f"Subnets can currently only be created in the following availability zones: {known}."
    )


def new_subnet(
    session: Session,
    vpc: network.Vpc,
    block: IPv4Network,
    ipv6: IPv6Network | None,
    zone: Zone,
    now_ms: int,
    default_for_zone: bool = False,
) -> network.Subnet:
    """In the VPC, beside its other subnets, under its default network ACL. The caller has locked the VPC."""
    siblings = list(session.scalars(select(network.Subnet).where(network.Subnet.vpc_id == vpc.vpc_id)))
    check_place(block, vpc, [sibling.cidr for sibling in siblings])
    if ipv6:
        check_place(ipv6, vpc, [sibling.ipv6_cidr for sibling in siblings if sibling.ipv6_cidr])
    subnet = network.Subnet(
        subnet_id=new_id("subnet"),
        vpc_id=vpc.vpc_id,
        cidr=str(block),
        ipv6_cidr=str(ipv6) if ipv6 else None,
        ipv6_association_id=new_id("subnet-cidr-assoc") if ipv6 else None,
        zone=zone.name,
        zone_id=zone.zone_id,
        created_ms=now_ms,
        default_for_zone=default_for_zone,
        maps_public=default_for_zone,
    )
    session.add(subnet)
    session.flush()
    firewall.associate_default(session, subnet)
    return subnet


def available(subnet: network.Subnet) -> int:
    """AvailableIpAddressCount: the five reserved addresses and those of interfaces are taken (VPC user guide)."""
    return capacity(IPv4Network(subnet.cidr)) - subnet.used_ipv4


def check_place(block: IPv4Network | IPv6Network, vpc: network.Vpc, siblings: list[str]) -> None:
    """Inside one of the VPC's blocks and beside all other subnets."""
    kind: Any = type(block)
    if not any(block.subnet_of(kind(cidr.cidr)) for cidr in vpc.cidrs_of(block.version)):
        raise invalid_range(block, "InvalidSubnet.Range")
    if any(block.overlaps(kind(cidr)) for cidr in siblings):
        raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{block}' conflicts with another subnet")


def describe_subnet(subnet: network.Subnet, call: Call) -> dict[str, Any]:
    return {
        "SubnetId": subnet.subnet_id,
        "SubnetArn": arn(call, SUBNET.name, subnet.subnet_id),
        "VpcId": subnet.vpc_id,
        "OwnerId": call.account,
        "State": "available",
        "CidrBlock": subnet.cidr,
        "Ipv6CidrBlockAssociationSet": ipv6_associations(subnet),
        "AvailableIpAddressCount": available(subnet),
        "AvailabilityZone": subnet.zone,
        "AvailabilityZoneId": subnet.zone_id,
        "DefaultForAz": subnet.default_for_zone,
        "MapPublicIpOnLaunch": subnet.maps_public,
        "MapCustomerOwnedIpOnLaunch": False,
        "AssignIpv6AddressOnCreation": subnet.gives_ipv6,
        "EnableDns64": False,
        "Ipv6Native": False,
        "PrivateDnsNameOptionsOnLaunch": {
            "HostnameType": "ip-name",
            "EnableResourceNameDnsARecord": False,
            "EnableResourceNameDnsAAAARecord": False,
        },
        "Tags": tag_set(subnet.tags),
    }


def ipv6_associations(subnet: network.Subnet) -> list[dict[str, Any]]:
    if subnet.ipv6_cidr is None:
        return []
    return [
        {
            "AssociationId": subnet.ipv6_association_id,
            "Ipv6CidrBlock": subnet.ipv6_cidr,
            "Ipv6CidrBlockState": {"State": "associated"},
            "Ipv6AddressAttribute": "private" if IPv6Network(subnet.ipv6_cidr).is_private else "public",
            "IpSource": "amazon",
        }
    ]
