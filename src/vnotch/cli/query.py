"""`vnotch query`, and what `vnotch ask` has in common with it: where flow logs are, which time, and how to answer."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.tail import seconds_of
from vnotch.errors import InputError
from vnotch.interrupts import interrupt_on, uninterrupted
from vnotch.temporary_folder import TemporaryFolder

if TYPE_CHECKING:
    from vnotch.query.files import LogFile
    from vnotch.query.labels import Labels
    from vnotch.query.problems import Problems
    from vnotch.query.progress import Progress
    from vnotch.query.questions import Chart
    from vnotch.query.table import Table
    from vnotch.query.text import TextFormat

MISSES_DATA = 3
"""Exit status of an answer that misses data, unless --skip-bad."""
MEMORY = "1GB"
_GROUP = "group:"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)[bB]?")
_MEMORY_BYTES_MIN = 64_000_000

From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        help="Where the flow logs are: s3://bucket/prefix, a file, a folder, a pattern, group:NAME. Repeatable.",
    ),
]
Since = Annotated[
    str | None, typer.Option(help="Records that end since then: 30m, 1d (ago), 2026-01-31 or 2026-01-31T18:00Z.")
]
Until = Annotated[str | None, typer.Option(help="Records that end before then; written as --since.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Format of text without a header line: '${version} ${account-id} ...'.")
]
OutputOption = Annotated[
    str, typer.Option("--output", "-o", help="table, csv, json, jsonl, parquet, or a file: answer.csv.")
]
Json = Annotated[bool, typer.Option("--json", help="As --output json.")]
ChartOption = Annotated[bool, typer.Option("--chart", help="Draw the answer.")]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="File of CIDRs and their labels, which name addresses.")
]
Memory = Annotated[str, typer.Option(help="Memory of DuckDB; what does not fit is spilled to disk.")]
Timeout = Annotated[str | None, typer.Option(help="Give up after 30s, 10m.", show_default="never")]
Threads = Annotated[int | None, typer.Option(help="Threads.", min=1, max=256, show_default="one a core")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Exit status 0 although files or lines could not be read.")]
Profile = Annotated[str | None, typer.Option(help="AWS profile.", show_default="the environment's")]
S3Endpoint = Annotated[
    str | None, typer.Option("--s3-endpoint-url", help="Endpoint of S3.", show_default="the AWS settings'")
]


@dataclass(frozen=True)
class Asking:
    """What a user says about where to look and how to answer."""

    sources: Sequence[str]
    since: str | None = None
    until: str | None = None
    format: str | None = None
    output: str = "table"
    chart: bool = False
    labels: Path | None = None
    memory: str = MEMORY
    timeout: str | None = None
    threads: int | None = None
    skip_bad: bool = False
    profile: str | None = None
    s3_endpoint_url: str | None = None
    data_dir: Path | None = None
    endpoint_url: str | None = None

    def answer(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        extra: Sequence[str] = (),
        check: Callable[[Mapping[str, str]], None] | None = None,
        chart: Chart | None = None,
        addresses: Sequence[str] = (),
    ) -> int:
        """Reads, asks and writes; returns the exit status.

        `extra` are fields that are NULL where the flow logs have none; `check` sees the table's columns first;
        `addresses` are the answer's columns that get labels.
        """
        interrupt_on(signal.SIGTERM, signal.SIGHUP)  # what is spilled to disk is removed then too
        with uninterrupted():
            import_module("vnotch.query.text_table")  # what a question needs later, also in threads that it starts
            from vnotch.cli.answers import Output, with_labels, write_chart
            from vnotch.cli.waiting import ProgressBar, write_summary
            from vnotch.query.engine import Engine, Settings, available_threads
            from vnotch.query.period import Period
            from vnotch.query.problems import Problems
            from vnotch.query.progress import Progress

            tempfile.gettempdir()  # it tries the folder with a file
        output = Output(self.output)
        if self.chart and self.output != "table":
            raise InputError(f"a chart cannot be {self.output}", "either --chart or --output")
        period = Period.parse(self.since, self.until)
        labels = _labels(self.labels) if self.labels else None
        timeout = seconds_of(self.timeout) if self.timeout else None
        settings = Settings(memory_of(self.memory), self.threads or available_threads(), timeout)
        problems, progress = Problems(), Progress()
        with ProgressBar(progress) as bar, self._opened(period, problems, progress, extra) as (table, given):
            if check is not None:
                check(table.columns)
            engine = Engine(table, period, given, labels, settings, problems, progress)
            try:
                found = engine.ask(sql, parameters, bar.update)
                if labels is not None and addresses:
                    found = with_labels(found, labels, addresses)
                if self.chart:
                    write_chart(found, chart, bar)
                else:
                    output.write(found, bar)
            finally:
                engine.close()
        write_summary(problems)
        return MISSES_DATA if problems and not self.skip_bad else 0

    @contextmanager
    def _opened(
        self, period: Any, problems: Problems, progress: Progress, extra: Sequence[str]
    ) -> Iterator[tuple[Table, TextFormat | None]]:
        from vnotch.query.table import find_files, open_table

        if not self.sources:
            raise InputError("where are the flow logs?", "--from s3://bucket/prefix, a folder, or group:NAME")
        groups = [source.removeprefix(_GROUP) for source in self.sources if source.startswith(_GROUP)]
        places = [source for source in self.sources if not source.startswith(_GROUP)]
        given = text_format_of(self.format) if self.format else None
        with TemporaryFolder("vnotch-group-") as folder:
            files: list[LogFile] = []
            if groups:
                files, given = self._groups(groups, period, given, folder, progress)
            if places:
                files += find_files(places, period, problems, self.profile, self.s3_endpoint_url)
            yield open_table(files, period, given, problems, progress, extra), given

    def _groups(
        self, groups: Sequence[str], period: Any, given: TextFormat | None, folder: Path, progress: Progress
    ) -> tuple[list[LogFile], TextFormat]:
        """The messages of log groups of a running server as files, and their format."""
        from vnotch.cli.endpoint import Endpoint
        from vnotch.fields import DEFAULT_FORMAT
        from vnotch.query.files import LocalFiles, LogFile
        from vnotch.query.group import group_format, read_group, text_format

        endpoint = Endpoint.find(folders_of(self.data_dir), self.endpoint_url).require_up()
        logs, ec2 = endpoint.client("logs"), endpoint.client("ec2")
        files, formats = [], set()
        for number, group in enumerate(groups):
            found = None if given else group_format(ec2, group)
            formats.add(given or (text_format(found) if found else text_format_of(DEFAULT_FORMAT)))
            path = folder / f"{number}.log"
            read_group(logs, group, period, path, progress)
            files.append(LogFile(LocalFiles(), f"{_GROUP}{group}", str(path), path.stat().st_size))
        if len(formats) > 1:
            raise InputError("these log groups have different formats", "ask one at a time, or give --format")
        return files, formats.pop()


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the table flow_logs; - reads it from standard input.")],
    paths: Annotated[list[str] | None, typer.Argument(help="More places, as with --from.")] = None,
    sources: From = None,
    since: Since = None,
    until: Until = None,
    format: Format = None,
    output: OutputOption = "table",
    as_json: Json = False,
    chart: ChartOption = False,
    labels: LabelsOption = None,
    memory: Memory = MEMORY,
    timeout: Timeout = None,
    threads: Threads = None,
    skip_bad: SkipBad = False,
    profile: Profile = None,
    s3_endpoint_url: S3Endpoint = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Ask exported flow logs in SQL: text and Parquet, any format, in folders, buckets and log groups.

    vnotch query "select action, count(*) from flow_logs group by 1" --from s3://my-flow-logs --since 1d

    The table is flow_logs, its columns are AWS's fields with _ for -, and what is - in a line is NULL.

    --since reads folders and files of that time alone, and says what it passed over.

    Exit status 3: the answer misses data, which standard error names.
    """
    text = sys.stdin.read() if sql == "-" else sql
    asking = Asking(
        [*(sources or ()), *(paths or ())], since, until, format, "json" if as_json else output, chart, labels, memory,
        timeout, threads, skip_bad, profile, s3_endpoint_url, data_dir, endpoint_url,
    )  # fmt: skip
    raise typer.Exit(asking.answer(text, addresses=address_columns()))


def _labels(path: Path) -> Labels:
    from vnotch.query.labels import Labels

    return Labels.read(path)


def text_format_of(text: str) -> TextFormat:
    from vnotch.query.group import text_format
    from vnotch.record import flow_log_format

    return text_format(flow_log_format(text))


def address_columns() -> tuple[str, ...]:
    from vnotch.fields import FIELDS

    return tuple(item.column for item in FIELDS if item.address)


def memory_of(text: str) -> int:
    """Bytes of memory, as `bytes_of`. Raises InputError where they are too few to work with."""
    count = bytes_of(text)
    if count < _MEMORY_BYTES_MIN:
        raise InputError(f"{text} is too little memory", f"at least {_MEMORY_BYTES_MIN // 1_000_000}MB")
    return count


def bytes_of(text: str) -> int:
    """Bytes of a size such as 500MB or 2GB, in decimal units. Raises InputError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no size", "write it like 500MB or 2GB")
    return int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))
