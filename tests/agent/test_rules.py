"""The agent and rules: what it hands to the datapath, how numbers live on, and what records then say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_datapath import FakeDatapath, Kernel
from world import interface

from vnotch.agent.interfaces import Interfaces
from vnotch.agent.rule_numbers import SavedNumbers
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import DEFAULT_NUMBER, TABLE_FULL_NUMBER, TRACKED_BIT
from vnotch.errors import LimitError
from vnotch.rules import AclEntry, NetworkAcl, RuleBook, SecurityGroup, SecurityGroupRule


def rule(name: str) -> SecurityGroupRule:
    return SecurityGroupRule(name, False, 6, 22, 22, cidr="10.0.0.0/8")


def book(*names: str) -> RuleBook:
    groups = (SecurityGroup("sg-1", "vpc-1", "one", tuple(rule(name) for name in names)),)
    return RuleBook(groups, (NetworkAcl("acl-1", "vpc-1", (AclEntry(100, True, -1, True, "0.0.0.0/0"),)),))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(lambda: 0, devices={"veth5", "veth6"})


def interfaces(tmp_path: Path, kernel: Kernel, taken_over: bool = True, clock: Any = None) -> Interfaces:
    return Interfaces(tmp_path / "slots.json", FakeDatapath(kernel, taken_over=taken_over), clock or Clock())


def judged(number: int, group: str | None = "sg-1") -> Any:
    groups = None if group is None else (group,)
    return replace(interface(number), group_ids=groups, network_acl_id="acl-1", interface_type="vpc_endpoint")


def test_every_interface_is_judged_by_its_groups_and_its_subnets_acl(tmp_path: Path, kernel: Kernel) -> None:
    made = interfaces(tmp_path, kernel)
    made.apply([judged(5), replace(interface(6), group_ids=None)], {}, 1, book("sgr-1"))
    subnet = ("10.0.0.0/24", "fd00:1::/64")
    assert {slot: by for slot, (_, by) in kernel.rules.items()} == {
        0: JudgedBy(("sg-1",), "acl-1", subnet, always_tracked=True),
        1: JudgedBy(None, None, subnet),
    }


def test_numbers_are_written_before_they_are_in_use_and_mean_one_rule_for_ever(tmp_path: Path, kernel: Kernel) -> None:
    made = interfaces(tmp_path, kernel)
    seen: list[bool] = []

    def set_rules(*_: object) -> set[int]:
        seen.append((tmp_path / "rule-numbers.json").exists())
        return set()

    kernel_datapath: Any = made._datapath
    kernel_datapath.set_rules = set_rules
    made.apply([judged(5)], {}, 1, book("sgr-1", "sgr-2"))
    assert seen == [True]
    names = {number: made.rule_names[number] for number in made.rule_names}
    assert set(names.values()) == {
        ("sg-1", "security-group"),
        ("sgr-1", "security-group"),
        ("sgr-2", "security-group"),
        ("acl-1/ingress/*", "network-acl"),
        ("acl-1/egress/*", "network-acl"),
        ("acl-1/egress/100", "network-acl"),
    }
    again = SavedNumbers(tmp_path / "rule-numbers.json")
    again.take_in(book("sgr-3"))
    assert {number: again[number] for number in names} == names
    (number,) = [number for number in again if again[number][0] == "sgr-3"]
    assert number > max(names)
    assert again[number | TRACKED_BIT] == ("sgr-3", "tracked")
    assert (again[DEFAULT_NUMBER], again[TABLE_FULL_NUMBER]) == (("-", "default"), ("-", "tracked"))
    assert 0 not in again
    assert 999 not in again


def test_connections_are_adopted_until_the_rules_change_or_ten_minutes_have_passed(
    tmp_path: Path, kernel: Kernel
) -> None:
    clock = Clock()
    made = interfaces(tmp_path, kernel, clock=clock)
    made.apply([judged(5), judged(6)], {}, 1, book("sgr-1"))

    def adopting() -> list[bool]:
        return [kernel.values[slot]["adopt"] for slot in (0, 1)]

    assert adopting() == [True, True]
    made.apply([judged(5), judged(6)], {}, 1, book("sgr-1"))
    assert adopting() == [True, True], "nothing has changed"
    clock.now += 599
    made.end_adoptions()
    assert adopting() == [True, True]
    made.apply([judged(5), judged(6, None)], {}, 1, book("sgr-1"))
    assert adopting() == [True, False], "the rules of the second have"
    clock.now += 1
    made.end_adoptions()
    assert adopting() == [False, False]


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_new_process_adopts_only_where_connections_were_lost(
    tmp_path: Path, kernel: Kernel, taken_over: bool
) -> None:
    interfaces(tmp_path, kernel).apply([judged(5)], {}, 1, book("sgr-1"))
    interfaces(tmp_path, kernel, taken_over).apply([judged(5)], {}, 1, book("sgr-1"))
    assert kernel.values[0]["adopt"] is not taken_over


def test_rules_that_do_not_fit_leave_the_others_alone(tmp_path: Path, kernel: Kernel) -> None:
    made = interfaces(tmp_path, kernel)
    datapath: Any = made._datapath
    set_rules = datapath.set_rules

    def refuse(rules: RuleBook, wanted: Any, numbers: Any) -> set[int]:
        if 1 in wanted:
            raise LimitError("1025 rules in one direction of an interface, 1024 are possible")
        return set(set_rules(rules, wanted, numbers))

    datapath.set_rules = refuse
    made.apply([judged(5), judged(6)], {}, 1, book("sgr-1"))
    states = {state["interface_id"]: (state["state"], state["message"]) for state in made.states()}
    assert states["eni-5"] == ("attached", None)
    assert states["eni-6"][0] == "failed", "nothing is let through unjudged"
    assert "1024 are possible" in str(states["eni-6"][1])
    datapath.set_rules = set_rules
    assert made.retry()
    assert {state["state"] for state in made.states()} == {"attached"}
