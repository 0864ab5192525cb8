"""A second table of attacks: a user whose policy allows much and denies one thing asks for that thing by another name.

Each row has the user's statements, a call that they allow, and the attack, which must be refused by policy. What the
reference says of each is in `data/authorization_reference.json` and the IAM user guide.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError
from policies import trust_of
from test_iam import session_key

from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.logs import Logs
from vnotch.store.lake import Lake

ACCOUNT = "123456789012"
EC2 = f"arn:aws:ec2:us-east-1:{ACCOUNT}:"
IAM = f"arn:aws:iam::{ACCOUNT}:"
GROUP = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:"
REFUSED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")


@dataclass
class World:
    api: Any
    ids: dict[str, str] = field(default_factory=dict)  # what the table's texts name in braces


@pytest.fixture(scope="module")
def world(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    api = shared_api
    lake = Lake.open(tmp_path_factory.mktemp("lake"))
    logs = Logs(api.state, lake)
    api.serve(Ec2(api.state, api.accounts), logs)
    made = World(api)
    make_network(made)
    make_roles(made)
    make_groups(made)
    yield made
    logs.close()
    api.stop()
    lake.close()


def make_network(world: World) -> None:
    ec2, ids = world.api.client("ec2"), world.ids
    ids["vpc"] = ec2.create_vpc(CidrBlock="10.0.0.0/16", Ipv6CidrBlock="fd12:3456:789a:bc00::/56")["Vpc"]["VpcId"]
    block = ec2.associate_vpc_cidr_block(VpcId=ids["vpc"], CidrBlock="10.1.0.0/16")["CidrBlockAssociation"]
    ids["block"] = block["AssociationId"]
    for number, name in enumerate(("open", "secret")):
        cidrs = {"CidrBlock": f"10.0.{number}.0/24", "Ipv6CidrBlock": f"fd12:3456:789a:bc0{number}::/64"}
        subnet = ec2.create_subnet(VpcId=ids["vpc"], **cidrs)["Subnet"]
        ids[name] = subnet["SubnetId"]
        ids[f"{name}-ipv6"] = subnet["Ipv6CidrBlockAssociationSet"][0]["AssociationId"]
    interface = ec2.create_network_interface(SubnetId=ids["secret"])["NetworkInterface"]
    ids["eni"], ids["default"] = interface["NetworkInterfaceId"], interface["Groups"][0]["GroupId"]
    for name in ("mine", "theirs"):
        group = ec2.create_security_group(VpcId=ids["vpc"], GroupName=name, Description=name)["GroupId"]
        ids[name] = group
        rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
        answer = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        ids[f"{name}-rule"] = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    ids["acl"] = ec2.create_network_acl(VpcId=ids["vpc"])["NetworkAcl"]["NetworkAclId"]
    for acl in ec2.describe_network_acls()["NetworkAcls"]:
        for association in acl["Associations"]:
            name = next(name for name in ("open", "secret") if ids[name] == association["SubnetId"])
            ids[f"{name}-acl"] = association["NetworkAclAssociationId"]
    both = [{"Key": "Team", "Value": "ops"}, {"Key": "team", "Value": "net"}]
    for name, tags in (("ours", both[1:]), ("both", both)):
        specification = [{"ResourceType": "vpc", "Tags": tags}]
        ids[name] = ec2.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=specification)["Vpc"]["VpcId"]


def make_roles(world: World) -> None:
    iam, everyone = world.api.client("iam"), trust_of({"AWS": ACCOUNT})
    iam.create_role(RoleName="plain", AssumeRolePolicyDocument=everyone)
    iam.create_role(
        RoleName="high", AssumeRolePolicyDocument=everyone, Tags=[{"Key": "level", "Value": "administrator"}]
    )
    iam.create_role(RoleName="again", AssumeRolePolicyDocument=everyone)
    itself = trust_of({"AWS": [f"{IAM}role/again", ACCOUNT]})
    iam.update_assume_role_policy(RoleName="again", PolicyDocument=itself)
    iam.put_role_policy(RoleName="again", PolicyName="all", PolicyDocument=document({"Action": "*"}))
    iam.create_instance_profile(InstanceProfileName="profile")
    for name in ("bob", "boss"):
        iam.create_user(UserName=name, Path="/dev/" if name == "bob" else "/")


def make_groups(world: World) -> None:
    logs = world.api.client("logs")
    now_s = int(time.time())
    for name in ("open", "secret"):
        group = f"/{name}"
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s")
        event = {"timestamp": now_s * 1000, "message": name}
        logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=[event])
        asked = {"startTime": now_s - 60, "endTime": now_s + 60, "queryString": "fields @message, @ptr"}
        query = logs.start_query(logGroupName=group, **asked)["queryId"]
        answer = logs.get_query_results(queryId=query)
        deadline = time.monotonic() + 20
        while answer["status"] != "Complete":
            assert time.monotonic() < deadline
            time.sleep(0.02)
            answer = logs.get_query_results(queryId=query)
        world.ids[f"{name}-query"] = query
        world.ids[f"{name}-record"] = next(item["value"] for item in answer["results"][0] if item["field"] == "@ptr")


def document(*statements: dict[str, Any]) -> str:
    full = [{"Effect": "Allow", "Resource": "*", **statement} for statement in statements]
    for statement in full:
        if "NotResource" in statement:
            del statement["Resource"]
    return json.dumps({"Version": "2012-10-17", "Statement": full})


def deny(action: str, resource: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": action, "Resource": resource, **more}


Ask = Callable[["User", dict[str, str]], Any]


class User:
    """An attacker's clients, and the calls that several attacks make."""

    def __init__(self, world: World, key: tuple[str, ...]) -> None:
        self.world, self.key = world, key

    def __getattr__(self, service: str) -> Any:
        return self.world.api.client(service, self.key)

    def run(self, **params: Any) -> Any:
        asked = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "DryRun": True, **params}
        return self.ec2.run_instances(**asked)

    def assume(self, role: str, key: tuple[str, ...] | None = None, **params: Any) -> tuple[str, str, str]:
        sts = self.world.api.client("sts", key or self.key)
        return session_key(
            sts.assume_role(RoleArn=f"{IAM}role/{role}", RoleSessionName="session", **params)["Credentials"]
        )

    def filtered(self, group: str, user_agent: str) -> None:
        headers = {
            "user-agent": user_agent,
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": "Logs_20140328.FilterLogEvents",
        }
        body = json.dumps({"logGroupName": group}).encode()
        answer = self.world.api.send("logs", body, self.key, headers=headers)
        if answer.status_code != 200:
            raise ClientError({"Error": {"Code": answer.json()["__type"]}}, "FilterLogEvents")


def interfaces(**members: Any) -> dict[str, Any]:
    return {"NetworkInterfaces": [{"DeviceIndex": 0, **members}]}


def tagged(**kinds: dict[str, str]) -> dict[str, Any]:
    items = [
        {"ResourceType": kind.replace("_", "-"), "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for kind, tags in kinds.items()
    ]
    return {"TagSpecifications": items}


ALL = {"Action": "*"}
RUN = "ec2:RunInstances"
TEAM = {"StringEquals": {"aws:RequestTag/team": "net"}}

# name, statements of the user, what is allowed, the attack
ATTACKS: list[tuple[str, list[dict[str, Any]], Ask, Ask]] = [
    (
        "a subnet named inside an interface",
        [ALL, deny(RUN, EC2 + "subnet/{secret}")],
        lambda u, i: u.run(SubnetId=i["open"]),
        lambda u, i: u.run(**interfaces(SubnetId=i["secret"])),
    ),
    (
        "an interface that is there, of another subnet",
        [ALL, deny(RUN, EC2 + "network-interface/{eni}")],
        lambda u, i: u.run(**interfaces(SubnetId=i["secret"])),
        lambda u, i: u.run(**interfaces(NetworkInterfaceId=i["eni"])),
    ),
    (
        "a group named inside an interface",
        [ALL, deny(RUN, EC2 + "security-group/{theirs}")],
        lambda u, i: u.run(**interfaces(SubnetId=i["open"], Groups=[i["mine"]])),
        lambda u, i: u.run(**interfaces(SubnetId=i["open"], Groups=[i["mine"], i["theirs"]])),
    ),
    (
        "a group by its name",
        [ALL, deny(RUN, EC2 + "security-group/{theirs}")],
        lambda u, i: u.run(SubnetId=i["open"], SecurityGroups=["mine"]),
        lambda u, i: u.run(SubnetId=i["open"], SecurityGroups=["theirs"]),
    ),
    (
        "the default group, which is not named at all",
        [ALL, deny(RUN, EC2 + "security-group/{default}")],
        lambda u, i: u.run(SubnetId=i["open"], SecurityGroupIds=[i["mine"]]),
        lambda u, i: u.run(SubnetId=i["open"]),
    ),
    (
        "the default group of an interface",
        [ALL, deny("ec2:CreateNetworkInterface", EC2 + "security-group/{default}")],
        lambda u, i: u.ec2.create_network_interface(SubnetId=i["open"], Groups=[i["mine"]], DryRun=True),
        lambda u, i: u.ec2.create_network_interface(SubnetId=i["open"], DryRun=True),
    ),
    (
        "an image that nothing allows",
        [{"Action": RUN, "NotResource": f"arn:aws:ec2:us-east-1::image/{IMAGE_ID}"}, {"Action": "ec2:Describe*"}],
        lambda u, i: u.ec2.describe_images(),
        lambda u, i: u.run(SubnetId=i["open"]),
    ),
    (
        "a VPC by the association of its block",
        [ALL, deny("ec2:DisassociateVpcCidrBlock", EC2 + "vpc/{vpc}")],
        lambda u, i: u.ec2.describe_vpcs(),
        lambda u, i: u.ec2.disassociate_vpc_cidr_block(AssociationId=i["block"]),
    ),
    (
        "a subnet by the association of its block",
        [ALL, deny("ec2:DisassociateSubnetCidrBlock", EC2 + "subnet/{secret}")],
        lambda u, i: u.ec2.disassociate_subnet_cidr_block(AssociationId=i["open-ipv6"]),
        lambda u, i: u.ec2.disassociate_subnet_cidr_block(AssociationId=i["secret-ipv6"]),
    ),
    (
        "a subnet by the association of its network ACL",
        [ALL, deny("ec2:ReplaceNetworkAclAssociation", EC2 + "subnet/{secret}")],
        lambda u, i: u.ec2.replace_network_acl_association(
            AssociationId=i["open-acl"], NetworkAclId=i["acl"], DryRun=True
        ),
        lambda u, i: u.ec2.replace_network_acl_association(AssociationId=i["secret-acl"], NetworkAclId=i["acl"]),
    ),
    (
        "a rule in a group that is one's own",
        [ALL, deny("ec2:ModifySecurityGroupRules", EC2 + "security-group-rule/{mine-rule}")],
        lambda u, i: u.ec2.modify_security_group_rules(
            GroupId=i["theirs"], SecurityGroupRules=[rule(i["theirs-rule"])], DryRun=True
        ),
        lambda u, i: u.ec2.modify_security_group_rules(GroupId=i["mine"], SecurityGroupRules=[rule(i["mine-rule"])]),
    ),
    (
        "a tag in two spellings, one of which is allowed",
        [{"Action": ["ec2:CreateVpc", "ec2:CreateTags"], "Condition": TEAM}],
        lambda u, i: u.ec2.create_vpc(CidrBlock="10.8.0.0/16", DryRun=True, **tagged(vpc={"team": "net"})),
        lambda u, i: u.ec2.create_vpc(CidrBlock="10.8.0.0/16", **tagged(vpc={"Team": "ops", "team": "net"})),
    ),
    (
        "a tag in two spellings, one of which is not denied",
        [ALL, deny("ec2:CreateVpc", "*", Condition={"StringNotEquals": TEAM["StringEquals"]})],
        lambda u, i: u.ec2.create_vpc(CidrBlock="10.8.0.0/16", DryRun=True, **tagged(vpc={"team": "net"})),
        lambda u, i: u.ec2.create_vpc(CidrBlock="10.8.0.0/16", **tagged(vpc={"team": "net", "TEAM": "ops"})),
    ),
    (
        "a resource with a tag in two spellings",
        [{"Action": "ec2:DeleteVpc", "Condition": {"StringEquals": {"ec2:ResourceTag/Team": "net"}}}],
        lambda u, i: u.ec2.delete_vpc(VpcId=i["ours"], DryRun=True),
        lambda u, i: u.ec2.delete_vpc(VpcId=i["both"]),
    ),
    (
        "the right tag on the interface, the wrong one on the instance",
        [
            {"Action": RUN, "NotResource": EC2 + "instance/*"},
            {"Action": RUN, "Resource": EC2 + "instance/*", "Condition": TEAM},
            {"Action": "ec2:CreateTags"},
        ],
        lambda u, i: u.run(SubnetId=i["open"], **tagged(instance={"team": "net"})),
        lambda u, i: u.run(SubnetId=i["open"], **tagged(instance={"team": "ops"}, network_interface={"team": "net"})),
    ),
    (
        "a tag on a new user, by who may make users and not tag them",
        [{"Action": "iam:CreateUser"}],
        lambda u, i: u.iam.create_user(UserName="plain"),
        lambda u, i: u.iam.create_user(UserName="tagged", Tags=[{"Key": "team", "Value": "administrators"}]),
    ),
    (
        "a tag on a new role that is denied on roles",
        [ALL, deny("iam:TagRole", "*")],
        lambda u, i: u.iam.create_role(RoleName="untagged", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT})),
        lambda u, i: u.iam.create_role(
            RoleName="tagged", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}), Tags=[{"Key": "a", "Value": "b"}]
        ),
    ),
    (
        "a tag on a new log group",
        [{"Action": "logs:CreateLogGroup"}],
        lambda u, i: u.logs.create_log_group(logGroupName="/untagged"),
        lambda u, i: u.logs.create_log_group(logGroupName="/tagged", tags={"team": "net"}),
    ),
    (
        "a user moved into another path",
        [{"Action": "iam:UpdateUser", "Resource": IAM + "user/dev/*"}],
        lambda u, i: u.iam.update_user(UserName="bob", NewUserName="rob"),
        lambda u, i: u.iam.update_user(UserName="rob", NewPath="/administrators/"),
    ),
    (
        "a role passed to a service that it is not for",
        [
            {"Action": "iam:AddRoleToInstanceProfile"},
            {"Action": "iam:PassRole", "Condition": {"StringEquals": {"iam:PassedToService": "ecs.amazonaws.com"}}},
            {"Action": "iam:GetRole"},
        ],
        lambda u, i: u.iam.get_role(RoleName="plain"),
        lambda u, i: u.iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="plain"),
    ),
    (
        "a role whose tag forbids it",
        [ALL, deny("sts:AssumeRole", "*", Condition={"StringEquals": {"aws:ResourceTag/level": "administrator"}})],
        lambda u, i: u.assume("plain"),
        lambda u, i: u.assume("high"),
    ),
    (
        "a role that trusts itself takes off its session policy",
        [{"Action": "sts:AssumeRole"}],
        lambda u, i: u.assume("again", u.assume("again")),
        lambda u, i: u.assume("again", u.assume("again", Policy=document({"Action": "logs:*"}))),
    ),
    (
        "a log group inside the ARN of another",
        [{"Action": "logs:*", "Resource": GROUP + "/open:*"}],
        lambda u, i: u.logs.list_tags_for_resource(resourceArn=GROUP + "/open"),
        lambda u, i: u.logs.list_tags_for_resource(resourceArn=GROUP + "/secret"),
    ),
    (
        "one group of several, followed",
        [{"Action": "logs:*", "Resource": GROUP + "/open:*"}],
        lambda u, i: u.logs.filter_log_events(logGroupName="/open"),
        lambda u, i: u.logs.start_query(
            logGroupNames=["/open", "/secret"], startTime=0, endTime=1, queryString="fields @message"
        ),
    ),
    (
        "the results of another's query",
        [{"Action": "logs:*", "Resource": GROUP + "/open:*"}],
        lambda u, i: u.logs.get_query_results(queryId=i["open-query"]),
        lambda u, i: u.logs.get_query_results(queryId=i["secret-query"]),
    ),
    (
        "a record by the pointer of another's query",
        [{"Action": "logs:*", "Resource": GROUP + "/open:*"}],
        lambda u, i: u.logs.get_log_record(logRecordPointer=i["open-record"]),
        lambda u, i: u.logs.get_log_record(logRecordPointer=i["secret-record"]),
    ),
    (
        "a wildcard in what a policy variable stands for",
        [{"Action": "logs:FilterLogEvents", "Resource": GROUP + "/${aws:UserAgent}:*"}],
        lambda u, i: u.filtered("/open", user_agent="open"),
        lambda u, i: u.filtered("/secret", user_agent="*"),
    ),
]


def rule(rule_id: str) -> dict[str, Any]:
    what = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "CidrIpv4": "0.0.0.0/0"}
    return {"SecurityGroupRuleId": rule_id, "SecurityGroupRule": what}


def code_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


@pytest.mark.parametrize(
    ("number", "statements", "allowed", "attack"),
    [(number, *row[1:]) for number, row in enumerate(ATTACKS)],
    ids=[row[0] for row in ATTACKS],
)
def test_another_name_gets_nobody_more(
    world: World, number: int, statements: list[dict[str, Any]], allowed: Ask, attack: Ask
) -> None:
    iam = world.api.client("iam")
    name = f"eve-{number}"
    iam.create_user(UserName=name)
    text = document(*statements)
    for key, value in world.ids.items():
        text = text.replace(f"{{{key}}}", value)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=text)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    user = User(world, (made["AccessKeyId"], made["SecretAccessKey"]))
    assert code_of(lambda: allowed(user, world.ids)) in ("", "DryRunOperation")
    assert code_of(lambda: attack(user, world.ids)) in REFUSED
    entry = world.api.access_log.recent()[-1]
    assert (entry.status >= 400, entry.decision in ("explicitDeny", "implicitDeny")) == (True, True) or entry.further
