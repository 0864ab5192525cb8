#!/usr/bin/env python3
"""The mock environment through the API alone: with boto3 what mock-environment.toml says in a file.

Run it against a server whose host is in lab mode:

    vnotch server &
    sudo vnotch lab follow &
    eval "$(vnotch env)"
    python examples/mock_environment.py

A VPC with a public and a private subnet, an internet gateway, a NAT gateway, security groups that refer to each other,
a network ACL that lets pings in and their answers not out, four instances, and a flow log of the whole VPC. What it
made is printed as JSON; `--remove VPC_ID` takes it away again.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

INTERVAL_SECONDS = 60
LOG_GROUP = "/vnotch/mock-environment"
LOG_FORMAT = (
    "${version} ${account-id} ${instance-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} "
    "${packets} ${bytes} ${start} ${end} ${action} ${log-status}"
)
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "vpc-flow-logs.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
DELIVER = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:PutLogEvents",
                "logs:DescribeLogGroups",
                "logs:DescribeLogStreams",
            ],
            "Resource": "*",
        }
    ],
}
ROLE = "mock-environment-flow-logs"
VISITORS = ["198.51.100.21/32", "198.51.100.22/32"]


def tags(kind: str, name: str, **more: str) -> list[dict[str, Any]]:
    pairs = {"Name": name, **{f"vnotch:{key}": value for key, value in more.items()}}
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in pairs.items()]}]


def tcp(port: int, **source: Any) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}


def everybody(port: int) -> dict[str, Any]:
    return tcp(port, IpRanges=[{"CidrIp": "0.0.0.0/0"}])


PING = {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def make_network(ec2: Any, made: dict[str, str]) -> None:
    """The VPC, its subnets and the ways out of them; puts their ids into `made`, by name."""
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tags("vpc", "mock"))["Vpc"]["VpcId"]
    made["vpc"] = vpc_id
    for name, cidr in (("public", "10.0.0.0/24"), ("private", "10.0.1.0/24")):
        subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock=cidr, TagSpecifications=tags("subnet", name))
        made[name] = subnet["Subnet"]["SubnetId"]
    gateway_id = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway_id, VpcId=vpc_id)
    public = ec2.allocate_address(Address="203.0.113.220", TagSpecifications=tags("elastic-ip", "nat"))
    nat = ec2.create_nat_gateway(
        SubnetId=made["public"],
        AllocationId=public["AllocationId"],
        PrivateIpAddress="10.0.0.220",
        TagSpecifications=tags("natgateway", "nat"),
    )
    for name, target in (
        ("public", {"GatewayId": gateway_id}),
        ("private", {"NatGatewayId": nat["NatGateway"]["NatGatewayId"]}),
    ):
        table_id = ec2.create_route_table(VpcId=vpc_id)["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table_id, DestinationCidrBlock="0.0.0.0/0", **target)
        ec2.associate_route_table(RouteTableId=table_id, SubnetId=made[name])


def make_acl(ec2: Any, made: dict[str, str]) -> None:
    """Of the public subnet: everything goes in and out, but for answers to the pings of one visitor."""
    acl_id = ec2.create_network_acl(VpcId=made["vpc"])["NetworkAcl"]["NetworkAclId"]
    ping = {"Protocol": "1", "IcmpTypeCode": {"Type": 0, "Code": -1}}
    for number, egress, action, cidr, rule in (
        (100, False, "allow", "0.0.0.0/0", {"Protocol": "-1"}),
        (90, True, "deny", "198.51.100.22/32", ping),
        (100, True, "allow", "0.0.0.0/0", {"Protocol": "-1"}),
    ):
        ec2.create_network_acl_entry(
            NetworkAclId=acl_id, RuleNumber=number, Egress=egress, RuleAction=action, CidrBlock=cidr, **rule
        )
    wanted = [{"Name": "association.subnet-id", "Values": [made["public"]]}]
    [acl] = ec2.describe_network_acls(Filters=wanted)["NetworkAcls"]
    [association] = [item for item in acl["Associations"] if item["SubnetId"] == made["public"]]
    ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=acl_id)


def make_groups(ec2: Any, vpc_id: str) -> dict[str, str]:
    """Security groups, each of which lets in what the one before it needs."""
    groups = {
        name: ec2.create_security_group(GroupName=name, Description=text, VpcId=vpc_id)["GroupId"]
        for name, text in (
            ("web", "Web servers, open to everybody"),
            ("bastion", "SSH for those who may, and ping for everybody"),
            ("app", "The application, for the web servers"),
            ("database", "The database, for the application"),
        )
    }

    def from_group(port: int, name: str) -> dict[str, Any]:
        return tcp(port, UserIdGroupPairs=[{"GroupId": groups[name]}])

    visitors = tcp(22, IpRanges=[{"CidrIp": cidr} for cidr in VISITORS])
    for name, permissions in (
        ("web", [everybody(80), everybody(443), PING]),
        ("bastion", [visitors, PING]),
        ("app", [from_group(8080, "web"), from_group(22, "bastion")]),
        ("database", [from_group(3306, "app")]),
    ):
        ec2.authorize_security_group_ingress(GroupId=groups[name], IpPermissions=permissions)
    return groups


def launch(ec2: Any, made: dict[str, str], groups: dict[str, str]) -> dict[str, str]:
    """The instances, and waits until they run; ids by name."""
    [image] = ec2.describe_images(Owners=["self"])["Images"]
    instances = {}
    for name, subnet, address, more in (
        ("database", "private", "10.0.1.50", {"services": "mysql"}),
        ("app", "private", "10.0.1.10", {"services": "app", "calls": "database"}),
        ("web", "public", "10.0.0.10", {"services": "http", "calls": "app", "public-address": "203.0.113.10"}),
        ("bastion", "public", "10.0.0.20", {"services": "ssh", "public-address": "203.0.113.20"}),
    ):
        [launched] = ec2.run_instances(
            ImageId=image["ImageId"],
            MinCount=1,
            MaxCount=1,
            SubnetId=made[subnet],
            PrivateIpAddress=address,
            SecurityGroupIds=[groups[name]],
            TagSpecifications=tags("instance", name, **more),
        )["Instances"]
        instances[name] = launched["InstanceId"]
    ec2.get_waiter("instance_running").wait(
        InstanceIds=list(instances.values()), WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    return instances


def make_flow_log(iam: Any, ec2: Any, vpc_id: str, interval_seconds: int) -> str:
    try:
        role = iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    except iam.exceptions.EntityAlreadyExistsException:
        role = iam.get_role(RoleName=ROLE)["Role"]
    iam.put_role_policy(RoleName=ROLE, PolicyName="deliver", PolicyDocument=json.dumps(DELIVER))
    answer = ec2.create_flow_logs(
        ResourceType="VPC",
        ResourceIds=[vpc_id],
        TrafficType="ALL",
        LogGroupName=LOG_GROUP,
        DeliverLogsPermissionArn=role["Arn"],
        MaxAggregationInterval=interval_seconds,
        LogFormat=LOG_FORMAT,
    )
    assert not answer["Unsuccessful"], answer["Unsuccessful"]
    return str(answer["FlowLogIds"][0])


def remove(ec2: Any, vpc_id: str) -> None:
    """Everything of the VPC, in the order in which one thing needs another."""
    of_vpc = [{"Name": "vpc-id", "Values": [vpc_id]}]
    flow_logs = ec2.describe_flow_logs(Filters=[{"Name": "resource-id", "Values": [vpc_id]}])["FlowLogs"]
    if flow_logs:
        ec2.delete_flow_logs(FlowLogIds=[row["FlowLogId"] for row in flow_logs])
    rows = [row for each in ec2.describe_instances(Filters=of_vpc)["Reservations"] for row in each["Instances"]]
    if ids := [row["InstanceId"] for row in rows if row["State"]["Name"] != "terminated"]:
        ec2.terminate_instances(InstanceIds=ids)
        ec2.get_waiter("instance_terminated").wait(InstanceIds=ids, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    for row in ec2.describe_nat_gateways(Filter=of_vpc)["NatGateways"]:
        ec2.delete_nat_gateway(NatGatewayId=row["NatGatewayId"])
        for address in row["NatGatewayAddresses"]:
            ec2.release_address(AllocationId=address["AllocationId"])
    for row in ec2.describe_subnets(Filters=of_vpc)["Subnets"]:
        ec2.delete_subnet(SubnetId=row["SubnetId"])
    for row in ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]:
        if not any(item.get("Main") for item in row["Associations"]):
            ec2.delete_route_table(RouteTableId=row["RouteTableId"])
    attached = [{"Name": "attachment.vpc-id", "Values": [vpc_id]}]
    for row in ec2.describe_internet_gateways(Filters=attached)["InternetGateways"]:
        ec2.detach_internet_gateway(InternetGatewayId=row["InternetGatewayId"], VpcId=vpc_id)
        ec2.delete_internet_gateway(InternetGatewayId=row["InternetGatewayId"])
    for row in ec2.describe_network_acls(Filters=of_vpc)["NetworkAcls"]:
        if not row["IsDefault"]:
            ec2.delete_network_acl(NetworkAclId=row["NetworkAclId"])
    groups = ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"]
    for row in groups:
        if row["GroupName"] != "default" and row["IpPermissions"]:
            ec2.revoke_security_group_ingress(GroupId=row["GroupId"], IpPermissions=row["IpPermissions"])
    for row in groups:
        if row["GroupName"] != "default":
            ec2.delete_security_group(GroupId=row["GroupId"])
    ec2.delete_vpc(VpcId=vpc_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint-url", help="the server's address; default: AWS_ENDPOINT_URL")
    parser.add_argument("--interval", type=int, default=INTERVAL_SECONDS, help="aggregation interval in seconds")
    parser.add_argument("--remove", metavar="VPC_ID", help="remove what an earlier run has made")
    options = parser.parse_args()
    made: dict[str, str] = {}
    try:
        run(options, made)
    except (ClientError, BotoCoreError) as error:
        text = error.response["Error"]["Message"] if isinstance(error, ClientError) else str(error)
        left = f" To take away what was made until then: --remove {made['vpc']}" if "vpc" in made else ""
        parser.exit(1, f"{parser.prog}: {text.rstrip('.')}.{left}\n")


def run(options: argparse.Namespace, made: dict[str, str]) -> None:
    ec2 = boto3.client("ec2", endpoint_url=options.endpoint_url)
    if options.remove:
        remove(ec2, options.remove)
        return
    make_network(ec2, made)
    make_acl(ec2, made)
    groups = make_groups(ec2, made["vpc"])
    iam = boto3.client("iam", endpoint_url=options.endpoint_url)
    flow_log = make_flow_log(iam, ec2, made["vpc"], options.interval)
    instances = launch(ec2, made, groups)
    print(json.dumps({**made, "flow_log": flow_log, "instances": instances}, indent=2))


if __name__ == "__main__":
    main()
