"""Explanations: what they say, and what questions they refuse."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from vnotch.errors import InputError
from vnotch.explain import Explanation, explain, interface_policy
from vnotch.flow import Direction, Outcome
from vnotch.inventory import AgentConfiguration, Interface
from vnotch.rules import AclEntry, NetworkAcl, RuleBook, SecurityGroup, SecurityGroupRule


def interface(interface_id: str, address: str, subnet: str, **more: Any) -> Interface:
    values = {
        "device": "vn-1",
        "account_id": "123456789012",
        "region": "us-east-1",
        "vpc_id": "vpc-1",
        "subnet_id": "subnet-1",
        "az_id": "use1-az1",
        "private_ipv4": (address,),
        "vpc_cidrs": ("10.0.0.0/16",),
        "subnet_cidrs": (subnet,),
    }
    return Interface(interface_id, **{**values, **more})


BOOK = RuleBook(
    (
        SecurityGroup("sg-web", "vpc-1", "web", (SecurityGroupRule("sgr-out", True, -1, -1, -1, cidr="0.0.0.0/0"),)),
        SecurityGroup(
            "sg-db",
            "vpc-1",
            "db",
            (
                SecurityGroupRule("sgr-mysql", False, 6, 3306, 3306, group_id="sg-web"),
                SecurityGroupRule("sgr-ping", False, 1, 8, -1, cidr="10.0.0.0/16"),
            ),
        ),
    ),
    (
        NetworkAcl(
            "acl-db",
            "vpc-1",
            (
                AclEntry(90, False, 6, False, "0.0.0.0/0", 22, 22),
                AclEntry(100, False, -1, True, "0.0.0.0/0"),
                AclEntry(100, True, 6, True, "10.0.0.0/16", 1024, 65535),
            ),
        ),
    ),
    group_members=(("sg-web", ("10.0.1.10",)),),
)
WEB = interface("eni-web", "10.0.1.10", "10.0.1.0/24", group_ids=("sg-web",), instance_id="i-web")
DB = interface("eni-db", "10.0.2.20", "10.0.2.0/24", group_ids=("sg-db",), network_acl_id="acl-db", enforce=True)
NAT = interface("eni-nat", "10.0.3.9", "10.0.3.0/24")
CONFIGURATION = AgentConfiguration(1, (WEB, DB, NAT), (), BOOK)


def ask(*question: Any, **more: Any) -> Explanation:
    return explain(CONFIGURATION, *question, **more)


def test_a_connection_between_two_interfaces_and_its_answer() -> None:
    answer = ask("10.0.1.10", "10.0.2.20", 3306)
    assert answer.outcome is Outcome.ACCEPT
    assert answer.reply_outcome is Outcome.ACCEPT
    assert [(hop.interface_id, hop.direction) for hop in answer.hops] == [
        ("eni-web", Direction.EGRESS),
        ("eni-db", Direction.INGRESS),
    ]
    assert answer.text.splitlines() == [
        "tcp, 10.0.1.10:49152 to 10.0.2.20:3306",
        "  eni-web, egress",
        "    1. security group sg-web: outbound rule sgr-out allows all protocols to 0.0.0.0/0; tracked",
        "    2. network ACL: the subnet has none, everything passes",
        "    ACCEPT by security-group sgr-out",
        "  eni-db, ingress",
        "    1. network ACL acl-db: inbound entry 100 allows all protocols from 0.0.0.0/0",
        "    2. security group sg-db: inbound rule sgr-mysql allows tcp 3306 from sg-web; tracked",
        "    ACCEPT by security-group sgr-mysql",
        "The answer:",
        "  eni-db, egress",
        "    1. security group: the packet belongs to the connection that sgr-mysql opened, no rule is asked",
        "    2. network ACL acl-db: outbound entry 100 allows tcp 1024-65535 to 10.0.0.0/16",
        "    ACCEPT by tracked sgr-mysql",
        "  eni-web, ingress",
        "    1. network ACL: the subnet has none, everything passes",
        "    2. security group: the packet belongs to the connection that sgr-out opened, no rule is asked",
        "    ACCEPT by tracked sgr-out",
    ]


def test_a_default_deny_names_the_group() -> None:
    answer = ask("203.0.113.9", "10.0.2.20", 3306)
    assert answer.outcome is Outcome.REJECT
    assert answer.reply == ()
    assert answer.text.splitlines() == [
        "tcp, 203.0.113.9:49152 to 10.0.2.20:3306",
        "  eni-db, ingress",
        "    1. network ACL acl-db: inbound entry 100 allows all protocols from 0.0.0.0/0",
        "    2. security group sg-db: no inbound rule allows tcp 3306 from 203.0.113.9",
        "    REJECT by security-group sg-db",
    ]


def test_what_comes_after_the_layer_that_denied_is_told_too() -> None:
    (_, hop) = ask("i-web", "eni-db", 22).hops
    assert [(step.allows, step.reached) for step in hop.steps] == [(False, True), (False, False)]
    assert hop.steps[0].text == "network ACL acl-db: inbound entry 90 denies tcp 22 from 0.0.0.0/0"
    assert hop.text == "REJECT by network-acl acl-db/ingress/90"
    assert "(not reached)" in ask("i-web", "eni-db", 22).text


def test_a_ping_accepted_whose_answer_an_acl_rejects() -> None:
    answer = ask("10.0.1.10", "10.0.2.20", protocol="icmp")
    assert answer.outcome is Outcome.ACCEPT
    assert answer.reply_outcome is Outcome.REJECT
    (reply,) = answer.reply
    assert reply.text == "REJECT by network-acl acl-db/egress/*"
    assert reply.steps[1].text == (
        "network ACL acl-db: no outbound entry matches icmp type 0 code 0 to 10.0.1.10, the final * denies it"
    )


def test_a_rejection_at_the_source_ends_the_way() -> None:
    answer = ask("10.0.2.20", "10.0.1.10", 80)
    assert [hop.interface_id for hop in answer.hops] == ["eni-db"]
    assert answer.hops[0].text == "REJECT by security-group sg-db"


def test_an_interface_that_only_labels_says_so() -> None:
    (hop,) = ask("203.0.113.9", "eni-web", 80).hops
    assert hop.text == "REJECT by security-group sg-web; it is only labelled, the interface does not enforce"


def test_an_interface_without_groups_or_acl() -> None:
    (hop,) = ask("203.0.113.9", "eni-nat", 80).hops
    assert [step.text for step in hop.steps] == [
        "network ACL: the subnet has none, everything passes",
        "security group: the interface has none, everything passes",
    ]
    assert hop.text == "ACCEPT by default"


def test_what_is_never_filtered() -> None:
    (hop,) = ask("10.0.1.10", "10.0.0.2", 53, "udp").hops
    assert hop.verdict.outcome is Outcome.EXCLUDED
    assert hop.text == "EXCLUDED: traffic of the Amazon DNS server is never filtered and never recorded"


def test_an_untracked_connection_says_what_its_answer_needs() -> None:
    rules = (
        SecurityGroupRule("sgr-1", False, 6, 80, 80, cidr="0.0.0.0/0"),
        SecurityGroupRule("sgr-2", True, -1, -1, -1, cidr="0.0.0.0/0"),
    )
    web = interface("eni-web", "10.0.1.10", "10.0.1.0/24", group_ids=("sg-1",))
    configuration = AgentConfiguration(1, (web,), (), RuleBook((SecurityGroup("sg-1", "vpc-1", "", rules),)))
    answer = explain(configuration, "1.1.1.1", "eni-web", 80)
    assert answer.hops[0].steps[1].text.endswith("; not tracked, the answer needs a rule of its own")
    assert answer.reply[0].text == "ACCEPT by security-group sgr-2"


def test_an_error_has_no_answer() -> None:
    answer = ask("10.0.1.10", "198.51.100.7", protocol="icmp", icmp_type=3, icmp_code=4)
    assert answer.outcome is Outcome.ACCEPT
    assert answer.reply == ()
    text = "security group sg-web: outbound rule sgr-out allows all protocols to 0.0.0.0/0"
    assert answer.hops[0].steps[0].text == text


def test_it_goes_into_json() -> None:
    document = orjson.loads(orjson.dumps(ask("10.0.1.10", "10.0.2.20", protocol="icmp").to_json()))
    assert (document["outcome"], document["reply_outcome"]) == ("ACCEPT", "REJECT")
    assert document["reply"][0]["rule_id"] == "acl-db/egress/*"
    assert document["hops"][1]["steps"][0] == {
        "layer": "network-acl",
        "allows": True,
        "rule_id": "acl-db/ingress/100",
        "reached": True,
        "text": "network ACL acl-db: inbound entry 100 allows all protocols from 0.0.0.0/0",
    }


@pytest.mark.parametrize(
    ("question", "more", "says"),
    [
        (("web", "10.0.2.20", 80), {}, "source: 'web' is not an IP address"),
        (("10.0.1.10", "eni-none", 80), {}, "destination: no interface here is, or belongs to, eni-none"),
        (("10.0.1.10", "10.0.2.20"), {}, "port: tcp needs the destination's port"),
        (("10.0.1.10", "10.0.2.20", 65536), {}, "port: 65536 is not from 0 to 65535"),
        (("10.0.1.10", "10.0.2.20", 80), {"source_port": -1}, "source port: -1 is not from 0 to 65535"),
        (("10.0.1.10", "10.0.2.20", 80, "icmp"), {}, "port: icmp has no ports"),
        (("10.0.1.10", "10.0.2.20", 80, 47), {}, "port: protocol 47 has no ports"),
        (("10.0.1.10", "10.0.2.20", None, "quic"), {}, "protocol: 'quic' is neither"),
        (("10.0.1.10", "10.0.2.20", None, 256), {}, "protocol: 256 is neither"),
        (("10.0.1.10", "10.0.2.20", None, "all protocols"), {}, "protocol: 'all protocols' is neither"),
        (("10.0.1.10", "10.0.2.20", None, "icmpv6"), {}, "protocol: icmpv6 does not go with 10.0.1.10"),
        (("10.0.1.10", "10.0.2.20", None, "icmp"), {"icmp_type": 256}, "ICMP type: 256"),
        (("10.0.1.10", "2001:db8::1", 80), {}, "have no IP version in common"),
        (("10.0.1.10", "eni-web", 80), {}, "are the same address"),
        (("192.0.2.1", "192.0.2.2", 80), {}, "neither 192.0.2.1 nor 192.0.2.2 is the address of an interface here"),
    ],
)
def test_questions_that_are_refused(question: tuple[Any, ...], more: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        ask(*question, **more)
    assert says in caught.value.message


def test_the_same_address_in_two_vpcs() -> None:
    other = interface("eni-other", "10.0.2.20", "10.0.2.0/24", vpc_id="vpc-2")
    configuration = AgentConfiguration(1, (WEB, DB, other), (), BOOK)
    hops = explain(configuration, "eni-web", "10.0.2.20", 3306).hops
    assert [hop.interface_id for hop in hops] == ["eni-web", "eni-db"]
    with pytest.raises(InputError, match="fits several interfaces: eni-db, eni-other"):
        explain(configuration, "198.51.100.7", "10.0.2.20", 80)


def test_a_load_balancer_tracks_always() -> None:
    balancer = interface("eni-lb", "10.0.1.9", "10.0.1.0/24", interface_type="network_load_balancer")
    assert interface_policy(balancer, BOOK).always_tracked
    assert not interface_policy(WEB, BOOK).always_tracked
