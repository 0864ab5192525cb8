"""`vnotch insights`: a query of Logs Insights over log groups of a running server, by the API that all clients use."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vnotch.cli.completion import log_groups
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.tail import choose_group
from vnotch.cli.terminal import step
from vnotch.errors import HostError, InputError
from vnotch.interrupts import check, pause

if TYPE_CHECKING:
    import pyarrow as pa

    from vnotch.query.engine import Answer
    from vnotch.query.progress import Progress

FIRST_POLL_SECONDS = 0.05
POLL_SECONDS_MAX = 1.0
PAGE_ROWS = 10_000
POINTER = "@ptr"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?")


def insights(
    query: Annotated[str, typer.Argument(help="The query; - reads it from standard input.")],
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--log-group", "-g", help="Log group. Repeatable.", show_default="the only one", autocompletion=log_groups
        ),
    ] = None,
    since: Annotated[
        str, typer.Option(help="From then on: 30m, 12h, 1d (ago), 2026-01-31 or 2026-01-31T18:00Z.")
    ] = "1h",
    until: Annotated[str | None, typer.Option(help="Before then; written as --since.", show_default="now")] = None,
    limit: Annotated[int | None, typer.Option(help="Rows, where the query has no limit.", min=1, max=100_000)] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="table, csv, json, jsonl, parquet, or a file: answer.csv.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="As --output json.")] = False,
    chart: Annotated[bool, typer.Option("--chart", help="Draw the answer: over time where it has bin().")] = False,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Ask log groups in the language of CloudWatch Logs Insights.

    vnotch insights 'filter action = "REJECT" | stats count(*) as n by srcAddr | sort n desc | limit 10' --since 1d
    """
    from vnotch.cli.answers import Output, write_chart
    from vnotch.cli.waiting import ProgressBar
    from vnotch.query.period import Period
    from vnotch.query.progress import Progress

    text = sys.stdin.read() if query == "-" else query
    out = Output("json" if as_json else output)
    if chart and (as_json or output != "table"):
        raise InputError("a chart has no other form", "either --chart or --output")
    period = Period.parse(since, until)
    logs = Endpoint.find(folders_of(data_dir), endpoint_url).require_up().client("logs")
    chosen: list[str | None] = [*groups] if groups else [None]
    names = [choose_group(logs, name, False) for name in chosen]
    end_s = int(time.time()) if period.end_s is None else period.end_s - 1
    progress = Progress()
    with ProgressBar(progress) as bar:
        request: dict[str, Any] = {
            "logGroupNames": list(dict.fromkeys(names)),
            "startTime": period.begin_s or 0,
            "endTime": max(end_s, period.begin_s or 0),
            "queryString": text,
        }
        query_id = _start(logs, text, request | ({"limit": limit} if limit else {}))
        try:
            statistics = _wait(logs, query_id, progress, bar.update)
        except BaseException:
            _stop(logs, query_id)
            raise
        answer = table_of(_rows(logs, query_id))
        write_chart(answer, None, bar) if chart else out.write(answer, bar)
    for hint in misspelt(text):
        step(hint)
    if sys.stderr.isatty():
        step(f"{statistics['recordsMatched']:,.0f} of {statistics['recordsScanned']:,.0f} events matched")


def _start(logs: Any, text: str, request: dict[str, Any]) -> str:
    try:
        return str(logs.start_query(**request)["queryId"])
    except logs.exceptions.MalformedQueryException as error:
        compile_error = error.response.get("queryCompileError") or {}
        start = (compile_error.get("location") or {}).get("startCharOffset", 0)
        raise InputError(f"{error.response['Error']['Message']}\n{pointed(text, start)}") from None


def pointed(text: str, start: int) -> str:
    """The line of a query with a mark under the place."""
    from vnotch.cli.terminal import plain

    begin = text.rfind("\n", 0, start) + 1
    line = text[begin:].partition("\n")[0]
    return f"  {plain(line)}\n  {' ' * (start - begin)}^"


def misspelt(text: str) -> list[str]:
    """A note for each field that is none of records but nearly is one. It may be one of JSON messages, so that the
    service, like AWS's, takes it for a field that no event has."""
    from difflib import get_close_matches

    from vnotch.insights.compile import names_of
    from vnotch.insights.events import RECORD_FIELDS
    from vnotch.insights.grammar import parse_query

    by_lower = {name.lower(): name for name in RECORD_FIELDS}
    notes = []
    for name in names_of(parse_query(text)):
        near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.8)
        if name not in RECORD_FIELDS and near:
            notes.append(f"records have no field {name}: did you mean {by_lower[near[0]]}?")
    return notes


def _wait(logs: Any, query_id: str, progress: Progress, update: Any) -> dict[str, float]:
    """Until the query has ended; its statistics. Raises HostError where it has no answer."""
    seconds = FIRST_POLL_SECONDS
    progress.doing = "asking"
    while True:
        check()
        answer = logs.get_query_results(queryId=query_id, maxItems=1)
        status, statistics = answer["status"], answer["statistics"]
        progress.rows = int(statistics.get("recordsScanned", 0))
        update()
        if status == "Complete":
            return dict(statistics)
        if status not in ("Scheduled", "Running"):
            remedy = "a shorter time, or a narrower filter; the server's log says why"
            raise HostError(f"the query ended as {status}", remedy)
        pause(seconds)
        seconds = min(POLL_SECONDS_MAX, seconds * 1.5)


def _stop(logs: Any, query_id: str) -> None:
    from contextlib import suppress

    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(ClientError, BotoCoreError):  # it may have ended meanwhile, or the server
        logs.stop_query(queryId=query_id)


def _rows(logs: Any, query_id: str) -> Iterator[dict[str, str]]:
    request: dict[str, Any] = {"queryId": query_id, "maxItems": PAGE_ROWS}
    while True:
        page = logs.get_query_results(**request)
        for row in page["results"]:
            yield {cell["field"]: cell["value"] for cell in row if cell["field"] != POINTER}
        if "nextToken" not in page:
            return
        request["nextToken"] = page["nextToken"]


def table_of(rows: Iterator[dict[str, str]]) -> Answer:
    """Rows of texts as columns of numbers, times and texts. A row has no cell for what is missing in it."""
    import pyarrow as pa

    from vnotch.query.engine import Answer

    names: list[str] = []
    found = list(rows)
    for row in found:
        behind = 0
        for name in row:
            if name in names:
                behind = names.index(name) + 1
            else:
                names.insert(behind, name)
                behind += 1
    table = pa.table({name: _column([row.get(name) for row in found]) for name in names})
    return Answer(table.schema, iter(table.to_batches()))


def _column(texts: list[str | None]) -> pa.Array:
    import pyarrow as pa

    there = [text for text in texts if text is not None]
    if all(_WHOLE.fullmatch(text) for text in there):
        return pa.array([None if text is None else int(text) for text in texts], pa.int64())
    if all(_DECIMAL.fullmatch(text) for text in there):
        return pa.array([None if text is None else float(text) for text in texts], pa.float64())
    if all(_TIME.fullmatch(text) for text in there):
        moments = [None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC) for text in texts]
        return pa.array(moments, pa.timestamp("ms", "UTC"))
    return pa.array(texts, pa.string())
