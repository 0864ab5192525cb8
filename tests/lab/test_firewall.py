"""Security groups, network ACLs and prefix lists in a topology file, and the mock environment's own."""

from __future__ import annotations

import pytest

from vnotch.errors import InputError
from vnotch.lab.firewall import (
    GroupRule,
    Traffic,
    acl_entry,
    parse_entry,
    parse_rule,
    parse_traffic,
    permission,
)
from vnotch.lab.topology import Topology
from vnotch.lab.topology_file import default_topology_path, load_topology, parse_topology
from vnotch.rules import AclEntry

RIGHT = """\
[vpc]
cidr = "10.0.0.0/16"

[[subnet]]
name = "public"
cidr = "10.0.0.0/24"
default_route = "internet"
network_acl = "edge"

[[subnet]]
name = "private"
cidr = "10.0.1.0/24"

[[network_acl]]
name = "edge"
ingress = [
    "100 allow tcp/80 from 0.0.0.0/0",
    "200 deny all from ::/0",
]
egress = ["100 allow tcp/1024-65535 to 0.0.0.0/0"]

[[prefix_list]]
name = "office"
cidrs = [
    "198.51.100.21",
    "198.51.100.64/26",
]

[[security_group]]
name = "web"
description = "Web servers"
ingress = [
    "tcp/80 from 0.0.0.0/0",
    "tcp/22 from prefix-list office",
    # a comment
    "udp/1000-2000 from group db",
]

[[security_group]]
name = "db"
ingress = ["tcp/3306 from group web", "icmp/3/4 from 10.0.0.0/8"]
egress = ["tcp/443 to 0.0.0.0/0"]

[[instance]]
name = "one"
subnet = "public"
address = "10.0.0.10"
services = ["http"]
security_groups = ["web", "db"]

[[instance]]
name = "two"
subnet = "private"
address = "10.0.1.10"

[internet]
public_cidr = "203.0.113.0/24"
cidrs = ["198.51.100.0/24"]
"""


def line_of(text: str, part: str) -> int:
    assert text.count(part) == 1, part
    return text[: text.index(part)].count("\n") + 1


def test_the_values_of_a_right_file() -> None:
    topology = parse_topology(RIGHT)
    web, db = topology.security_groups
    assert (web.name, web.description, web.egress_given) == ("web", "Web servers", False)
    assert web.rules == (
        GroupRule(False, Traffic(6, 80, 80), cidr="0.0.0.0/0"),
        GroupRule(False, Traffic(6, 22, 22), prefix_list="office"),
        GroupRule(False, Traffic(17, 1000, 2000), group="db"),
    )
    assert (db.description, db.egress_given) == ("db", True)
    assert db.rules[1:] == (
        GroupRule(False, Traffic(1, 3, 4), cidr="10.0.0.0/8"),
        GroupRule(True, Traffic(6, 443, 443), cidr="0.0.0.0/0"),
    )
    [acl] = topology.network_acls
    assert acl.entries == (
        AclEntry(100, False, 6, True, "0.0.0.0/0", 80, 80),
        AclEntry(200, False, -1, False, "::/0"),
        AclEntry(100, True, 6, True, "0.0.0.0/0", 1024, 65535),
    )
    [office] = topology.prefix_lists
    assert (office.cidrs, office.family) == (("198.51.100.21/32", "198.51.100.64/26"), 4)
    assert topology.eni("one").security_groups == ("web", "db")
    assert topology.eni("two").security_groups == ()
    assert topology.subnet("public").network_acl == "edge"
    assert topology.subnet("private").network_acl is None


def test_an_instance_that_is_added_has_the_groups_of_a_web_server() -> None:
    _, eni = parse_topology(RIGHT).with_instance("more", "private")
    assert eni.security_groups == ("web", "db")


@pytest.mark.parametrize(
    ("text", "traffic"),
    [
        ("all", Traffic(-1)),
        ("tcp", Traffic(6, 0, 65535)),
        ("udp/53", Traffic(17, 53, 53)),
        ("tcp/0-65535", Traffic(6, 0, 65535)),
        ("icmp", Traffic(1, -1, -1)),
        ("icmp/8", Traffic(1, 8, -1)),
        ("icmpv6/1/4", Traffic(58, 1, 4)),
        ("protocol/47", Traffic(47)),
    ],
)
def test_traffic(text: str, traffic: Traffic) -> None:
    assert parse_traffic(text) == traffic


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp/", "tcp/x", "tcp/80-", "tcp/81-80", "tcp/65536", "tcp/-1", "tcp/80/81", "TCP/80", "tcp/٨٠"),
        *("icmp/", "icmp/256", "icmp/x", "icmp//4", "icmp/3/4/5", "all/1", "all/"),
        *("protocol", "protocol/", "protocol/256", "protocol/6", "smoke"),
    ],
)
def test_what_is_no_traffic(text: str) -> None:
    with pytest.raises(ValueError, match=r"traffic|port|number"):
        parse_traffic(text)


@pytest.mark.parametrize(
    ("before", "after", "what", "right"),
    [
        ('"tcp/22 from prefix-list office"', '"tcp/22 from prefix-list home"', "no prefix list 'home'", "office"),
        ('"udp/1000-2000 from group db"', '"udp/1000-2000 from group app"', "no group 'app'", "web, db"),
        ('"udp/1000-2000 from group db"', '"udp/2000-1000 from group db"', "no port or range of ports", "tcp/80 from"),
        ('"udp/1000-2000 from group db"', '"udp/1000 to group db"', "has no 'from'", "tcp/80 from"),
        ('"udp/1000-2000 from group db"', '"tcp/80 from 0.0.0.0/0"', "the same rule is there twice", "once"),
        ('"tcp/443 to 0.0.0.0/0"', '"tcp/443 from 0.0.0.0/0"', "has no 'to'", "to 0.0.0.0/0"),
        ('"tcp/443 to 0.0.0.0/0"', '"tcp/443 to 10.0.0.1/8"', "'10.0.0.1/8' after 'to' is no CIDR", "to 0.0.0.0/0"),
        ('"tcp/443 to 0.0.0.0/0"', '"icmp to ::/0"', "goes icmpv6", "to 0.0.0.0/0"),
        ('"tcp/443 to 0.0.0.0/0"', '"icmpv6 to 0.0.0.0/0"', "goes icmp", "to 0.0.0.0/0"),
        ('"200 deny all from ::/0"', '"100 deny all from ::/0"', "the number 100 is there twice", "unique"),
        ('"200 deny all from ::/0"', '"0 deny all from ::/0"', "begin with a number", "100 allow"),
        ('"200 deny all from ::/0"', '"32767 deny all from ::/0"', "begin with a number", "100 allow"),
        ('"200 deny all from ::/0"', '"200 drop all from ::/0"', "neither allow nor deny", "100 allow"),
        ('"200 deny all from ::/0"', '"200 deny all from group web"', "is no CIDR block", "100 allow"),
        ('"198.51.100.64/26"', '"2001:db8::/32"', "of the other family", "all IPv4 or all IPv6"),
        ('"198.51.100.64/26"', '"198.51.100.21/32"', "is there twice", "once"),
        ('"198.51.100.64/26"', '"198.51.100.65/26"', "is no CIDR block", "for instance"),
        ('name = "db"', 'name = "Web"', "the name 'Web' is there twice, first on line 30", "unique"),
        ('name = "db"', 'name = "default"', "AWS reserves the name", "another"),
        ('name = "db"', 'name = "sg-1"', "AWS reserves the name", "another"),
        ('name = "db"', 'name = "d b"', "is no name", "1 to 100"),
        ('description = "Web servers"', 'descriptio = "x"', "unknown key 'descriptio'", "'description'"),
        ('security_groups = ["web", "db"]', 'security_groups = ["web", "x"]', "no security group 'x'", "web, db"),
        ('security_groups = ["web", "db"]', 'security_groups = ["db", "db"]', "'db' is there twice", "once"),
        ('network_acl = "edge"', 'network_acl = "x"', "no network ACL 'x'", "edge"),
    ],
)
def test_what_is_not_right_is_refused_at_its_own_line(before: str, after: str, what: str, right: str) -> None:
    assert RIGHT.count(before) == 1, before
    with pytest.raises(InputError) as caught:
        parse_topology(RIGHT.replace(before, after), "lab.toml")
    place, _, message = caught.value.message.partition(": ")
    assert place == f"lab.toml:{line_of(RIGHT, before)}"
    assert what in message
    assert right in str(caught.value.remedy)


def test_bounds() -> None:
    rules = ", ".join(f'"tcp/{port} from 0.0.0.0/0"' for port in range(61))
    entries = ", ".join(f'"{number} allow all from 0.0.0.0/0"' for number in range(1, 22))
    groups = "".join(f'[[security_group]]\nname = "g{number}"\n' for number in range(6))
    names = ", ".join(f'"g{number}"' for number in range(6))
    for text, what in (
        (RIGHT.replace('["tcp/3306 from group web", "icmp/3/4 from 10.0.0.0/8"]', f"[{rules}]"), "61 rules"),
        (RIGHT.replace('"100 allow tcp/80 from 0.0.0.0/0",\n    "200 deny all from ::/0",', entries), "21 entries"),
        (RIGHT.replace('["web", "db"]', f"[{names}]") + groups, "6 security groups"),
    ):
        with pytest.raises(InputError, match=what):
            parse_topology(text)


def test_rules_and_entries_as_the_api_has_them() -> None:
    """The members of API IpPermission and CreateNetworkAclEntry."""
    groups, lists = {"web": "sg-1"}, {"office": "pl-1"}

    def item(text: str, egress: bool = False) -> dict[str, object]:
        return permission(parse_rule(text, egress), groups, lists)

    ssh = {"IpProtocol": "6", "FromPort": 22, "ToPort": 22}
    assert item("tcp/22 from 10.0.0.0/8") == {**ssh, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    assert item("tcp/22 from 2001:db8::/32") == {**ssh, "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}]}
    assert item("tcp/22 from group web") == {**ssh, "UserIdGroupPairs": [{"GroupId": "sg-1"}]}
    assert item("tcp/22 to prefix-list office", True) == {**ssh, "PrefixListIds": [{"PrefixListId": "pl-1"}]}
    assert item("all from group web") == {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}
    assert item("icmp/8 from 10.0.0.1") == {
        "IpProtocol": "1",
        "FromPort": 8,
        "ToPort": -1,
        "IpRanges": [{"CidrIp": "10.0.0.1/32"}],
    }
    assert acl_entry(parse_entry("90 deny icmp/0 to 198.51.100.22", True)) == {
        "RuleNumber": 90,
        "Egress": True,
        "Protocol": "1",
        "RuleAction": "deny",
        "CidrBlock": "198.51.100.22/32",
        "IcmpTypeCode": {"Type": 0, "Code": -1},
    }
    assert acl_entry(parse_entry("5 allow udp/53 from ::/0", False)) == {
        "RuleNumber": 5,
        "Egress": False,
        "Protocol": "17",
        "RuleAction": "allow",
        "Ipv6CidrBlock": "::/0",
        "PortRange": {"From": 53, "To": 53},
    }


# --- the mock environment


@pytest.fixture
def mock() -> Topology:
    return load_topology(default_topology_path())


def test_the_groups_of_the_mock_environment(mock: Topology) -> None:
    assert {eni.name: eni.security_groups for eni in mock.enis} == {
        "web": ("web",),
        "bastion": ("bastion",),
        "app": ("app",),
        "database": ("database",),
        "nat": (),
    }
    groups = {group.name: {_words(rule) for rule in group.rules} for group in mock.security_groups}
    assert groups["web"] == {
        (6, 80, "0.0.0.0/0"),
        (6, 80, "::/0"),
        (6, 443, "0.0.0.0/0"),
        (6, 443, "::/0"),
        (1, -1, "0.0.0.0/0"),
        (58, -1, "::/0"),
    }
    assert groups["bastion"] == {
        (6, 22, "visitors"),
        (6, 22, "visitors-ipv6"),
        (1, -1, "0.0.0.0/0"),
        (58, -1, "::/0"),
    }
    assert groups["app"] == {(6, 8080, "web"), (6, 22, "bastion")}
    assert groups["database"] == {(6, 3306, "app")}
    assert not any(group.egress_given for group in mock.security_groups)
    visitors = mock.with_role("visitor")
    assert {str(host.address) + "/32" for host in visitors} == set(mock.prefix_lists[0].cidrs)
    assert {f"{host.ipv6}/128" for host in visitors} == set(mock.prefix_lists[1].cidrs)


def _words(rule: GroupRule) -> tuple[int, int, str | None]:
    assert rule.traffic.low == rule.traffic.high
    return rule.traffic.protocol, rule.traffic.low, rule.cidr or rule.group or rule.prefix_list


def test_one_visitors_pings_come_in_and_are_not_answered(mock: Topology) -> None:
    """The documented pair: a ping accepted in, its reply rejected by the network ACL (VPC user guide, flow log record
    examples, "Security group and network ACL rules")."""
    [acl] = mock.network_acls
    assert (acl.name, mock.subnet("public").network_acl, mock.subnet("private").network_acl) == (
        "public",
        "public",
        None,
    )
    denied = [entry for entry in acl.entries if not entry.allow]
    bob = next(host for host in mock.with_role("visitor") if host.name == "bob")
    assert denied == [AclEntry(90, True, 1, False, f"{bob.address}/32", icmp_type=0)]
    rest = {(entry.egress, entry.protocol, entry.cidr) for entry in acl.entries if entry.allow}
    assert rest == {(egress, -1, cidr) for egress in (False, True) for cidr in ("0.0.0.0/0", "::/0")}
    assert all(entry.rule_number > 90 for entry in acl.entries if entry.allow)
