"""Network ACLs as boto3 sees them (API reference; VPC user guide, "Control subnet traffic with network ACLs")."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from refusals import refused

from vnotch.api.ec2 import Ec2
from vnotch.api.quotas import Quotas

ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def ec2(shared_api: Any) -> Any:
    quotas = Quotas(network_acls_per_vpc=3, entries_per_network_acl=4)
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts, quotas=quotas))
    return shared_api.client("ec2", parameter_validation=False)


@pytest.fixture
def vpc(ec2: Any) -> str:
    return str(ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"])


@pytest.fixture
def acl(ec2: Any, vpc: str) -> str:
    return str(ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"])


def acls_of(ec2: Any, vpc: str, *filters: tuple[str, str]) -> list[dict[str, Any]]:
    given = [{"Name": name, "Values": [value]} for name, value in (("vpc-id", vpc), *filters)]
    return list(ec2.describe_network_acls(Filters=given)["NetworkAcls"])


def entries(ec2: Any, acl: str) -> list[tuple[bool, int, str, str, str]]:
    """Of an ACL: outbound or not, number, action, protocol, CIDR."""
    [found] = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"]
    return [
        (
            entry["Egress"],
            entry["RuleNumber"],
            entry["RuleAction"],
            entry["Protocol"],
            entry.get("CidrBlock") or entry["Ipv6CidrBlock"],
        )
        for entry in found["Entries"]
    ]


def subnet_of(ec2: Any, vpc: str, cidr: str = "10.0.0.0/24") -> str:
    return str(ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"])


def association_of(ec2: Any, subnet: str) -> dict[str, str]:
    filters = [{"Name": "association.subnet-id", "Values": [subnet]}]
    [found] = ec2.describe_network_acls(Filters=filters)["NetworkAcls"]
    return next(each for each in found["Associations"] if each["SubnetId"] == subnet)


DENY_ALL = [(True, 32767, "deny", "-1", "0.0.0.0/0"), (False, 32767, "deny", "-1", "0.0.0.0/0")]


# --- ACLs


def test_every_vpc_has_a_default_acl_that_lets_all_through(ec2: Any, vpc: str) -> None:
    [found] = acls_of(ec2, vpc)
    acl = found["NetworkAclId"]
    assert acl.startswith("acl-0")
    assert found == {
        "NetworkAclId": acl,
        "VpcId": vpc,
        "OwnerId": ACCOUNT,
        "IsDefault": True,
        "Associations": [],
        "Entries": [
            {
                "CidrBlock": "0.0.0.0/0",
                "Egress": egress,
                "Protocol": "-1",
                "RuleAction": action,
                "RuleNumber": number,
            }
            for egress in (True, False)
            for number, action in ((100, "allow"), (32767, "deny"))
        ],
        "Tags": [],
    }


def test_with_ipv6_there_are_entries_for_it(ec2: Any) -> None:
    """100 and 101, and a final `*` for each family (VPC user guide, "Default network ACL")."""
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", Ipv6CidrBlock="fd12:3456:789a:bc00::/56")["Vpc"]["VpcId"]
    both = [
        (egress, number, action, "-1", cidr)
        for egress in (True, False)
        for number, action, cidr in (
            (100, "allow", "0.0.0.0/0"),
            (101, "allow", "::/0"),
            (32767, "deny", "0.0.0.0/0"),
            (32768, "deny", "::/0"),
        )
    ]
    assert entries(ec2, acls_of(ec2, vpc)[0]["NetworkAclId"]) == both


def test_an_ipv6_block_that_comes_later_opens_a_default_acl_that_nobody_has_changed(ec2: Any, vpc: str) -> None:
    changed = str(ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"])
    plain_acl, changed_acl = acls_of(ec2, vpc)[0]["NetworkAclId"], acls_of(ec2, changed)[0]["NetworkAclId"]
    ec2.delete_network_acl_entry(NetworkAclId=changed_acl, RuleNumber=100, Egress=True)
    ec2.associate_vpc_cidr_block(VpcId=vpc, Ipv6CidrBlock="fd12:3456:789a:bd00::/56")
    ec2.associate_vpc_cidr_block(VpcId=changed, Ipv6CidrBlock="fd12:3456:789a:be00::/56")
    assert [entry[1] for entry in entries(ec2, plain_acl)] == [100, 101, 32767, 32768] * 2
    assert [entry[1] for entry in entries(ec2, changed_acl)] == [32767, 32768, 100, 32767, 32768]


def test_a_new_acl_lets_nothing_through(ec2: Any, vpc: str) -> None:
    tags = [{"ResourceType": "network-acl", "Tags": [{"Key": "Name", "Value": "strict"}]}]
    answer = ec2.create_network_acl(VpcId=vpc, TagSpecifications=tags, ClientToken="once")
    made = answer["NetworkAcl"]
    assert answer["ClientToken"] == "once"
    assert (made["IsDefault"], made["Associations"]) == (False, [])
    assert made["Tags"] == [{"Key": "Name", "Value": "strict"}]
    assert entries(ec2, made["NetworkAclId"]) == DENY_ALL
    again = ec2.create_network_acl(VpcId=vpc, TagSpecifications=tags, ClientToken="once")["NetworkAcl"]
    assert again["NetworkAclId"] == made["NetworkAclId"]
    other = refused(ec2.create_network_acl, VpcId="vpc-0", ClientToken="once")
    assert other[0] == "IdempotentParameterMismatch"
    assert refused(ec2.create_network_acl, VpcId="vpc-0") == (
        "InvalidVpcID.NotFound",
        "The vpc ID 'vpc-0' does not exist",
    )


def test_the_quota_of_acls(ec2: Any, vpc: str) -> None:
    """Three here, the default one included."""
    for _ in range(2):
        ec2.create_network_acl(VpcId=vpc)
    assert refused(ec2.create_network_acl, VpcId=vpc) == (
        "NetworkAclLimitExceeded",
        "The maximum number of network ACLs has been reached.",
    )


def test_acls_are_deleted(ec2: Any, vpc: str, acl: str) -> None:
    [default] = acls_of(ec2, vpc, ("default", "true"))
    assert refused(ec2.delete_network_acl, NetworkAclId=default["NetworkAclId"])[0] == "InvalidParameterValue"
    subnet = subnet_of(ec2, vpc)
    association = association_of(ec2, subnet)["NetworkAclAssociationId"]
    ec2.replace_network_acl_association(AssociationId=association, NetworkAclId=acl)
    assert refused(ec2.delete_network_acl, NetworkAclId=acl) == (
        "DependencyViolation",
        f"The networkAcl '{acl}' has dependencies and cannot be deleted.",
    )
    ec2.delete_subnet(SubnetId=subnet)
    assert refused(ec2.delete_vpc, VpcId=vpc)[0] == "DependencyViolation"
    with pytest.raises(ClientError, match="DryRunOperation"):
        ec2.delete_network_acl(NetworkAclId=acl, DryRun=True)
    ec2.delete_network_acl(NetworkAclId=acl)
    missing = ("InvalidNetworkAclID.NotFound", f"The networkAcl ID '{acl}' does not exist")
    assert refused(ec2.delete_network_acl, NetworkAclId=acl) == missing
    assert refused(ec2.describe_network_acls, NetworkAclIds=[acl]) == missing
    ec2.delete_vpc(VpcId=vpc)
    assert acls_of(ec2, vpc) == []


# --- associations


def test_a_subnet_has_the_default_acl_until_it_gets_another(ec2: Any, vpc: str, acl: str) -> None:
    subnet = subnet_of(ec2, vpc)
    first = association_of(ec2, subnet)
    [default] = acls_of(ec2, vpc, ("default", "true"))
    assert first["NetworkAclId"] == default["NetworkAclId"]
    assert first["NetworkAclAssociationId"].startswith("aclassoc-0")
    replace = ec2.replace_network_acl_association
    old = first["NetworkAclAssociationId"]
    new = replace(AssociationId=old, NetworkAclId=acl)["NewAssociationId"]
    assert new != old
    assert association_of(ec2, subnet) == {
        "NetworkAclAssociationId": new,
        "NetworkAclId": acl,
        "SubnetId": subnet,
    }
    assert replace(AssociationId=new, NetworkAclId=acl)["NewAssociationId"] == new, "the same again changes nothing"
    assert refused(replace, AssociationId=old, NetworkAclId=acl) == (
        "InvalidAssociationID.NotFound",
        f"The association ID '{old}' does not exist",
    )
    assert refused(replace, AssociationId=new, NetworkAclId="acl-0")[0] == "InvalidNetworkAclID.NotFound"
    elsewhere = acls_of(ec2, str(ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]))[0]["NetworkAclId"]
    code, text = refused(replace, AssociationId=new, NetworkAclId=elsewhere)
    assert code == "InvalidParameterValue"
    assert "belong to different networks" in text


# --- entries


def entry(number: int = 100, **params: Any) -> dict[str, Any]:
    return {
        "RuleNumber": number,
        "Protocol": "-1",
        "RuleAction": "allow",
        "Egress": False,
        "CidrBlock": "0.0.0.0/0",
        **params,
    }


def test_entries_are_created_in_their_order(ec2: Any, acl: str) -> None:
    create = ec2.create_network_acl_entry
    web = entry(200, Protocol="6", CidrBlock="10.0.0.0/8", PortRange={"From": 80, "To": 443})
    create(NetworkAclId=acl, **web)
    create(NetworkAclId=acl, **entry(90, RuleAction="deny", CidrBlock="100.68.0.18/18"))
    create(NetworkAclId=acl, **entry(200, Egress=True, Protocol="47"))
    ping = {"Protocol": "1", "IcmpTypeCode": {"Type": 8, "Code": -1}}
    create(NetworkAclId=acl, **entry(110, **ping))
    [found] = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"]
    assert found["Entries"] == [
        {"CidrBlock": "0.0.0.0/0", "Egress": True, "Protocol": "47", "RuleAction": "allow", "RuleNumber": 200},
        {"CidrBlock": "0.0.0.0/0", "Egress": True, "Protocol": "-1", "RuleAction": "deny", "RuleNumber": 32767},
        # API CreateNetworkAclEntry: 100.68.0.18/18 is modified to 100.68.0.0/18.
        {"CidrBlock": "100.68.0.0/18", "Egress": False, "Protocol": "-1", "RuleAction": "deny", "RuleNumber": 90},
        {
            "CidrBlock": "0.0.0.0/0",
            "Egress": False,
            "Protocol": "1",
            "RuleAction": "allow",
            "RuleNumber": 110,
            "IcmpTypeCode": {"Type": 8, "Code": -1},
        },
        {
            "CidrBlock": "10.0.0.0/8",
            "Egress": False,
            "Protocol": "6",
            "RuleAction": "allow",
            "RuleNumber": 200,
            "PortRange": {"From": 80, "To": 443},
        },
        {"CidrBlock": "0.0.0.0/0", "Egress": False, "Protocol": "-1", "RuleAction": "deny", "RuleNumber": 32767},
    ]


def test_entries_for_ipv6(ec2: Any, acl: str) -> None:
    ipv6 = {"CidrBlock": None, "Ipv6CidrBlock": "2001:db8:1234:1a00::1/64"}
    given = {name: value for name, value in entry(5, **ipv6).items() if value is not None}
    icmpv6 = {**given, "Protocol": "58", "RuleNumber": 6, "IcmpTypeCode": {"Type": 128, "Code": 0}}
    ec2.create_network_acl_entry(NetworkAclId=acl, **given)
    ec2.create_network_acl_entry(NetworkAclId=acl, **icmpv6)
    assert entries(ec2, acl)[1:3] == [
        (False, 5, "allow", "-1", "2001:db8:1234:1a00::/64"),
        (False, 6, "allow", "58", "2001:db8:1234:1a00::/64"),
    ]


def test_names_of_protocols_are_understood(ec2: Any, acl: str) -> None:
    ec2.create_network_acl_entry(NetworkAclId=acl, **entry(1, Protocol="udp", PortRange={"From": 53, "To": 53}))
    assert entries(ec2, acl)[1] == (False, 1, "allow", "17", "0.0.0.0/0")


def test_a_number_is_there_once_in_a_direction(ec2: Any, acl: str) -> None:
    create = ec2.create_network_acl_entry
    create(NetworkAclId=acl, **entry())
    assert refused(create, NetworkAclId=acl, **entry(RuleAction="deny")) == (
        "NetworkAclEntryAlreadyExists",
        "The network acl entry identified by 100 already exists.",
    )
    create(NetworkAclId=acl, **entry(Egress=True))


def test_the_quota_of_entries_counts_directions_apart(ec2: Any, acl: str) -> None:
    """Four here."""
    create = ec2.create_network_acl_entry
    for number in range(1, 5):
        create(NetworkAclId=acl, **entry(number))
    assert refused(create, NetworkAclId=acl, **entry(5)) == (
        "NetworkAclEntryLimitExceeded",
        "The maximum number of network ACL entries has been reached.",
    )
    create(NetworkAclId=acl, **entry(5, Egress=True))
    ec2.replace_network_acl_entry(NetworkAclId=acl, **entry(4, RuleAction="deny"))


def test_entries_are_replaced_and_deleted(ec2: Any, acl: str) -> None:
    ec2.create_network_acl_entry(
        NetworkAclId=acl, **entry(Protocol="6", PortRange={"From": 1, "To": 2}, CidrBlock="10.0.0.0/8")
    )
    ec2.replace_network_acl_entry(NetworkAclId=acl, **entry(Protocol="-1", RuleAction="deny"))
    [found] = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"]
    assert found["Entries"][1] == {
        "CidrBlock": "0.0.0.0/0",
        "Egress": False,
        "Protocol": "-1",
        "RuleAction": "deny",
        "RuleNumber": 100,
    }
    missing = ("InvalidNetworkAclEntry.NotFound", "The network acl entry identified by 100 does not exist.")
    assert refused(ec2.replace_network_acl_entry, NetworkAclId=acl, **entry(Egress=True)) == missing
    delete = ec2.delete_network_acl_entry
    assert refused(delete, NetworkAclId=acl, RuleNumber=100, Egress=True) == missing
    delete(NetworkAclId=acl, RuleNumber=100, Egress=False)
    assert entries(ec2, acl) == DENY_ALL
    assert refused(delete, NetworkAclId=acl, RuleNumber=32767, Egress=False)[0] == "InvalidParameterValue"
    assert refused(delete, NetworkAclId="acl-0", RuleNumber=1, Egress=False)[0] == "InvalidNetworkAclID.NotFound"


@pytest.mark.parametrize(
    ("params", "code", "text"),
    [
        ({"RuleNumber": 0}, "InvalidParameterValue", "Value (0) for parameter ruleNumber is invalid."),
        ({"RuleNumber": 32767}, "InvalidParameterValue", "Value (32767) for parameter ruleNumber is invalid."),
        ({"RuleAction": "drop"}, "InvalidParameterValue", ""),
        ({"Protocol": "smoke"}, "InvalidParameterValue", "Invalid value 'smoke' for IP protocol."),
        ({"Protocol": "6"}, "MissingParameter", "The request must contain the parameter PortRange"),
        (
            {"Protocol": "17", "PortRange": {"From": 1}},
            "MissingParameter",
            "The request must contain the parameter To",
        ),
        (
            {"Protocol": "6", "PortRange": {"From": 2, "To": 1}},
            "InvalidParameterValue",
            "Value (2-1) for parameter portRange is invalid.",
        ),
        (
            {"Protocol": "6", "PortRange": {"From": 0, "To": 65536}},
            "InvalidParameterValue",
            "Value (0-65536) for parameter portRange is invalid.",
        ),
        ({"Protocol": "1"}, "MissingParameter", "The request must contain the parameter IcmpTypeCode"),
        (
            {"Protocol": "1", "IcmpTypeCode": {"Type": -1, "Code": 1}},
            "InvalidParameterValue",
            "ICMP code (1) must be -1 where the ICMP type is -1",
        ),
        (
            {"CidrBlock": "10.0.0.0"},
            "InvalidParameterValue",
            "Value (10.0.0.0) for parameter cidrBlock is invalid. This is not a valid CIDR block.",
        ),
        ({"CidrBlock": ""}, "MissingParameter", "The request must contain the parameter CidrBlock or Ipv6CidrBlock"),
        ({"Ipv6CidrBlock": "::/0"}, "InvalidParameterCombination", "The parameter CidrBlock cannot be used with"),
        (
            {"CidrBlock": "", "Ipv6CidrBlock": "10.0.0.0/8"},
            "InvalidParameterValue",
            "Value (10.0.0.0/8) for parameter ipv6CidrBlock is invalid.",
        ),
    ],
)
def test_entries_that_cannot_be(ec2: Any, acl: str, params: dict[str, Any], code: str, text: str) -> None:
    for call in (ec2.create_network_acl_entry, ec2.replace_network_acl_entry):
        got, message = refused(call, NetworkAclId=acl, **entry(**params))
        assert (got, message[: len(text)]) == (code, text)
    assert entries(ec2, acl) == DENY_ALL


# --- describe


def test_filters(ec2: Any, vpc: str, acl: str) -> None:
    create = ec2.create_network_acl_entry
    create(NetworkAclId=acl, **entry(7, Protocol="6", CidrBlock="10.9.0.0/16", PortRange={"From": 80, "To": 81}))
    create(NetworkAclId=acl, **entry(8, Egress=True, Protocol="1", IcmpTypeCode={"Type": 3, "Code": 4}))
    ec2.create_tags(Resources=[acl], Tags=[{"Key": "k", "Value": "v"}])
    subnet = subnet_of(ec2, vpc)
    association = association_of(ec2, subnet)
    default = association["NetworkAclId"]

    def found(name: str, value: str) -> list[str]:
        return [each["NetworkAclId"] for each in acls_of(ec2, vpc, (name, value))]

    assert found("network-acl-id", acl) == [acl]
    assert found("default", "true") == [default]
    assert found("owner-id", ACCOUNT) == [default, acl]
    assert found("tag:k", "v") == found("tag-key", "k") == [acl]
    assert found("association.subnet-id", subnet) == [default]
    assert found("association.association-id", association["NetworkAclAssociationId"]) == [default]
    assert found("association.network-acl-id", default) == [default]
    assert found("entry.cidr", "10.9.0.0/16") == [acl]
    assert found("entry.ipv6-cidr", "::/0") == []
    assert found("entry.port-range.from", "80") == found("entry.port-range.to", "81") == [acl]
    assert found("entry.icmp.type", "3") == found("entry.icmp.code", "4") == [acl]
    assert found("entry.protocol", "tcp") == found("entry.protocol", "6") == found("entry.protocol", "icmp") == [acl]
    assert found("entry.protocol", "-1") == [default, acl]
    assert found("entry.rule-action", "allow") == found("entry.egress", "true") == [default, acl]
    assert found("entry.rule-number", "100") == [default]
    assert found("entry.rule-number", "32767") == [default, acl]


def test_pages(ec2: Any) -> None:
    made = []
    for number in range(6):
        vpc = ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"]
        made.append(acls_of(ec2, vpc)[0]["NetworkAclId"])
    pages = ec2.get_paginator("describe_network_acls").paginate(
        Filters=[{"Name": "network-acl-id", "Values": made}], PaginationConfig={"PageSize": 5}
    )
    assert [[each["NetworkAclId"] for each in page["NetworkAcls"]] for page in pages] == [made[:5], made[5:]]
