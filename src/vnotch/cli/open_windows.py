"""`vnotch tail --live`: the flows of open windows, as the lines that they would become now, beside records.

On a terminal they stand below the records and change as they grow. Elsewhere each is printed once, when it comes, with
`open ` before it. They are marked wherever they are shown: what they count is not over, and they are no records.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from vnotch.agent.asking import Answer
from vnotch.cli.local_agents import LocalAgent, ask_all
from vnotch.cli.tail import POLL_SECONDS, Tail, show, sleep_while_read
from vnotch.cli.terminal import is_terminal, out, plain, record_text
from vnotch.errors import InputError
from vnotch.inventory import STREAM_SUFFIX

GROWING = {"packets", "bytes", "start", "end", "tcp-flags", "log-status", "x-lost-packets", "x-lost-bytes"}
"""Fields that change while a flow goes on: the others say which flow it is."""
KEYS_MAX = 200_000


@dataclass(frozen=True)
class OpenLine:
    """`key` tells a flow in its window from all others, as it grows."""

    flow_log_id: str
    stream: str
    window_start_s: int
    message: str
    packets: int
    key: tuple[Any, ...]


class OpenWindows:
    """What the agents of this host have open."""

    def __init__(self, agents: Sequence[LocalAgent]) -> None:
        self._agents = list(agents)

    def only_group(self) -> str:
        """The log group of all flow logs here, where it is one. Raises InputError."""
        answers = ask_all(self._agents, {"view": "records", "log_group": None})
        groups = sorted({item["log_group_name"] for _, answer in answers for item in answer.about["flow_logs"]} - {""})
        if not groups:  # those into buckets have none
            raise InputError(
                "no flow log into a log group covers an interface of this host", "vnotch flow-logs create RESOURCE"
            )
        if len(groups) > 1:
            raise InputError("which log group?", f"name one of: {', '.join(groups)}")
        return str(groups[0])

    def check(self, group: str) -> None:
        """Raises InputError where no flow log of this host delivers to the group."""
        answers = ask_all(self._agents, {"view": "records", "log_group": group})
        if not any(answer.about["flow_logs"] for _, answer in answers):
            raise InputError(f"no flow log of this host delivers to {group}", "tail it without --live")

    def lines(self, group: str) -> list[OpenLine]:
        """Those with the most packets first."""
        answers = ask_all(self._agents, {"view": "records", "log_group": group})
        return sorted(
            (line for _, answer in answers for line in lines_of(answer)), key=lambda line: line.packets, reverse=True
        )


def lines_of(answer: Answer) -> Iterator[OpenLine]:
    """The lines of one answer, each with its key."""
    flow_logs = {item["flow_log_id"]: item for item in answer.about["flow_logs"]}
    names = {name: _names(item["log_format"]) for name, item in flow_logs.items()}
    for row in answer.tables[0].to_pylist():
        flow_log_id, words = row["flow_log_id"], row["message"].split(" ")
        fields = names[flow_log_id]
        fixed = tuple(word for name, word in zip(fields, words, strict=True) if name not in GROWING)
        packets = words[fields.index("packets")] if "packets" in fields else "0"
        yield OpenLine(
            flow_log_id,
            f"{row['interface_id']}-{STREAM_SUFFIX[flow_logs[flow_log_id]['traffic_type']]}",
            row["window_start_s"],
            row["message"],
            int(packets) if packets.isdigit() else 0,
            (flow_log_id, row["interface_id"], row["window_start_s"], *fixed),
        )


def _names(log_format: str) -> list[str]:
    return log_format.replace("${", "").replace("}", "").split()


class Unseen:
    """Passes on each open flow once."""

    def __init__(self) -> None:
        self._keys: dict[tuple[Any, ...], None] = {}

    def of(self, lines: Iterable[OpenLine]) -> list[OpenLine]:
        found = [line for line in lines if line.key not in self._keys]
        self._keys.update(dict.fromkeys(line.key for line in found))
        while len(self._keys) > KEYS_MAX:
            del self._keys[next(iter(self._keys))]
        return found


def follow_both(reader: Tail, windows: OpenWindows, as_json: bool, follow: bool) -> None:
    """Shows records and open windows until Ctrl-C, or once."""
    if is_terminal() and follow and not as_json:
        _on_terminal(reader, windows)
        return
    unseen = Unseen()
    while True:
        for event in reader.poll_again():
            show(event, as_json)
        for line in unseen.of(windows.lines(reader.group)):
            sys.stdout.write((json.dumps(to_json(line)) if as_json else f"open {plain(line.message)}") + "\n")
        sys.stdout.flush()
        if not follow:
            return
        sleep_while_read(POLL_SECONDS)


def to_json(line: OpenLine) -> Mapping[str, Any]:
    """As a record's own, marked; `windowStart` in seconds."""
    return {
        "open": True,
        "windowStart": line.window_start_s,
        "flowLogId": line.flow_log_id,
        "logStreamName": line.stream,
        "message": line.message,
    }


def _on_terminal(reader: Tail, windows: OpenWindows) -> None:
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while True:
            for event in reader.poll_again():
                live.console.print(record_text(event.message))
            live.update(panel(windows.lines(reader.group), max(3, out.height // 2)), refresh=True)
            sleep_while_read(POLL_SECONDS)


def panel(lines: Sequence[OpenLine], rows_max: int) -> Group:
    """What stands below the records."""
    head = Text(f"open: {len(lines):,} flows of windows that have not closed, not records yet", style="bold cyan")
    shown = []
    for line in lines[:rows_max]:
        text = Text("open ", style="cyan") + record_text(line.message)
        text.truncate(out.width, overflow="ellipsis")
        shown.append(text)
    if len(lines) > rows_max:
        shown.append(Text(f"open and {len(lines) - rows_max:,} more", style="cyan"))
    return Group(head, *shown)
