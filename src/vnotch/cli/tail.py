"""Reading a log group as it grows: `vnotch tail` and the live view of the demo."""

from __future__ import annotations

import json
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from vnotch.cli.completion import log_groups
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import AgentName, DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import is_terminal, out, plain, record_text, step
from vnotch.errors import InputError
from vnotch.interrupts import check

POLL_SECONDS = 1.0
LOOK_BACK_SECONDS = 960
"""A record arrives after its window has closed, with the time of its first packet: at most one interval (900 s at the
longest) and the delivery later. That far back each poll looks again; events shown before are known by their ids."""
IDS_MAX = 500_000


@dataclass(frozen=True)
class Event:
    stream: str
    timestamp_ms: int
    message: str


def choose_group(logs: Any, group: str | None, waits: bool) -> str:
    """The group asked for, else the only one. One that does not exist is waited for, if `waits`: the first records of
    a flow log make it. Raises InputError."""
    request = {"logGroupNamePrefix": group} if group else {}
    names = [found["logGroupName"] for found in logs.describe_log_groups(**request)["logGroups"]]
    if group is not None:
        if group not in names:
            if not waits:
                raise InputError(f"there is no log group {group}", "vnotch aws logs describe-log-groups lists them")
            step(f"waiting for the log group {group}: the first records of a flow log make it")
        return group
    if not names:
        remedy = "the first records of a flow log make it" + ("; name it to wait for it" if waits else "")
        raise InputError("there is no log group yet", remedy)
    if len(names) > 1:
        raise InputError("which log group?", f"name one of: {', '.join(names)}")
    return str(names[0])


class Tail:
    """The events of one log group that were not seen before, poll by poll. The group may not exist yet."""

    def __init__(self, logs: Any, group: str, since_ms: int, pattern: str = "", prefix: str = "") -> None:
        self.group = group
        self._logs = logs
        self._request: dict[str, Any] = {"logGroupName": group}
        if pattern:
            self._request["filterPattern"] = pattern
        if prefix:
            self._request["logStreamNamePrefix"] = prefix
        self._since_ms = since_ms
        self._answers = True
        self._shown: set[str] = set()
        self._order: deque[str] = deque()

    def poll(self) -> Iterator[Event]:
        """Yields what is new, oldest first; nothing while the group does not exist."""
        start_ms = max(self._since_ms, int((time.time() - LOOK_BACK_SECONDS) * 1000))
        request = dict(self._request, startTime=start_ms if self._shown else self._since_ms)
        try:
            while True:
                page = self._logs.filter_log_events(**request)
                for event in page["events"]:
                    if self._is_new(event["eventId"]):
                        yield Event(event["logStreamName"], event["timestamp"], event["message"])
                if not page.get("nextToken"):
                    return
                request["nextToken"] = page["nextToken"]
        except self._logs.exceptions.ResourceNotFoundException:
            return

    def follow(self) -> Iterator[Event]:
        """Yields what is new for ever, also across a restart of the server."""
        while True:
            yield from self.poll_again()
            sleep_while_read(POLL_SECONDS)

    def poll_again(self) -> Iterator[Event]:
        """As `poll`, across a restart of the server: that it does not answer is said once."""
        from botocore.exceptions import BotoCoreError

        try:
            yield from self.poll()
            self._answers = True
        except BotoCoreError as error:
            if self._answers:
                step(f"{error}; trying again")
            self._answers = False

    def _is_new(self, event_id: str) -> bool:
        if event_id in self._shown:
            return False
        self._shown.add(event_id)
        self._order.append(event_id)
        if len(self._order) > IDS_MAX:
            self._shown.discard(self._order.popleft())
        return True


def sleep_while_read(seconds: float) -> None:
    """Sleeps, unless the reader of our output goes away, as `| head` does: without a line to write nothing else would
    tell. Raises BrokenPipeError then."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)  # POLLERR alone, which is always told
    check()
    if any(happened & select.POLLERR for _, happened in waiting.poll(seconds * 1000)):
        raise BrokenPipeError
    check()


def seconds_of(text: str) -> float:
    """Seconds of a duration such as 90, 30s, 10m, 2h, 1d. Raises InputError."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    number = text[:-1] if unit else text
    try:
        value = float(number) * (unit or 1)
    except ValueError:
        value = -1
    if not 0 <= value < 1e9:
        raise InputError(f"{text!r} is no duration", "write it like 30s, 10m, 2h or 1d")
    return value


def tail(
    group: Annotated[
        str | None, typer.Argument(help="Log group.", show_default="the only one", autocompletion=log_groups)
    ] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f/-F", help="Go on as records arrive.")] = True,
    live: Annotated[
        bool,
        typer.Option("--live", help="Also what open windows on this host hold, before it is records; marked `open`."),
    ] = False,
    agent: AgentName = None,
    since: Annotated[str, typer.Option(help="How far back to begin: 30s, 10m, 2h, 1d.")] = "10m",
    pattern: Annotated[str, typer.Option("--filter", help="CloudWatch filter pattern.")] = "",
    prefix: Annotated[str, typer.Option("--stream-prefix", help="Only streams whose name begins so.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show records as they arrive."""
    since_ms = int((time.time() - seconds_of(since)) * 1000)
    folders = folders_of(data_dir)
    if live and (pattern or prefix):
        raise InputError("--live shows open windows whole", "leave --filter and --stream-prefix out")
    if live:
        from vnotch.cli.local_agents import local_agents
        from vnotch.cli.open_windows import OpenWindows, follow_both

        windows = OpenWindows(local_agents(folders, agent))
        group = group or windows.only_group()
        windows.check(group)
    logs = Endpoint.find(folders, endpoint_url).require_up().client("logs")
    reader = Tail(logs, choose_group(logs, group, follow), since_ms, pattern, prefix)
    if live:
        follow_both(reader, windows, as_json, follow)
        return
    for event in reader.follow() if follow else reader.poll():
        show(event, as_json)


def show(event: Event, as_json: bool) -> None:
    """One line."""
    if as_json:
        line = {"timestamp": event.timestamp_ms, "logStreamName": event.stream, "message": event.message}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    elif is_terminal():
        out.print(record_text(event.message))
    else:
        sys.stdout.write(plain(event.message) + "\n")
        sys.stdout.flush()
