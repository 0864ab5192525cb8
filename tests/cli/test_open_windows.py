"""Open windows as `vnotch tail --live` shows them: each flow once, marked, and told apart as it grows."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
from rich.console import Console

from vnotch.agent.view import RECORD_SCHEMA, Answer
from vnotch.cli.open_windows import Unseen, lines_of, panel, to_json

FORMAT = "${srcaddr} ${dstport} ${packets} ${bytes} ${start} ${end} ${action} ${tcp-flags} ${log-status}"


def answer(*messages: str, start_s: int = 60) -> Answer:
    rows: list[dict[str, Any]] = [
        {"flow_log_id": "fl-1", "interface_id": "eni-1", "window_start_s": start_s, "message": message}
        for message in messages
    ]
    about = {"flow_logs": [{"flow_log_id": "fl-1", "log_format": FORMAT, "traffic_type": "ALL"}]}
    return Answer(about, (pa.Table.from_pylist(rows, schema=RECORD_SCHEMA),))


def test_a_flow_that_grows_is_the_same_flow_and_one_of_another_window_is_not() -> None:
    unseen = Unseen()
    first = list(lines_of(answer("10.0.0.1 443 3 300 61 62 ACCEPT 2 OK")))
    assert unseen.of(first) == first
    grown = lines_of(answer("10.0.0.1 443 9 900 61 70 ACCEPT 3 OK", "10.0.0.1 80 1 60 70 70 REJECT 2 OK"))
    assert [line.message.split(" ")[1] for line in unseen.of(grown)] == ["80"]
    assert len(unseen.of(lines_of(answer("10.0.0.1 443 1 100 121 121 ACCEPT 0 OK", start_s=120)))) == 1


def test_for_machines_it_is_marked_and_has_its_stream() -> None:
    (line,) = lines_of(answer("10.0.0.1 443 3 300 61 62 ACCEPT 2 OK"))
    assert to_json(line) == {
        "open": True,
        "windowStart": 60,
        "flowLogId": "fl-1",
        "logStreamName": "eni-1-all",
        "message": "10.0.0.1 443 3 300 61 62 ACCEPT 2 OK",
    }
    assert line.packets == 3


def test_on_a_terminal_every_line_is_marked_and_those_without_room_are_counted() -> None:
    lines = list(lines_of(answer(*(f"10.0.0.{n} 443 3 300 61 62 ACCEPT 2 OK" for n in range(5)))))
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(panel(lines, 3))
    shown = console.export_text().splitlines()
    assert shown[0].startswith("open: 5 flows of windows that have not closed")
    assert [text[:14] for text in shown if text.startswith("open 10")] == [f"open 10.0.0.{n} 4"[:14] for n in range(3)]
    assert shown[-1].startswith("open and 2 more")
