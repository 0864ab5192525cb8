"""The messages of a log group as a file of flow logs, read over the CloudWatch Logs API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vnotch.errors import InputError, LimitError
from vnotch.fields import Format
from vnotch.query.files import FileProblem
from vnotch.query.period import Period
from vnotch.query.progress import Progress
from vnotch.query.text import TextFormat, parse_header
from vnotch.record import flow_log_format

_EVENTS_PER_PAGE = 10_000
GROUP_BYTES_MAX = 20_000_000_000
"""Bytes of messages that are written to disk for one question."""
INTERVAL_SECONDS_MAX = 900
"""A record's event has the time of its start; it ends at most one aggregation interval later."""


def group_format(ec2: Any, group: str) -> Format | None:
    """The format of the flow logs that deliver to a group; None where there is none.

    Raises InputError where several deliver different ones: their lines cannot be told apart by counting values.
    """
    pages = ec2.get_paginator("describe_flow_logs").paginate(Filters=[{"Name": "log-group-name", "Values": [group]}])
    texts = {flow_log["LogFormat"] for page in pages for flow_log in page["FlowLogs"]}
    if len(texts) > 1:
        raise InputError(f"flow logs of {len(texts)} formats deliver to {group}", "name one with --format")
    return flow_log_format(texts.pop()) if texts else None


def text_format(format: Format) -> TextFormat:
    return TextFormat(format.columns)


def read_group(logs: Any, group: str, period: Period, path: Path, progress: Progress) -> int:
    """Writes the messages of a group to a file, one a line; returns how many.

    The API is asked once; a question may read the file several times. Raises InputError where there is no such group,
    and LimitError where it has more than fits.
    """
    request: dict[str, Any] = {"logGroupName": group, "limit": _EVENTS_PER_PAGE}
    if period.begin_s is not None:
        request["startTime"] = max(0, period.begin_s - INTERVAL_SECONDS_MAX) * 1000
    if period.end_s is not None:
        request["endTime"] = period.end_s * 1000
    progress.doing = f"reading {group}"
    count = 0
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            while True:
                page = logs.filter_log_events(**request)
                for event in page["events"]:
                    out.write(_line(event["message"]) + "\n")
                count += len(page["events"])
                if out.tell() > GROUP_BYTES_MAX:
                    raise LimitError(f"{group} has more than {GROUP_BYTES_MAX:,} bytes", "a shorter time with --since")
                progress.add_rows(len(page["events"]))
                if not page.get("nextToken"):
                    return count
                request["nextToken"] = page["nextToken"]
    except logs.exceptions.ResourceNotFoundException:
        raise InputError(f"there is no log group {group}", "vnotch aws logs describe-log-groups lists them") from None


def _line(message: str) -> str:
    """A message as one line of the file.

    One that has line ends in it is no record; they are replaced, so that it is one line that does not fit. So are the
    blanks of one that reads as a header line: log groups have none, and whoever writes it into one would say what the
    columns of the records behind it are.
    """
    line = message.replace("\r", "\\r").replace("\n", "\\n")
    try:
        is_header = parse_header(line.encode()) is not None
    except FileProblem:
        is_header = True
    return "\\x20".join(line.split()) if is_header else line
