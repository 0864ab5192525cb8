"""The native build: captures are judged as the kernel judges, by the cases and by generated packets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from case_files import Case, World, apply, load_cases
from generator import STEPS_NS, sequence, world_of
from test_cases import policies, words
from wire import frame, is_egress

from vnotch.capture.library import SlotPolicy
from vnotch.capture.pcap import read_capture
from vnotch.capture.pcapng import CaptureWriter, PacketDirection
from vnotch.capture.policy import JudgedBy, OfflineRules
from vnotch.connections import Connections
from vnotch.deciders import RuleNumbers
from vnotch.flow import Direction, Exclusion, Outcome
from vnotch.packet import Packet, Reserved
from vnotch.verdict import Verdict, decide

BEGIN_NS = 1_700_000_000 * 10**9

Sent = tuple[str, Packet, int]  # interface, packet, when in ns

PACKETS_ONLY = [
    case
    for case in load_cases()
    if case.connections is None and all(" = " in line and " sweep" not in line for line in case.lines)
]
"""A capture is read with the rules of one moment."""


def judged(path: Path, world: World, sent: list[Sent]) -> Counter[tuple[str, Direction, str]]:
    """Interface, direction and the words of the verdict -> packets."""
    names, numbers, rules = list(world.interfaces), RuleNumbers(), OfflineRules()
    settings = {}
    for slot, interface in enumerate(world.interfaces.values()):
        reserved = Reserved.of(interface.vpc_cidrs, interface.subnet_cidrs).addresses
        routers = [str(address) for address, why in reserved.items() if why is Exclusion.ROUTER]
        settings[slot] = SlotPolicy(
            next((str(address) for address, why in reserved.items() if why is Exclusion.DNS), None),
            tuple(router for router in routers if ":" not in router),
            next((router for router in routers if ":" in router), None),
            adopt=interface.adopt,
        )
    by = [JudgedBy(i.group_ids, i.network_acl_id, i.subnet_cidrs, i.always_tracked) for i in world.interfaces.values()]
    rules.apply(world.book(), dict(enumerate(by)), numbers)
    with path.open("wb") as stream:
        writer = CaptureWriter(stream)
        for name in names:
            writer.write_interface(name)
        for name, packet, at_ns in sent:
            way = PacketDirection.INBOUND if is_egress(packet) else PacketDirection.OUTBOUND
            writer.write_packet(names.index(name), BEGIN_NS + at_ns, frame(packet), direction=way)
    found: Counter[tuple[str, Direction, str]] = Counter()
    for drain in read_capture(path, 3600, settings, rules=rules):
        for row in drain.flows.to_pylist():
            outcome = Outcome(row["outcome"])
            if outcome is Outcome.EXCLUDED:
                verdict = f"EXCLUDED {Exclusion(row['exclusion']).name.lower().replace('_', '-')}"
            else:
                decider = numbers.decider(row["rule"])
                assert decider is not None
                verdict = f"{outcome.name} {decider.layer} {decider.rule_id or '-'}"
            found[names[row["slot"]], Direction(row["direction"]), verdict] += row["packets"]
    return found


@pytest.mark.parametrize("case", PACKETS_ONLY, ids=lambda case: f"{case.file}: {case.name}")
def test_case_in_a_capture(case: Case, tmp_path: Path) -> None:
    world = case.world()
    sent, expected = [], Counter()
    for line in case.lines:
        step = apply(world, line)
        assert step.packet is not None
        assert step.interface_id is not None
        sent.append((step.interface_id, step.packet, step.at_ns))
        verdict = line.split(" = ")[1].removesuffix(" passed").removesuffix(" dropped")
        expected[step.interface_id, step.packet.direction, verdict] += 1
    assert judged(tmp_path / "case.pcapng", world, sent) == expected


def test_most_cases_are_played() -> None:
    assert len(PACKETS_ONLY) > 100


@pytest.mark.parametrize("seed", range(20))
def test_generated_packets_in_a_capture(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    world = world_of(random)
    current, now_ns = policies(world), 0
    connections: Connections[Verdict] = Connections()
    recent: dict[str, list[Packet]] = {name: [] for name in world.interfaces}
    sent, expected = [], Counter()
    for _ in range(500):
        now_ns += random.choice(STEPS_NS[:-2])
        name = random.choice(list(world.interfaces))
        (packet,) = sequence(random, 1, recent[name])
        sent.append((name, packet, now_ns))
        expected[name, packet.direction, words(decide(packet, current[name], connections, now_ns))] += 1
    assert judged(tmp_path / "generated.pcapng", world, sent) == expected
