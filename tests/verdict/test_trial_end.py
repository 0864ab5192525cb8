"""Enforcement with an end: the datapath itself drops nothing from then on, and judges and counts as before."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from kernel_machine import KernelMachine

from vnotch.capture.policy import JudgedBy
from vnotch.flow import Direction
from vnotch.packet import Packet, Reserved
from vnotch.rules import RuleBook, SecurityGroup

SLOT = 1
SECOND_NS = 10**9
NOT_LET_IN = Packet(Direction.INGRESS, ip_address("192.0.2.1"), ip_address("10.0.0.10"), 17, 5000, 53)
REJECTED = "REJECT security-group sg-1"


@pytest.mark.root
def test_the_datapath_ends_a_trial_by_its_own_clock() -> None:
    machine = KernelMachine()
    try:
        book = RuleBook((SecurityGroup("sg-1", "vpc-1", "one", ()),), ())
        machine.rules(book, {SLOT: JudgedBy(("sg-1",))})
        machine.interface(SLOT, Reserved(), enforce=True, adopt=False, enforce_until_ns=60 * SECOND_NS)
        assert machine.judge(SLOT, NOT_LET_IN, 0) == (REJECTED, True)
        assert machine.judge(SLOT, NOT_LET_IN, 60 * SECOND_NS - 1) == (REJECTED, True)
        assert machine.judge(SLOT, NOT_LET_IN, 60 * SECOND_NS) == (REJECTED, False)
        assert machine.judge(SLOT, NOT_LET_IN, 86_400 * SECOND_NS) == (REJECTED, False)
        machine.interface(SLOT, Reserved(), enforce=True, adopt=False)
        assert machine.judge(SLOT, NOT_LET_IN, 86_400 * SECOND_NS) == (REJECTED, True), "confirmed: it has no end"
        machine.interface(SLOT, Reserved(), enforce=False, adopt=False, enforce_until_ns=60 * SECOND_NS)
        assert machine.judge(SLOT, NOT_LET_IN, 0) == (REJECTED, False), "an end makes no enforcement"
    finally:
        machine.close()
