"""The kernel's program as a judge of single packets, by BPF_PROG_TEST_RUN: no interface, no clock but the packet's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from wire import frame, is_egress

from vnotch.capture import layout, libbpf
from vnotch.capture.kernel import Datapath
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import RuleNumbers
from vnotch.flow import Exclusion, Outcome
from vnotch.packet import Packet, Reserved
from vnotch.rules import RuleBook

LOOPBACK = 1
"""The interface that BPF_PROG_TEST_RUN takes where none is given."""
BEGIN_NS = 1_000_000 * 10**9
PASS, DROP = -1, 2


class KernelMachine:
    """`judge` gives the words of a verdict, as the cases write them, and whether the packet was dropped."""

    def __init__(self, connections: int = 4096) -> None:
        self.datapath = Datapath.open(flows_per_map=64, connections=connections, test_clock=True)
        self.numbers = RuleNumbers()
        self._slot: int | None = None
        self._keys, self._values = np.empty(64, layout.FLOW_KEY), np.empty(64, layout.FLOW_VALUE)

    def close(self) -> None:
        self.datapath._slots.assign(LOOPBACK, None)
        self.datapath.close()

    def forget(self) -> None:
        """All connections, fragments and rules."""
        for slot in range(8):
            self.datapath.clear(slot)
        self.forget_fragments()

    def forget_fragments(self) -> None:
        room = 16384
        keys, values = np.empty(room, layout.FRAGMENT_KEY), np.empty(room, layout.FRAGMENT_VALUE)
        libbpf.take_batch(self.datapath._fds["fragments"], keys, values)

    def interface(
        self, slot: int, reserved: Reserved, enforce: bool, adopt: bool, enforce_until_ns: int | None = None
    ) -> None:
        """`enforce_until_ns` is of the time in which packets are given."""
        routers = [a.packed for a, why in reserved.addresses.items() if why is Exclusion.ROUTER]
        dns = [a.packed for a, why in reserved.addresses.items() if why is Exclusion.DNS]
        self.datapath.set_interface(
            slot,
            enforce=enforce,
            enforce_until_ns=None if enforce_until_ns is None else BEGIN_NS + enforce_until_ns,
            adopt=adopt,
            dns_v4=dns[0] if dns else None,
            routers_v4=[router for router in routers if len(router) == 4],
            router_v6=next((router for router in routers if len(router) == 16), None),
        )

    def rules(self, book: RuleBook, judged: Mapping[int, JudgedBy]) -> None:
        self.datapath.set_rules(book, judged, self.numbers)

    def sweep(self, at_ns: int) -> None:
        self.datapath.sweep_connections(BEGIN_NS + at_ns)

    @property
    def refused(self) -> int:
        return self.datapath.counts()["connections_full"]

    def judge(self, slot: int, packet: Packet, at_ns: int) -> tuple[str, bool]:
        if slot != self._slot:
            self.datapath._slots.assign(LOOPBACK, slot)
            self._slot = slot
        context = bytearray(192)
        context[152:160] = (BEGIN_NS + at_ns).to_bytes(8, "little")  # struct __sk_buff: tstamp
        program = self.datapath._programs[0 if is_egress(packet) else 1]
        answer, _ = libbpf.run_program(program, frame(packet), bytes(context))
        assert answer in (PASS, DROP)
        generations = self.datapath._generations
        active = generations._maps.flows[int(generations._meta["active"][0])]
        count = libbpf.take_batch(active, self._keys, self._values)
        assert count == 1, count
        key = self._keys[0]
        outcome = Outcome((int(key["bits"]) >> 1) & 3)
        assert (int(key["slot"]), int(key["bits"]) & 1) == (slot, int(packet.direction))
        if outcome is Outcome.EXCLUDED:
            return f"EXCLUDED {Exclusion(int(key['proto'])).name.lower().replace('_', '-')}", answer == DROP
        decider = self.numbers.decider(int(key["rule"]))
        assert decider is not None, int(key["rule"])
        return f"{outcome.name} {decider.layer} {decider.rule_id or '-'}", answer == DROP
