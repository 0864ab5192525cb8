"""Flow logs as text: bytes of a file -> typed Arrow tables, block by block, and what in it is no record.

The header line of a file decides what its columns are, else the format that was given; the number of values in a line
never does. A header line further down (files joined into one) decides for what follows it. Lines that do not fit are
left out and counted. Most blocks are parsed by Arrow at once; a block with anything odd in it is taken apart by line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from isal import isal_zlib

from vnotch.coded import TEXT_CODES
from vnotch.fields import ABSENT, FIELDS, SEPARATOR, column_name
from vnotch.line_parser import LineParser
from vnotch.query.columns import COLUMN_TYPES, column_type
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.problems import Problem, Problems

BLOCK_BYTES = 4 << 20
_GATHERED_BYTES = 512 << 10
"""A block of lines that are gathered: small enough that a core's cache has it still when it is parsed."""
_GZIP_BYTES = 64 << 10
"""What is inflated at a time, since what an inflater leaves of it is copied."""
_BLOCKS_TRUSTED = 4
"""Blocks that are read as a whole after one that a condition wants something of: where it wants something of every
block, looking first is work for nothing."""
LINE_BYTES_MAX = 16 << 20
HEAD_BYTES = 16 << 10
"""Enough of a file, compressed or not, for its header line."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31
_HEADER_TOKEN = re.compile(rb"[a-z][a-z0-9_-]*")
_FIELD_TOKENS = frozenset(name.encode() for item in FIELDS for name in (item.name, item.column))
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True)
class TextFormat:
    """The columns of a text file, in order."""

    columns: tuple[str, ...]

    @cached_property
    def integers(self) -> tuple[str, ...]:
        return tuple(column for column in self.columns if pa.types.is_integer(column_type(column)))

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Columns that are no field."""
        return tuple(column for column in self.columns if column not in COLUMN_TYPES)


def parse_header(line: bytes) -> TextFormat | None:
    """A header line -> its columns; None for a line that is none.

    Names are lower case with `-` or `_`, and one of them at least is a field's. No record looks like that: its account,
    addresses, action or numbers do not. Raises FileProblem where a name occurs twice.
    """
    tokens = line.split()
    if not any(token in _FIELD_TOKENS for token in tokens) or not all(map(_HEADER_TOKEN.fullmatch, tokens)):
        return None
    columns = tuple(column_name(token.decode()) for token in tokens)
    if len(set(columns)) < len(columns):
        raise FileProblem(Problem.BAD_HEADER, line[:200].decode(errors="replace"))
    return TextFormat(columns)


def file_format(file: LogFile, given: TextFormat | None) -> TextFormat | None:
    """The format that a file begins with, by its first line; None for an empty file.

    Raises FileProblem where it has no header line and none was given, or cannot be read.
    """
    start = b""
    try:
        for piece in inflated(iter([file.place.head(file.key, HEAD_BYTES)])):
            start += piece
    except Cut as cut:  # as it must, unless the whole file is that short
        start += cut.before
        if not start:
            raise
    line = start.lstrip(b"\r\n").partition(b"\n")[0].strip()
    if not line:
        return None
    return _first_format(line, given)


def _first_format(line: bytes, given: TextFormat | None) -> TextFormat:
    format = parse_header(line) or given
    if format is None:
        raise FileProblem(Problem.NO_FORMAT, line[:200].decode(errors="replace"))
    return format


class Cut(FileProblem):
    """Compressed data ended too early, or cannot be inflated further; `before` is what came out and was not given."""

    def __init__(self, problem: Problem, before: bytes) -> None:
        super().__init__(problem)
        self.before = before


def inflated(chunks: Iterator[bytes], size: int | None = None) -> Iterator[bytes]:
    """The bytes themselves, or what they inflate to where they are gzip (of one or several members), in pieces of at
    most `size` (BLOCK_BYTES). Raises Cut where gzip data ends early or is damaged."""
    first = next(chunks, b"")
    if not first.startswith(_GZIP_MAGIC):
        if first:
            yield first
            yield from chunks
        return
    member = isal_zlib.decompressobj(_GZIP_WINDOW)
    for chunk in _pieces(itertools.chain([first], chunks)):
        while chunk:
            if member.eof:
                chunk = chunk.lstrip(b"\0")  # padding between and behind members is allowed
                if not chunk:
                    break
                member = isal_zlib.decompressobj(_GZIP_WINDOW)
            try:
                piece = member.decompress(chunk, size or BLOCK_BYTES)
            except isal_zlib.error:  # type: ignore[misc]  # its stub declares an instance
                raise Cut(Problem.DAMAGED_GZIP, b"") from None
            if piece:
                yield piece
            chunk = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise Cut(Problem.TRUNCATED, member.flush())


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for begin in range(0, len(chunk), _GZIP_BYTES):
            yield chunk[begin : begin + _GZIP_BYTES]


def blocks(chunks: Iterator[bytes], size: int | None = None) -> Iterator[bytes]:
    """Whole lines, about `size` bytes (BLOCK_BYTES) at a time; the last line may lack its line end.

    Raises FileProblem at the end of what can be read; a line that was cut is not given.
    """
    size = size or BLOCK_BYTES
    parts: list[bytes] = []
    try:
        for piece in inflated(chunks, size):
            parts.append(piece)
            if sum(map(len, parts)) >= size:
                whole, parts = _whole_lines(parts)
                if whole:
                    yield whole
    except FileProblem as problem:
        before = problem.before if isinstance(problem, Cut) else b""
        whole, _ = _whole_lines([*parts, before])
        if whole:
            yield whole
        raise
    if any(parts):
        yield b"".join(parts)


def _whole_lines(parts: list[bytes]) -> tuple[bytes, list[bytes]]:
    """-> (the lines that end in these parts, what is behind them)."""
    whole, rest = b"", parts
    for place in reversed(range(len(parts))):
        end = parts[place].rfind(b"\n") + 1
        if end:
            whole = b"".join([*parts[:place], memoryview(parts[place])[:end]])
            rest = [parts[place][end:], *parts[place + 1 :]]
            break
    if sum(map(len, rest)) > LINE_BYTES_MAX:
        raise FileProblem(Problem.UNREADABLE, f"a line of more than {LINE_BYTES_MAX >> 20} MiB")
    return whole, rest


class TextReader:
    """One scan of one file: tables of `columns`, null where the file lacks one.

    `given` is the format of files without a header line. `table_columns` are all columns that the table has; a file's
    further ones are noted, not lost in silence. With `condition` (columns, expression over them) rows that it excludes
    may be left out: a block is looked through by the condition's columns first, and where none of it is wanted the
    others are never converted. With `gathered_rows` text is coded (`vnotch.coded`) in most tables, and record lines
    that follow one another come in tables of so many, whatever the blocks. `rows` counts all rows.
    """

    def __init__(
        self,
        file: LogFile,
        columns: Sequence[str],
        table_columns: frozenset[str],
        given: TextFormat | None,
        problems: Problems,
        condition: tuple[Sequence[str], pc.Expression] | None = None,
        gathered_rows: int = 0,
    ) -> None:
        self.rows = 0
        self._gathered_rows = gathered_rows
        self._gathered: tuple[LineParser, TextFormat] | None = None
        self._condition = condition
        self._blocks_wanted = 0
        self._file = file
        self._columns = columns
        self._table_columns = table_columns
        self._given = given
        self._problems = problems
        self._counts: dict[Problem, int] = {}
        self._samples: dict[Problem, str] = {}

    def tables(self, chunks: Iterable[bytes]) -> Iterator[tuple[pa.Table, TextFormat]]:
        """Tables and the format that each was in. What is wrong with the file is added to the problems."""
        format: TextFormat | None = None
        try:
            for block in blocks(iter(chunks), _GATHERED_BYTES if self._gathered_rows else None):
                if format is None:
                    block = block.lstrip(b"\r\n")
                    line, _, rest = block.partition(b"\n")
                    if not line:
                        continue
                    format = _first_format(line.strip(), self._given)
                    self._check_columns(format)
                    if parse_header(line.strip()) is not None:
                        block = rest
                while block and (read := self._gather(block, format)):
                    block = block[read:]
                    yield from self._gathered_table(self._gathered_rows)
                if not block:
                    continue
                yield from self._gathered_table()
                try:
                    yield self._parse(block, format), format
                except pa.ArrowInvalid:
                    for run, format in self._runs(block, format):  # noqa: B020 - the last format goes on
                        yield self._parse_odd(run, format), format
        except FileProblem as problem:
            self._problems.add(problem.problem, self._file.name, sample=problem.detail)
        yield from self._gathered_table()
        for kind, lines in self._counts.items():
            self._problems.add(kind, self._file.name, lines, self._samples[kind])

    def _check_columns(self, format: TextFormat) -> None:
        missing = [column for column in format.columns if column not in self._table_columns]
        if missing and self._table_columns <= set(self._columns):  # `SELECT *` or its like, which wants these too
            self._problems.add(Problem.LATE_COLUMNS, self._file.name, sample=", ".join(missing))
        elif missing:
            self._problems.note(f"{self._file.name} has columns that the table lacks: {', '.join(missing)}")

    def _parse(self, block: bytes, format: TextFormat) -> pa.Table:
        """Raises ArrowInvalid where a line does not fit."""
        if self._condition is not None and self._blocks_wanted <= 0 and len(self._condition[0]) < len(self._columns):
            columns, expression = self._condition
            table = self._convert(block, format, columns)
            if not table.filter(expression).num_rows:
                self.rows += table.num_rows
                return _complete(table.slice(0, 0), self._columns)
            self._blocks_wanted = _BLOCKS_TRUSTED
        self._blocks_wanted -= 1
        table = self._convert(block, format, self._columns)
        self.rows += table.num_rows
        return table

    def _convert(self, block: bytes, format: TextFormat, wanted: Sequence[str]) -> pa.Table:
        columns, witness = _read_columns(format, wanted)
        table = _read(block, format, columns, coded=bool(self._gathered_rows))
        if witness is None and _may_have_header(table[columns[0]], format):
            raise pa.ArrowInvalid("a header line")
        return _complete(table, wanted)

    def _gather(self, block: bytes, format: TextFormat) -> int:
        """-> bytes of the block that the parser of record lines has read; 0 where it does not read it: where not all
        columns are wanted, or not all lines are as vnotch and AWS write them. Arrow takes more."""
        if not self._gathered_rows or not format.integers or list(self._columns) != list(format.columns):
            return 0
        if self._gathered is None or self._gathered[1] != format:
            types = [column_type(column) for column in format.columns]
            self._gathered = LineParser(types, [False] * len(types)), format
        parser = self._gathered[0]
        return parser.append(block, self._gathered_rows) or 0

    def _gathered_table(self, rows: int = 1) -> Iterator[tuple[pa.Table, TextFormat]]:
        """What is gathered, if it is so many rows."""
        if self._gathered is not None and self._gathered[0].rows >= rows:
            parser, format = self._gathered
            self.rows += parser.rows
            yield pa.table(parser.take(), names=list(format.columns)), format

    def _runs(self, block: bytes, format: TextFormat) -> Iterator[tuple[list[bytes], TextFormat]]:
        """The lines of a block that have as many values as their format, cut where the format changes."""
        run: list[bytes] = []
        for line in block.splitlines():
            if not line:
                continue
            header = parse_header(line)
            if header is not None and header != format:
                yield run, format
                run, format = [], header
                self._check_columns(format)
            elif header is None and line.count(b" ") != len(format.columns) - 1:
                self._count(Problem.WRONG_COUNT, line)
            elif header is None:
                run.append(line)
        yield run, format

    def _parse_odd(self, lines: list[bytes], format: TextFormat) -> pa.Table:
        """The lines of a run whose values are right for the columns that are read."""
        columns, _ = _read_columns(format, self._columns)
        numbers = [
            (format.columns.index(column), column_type(column)) for column in columns if column in format.integers
        ]
        places = [format.columns.index(column) for column in columns]
        good = []
        for line in lines:
            values = line.split(SEPARATOR.encode())
            try:
                read = {place: values[place].decode() for place in places}
            except UnicodeDecodeError:
                self._count(Problem.NOT_TEXT, line)
                continue
            if all(_is_integer(read[place], type_) for place, type_ in numbers):
                good.append(line)
            else:
                self._count(Problem.WRONG_VALUE, line)
        self.rows += len(good)
        if not good:
            return _complete(pa.table({column: pa.array([], column_type(column)) for column in columns}), self._columns)
        return _complete(_read(b"\n".join(good), format, columns), self._columns)

    def _count(self, kind: Problem, line: bytes) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._samples.setdefault(kind, line[:200].decode(errors="replace"))


def _read_columns(format: TextFormat, wanted: Sequence[str]) -> tuple[list[str], str | None]:
    """The columns to convert, and the one of them that no header line and hardly any other text fits."""
    columns = [column for column in wanted if column in format.columns]
    numbers = [column for column in columns if column in format.integers]
    if not numbers and format.integers:
        numbers = [format.integers[0]]
        columns += numbers
    if not columns:
        columns = [format.columns[0]]
    return columns, numbers[0] if numbers else None


def _complete(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The table with these columns, null where it has them not."""
    rows = table.num_rows
    arrays = [
        table[column] if column in table.schema.names else pa.nulls(rows, column_type(column)) for column in columns
    ]
    return pa.table(arrays, names=list(columns)) if arrays else table.select([])


def _read(block: bytes, format: TextFormat, columns: Sequence[str], coded: bool = False) -> pa.Table:
    kinds = {column: column_type(column) for column in columns}
    if coded:
        kinds = {column: TEXT_CODES if kind == pa.string() else kind for column, kind in kinds.items()}
    return pyarrow.csv.read_csv(
        pa.BufferReader(block),
        pyarrow.csv.ReadOptions(use_threads=False, column_names=format.columns, block_size=len(block) + 1),
        pyarrow.csv.ParseOptions(delimiter=SEPARATOR, quote_char=False, double_quote=False, escape_char=False),
        pyarrow.csv.ConvertOptions(
            column_types=kinds,
            include_columns=columns,
            null_values=[ABSENT],
            strings_can_be_null=True,
        ),
    )


def _may_have_header(column: pa.ChunkedArray, format: TextFormat) -> bool:
    """For formats without numbers, whose header line is a line of texts like any other."""
    names = {name for item in FIELDS for name in (item.name, item.column)} | set(format.columns)
    names |= {column.replace("_", "-") for column in format.columns}
    return bool(pc.any(pc.is_in(column, value_set=pa.array(sorted(names)))).as_py())


def _is_integer(text: str, type_: pa.DataType) -> bool:
    if text == ABSENT:
        return True
    bits = type_.bit_width - 1
    return bool(_INTEGER.fullmatch(text)) and -(2**bits) <= int(text) < 2**bits
