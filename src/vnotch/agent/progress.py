"""How far the agent has come, durably: the one file whose replacement makes a closed window final.

`commit` is the last complete commit of the spool. `tracks` says, for each track (see `vnotch.agent.tracks`), which
windows are spooled and up to which drain; `flow_logs` are those served, `flow_log_tracks` which track each of them
reads and `recorded` which interfaces it has had a record of; `ledger` is the ledger with all drains up to
`ledger_through`. `inherited` is what releases before with other maps have seen of each slot and direction, which this
one's counters begin after; `inherited_from` tells the last of them from others.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vnotch.durable import replace_file, set_aside
from vnotch.inventory import FlowLog

log = logging.getLogger(__name__)


@dataclass
class Track:
    """`from_number`: the first drain that belongs to it. `done`: window start -> last drain in it that is spooled.

    `early_from_s`: when it began, where its first window shall end early and has not yet; `cut_s`: when that was cut.
    """

    from_number: int
    closed_until_s: int | None = None
    done: dict[int, int] = field(default_factory=dict)
    early_from_s: int | None = None
    cut_s: int | None = None

    def is_done(self, number: int, start_s: int) -> bool:
        return number < self.from_number or number <= self.done.get(start_s, 0)


@dataclass
class Progress:
    incarnation: str = field(default_factory=lambda: secrets.token_hex(4))
    """Part of each batch id, so that an agent whose folder was removed never repeats one."""
    commit: int = 0
    ledger_through: int = 0
    ledger: dict[str, Any] | None = None
    inherited: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    inherited_from: int = 0
    drained_ns: int = 0  # Unix time of the last drain in the ledger
    tracks: dict[str, Track] = field(default_factory=dict)
    flow_logs: dict[str, FlowLog] = field(default_factory=dict)
    flow_log_tracks: dict[str, str] = field(default_factory=dict)  # flow log -> track
    recorded: dict[str, set[str]] = field(default_factory=dict)  # flow log -> interfaces that it has a record of

    @classmethod
    def load(cls, path: Path) -> Progress:
        """What was saved; a new one where nothing was, or where the file cannot be read (it is set aside).

        A new one takes up the commits of the spool beside it: its batches may be all that is left of their windows.
        """
        try:
            return cls._from_json(json.loads(path.read_bytes()))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s is set aside, windows and ledger begin anew: %s", set_aside(path), error)
        return cls(commit=_last_commit(path.with_name("spool")))

    def save(self, path: Path) -> None:
        """Raises OSError where the disk does not take it; then the old progress stands."""
        document = {
            **vars(self),
            "inherited": [[*place, *count] for place, count in sorted(self.inherited.items())],
            "flow_logs": {name: asdict(flow_log) for name, flow_log in self.flow_logs.items()},
            "tracks": {name: vars(track) for name, track in self.tracks.items()},
            "recorded": {name: sorted(found) for name, found in self.recorded.items()},
        }
        replace_file(path, json.dumps(document).encode())

    def seen_in_all(self, seen: Mapping[tuple[int, int], tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
        """Packets and bytes by slot and direction: what these programs have seen, and what those before them had."""
        total = dict(self.inherited)
        for place, (packets, size) in seen.items():
            before = total.get(place, (0, 0))
            total[place] = before[0] + packets, before[1] + size
        return total

    @classmethod
    def _from_json(cls, document: Mapping[str, Any]) -> Progress:
        tracks = {
            name: Track(
                int(track["from_number"]),
                track["closed_until_s"],
                {int(start_s): int(number) for start_s, number in track["done"].items()},
                track.get("early_from_s"),
                track.get("cut_s"),
            )
            for name, track in document["tracks"].items()
        }
        return cls(
            incarnation=str(document["incarnation"]),
            commit=int(document["commit"]),
            ledger_through=int(document["ledger_through"]),
            ledger=document["ledger"],
            inherited={
                (int(slot), int(direction)): (int(packets), int(size))
                for slot, direction, packets, size in document.get("inherited", [])
            },
            inherited_from=int(document.get("inherited_from", 0)),
            drained_ns=int(document.get("drained_ns", 0)),
            tracks=tracks,
            flow_logs={name: FlowLog.from_json(item) for name, item in document["flow_logs"].items()},
            flow_log_tracks=dict(document["flow_log_tracks"]),
            recorded={name: set(found) for name, found in document["recorded"].items()},
        )


def _last_commit(spool: Path) -> int:
    """The highest commit number that a file of the spool names (see `vnotch.deliver.spool`); 0 where there is none."""
    if not spool.is_dir():
        return 0
    commits = (path.name.partition("-")[0] for path in spool.glob("*.arrow"))
    return max((int(commit) for commit in commits if commit.isdecimal()), default=0)
