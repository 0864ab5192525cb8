"""Generated worlds and packets: the kernel's program and verdict.py give the same verdict and name the same rule."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from generator import STEPS_NS, change, sequence, world_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_machine import KernelMachine
from test_cases import policies, words
from test_datapath import play

from vnotch.connections import Connections, TcpState
from vnotch.verdict import Reason, Verdict, decide

WORLDS, PACKETS = 120, 200
ROOM = 4
"""Connections, so few that the table is full now and then."""

pytestmark = pytest.mark.root


class Compared:
    """What the two were compared on."""

    def __init__(self) -> None:
        self.packets = 0
        self.branches: Counter[str] = Counter()

    def count(self, verdict: Verdict) -> None:
        self.packets += 1
        self.branches[words(verdict).split()[0]] += 1
        if verdict.exclusion is not None:
            self.branches[f"excluded {verdict.exclusion.name.lower()}"] += 1
        for finding in verdict.findings:
            self.branches[f"{finding.layer} {finding.reason.name}"] += 1
            self.branches["untracked"] += finding.untracked


def compare(machine: KernelMachine, random: Random, compared: Compared) -> None:
    machine.forget()
    world = world_of(random)
    slots = play(machine, world)
    current = policies(world)
    connections: Connections[Verdict] = Connections(ROOM)
    refused = machine.refused
    now_ns, recent = 0, {name: [] for name in slots}
    for _ in range(PACKETS):
        now_ns += random.choice(STEPS_NS)
        if random.random() < 0.05:
            change(world, random)
            play(machine, world)
            current = policies(world)
        if random.random() < 0.05:
            connections.sweep(now_ns)
            machine.sweep(now_ns)
        name = random.choice(("eni-a",) * 5 + ("eni-b",) * 4 + ("eni-n",))
        (packet,) = sequence(random, 1, recent[name])
        verdict = decide(packet, current[name], connections, now_ns)
        told = machine.judge(slots[name], packet, now_ns)
        assert told == (words(verdict), verdict.drop), (packet, now_ns, world)
        compared.count(verdict)
        for entry in connections.entries.values():
            if entry.state == TcpState.CLOSED:
                compared.branches["closed connections"] += 1
    assert machine.refused - refused == connections.refused
    assert machine.datapath.connections() == len(connections.entries)


def test_kernel_and_verdict_agree(capsys: pytest.CaptureFixture[str]) -> None:
    machine, compared = KernelMachine(ROOM), Compared()

    @settings(max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        compare(machine, Random(seed), compared)

    try:
        check()
    finally:
        machine.close()
    with capsys.disabled():
        print(f"\n{compared.packets} packets compared:")
        for branch, count in sorted(compared.branches.items()):
            print(f"  {count:7} {branch}")
    assert compared.packets >= 20_000
    hit = {branch.split()[-1] for branch in compared.branches}
    assert {reason.name for reason in Reason} <= hit
    for needed in ("untracked", "closed connections", "ACCEPT", "REJECT", "EXCLUDED", "excluded malformed"):
        assert compared.branches[needed] > 20, needed
