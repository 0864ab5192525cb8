"""Answers of questions as people and machines want them: table, CSV, JSON, JSON lines, Parquet, chart.

What is in a log line may come from anyone. Control characters never reach a terminal; in CSV a text that a spreadsheet
would take for a formula gets an apostrophe before it (JSON and Parquet have every text as it is).
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vnotch.cli.chart import bars, over_time
from vnotch.cli.terminal import STYLES, is_terminal, plain
from vnotch.cli.waiting import ProgressBar
from vnotch.errors import InputError
from vnotch.query.engine import Answer
from vnotch.query.questions import Chart

if TYPE_CHECKING:
    from vnotch.query.labels import Labels

FORMATS = ("table", "csv", "json", "jsonl", "parquet")
ROWS_SHOWN = 1000
"""Rows of a table and points of a chart; the others are counted. Files and pipes get all rows in every other form."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Output:
    """Where an answer goes and in which form: a name of FORMATS, or a file whose suffix says it."""

    def __init__(self, text: str) -> None:
        """Raises InputError."""
        self.path: Path | None = None
        self.form = text
        if text not in FORMATS:
            self.path = Path(text)
            self.form = self.path.suffix.removeprefix(".").lower()
        if self.form not in FORMATS or (self.path is not None and self.form == "table"):
            raise InputError(
                f"--output {text!r} is not right", f"one of {', '.join(FORMATS)}, or a file such as answer.csv"
            )
        if self.form == "parquet" and self.path is None and is_terminal():
            raise InputError("Parquet is nothing for a terminal", "name a file: --output answer.parquet")

    def write(self, answer: Answer, bar: ProgressBar) -> None:
        """All rows. A file appears when it is whole. Raises InputError where it cannot be written."""
        writer = {
            "table": _write_table, "csv": _write_csv, "json": _write_json, "jsonl": _write_lines,
            "parquet": _write_parquet,
        }[self.form]  # fmt: skip
        if self.path is None:
            try:
                writer(answer, _Stdout(bar, as_text=self.form in ("csv", "json", "jsonl")))
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise BrokenPipeError from None  # click takes one with an errno for itself and exits with status 1
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with partial.open("xb") as file:
                writer(answer, file)
            partial.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}") from None
        finally:
            with suppress(OSError):
                partial.unlink()


def _rows(answer: Answer) -> Iterator[dict[str, Any]]:
    for batch in answer.batches:
        yield from pa.Table.from_batches([batch]).rename_columns(_distinct(batch.schema.names)).to_pylist()


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns, each once: what has no name of its own in SQL may come twice."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _write_table(answer: Answer, out: _Sink) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for item in answer.schema:
        table.add_column(plain(item.name), justify="right" if _is_number(item.type) else "left", no_wrap=True)
    shown = rows = 0
    for batch in answer.batches:
        rows += batch.num_rows
        for row in zip(*(column.to_pylist() for column in batch.slice(0, ROWS_SHOWN - shown).columns), strict=True):
            table.add_row(*(_cell(value) for value in row))
            shown += 1
    # As wide as it needs to be: a terminal wraps what does not fit, and nothing is cut.
    wide = Console(width=10_000)
    width = max(wide.measure(table).maximum, 1)
    kept = io.StringIO()
    Console(width=max(width, 20), force_terminal=is_terminal(), highlight=False, file=kept).print(table)
    lines = [line.rstrip() for line in kept.getvalue().splitlines()]
    out.write("\n".join(lines).encode() + b"\n")
    if rows > shown:
        out.write(f"{shown:,} of {rows:,} rows; --output csv has all of them\n".encode())


def _cell(value: Any) -> Text:
    text = _text(value)
    return Text(text, style=STYLES.get(text, "dim" if value is None else ""))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.1f}"
    return plain(str(value)).replace("\n", "\\x0a").replace("\t", "\\x09")


def _write_csv(answer: Answer, out: _Sink) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_csv_text(name) for name in answer.schema.names])
    for batch in answer.batches:
        columns = [_csv_column(column) for column in batch.columns]
        writer.writerows(zip(*columns, strict=True))
        out.write(buffer.getvalue().encode())
        buffer.seek(0)
        buffer.truncate()
    out.write(buffer.getvalue().encode())


def _csv_column(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [None if value is None else _csv_text(value) for value in values]
    if pa.types.is_nested(column.type):
        return [None if value is None else orjson.dumps(value, default=_json_value).decode() for value in values]
    if pa.types.is_timestamp(column.type):
        return [None if value is None else value.isoformat(" ") for value in values]
    return values


def _csv_text(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text


def _write_json(answer: Answer, out: _Sink) -> None:
    between = b"[\n"
    for row in _rows(answer):
        out.write(between + orjson.dumps(row, default=_json_value))
        between = b",\n"
    out.write(b"\n]\n" if between == b",\n" else b"[]\n")


def _write_lines(answer: Answer, out: _Sink) -> None:
    for row in _rows(answer):
        out.write(orjson.dumps(row, default=_json_value) + b"\n")


def _json_value(value: Any) -> Any:
    """What JSON has no form for. Sums are wider than 64 bits in DuckDB and mostly fit."""
    if isinstance(value, Decimal):
        if value == value.to_integral_value():
            return int(value) if abs(value) < 2**63 else str(int(value))
        return float(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _write_parquet(answer: Answer, out: _Sink) -> None:
    import pyarrow.parquet

    schema = pa.schema(
        [item.with_name(name) for item, name in zip(answer.schema, _distinct(answer.schema.names), strict=True)]
    )
    with pyarrow.parquet.ParquetWriter(pa.PythonFile(out, mode="w"), schema, compression="zstd") as writer:
        for batch in answer.batches:
            writer.write_table(pa.Table.from_arrays(batch.columns, schema=schema))


def write_chart(answer: Answer, chart: Chart | None, bar: ProgressBar) -> None:
    """A chart of the answer, as the question describes it or else as its columns suggest. Raises InputError."""
    chart = chart or _guess(answer.schema)
    names = answer.schema.names
    for name in (chart.label, chart.value):
        if name not in names:
            raise InputError(f"the answer has no column {name}")
    labels: list[Any] = []
    values: list[float] = []
    rows = 0
    for batch in answer.batches:
        rows += batch.num_rows
        if len(values) < (ROWS_SHOWN if chart.kind == "bars" else sys.maxsize):
            labels += _bar_labels(batch, chart.label) if chart.kind == "bars" else batch.column(chart.label).to_pylist()
            values += [float(value or 0) for value in batch.column(chart.value).to_pylist()]
    width = Console().width if is_terminal() else 100
    if chart.kind == "time":
        known = [(_seconds(label), value) for label, value in zip(labels, values, strict=True) if label is not None]
        lines = over_time([time for time, _ in known], [value for _, value in known], width)
    else:
        lines = bars(labels, values, width)
    bar.end()
    title = f"{plain(chart.value)} by {plain(chart.label)}"
    sys.stdout.write("\n".join([title, "", *lines] if rows else [title, "", "no rows"]) + "\n")


def _bar_labels(batch: pa.RecordBatch, name: str) -> list[str]:
    """The texts of a column; with its label, where the answer has labels."""
    texts = [_text(value) for value in batch.column(name).to_pylist()]
    if f"{name}_label" not in batch.schema.names:
        return texts
    labels = batch.column(f"{name}_label").to_pylist()
    return [text if label is None else f"{text} {_text(label)}" for text, label in zip(texts, labels, strict=True)]


def _is_number(type_: pa.DataType) -> bool:
    return any(test(type_) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))


def _guess(schema: pa.Schema) -> Chart:
    times = [item.name for item in schema if pa.types.is_timestamp(item.type) or pa.types.is_date(item.type)]
    label = times[0] if times else schema.names[0]
    value = next((item.name for item in schema if _is_number(item.type) and item.name != label), None)
    if value is None:
        raise InputError("a chart needs a column to name its bars or times and a column of numbers")
    return Chart("time" if times else "bars", label, value)


def _seconds(value: Any) -> float:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    return float(value)


def with_labels(answer: Answer, labels: Labels, addresses: Sequence[str]) -> Answer:
    """The answer with a column `NAME_label` behind each of its columns of addresses."""
    places = [number for number, name in enumerate(answer.schema.names) if name in addresses]

    def labelled(batch: pa.RecordBatch) -> pa.RecordBatch:
        for shift, place in enumerate(places):
            name = batch.schema.names[place + shift]
            batch = batch.add_column(place + shift + 1, f"{name}_label", labels.of(batch.column(place + shift)))
        return batch

    empty = pa.RecordBatch.from_pylist([], schema=answer.schema)
    return Answer(labelled(empty).schema, (labelled(batch) for batch in answer.batches))


class _Stdout(io.RawIOBase):
    """Standard output. Where it is a terminal, it takes the bar away before the first byte, and in what is `as_text`
    control characters are shown."""

    def __init__(self, bar: ProgressBar, as_text: bool) -> None:
        self._bar = bar
        self._as_text = as_text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if is_terminal():
            self._bar.end()
            if self._as_text:
                sys.stdout.buffer.write(plain(bytes(data).decode()).encode())
                return len(data)
        return sys.stdout.buffer.write(data)
