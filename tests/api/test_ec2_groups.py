"""Security groups and their rules as boto3 sees them.

Semantics: API reference (AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress, ModifySecurityGroupRules,
IpPermission, IpRange) and VPC user guide ("Security group rules", "Default security groups", quotas). Texts of errors
are those that users of EC2 have published, where such are known.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError
from policies import allow
from refusals import refused
from test_iam import user_key

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.quotas import Quotas

ACCOUNT = "123456789012"
ARN = f"arn:aws:ec2:us-east-1:{ACCOUNT}"
EVERYWHERE = [{"CidrIp": "0.0.0.0/0"}]


@pytest.fixture(scope="module")
def ec2(shared_api: Any) -> Any:
    quotas = Quotas(rules_per_security_group=10, security_groups_per_interface=2)
    part = Ec2(shared_api.state, shared_api.accounts, quotas=quotas)
    shared_api.serve(part, routes=Agents(shared_api.state, shared_api.accounts).routes())
    return shared_api.client("ec2", parameter_validation=False)


@pytest.fixture
def vpc(ec2: Any) -> str:
    return str(ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"])


@pytest.fixture
def group(ec2: Any, vpc: str) -> str:
    return group_of(ec2, vpc, "web")


def group_of(ec2: Any, vpc: str, name: str, **params: Any) -> str:
    return str(ec2.create_security_group(VpcId=vpc, GroupName=name, Description="a group", **params)["GroupId"])


def described(ec2: Any, group_id: str) -> dict[str, Any]:
    [found] = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    return dict(found)


def rules_of(ec2: Any, group_id: str, egress: bool = False) -> list[dict[str, Any]]:
    answer = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group_id]}])
    return [rule for rule in answer["SecurityGroupRules"] if rule["IsEgress"] is egress]


def tcp(low: int, high: int | None = None, **peers: Any) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": low, "ToPort": low if high is None else high, **peers}


def default_group(ec2: Any, vpc: str) -> str:
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": ["default"]}]
    [found] = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    return str(found["GroupId"])


def interface_of(ec2: Any, vpc: str, groups: list[str] | None = None, cidr: str = "10.0.0.0/24") -> str:
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"]
    given = {"Groups": groups} if groups else {}
    made = ec2.create_network_interface(SubnetId=subnet, **given)["NetworkInterface"]
    return str(made["NetworkInterfaceId"])


# --- groups


def test_every_vpc_has_a_default_group(ec2: Any, vpc: str) -> None:
    """In from itself, out to everywhere (VPC user guide, "Default security groups")."""
    group_id = default_group(ec2, vpc)
    assert described(ec2, group_id) == {
        "GroupId": group_id,
        "GroupName": "default",
        "Description": "default VPC security group",
        "OwnerId": ACCOUNT,
        "VpcId": vpc,
        "SecurityGroupArn": f"{ARN}:security-group/{group_id}",
        "IpPermissions": [
            {
                "IpProtocol": "-1",
                "IpRanges": [],
                "Ipv6Ranges": [],
                "PrefixListIds": [],
                "UserIdGroupPairs": [{"GroupId": group_id, "UserId": ACCOUNT}],
            }
        ],
        "IpPermissionsEgress": [
            {
                "IpProtocol": "-1",
                "IpRanges": EVERYWHERE,
                "Ipv6Ranges": [],
                "PrefixListIds": [],
                "UserIdGroupPairs": [],
            }
        ],
        "Tags": [],
    }


def test_with_ipv6_groups_let_ipv6_out_too(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", Ipv6CidrBlock="fd12:3456:789a:bc00::/56")["Vpc"]["VpcId"]
    for group_id in (default_group(ec2, vpc), group_of(ec2, vpc, "web")):
        [outbound] = described(ec2, group_id)["IpPermissionsEgress"]
        assert (outbound["IpRanges"], outbound["Ipv6Ranges"]) == (EVERYWHERE, [{"CidrIpv6": "::/0"}])


def test_an_ipv6_block_that_comes_later_opens_groups_that_nobody_has_changed(ec2: Any, vpc: str) -> None:
    plain, changed = group_of(ec2, vpc, "plain"), group_of(ec2, vpc, "changed")
    ec2.authorize_security_group_egress(GroupId=changed, IpPermissions=[tcp(80, IpRanges=EVERYWHERE)])
    ec2.associate_vpc_cidr_block(VpcId=vpc, Ipv6CidrBlock="fd12:3456:789a:bd00::/56")
    assert [rule.get("CidrIpv6") for rule in rules_of(ec2, plain, egress=True)] == [None, "::/0"]
    assert len(rules_of(ec2, changed, egress=True)) == 2


def test_a_new_group_lets_nothing_in_and_everything_out(ec2: Any, vpc: str) -> None:
    made = ec2.create_security_group(
        VpcId=vpc,
        GroupName="web",
        Description="web servers",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": "w"}]}],
    )
    group_id = made["GroupId"]
    assert group_id.startswith("sg-0")
    assert len(group_id) == len("sg-") + 17
    assert made["SecurityGroupArn"] == f"{ARN}:security-group/{group_id}"
    assert made["Tags"] == [{"Key": "Name", "Value": "w"}]
    found = described(ec2, group_id)
    assert (found["IpPermissions"], found["IpPermissionsEgress"][0]["IpRanges"]) == ([], EVERYWHERE)
    assert found["Tags"] == [{"Key": "Name", "Value": "w"}]


@pytest.mark.parametrize(
    ("params", "code", "text"),
    [
        ({"GroupName": "Default"}, "InvalidParameterValue", "Cannot use reserved security group name: Default"),
        (
            {"GroupName": "sg-mine"},
            "InvalidParameterValue",
            "Value (sg-mine) for parameter GroupName is invalid. Group names may not be in the format sg-*.",
        ),
        ({"GroupName": "x" * 256}, "InvalidParameterValue", "Invalid security group name."),
        ({"GroupName": "w", "Description": "don't"}, "InvalidParameterValue", "Invalid security group description."),
        (
            {"GroupName": "w", "Description": "Grüße"},
            "InvalidParameterValue",
            "Value (Grüße) for parameter GroupDescription is invalid. Character sets beyond ASCII are not supported.",
        ),
        ({"GroupName": "w", "Description": ""}, "MissingParameter", "The request must include the Description"),
        ({"GroupName": "w", "VpcId": "vpc-0"}, "InvalidVpcID.NotFound", "The vpc ID 'vpc-0' does not exist"),
    ],
)
def test_groups_that_cannot_be(ec2: Any, vpc: str, params: dict[str, str], code: str, text: str) -> None:
    got, message = refused(ec2.create_security_group, **{"VpcId": vpc, "Description": "a group", **params})
    assert (got, message[: len(text)]) == (code, text)


def test_no_vpc_is_a_default_vpc(ec2: Any) -> None:
    assert refused(ec2.create_security_group, GroupName="w", Description="w")[0] == "VPCIdNotSpecified"
    assert refused(ec2.describe_security_groups, GroupNames=["web"])[0] == "VPCIdNotSpecified"
    assert refused(ec2.delete_security_group, GroupName="web")[0] == "VPCIdNotSpecified"
    assert refused(ec2.delete_security_group)[0] == "MissingParameter"


def test_a_default_vpc_has_groups_by_name(api: Any) -> None:
    """API DescribeSecurityGroups, GroupNames, and CreateSecurityGroup, VpcId: the default VPC's."""
    api.serve(Ec2(api.state, api.accounts))
    ec2 = api.client("ec2")
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    ec2.create_security_group(GroupName="web", Description="w", VpcId=other)
    vpc_id = ec2.create_default_vpc()["Vpc"]["VpcId"]
    group_id = ec2.create_security_group(GroupName="web", Description="w")["GroupId"]
    [group] = ec2.describe_security_groups(GroupNames=["web"])["SecurityGroups"]
    assert (group["GroupId"], group["VpcId"]) == (group_id, vpc_id)
    rule = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "CidrIp": "0.0.0.0/0"}
    ec2.authorize_security_group_ingress(GroupName="web", **rule)
    ec2.revoke_security_group_ingress(GroupName="web", **rule)
    missing = ("InvalidGroup.NotFound", f"The security group 'app' does not exist in default VPC '{vpc_id}'")
    assert refused(ec2.describe_security_groups, GroupNames=["web", "app"]) == missing
    assert refused(ec2.delete_security_group, GroupName="app") == missing
    # Who may do it to this group alone may name it either way.
    arn = f"arn:aws:ec2:us-east-1:{ACCOUNT}:security-group/{group_id}"
    theirs = api.client("ec2", user_key(api, "ana", allow("ec2:DeleteSecurityGroup", arn)))
    assert theirs.delete_security_group(GroupName="web")["GroupId"] == group_id


def test_a_name_is_there_once_in_a_vpc_whatever_its_case(ec2: Any, vpc: str, group: str) -> None:
    assert refused(ec2.create_security_group, VpcId=vpc, GroupName="Web", Description="w") == (
        "InvalidGroup.Duplicate",
        f"The security group 'Web' already exists for VPC '{vpc}'",
    )
    group_of(ec2, str(ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]), "web")


def test_two_clients_that_make_the_same_group_at_once(shared_api: Any, ec2: Any, vpc: str) -> None:
    start, outcomes = threading.Barrier(4), []

    def make(client: Any) -> None:
        start.wait()
        try:
            group_of(client, vpc, "same")
            outcomes.append("made")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=make, args=(shared_api.client("ec2"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["InvalidGroup.Duplicate"] * 3 + ["made"]


def test_a_group_is_deleted(ec2: Any, group: str) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(22, UserIdGroupPairs=[{"GroupId": group}])])
    ec2.create_tags(Resources=[group], Tags=[{"Key": "a", "Value": "b"}])
    assert ec2.delete_security_group(GroupId=group)["GroupId"] == group  # it refers to itself, which is no hindrance
    missing = ("InvalidGroup.NotFound", f"The security group '{group}' does not exist")
    assert refused(ec2.describe_security_groups, GroupIds=[group]) == missing
    assert refused(ec2.delete_security_group, GroupId=group) == missing
    assert rules_of(ec2, group) == []
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [group]}])["Tags"] == []


def test_the_default_group_stays(ec2: Any, vpc: str) -> None:
    group_id = default_group(ec2, vpc)
    assert refused(ec2.delete_security_group, GroupId=group_id) == (
        "CannotDelete",
        f'the specified group: "{group_id}" name: "default" cannot be deleted by a user',
    )


def test_a_group_in_use_stays(ec2: Any, vpc: str, group: str) -> None:
    other = group_of(ec2, vpc, "app")
    violation = ("DependencyViolation", f"resource {group} has a dependent object")
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[tcp(22, UserIdGroupPairs=[{"GroupId": group}])])
    assert refused(ec2.delete_security_group, GroupId=group) == violation
    ec2.delete_security_group(GroupId=other)
    interface = interface_of(ec2, vpc, [group])
    assert refused(ec2.delete_security_group, GroupId=group) == violation
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    ec2.delete_security_group(GroupId=group)


def test_a_vpc_goes_with_its_default_group_and_not_with_others(ec2: Any, vpc: str, group: str) -> None:
    default = default_group(ec2, vpc)
    assert refused(ec2.delete_vpc, VpcId=vpc) == (
        "DependencyViolation",
        f"The vpc '{vpc}' has dependencies and cannot be deleted.",
    )
    ec2.delete_security_group(GroupId=group)
    ec2.create_tags(Resources=[default], Tags=[{"Key": "a", "Value": "b"}])
    ec2.delete_vpc(VpcId=vpc)
    assert refused(ec2.describe_security_groups, GroupIds=[default])[0] == "InvalidGroup.NotFound"
    assert rules_of(ec2, default) == rules_of(ec2, default, egress=True) == []
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [default]}])["Tags"] == []


def test_the_groups_of_a_vpc(ec2: Any, vpc: str, group: str) -> None:
    found = ec2.get_security_groups_for_vpc(VpcId=vpc)["SecurityGroupForVpcs"]
    assert found[1:] == [
        {
            "GroupId": group,
            "GroupName": "web",
            "Description": "a group",
            "OwnerId": ACCOUNT,
            "PrimaryVpcId": vpc,
            "Tags": [],
        }
    ]
    assert [each["GroupName"] for each in found] == ["default", "web"]
    assert ec2.describe_security_group_references(GroupId=[group])["SecurityGroupReferenceSet"] == []


def test_dry_run_and_permissions(ec2: Any, vpc: str, group: str, shared_api: Any) -> None:
    for call, params in (
        (ec2.create_security_group, {"VpcId": vpc, "GroupName": "dry", "Description": "d"}),
        (ec2.authorize_security_group_ingress, {"GroupId": group, "IpPermissions": [tcp(1, IpRanges=EVERYWHERE)]}),
        (ec2.delete_security_group, {"GroupId": group}),
    ):
        with pytest.raises(ClientError, match="DryRunOperation"):
            call(**params, DryRun=True)
    assert described(ec2, group)["IpPermissions"] == []
    with shared_api.accounts.write() as session:
        user = shared_api.accounts.make_user(session, "reader")
        key = shared_api.accounts.make_user_key(session, user)
        pair = (key.access_key_id, key.secret_access_key)
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        shared_api.client("ec2", key=pair).describe_security_groups()


# --- authorize


def test_rules_are_authorized_with_ids(ec2: Any, vpc: str, group: str) -> None:
    other = group_of(ec2, vpc, "bastion")
    answer = ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            tcp(80, IpRanges=[{"CidrIp": "0.0.0.0/0", "Description": "all of it"}], Ipv6Ranges=[{"CidrIpv6": "::/0"}]),
            tcp(22, UserIdGroupPairs=[{"GroupId": other, "UserId": ACCOUNT}]),
        ],
        TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": [{"Key": "Name", "Value": "r"}]}],
    )
    assert answer["Return"] is True
    rules = answer["SecurityGroupRules"]
    ids = [rule["SecurityGroupRuleId"] for rule in rules]
    assert all(rule_id.startswith("sgr-0") and len(rule_id) == len("sgr-") + 17 for rule_id in ids)
    common = {
        "GroupId": group,
        "GroupOwnerId": ACCOUNT,
        "IsEgress": False,
        "IpProtocol": "tcp",
        "Tags": [{"Key": "Name", "Value": "r"}],
    }
    assert rules == [
        {
            **common,
            "SecurityGroupRuleId": ids[0],
            "SecurityGroupRuleArn": f"{ARN}:security-group-rule/{ids[0]}",
            "FromPort": 80,
            "ToPort": 80,
            "CidrIpv4": "0.0.0.0/0",
            "Description": "all of it",
        },
        {
            **common,
            "SecurityGroupRuleId": ids[1],
            "SecurityGroupRuleArn": f"{ARN}:security-group-rule/{ids[1]}",
            "FromPort": 80,
            "ToPort": 80,
            "CidrIpv6": "::/0",
        },
        {
            **common,
            "SecurityGroupRuleId": ids[2],
            "SecurityGroupRuleArn": f"{ARN}:security-group-rule/{ids[2]}",
            "FromPort": 22,
            "ToPort": 22,
            "ReferencedGroupInfo": {"GroupId": other, "UserId": ACCOUNT},
        },
    ]
    assert ec2.describe_security_group_rules(SecurityGroupRuleIds=ids)["SecurityGroupRules"] == rules
    # Described by the group, the rules for the same protocol and ports are one permission.
    assert described(ec2, group)["IpPermissions"] == [
        {
            "IpProtocol": "tcp",
            "FromPort": 80,
            "ToPort": 80,
            "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "all of it"}],
            "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            "PrefixListIds": [],
            "UserIdGroupPairs": [],
        },
        {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "IpRanges": [],
            "Ipv6Ranges": [],
            "PrefixListIds": [],
            "UserIdGroupPairs": [{"GroupId": other, "UserId": ACCOUNT}],
        },
    ]


@pytest.mark.parametrize(
    ("given", "protocol", "ports"),
    [
        ({"IpProtocol": "udp", "FromPort": 0, "ToPort": 65535}, "udp", (0, 65535)),
        ({"IpProtocol": "TCP", "FromPort": 0, "ToPort": 0}, "tcp", (0, 0)),
        ({"IpProtocol": "6", "FromPort": 1, "ToPort": 2}, "tcp", (1, 2)),
        ({"IpProtocol": "icmp", "FromPort": 8, "ToPort": 0}, "icmp", (8, 0)),
        ({"IpProtocol": "icmp", "FromPort": 3, "ToPort": -1}, "icmp", (3, -1)),
        ({"IpProtocol": "1", "FromPort": -1, "ToPort": -1}, "icmp", (-1, -1)),
        ({"IpProtocol": "icmpv6"}, "icmpv6", (-1, -1)),
        ({"IpProtocol": "58", "FromPort": 128, "ToPort": 0}, "icmpv6", (128, 0)),
    ],
)
def test_protocols_with_ports_or_types(
    ec2: Any, group: str, given: dict[str, Any], protocol: str, ports: tuple[int, int]
) -> None:
    peer = {"Ipv6Ranges": [{"CidrIpv6": "::/0"}]} if protocol == "icmpv6" else {"IpRanges": EVERYWHERE}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[given | peer])
    [permission] = described(ec2, group)["IpPermissions"]
    assert (permission["IpProtocol"], permission["FromPort"], permission["ToPort"]) == (protocol, *ports)


@pytest.mark.parametrize("protocol", ["-1", "47", "50", "255", "0"])
def test_protocols_without_ports_cover_all_whatever_ports_are_given(ec2: Any, group: str, protocol: str) -> None:
    """API IpPermission: "allows traffic on all ports, regardless of any port range you specify"."""
    given = {"IpProtocol": protocol, "FromPort": 80, "ToPort": 90, "IpRanges": EVERYWHERE}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[given])
    [permission] = described(ec2, group)["IpPermissions"]
    assert permission["IpProtocol"] == protocol
    assert "FromPort" not in permission
    assert "ToPort" not in permission
    [rule] = rules_of(ec2, group)
    assert (rule["FromPort"], rule["ToPort"]) == (-1, -1)


def test_cidrs_become_canonical_and_double_in_that_form(ec2: Any, group: str) -> None:
    """API IpRange: 100.68.0.18/18 becomes 100.68.0.0/18, and the same block once more is a duplicate."""
    permit = ec2.authorize_security_group_ingress
    permit(GroupId=group, IpPermissions=[tcp(22, IpRanges=[{"CidrIp": "100.68.0.18/18"}])])
    permit(GroupId=group, IpPermissions=[tcp(22, Ipv6Ranges=[{"CidrIpv6": "2001:0DB8::1/32"}])])
    rules = rules_of(ec2, group)
    assert [rule.get("CidrIpv4") or rule["CidrIpv6"] for rule in rules] == ["100.68.0.0/18", "2001:db8::/32"]
    assert refused(permit, GroupId=group, IpPermissions=[tcp(22, IpRanges=[{"CidrIp": "100.68.1.0/18"}])]) == (
        "InvalidPermission.Duplicate",
        'the specified rule "peer: 100.68.0.0/18, TCP, from port: 22, to port: 22, ALLOW" already exists',
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        # The first two and the fourth are texts that users of EC2 have published.
        (tcp(50000, 60000, IpRanges=EVERYWHERE), "peer: 0.0.0.0/0, TCP, from port: 50000, to port: 60000, ALLOW"),
        ({"IpProtocol": "-1", "IpRanges": EVERYWHERE}, "peer: 0.0.0.0/0, ALL, ALLOW"),
        (
            {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": EVERYWHERE},
            "peer: 0.0.0.0/0, ICMP, type: ALL, code: ALL, ALLOW",
        ),
        ({"IpProtocol": "50", "IpRanges": EVERYWHERE}, "peer: 0.0.0.0/0, protocol: 50, ALLOW"),
    ],
)
def test_a_rule_is_there_once_whatever_its_description(ec2: Any, group: str, given: dict[str, Any], words: str) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[given])
    again = {**given, "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "another"}]}
    assert refused(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[again, tcp(9)]) == (
        "MissingParameter",
        "Missing source specification: include source security group or CIDR information",
    )
    assert refused(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[again]) == (
        "InvalidPermission.Duplicate",
        f'the specified rule "{words}" already exists',
    )
    twice = [tcp(1, IpRanges=EVERYWHERE), tcp(1, IpRanges=EVERYWHERE)]
    assert refused(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=twice) == (
        "InvalidParameterValue",
        "The same permission must not appear multiple times",
    )
    assert len(rules_of(ec2, group)) == 1, "all or nothing"
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[tcp(1, IpRanges=EVERYWHERE)])
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(1, IpRanges=EVERYWHERE)])


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (
            {"IpProtocol": "tcp", "FromPort": 22, "IpRanges": EVERYWHERE},
            "InvalidParameterValue",
            "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.",
        ),
        (
            {"IpProtocol": "icmp", "IpRanges": EVERYWHERE},
            "InvalidParameterValue",
            "Invalid value 'Must specify both from and to ports with ICMP.' for portRange.",
        ),
        (tcp(-1, 22, IpRanges=EVERYWHERE), "InvalidPermission.Malformed", "TCP/UDP port (-1) out of range"),
        (tcp(22, 65536, IpRanges=EVERYWHERE), "InvalidPermission.Malformed", "TCP/UDP port (65536) out of range"),
        (tcp(23, 22, IpRanges=EVERYWHERE), "InvalidParameterValue", "Invalid TCP/UDP port range (23:22)"),
        (
            {"IpProtocol": "icmp", "FromPort": -1, "ToPort": 3, "IpRanges": EVERYWHERE},
            "InvalidPermission.Malformed",
            "ICMP code (3) must be -1 where the ICMP type is -1",
        ),
        (
            {"IpProtocol": "icmp", "FromPort": 256, "ToPort": 0, "IpRanges": EVERYWHERE},
            "InvalidPermission.Malformed",
            "ICMP type (256) out of range",
        ),
        (
            {"IpProtocol": "smoke", "IpRanges": EVERYWHERE},
            "InvalidParameterValue",
            "Invalid value 'smoke' for IP protocol. Unknown protocol.",
        ),
        (
            {"IpProtocol": "256", "IpRanges": EVERYWHERE},
            "InvalidParameterValue",
            "Invalid value '256' for IP protocol. Unknown protocol.",
        ),
        ({"IpRanges": EVERYWHERE}, "MissingParameter", "The request must contain the parameter IpProtocol"),
        (
            tcp(22, IpRanges=[{"CidrIp": "10.0.0.1"}]),
            "InvalidParameterValue",
            "CIDR block 10.0.0.1 is malformed",
        ),
        (tcp(22, IpRanges=[{"CidrIp": "::/0"}]), "InvalidParameterValue", "CIDR block ::/0 is malformed"),
        (
            tcp(22, Ipv6Ranges=[{"CidrIpv6": "10.0.0.0/8"}]),
            "InvalidParameterValue",
            "CIDR block 10.0.0.0/8 is malformed",
        ),
        (
            tcp(22, IpRanges=[{"CidrIp": "10.0.0.0/33"}]),
            "InvalidParameterValue",
            "CIDR block 10.0.0.0/33 is malformed",
        ),
        (
            tcp(22, IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "what?"}]),
            "InvalidParameterValue",
            "Invalid rule description. Valid descriptions are strings less than 256 characters",
        ),
        (
            tcp(22, UserIdGroupPairs=[{"GroupId": "sg-0123456789abcdef0"}]),
            "InvalidGroup.NotFound",
            "The security group 'sg-0123456789abcdef0' does not exist",
        ),
        (
            tcp(22, PrefixListIds=[{"PrefixListId": "pl-0"}]),
            "InvalidPrefixListID.NotFound",
            "The prefix list ID 'pl-0' does not exist",
        ),
        (tcp(22, UserIdGroupPairs=[{"GroupName": "web"}]), "VPCIdNotSpecified", "No default VPC for this user."),
    ],
)
def test_rules_that_cannot_be(ec2: Any, group: str, given: dict[str, Any], code: str, text: str) -> None:
    got, message = refused(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[given])
    assert (got, message[: len(text)]) == (code, text)
    assert rules_of(ec2, group) == []


def test_a_group_of_another_vpc_or_account_is_no_peer(ec2: Any, group: str) -> None:
    elsewhere = group_of(ec2, str(ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]), "web")
    assert refused(
        ec2.authorize_security_group_ingress,
        GroupId=group,
        IpPermissions=[tcp(22, UserIdGroupPairs=[{"GroupId": elsewhere}])],
    ) == ("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
    assert refused(
        ec2.authorize_security_group_ingress,
        GroupId=group,
        IpPermissions=[tcp(22, UserIdGroupPairs=[{"GroupId": group, "UserId": "210987654321"}])],
    ) == ("InvalidGroup.NotFound", f"The security group '{group}' does not exist")


def test_one_inbound_rule_in_members_of_its_own(ec2: Any, group: str) -> None:
    """The older form of the request, which many scripts use (API AuthorizeSecurityGroupIngress)."""
    single = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "203.0.113.7/32"}
    ec2.authorize_security_group_ingress(GroupId=group, **single)
    [rule] = rules_of(ec2, group)
    assert (rule["FromPort"], rule["CidrIpv4"]) == (22, "203.0.113.7/32")
    assert refused(
        ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(1, IpRanges=EVERYWHERE)], **single
    ) == (
        "InvalidParameterCombination",
        "The parameter ipPermissions may not be used in combination with IpProtocol",
    )
    assert refused(ec2.authorize_security_group_egress, GroupId=group, **single)[0] == "UnsupportedOperation"
    assert refused(ec2.authorize_security_group_ingress, GroupId=group)[0] == "MissingParameter"
    ec2.revoke_security_group_ingress(GroupId=group, **single)
    assert rules_of(ec2, group) == []


def test_the_quota_of_rules_counts_directions_and_families_apart(ec2: Any, vpc: str, group: str) -> None:
    """The quota is 10 here. A rule with a group counts in both families (VPC user guide, quotas)."""
    permit = ec2.authorize_security_group_ingress
    full = ("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
    permit(GroupId=group, IpPermissions=[tcp(port, IpRanges=EVERYWHERE) for port in range(9)])
    permit(GroupId=group, IpPermissions=[tcp(99, UserIdGroupPairs=[{"GroupId": group}])])
    assert refused(permit, GroupId=group, IpPermissions=[tcp(10, IpRanges=EVERYWHERE)]) == full
    permit(GroupId=group, IpPermissions=[tcp(port, Ipv6Ranges=[{"CidrIpv6": "::/0"}]) for port in range(9)])
    assert refused(permit, GroupId=group, IpPermissions=[tcp(10, Ipv6Ranges=[{"CidrIpv6": "::/0"}])]) == full
    out = ec2.authorize_security_group_egress
    out(GroupId=group, IpPermissions=[tcp(port, IpRanges=EVERYWHERE) for port in range(9)])
    assert refused(out, GroupId=group, IpPermissions=[tcp(10, IpRanges=EVERYWHERE)]) == full
    assert len(rules_of(ec2, group)) == 19
    many = [tcp(port, UserIdGroupPairs=[{"GroupId": "sg-0123456789abcdef0"}]) for port in range(21)]
    assert refused(permit, GroupId=group, IpPermissions=many) == full, "not one of them is looked at"


# --- revoke


def test_rules_are_revoked_by_permissions(ec2: Any, group: str) -> None:
    kept, gone = tcp(80, IpRanges=EVERYWHERE), tcp(22, IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "ours"}])
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[kept, gone])["SecurityGroupRules"]
    missing = ("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
    absent = tcp(22, IpRanges=[{"CidrIp": "10.0.0.0/9"}])
    assert refused(ec2.revoke_security_group_ingress, GroupId=group, IpPermissions=[kept, absent]) == missing
    assert len(rules_of(ec2, group)) == 2, "no rule is revoked"
    assert refused(ec2.revoke_security_group_egress, GroupId=group, IpPermissions=[kept]) == missing
    # "If the security group rule has a description, you do not need to specify it" (API RevokeSecurityGroupIngress).
    answer = ec2.revoke_security_group_ingress(
        GroupId=group, IpPermissions=[tcp(22, IpRanges=[{"CidrIp": "10.0.0.0/8"}])]
    )
    assert answer["Return"] is True
    assert answer["RevokedSecurityGroupRules"] == [
        {
            "SecurityGroupRuleId": made[1]["SecurityGroupRuleId"],
            "GroupId": group,
            "IsEgress": False,
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "CidrIpv4": "10.0.0.0/8",
            "Description": "ours",
        }
    ]
    assert [rule["FromPort"] for rule in rules_of(ec2, group)] == [80]


def test_rules_are_revoked_by_id(ec2: Any, vpc: str, group: str) -> None:
    peer = {"UserIdGroupPairs": [{"GroupId": group}]}
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(1, **peer), tcp(2, **peer)])
    first, second = (rule["SecurityGroupRuleId"] for rule in made["SecurityGroupRules"])
    [outbound] = rules_of(ec2, group, egress=True)
    other = group_of(ec2, vpc, "other")

    def missing(rule_id: str) -> tuple[str, str]:
        return "InvalidSecurityGroupRuleId.NotFound", f"The security group rule ID '{rule_id}' does not exist"

    revoke = ec2.revoke_security_group_ingress
    assert refused(revoke, GroupId=group, SecurityGroupRuleIds=[first, "sgr-0"]) == missing("sgr-0")
    assert refused(revoke, GroupId=other, SecurityGroupRuleIds=[first]) == missing(first)
    outbound_id = outbound["SecurityGroupRuleId"]
    assert refused(revoke, GroupId=group, SecurityGroupRuleIds=[outbound_id]) == missing(outbound_id)
    answer = revoke(GroupId=group, SecurityGroupRuleIds=[second])
    assert [rule["ReferencedGroupId"] for rule in answer["RevokedSecurityGroupRules"]] == [group]
    ec2.revoke_security_group_egress(GroupId=group, SecurityGroupRuleIds=[outbound_id])
    assert described(ec2, group)["IpPermissionsEgress"] == []
    assert [rule["SecurityGroupRuleId"] for rule in rules_of(ec2, group)] == [first]
    assert refused(ec2.describe_security_group_rules, SecurityGroupRuleIds=[second]) == missing(second)


# --- modify


def test_rules_are_modified_whole(ec2: Any, vpc: str, group: str) -> None:
    web = tcp(80, IpRanges=[{"CidrIp": "0.0.0.0/0", "Description": "old"}])
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[web, tcp(22, IpRanges=EVERYWHERE)])
    first, second = (rule["SecurityGroupRuleId"] for rule in made["SecurityGroupRules"])

    def modify(rule_id: str, **rule: Any) -> dict[str, Any]:
        return {"SecurityGroupRuleId": rule_id, "SecurityGroupRule": rule}

    # At once the two may change places.
    ec2.modify_security_group_rules(
        GroupId=group,
        SecurityGroupRules=[
            modify(first, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIpv4="0.0.0.0/0"),
            modify(second, IpProtocol="tcp", FromPort=80, ToPort=80, CidrIpv4="0.0.0.0/0", Description="new"),
        ],
    )
    rules = {rule["SecurityGroupRuleId"]: rule for rule in rules_of(ec2, group)}
    assert (rules[first]["FromPort"], rules[first].get("Description")) == (22, None)
    assert (rules[second]["FromPort"], rules[second]["Description"]) == (80, "new")
    ec2.modify_security_group_rules(
        GroupId=group, SecurityGroupRules=[modify(first, IpProtocol="-1", ReferencedGroupId=group)]
    )
    [rule] = ec2.describe_security_group_rules(SecurityGroupRuleIds=[first])["SecurityGroupRules"]
    assert (rule["IpProtocol"], rule["ReferencedGroupInfo"]["GroupId"]) == ("-1", group)
    assert "CidrIpv4" not in rule
    call = ec2.modify_security_group_rules
    same = modify(first, IpProtocol="tcp", FromPort=80, ToPort=80, CidrIpv4="0.0.0.0/0")
    assert refused(call, GroupId=group, SecurityGroupRules=[same])[0] == "InvalidPermission.Duplicate"
    both = modify(first, IpProtocol="-1", CidrIpv4="0.0.0.0/0", CidrIpv6="::/0")
    assert refused(call, GroupId=group, SecurityGroupRules=[both])[0] == "InvalidParameterCombination"
    none = modify(first, IpProtocol="-1")
    assert refused(call, GroupId=group, SecurityGroupRules=[none])[0] == "MissingParameter"
    other = modify("sgr-0", IpProtocol="-1", CidrIpv4="0.0.0.0/0")
    code, text = refused(call, GroupId=group, SecurityGroupRules=[other])
    assert (code, text) == ("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID 'sgr-0' does not exist")
    [rule] = ec2.describe_security_group_rules(SecurityGroupRuleIds=[first])["SecurityGroupRules"]
    assert rule["IpProtocol"] == "-1"


def test_descriptions_are_updated_by_permission_and_by_id(ec2: Any, group: str) -> None:
    permission = tcp(80, IpRanges=[{"CidrIp": "0.0.0.0/0", "Description": "one"}])
    [made] = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])["SecurityGroupRules"]
    rule_id = made["SecurityGroupRuleId"]
    update = ec2.update_security_group_rule_descriptions_ingress

    def description() -> str | None:
        text = rules_of(ec2, group)[0].get("Description")
        return None if text is None else str(text)

    update(GroupId=group, IpPermissions=[tcp(80, IpRanges=[{"CidrIp": "0.0.0.0/0", "Description": "two"}])])
    assert description() == "two"
    update(GroupId=group, SecurityGroupRuleDescriptions=[{"SecurityGroupRuleId": rule_id, "Description": "three"}])
    assert description() == "three"
    update(GroupId=group, SecurityGroupRuleDescriptions=[{"SecurityGroupRuleId": rule_id}])
    assert description() is None, "left out, it is removed"
    by_port = [tcp(81, IpRanges=EVERYWHERE)]
    assert refused(update, GroupId=group, IpPermissions=by_port)[0] == "InvalidPermission.NotFound"
    assert refused(update, GroupId=group)[0] == "InvalidParameterCombination"
    outbound = rules_of(ec2, group, egress=True)[0]["SecurityGroupRuleId"]
    texts = [{"SecurityGroupRuleId": outbound, "Description": "out"}]
    code, _ = refused(update, GroupId=group, SecurityGroupRuleDescriptions=texts)
    assert code == "InvalidSecurityGroupRuleId.NotFound"
    ec2.update_security_group_rule_descriptions_egress(GroupId=group, SecurityGroupRuleDescriptions=texts)
    assert rules_of(ec2, group, egress=True)[0]["Description"] == "out"


# --- describe


def test_filters_of_groups(ec2: Any, vpc: str) -> None:
    web, app = group_of(ec2, vpc, "web"), group_of(ec2, vpc, "app")
    pl = ec2.create_managed_prefix_list(PrefixListName="x", AddressFamily="IPv4", MaxEntries=1)["PrefixList"]
    ec2.authorize_security_group_ingress(
        GroupId=web,
        IpPermissions=[
            tcp(80, 81, IpRanges=[{"CidrIp": "198.51.100.0/24"}], Ipv6Ranges=[{"CidrIpv6": "2001:db8::/32"}])
        ],
    )
    ec2.authorize_security_group_ingress(GroupId=app, IpPermissions=[tcp(8080, UserIdGroupPairs=[{"GroupId": web}])])
    ec2.authorize_security_group_egress(
        GroupId=app, IpPermissions=[tcp(443, PrefixListIds=[{"PrefixListId": pl["PrefixListId"]}])]
    )
    ec2.create_tags(Resources=[app], Tags=[{"Key": "Tier", "Value": "app"}])

    def found(*filters: tuple[str, str]) -> list[str]:
        given = [{"Name": name, "Values": [value]} for name, value in (("vpc-id", vpc), *filters)]
        return [group["GroupName"] for group in ec2.describe_security_groups(Filters=given)["SecurityGroups"]]

    assert found() == ["default", "web", "app"]
    assert found(("group-name", "w*")) == ["web"]
    assert found(("description", "a group")) == ["web", "app"]
    assert found(("group-id", web)) == ["web"]
    assert found(("owner-id", ACCOUNT)) == ["default", "web", "app"]
    assert found(("tag:Tier", "app")) == found(("tag-key", "Tier")) == ["app"]
    assert found(("ip-permission.cidr", "198.51.100.0/24")) == ["web"]
    assert found(("ip-permission.ipv6-cidr", "2001:db8::/32")) == ["web"]
    assert found(("ip-permission.from-port", "80")) == found(("ip-permission.to-port", "81")) == ["web"]
    assert found(("ip-permission.protocol", "tcp")) == found(("ip-permission.protocol", "6")) == ["web", "app"]
    assert found(("ip-permission.protocol", "-1")) == ["default"]
    assert found(("ip-permission.group-id", web)) == found(("ip-permission.group-name", "web")) == ["app"]
    assert found(("ip-permission.user-id", ACCOUNT)) == ["default", "app"]
    assert found(("ip-permission.from-port", "-1")) == []
    assert found(("egress.ip-permission.cidr", "0.0.0.0/0")) == ["default", "web", "app"]
    assert found(("egress.ip-permission.prefix-list-id", pl["PrefixListId"])) == ["app"]
    assert found(("ip-permission.prefix-list-id", pl["PrefixListId"])) == []
    # "any combination of rules - not necessarily a single rule - match all filters" (API DescribeSecurityGroups)
    assert found(("egress.ip-permission.from-port", "443"), ("egress.ip-permission.cidr", "0.0.0.0/0")) == ["app"]
    assert refused(ec2.describe_security_groups, Filters=[{"Name": "colour", "Values": ["red"]}]) == (
        "InvalidParameterValue",
        "The filter 'colour' is invalid",
    )


def test_pages_and_filters_of_rules(ec2: Any, group: str) -> None:
    permissions = [tcp(port, IpRanges=EVERYWHERE) for port in range(9)]
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)["SecurityGroupRules"]
    ec2.create_tags(Resources=[made[3]["SecurityGroupRuleId"]], Tags=[{"Key": "k", "Value": "v"}])
    mine = {"Name": "group-id", "Values": [group]}
    pages = ec2.get_paginator("describe_security_group_rules").paginate(
        Filters=[mine], PaginationConfig={"PageSize": 5}
    )
    assert [[rule["FromPort"] for rule in page["SecurityGroupRules"]] for page in pages] == [
        [-1, 0, 1, 2, 3],
        [4, 5, 6, 7, 8],
    ]
    tagged = ec2.describe_security_group_rules(Filters=[mine, {"Name": "tag:k", "Values": ["v"]}])
    assert [rule["FromPort"] for rule in tagged["SecurityGroupRules"]] == [3]
    wanted = [{"Name": "security-group-rule-id", "Values": [made[0]["SecurityGroupRuleId"]]}]
    assert len(ec2.describe_security_group_rules(Filters=wanted)["SecurityGroupRules"]) == 1
    assert refused(ec2.describe_security_group_rules, MaxResults=4)[0] == "InvalidParameterValue"


def test_pages_of_groups(ec2: Any, vpc: str) -> None:
    for number in range(6):
        group_of(ec2, vpc, f"g{number}")
    pages = ec2.get_paginator("describe_security_groups").paginate(
        Filters=[{"Name": "vpc-id", "Values": [vpc]}], PaginationConfig={"PageSize": 5}
    )
    assert [[group["GroupName"] for group in page["SecurityGroups"]] for page in pages] == [
        ["default", "g0", "g1", "g2", "g3"],
        ["g4", "g5"],
    ]


# --- groups of interfaces


def groups_of(ec2: Any, interface: str) -> list[tuple[str, str]]:
    [found] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
    return [(group["GroupId"], group["GroupName"]) for group in found["Groups"]]


def test_an_interface_without_groups_is_in_the_default_one(ec2: Any, vpc: str, group: str) -> None:
    plain = interface_of(ec2, vpc)
    assert groups_of(ec2, plain) == [(default_group(ec2, vpc), "default")]
    chosen = interface_of(ec2, vpc, [group, group], cidr="10.0.1.0/24")
    assert groups_of(ec2, chosen) == [(group, "web")]

    def found(name: str, value: str) -> list[str]:
        filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": name, "Values": [value]}]
        rows = ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        return [row["NetworkInterfaceId"] for row in rows]

    assert found("group-id", group) == found("group-name", "web") == [chosen]
    assert found("group-name", "default") == [plain]


def test_the_groups_of_an_interface_are_replaced(ec2: Any, vpc: str, group: str) -> None:
    app, third = group_of(ec2, vpc, "app"), group_of(ec2, vpc, "third")
    interface = interface_of(ec2, vpc)
    modify = ec2.modify_network_interface_attribute
    modify(NetworkInterfaceId=interface, Groups=[app, group])
    assert groups_of(ec2, interface) == [(app, "app"), (group, "web")]
    both = [{"GroupId": app, "GroupName": "app"}, {"GroupId": group, "GroupName": "web"}]
    for name, member, value in (("groupSet", "Groups", both), ("sourceDestCheck", "SourceDestCheck", {"Value": True})):
        shown = ec2.describe_network_interface_attribute(NetworkInterfaceId=interface, Attribute=name)
        assert (shown["NetworkInterfaceId"], shown[member]) == (interface, value)
    modify(NetworkInterfaceId=interface, Description={"Value": "changed"})
    [row] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
    assert (row["Description"], len(row["Groups"])) == ("changed", 2)
    # The quota is two here.
    assert refused(modify, NetworkInterfaceId=interface, Groups=[app, group, third]) == (
        "SecurityGroupsPerInterfaceLimitExceeded",
        "The maximum number of security groups per interface has been reached.",
    )
    assert refused(modify, NetworkInterfaceId=interface, Groups=["sg-0123456789abcdef0"])[0] == "InvalidGroup.NotFound"
    elsewhere = group_of(ec2, str(ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]), "web")
    code, text = refused(modify, NetworkInterfaceId=interface, Groups=[elsewhere])
    assert code == "InvalidParameterValue"
    assert "belong to different networks" in text
    assert refused(modify, NetworkInterfaceId=interface)[0] == "InvalidParameterCombination"
    both = {"Groups": [app], "Description": {"Value": "x"}}
    assert refused(modify, NetworkInterfaceId=interface, **both)[0] == "InvalidParameterCombination"
    off = {"SourceDestCheck": {"Value": False}}
    assert refused(modify, NetworkInterfaceId=interface, **off)[0] == "UnsupportedOperation"
    assert refused(modify, NetworkInterfaceId="eni-0", Groups=[app])[0] == "InvalidNetworkInterfaceID.NotFound"
    assert groups_of(ec2, interface) == [(app, "app"), (group, "web")]
