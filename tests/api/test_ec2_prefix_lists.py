"""Managed prefix lists as boto3 sees them (API reference; VPC user guide, "Customer-managed prefix lists")."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from refusals import refused

from vnotch.api.ec2 import Ec2
from vnotch.api.quotas import Quotas
from vnotch.store import firewall

ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def ec2(shared_api: Any) -> Any:
    quotas = Quotas(rules_per_security_group=10, entries_per_prefix_list=300)
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts, quotas=quotas))
    return shared_api.client("ec2", parameter_validation=False)


def given(*cidrs: str) -> list[dict[str, str]]:
    return [{"Cidr": cidr} for cidr in cidrs]


def made(ec2: Any, *cidrs: str, size: int = 5, family: str = "IPv4", name: str = "office", **params: Any) -> str:
    answer = ec2.create_managed_prefix_list(
        PrefixListName=name, AddressFamily=family, MaxEntries=size, Entries=given(*cidrs), **params
    )
    return str(answer["PrefixList"]["PrefixListId"])


def described(ec2: Any, prefix_list: str) -> dict[str, Any]:
    [found] = ec2.describe_managed_prefix_lists(PrefixListIds=[prefix_list])["PrefixLists"]
    return dict(found)


def cidrs_of(ec2: Any, prefix_list: str, **params: Any) -> list[str]:
    answer = ec2.get_managed_prefix_list_entries(PrefixListId=prefix_list, **params)
    return [entry["Cidr"] for entry in answer["Entries"]]


def test_a_list_is_created_and_described(ec2: Any) -> None:
    answer = ec2.create_managed_prefix_list(
        PrefixListName="office",
        AddressFamily="IPv4",
        MaxEntries=3,
        Entries=[{"Cidr": "198.51.100.0/24", "Description": "here"}, {"Cidr": "203.0.113.7/32"}],
        TagSpecifications=[{"ResourceType": "prefix-list", "Tags": [{"Key": "k", "Value": "v"}]}],
        ClientToken="once",
    )["PrefixList"]
    prefix_list = answer["PrefixListId"]
    assert prefix_list.startswith("pl-0")
    whole = {
        "PrefixListId": prefix_list,
        "PrefixListName": "office",
        "PrefixListArn": f"arn:aws:ec2:us-east-1:{ACCOUNT}:prefix-list/{prefix_list}",
        "AddressFamily": "IPv4",
        "MaxEntries": 3,
        "Version": 1,
        "OwnerId": ACCOUNT,
        "Tags": [{"Key": "k", "Value": "v"}],
    }
    assert answer == {**whole, "State": "create-in-progress"}
    assert described(ec2, prefix_list) == {**whole, "State": "create-complete"}
    assert ec2.get_managed_prefix_list_entries(PrefixListId=prefix_list)["Entries"] == [
        {"Cidr": "198.51.100.0/24", "Description": "here"},
        {"Cidr": "203.0.113.7/32"},
    ]


def test_a_token_makes_one_list(ec2: Any) -> None:
    first, again = (made(ec2, "10.0.0.0/8", ClientToken="twice") for _ in range(2))
    assert first == again


def test_cidrs_become_canonical(ec2: Any) -> None:
    assert cidrs_of(ec2, made(ec2, "10.1.2.3/8")) == ["10.0.0.0/8"]
    assert cidrs_of(ec2, made(ec2, "2001:DB8::1/32", family="IPv6")) == ["2001:db8::/32"]


@pytest.mark.parametrize(
    ("params", "code", "text"),
    [
        ({"PrefixListName": ""}, "MissingParameter", "The request must include the PrefixListName"),
        ({"PrefixListName": "com.amazonaws.mine"}, "InvalidParameterValue", "Value (com.amazonaws.mine) for parameter"),
        ({"AddressFamily": "IPv5"}, "InvalidParameterValue", "Value (IPv5) for parameter addressFamily is invalid."),
        ({"MaxEntries": 0}, "InvalidParameterValue", "Value (0) for parameter maxEntries is invalid. Must specify a"),
        ({"MaxEntries": 301}, "InvalidParameterValue", "Value (301) for parameter maxEntries is invalid. Must specify"),
        ({"Entries": given("::/0")}, "InvalidParameterValue", "Value (::/0) for parameter cidr is invalid."),
        ({"Entries": given("10.0.0.1")}, "InvalidParameterValue", "Value (10.0.0.1) for parameter cidr is invalid."),
        ({"Entries": given("10.0.0.0/8", "10.1.0.0/8")}, "InvalidParameterValue", "Request contains Cidr 10.0.0.0/8"),
        (
            {"Entries": given("10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8")},
            "PrefixListMaxEntriesExceeded",
            "You've reached the maximum number of entries for the prefix list.",
        ),
    ],
)
def test_lists_that_cannot_be(ec2: Any, params: dict[str, Any], code: str, text: str) -> None:
    whole = {"PrefixListName": "x", "AddressFamily": "IPv4", "MaxEntries": 2, **params}
    got, message = refused(ec2.create_managed_prefix_list, **whole)
    assert (got, message[: len(text)]) == (code, text)


def test_a_hundred_entries_at_once(ec2: Any) -> None:
    """The bound is in botocore's model of CreateManagedPrefixList and ModifyManagedPrefixList."""
    many = [f"10.0.{number}.0/24" for number in range(101)]
    params = {"PrefixListName": "x", "AddressFamily": "IPv4", "MaxEntries": 200}
    assert refused(ec2.create_managed_prefix_list, **params, Entries=given(*many))[0] in (
        "InvalidRequest",
        "InvalidParameterValue",
    )
    prefix_list = made(ec2, *many[:100], size=200)
    pages, token = [], {}
    while True:
        page = ec2.get_managed_prefix_list_entries(PrefixListId=prefix_list, MaxResults=40, **token)
        pages.append([entry["Cidr"] for entry in page["Entries"]])
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert [len(page) for page in pages] == [40, 40, 20]
    assert [cidr for page in pages for cidr in page] == many[:100]


def test_entries_that_change_make_a_version(ec2: Any) -> None:
    prefix_list = made(ec2, "10.0.0.0/8", "11.0.0.0/8")
    answer = ec2.modify_managed_prefix_list(
        PrefixListId=prefix_list,
        CurrentVersion=1,
        AddEntries=given("12.0.0.0/8"),
        RemoveEntries=given("10.9.9.9/8"),
    )["PrefixList"]
    assert (answer["Version"], answer["State"]) == (2, "modify-in-progress")
    assert described(ec2, prefix_list)["State"] == "modify-complete"
    assert cidrs_of(ec2, prefix_list) == cidrs_of(ec2, prefix_list, TargetVersion=2) == ["11.0.0.0/8", "12.0.0.0/8"]
    assert cidrs_of(ec2, prefix_list, TargetVersion=1) == ["10.0.0.0/8", "11.0.0.0/8"]
    for version in (0, 3):
        code, _ = refused(ec2.get_managed_prefix_list_entries, PrefixListId=prefix_list, TargetVersion=version)
        assert code == "InvalidParameterValue"
    answer = ec2.restore_managed_prefix_list_version(PrefixListId=prefix_list, PreviousVersion=1, CurrentVersion=2)
    assert (answer["PrefixList"]["Version"], answer["PrefixList"]["State"]) == (3, "restore-in-progress")
    assert cidrs_of(ec2, prefix_list) == ["10.0.0.0/8", "11.0.0.0/8"]
    assert cidrs_of(ec2, prefix_list, TargetVersion=2) == ["11.0.0.0/8", "12.0.0.0/8"]


def test_a_name_or_a_size_makes_no_version(ec2: Any) -> None:
    prefix_list = made(ec2, "10.0.0.0/8", size=1)
    modify = ec2.modify_managed_prefix_list
    modify(PrefixListId=prefix_list, PrefixListName="home")
    modify(PrefixListId=prefix_list, MaxEntries=2)
    found = described(ec2, prefix_list)
    assert (found["PrefixListName"], found["MaxEntries"], found["Version"]) == ("home", 2, 1)
    modify(PrefixListId=prefix_list, AddEntries=given("11.0.0.0/8"))
    assert refused(modify, PrefixListId=prefix_list, MaxEntries=1)[0] == "InvalidParameterValue"


def test_changes_that_cannot_be(ec2: Any) -> None:
    prefix_list = made(ec2, "10.0.0.0/8", size=2)

    def refusal(**params: Any) -> tuple[str, str]:
        return refused(ec2.modify_managed_prefix_list, PrefixListId=prefix_list, **params)

    assert refusal() == ("InvalidRequest", "The request received was invalid.")
    assert refusal(CurrentVersion=2, AddEntries=given("11.0.0.0/8")) == (
        "PrefixListVersionMismatch",
        "The prefix list has the incorrect version number.",
    )
    assert refusal(AddEntries=given("11.0.0.0/8"), MaxEntries=3) == (
        "InvalidParameterCombination",
        "You cannot modify the entries and the maximum entries for the prefix list in the same request.",
    )
    assert refusal(AddEntries=given("10.0.0.0/8"), RemoveEntries=given("10.0.0.0/8")) == (
        "InvalidParameterValue",
        "Request cannot contain Cidr 10.0.0.0/8 in both AddPrefixListEntries and RemovePrefixListEntries",
    )
    assert refusal(AddEntries=given("10.0.0.0/8"))[0] == "InvalidParameterValue"
    assert refusal(RemoveEntries=given("11.0.0.0/8"))[0] == "InvalidParameterValue"
    assert refusal(AddEntries=given("11.0.0.0/8", "12.0.0.0/8"))[0] == "PrefixListMaxEntriesExceeded"
    assert described(ec2, prefix_list)["Version"] == 1
    assert cidrs_of(ec2, prefix_list) == ["10.0.0.0/8"]


def test_old_versions_are_forgotten(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "PREFIX_LIST_VERSIONS_MAX", 2)
    prefix_list = made(ec2, "10.0.0.0/8")
    for number in (11, 12):
        ec2.modify_managed_prefix_list(
            PrefixListId=prefix_list,
            AddEntries=given(f"{number}.0.0.0/8"),
            RemoveEntries=given(f"{number - 1}.0.0.0/8"),
        )
    assert cidrs_of(ec2, prefix_list, TargetVersion=2) == ["11.0.0.0/8"]
    assert refused(ec2.get_managed_prefix_list_entries, PrefixListId=prefix_list, TargetVersion=1)[0] == (
        "InvalidParameterValue"
    )


def test_a_list_in_use_stays(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")["GroupId"]
    prefix_list = made(ec2, "198.51.100.0/24", size=9)
    permission = {"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": prefix_list, "Description": "office"}]}
    [rule] = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])["SecurityGroupRules"]
    assert rule["PrefixListId"] == prefix_list
    [found] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert found["IpPermissions"][0]["PrefixListIds"] == [{"PrefixListId": prefix_list, "Description": "office"}]
    again = {"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": prefix_list}]}
    assert refused(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[again]) == (
        "InvalidPermission.Duplicate",
        f'the specified rule "peer: {prefix_list}, ALL, ALLOW" already exists',
    )
    assert ec2.get_managed_prefix_list_associations(PrefixListId=prefix_list)["PrefixListAssociations"] == [
        {"ResourceId": group, "ResourceOwner": ACCOUNT}
    ]
    # It counts by its size among the group's rules, of which there may be ten here.
    two = [
        {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        for port in (1, 2)
    ]
    full = ("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
    assert refused(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=two) == full
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=two[:1])
    assert refused(ec2.modify_managed_prefix_list, PrefixListId=prefix_list, MaxEntries=10) == full
    assert described(ec2, prefix_list)["MaxEntries"] == 9
    assert refused(ec2.delete_managed_prefix_list, PrefixListId=prefix_list)[0] == "DependencyViolation"
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[again])
    answer = ec2.delete_managed_prefix_list(PrefixListId=prefix_list)["PrefixList"]
    assert (answer["PrefixListId"], answer["State"]) == (prefix_list, "delete-in-progress")
    assert refused(ec2.delete_managed_prefix_list, PrefixListId=prefix_list) == (
        "InvalidPrefixListID.NotFound",
        f"The prefix list ID '{prefix_list}' does not exist",
    )


def test_filters_and_pages(ec2: Any) -> None:
    first, second = made(ec2, name="filter-a"), made(ec2, name="filter-b")
    ec2.create_tags(Resources=[second], Tags=[{"Key": "Filter", "Value": "b"}])

    def found(name: str, value: str) -> list[str]:
        rows = ec2.describe_managed_prefix_lists(Filters=[{"Name": name, "Values": [value]}])["PrefixLists"]
        return [row["PrefixListId"] for row in rows]

    assert found("prefix-list-name", "filter-*") == [first, second]
    assert found("prefix-list-id", first) == [first]
    assert found("tag:Filter", "b") == [second]
    assert {first, second} < set(found("owner-id", ACCOUNT))
    pages = ec2.get_paginator("describe_managed_prefix_lists").paginate(
        Filters=[{"Name": "prefix-list-name", "Values": ["filter-*"]}], PaginationConfig={"PageSize": 1}
    )
    assert [[row["PrefixListId"] for row in page["PrefixLists"]] for page in pages] == [[first], [second]]
    assert refused(ec2.describe_managed_prefix_lists, MaxResults=101)[0] == "InvalidParameterValue"
    assert refused(ec2.describe_managed_prefix_lists, PrefixListIds=["pl-0"])[0] == "InvalidPrefixListID.NotFound"


def test_dry_run(ec2: Any) -> None:
    before = len(ec2.describe_managed_prefix_lists()["PrefixLists"])
    with pytest.raises(ClientError, match="DryRunOperation"):
        made(ec2, DryRun=True)
    assert len(ec2.describe_managed_prefix_lists()["PrefixLists"]) == before
