"""The table `flow_logs`: all files of a question, whatever their formats, as one.

It has AWS's column names (`_` for `-`), in the order of the table of fields, then what is no field, as text. A column
that a file lacks is NULL in its rows, and so is what was `-`. What the table has is known before anything is read but
headers and footers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from vnotch.bucket_keys import parse_name
from vnotch.errors import InputError
from vnotch.query.columns import COLUMN_TYPES
from vnotch.query.files import FileProblem, LogFile, bounded, local_files, without_replaced
from vnotch.query.parquet import Footer, has_times, read_footer, sql_type
from vnotch.query.period import Period
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress

if TYPE_CHECKING:
    from vnotch.query.bucket import Bucket
    from vnotch.query.text import TextFormat

_AT_ONCE = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Table:
    """What was found. `columns` are the table's columns and SQL types, `extra` among them those that no file has."""

    text: list[LogFile] = field(default_factory=list)
    parquet: list[tuple[LogFile, Footer]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    text_columns: tuple[str, ...] = ()


def find_files(
    sources: Sequence[str],
    period: Period,
    problems: Problems,
    profile: str | None = None,
    endpoint_url: str | None = None,
) -> list[LogFile]:
    """The files that `s3://bucket/prefix` and paths name, each once, in the period by their names.

    Raises InputError, AccessError or HostError where a source as a whole cannot be read, and where nothing is left.
    """
    found = without_replaced(bounded(_find(sources, period, problems, profile, endpoint_url)), period, problems)
    if not found:
        where = ", ".join(sources)
        if not period.is_open:
            raise InputError(
                f"no flow logs of that time under {where}", "a longer time with --since, or another folder"
            )
        raise InputError(f"no flow logs under {where}", "files end in .log, .log.gz, .gz, .txt or .parquet")
    return found


def _find(
    sources: Sequence[str], period: Period, problems: Problems, profile: str | None, endpoint_url: str | None
) -> Iterator[LogFile]:
    buckets: dict[str, Bucket] = {}
    for source in sources:
        if source.startswith("s3://"):
            from vnotch.query.bucket import Bucket, parse_url  # botocore takes its time

            name, prefix = parse_url(source)
            bucket = buckets.setdefault(name, Bucket(name, profile, endpoint_url))
            yield from bucket.files(prefix, period, problems)
        else:
            yield from local_files(source, period, problems)


def open_table(
    files: Sequence[LogFile],
    period: Period,
    given: TextFormat | None,
    problems: Problems,
    progress: Progress,
    extra: Iterable[str] = (),
) -> Table:
    """Reads headers and footers. `extra` are fields that the table has in any case, NULL where no file has them.

    Raises InputError where no file can be read at all.
    """
    table = Table()
    progress.doing = "reading headers"
    formats = _text_formats([file for file in files if not file.is_parquet], given, table, problems)
    _footers([file for file in files if file.is_parquet], period, table, problems)
    found: dict[str, list[pa.DataType]] = {}
    for format in formats:
        for column in format.columns:
            found.setdefault(column, [])
    for _, footer in table.parquet:
        for _, column, type_, _ in footer.columns:
            found.setdefault(column, []).append(type_)
    if not found:
        if problems:
            raise InputError("nothing could be read: " + " ".join(line.strip() for line in problems.summary()))
        raise InputError("the files are empty")
    if unknown := [column for column in found if column not in COLUMN_TYPES]:
        problems.note(f"columns that are no field of a flow log, read as text: {', '.join(unknown)}")
    order = [column for column in COLUMN_TYPES if column in found or column in set(extra)] + unknown
    table.columns = {column: sql_type(column, found.get(column, ())) for column in order}
    in_text = {column for format in formats for column in format.columns}
    table.text_columns = tuple(column for column in order if column in in_text)
    progress.bytes_total = sum(file.size for file in table.text or [file for file, _ in table.parquet])
    progress.doing = "reading"
    return table


def _text_formats(
    files: Sequence[LogFile], given: TextFormat | None, table: Table, problems: Problems
) -> list[TextFormat]:
    """The formats of text files; those that can be read go to the table.

    A flow log's format never changes (VPC user guide), so of files that AWS named the first of each flow log tells for
    all of them; each is held to its own header when it is read.
    """
    if not files:
        return []
    from vnotch.query.text import file_format

    def first_readable(group: list[LogFile]) -> tuple[TextFormat | None, list[LogFile]]:
        """-> (the format of the first file that has one, the files from there on)."""
        for number, file in enumerate(group):
            try:
                format = file_format(file, given)
            except FileProblem as problem:
                problems.add(problem.problem, file.name, sample=problem.detail)
                continue
            if format is not None:
                return format, group[number:]
        return None, []

    groups: dict[tuple[str, ...], list[LogFile]] = {}
    for file in files:
        name = parse_name(file.key)
        key = (name.account, name.region, name.flow_log_id) if name else (file.name,)
        groups.setdefault((str(id(file.place)), *key), []).append(file)
    formats: dict[TextFormat, None] = {}
    for found, left in _at_once(first_readable, groups.values()):
        table.text += left
        if found is not None:
            formats[found] = None
    return list(formats)


def _footers(files: Sequence[LogFile], period: Period, table: Table, problems: Problems) -> None:
    def read(file: LogFile) -> Footer | None:
        try:
            return read_footer(file)
        except FileProblem as problem:
            problems.add(problem.problem, file.name, sample=problem.detail)
            return None

    for file, footer in zip(files, _at_once(read, files), strict=True):
        if footer is None:
            continue
        if not period.is_open and not has_times(footer):
            name = parse_name(file.key)
            if name is None:
                problems.add(Problem.UNDATED, file.name)
                continue
            if not period.has_slot(name.slot_s):
                continue
        table.parquet.append((file, footer))


def _at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    with ThreadPoolExecutor(_AT_ONCE, "vnotch-open") as pool:
        yield from pool.map(work, items)
