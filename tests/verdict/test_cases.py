"""verdict.py against the cases that were written from the documentation before it."""

from __future__ import annotations

import pytest
from case_files import Case, World, apply, load_cases

from vnotch.connections import CONNECTIONS_MAX, Connections
from vnotch.flow import Outcome
from vnotch.verdict import Policy, Verdict, decide, policy

CASES = load_cases()


def policies(world: World) -> dict[str, Policy]:
    book = world.book()
    return {
        interface.interface_id: policy(
            book,
            slot=slot,
            group_ids=interface.group_ids,
            network_acl_id=interface.network_acl_id,
            vpc_cidrs=interface.vpc_cidrs,
            subnet_cidrs=interface.subnet_cidrs,
            enforce=interface.enforce,
            adopt=interface.adopt,
            always_tracked=interface.always_tracked,
        )
        for slot, interface in enumerate(world.interfaces.values(), start=1)
    }


def words(verdict: Verdict) -> str:
    """The verdict as the cases write it."""
    if verdict.outcome is Outcome.EXCLUDED:
        assert verdict.exclusion is not None
        assert verdict.decider is None
        return f"EXCLUDED {verdict.exclusion.name.lower().replace('_', '-')}"
    assert verdict.decider is not None
    return f"{verdict.outcome.name} {verdict.decider.layer} {verdict.decider.rule_id or '-'}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}: {case.name}")
def test_case(case: Case) -> None:
    world = case.world()
    current = policies(world)
    connections: Connections[Verdict] = Connections(CONNECTIONS_MAX if case.connections is None else case.connections)
    for line in case.lines:
        step = apply(world, line)
        if step.sweep:
            connections.sweep(step.at_ns)
        elif step.packet is None:
            current = policies(world)
        else:
            assert step.interface_id is not None
            assert step.expect is not None
            verdict = decide(step.packet, current[step.interface_id], connections, step.at_ns)
            expected = line.split(" = ")[1]
            if step.expect.dropped is not None:
                expected = expected.rsplit(" ", 1)[0]
                assert verdict.drop is step.expect.dropped, line
            assert words(verdict) == expected, line
    if case.refused is not None:
        assert connections.refused == case.refused


def test_there_are_enough_cases_and_each_names_its_source() -> None:
    assert len(CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.source for case in CASES)
