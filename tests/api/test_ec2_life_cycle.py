"""The life of a VPC as tools that keep infrastructure as code lead it.

The calls are those that Terraform's AWS provider makes, by its public source, for the resources vpc, subnet, eip,
nat_gateway, route_table, security_group, network_acl, flow_log and instance, in its order, with what it waits for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError
from policies import allow, trust_of
from test_ec2_instances import heard

from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.logs import Logs
from vnotch.store.lake import Lake

EVERYTHING = {"IpProtocol": "-1", "FromPort": 0, "ToPort": 0}
"""As the provider writes all traffic: with ports, though there are none."""


@dataclass
class Site:
    ec2: Any
    logs: Any
    iam: Any
    ids: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def site(api: Any, tmp_path: Any) -> Iterator[Site]:
    lake = Lake.open(tmp_path / "lake")
    routes = LabHosts(api.state, api.accounts).routes()
    api.serve(Ec2(api.state, api.accounts), Logs(api.state, lake), routes=routes)
    yield Site(api.client("ec2"), api.client("logs"), api.client("iam"))
    api.stop()
    lake.close()


def by(**values: Any) -> list[dict[str, Any]]:
    return [{"Name": name.replace("__", ".").replace("_", "-"), "Values": [value]} for name, value in values.items()]


def tagged(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]


def gone(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def make_vpc(site: Site) -> None:
    ec2 = site.ec2
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", InstanceTenancy="default", TagSpecifications=tagged("vpc", "main"))
    vpc_id = site.ids["vpc"] = vpc["Vpc"]["VpcId"]
    ec2.get_waiter("vpc_available").wait(VpcIds=[vpc_id])
    ec2.modify_vpc_attribute(VpcId=vpc_id, EnableDnsHostnames={"Value": True})
    for name, member, value in (
        ("enableDnsHostnames", "EnableDnsHostnames", True),
        ("enableDnsSupport", "EnableDnsSupport", True),
        ("enableNetworkAddressUsageMetrics", "EnableNetworkAddressUsageMetrics", False),
    ):
        assert ec2.describe_vpc_attribute(VpcId=vpc_id, Attribute=name)[member] == {"Value": value}
    [acl] = ec2.describe_network_acls(Filters=by(default="true", vpc_id=vpc_id))["NetworkAcls"]
    [table] = ec2.describe_route_tables(Filters=by(association__main="true", vpc_id=vpc_id))["RouteTables"]
    [group] = ec2.describe_security_groups(Filters=by(group_name="default", vpc_id=vpc_id))["SecurityGroups"]
    site.ids |= {"acl": acl["NetworkAclId"], "main": table["RouteTableId"], "default": group["GroupId"]}


def close_the_default_group_and_acl(site: Site) -> None:
    """As the resources default_security_group and default_network_acl do."""
    ec2, group_id = site.ec2, site.ids["default"]
    [group] = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    ec2.revoke_security_group_egress(GroupId=group_id, IpPermissions=group["IpPermissionsEgress"])
    ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=group["IpPermissions"])
    [group] = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    assert group["IpPermissions"] == group["IpPermissionsEgress"] == []
    [acl] = ec2.describe_network_acls(NetworkAclIds=[site.ids["acl"]])["NetworkAcls"]
    for entry in acl["Entries"]:
        if entry["RuleNumber"] < 32767:
            ec2.delete_network_acl_entry(
                NetworkAclId=site.ids["acl"], RuleNumber=entry["RuleNumber"], Egress=entry["Egress"]
            )
    for egress in (False, True):
        ec2.create_network_acl_entry(
            NetworkAclId=site.ids["acl"],
            RuleNumber=100,
            Egress=egress,
            Protocol="-1",
            RuleAction="allow",
            CidrBlock="0.0.0.0/0",
            PortRange={"From": 0, "To": 0},
            IcmpTypeCode={"Type": 0, "Code": 0},
        )


def make_subnets(site: Site) -> None:
    ec2, vpc_id = site.ec2, site.ids["vpc"]
    for name, cidr in (("public", "10.0.1.0/24"), ("private", "10.0.2.0/24")):
        made = ec2.create_subnet(
            VpcId=vpc_id, CidrBlock=cidr, AvailabilityZone="us-east-1b", TagSpecifications=tagged("subnet", name)
        )
        site.ids[name] = made["Subnet"]["SubnetId"]
        ec2.get_waiter("subnet_available").wait(SubnetIds=[site.ids[name]])
    ec2.modify_subnet_attribute(SubnetId=site.ids["public"], MapPublicIpOnLaunch={"Value": True})
    [public] = ec2.describe_subnets(SubnetIds=[site.ids["public"]])["Subnets"]
    assert public["MapPublicIpOnLaunch"] is True


def make_ways_out(site: Site) -> None:
    ec2, ids = site.ec2, site.ids
    ids["igw"] = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=ids["igw"], VpcId=ids["vpc"])
    [gateway] = ec2.describe_internet_gateways(InternetGatewayIds=[ids["igw"]])["InternetGateways"]
    assert gateway["Attachments"] == [{"State": "available", "VpcId": ids["vpc"]}]
    ids["eip"] = ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip", "nat"))["AllocationId"]
    [address] = ec2.describe_addresses(AllocationIds=[ids["eip"]])["Addresses"]
    assert (address["Domain"], address["NetworkBorderGroup"]) == ("vpc", "us-east-1")
    ec2.describe_addresses_attribute(AllocationIds=[ids["eip"]], Attribute="domain-name")
    made = ec2.create_nat_gateway(
        AllocationId=ids["eip"], SubnetId=ids["public"], ConnectivityType="public", ClientToken="terraform-1"
    )
    ids["nat"] = made["NatGateway"]["NatGatewayId"]
    ec2.get_waiter("nat_gateway_available").wait(NatGatewayIds=[ids["nat"]])
    for name, target in (("public", {"GatewayId": ids["igw"]}), ("private", {"NatGatewayId": ids["nat"]})):
        table_id = ids[f"{name}_table"] = ec2.create_route_table(VpcId=ids["vpc"])["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0", **target)
        [table] = ec2.describe_route_tables(RouteTableIds=[table_id])["RouteTables"]
        assert {route["State"] for route in table["Routes"]} == {"active"}
        made = ec2.associate_route_table(RouteTableId=table_id, SubnetId=ids[name])
        assert made["AssociationState"] == {"State": "associated"}
        ids[f"{name}_association"] = made["AssociationId"]
        wanted = by(association__route_table_association_id=made["AssociationId"])
        assert len(ec2.describe_route_tables(Filters=wanted)["RouteTables"]) == 1


def make_group(site: Site) -> None:
    """A group is made, its default outbound rule taken away, and its own rules are resources that change."""
    ec2, ids = site.ec2, site.ids
    ids["web"] = ec2.create_security_group(
        GroupName="terraform-web",
        Description="Managed by Terraform",
        VpcId=ids["vpc"],
        TagSpecifications=tagged("security-group", "web"),
    )["GroupId"]
    ec2.get_waiter("security_group_exists").wait(GroupIds=[ids["web"]])
    everywhere = [{**EVERYTHING, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.revoke_security_group_egress(GroupId=ids["web"], IpPermissions=everywhere)
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    made = ec2.authorize_security_group_ingress(
        GroupId=ids["web"], IpPermissions=[https], TagSpecifications=tagged("security-group-rule", "https")
    )
    rule_id = made["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    changed = {"IpProtocol": "tcp", "FromPort": 8443, "ToPort": 8443, "CidrIpv4": "10.0.0.0/8"}
    ec2.modify_security_group_rules(
        GroupId=ids["web"], SecurityGroupRules=[{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": changed}]
    )
    [rule] = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule_id])["SecurityGroupRules"]
    assert (rule["FromPort"], rule["CidrIpv4"], rule["Tags"]) == (
        8443,
        "10.0.0.0/8",
        [{"Key": "Name", "Value": "https"}],
    )
    ec2.authorize_security_group_egress(GroupId=ids["web"], IpPermissions=everywhere)


def make_flow_log(site: Site) -> None:
    ec2, ids, logs, iam = site.ec2, site.ids, site.logs, site.iam
    logs.create_log_group(logGroupName="/vpc/flow", tags={"Name": "flow"}, logGroupClass="STANDARD")
    logs.put_retention_policy(logGroupName="/vpc/flow", retentionInDays=14)
    [group] = logs.describe_log_groups(logGroupNamePrefix="/vpc/flow")["logGroups"]
    assert logs.list_tags_for_resource(resourceArn=group["logGroupArn"])["tags"] == {"Name": "flow"}
    trust = trust_of({"Service": "vpc-flow-logs.amazonaws.com"})
    role = iam.create_role(RoleName="flow", Path="/", AssumeRolePolicyDocument=trust, MaxSessionDuration=3600)["Role"]
    iam.put_role_policy(RoleName="flow", PolicyName="deliver", PolicyDocument=allow("logs:*"))
    assert iam.get_role(RoleName="flow")["Role"]["AssumeRolePolicyDocument"] == json.loads(trust)
    assert iam.list_role_policies(RoleName="flow")["PolicyNames"] == ["deliver"]
    assert iam.list_attached_role_policies(RoleName="flow")["AttachedPolicies"] == []
    made = ec2.create_flow_logs(
        ResourceType="VPC",
        ResourceIds=[ids["vpc"]],
        TrafficType="ALL",
        LogDestinationType="cloud-watch-logs",
        LogDestination=group["logGroupArn"],
        DeliverLogsPermissionArn=role["Arn"],
        MaxAggregationInterval=600,
        TagSpecifications=tagged("vpc-flow-log", "all"),
    )
    assert made["Unsuccessful"] == []
    [ids["flow_log"]] = made["FlowLogIds"]
    [found] = ec2.describe_flow_logs(FlowLogIds=made["FlowLogIds"])["FlowLogs"]
    assert (found["FlowLogStatus"], found["LogDestination"]) == ("ACTIVE", group["logGroupArn"])


def destroy(site: Site) -> None:
    """In the order in which one thing needs another, each until it is not found."""
    ec2, ids = site.ec2, site.ids
    assert ec2.delete_flow_logs(FlowLogIds=[ids["flow_log"]])["Unsuccessful"] == []
    assert ec2.describe_flow_logs(FlowLogIds=[ids["flow_log"]])["FlowLogs"] == []
    assert gone(ec2.delete_subnet, SubnetId=ids["public"]) == "DependencyViolation"
    for name in ("public", "private"):
        ec2.disassociate_route_table(AssociationId=ids[f"{name}_association"])
        ec2.delete_route(RouteTableId=ids[f"{name}_table"], DestinationCidrBlock="0.0.0.0/0")
        ec2.delete_route_table(RouteTableId=ids[f"{name}_table"])
        assert gone(ec2.describe_route_tables, RouteTableIds=[ids[f"{name}_table"]]) == "InvalidRouteTableID.NotFound"
    ec2.delete_nat_gateway(NatGatewayId=ids["nat"])
    assert gone(ec2.describe_nat_gateways, NatGatewayIds=[ids["nat"]]) == "NatGatewayNotFound"
    ec2.release_address(AllocationId=ids["eip"])
    assert gone(ec2.describe_addresses, AllocationIds=[ids["eip"]]) == "InvalidAllocationID.NotFound"
    for name in ("public", "private"):
        lingering = ec2.describe_network_interfaces(Filters=by(subnet_id=ids[name]))["NetworkInterfaces"]
        assert lingering == []
        ec2.delete_subnet(SubnetId=ids[name])
        assert gone(ec2.describe_subnets, SubnetIds=[ids[name]]) == "InvalidSubnetID.NotFound"
    ec2.detach_internet_gateway(InternetGatewayId=ids["igw"], VpcId=ids["vpc"])
    ec2.delete_internet_gateway(InternetGatewayId=ids["igw"])
    ec2.delete_security_group(GroupId=ids["web"])
    assert gone(ec2.describe_security_groups, GroupIds=[ids["web"]]) == "InvalidGroup.NotFound"
    ec2.delete_vpc(VpcId=ids["vpc"])
    assert gone(ec2.describe_vpcs, VpcIds=[ids["vpc"]]) == "InvalidVpcID.NotFound"


def test_a_vpc_lives_and_ends(site: Site) -> None:
    make_vpc(site)
    close_the_default_group_and_acl(site)
    make_subnets(site)
    make_ways_out(site)
    make_group(site)
    make_flow_log(site)
    destroy(site)
    assert site.ec2.describe_tags()["Tags"] == []


def test_an_instance_lives_and_ends(api: Any, site: Site) -> None:
    make_vpc(site)
    make_subnets(site)
    heard(api)
    ec2 = site.ec2
    [image] = ec2.describe_images(ImageIds=[IMAGE_ID])["Images"]
    assert image["RootDeviceType"] == "instance-store"
    [launched] = ec2.run_instances(
        ImageId=image["ImageId"],
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        SubnetId=site.ids["public"],
        SecurityGroupIds=[site.ids["default"]],
        Monitoring={"Enabled": False},
        DisableApiTermination=False,
        DisableApiStop=False,
        EbsOptimized=False,
        ClientToken="terraform-2",
        TagSpecifications=tagged("instance", "web"),
    )["Instances"]
    instance_id = launched["InstanceId"]
    heard(api, {"instance_id": instance_id, "state": "running"})
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    [kind] = ec2.describe_instance_types(InstanceTypes=["t3.micro"])["InstanceTypes"]
    assert kind["BurstablePerformanceSupported"] is False, "so its credits are not asked for"
    for name, member, value in (
        ("disableApiStop", "DisableApiStop", {"Value": False}),
        ("disableApiTermination", "DisableApiTermination", {"Value": False}),
        ("instanceInitiatedShutdownBehavior", "InstanceInitiatedShutdownBehavior", {"Value": "terminate"}),
        ("userData", "UserData", {}),
        ("blockDeviceMapping", "BlockDeviceMappings", []),
    ):
        assert ec2.describe_instance_attribute(InstanceId=instance_id, Attribute=name)[member] == value
    assert ec2.describe_volumes(Filters=by(attachment__instance_id=instance_id))["Volumes"] == []
    assert ec2.describe_tags(Filters=by(resource_id=instance_id))["Tags"][0]["Value"] == "web"
    ec2.terminate_instances(InstanceIds=[instance_id])
    heard(api, {"instance_id": instance_id, "state": "terminated"})
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    assert ec2.describe_network_interfaces(Filters=by(subnet_id=site.ids["public"]))["NetworkInterfaces"] == []
