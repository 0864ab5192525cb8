"""The rule book as values: what is refused, and that JSON gives back what went in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vnotch.errors import InputError
from vnotch.inventory import AgentConfiguration, Interface
from vnotch.rules import (
    AclEntry,
    NetworkAcl,
    PrefixList,
    RuleBook,
    SecurityGroup,
    SecurityGroupRule,
    acl_entry_id,
)

BOOK = RuleBook(
    security_groups=(
        SecurityGroup(
            "sg-1",
            "vpc-1",
            "web",
            (
                SecurityGroupRule("sgr-1", False, 6, 443, 443, cidr="0.0.0.0/0"),
                SecurityGroupRule("sgr-2", False, 1, 8, -1, group_id="sg-1"),
                SecurityGroupRule("sgr-3", True, -1, -1, -1, prefix_list_id="pl-1"),
            ),
        ),
    ),
    network_acls=(
        NetworkAcl(
            "acl-1",
            "vpc-1",
            (AclEntry(100, False, 6, True, "10.0.0.0/16", 0, 65535), AclEntry(100, True, -1, False, "::/0")),
        ),
    ),
    prefix_lists=(PrefixList("pl-1", ("192.0.2.0/24", "198.51.100.0/24")),),
    group_members=(("sg-1", ("10.0.0.5", "2001:db8::5")),),
)


def interface(**more: Any) -> Interface:
    return Interface("eni-1", "vn-1", "123456789012", "us-east-1", "vpc-1", "subnet-1", "use1-az1", **more)


def test_json_gives_back_the_book() -> None:
    assert RuleBook.from_json(json.loads(json.dumps(BOOK.to_json()))) == BOOK


def test_json_gives_back_the_configuration() -> None:
    configuration = AgentConfiguration(3, (interface(group_ids=("sg-1",), network_acl_id="acl-1"),), (), BOOK)
    assert AgentConfiguration.from_json(json.loads(json.dumps(configuration.to_json()))) == configuration


def test_a_configuration_of_before_has_no_rules() -> None:
    configuration = AgentConfiguration.from_json({"revision": 1, "interfaces": [], "flow_logs": []})
    assert configuration.rules == RuleBook()
    assert interface().group_ids is None
    assert interface().network_acl_id is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"group_ids": ["sg-2"]}, "eni-1: the rule book has no security group sg-2"),
        ({"network_acl_id": "acl-2"}, "eni-1: the rule book has no network ACL acl-2"),
        ({"group_ids": []}, "eni-1: group_ids must name a group or be null"),
    ],
)
def test_dangling_references_are_refused(more: dict[str, Any], says: str) -> None:
    document = AgentConfiguration(1, (interface(),), (), BOOK).to_json()
    document["interfaces"][0].update(more)
    with pytest.raises(InputError, match=says):
        AgentConfiguration.from_json(document)


RULE = {"rule_id": "sgr-1", "egress": False, "protocol": 6, "from_port": 22, "to_port": 22, "cidr": "10.0.0.0/8"}
ENTRY = {
    "rule_number": 100,
    "egress": False,
    "protocol": 6,
    "allow": True,
    "cidr": "10.0.0.0/8",
    "from_port": 1,
    "to_port": 2,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule_id": "acl-1"}, r"rules\[0\].rule_id: 'acl-1' is not an id of the form sgr-"),
        ({"egress": 1}, r"rules\[0\].egress"),
        ({"protocol": 256}, r"rules\[0\].protocol: 256 is not an integer from -1 to 255"),
        ({"protocol": "tcp"}, r"rules\[0\].protocol"),
        ({"from_port": -1}, r"rules\[0\].from_port: -1 is not an integer from 0 to 65535"),
        ({"to_port": 65536}, r"rules\[0\].to_port"),
        ({"from_port": 23}, "from_port 23 is above to_port 22"),
        ({"protocol": 1, "from_port": 256}, r"from_port: 256 is not an integer from -1 to 255"),
        ({"protocol": 1, "from_port": -1, "to_port": 0}, "the code must be -1 too"),
        ({"cidr": "10.0.0.1/8"}, r"rules\[0\].cidr: 10.0.0.1/8 has host bits set"),
        ({"cidr": "10.0.0.0/33"}, r"rules\[0\].cidr"),
        ({"cidr": "2001:DB8::/32"}, "must be written '2001:db8::/32'"),
        ({"cidr": None}, "exactly one of cidr, group_id and prefix_list_id must be given, not 0"),
        ({"group_id": "sg-2"}, "must be given, not 2"),
        ({"cidr": None, "group_id": "sgr-2"}, r"rules\[0\].group_id"),
        ({"cidr": None, "prefix_list_id": "pl-9"}, "sgr-1 refers to pl-9: not in prefix_lists"),
        ({"colour": "red"}, "unknown member 'colour'"),
    ],
)
def test_a_wrong_rule_is_refused(change: dict[str, Any], says: str) -> None:
    group = {"group_id": "sg-1", "vpc_id": "vpc-1", "name": "g", "rules": [{**RULE, **change}]}
    with pytest.raises(InputError, match=says):
        RuleBook.from_json({"security_groups": [group]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule_number": 0}, r"entries\[0\].rule_number: 0 is not an integer from 1 to 32766"),
        ({"rule_number": 32767}, r"entries\[0\].rule_number"),
        ({"allow": "deny"}, r"entries\[0\].allow"),
        ({"from_port": 3}, "from_port 3 is above to_port 2"),
        ({"protocol": 58, "icmp_type": 256}, r"entries\[0\].icmp_type"),
        ({"protocol": 1, "icmp_code": 0}, "the code must be -1 too"),
        ({"cidr": "sg-1"}, r"entries\[0\].cidr"),
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, Any], says: str) -> None:
    acl = {"acl_id": "acl-1", "vpc_id": "vpc-1", "entries": [{**ENTRY, **change}]}
    with pytest.raises(InputError, match=says):
        RuleBook.from_json({"network_acls": [acl]})


def test_what_must_be_unique() -> None:
    group = SecurityGroup("sg-1", "vpc-1", "g", (SecurityGroupRule(**RULE), SecurityGroupRule(**RULE)))
    with pytest.raises(InputError, match="sgr-1 comes twice"):
        RuleBook((group,)).validate()
    acl = NetworkAcl("acl-1", "vpc-1", (AclEntry(**ENTRY), AclEntry(**ENTRY)))
    with pytest.raises(InputError, match="ingress/100 comes twice"):
        RuleBook(network_acls=(acl,)).validate()
    with pytest.raises(InputError, match="acl-1 comes twice"):
        RuleBook(network_acls=(NetworkAcl("acl-1", "vpc-1"), NetworkAcl("acl-1", "vpc-1"))).validate()


@pytest.mark.parametrize("document", [[], {"rules": []}, {"security_groups": {}}, {"security_groups": [1]}])
def test_a_document_of_another_shape_is_refused(document: Any) -> None:
    with pytest.raises(InputError):
        RuleBook.from_json(document)


def test_a_missing_member_is_named() -> None:
    with pytest.raises(InputError, match=r"rules.security_groups\[0\]: 'name' is missing"):
        RuleBook.from_json({"security_groups": [{"group_id": "sg-1", "vpc_id": "vpc-1"}]})


def test_peers_become_networks() -> None:
    first, second, third = BOOK.security_groups[0].rules
    assert BOOK.peer_cidrs(first) == ("0.0.0.0/0",)
    assert BOOK.peer_cidrs(second) == ("10.0.0.5/32", "2001:db8::5/128")
    assert BOOK.peer_cidrs(third) == ("192.0.2.0/24", "198.51.100.0/24")
    stale = SecurityGroupRule("sgr-9", False, -1, -1, -1, group_id="sg-gone")
    assert BOOK.peer_cidrs(stale) == ()


@pytest.mark.parametrize(
    ("protocol", "from_port", "to_port", "covers"),
    [
        (-1, -1, -1, True),
        (6, 0, 65535, True),
        (6, 1, 65535, False),
        (17, 0, 65534, False),
        (1, -1, -1, True),
        (1, 8, -1, False),
        (58, 128, 0, False),
        (50, -1, -1, True),
    ],
)
def test_which_rules_cover_all_ports(protocol: int, from_port: int, to_port: int, covers: bool) -> None:
    assert SecurityGroupRule("sgr-1", False, protocol, from_port, to_port, cidr="::/0").covers_all_ports is covers
    entry = AclEntry(1, False, protocol, True, "::/0", from_port, to_port, from_port, to_port)
    assert entry.covers_all_ports is covers


def test_names_of_acl_entries() -> None:
    assert acl_entry_id("acl-1", False, 100) == "acl-1/ingress/100"
    assert acl_entry_id("acl-1", True, None) == "acl-1/egress/*"
