"""The rule book in an agent's configuration: what is in it, who hears of which change, and how soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete
from test_agents import Site

from vnotch.api.ec2 import Ec2
from vnotch.inventory import AgentConfiguration
from vnotch.rules import AclEntry, SecurityGroupRule
from vnotch.store import firewall

WOKEN_SECONDS_MAX = 8
"""A poll that answers within this was woken by the change and did not wait for its end."""


@pytest.fixture
def site(api: Any) -> Site:
    return Site(api)


def group_of(site: Site, name: str) -> str:
    return str(site.ec2.create_security_group(VpcId=site.vpc, GroupName=name, Description=name)["GroupId"])


def permit(site: Site, group: str, port: int, **peer: Any) -> str:
    permission = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **peer}
    answer = site.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    return str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])


def from_group(group: str) -> dict[str, Any]:
    return {"UserIdGroupPairs": [{"GroupId": group}]}


def told(site: Site, agent: str) -> AgentConfiguration:
    """Parsed, and with that checked: everything that an interface or a rule names is in the document."""
    return {"a": site.a, "b": site.b}[agent].configuration(agent)


def test_an_agent_is_told_the_rules_of_its_interfaces_and_no_others(site: Site) -> None:
    web, app, database = (group_of(site, name) for name in ("web", "app", "database"))
    prefix_list = site.ec2.create_managed_prefix_list(
        PrefixListName="office", AddressFamily="IPv4", MaxEntries=2, Entries=[{"Cidr": "198.51.100.0/24"}]
    )["PrefixList"]["PrefixListId"]
    anywhere = permit(site, web, 80, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
    office = permit(site, web, 22, PrefixListIds=[{"PrefixListId": prefix_list}])
    permit(site, app, 8080, **from_group(web))
    permit(site, database, 3306, **from_group(app))
    acl = site.ec2.create_network_acl(VpcId=site.vpc)["NetworkAcl"]["NetworkAclId"]
    site.ec2.create_network_acl_entry(
        NetworkAclId=acl,
        RuleNumber=90,
        Egress=True,
        Protocol="1",
        RuleAction="deny",
        CidrBlock="198.51.100.22/32",
        IcmpTypeCode={"Type": 0, "Code": -1},
    )
    filters = [{"Name": "association.subnet-id", "Values": [site.public]}]
    [default] = site.ec2.describe_network_acls(Filters=filters)["NetworkAcls"]
    [association] = [each for each in default["Associations"] if each["SubnetId"] == site.public]
    site.ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=acl)
    one = site.interface(site.public, Groups=[web], PrivateIpAddress="10.0.0.10")
    ipv6 = [{"Ipv6Address": "fd12:3456:789a:bc00::11"}]
    two = site.interface(site.public, Groups=[web], PrivateIpAddress="10.0.0.11", Ipv6Addresses=ipv6)
    three = site.interface(site.private, Groups=[app, database], PrivateIpAddress="10.0.1.10")
    site.bind(one, "a", "vn-one")
    site.bind(three, "b", "vn-three")

    a, b = told(site, "a"), told(site, "b")
    assert [(each.interface_id, each.group_ids, each.network_acl_id) for each in a.interfaces] == [(one, (web,), acl)]
    [group] = a.rules.security_groups
    assert (group.group_id, group.vpc_id, group.name) == (web, site.vpc, "web")
    assert [rule for rule in group.rules if not rule.egress] == [
        SecurityGroupRule(anywhere, False, 6, 80, 80, cidr="0.0.0.0/0"),
        SecurityGroupRule(office, False, 6, 22, 22, prefix_list_id=prefix_list),
    ]
    assert [(rule.protocol, rule.cidr) for rule in group.rules if rule.egress] == [(-1, "0.0.0.0/0"), (-1, "::/0")]
    [network_acl] = a.rules.network_acls
    assert (network_acl.acl_id, network_acl.entries) == (
        acl,
        (AclEntry(90, True, 1, False, "198.51.100.22/32", icmp_type=0, icmp_code=-1),),
    )
    assert [(each.prefix_list_id, each.cidrs) for each in a.rules.prefix_lists] == [(prefix_list, ("198.51.100.0/24",))]
    assert a.rules.group_members == ()

    assert b.interfaces[0].group_ids == (app, database)
    assert b.interfaces[0].network_acl_id == default["NetworkAclId"]
    assert [group.group_id for group in b.rules.security_groups] == [app, database]
    assert b.rules.prefix_lists == ()
    # The members of web are those of the whole VPC, bound or not, on this agent or another.
    assert dict(b.rules.group_members) == {
        web: ("10.0.0.10", "10.0.0.11", "fd12:3456:789a:bc00::11"),
        app: ("10.0.1.10",),
    }
    assert two not in {each.interface_id for each in (*a.interfaces, *b.interfaces)}


def test_the_default_group_has_its_own_members(site: Site) -> None:
    one = site.interface(site.public, PrivateIpAddress="10.0.0.10")
    site.interface(site.private, PrivateIpAddress="10.0.1.10")
    site.bind(one, "a", "vn-one")
    [(group, members)] = told(site, "a").rules.group_members
    assert told(site, "a").interfaces[0].group_ids == (group,)
    assert members == ("10.0.0.10", "10.0.1.10")


def test_a_nat_gateways_interface_has_no_group(site: Site) -> None:
    """VPC user guide, NAT gateway basics: "You cannot associate a security group with a NAT gateway"."""
    group = group_of(site, "nat")
    nat = site.interface(site.public, Groups=[group], PrivateIpAddress="10.0.0.220")
    site.bind(nat, "a", "vn-nat", interface_type="nat_gateway")

    def shown() -> list[str]:
        [row] = site.ec2.describe_network_interfaces()["NetworkInterfaces"]
        return [each["GroupName"] for each in row["Groups"]]

    [found] = told(site, "a").interfaces
    assert found.group_ids is None
    assert found.network_acl_id is not None
    assert told(site, "a").rules.security_groups == ()
    assert shown() == []
    with pytest.raises(site.ec2.exceptions.ClientError, match="OperationNotPermitted"):
        site.ec2.modify_network_interface_attribute(NetworkInterfaceId=nat, Groups=[group])
    site.ec2.delete_security_group(GroupId=group)
    site.admin.ok("DELETE", f"/network-interfaces/{nat}/binding")
    assert shown() == ["default"]


def test_a_change_concerns_whoever_is_told_of_it_and_nobody_else(site: Site) -> None:
    """Agent a has web, agent b has app, whose rule refers to web."""
    web, app, other = (group_of(site, name) for name in ("web", "app", "other"))
    permit(site, app, 8080, **from_group(web))
    ec2 = site.ec2
    lists = [
        ec2.create_managed_prefix_list(PrefixListName=name, AddressFamily="IPv4", MaxEntries=3)["PrefixList"]
        for name in ("used", "unused")
    ]
    used, unused = (each["PrefixListId"] for each in lists)
    permit(site, web, 22, PrefixListIds=[{"PrefixListId": used}])
    one = site.interface(site.public, Groups=[web])
    two = site.interface(site.private, Groups=[app])
    free = site.interface(site.private, Groups=[other])
    site.bind(one, "a", "vn-one")
    site.bind(two, "b", "vn-two")
    acls = [ec2.create_network_acl(VpcId=site.vpc)["NetworkAcl"]["NetworkAclId"] for _ in range(2)]
    made: dict[str, str] = {}

    def note(name: str, call: Callable[[], str]) -> Callable[[], None]:
        return lambda: made.__setitem__(name, call())

    def associate(subnet: str, acl: str) -> None:
        rows = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])
        [found] = [each for each in rows["NetworkAcls"][0]["Associations"] if each["SubnetId"] == subnet]
        ec2.replace_network_acl_association(AssociationId=found["NetworkAclAssociationId"], NetworkAclId=acl)

    def entry(acl: str) -> dict[str, Any]:
        rest = {"RuleNumber": 1, "Egress": False, "Protocol": "-1", "RuleAction": "allow", "CidrBlock": "0.0.0.0/0"}
        return {"NetworkAclId": acl, **rest}

    def entries(prefix_list: str) -> None:
        ec2.modify_managed_prefix_list(PrefixListId=prefix_list, AddEntries=[{"Cidr": "10.0.0.0/8"}])

    def groups_of(interface: str, *groups: str) -> None:
        ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=list(groups))

    def modify(rule_id: str) -> None:
        rule = {"IpProtocol": "udp", "FromPort": 1, "ToPort": 1, "CidrIpv4": "10.0.0.0/8"}
        changed = [{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": rule}]
        ec2.modify_security_group_rules(GroupId=web, SecurityGroupRules=changed)

    def describe(rule_id: str) -> None:
        texts = [{"SecurityGroupRuleId": rule_id, "Description": "x"}]
        ec2.update_security_group_rule_descriptions_ingress(GroupId=web, SecurityGroupRuleDescriptions=texts)

    def revoke(rule_id: str) -> None:
        ec2.revoke_security_group_ingress(GroupId=web, SecurityGroupRuleIds=[rule_id])

    anywhere = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    changes: list[tuple[str, str, Callable[[], Any]]] = [
        ("a", "authorize", note("rule", lambda: permit(site, web, 80, **anywhere))),
        ("a", "modify", lambda: modify(made["rule"])),
        ("", "describe", lambda: describe(made["rule"])),
        ("a", "revoke", lambda: revoke(made["rule"])),
        ("", "a rule of a group that nobody carries", lambda: permit(site, other, 80, **anywhere)),
        ("b", "a new member of web", note("eni", lambda: site.interface(site.public, Groups=[web]))),
        (
            "b",
            "a member's new address",
            lambda: ec2.assign_private_ip_addresses(NetworkInterfaceId=made["eni"], SecondaryPrivateIpAddressCount=1),
        ),
        ("b", "a member gone", lambda: ec2.delete_network_interface(NetworkInterfaceId=made["eni"])),
        ("b", "a member that joins", lambda: groups_of(free, other, web)),
        ("b", "a member that leaves", lambda: groups_of(free, other)),
        ("", "an interface in a group that no rule refers to", lambda: site.interface(site.public, Groups=[other])),
        ("a", "a bound interface in one group more", lambda: groups_of(one, web, other)),
        ("ab", "it leaves web", lambda: groups_of(one, other)),
        ("ab", "and back", lambda: groups_of(one, web)),
        ("a", "entries of a list in use", lambda: entries(used)),
        ("", "entries of another list", lambda: entries(unused)),
        ("", "a name of a list", lambda: ec2.modify_managed_prefix_list(PrefixListId=used, PrefixListName="new")),
        ("a", "an ACL for the public subnet", lambda: associate(site.public, acls[0])),
        ("a", "an entry", lambda: ec2.create_network_acl_entry(**entry(acls[0]))),
        ("a", "an entry replaced", lambda: ec2.replace_network_acl_entry(**entry(acls[0]))),
        ("a", "an entry gone", lambda: ec2.delete_network_acl_entry(NetworkAclId=acls[0], RuleNumber=1, Egress=False)),
        ("", "an entry of an ACL without subnets", lambda: ec2.create_network_acl_entry(**entry(acls[1]))),
        ("b", "that ACL for the private subnet", lambda: associate(site.private, acls[1])),
        (
            "ab",
            "another block of the VPC",
            lambda: ec2.associate_vpc_cidr_block(VpcId=site.vpc, CidrBlock="10.1.0.0/16"),
        ),
    ]
    for concerned, what, change in changes:
        before = {agent: told(site, agent) for agent in "ab"}
        change()
        after = {agent: told(site, agent) for agent in "ab"}
        heard = "".join(agent for agent in "ab" if after[agent].revision > before[agent].revision)
        assert heard == concerned, what
        differ = [agent for agent in "ab" if _contents(after[agent]) != _contents(before[agent])]
        assert differ == [agent for agent in concerned if agent in differ], f"{what}: told without a new revision"


def _contents(configuration: AgentConfiguration) -> dict[str, Any]:
    return {**configuration.to_json(), "revision": 0}


def test_a_waiting_agent_has_a_new_rule_at_once(site: Site) -> None:
    web = group_of(site, "web")
    one = site.interface(site.public, Groups=[web])
    site.bind(one, "a", "vn-one")
    changes = 15
    delays: list[float] = []
    revision = told(site, "a").revision
    for number in range(changes):
        answers: list[tuple[float, AgentConfiguration]] = []

        def wait(known: int = revision, answers: list[Any] = answers) -> None:
            configuration = site.a.configuration("a", revision=known, wait_seconds=10)
            answers.append((time.monotonic(), configuration))

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        begun = time.monotonic()
        permit(site, web, 1000 + number, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
        waiting.join()
        [(at, configuration)] = answers
        delays.append(at - begun)
        revision = configuration.revision
        ports = [rule.from_port for rule in configuration.rules.security_groups[0].rules if not rule.egress]
        assert ports[-1] == 1000 + number
    assert max(delays) < WOKEN_SECONDS_MAX, delays


def test_a_state_of_a_release_without_firewall_is_completed(site: Site) -> None:
    """The rows that such a release did not have are taken away, and the service is made anew on what is left."""
    one, nat = site.interface(site.public), site.interface(site.public)
    site.bind(one, "a", "vn-one")
    site.bind(nat, "b", "vn-nat", interface_type="nat_gateway")
    with site.api.state.write() as session:
        session.execute(firewall.interface_groups.delete())
        for table in (firewall.NetworkAclAssociation, firewall.NetworkAcl, firewall.SecurityGroup):
            session.execute(delete(table))
    before = told(site, "a")
    assert before.interfaces[0].network_acl_id is None
    Ec2(site.api.state, site.api.accounts)
    a, b = told(site, "a"), told(site, "b")
    assert a.revision > before.revision, "the agent must hear of it"
    [group] = site.ec2.describe_security_groups()["SecurityGroups"]
    [acl] = site.ec2.describe_network_acls()["NetworkAcls"]
    assert (group["GroupName"], acl["IsDefault"], len(acl["Associations"])) == ("default", True, 2)
    assert a.interfaces[0].group_ids == (group["GroupId"],)
    assert b.interfaces[0].group_ids is None
    assert a.interfaces[0].network_acl_id == b.interfaces[0].network_acl_id == acl["NetworkAclId"]
    Ec2(site.api.state, site.api.accounts)
    assert told(site, "a").revision == a.revision, "and only once"
