"""The parts of the agent's status that the capture knows: interfaces, ledger, spool, its own losses of durability."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from vnotch.agent.datapath import Datapath
from vnotch.agent.intake import Intake
from vnotch.agent.interfaces import Interfaces
from vnotch.agent.progress import Progress
from vnotch.agent.tracks import Tracks
from vnotch.deliver.outbox import Outbox
from vnotch.deliver.spool import Spool
from vnotch.flow import Direction

USAGE_SECONDS = 5.0


class CaptureStatus:
    """Asks the parts; changes none of them. One thread uses it: the loop's."""

    def __init__(
        self,
        datapath: Datapath,
        progress: Progress,
        tracks: Tracks,
        interfaces: Interfaces,
        intake: Intake,
        spool: Spool,
        outbox: Outbox,
    ) -> None:
        self._datapath = datapath
        self._progress = progress
        self._tracks = tracks
        self._interfaces = interfaces
        self._intake = intake
        self._spool = spool
        self._outbox = outbox
        self._usage: dict[str, Any] = {}
        self._usage_due = 0.0

    def to_json(self, *, unclaimed_packets: int, peers_omitted: int) -> dict[str, Any]:
        intake = self._intake
        return {
            "interfaces": self._interfaces.states(),
            "ledger": self._ledger(),
            "spool": self._waiting(),
            "uploads": self._outbox.counters(),
            "host_firewall": self._datapath.host_firewall().to_json(),
            "capture": {
                "tick_seconds": self._tracks.tick_seconds,
                "drains": intake.number,
                "journal_drains": len(intake.journal),
                "journal_bytes": intake.journal.size,
                "journal_failures": intake.journal_failures,
                "journal_damaged": intake.journal.damaged_files,
                "late_packets": self._tracks.late,
                "unclaimed_packets": unclaimed_packets,
                "peers_omitted": peers_omitted,
            },
            "maps": self._usage_now(),
            "owners": self._owners(),
        }

    def _waiting(self) -> dict[str, Any]:
        """The spool's counters; `waiting` counts also what is in the outbox, by flow log."""
        counters = self._spool.counters()
        for flow_log_id, files in self._outbox.waiting().items():
            counters["waiting"][flow_log_id] = counters["waiting"].get(flow_log_id, 0) + files
        return counters

    def _ledger(self) -> dict[str, Any]:
        names = {slot: interface.interface_id for slot, interface in self._interfaces.by_slot.items()}
        seen = self._progress.seen_in_all(self._datapath.seen())
        rows = [
            {
                "slot": slot,
                "interface_id": names.get(slot),
                "direction": Direction(direction).name.lower(),
                "packets": packets,
                "bytes": size,
            }
            for (slot, direction), (packets, size) in sorted(seen.items())
        ]
        return {**self._intake.ledger.to_json(names), "seen": rows}

    def _usage_now(self) -> dict[str, Any]:
        """Memory and fill of the maps, looked at every few seconds at most: the table of connections is read for it."""
        if (now := time.monotonic()) >= self._usage_due:
            self._usage, self._usage_due = self._datapath.usage(), now + USAGE_SECONDS
        return {**self._usage, "flows_in_last_drain": self._intake.drained_flows}

    def _owners(self) -> dict[str, Any] | None:
        """None where no flow log asks who is behind its flows."""
        if (observer := self._intake.observer) is None:
            return None
        kept = self._intake.owners
        return asdict(observer.counters) | {"kept": kept.kept, "turned_away": kept.turned_away}
