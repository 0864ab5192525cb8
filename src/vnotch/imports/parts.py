"""A file of flow logs -> parts of typed records, sorted by stream and time, the same ones whenever it is read.

A record's event has the time of its start, as flow logs have on AWS; of its end where the format has no start. Its
stream is that of its interface. What is no record of the file's format is left out and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vnotch.address import Values, as_numpy
from vnotch.bucket_files import order_of
from vnotch.bucket_keys import parse_name
from vnotch.coded import coded, coded_schema, coded_table, codes_of, compacted, is_coded, plain_table
from vnotch.errors import InputError
from vnotch.fields import ABSENT, FIELDS, Format, format_text
from vnotch.imports.body import STREAM, TIMESTAMP
from vnotch.line import check_values, parse_line, record_lines
from vnotch.line_parser import reordered
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.parquet import read_footer
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress
from vnotch.query.text import TextFormat, TextReader, file_format
from vnotch.record import flow_log_format
from vnotch.temporary_folder import TemporaryFolder

GATHERED_ROWS = 1 << 19
"""Records that are sorted at a time: the more, the fewer streams are in a part."""
PART_ROWS = 160_000
PART_BYTES = 12 << 20
"""Bounds of a part; the service takes 200,000 records and bodies of 16 MiB."""

_SUFFIX = "-all"
_ID_BYTES = 16 << 10
_BATCH_ROWS = 1 << 17
_NAME_OF_COLUMN = {item.column: item.name for item in FIELDS}


@dataclass(frozen=True)
class Part:
    """`records` has the stream, the time in Unix ms, and the format's columns, text in codes as narrow as it allows;
    streams follow one another."""

    number: int
    format: Format
    records: pa.Table


def file_id(file: LogFile) -> str:
    """The same for the same file wherever it lies: its name, size, beginning and end (of gzip the checksum, of Parquet
    the footer). Raises FileProblem."""
    digest = hashlib.sha256(f"{file.key.rpartition('/')[2]}\n{file.size}\n".encode(errors="surrogateescape"))
    digest.update(file.place.head(file.key, _ID_BYTES))
    digest.update(file.place.tail(file.key, _ID_BYTES))
    return digest.hexdigest()[:32]


class FileParts:
    """The parts of one file. `rows` counts the records in them."""

    def __init__(
        self, file: LogFile, given: TextFormat | None, stream: str | None, problems: Problems, progress: Progress
    ) -> None:
        self.rows = 0
        self._file = file
        self._given = given
        self._stream = stream
        self._problems = problems
        self._progress = progress
        self._wrong = 0
        self._sample = ""
        self._number = 0

    def __iter__(self) -> Iterator[Part]:
        """What is wrong with the file is added to the problems."""
        waiting: list[pa.Table] = []
        rows = 0
        format: Format | None = None
        try:
            for table, columns in self._tables():
                found = record_format(columns)
                if format is not None and found != format:
                    yield from self._parts(waiting, format)
                    waiting, rows = [], 0
                format = found
                # Cut by rows alone: in which pieces a file is read must make no other parts of it.
                while rows + table.num_rows >= GATHERED_ROWS:
                    yield from self._parts([*waiting, table.slice(0, GATHERED_ROWS - rows)], format)
                    table = table.slice(GATHERED_ROWS - rows)
                    waiting, rows = [], 0
                waiting.append(table)
                rows += table.num_rows
            if format is not None:
                yield from self._parts(waiting, format)
        except FileProblem as problem:
            self._problems.add(problem.problem, self._file.name, sample=problem.detail)
        if self._wrong:
            self._problems.add(Problem.WRONG_VALUE, self._file.name, self._wrong, self._sample)

    def _tables(self) -> Iterator[tuple[pa.Table, tuple[str, ...]]]:
        return self._parquet() if self._file.is_parquet else self._text()

    def _text(self) -> Iterator[tuple[pa.Table, tuple[str, ...]]]:
        first = file_format(self._file, self._given)
        if first is None:
            return
        columns = first.columns
        reader = TextReader(
            self._file, columns, frozenset(columns), self._given, self._problems, gathered_rows=GATHERED_ROWS
        )
        for table, format in reader.tables(self._counted()):
            if format != first:
                # Files that were joined into one: the reader gives the columns of the first.
                raise FileProblem(Problem.BAD_HEADER, "a second header line with other columns; split the file there")
            yield table, format.columns

    def _counted(self) -> Iterator[bytes]:
        for chunk in self._file.place.chunks(self._file.key):
            self._progress.add_bytes(len(chunk))
            yield chunk

    def _parquet(self) -> Iterator[tuple[pa.Table, tuple[str, ...]]]:
        read_footer(self._file)  # columns that a question would refuse: of another type than the field, or there twice
        with TemporaryFolder("vnotch-import-") as folder:
            path = Path(self._file.key)
            if self._file.place.remote:
                path = folder / "file.parquet"
                with path.open("wb") as out:
                    for chunk in self._counted():
                        out.write(chunk)
            try:
                parquet = pq.ParquetFile(path)
                columns = tuple(name.replace("-", "_") for name in parquet.schema_arrow.names)
                types = [_without_views(item.type) for item in parquet.schema_arrow]
                schema = pa.schema(list(zip(columns, types, strict=True)))
                for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                    yield pa.Table.from_batches([batch]).rename_columns(list(columns)).cast(schema), columns
            except (pa.ArrowException, OSError) as error:
                raise FileProblem(Problem.DAMAGED_PARQUET, str(error).partition("\n")[0]) from None
            if not self._file.place.remote:
                self._progress.add_bytes(self._file.size)

    def _parts(self, tables: list[pa.Table], format: Format) -> Iterator[Part]:
        tables = [coded_table(table.select(list(format.columns))) for table in tables if table.num_rows]
        if not tables:
            return
        records = self._right(pa.concat_tables(tables).combine_chunks(), format)
        if not records.num_rows:
            return
        streams, codes = self._streams(records, format)
        times = self._times(records)
        whole = pa.table(
            [pa.DictionaryArray.from_arrays(codes, streams), pa.array(times * 1000), *records.columns],
            names=[STREAM, TIMESTAMP, *format.columns],
        )
        rows = _part_rows(whole)
        order = order_of([codes, times - times.min()])
        numbers = whole.select([item.name for item in whole.schema if not is_coded(item.type)])
        texts = {item.name: whole[item.name].chunk(0) for item in whole.schema if is_coded(item.type)}
        if order is None:
            order = np.arange(whole.num_rows)
        else:
            numbers = pc.take(numbers, pa.array(order), boundscheck=False)
        places = {name: codes_of(column) for name, column in texts.items()}
        for begin in range(0, whole.num_rows, rows):
            here = order[begin : begin + rows]
            columns = [
                reordered(places[name], texts[name].dictionary, here)
                if name in texts
                else numbers[name].slice(begin, rows)
                for name in whole.column_names
            ]
            self.rows += len(here)
            yield Part(self._number, format, pa.table(columns, names=whole.column_names))
            self._number += 1

    def _right(self, records: pa.Table, format: Format) -> pa.Table:
        """The records that a line of the format could have given; the others are counted."""
        try:
            records = records.cast(coded_schema([(item.column, item.type) for item in format.fields]))
        except pa.ArrowInvalid as error:
            raise FileProblem(Problem.COLUMN_TYPE, str(error).partition("\n")[0]) from None
        records = _without_dashes(records)
        try:
            for item in format.fields:
                check_values(item, records[item.column], format)
            return records
        except InputError:
            lines = record_lines(plain_table(records), format)
            return coded_table(records.filter(pa.array([self._is_right(line, format) for line in lines])))

    def _is_right(self, line: pa.Scalar, format: Format) -> bool:
        try:
            parse_line(line.as_py(), format)
        except InputError as error:
            self._wrong += 1
            self._sample = self._sample or str(error)
            return False
        return True

    def _streams(self, records: pa.Table, format: Format) -> tuple[pa.Array, Values]:
        """The streams' names in order, and which of them each record has."""
        if self._stream is not None or "interface_id" not in format.columns:
            name = parse_name(self._file.key)
            rest = name.flow_log_id if name else Path(self._file.key).name.partition(".")[0]
            return pa.array([self._stream or _stream_name(rest) + _SUFFIX]), np.zeros(records.num_rows, np.int32)
        found = compacted(coded(records["interface_id"]))
        names = [_stream_name(text) + _SUFFIX for text in [*found.dictionary.to_pylist(), "unknown"]]
        streams = sorted(set(names if found.null_count else names[:-1]))
        places = {name: place for place, name in enumerate(streams)}
        return pa.array(streams), np.array([places.get(name, 0) for name in names], np.int32)[codes_of(found)]

    def _times(self, records: pa.Table) -> Values:
        """Unix seconds."""
        column = next((name for name in ("start", "end") if name in records.schema.names), None)
        if column is not None:
            times: Values = as_numpy(records[column]).astype(np.int64)
            return times
        name = parse_name(self._file.key)
        if name is None:
            raise FileProblem(Problem.UNDATED, "no start, no end, and no time in the file's name")
        return np.full(records.num_rows, name.slot_s, np.int64)


def _part_rows(records: pa.Table) -> int:
    """Of as few parts as there must be, all about as large: the service stores four or five of them in one commit, and
    waits for more where some are small."""
    rows, size = int(records.num_rows), int(records.nbytes)
    most = max(1, min(PART_ROWS, PART_BYTES * rows // max(1, size)))
    parts = -(-rows // most)
    return -(-rows // parts)


def record_format(columns: tuple[str, ...]) -> Format:
    """Columns of a file -> the format of its records. Raises FileProblem for what is no field."""
    if unknown := [column for column in columns if column not in _NAME_OF_COLUMN]:
        raise FileProblem(Problem.BAD_HEADER, f"no field of a flow log: {', '.join(unknown)}")
    return flow_log_format(format_text([_NAME_OF_COLUMN[column] for column in columns]))


def _without_dashes(records: pa.Table) -> pa.Table:
    """Parquet of others may have the text `-` for what is absent."""
    for number, item in enumerate(records.schema):
        if not is_coded(item.type):
            continue
        column = coded(records[item.name])
        dash = pc.index(column.dictionary, ABSENT).as_py()
        if dash >= 0:
            indices = pc.if_else(pc.equal(column.indices, dash), pa.scalar(None, pa.int32()), column.indices)
            kept = compacted(pa.DictionaryArray.from_arrays(indices, column.dictionary))
            records = records.set_column(number, item.name, kept)
    return records


def _stream_name(text: str) -> str:
    """A name that a log stream may have: neither `:` nor `*`, not empty, at most 500 characters."""
    return text.replace(":", "_").replace("*", "_")[:500] or "unknown"


def _without_views(type_: pa.DataType) -> pa.DataType:
    """Arrow makes no codes of string views, which Parquet files of Arrow's writers may ask for."""
    return pa.string() if pa.types.is_string_view(type_) else type_
