"""Route tables: create, describe, delete, and which subnets follow them.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.filters import NEVER, TAG_KEY, Filter, column
from vnotch.api.ec2.part import (
    ROUTE_TABLE,
    SUBNET,
    VPC,
    Describe,
    Ec2Part,
    arns,
    ec2_operation,
    required,
    tag_set,
)
from vnotch.api.ec2.room import refuse_without, room
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, network
from vnotch.store.routing import Route, RouteTable, RouteTableAssociation, ends_of, followers
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

ASSOCIATED = "associated"


def _of_associations(value: Callable[[RouteTableAssociation], Any]) -> Filter:
    return Filter(
        lambda table: (found for row in table.associations if (found := value(row)) is not None),
    )


SHOWN = ShownRows(RouteTable, "vpc.cidrs associations routes tags")


def _filters(session: Session) -> dict[str, Filter]:
    """Those on routes are on them as they are described, the local ones included."""

    def of_routes(member: str) -> Filter:
        return Filter(lambda table: (route[member] for route in routes_of(session, table) if member in route))

    return {
        **TAG_KEY,
        "association.gateway-id": NEVER,
        "association.main": _of_associations(lambda row: row.main),
        "association.route-table-association-id": _of_associations(lambda row: row.association_id),
        "association.route-table-id": _of_associations(lambda row: row.route_table_id),
        "association.subnet-id": _of_associations(lambda row: row.subnet_id),
        "route-table-id": column(RouteTable.route_table_id),
        "route.destination-cidr-block": of_routes("DestinationCidrBlock"),
        "route.destination-ipv6-cidr-block": of_routes("DestinationIpv6CidrBlock"),
        "route.destination-prefix-list-id": NEVER,
        "route.egress-only-internet-gateway-id": NEVER,
        "route.gateway-id": of_routes("GatewayId"),
        "route.instance-id": of_routes("InstanceId"),
        "route.nat-gateway-id": of_routes("NatGatewayId"),
        "route.origin": of_routes("Origin"),
        "route.state": of_routes("State"),
        "route.transit-gateway-id": NEVER,
        "route.vpc-peering-connection-id": NEVER,
        "vpc-id": column(RouteTable.vpc_id),
    }


FILTER_NAMES = {*_filters(Session()), "owner-id"}


class RouteTables(Ec2Part):
    @ec2_operation("CreateRouteTable", "VpcId TagSpecifications ClientToken", arns("route-table", "vpc:VpcId"))
    def create_route_table(self, call: Call) -> dict[str, Any]:
        tags = tags_at_creation(call, ROUTE_TABLE)
        with self.state.write() as session:
            if earlier := replay(session, call):
                return _created(session, ROUTE_TABLE.find(session, earlier["RouteTableId"]), call)
            vpc = VPC.find(session, required(call, "VpcId"), lock=True)
            left = room(session, self.quotas.route_tables_per_vpc, RouteTable, RouteTable.vpc_id == vpc.vpc_id)
            refuse_without(left, "RouteTableLimitExceeded", "route tables")
            table = RouteTable(route_table_id=new_id("rtb"), vpc_id=vpc.vpc_id, created_ms=call.now_ms)
            session.add(table)
            session.flush()
            put_tags(session, ROUTE_TABLE, table.route_table_id, tags)
            remember(session, call, {"RouteTableId": table.route_table_id})
            session.refresh(table)
            return _created(session, table, call)

    @ec2_operation("DescribeRouteTables", "RouteTableIds Filters MaxResults NextToken", filters=FILTER_NAMES)
    def describe_route_tables(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            describe = Describe(ROUTE_TABLE, "RouteTableIds", _filters(session), SHOWN, results=(5, 100))
            rows, more = describe.rows(session, call)
            return {"RouteTables": [_describe(session, table, call) for table in rows], **more}

    @ec2_operation("DeleteRouteTable", "RouteTableId", arns("route-table:RouteTableId"))
    def delete_route_table(self, call: Call) -> dict[str, Any]:
        """Neither the main one nor one that a subnet follows."""
        with self.state.write() as session:
            table: RouteTable = ROUTE_TABLE.find(session, required(call, "RouteTableId"), lock=True)
            if table.associations:
                raise ApiError(
                    "DependencyViolation",
                    f"The routeTable '{table.route_table_id}' has dependencies and cannot be deleted.",
                )
            drop_tags(session, [table.route_table_id])
            session.execute(delete(RouteTable).where(RouteTable.route_table_id == table.route_table_id))
        return {}

    @ec2_operation("AssociateRouteTable", "RouteTableId SubnetId", arns("route-table:RouteTableId", "subnet:SubnetId"))
    def associate_route_table(self, call: Call) -> dict[str, Any]:
        """A subnet follows one table at a time; the same association again is the same."""
        with self.state.write() as session:
            table: RouteTable = ROUTE_TABLE.find(session, required(call, "RouteTableId"), lock=True)
            subnet = SUBNET.find(session, required(call, "SubnetId"), lock=True)
            _check_network(table, subnet)
            row = RouteTableAssociation
            association = session.scalar(select(row).where(row.subnet_id == subnet.subnet_id))
            if association is None:
                association = row(association_id=new_id("rtbassoc"), vpc_id=table.vpc_id, subnet_id=subnet.subnet_id)
                table.associations.append(association)
                session.flush()
                agents.touch(session, agents.agents_on(session, [subnet.subnet_id]))
            elif association.route_table_id != table.route_table_id:
                raise ApiError(
                    "Resource.AlreadyAssociated",
                    f"the specified association for route table {table.route_table_id} conflicts with an existing "
                    "association",
                )
            return {"AssociationId": association.association_id, "AssociationState": {"State": ASSOCIATED}}

    @ec2_operation("DisassociateRouteTable", "AssociationId", "route_table_of_association")
    def disassociate_route_table(self, call: Call) -> dict[str, Any]:
        """The subnet follows the main table again."""
        with self.state.write() as session:
            association = _association(session, required(call, "AssociationId"))
            if association.subnet_id is None:
                raise ApiError(
                    "InvalidParameterValue",
                    f"cannot disassociate the main route table association {association.association_id}",
                )
            agents.touch(session, agents.agents_on(session, [association.subnet_id]))
            row = RouteTableAssociation
            session.execute(delete(row).where(row.association_id == association.association_id))
        return {}

    @ec2_operation("ReplaceRouteTableAssociation", "AssociationId RouteTableId", arns("route-table:RouteTableId"))
    def replace_route_table_association(self, call: Call) -> dict[str, Any]:
        """The subnet, or with the main association the VPC, follows another table, by a new association."""
        with self.state.write() as session:
            association = _association(session, required(call, "AssociationId"))
            table: RouteTable = ROUTE_TABLE.find(session, required(call, "RouteTableId"), lock=True)
            if association.subnet_id is not None:
                _check_network(table, SUBNET.find(session, association.subnet_id))
            elif association.vpc_id != table.vpc_id:
                # Formed like its neighbours.
                raise ApiError(
                    "InvalidParameterValue",
                    f"route table {table.route_table_id} and network {association.vpc_id} belong to different networks",
                )
            association.association_id = new_id("rtbassoc")
            association.route_table_id = table.route_table_id
            session.flush()
            agents.touch(session, agents.agents_on(session, [association.subnet_id or association.vpc_id]))
            return {"NewAssociationId": association.association_id, "AssociationState": {"State": ASSOCIATED}}

    def route_table_of_association(self, call: Call) -> list[str]:
        """DisassociateRouteTable is authorised on the table, which its request does not name."""
        row, given = RouteTableAssociation, call.params.get("AssociationId") or ""
        return self.arns_of(call, (ROUTE_TABLE, select(row.route_table_id).where(row.association_id == given)))


def _association(session: Session, association_id: str) -> RouteTableAssociation:
    row = session.scalar(
        select(RouteTableAssociation).where(RouteTableAssociation.association_id == association_id).with_for_update()
    )
    if row is None:
        raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{association_id}' does not exist")
    return row


def _check_network(table: RouteTable, subnet: network.Subnet) -> None:
    if table.vpc_id != subnet.vpc_id:
        raise ApiError(
            "InvalidParameterValue",
            f"route table {table.route_table_id} and subnet {subnet.subnet_id} belong to different networks",
        )


def touch(session: Session, table: RouteTable) -> None:
    """Tells the agents whose interfaces follow the table."""
    agents.touch(session, agents.agents_on(session, followers(session, table)))


def _created(session: Session, table: RouteTable, call: Call) -> dict[str, Any]:
    token = call.params.get("ClientToken")
    return {"RouteTable": _describe(session, table, call)} | ({"ClientToken": token} if token else {})


def _describe(session: Session, table: RouteTable, call: Call) -> dict[str, Any]:
    return {
        "RouteTableId": table.route_table_id,
        "VpcId": table.vpc_id,
        "OwnerId": call.account,
        "Associations": [_describe_association(row) for row in table.associations],
        "PropagatingVgws": [],
        "Routes": routes_of(session, table, call.account),
        "Tags": tag_set(table.tags),
    }


def _describe_association(row: RouteTableAssociation) -> dict[str, Any]:
    return {
        "RouteTableAssociationId": row.association_id,
        "RouteTableId": row.route_table_id,
        "Main": row.main,
        "AssociationState": {"State": ASSOCIATED},
    } | ({"SubnetId": row.subnet_id} if row.subnet_id else {})


def routes_of(session: Session, table: RouteTable, account: str = "") -> list[dict[str, Any]]:
    """As described: the local ones first, one for each block of the VPC, then the others as they were made."""
    ends = ends_of(session, [route.target for route in table.routes])
    local = [
        {_destination(cidr): cidr, "GatewayId": "local", "Origin": "CreateRouteTable", "State": "active"}
        for cidr in table.local
    ]
    return local + [_route(session, route, route.target in ends, account) for route in table.routes]


def _route(session: Session, route: Route, active: bool, account: str) -> dict[str, Any]:
    shown = {
        _destination(route.destination): route.destination,
        "Origin": "CreateRoute",
        "State": "active" if active else "blackhole",
    }
    if route.target.startswith("nat-"):
        return shown | {"NatGatewayId": route.target}
    if route.target.startswith("igw-"):
        return shown | {"GatewayId": route.target}
    shown |= {"NetworkInterfaceId": route.target}
    row = network.NetworkInterface
    interface = session.scalar(select(row).where(row.interface_id == route.target))
    if interface is not None and interface.instance_id:
        shown |= {"InstanceId": interface.instance_id, "InstanceOwnerId": account}
    return shown


def _destination(cidr: str) -> str:
    return "DestinationIpv6CidrBlock" if ":" in cidr else "DestinationCidrBlock"
