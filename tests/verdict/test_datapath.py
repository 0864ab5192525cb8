"""The datapath against the cases that were written from the documentation before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from case_files import Case, World, apply, load_cases
from kernel_machine import KernelMachine

from vnotch.capture.policy import JudgedBy
from vnotch.packet import Reserved

CASES = load_cases()


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelMachine]:
    made = KernelMachine()
    yield made
    made.close()


@pytest.fixture
def machine(shared: KernelMachine, request: pytest.FixtureRequest) -> Iterator[KernelMachine]:
    case: Case = request.getfixturevalue("case")
    if case.connections is None:
        shared.forget()
        yield shared
        return
    small = KernelMachine(case.connections)
    yield small
    small.close()


def play(machine: KernelMachine, world: World) -> dict[str, int]:
    """Puts the world's interfaces and rules in force; slots by interface."""
    slots = {name: slot for slot, name in enumerate(world.interfaces, start=1)}
    for name, interface in world.interfaces.items():
        reserved = Reserved.of(interface.vpc_cidrs, interface.subnet_cidrs)
        machine.interface(slots[name], reserved, interface.enforce, interface.adopt)
    machine.rules(
        world.book(),
        {
            slots[name]: JudgedBy(i.group_ids, i.network_acl_id, i.subnet_cidrs, i.always_tracked)
            for name, i in world.interfaces.items()
        },
    )
    return slots


@pytest.mark.root
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}: {case.name}")
def test_case_in_the_kernel(machine: KernelMachine, case: Case) -> None:
    world = case.world()
    slots = play(machine, world)
    before = machine.refused
    for line in case.lines:
        step = apply(world, line)
        if step.sweep:
            machine.sweep(step.at_ns)
        elif step.packet is None:
            play(machine, world)
        else:
            assert step.interface_id is not None
            assert step.expect is not None
            words, dropped = machine.judge(slots[step.interface_id], step.packet, step.at_ns)
            expected = line.split(" = ")[1]
            if step.expect.dropped is not None:
                expected = expected.rsplit(" ", 1)[0]
                assert dropped is step.expect.dropped, line
            assert words == expected, line
    if case.refused is not None:
        assert machine.refused - before == case.refused
