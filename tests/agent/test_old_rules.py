"""Numbers of rules that are gone: kept as long as anything may still name the rule, and no longer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from world import World, flow_log

from vnotch.agent.rule_numbers import SavedNumbers
from vnotch.rules import RuleBook, SecurityGroup, SecurityGroupRule

FORMAT = "${srcaddr} ${x-rule-id} ${x-rule-layer}"


def book(name: str) -> RuleBook:
    rule = SecurityGroupRule(name, False, 6, 22, 22, cidr="10.0.0.0/8")
    return RuleBook((SecurityGroup("sg-1", "vpc-1", "one", (rule,)),), ())


def saved(world: World) -> set[str]:
    """Ids in the file, as the next process will read it."""
    document = json.loads((world.folder / "rule-numbers.json").read_text())
    return {rule_id for _, _, rule_id in document["numbers"]}


def number_of(world: World, name: str) -> int:
    names = world.capture.interfaces.rule_names
    (number,) = [number for number in names if names[number][0] == name]
    return number


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.start()
    return made


def use(world: World, name: str, interval: int = 60) -> None:
    world.configure([5], [flow_log("a", [5], interval, format=FORMAT)], rules=book(name))


def test_a_long_series_of_rule_changes_keeps_the_file_bounded_and_every_record_named(world: World) -> None:
    most = 0
    for turn in range(150):
        use(world, f"sgr-{turn}")
        world.send(src=f"192.0.2.{turn}", rule=number_of(world, f"sgr-{turn}"))
        world.tick_to(turn * 20 + 15)
        if turn % 7 == 3:
            world.start()
        most = max(most, len(saved(world)))
    world.finish()
    told = [line for line in world.lines("group-a") if line.startswith("192.0.2.")]
    assert sorted(told) == sorted(f"192.0.2.{turn} sgr-{turn} security-group" for turn in range(150))
    # Three rules a window: of the open one, of the one before, and what a restart has begun to wait for anew.
    assert most <= 16


def test_a_number_is_kept_while_a_connection_has_it(world: World) -> None:
    use(world, "sgr-old")
    number = number_of(world, "sgr-old")
    world.kernel.connections = {number}
    use(world, "sgr-new")
    world.tick_to(600)
    world.send(rule=number, src="192.0.2.1")
    world.kernel.connections = set()  # it ends while its last packet is not drained yet
    world.tick_to(610)
    assert "sgr-old" in saved(world)
    world.tick_to(800)
    assert saved(world) == {"sg-1", "sgr-new"}
    assert "192.0.2.1 sgr-old security-group" in world.lines("group-a")


def test_a_number_is_kept_while_an_open_window_may_have_it(world: World) -> None:
    use(world, "sgr-old", 600)
    world.tick_to(10)
    world.send(rule=number_of(world, "sgr-old"))
    world.tick_to(30)
    use(world, "sgr-new", 600)
    world.tick_to(300)  # the window ends after 360 s
    assert "sgr-old" in saved(world)
    world.start()
    world.tick_to(350)
    assert "sgr-old" in saved(world)
    world.tick_to(1300)
    assert "192.0.2.1 sgr-old security-group" in world.lines("group-a")
    assert "sgr-old" not in saved(world)


def test_a_number_is_kept_for_a_drain_that_the_journal_did_not_take(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(world, "sgr-old")
    world.tick_to(60)
    world.send(rule=number_of(world, "sgr-old"))

    def refuse(entry: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(world.capture.intake.journal, "append", refuse)
        world.tick_to(70)
    use(world, "sgr-new")
    world.tick_to(110)
    assert "sgr-old" in saved(world)
    world.tick_to(300)
    assert "192.0.2.1 sgr-old security-group" in world.lines("group-a")
    assert "sgr-old" not in saved(world)


def test_nothing_is_forgotten_before_the_rules_in_force_are_known(tmp_path: Path) -> None:
    path = tmp_path / "rule-numbers.json"
    SavedNumbers(path).take_in(book("sgr-1"))
    again = SavedNumbers(path)
    assert not again.has_old
    again.forget((), 1, 100)
    assert len(again) == len(SavedNumbers(path)) == 2


def test_a_rule_that_comes_back_before_it_was_forgotten_has_its_number_still(tmp_path: Path) -> None:
    numbers = SavedNumbers(tmp_path / "rule-numbers.json")
    numbers.take_in(book("sgr-1"))
    before = {numbers[number][0]: number for number in numbers}
    numbers.take_in(book("sgr-2"))
    numbers.forget((), next_drain=5, oldest_drain=5)
    numbers.take_in(book("sgr-1"))
    numbers.forget((), next_drain=6, oldest_drain=6)  # of sgr-2 the last drain is 6
    numbers.take_in(book("sgr-2"))
    numbers.forget((), next_drain=7, oldest_drain=7)  # sgr-1 waits anew
    assert numbers[before["sgr-1"]] == ("sgr-1", "security-group")
    numbers.forget((), next_drain=8, oldest_drain=8)
    assert before["sgr-1"] not in numbers
    assert {numbers[number][0] for number in numbers} == {"sg-1", "sgr-2"}
    numbers.take_in(book("sgr-1"))
    (number,) = [number for number in numbers if numbers[number][0] == "sgr-1"]
    assert number > max(before.values()) + 1, "a number names one rule for ever"
