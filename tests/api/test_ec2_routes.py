"""Internet gateways, NAT gateways and route tables as boto3 sees them, and as agents hear of them.

Expected members are those of API CreateRoute, DescribeRouteTables and their like; expected texts are those that users
of AWS have published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from refusals import refused
from test_agents import Client

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.quotas import Quotas
from vnotch.inventory import Interface
from vnotch.store import network, routing

ACCOUNT = "123456789012"
ROUTES_MAX = 4
TABLES_MAX = 4


@pytest.fixture(scope="module")
def ec2(shared_api: Any) -> Any:
    agents = Agents(shared_api.state, shared_api.accounts)
    quotas = Quotas(
        routes_per_route_table=ROUTES_MAX,
        route_tables_per_vpc=TABLES_MAX,
        elastic_addresses=100,
        nat_gateways_per_zone=100,
    )
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts, quotas=quotas), routes=agents.routes())
    return shared_api.client("ec2", parameter_validation=False)


@dataclass
class Place:
    """A VPC of one test, with an agent `a` on its own."""

    api: Any
    ec2: Any
    vpc: str
    subnet: str
    agent: str

    @property
    def main(self) -> dict[str, Any]:
        given = [{"Name": "vpc-id", "Values": [self.vpc]}, {"Name": "association.main", "Values": ["true"]}]
        [table] = self.ec2.describe_route_tables(Filters=given)["RouteTables"]
        return dict(table)

    def more_subnet(self, cidr: str) -> str:
        return str(self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr)["Subnet"]["SubnetId"])

    def table(self) -> str:
        return str(self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"])

    def gateway(self, attach: bool = True) -> str:
        gateway = str(self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"])
        if attach:
            self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        return gateway

    def nat(self, **params: Any) -> tuple[str, str]:
        """-> its id and its interface's."""
        if params.get("ConnectivityType") != "private":
            params.setdefault("AllocationId", self.ec2.allocate_address()["AllocationId"])
        made = self.ec2.create_nat_gateway(SubnetId=self.subnet, **params)["NatGateway"]
        return made["NatGatewayId"], made["NatGatewayAddresses"][0]["NetworkInterfaceId"]

    def interface(self, subnet: str | None = None) -> str:
        made = self.ec2.create_network_interface(SubnetId=subnet or self.subnet)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def bind(self, interface: str, device: str = "vn-a", **members: Any) -> None:
        body = {"agent": self.agent, "device": device, **members}
        Client(self.api).ok("PUT", f"/network-interfaces/{interface}/binding", body)

    def unbind(self, interface: str) -> None:
        Client(self.api).ok("DELETE", f"/network-interfaces/{interface}/binding")

    def routes(self, table: str) -> list[dict[str, Any]]:
        """Beside the local ones."""
        [found] = self.ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
        return [route for route in found["Routes"] if route.get("GatewayId") != "local"]

    def told(self) -> dict[str, Interface]:
        configuration = Client(self.api).configuration(self.agent)
        return {interface.interface_id: interface for interface in configuration.interfaces}


@pytest.fixture
def place(shared_api: Any, ec2: Any) -> Place:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", Ipv6CidrBlock="fd12:3456:789a:bc00::/56")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    Client(shared_api).ok("PUT", f"/agents/{vpc}")
    return Place(shared_api, ec2, vpc, subnet, vpc)


# --- internet gateways


def test_an_internet_gateway_is_made_attached_and_described(ec2: Any, place: Place) -> None:
    tags = [{"ResourceType": "internet-gateway", "Tags": [{"Key": "Name", "Value": "way out"}]}]
    made = ec2.create_internet_gateway(TagSpecifications=tags)["InternetGateway"]
    gateway = made["InternetGatewayId"]
    described = {"OwnerId": ACCOUNT, "Tags": [{"Key": "Name", "Value": "way out"}], "InternetGatewayId": gateway}
    assert made == described | {"Attachments": []}
    assert gateway.startswith("igw-0")
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=place.vpc)
    attached = described | {"Attachments": [{"State": "available", "VpcId": place.vpc}]}
    for name, value in (
        ("attachment.vpc-id", place.vpc),
        ("internet-gateway-id", gateway),
        ("tag:Name", "way *"),
    ):
        found = ec2.describe_internet_gateways(Filters=[{"Name": name, "Values": [value]}])["InternetGateways"]
        assert found == [attached], name
    detached = [{"Name": "attachment.state", "Values": ["available"]}, {"Name": "tag:Name", "Values": ["none"]}]
    assert ec2.describe_internet_gateways(Filters=detached)["InternetGateways"] == []


def test_a_gateway_has_one_vpc_and_a_vpc_one_gateway(ec2: Any, place: Place) -> None:
    first, second = place.gateway(), place.gateway(attach=False)
    assert refused(ec2.attach_internet_gateway, InternetGatewayId=first, VpcId=place.vpc) == (
        "Resource.AlreadyAssociated",
        f"resource {first} is already attached to network {place.vpc}",
    )
    assert refused(ec2.attach_internet_gateway, InternetGatewayId=second, VpcId=place.vpc) == (
        "InvalidParameterValue",
        f"Network {place.vpc} already has an internet gateway attached",
    )
    assert refused(ec2.detach_internet_gateway, InternetGatewayId=second, VpcId=place.vpc) == (
        "Gateway.NotAttached",
        f"resource {second} is not attached to network {place.vpc}",
    )


def test_what_is_attached_cannot_be_deleted(ec2: Any, place: Place) -> None:
    gateway = place.gateway()
    assert refused(ec2.delete_internet_gateway, InternetGatewayId=gateway) == (
        "DependencyViolation",
        f"The internetGateway '{gateway}' has dependencies and cannot be deleted.",
    )
    ec2.delete_subnet(SubnetId=place.subnet)
    assert refused(ec2.delete_vpc, VpcId=place.vpc) == (
        "DependencyViolation",
        f"The vpc '{place.vpc}' has dependencies and cannot be deleted.",
    )
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=place.vpc)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    missing = ("InvalidInternetGatewayID.NotFound", f"The internetGateway ID '{gateway}' does not exist")
    assert refused(ec2.describe_internet_gateways, InternetGatewayIds=[gateway]) == missing
    assert refused(ec2.delete_internet_gateway, InternetGatewayId=gateway) == missing
    ec2.delete_vpc(VpcId=place.vpc)


def test_a_public_nat_gateway_holds_the_internet_gateway(ec2: Any, place: Place) -> None:
    gateway = place.gateway()
    private, _ = place.nat(ConnectivityType="private")
    public, _ = place.nat()
    assert refused(ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=place.vpc) == (
        "DependencyViolation",
        f"Network {place.vpc} has some mapped public address(es). Please unmap those public address(es) before "
        "detaching the gateway.",
    )
    ec2.delete_nat_gateway(NatGatewayId=public)
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=place.vpc)
    assert ec2.describe_nat_gateways(NatGatewayIds=[private])["NatGateways"][0]["State"] == "available"


# --- NAT gateways


def test_a_nat_gateway_has_an_interface_that_the_service_holds(ec2: Any, place: Place) -> None:
    tags = [{"ResourceType": "natgateway", "Tags": [{"Key": "Name", "Value": "out"}]}]
    public = ec2.allocate_address()
    given = {"PrivateIpAddress": "10.0.0.220", "AllocationId": public["AllocationId"]}
    made = ec2.create_nat_gateway(SubnetId=place.subnet, TagSpecifications=tags, **given)["NatGateway"]
    assert made.pop("State") == "pending"
    [found] = ec2.describe_nat_gateways(NatGatewayIds=[made["NatGatewayId"]])["NatGateways"]
    assert found.pop("State") == "available"
    assert found == made
    [address] = found.pop("NatGatewayAddresses")
    interface_id = address.pop("NetworkInterfaceId")
    association_id = address.pop("AssociationId")
    assert address == {
        "PrivateIp": "10.0.0.220",
        "PublicIp": public["PublicIp"],
        "AllocationId": public["AllocationId"],
        "IsPrimary": True,
        "Status": "succeeded",
    }
    nat_gateway_id = found.pop("NatGatewayId")
    assert nat_gateway_id.startswith("nat-0")
    found.pop("CreateTime")
    assert found == {
        "VpcId": place.vpc,
        "SubnetId": place.subnet,
        "ConnectivityType": "public",
        "AvailabilityMode": "zonal",
        "Tags": [{"Key": "Name", "Value": "out"}],
    }
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    shown = {name: interface[name] for name in ("InterfaceType", "RequesterManaged", "Status", "Description", "Groups")}
    assert shown == {
        "InterfaceType": "nat_gateway",
        "RequesterManaged": True,
        "Status": "in-use",
        "Description": f"Interface for NAT Gateway {nat_gateway_id}",
        "Groups": [],
    }
    association = {
        "AllocationId": public["AllocationId"],
        "AssociationId": association_id,
        "IpOwnerId": ACCOUNT,
        "PublicDnsName": "",
        "PublicIp": public["PublicIp"],
    }
    assert interface["Association"] == association
    assert interface["PrivateIpAddresses"] == [
        {"PrivateIpAddress": "10.0.0.220", "Primary": True, "Association": association}
    ]
    for name, value in (("subnet-id", place.subnet), ("vpc-id", place.vpc), ("nat-gateway-id", nat_gateway_id)):
        given = [{"Name": name, "Values": [value]}, {"Name": "state", "Values": ["available"]}]
        assert len(ec2.describe_nat_gateways(Filter=given)["NatGateways"]) == 1
    assert ec2.describe_nat_gateways(Filter=[{"Name": "state", "Values": ["deleted"]}])["NatGateways"] == []
    assert refused(ec2.delete_network_interface, NetworkInterfaceId=interface_id) == (
        "InvalidParameterValue",
        f"Network interface '{interface_id}' is currently in use.",
    )
    assert refused(ec2.delete_subnet, SubnetId=place.subnet)[0] == "DependencyViolation"
    assert ec2.delete_nat_gateway(NatGatewayId=nat_gateway_id)["NatGatewayId"] == nat_gateway_id
    missing = ("NatGatewayNotFound", f"NAT gateway {nat_gateway_id} was not found")
    assert refused(ec2.describe_nat_gateways, NatGatewayIds=[nat_gateway_id]) == missing
    assert refused(ec2.delete_nat_gateway, NatGatewayId=nat_gateway_id) == missing
    assert refused(ec2.describe_network_interfaces, NetworkInterfaceIds=[interface_id])[0].endswith("NotFound")
    ec2.delete_subnet(SubnetId=place.subnet)


def test_a_nat_gateway_is_made_once_a_token_and_takes_the_next_free_address(ec2: Any, place: Place) -> None:
    given = {"AllocationId": ec2.allocate_address()["AllocationId"], "ClientToken": place.vpc}
    first = ec2.create_nat_gateway(SubnetId=place.subnet, **given)
    again = ec2.create_nat_gateway(SubnetId=place.subnet, **given)
    assert first["NatGateway"] == again["NatGateway"]
    assert first["ClientToken"] == place.vpc
    assert first["NatGateway"]["NatGatewayAddresses"][0]["PrivateIp"] == "10.0.0.4"


@pytest.mark.parametrize(
    ("params", "code", "text"),
    [
        ({"SubnetId": "subnet-1"}, "InvalidSubnet", "Subnet subnet-1 was not found"),
        ({"SubnetId": None}, "MissingParameter", "The request must include the SubnetId parameter"),
        (
            {"AllocationId": "eipalloc-1"},
            "InvalidAllocationID.NotFound",
            "The allocation ID 'eipalloc-1' does not exist",
        ),
        ({"AllocationId": None}, "MissingParameter", "The request must include the AllocationId parameter"),
        (
            {"AllocationId": "eipalloc-1", "ConnectivityType": "private"},
            "InvalidParameterCombination",
            "AllocationId cannot be specified for a private NAT gateway",
        ),
        (
            {"AvailabilityMode": "regional"},
            "UnsupportedOperation",
            "The value regional for parameter AvailabilityMode is not supported",
        ),
        ({"PrivateIpAddress": "10.0.0.1"}, "InvalidParameterValue", "Address 10.0.0.1 is in subnet's reserved"),
        ({"PrivateIpAddress": "10.1.0.9"}, "InvalidParameterValue", "does not fall within the subnet's address range"),
    ],
)
def test_nat_gateways_that_cannot_be(ec2: Any, place: Place, params: dict[str, Any], code: str, text: str) -> None:
    defaults = {"SubnetId": place.subnet, "AllocationId": ec2.allocate_address()["AllocationId"]}
    given = {name: value for name, value in (defaults | params).items() if value}
    found, message = refused(ec2.create_nat_gateway, **given)
    assert found == code
    assert text in message


def test_the_nat_gateways_interface_is_bound_as_what_it_is(place: Place) -> None:
    gateway, interface = place.nat()
    for members in ({"instance_id": "i-0123456789abcdef0"}, {"interface_type": "vpc_endpoint"}):
        body = {"agent": place.agent, "device": "vn-nat", **members}
        error = Client(place.api).error("PUT", f"/network-interfaces/{interface}/binding", body)
        assert error == (400, "ValidationException")
    place.bind(interface, "vn-nat")
    told = place.told()[interface]
    assert (told.interface_type, told.instance_id, told.group_ids) == ("nat_gateway", None, None)
    place.ec2.delete_nat_gateway(NatGatewayId=gateway)
    assert place.told() == {}


# --- route tables


def test_every_vpc_has_a_main_route_table_with_its_local_routes(ec2: Any, place: Place) -> None:
    main = place.main
    table = main["RouteTableId"]
    association = main["Associations"][0]["RouteTableAssociationId"]
    assert table.startswith("rtb-0")
    assert association.startswith("rtbassoc-0")
    local = {"GatewayId": "local", "Origin": "CreateRouteTable", "State": "active"}
    assert main == {
        "RouteTableId": table,
        "VpcId": place.vpc,
        "OwnerId": ACCOUNT,
        "Associations": [
            {
                "RouteTableAssociationId": association,
                "RouteTableId": table,
                "Main": True,
                "AssociationState": {"State": "associated"},
            }
        ],
        "PropagatingVgws": [],
        "Routes": [
            {"DestinationCidrBlock": "10.0.0.0/16", **local},
            {"DestinationIpv6CidrBlock": "fd12:3456:789a:bc00::/56", **local},
        ],
        "Tags": [],
    }
    ec2.associate_vpc_cidr_block(VpcId=place.vpc, CidrBlock="10.1.0.0/16")
    assert {"DestinationCidrBlock": "10.1.0.0/16", **local} in place.main["Routes"]
    assert refused(ec2.delete_route_table, RouteTableId=table) == (
        "DependencyViolation",
        f"The routeTable '{table}' has dependencies and cannot be deleted.",
    )


def test_the_main_table_goes_with_its_vpc_and_other_tables_hold_it(ec2: Any, place: Place) -> None:
    main, other = place.main["RouteTableId"], place.table()
    ec2.create_tags(Resources=[main], Tags=[{"Key": "a", "Value": "b"}])
    ec2.delete_subnet(SubnetId=place.subnet)
    assert refused(ec2.delete_vpc, VpcId=place.vpc)[0] == "DependencyViolation"
    ec2.delete_route_table(RouteTableId=other)
    ec2.delete_vpc(VpcId=place.vpc)
    assert refused(ec2.describe_route_tables, RouteTableIds=[main]) == (
        "InvalidRouteTableID.NotFound",
        f"The routeTable ID '{main}' does not exist",
    )
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [main]}])["Tags"] == []


def test_a_subnet_follows_one_table(ec2: Any, place: Place) -> None:
    first, second = place.table(), place.table()
    made = ec2.associate_route_table(RouteTableId=first, SubnetId=place.subnet)
    association = made["AssociationId"]
    assert made["AssociationState"] == {"State": "associated"}
    assert ec2.associate_route_table(RouteTableId=first, SubnetId=place.subnet)["AssociationId"] == association
    assert refused(ec2.associate_route_table, RouteTableId=second, SubnetId=place.subnet) == (
        "Resource.AlreadyAssociated",
        f"the specified association for route table {second} conflicts with an existing association",
    )
    assert refused(ec2.delete_route_table, RouteTableId=first)[0] == "DependencyViolation"
    given = [{"Name": "association.subnet-id", "Values": [place.subnet]}]
    [found] = ec2.describe_route_tables(Filters=given)["RouteTables"]
    assert found["RouteTableId"] == first
    assert found["Associations"] == [
        {
            "RouteTableAssociationId": association,
            "RouteTableId": first,
            "SubnetId": place.subnet,
            "Main": False,
            "AssociationState": {"State": "associated"},
        }
    ]
    replaced = ec2.replace_route_table_association(AssociationId=association, RouteTableId=second)["NewAssociationId"]
    assert replaced != association
    gone = ("InvalidAssociationID.NotFound", f"The association ID '{association}' does not exist")
    assert refused(ec2.disassociate_route_table, AssociationId=association) == gone
    ec2.delete_route_table(RouteTableId=first)
    ec2.disassociate_route_table(AssociationId=replaced)
    ec2.delete_route_table(RouteTableId=second)


def test_the_main_association_moves_and_stays(ec2: Any, place: Place) -> None:
    main, other = place.main, place.table()
    association = main["Associations"][0]["RouteTableAssociationId"]
    assert refused(ec2.disassociate_route_table, AssociationId=association) == (
        "InvalidParameterValue",
        f"cannot disassociate the main route table association {association}",
    )
    ec2.replace_route_table_association(AssociationId=association, RouteTableId=other)
    assert place.main["RouteTableId"] == other
    ec2.delete_route_table(RouteTableId=main["RouteTableId"])


def test_a_deleted_subnet_leaves_its_table(ec2: Any, place: Place) -> None:
    table = place.table()
    ec2.associate_route_table(RouteTableId=table, SubnetId=place.subnet)
    ec2.delete_subnet(SubnetId=place.subnet)
    ec2.delete_route_table(RouteTableId=table)


def test_what_is_of_another_vpc_is_refused(ec2: Any, place: Place) -> None:
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=other, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")["NatGateway"]["NatGatewayId"]
    loose, table = place.gateway(attach=False), place.table()
    assert refused(ec2.associate_route_table, RouteTableId=table, SubnetId=subnet) == (
        "InvalidParameterValue",
        f"route table {table} and subnet {subnet} belong to different networks",
    )
    association = place.main["Associations"][0]["RouteTableAssociationId"]
    theirs = ec2.create_route_table(VpcId=other)["RouteTable"]["RouteTableId"]
    moved = refused(ec2.replace_route_table_association, AssociationId=association, RouteTableId=theirs)
    assert moved[0] == "InvalidParameterValue"
    for member, target, what in (
        ("GatewayId", loose, f"network gateway {loose}"),
        ("NatGatewayId", nat, f"NAT gateway {nat}"),
        ("NetworkInterfaceId", interface, f"interface {interface}"),
    ):
        params = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0", member: target}
        assert refused(ec2.create_route, **params) == (
            "InvalidParameterValue",
            f"route table {table} and {what} belong to different networks",
        )


def test_route_tables_have_tags_tokens_and_a_bound(ec2: Any, place: Place) -> None:
    tags = [{"ResourceType": "route-table", "Tags": [{"Key": "Name", "Value": place.vpc}]}]
    made = ec2.create_route_table(VpcId=place.vpc, TagSpecifications=tags, ClientToken=place.vpc)
    again = ec2.create_route_table(VpcId=place.vpc, TagSpecifications=tags, ClientToken=place.vpc)
    assert made["RouteTable"] == again["RouteTable"]
    [found] = ec2.describe_route_tables(Filters=[{"Name": "tag:Name", "Values": [place.vpc]}])["RouteTables"]
    assert found["RouteTableId"] == made["RouteTable"]["RouteTableId"]
    for _ in range(TABLES_MAX - 2):
        place.table()
    assert refused(ec2.create_route_table, VpcId=place.vpc) == (
        "RouteTableLimitExceeded",
        "The maximum number of route tables has been reached.",
    )


# --- routes


def test_routes_are_described_by_what_they_lead_to(ec2: Any, place: Place) -> None:
    table, igw, (nat, _), interface = place.table(), place.gateway(), place.nat(), place.interface()
    assert ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=igw)["Return"] is True
    ec2.create_route(RouteTableId=table, DestinationIpv6CidrBlock="::/0", GatewayId=igw)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24", NatGatewayId=nat)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="198.51.100.77/24", NetworkInterfaceId=interface)
    made = {"Origin": "CreateRoute", "State": "active"}
    assert place.routes(table) == [
        {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": igw, **made},
        {"DestinationIpv6CidrBlock": "::/0", "GatewayId": igw, **made},
        {"DestinationCidrBlock": "192.0.2.0/24", "NatGatewayId": nat, **made},
        # Host bits are cleared; an interface that is attached to nothing takes no packets.
        {
            "DestinationCidrBlock": "198.51.100.0/24",
            "NetworkInterfaceId": interface,
            **made,
            "State": "blackhole",
        },
    ]
    place.bind(interface, instance_id="i-0123456789abcdef0")
    assert place.routes(table)[3] == {
        "DestinationCidrBlock": "198.51.100.0/24",
        "NetworkInterfaceId": interface,
        "InstanceId": "i-0123456789abcdef0",
        "InstanceOwnerId": ACCOUNT,
        **made,
    }
    for name, value, count in (
        ("route.gateway-id", igw, 1),
        ("route.nat-gateway-id", nat, 1),
        ("route.instance-id", "i-0123456789abcdef0", 1),
        ("route.destination-cidr-block", "192.0.2.0/24", 1),
        ("route.destination-ipv6-cidr-block", "::/0", 1),
        ("route.state", "blackhole", 0),
        ("route.origin", "CreateRoute", 1),
        ("route.transit-gateway-id", "*", 0),
    ):
        given = [{"Name": name, "Values": [value]}, {"Name": "vpc-id", "Values": [place.vpc]}]
        assert len(ec2.describe_route_tables(Filters=given)["RouteTables"]) == count, name
    assert refused(ec2.create_route, RouteTableId=table, DestinationCidrBlock="10.9.0.0/16", GatewayId=igw) == (
        "RouteLimitExceeded",
        "The maximum number of routes has been reached.",
    )
    place.unbind(interface)


def test_routes_are_replaced_and_deleted(ec2: Any, place: Place) -> None:
    table, igw, (nat, _) = place.table(), place.gateway(), place.nat()
    way_out = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0"}
    assert refused(ec2.replace_route, **way_out, GatewayId=igw) == (
        "InvalidParameterValue",
        "There is no route defined for '0.0.0.0/0' in the route table. Use CreateRoute instead.",
    )
    assert refused(ec2.delete_route, **way_out) == (
        "InvalidRoute.NotFound",
        f"no route with destination-cidr-block 0.0.0.0/0 in route table {table}",
    )
    ec2.create_route(**way_out, GatewayId=igw)
    assert refused(ec2.create_route, **way_out, NatGatewayId=nat) == (
        "RouteAlreadyExists",
        "The route identified by 0.0.0.0/0 already exists.",
    )
    ec2.replace_route(**way_out, NatGatewayId=nat)
    assert [route["NatGatewayId"] for route in place.routes(table)] == [nat]
    ec2.delete_route(**way_out)
    assert place.routes(table) == []


def test_the_vpcs_own_routes_stay(ec2: Any, place: Place) -> None:
    table, igw, interface = place.table(), place.gateway(), place.interface()
    local = {"RouteTableId": table, "DestinationCidrBlock": "10.0.0.0/16"}
    assert refused(ec2.delete_route, **local) == (
        "InvalidParameterValue",
        f"cannot remove local route 10.0.0.0/16 in route table {table}",
    )
    assert refused(ec2.create_route, **local, GatewayId=igw) == (
        "RouteAlreadyExists",
        "The route identified by 10.0.0.0/16 already exists.",
    )
    assert refused(ec2.replace_route, **local, NetworkInterfaceId=interface)[0] == "UnsupportedOperation"
    within = {"RouteTableId": table, "DestinationCidrBlock": "10.0.7.0/24"}
    assert refused(ec2.create_route, **within, GatewayId=igw) == (
        "InvalidParameterValue",
        "The destination CIDR block 10.0.7.0/24 is equal to or more specific than one of this VPC's CIDR blocks. This "
        "route can target only an interface or an instance.",
    )
    ec2.create_route(**within, NetworkInterfaceId=interface)


@pytest.mark.parametrize(
    ("params", "code", "text"),
    [
        ({"GatewayId": "igw-1"}, "InvalidGatewayID.NotFound", "The gateway ID 'igw-1' does not exist"),
        ({"GatewayId": "nat-1"}, "InvalidGatewayID.NotFound", "The gateway ID 'nat-1' does not exist"),
        ({"NatGatewayId": "nat-1"}, "InvalidNatGatewayID.NotFound", "The natGateway ID 'nat-1' does not exist"),
        (
            {"NetworkInterfaceId": "eni-1"},
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID 'eni-1' does not exist",
        ),
        (
            {"InstanceId": "i-0123456789abcdef1"},
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-0123456789abcdef1' does not exist",
        ),
        (
            {},
            "MissingParameter",
            "The request must contain exactly one of gatewayId, natGatewayId, networkInterfaceId, instanceId",
        ),
        (
            {"GatewayId": "igw-1", "NatGatewayId": "nat-1"},
            "InvalidParameterCombination",
            "The request must contain exactly one of gatewayId, natGatewayId, networkInterfaceId, instanceId",
        ),
        (
            {"TransitGatewayId": "tgw-1"},
            "UnsupportedOperation",
            "The parameter TransitGatewayId is not supported by vnotch.",
        ),
        (
            {"DestinationCidrBlock": "0.0.0.0"},
            "InvalidParameterValue",
            "Value (0.0.0.0) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.",
        ),
        (
            {"DestinationCidrBlock": None, "DestinationIpv6CidrBlock": "10.0.0.0/8"},
            "InvalidParameterValue",
            "Value (10.0.0.0/8) for parameter destinationIpv6CidrBlock is invalid. This is not a valid CIDR block.",
        ),
        (
            {"DestinationIpv6CidrBlock": "::/0"},
            "InvalidParameterCombination",
            "The request must contain exactly one of destinationCidrBlock, destinationIpv6CidrBlock",
        ),
    ],
)
def test_routes_that_cannot_be(ec2: Any, place: Place, params: dict[str, Any], code: str, text: str) -> None:
    given = {"RouteTableId": place.main["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"} | params
    assert refused(ec2.create_route, **{name: value for name, value in given.items() if value}) == (code, text)


def test_ipv6_leads_to_a_nat_gateway_for_nat64_only(ec2: Any, place: Place) -> None:
    table, (nat, _) = place.table(), place.nat()
    nat64 = {"RouteTableId": table, "NatGatewayId": nat}
    ec2.create_route(**nat64, DestinationIpv6CidrBlock="64:ff9b::/96")
    assert refused(ec2.create_route, **nat64, DestinationIpv6CidrBlock="::/0")[0] == "InvalidParameterValue"


def test_an_instance_stands_for_its_one_interface(ec2: Any, place: Place) -> None:
    table, first, second = place.table(), place.interface(), place.interface()
    instance = "i-" + place.vpc.removeprefix("vpc-")
    place.bind(first, "vn-1", instance_id=instance)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", InstanceId=instance)
    assert place.routes(table)[0]["NetworkInterfaceId"] == first
    place.bind(second, "vn-2", instance_id=instance)
    way = {"RouteTableId": table, "DestinationCidrBlock": "192.0.2.0/24", "InstanceId": instance}
    assert refused(ec2.create_route, **way) == (
        "InvalidInstanceID",
        f"There are multiple interfaces attached to instance '{instance}'. Please specify an interface ID for the "
        "operation instead.",
    )


# --- what agents are told


def test_agents_are_told_the_routes_of_their_interfaces_subnets(ec2: Any, place: Place) -> None:
    igw, (nat, nat_interface), router = place.gateway(), place.nat(), place.interface()
    private = place.more_subnet("10.0.1.0/24")
    web, app = place.interface(), place.interface(private)
    place.bind(web, "vn-web")
    place.bind(app, "vn-app")
    assert {interface.routes for interface in place.told().values()} == {()}
    main, table = place.main["RouteTableId"], place.table()
    ec2.create_route(RouteTableId=main, DestinationCidrBlock="0.0.0.0/0", GatewayId=igw)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24", NetworkInterfaceId=router)
    assert {told.routes for told in place.told().values()} == {(("0.0.0.0/0", igw),)}, "both follow the main table"
    ec2.associate_route_table(RouteTableId=table, SubnetId=private)
    told = place.told()
    assert told[web].routes == (("0.0.0.0/0", igw),)
    assert told[app].routes == (("0.0.0.0/0", nat_interface), ("192.0.2.0/24", ""))
    place.bind(router, "vn-router")
    assert place.told()[app].routes[1] == ("192.0.2.0/24", router)
    ec2.delete_nat_gateway(NatGatewayId=nat)
    ec2.detach_internet_gateway(InternetGatewayId=igw, VpcId=place.vpc)
    place.unbind(router)
    told = place.told()
    assert told[web].routes == (("0.0.0.0/0", ""),)
    assert told[app].routes == (("0.0.0.0/0", ""), ("192.0.2.0/24", ""))


def test_each_change_of_the_way_out_is_a_revision_of_who_follows_it_and_of_nobody_else(ec2: Any, place: Place) -> None:
    igw, (nat, _), router = place.gateway(), place.nat(), place.interface()
    private = place.more_subnet("10.0.1.0/24")
    web, app = place.interface(), place.interface(private)
    place.bind(web, "vn-web")
    Client(place.api).ok("PUT", f"/agents/{place.vpc}-b")
    body = {"agent": f"{place.vpc}-b", "device": "vn-app"}
    Client(place.api).ok("PUT", f"/network-interfaces/{app}/binding", body)
    main, table = place.main, place.table()
    association = ec2.associate_route_table(RouteTableId=table, SubnetId=private)["AssociationId"]

    def changed(call: Any, **params: Any) -> set[str]:
        """The agents whose revision a call changes."""
        admin = Client(place.api)
        agents = {"web": place.agent, "app": f"{place.vpc}-b"}
        before = {name: admin.configuration(agent).revision for name, agent in agents.items()}
        call(**params)
        return {name for name, agent in agents.items() if admin.configuration(agent).revision != before[name]}

    way_out = {"DestinationCidrBlock": "0.0.0.0/0"}
    of_main, of_table = {"RouteTableId": main["RouteTableId"]} | way_out, {"RouteTableId": table} | way_out
    main_association = main["Associations"][0]["RouteTableAssociationId"]
    assert changed(ec2.create_route, **of_main, GatewayId=igw) == {"web"}
    assert changed(ec2.create_route, **of_table, NatGatewayId=nat) == {"app"}
    assert changed(ec2.replace_route, **of_table, NetworkInterfaceId=router) == {"app"}
    assert changed(place.bind, interface=router, device="vn-router") == {"web", "app"}, "a target came into use"
    assert changed(ec2.delete_route, **of_table) == {"app"}
    assert changed(ec2.disassociate_route_table, AssociationId=association) == {"app"}
    assert changed(ec2.create_route, **of_table, NatGatewayId=nat) == set(), "nobody follows it"
    assert changed(ec2.replace_route_table_association, AssociationId=main_association, RouteTableId=table) == {
        "web",
        "app",
    }
    assert changed(ec2.delete_nat_gateway, NatGatewayId=nat) == {"web", "app"}
    assert changed(ec2.detach_internet_gateway, InternetGatewayId=igw, VpcId=place.vpc) == {"web", "app"}
    assert changed(ec2.describe_route_tables) == set()


def test_a_state_of_before_gets_its_main_route_tables(shared_api: Any, ec2: Any, place: Place) -> None:
    with shared_api.state.write() as session:
        for table_id in routing.table_ids(session, place.vpc):
            session.delete(session.query(routing.RouteTable).filter_by(route_table_id=table_id).one())
    Ec2(shared_api.state, shared_api.accounts)
    assert place.main["VpcId"] == place.vpc
    with shared_api.state.read() as session:
        tables = session.query(routing.RouteTable).filter_by(vpc_id=place.vpc).count()
        assert tables == 1
        assert session.query(routing.RouteTable).count() >= session.query(network.Vpc).count()


# --- permissions


def test_a_disassociation_is_authorised_on_its_route_table(shared_api: Any, ec2: Any, place: Place) -> None:
    iam = shared_api.client("iam")
    name, table = place.vpc, place.table()
    association = ec2.associate_route_table(RouteTableId=table, SubnetId=place.subnet)["AssociationId"]
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    other = place.table()
    client = shared_api.client("ec2", (key["AccessKeyId"], key["SecretAccessKey"]))

    def allow(of_table: str) -> None:
        resource = f"arn:aws:ec2:us-east-1:{ACCOUNT}:route-table/{of_table}"
        statement = f'{{"Effect": "Allow", "Action": "ec2:DisassociateRouteTable", "Resource": "{resource}"}}'
        document = f'{{"Version": "2012-10-17", "Statement": [{statement}]}}'
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)

    allow(other)
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        client.disassociate_route_table(AssociationId=association)
    allow(table)
    client.disassociate_route_table(AssociationId=association)
