"""Which rules packets may still be told to be decided by, as the kernel knows it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from kernel_machine import KernelMachine

from vnotch.capture.policy import JudgedBy
from vnotch.deciders import Decider, Layer
from vnotch.flow import Direction
from vnotch.packet import Fragment, Packet, Reserved
from vnotch.rules import RuleBook, SecurityGroup, SecurityGroupRule

SLOT = 1


@pytest.fixture
def machine() -> Iterator[KernelMachine]:
    made = KernelMachine()
    made.interface(SLOT, Reserved.of(("10.0.0.0/16",), ("10.0.0.0/24",)), enforce=False, adopt=False)
    yield made
    made.close()


def book(rule_id: str, port: int) -> RuleBook:
    rule = SecurityGroupRule(rule_id, False, 17, port, port, cidr="192.0.2.0/24")
    return RuleBook((SecurityGroup("sg-1", "vpc-1", "one", (rule,)),), ())


def datagram(fragment: Fragment) -> Packet:
    ports = {} if fragment is Fragment.LATER else {"source_port": 5000, "destination_port": 53}
    source, destination = ip_address("192.0.2.1"), ip_address("10.0.0.10")
    return Packet(Direction.INGRESS, source, destination, 17, fragment=fragment, fragment_id=7, **ports)


@pytest.mark.root
def test_a_number_is_in_use_as_long_as_rules_connections_or_fragments_have_it(machine: KernelMachine) -> None:
    machine.rules(book("sgr-old", 53), {SLOT: JudgedBy(("sg-1",))})
    old = machine.numbers.number(Decider(Layer.SECURITY_GROUP, "sgr-old"))
    group = machine.numbers.number(Decider(Layer.SECURITY_GROUP, "sg-1"))
    assert machine.datapath.rule_numbers() == {old, group}
    assert machine.judge(SLOT, datagram(Fragment.FIRST), 0)[0] == "ACCEPT security-group sgr-old"

    machine.rules(book("sgr-new", 99), {SLOT: JudgedBy(("sg-1",))})
    new = machine.numbers.number(Decider(Layer.SECURITY_GROUP, "sgr-new"))
    machine.forget_fragments()
    assert machine.datapath.rule_numbers() == {old, new, group}, "the connection has it"

    assert machine.judge(SLOT, datagram(Fragment.FIRST), 1)[0] == "ACCEPT security-group sgr-old"
    machine.datapath._connections.forget(SLOT)
    assert machine.datapath.rule_numbers() == {old, new, group}, "the rest of the datagram will"
    assert machine.judge(SLOT, datagram(Fragment.LATER), 2)[0] == "ACCEPT security-group sgr-old"

    machine.forget_fragments()
    assert machine.datapath.rule_numbers() == {new, group}
