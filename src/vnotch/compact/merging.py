"""Several files of one format -> one, in bounded memory. No record is changed, none left out.

Text is inflated, its header lines after the first left out, and compressed again, a block at a time. Of Parquet at most
ROW_GROUP_ROWS records are in memory; each row group is sorted by interface and start, and the groups follow each other
in time, as the files did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vnotch.bucket_files import ROW_GROUP_ROWS, ParquetFile, TextFile
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.parquet import read_metadata
from vnotch.query.problems import Problem
from vnotch.query.progress import Progress
from vnotch.query.text import HEAD_BYTES, Cut, blocks, inflated, parse_header

_BATCH_ROWS = 1 << 17

_LIKE_A_HEADER = re.compile(rb"\n([a-z][a-z0-9_-]*+(?:[ \t]++[a-z][a-z0-9_-]*+)*+)[ \t]*+\r?(?=\n|\Z)")
"""Lines that have nothing but words of a header line; of records hardly any."""


class MergeProblem(Exception):
    """One file of a group cannot be merged."""

    def __init__(self, number: int, file: LogFile, problem: FileProblem) -> None:
        super().__init__(str(problem))
        self.number = number
        self.file = file
        self.problem = problem


def text_header(file: LogFile) -> bytes:
    """The header line of a text file, without its end. Raises FileProblem."""
    start = b""
    try:
        for piece in inflated(iter([file.place.head(file.key, HEAD_BYTES)])):
            start += piece
    except Cut as cut:  # as it must, unless the whole file is that short
        start += cut.before
    line, end, _ = start.partition(b"\n")
    if not end or parse_header(line) is None:
        raise FileProblem(Problem.NO_FORMAT, line[:200].decode(errors="replace"))
    return line.rstrip(b"\r")


def parquet_schema(file: LogFile) -> pa.Schema:
    """Names, types and nullability of a Parquet file. Raises FileProblem for other types than text and integers."""
    fields = []
    for item in read_metadata(file).schema.to_arrow_schema():
        type_ = item.type.value_type if pa.types.is_dictionary(item.type) else item.type
        if type_ not in (pa.string(), pa.int32(), pa.int64()):
            raise FileProblem(Problem.COLUMN_TYPE, f"{item.name} is {type_}")
        fields.append(pa.field(item.name, type_, nullable=item.nullable))
    return pa.schema(fields)


def merge_text(files: Sequence[LogFile], header: bytes, path: Path, progress: Progress) -> int:
    """Returns the number of lines. Raises MergeProblem."""
    with path.open("wb") as out, TextFile(out, header.decode()) as merged:
        for number, file in enumerate(files):
            try:
                for block in _lines(file, header, progress):
                    rows = block.count(b"\n")
                    merged.write_bytes(block, rows)
                    progress.add_rows(rows)
            except FileProblem as problem:
                raise MergeProblem(number, file, problem) from None
        return merged.rows


def _lines(file: LogFile, header: bytes, progress: Progress) -> Iterator[bytes]:
    """The lines of a file behind its header line, each with its end.

    Raises FileProblem for a header line further down that says other columns (files that were joined): in a merged file
    it would decide for the files behind this one too.
    """
    first, format = True, parse_header(header)
    for block in blocks(_counted(file, progress)):
        if first:
            line, _, block = block.partition(b"\n")
            if line.rstrip(b"\r") != header:
                raise FileProblem(Problem.BAD_HEADER, line[:200].decode(errors="replace"))
            first = False
        for line in _LIKE_A_HEADER.findall(b"\n" + block):
            if parse_header(line) not in (None, format):
                raise FileProblem(Problem.BAD_HEADER, "a second header line with other columns; split the file there")
        if block:
            yield block if block.endswith(b"\n") else block + b"\n"


def _counted(file: LogFile, progress: Progress) -> Iterator[bytes]:
    for chunk in file.place.chunks(file.key):
        progress.add_bytes(len(chunk))
        yield chunk


def count_text(path: Path) -> int:
    """The lines behind the header line of a file, read back to its checksum."""
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in inflated(iter(lambda: file.read(1 << 20), b""))) - 1


def merge_parquet(files: Sequence[LogFile], schema: pa.Schema, path: Path, progress: Progress) -> int:
    """Returns the number of records. Raises MergeProblem."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    with path.open("wb") as out, ParquetFile(out, schema) as merged:
        for number, file in enumerate(files):
            try:
                for batch in _batches(file, schema):
                    waiting.append(batch)
                    rows += batch.num_rows
                    progress.add_rows(batch.num_rows)
                    if rows >= ROW_GROUP_ROWS:
                        table = pa.Table.from_batches(waiting)
                        merged.write(table.slice(0, ROW_GROUP_ROWS))
                        waiting = table.slice(ROW_GROUP_ROWS).to_batches()
                        rows -= ROW_GROUP_ROWS
            except FileProblem as problem:
                raise MergeProblem(number, file, problem) from None
            progress.add_bytes(file.size)
        if waiting:
            merged.write(pa.Table.from_batches(waiting))
        return merged.rows


def _batches(file: LogFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    text = [item.name for item in schema if pa.types.is_string(item.type)]
    try:
        yield from _opened(file, text).iter_batches(_BATCH_ROWS, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise FileProblem(Problem.DAMAGED_PARQUET, str(error).partition("\n")[0]) from None


def _opened(file: LogFile, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """The whole file in memory, compressed: what is merged is small."""
    data = b"".join(file.place.chunks(file.key))
    try:
        return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(dictionaries))
    except (pa.ArrowException, OSError) as error:
        raise FileProblem(Problem.DAMAGED_PARQUET, str(error).partition("\n")[0]) from None


def count_parquet(path: Path) -> int:
    """The records of a file, all of it read back."""
    file = pq.ParquetFile(path)
    return sum(batch.num_rows for batch in file.iter_batches(_BATCH_ROWS, use_threads=False))
