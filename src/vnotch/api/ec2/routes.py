"""Routes: create, replace, delete. They lead to an internet gateway, a NAT gateway, an interface or an instance.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sqlalchemy.orm import Session

from vnotch.api.ec2.addresses import no_cidr
from vnotch.api.ec2.instances import only_interface
from vnotch.api.ec2.part import (
    INSTANCE,
    INTERFACE,
    INTERNET_GATEWAY,
    NAT_GATEWAY,
    ROUTE_TABLE,
    Ec2Part,
    arns,
    ec2_operation,
    invalid_value,
    required,
)
from vnotch.api.ec2.route_tables import touch
from vnotch.api.service import ApiError, Call
from vnotch.store.routing import Route, RouteTable

DESTINATIONS = ("DestinationCidrBlock", "DestinationIpv6CidrBlock")
TARGETS = ("GatewayId", "NatGatewayId", "NetworkInterfaceId", "InstanceId")
NAT64 = IPv6Network("64:ff9b::/96")
"""The only IPv6 destination that leads to a NAT gateway (VPC user guide, DNS64 and NAT64)."""

_HONOURED = " ".join(("RouteTableId", *DESTINATIONS, *TARGETS))


class Routes(Ec2Part):
    @ec2_operation("CreateRoute", _HONOURED, arns("route-table:RouteTableId"))
    def create_route(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            table: RouteTable = ROUTE_TABLE.find(session, required(call, "RouteTableId"), lock=True)
            destination = _destination(call)
            target = _target(session, table, call, destination)
            if str(destination) in table.local or table.route(str(destination)):
                raise ApiError("RouteAlreadyExists", f"The route identified by {destination} already exists.")
            if len(table.routes) >= self.quotas.routes_per_route_table:
                raise ApiError("RouteLimitExceeded", "The maximum number of routes has been reached.")
            table.routes.append(Route(destination=str(destination), target=target))
            session.flush()
            touch(session, table)
        return {"Return": True}

    @ec2_operation("ReplaceRoute", _HONOURED, arns("route-table:RouteTableId"))
    def replace_route(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            table: RouteTable = ROUTE_TABLE.find(session, required(call, "RouteTableId"), lock=True)
            destination = _destination(call)
            if str(destination) in table.local:
                # AWS takes another target for a local route; here it is left as it is.
                raise ApiError("UnsupportedOperation", "The target of a local route is not changed by vnotch.")
            target = _target(session, table, call, destination)
            route = table.route(str(destination))
            if route is None:
                raise invalid_parameter(
                    f"There is no route defined for '{destination}' in the route table. Use CreateRoute instead."
                )
            route.target = target
            session.flush()
            touch(session, table)
        return {}

    @ec2_operation("DeleteRoute", " ".join(("RouteTableId", *DESTINATIONS)), arns("route-table:RouteTableId"))
    def delete_route(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            table: RouteTable = ROUTE_TABLE.find(session, required(call, "RouteTableId"), lock=True)
            destination = _destination(call)
            if str(destination) in table.local:
                raise invalid_parameter(
                    f"cannot remove local route {destination} in route table {table.route_table_id}"
                )
            route = table.route(str(destination))
            if route is None:
                member = "destination-cidr-block" if destination.version == 4 else "destination-ipv6-cidr-block"
                raise ApiError(
                    "InvalidRoute.NotFound",
                    f"no route with {member} {destination} in route table {table.route_table_id}",
                )
            touch(session, table)
            table.routes.remove(route)
        return {}


def invalid_parameter(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)


def _destination(call: Call) -> IPv4Network | IPv6Network:
    """In canonical form (API CreateRoute: host bits are cleared)."""
    member, text = _one_of(call, DESTINATIONS)
    kind = IPv4Network if member == "DestinationCidrBlock" else IPv6Network
    _, slash, length = text.rpartition("/")
    try:
        if slash and length.isascii() and length.isdigit():
            return kind(text, strict=False)
    except ValueError:
        pass
    raise no_cidr(text, member[0].lower() + member[1:])


def _one_of(call: Call, members: tuple[str, ...]) -> tuple[str, str]:
    given = [(member, call.params[member]) for member in members if call.params.get(member)]
    if len(given) == 1:
        return given[0]
    names = ", ".join(member[0].lower() + member[1:] for member in members)
    code = "InvalidParameterCombination" if given else "MissingParameter"
    raise ApiError(code, f"The request must contain exactly one of {names}")


def _target(session: Session, table: RouteTable, call: Call, destination: IPv4Network | IPv6Network) -> str:
    """The target's id, once it is known to be there and in the table's VPC."""
    member, target_id = _one_of(call, TARGETS)
    if member not in ("NetworkInterfaceId", "InstanceId"):
        _check_outside(table, destination)
    if member == "GatewayId":
        return _internet_gateway(session, table, target_id)
    if member == "NatGatewayId":
        return _nat_gateway(session, table, target_id, destination)
    if member == "InstanceId":
        target_id = _interface_of(session, target_id)
    interface = INTERFACE.find(session, target_id)
    _check_network(table, interface.vpc_id, f"interface {target_id}")
    return target_id


def _internet_gateway(session: Session, table: RouteTable, gateway_id: str) -> str:
    try:
        gateway = INTERNET_GATEWAY.find(session, gateway_id)
    except ApiError:
        raise ApiError("InvalidGatewayID.NotFound", f"The gateway ID '{gateway_id}' does not exist") from None
    _check_network(table, gateway.vpc_id, f"network gateway {gateway_id}")
    return gateway_id


def _nat_gateway(
    session: Session, table: RouteTable, nat_gateway_id: str, destination: IPv4Network | IPv6Network
) -> str:
    try:
        gateway = NAT_GATEWAY.find(session, nat_gateway_id)
    except ApiError:
        raise ApiError("InvalidNatGatewayID.NotFound", f"The natGateway ID '{nat_gateway_id}' does not exist") from None
    if isinstance(destination, IPv6Network) and destination != NAT64:
        raise invalid_value(destination, "destinationIpv6CidrBlock", f"Only {NAT64} leads to a NAT gateway.")
    _check_network(table, gateway.vpc_id, f"NAT gateway {nat_gateway_id}")
    return nat_gateway_id


def _interface_of(session: Session, instance_id: str) -> str:
    """The one interface of an instance."""
    return only_interface(INSTANCE.find(session, instance_id)).interface_id


def _check_outside(table: RouteTable, destination: IPv4Network | IPv6Network) -> None:
    """Within the VPC's blocks a route leads to an interface only; for a block itself there is a route already."""
    kind: Any = type(destination)
    blocks = [kind(cidr) for cidr in table.local if (":" in cidr) == (destination.version == 6)]
    if any(destination != block and destination.subnet_of(block) for block in blocks):
        raise invalid_parameter(
            f"The destination CIDR block {destination} is equal to or more specific than one of this VPC's CIDR "
            "blocks. This route can target only an interface or an instance."
        )


def _check_network(table: RouteTable, vpc_id: str | None, what: str) -> None:
    if vpc_id != table.vpc_id:
        raise invalid_parameter(f"route table {table.route_table_id} and {what} belong to different networks")
