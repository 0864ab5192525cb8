"""Records <-> lines: the text form of a typed table of records, and its exact inverse.

A line is the fields of the format joined by one space, `-` for what is absent, no quoting (VPC user guide, "Flow log
records"). Every record line parses back to the same record, and what would not is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.address import Values
from vnotch.coded import coded, is_coded, of_each
from vnotch.errors import InputError
from vnotch.fields import ABSENT, SEPARATOR, Field, Format
from vnotch.line_parser import LineParser, dotted_quads, line_lengths

_SPACE = ord(SEPARATOR)
_PARSE_ROWS = 262_144
"""Lines parsed at a time, which bounds the memory it takes."""

_LOOKUP_VALUES = 65_536
_LOOKUP_ROWS = 4_096
_FEW_TEXTS = 8
"""So many texts are looked at in Python, which takes less than calls of Arrow do."""
_INTEGER = re.compile(r"0|[1-9][0-9]*")
_PRINTABLE = r"^[!-~]+$"
"""Arrow's RE2 looks at a million texts in the time in which Python looks at ten thousand. Its `$` is the end of the
text, not a place before a last line end as in Python's."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A column with few distinct values: row i has `values[codes[i]]`. A null value is absent.

    Columns that share one array of codes, and constants beside them, are joined before they are spread over the rows.
    """

    codes: pa.Array
    values: pa.Array


Column: TypeAlias = "pa.Array | Coded | str | int | None"
"""A column of a record table: an array, coded, or the same value (None: absent) in every row."""


def record_lines(table: pa.Table, format: Format) -> pa.Array:
    """Typed columns (`format.schema`, found by name) -> one string a row, in the format's order.

    At most 2 GiB of text, which is Arrow's bound on one string array.
    """
    columns = [table[item.column].combine_chunks() for item in format.fields]
    return join_columns(columns, table.num_rows)


def join_columns(columns: Sequence[Column], rows: int) -> pa.Array:
    """Columns -> lines of `rows` rows. Integers are printed in decimal, null as `-`."""
    parts: list[Column] = []
    for column in columns:
        _append(parts, _text(column), rows)
    arrays = [pc.take(part.values, part.codes) if isinstance(part, Coded) else part for part in parts]
    if not any(isinstance(array, pa.Array | pa.ChunkedArray) for array in arrays):
        return pa.repeat(pa.scalar(SEPARATOR.join(str(array) for array in arrays)), rows)
    scalars = [pa.scalar(array) if isinstance(array, str) else array for array in arrays]
    return _join(scalars)


def typed_column(column: Column, type_: pa.DataType, rows: int) -> pa.Array:
    """A column as one array of the field's type."""
    if isinstance(column, Coded):
        return pc.take(column.values, column.codes).cast(type_)
    if isinstance(column, pa.Array):
        return column.cast(type_)
    return pa.repeat(pa.scalar(column, type_), rows)


def _append(parts: list[Column], column: Column, rows: int) -> None:
    """Appends a text column, joined to the one before it where that saves work over the rows."""
    before = parts[-1] if parts else None
    if isinstance(before, str) and isinstance(column, str):
        parts[-1] = before + SEPARATOR + column
    elif isinstance(before, str) and _is_small(column, rows):
        parts[-1] = Coded(column.codes, _join([pa.scalar(before), column.values]))
    elif _is_small(before, rows) and isinstance(column, str):
        parts[-1] = Coded(before.codes, _join([before.values, pa.scalar(column)]))
    elif _is_small(before, rows) and _is_small(column, rows) and column.codes is before.codes:
        parts[-1] = Coded(column.codes, _join([before.values, column.values]))
    else:
        parts.append(column)


def _is_small(column: Column, rows: int) -> TypeGuard[Coded]:
    return isinstance(column, Coded) and len(column.values) * 4 <= rows


def _join(parts: Sequence[Any]) -> pa.Array:
    return pc.binary_join_element_wise(*parts, pa.scalar(SEPARATOR), null_handling="replace", null_replacement=ABSENT)


def _text(column: Column) -> Column:
    if column is None:
        return ABSENT
    if isinstance(column, Coded):
        return Coded(column.codes, _text(column.values))
    if isinstance(column, pa.Array):
        return column if pa.types.is_string(column.type) else _decimal(column)
    return str(column)


def _decimal(numbers: pa.Array) -> pa.Array:
    """Integers -> text. Small numbers come from a table of their texts, which takes half the time of printing them."""
    if len(numbers) >= _LOOKUP_ROWS:
        bounds = pc.min_max(numbers).as_py()
        if bounds["min"] is not None and bounds["min"] >= 0 and bounds["max"] < _LOOKUP_VALUES:
            return pc.take(_small_numbers(), numbers.cast(pa.int32()))
    return numbers.cast(pa.string())


@cache
def _small_numbers() -> pa.Array:
    return pa.array([str(number) for number in range(_LOOKUP_VALUES)])


def parse_line(line: str, format: Format) -> dict[str, str | int | None]:
    """A line -> the record: column name to value, None for `-`, in the format's order.

    Raises InputError that names the column where the line is not one that the format could have given.
    """
    texts = line.split(SEPARATOR)
    if len(texts) != len(format.fields):
        raise InputError(f"{len(texts)} values in a line whose format has {len(format.fields)} fields: {line!r}")
    return {item.column: _parse_value(item, text, format) for item, text in zip(format.fields, texts, strict=True)}


def _parse_value(item: Field, text: str, format: Format) -> str | int | None:
    if text == ABSENT:
        if item.required:
            raise _wrong(item, text, "this field is never absent")
        return None
    if pa.types.is_integer(item.type):
        return _parse_integer(item, text, format)
    if not re.fullmatch(_PRINTABLE[1:-1], text):
        raise _wrong(item, text, "a value is at least one printable ASCII character, without blanks")
    if item.values and text not in item.values:
        raise _wrong(item, text, "one of " + ", ".join(item.values))
    if item.address and not _is_address(text):
        raise _wrong(item, text, "an IPv4 or IPv6 address")
    return text


def _parse_integer(item: Field, text: str, format: Format) -> int:
    if not _INTEGER.fullmatch(text):
        raise _wrong(item, text, "a decimal number")
    number = int(text)
    if number > _largest(item):
        raise _wrong(item, text, f"at most {_largest(item)}")
    if item.name == "version" and number != format.version:
        raise _wrong(item, text, f"lines of this format have version {format.version}")
    return number


def parse_lines(lines: pa.Array | pa.ChunkedArray, format: Format) -> pa.Table:
    """Lines -> typed table (`format.schema`), one row a line; the inverse of `record_lines`.

    Raises InputError that names the first wrong line, counted from 1, and its column.
    """
    table, valid = parse_valid(lines, format)
    if table.num_rows == len(lines):
        return table
    number = pc.index(valid, False).as_py()
    line = lines[number].as_py()
    if line is None:
        raise InputError(f"line {number + 1}: missing")
    try:
        parse_line(line, format)
    except InputError as error:
        raise InputError(f"line {number + 1}: {error.message}", error.remedy) from None
    raise AssertionError(f"the two parsers disagree on {line!r}")


def parse_valid(lines: pa.Array | pa.ChunkedArray, format: Format) -> tuple[pa.Table, pa.Array]:
    """Lines -> (typed table of those that are record lines of the format, mask of which they are).

    What `parse_line` refuses is not in the table.
    """
    if isinstance(lines, pa.ChunkedArray):
        lines = lines.combine_chunks()
    begins = range(0, len(lines), _PARSE_ROWS) or range(1)
    parts = [_parse_some(lines.slice(begin, _PARSE_ROWS), format) for begin in begins]
    table = pa.concat_tables([table for table, _ in parts]).combine_chunks()
    return table, pa.concat_arrays([mask for _, mask in parts])


def parse_coded(lines: pa.StringArray, format: Format) -> tuple[pa.Table, Values]:
    """The same by the native parser, at most 2 GiB of lines: (table with text coded, mask of which lines are in it)."""
    if lines.null_count:
        lines = pc.fill_null(lines, "")
    parser = LineParser([item.type for item in format.fields], [item.required for item in format.fields])
    columns, mask = parser.lines(lines)
    for item, column in zip(format.fields, columns, strict=True):
        wrong = _wrong_rows(item, column, format)
        if wrong is not None:
            mask &= ~wrong
    table = pa.table(columns, names=format.columns)
    return table if mask.all() else table.filter(pa.array(mask)), mask


def _wrong_rows(item: Field, column: pa.Array, format: Format) -> Values | None:
    """Which values are none that the field can have, of those that are right for its type; None where none is."""
    if item.name == "version":
        wrong: Values = column.fill_null(format.version).to_numpy() != format.version
        return wrong if wrong.any() else None
    if pa.types.is_integer(item.type):
        return None
    texts = column.dictionary
    if len(texts) <= _FEW_TEXTS:
        right = np.array([_is_right(item, text) for text in texts.to_pylist()], bool)
    else:
        right = _right_distinct(item, texts)
    return None if right.all() else of_each(column, ~right, False)


def _parse_some(lines: pa.Array, format: Format) -> tuple[pa.Table, pa.Array]:
    width = len(format.fields)
    texts, mask = _split(pc.fill_null(lines, ""), width)
    columns = []
    good = np.ones(len(texts) // width, bool)
    for position, item in enumerate(format.fields):
        places = pa.array(np.arange(position, len(texts), width, dtype=np.int32))
        column, accepted = _parse_column(item, texts.take(places), format)
        columns.append(column)
        good &= accepted.to_numpy(zero_copy_only=False)
    if not good.all():
        columns = [column.filter(pa.array(good)) for column in columns]
        mask[mask] = good
    return pa.table(columns, schema=format.schema), pa.array(mask)


def _split(lines: pa.Array, width: int) -> tuple[pa.Array, Values]:
    """-> (all values of the lines that have `width` of them, one after another; mask of which lines those are).

    The values lie in the lines' own bytes with the spaces taken out, so splitting is arithmetic on their places.
    """
    offsets, data, spaces = _spaces(lines)
    mask = np.diff(np.searchsorted(spaces, offsets)) == width - 1
    if not mask.all():
        offsets, data, spaces = _spaces(lines.filter(pa.array(mask)))
    rows = len(offsets) - 1
    ends = np.empty((rows, width), np.int32)
    ends[:, : width - 1] = spaces.reshape(rows, width - 1)
    ends[:, width - 1] = offsets[1:]
    ends -= np.arange(rows, dtype=np.int32)[:, np.newaxis] * np.int32(width - 1)  # spaces taken out before this line
    ends -= np.arange(width, dtype=np.int32)  # and in it
    places = np.zeros(rows * width + 1, np.int32)
    places[1:] = ends.reshape(-1)
    packed = data.tobytes().translate(None, SEPARATOR.encode())
    return pa.StringArray.from_buffers(rows * width, pa.py_buffer(places), pa.py_buffer(packed)), mask


def _spaces(lines: pa.Array) -> tuple[Values, Values, Values]:
    """-> (where each line begins and the last ends, the bytes of all lines, where those are spaces)."""
    _, offset_buffer, data_buffer = lines.buffers()
    if len(lines) == 0 or data_buffer is None:
        return np.zeros(len(lines) + 1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int32)[lines.offset : lines.offset + len(lines) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], data, np.flatnonzero(data == _SPACE)


def _parse_column(item: Field, texts: pa.Array, format: Format) -> tuple[pa.Array, pa.Array]:
    """-> (values, which texts were right). Wrong ones are null, or anything where the field is required."""
    absent = pc.equal(texts, ABSENT)
    if pa.types.is_integer(item.type):
        values, right = _parse_integers(item, pc.if_else(absent, "0", texts), format)
    else:
        values, right = texts, _right_texts(item, texts)
    if item.required:
        return values, pc.and_(right, pc.invert(absent))
    return pc.if_else(absent, pa.scalar(None, item.type), values), pc.or_(right, absent)


def _parse_integers(item: Field, texts: pa.Array, format: Format) -> tuple[pa.Array, pa.Array]:
    leads = pc.and_(pc.starts_with(texts, "0"), pc.not_equal(texts, "0"))
    short = pc.less_equal(pc.binary_length(texts), len(str(_largest(item))))
    right = pc.and_(pc.and_(pc.ascii_is_decimal(texts), short), pc.invert(leads))
    # 19 digits fit uint64, so the cast cannot fail and the comparison is exact.
    numbers = pc.if_else(right, texts, "0").cast(pa.uint64())
    fits = pc.less_equal(numbers, pa.scalar(_largest(item), pa.uint64()))
    values = pc.if_else(fits, numbers, pa.scalar(0, pa.uint64())).cast(item.type)
    right = pc.and_(right, fits)
    if item.name == "version":
        right = pc.and_(right, pc.equal(values, format.version))
    return values, right


def check_values(item: Field, values: pa.Array | pa.ChunkedArray, format: Format) -> None:
    """Raises InputError where a column has a value that no line of the format has: such a record's line would not be
    parsed back to it. Text may be coded (`vnotch.coded`); then a text that no row has is looked at too."""
    _check_presence(item, values)
    if pa.types.is_integer(item.type):
        bounds = pc.min_max(values).as_py()
        _check_bounds(item, None if bounds["min"] is None else (bounds["min"], bounds["max"]), format)
    else:
        _check_texts(item, pc.unique(values).drop_null() if not is_coded(values.type) else coded(values).dictionary)


def checked_lengths(table: pa.Table, format: Format) -> Values:
    """The length of each record's line, without writing it; texts are coded.

    Raises InputError as `check_values` does.
    """
    columns = [table[item.column].combine_chunks() for item in format.fields]
    lengths, bounds = line_lengths(columns)
    for item, column, found in zip(format.fields, columns, bounds, strict=True):
        _check_presence(item, column)
        if is_coded(column.type):
            _check_texts(item, column.dictionary)
        else:
            _check_bounds(item, found, format)
    return lengths


def _check_presence(item: Field, values: pa.Array | pa.ChunkedArray) -> None:
    if item.required and values.null_count:
        raise _wrong(item, ABSENT, "this field is never absent")


def _check_bounds(item: Field, bounds: tuple[int, int] | None, format: Format) -> None:
    """The least and the greatest number of a column; None where it has none."""
    if bounds is None:
        return
    low, high = bounds
    if low < 0:
        raise _wrong(item, str(low), "a decimal number")
    if item.name == "version" and (low, high) != (format.version, format.version):
        other = high if low == format.version else low
        raise _wrong(item, str(other), f"lines of this format have version {format.version}")


def _check_texts(item: Field, distinct: pa.StringArray) -> None:
    if len(distinct) <= _FEW_TEXTS:
        for text in distinct.to_pylist():
            if text == ABSENT or not _is_right(item, text):
                raise _wrong(item, text, "the table of fields says which are")
        return
    right = _right_distinct(item, distinct)
    if not item.address:
        right &= pc.not_equal(distinct, ABSENT).to_numpy(zero_copy_only=False)
    if not right.all():
        raise _wrong(item, distinct[int(right.argmin())].as_py(), "the table of fields says which are")


def _right_texts(item: Field, texts: pa.Array) -> pa.Array:
    """Looks at each distinct text once."""
    encoded = texts.dictionary_encode()
    return pc.take(pa.array(_right_distinct(item, encoded.dictionary)), encoded.indices)


def _is_right(item: Field, text: str) -> bool:
    if item.values:
        return text in item.values
    return _is_address(text) if item.address else bool(re.fullmatch(_PRINTABLE[1:-1], text))


def _right_distinct(item: Field, texts: pa.StringArray) -> Values:
    if not item.address:
        found = pc.is_in(texts, value_set=pa.array(item.values)) if item.values else _printable(texts)
        right: Values = found.to_numpy(zero_copy_only=False)
        return right
    right = dotted_quads(texts)
    if not right.all():
        right[~right] = [_is_address(text) for text in texts.filter(pa.array(~right)).to_pylist()]
    return right


def _printable(texts: pa.StringArray) -> pa.BooleanArray:
    return pc.match_substring_regex(texts, _PRINTABLE)


def _is_address(text: str) -> bool:
    try:
        inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):  # the latter where it has a null character
        return False
    return True


def _largest(item: Field) -> int:
    return 2**31 - 1 if item.type == pa.int32() else 2**63 - 1


def _wrong(item: Field, text: str, right: str) -> InputError:
    return InputError(f"column {item.column}: {text!r} is not right", right)
