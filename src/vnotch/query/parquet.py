"""Flow logs in Parquet: footers, which say what columns a file has, and the SQL by which DuckDB reads the files.

DuckDB's own reader skips row groups and pages by their statistics and reads but the columns that a question needs.
Files of equal columns and types are read together; what they hold becomes columns of the fields' types.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet

from vnotch.fields import ABSENT, column_name
from vnotch.query.columns import COLUMN_TYPES
from vnotch.query.files import FileProblem, LogFile
from vnotch.query.period import Period
from vnotch.query.problems import Problem

_TAIL_BYTES = 64 << 10
_END_BYTES = 8
_FOOTER_BYTES_MAX = 64 << 20
_MAGIC = b"PAR1"
_INTEGER_MAX = 2**63 - 1


@dataclass(frozen=True)
class Footer:
    """What a file has. `columns` are (name in the file, column of the table, type in the file, whether the text `-`
    may stand for what is absent) in the file's order."""

    columns: tuple[tuple[str, str, pa.DataType, bool], ...]
    rows: int


def read_footer(file: LogFile) -> Footer:
    """Raises FileProblem: denied, gone, no Parquet, or a column that cannot be of its field's type."""
    metadata = read_metadata(file)
    schema = metadata.schema.to_arrow_schema()
    flat = metadata.num_columns == len(schema)
    columns = []
    for number, item in enumerate(schema):
        type_ = item.type.value_type if pa.types.is_dictionary(item.type) else item.type
        column = column_name(item.name)
        wanted = COLUMN_TYPES.get(column)
        fits = wanted is None or (_is_text(type_) if wanted == pa.string() else pa.types.is_integer(type_))
        if not fits:
            raise FileProblem(Problem.COLUMN_TYPE, f"{item.name} is {type_}")
        if wanted is not None and flat and type_ == pa.uint64() and _exceeds_fields(metadata, number):
            raise FileProblem(Problem.COLUMN_TYPE, f"{item.name} has a value above {_INTEGER_MAX}")
        dash = _is_text(type_) and not (flat and _is_above_dash(metadata, number))
        columns.append((item.name, column, type_, dash))
    names = [column for _, column, _, _ in columns]
    if not any(name in COLUMN_TYPES for name in names):
        raise FileProblem(Problem.BAD_HEADER, "no column is a field of a flow log")
    if len(set(names)) < len(names):
        raise FileProblem(Problem.BAD_HEADER, "a column occurs twice")
    return Footer(tuple(columns), metadata.num_rows)


def read_metadata(file: LogFile) -> pyarrow.parquet.FileMetaData:
    tail = file.place.tail(file.key, _TAIL_BYTES)
    if len(tail) < _END_BYTES or not tail.endswith(_MAGIC):
        raise FileProblem(Problem.DAMAGED_PARQUET)
    needed = struct.unpack("<I", tail[-_END_BYTES : -len(_MAGIC)])[0] + _END_BYTES
    if needed > _FOOTER_BYTES_MAX:
        raise FileProblem(Problem.DAMAGED_PARQUET)
    if needed > len(tail):
        tail = file.place.tail(file.key, needed)
    try:
        return pyarrow.parquet.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        raise FileProblem(Problem.DAMAGED_PARQUET, str(error).partition("\n")[0]) from None


def _is_text(type_: pa.DataType) -> bool:
    return any(test(type_) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_above_dash(metadata: pyarrow.parquet.FileMetaData, number: int) -> bool:
    """Whether all texts of a column are greater than `-` by its statistics. Where they are, none stands for what is
    absent, and the column is left as it is, so that DuckDB can skip what a condition excludes."""
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(number).statistics
        if statistics is None:
            return False
        if statistics.has_min_max:
            if str(statistics.min) <= ABSENT:
                return False
        elif statistics.num_values:
            return False
    return True


def _exceeds_fields(metadata: pyarrow.parquet.FileMetaData, number: int) -> bool:
    """Whether a column has a number that no field holds, by its statistics. One would end the whole question, since
    the table's integers are of 64 bits with a sign."""
    groups = [metadata.row_group(group).column(number).statistics for group in range(metadata.num_row_groups)]
    return any(found is not None and found.has_min_max and int(found.max) > _INTEGER_MAX for found in groups)


def parquet_selects(files: Sequence[tuple[str, Footer]], types: Mapping[str, str], period: Period) -> list[str]:
    """One SELECT for each set of equal columns. `files` are (the path that DuckDB reads, footer), `types` the table's
    columns and their SQL types; columns that a file lacks are NULL."""
    groups: dict[tuple[tuple[str, str, pa.DataType, bool], ...], list[str]] = {}
    for path, footer in files:
        groups.setdefault(footer.columns, []).append(path)
    return [_select(columns, paths, types, period) for columns, paths in groups.items()]


def has_times(footer: Footer) -> bool:
    return any(column in ("start", "end") for _, column, _, _ in footer.columns)


def _select(
    columns: Sequence[tuple[str, str, pa.DataType, bool]], paths: list[str], types: Mapping[str, str], period: Period
) -> str:
    here = {column: (name, type_, dash) for name, column, type_, dash in columns}
    values = []
    for column, sql_type in types.items():
        if column not in here:
            values.append(f"NULL::{sql_type} AS {quoted(column)}")
            continue
        name, type_, dash = here[column]
        value = f"nullif({quoted(name)}, '{ABSENT}')" if dash else quoted(name)
        if column not in COLUMN_TYPES or (SQL_TYPES.get(type_) != sql_type and not _is_text(type_)):
            value = f"{value}::{sql_type}"
        values.append(f"{value} AS {quoted(column)}")
    listed = ", ".join(literal(path) for path in paths)
    time = next((name for column in ("end", "start") for name, found, _, _ in columns if found == column), None)
    return f"SELECT {', '.join(values)} FROM read_parquet([{listed}], hive_partitioning=false)" + (
        f" WHERE {period_sql(period, quoted(time))}" if time and not period.is_open else ""
    )


SQL_TYPES = {pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.string(): "VARCHAR"}


def sql_type(column: str, found: Sequence[pa.DataType]) -> str:
    """The SQL type of a column: the field's, or a wider integer where a file has one (AWS's own DDL for Parquet
    declares `protocol` wider than the files have it); text for what is no field."""
    wanted = COLUMN_TYPES.get(column, pa.string())
    if wanted == pa.int32() and any(
        type_.bit_width > wanted.bit_width or pa.types.is_unsigned_integer(type_) for type_ in found
    ):
        return "BIGINT"
    return SQL_TYPES[wanted]


def period_sql(period: Period, column: str) -> str:
    conditions = []
    if period.begin_s is not None:
        conditions.append(f"{column} >= {period.begin_s}")
    if period.end_s is not None:
        conditions.append(f"{column} < {period.end_s}")
    return " AND ".join(conditions)


def quoted(name: str) -> str:
    """A name as SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL literal."""
    return "'" + text.replace("'", "''") + "'"
