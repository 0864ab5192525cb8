"""The rules of most tests: a security group that lets in some ports from everywhere, and everything out."""

from __future__ import annotations

from typing import Any

from vnotch.capture.kernel import Datapath
from vnotch.capture.pcap import OfflineRules
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import RuleNumbers
from vnotch.rules import RuleBook, SecurityGroup, SecurityGroupRule

GROUP = JudgedBy(("sg-1",))


def book(*ports: tuple[int, int]) -> RuleBook:
    """`ports` are pairs of protocol and port."""
    rules = [
        SecurityGroupRule(f"sgr-{place}{version}", False, protocol, port, port, cidr=cidr)
        for place, (protocol, port) in enumerate(ports)
        for version, cidr in enumerate(("0.0.0.0/0", "::/0"))
    ]
    rules += [SecurityGroupRule(f"sgr-out{cidr}", True, -1, -1, -1, cidr=cidr) for cidr in ("0.0.0.0/0", "::/0")]
    return RuleBook((SecurityGroup("sg-1", "vpc-1", "open", tuple(rules)),))


def let_in(datapath: Datapath | Any, slot: int, *ports: tuple[int, int]) -> None:
    datapath.set_rules(book(*ports), {slot: GROUP}, RuleNumbers())


def offline(slot: int, *ports: tuple[int, int]) -> OfflineRules:
    rules = OfflineRules()
    rules.apply(book(*ports), {slot: GROUP}, RuleNumbers())
    return rules
