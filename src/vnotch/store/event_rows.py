"""Events on their way into the lake as rows: text, or records in typed columns.

A line that was delivered as text becomes a record where it is one of a format that its group is known to have, and
where the record, written as a line, is that line again byte for byte. Whatever else comes stays the text that it is;
so do records with a value that begins with a quotation mark or a bracket: to filter patterns such a value may be one
column with those behind it, while the values of stored records are the pattern's columns one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.coded import coded, coded_table, is_coded, of_each, plain_table
from vnotch.errors import InputError
from vnotch.fields import SEPARATOR, Format
from vnotch.line import checked_lengths, parse_coded, record_lines
from vnotch.line_parser import line_lengths
from vnotch.store.formats import Formats

PUT_SCHEMA = pa.schema([pa.field("timestamp_ms", pa.int64()), pa.field("message", pa.string())])
"""What a caller hands in as text: event times in Unix milliseconds, messages."""

LINES_BYTES_MAX = 64 << 20
"""Of the lines of records that come at once: coded text can say much more than it takes itself."""

_NULL = pa.scalar(None, pa.string())
_WRAPPERS = ('"', "[")


def text_rows(events: pa.Table) -> pa.Table:
    """PUT_SCHEMA -> rows of text."""
    sizes = pc.binary_length(events["message"]).cast(pa.int32())
    return events.append_column("message_bytes", sizes)


def line_rows(events: pa.Table, candidates: Iterable[Format], formats: Formats) -> pa.Table:
    """PUT_SCHEMA -> rows, typed with their text coded where a message is a record line of one of the `candidates`.

    A line that fits two of them is left as text: what its values mean cannot be told.
    """
    rows = text_rows(events)
    lines = events["message"].combine_chunks()
    found: list[tuple[Format, pa.Table, np.ndarray]] = []
    widths: pa.Array | None = None
    for format in candidates:
        if widths is None:
            widths = pc.count_substring(lines, SEPARATOR)
        if not pc.any(pc.equal(widths, len(format.fields) - 1)).as_py():
            continue
        table, mask = parse_coded(lines, format)
        wrapped = _wrapped(table, format)
        if wrapped is not None:
            table = table.filter(pc.invert(wrapped))
            mask[mask] = ~wrapped.to_numpy(zero_copy_only=False)
        if table.num_rows:
            found.append((format, table, mask))
    counts = sum((mask.astype(np.int8) for _, _, mask in found), np.zeros(len(lines), np.int8))
    numbers = np.zeros(len(lines), np.int32)
    parts: dict[str, pa.Array] = {}
    for format, table, mask in found:
        number = formats.number(format)
        if number is None:
            continue
        alone = mask & (counts == 1)
        numbers[alone] = number
        if not alone[mask].all():
            table = table.filter(pa.array(alone[mask]))
        sizes, _ = line_lengths([column.combine_chunks() for column in table.columns])
        assert bool((sizes == rows["message_bytes"].to_numpy()[alone]).all()), "a record's line is another than it was"
        _spread(parts, table, alone)
    if not numbers.any():
        return rows
    typed = numbers > 0
    texts = pa.nulls(len(lines), pa.string()) if typed.all() else pc.if_else(pa.array(typed), _NULL, lines)
    rows = rows.set_column(1, "message", texts)
    rows = rows.append_column("format_id", pa.array(numbers, mask=~typed))
    for name, column in parts.items():
        rows = rows.append_column(name, column)
    return rows


def _spread(parts: dict[str, pa.Array], table: pa.Table, places: np.ndarray) -> None:
    """Puts the table's rows at `places` of columns that are as long as `places`, beside what is there already."""
    whole = bool(places.all())
    indices = None if whole else pa.array(np.cumsum(places) - 1, mask=~places)
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.combine_chunks()
        if indices is not None:
            values = values.take(indices)
        if name in parts and is_coded(values.type):
            kinds = (parts[name].cast(pa.string()), values.cast(pa.string()))
            parts[name] = coded(pc.coalesce(*kinds))
        else:
            parts[name] = values if name not in parts else pc.coalesce(parts[name], values)


def record_rows(records: pa.Table, format: Format, formats: Formats) -> pa.Table:
    """Records (`timestamp_ms` and the format's columns, text coded or not) -> rows, with their text coded.

    Raises InputError where a value is one that no line of the format has, and where the lines are LINES_BYTES_MAX.
    """
    table = coded_table(records.select(list(format.columns)))
    sizes = checked_lengths(table, format)
    if int(sizes.sum(dtype=np.int64)) > LINES_BYTES_MAX:
        raise InputError(f"the lines of these records are more than {LINES_BYTES_MAX >> 20} MiB", "send fewer at once")
    number = formats.number(format)
    if number is None:
        return text_rows(_as_lines(records, format))
    if _wrapped(table, format) is not None:
        return line_rows(_as_lines(records, format), [format], formats)
    first = [records["timestamp_ms"], pa.array(np.full(records.num_rows, number, np.int32)), pa.array(sizes)]
    return pa.table([*first, *table.columns], names=["timestamp_ms", "format_id", "message_bytes", *table.column_names])


def _as_lines(records: pa.Table, format: Format) -> pa.Table:
    return pa.table([records["timestamp_ms"], record_lines(plain_table(records), format)], schema=PUT_SCHEMA)


def _wrapped(table: pa.Table, format: Format) -> pa.Array | None:
    """Which records have a value that begins with a quotation mark or a bracket; None where none has."""
    found: pa.Array | None = None
    for item in format.fields:
        if not pa.types.is_string(item.type) or item.values or item.address:
            continue
        column = coded(table[item.column])
        if len(column.dictionary) == 1 and column.dictionary[0].as_py()[:1] not in _WRAPPERS:
            continue
        wraps = pc.is_in(pc.utf8_slice_codeunits(column.dictionary, 0, 1), value_set=pa.array(_WRAPPERS))
        if pc.any(wraps).as_py():
            here = pa.array(of_each(column, wraps.to_numpy(zero_copy_only=False), False))
            found = here if found is None else pc.or_(found, here)
    return found


def formats_in(rows: pa.Table) -> list[int]:
    """The format numbers of some rows."""
    if "format_id" not in rows.column_names:
        return []
    return [number for number in pc.unique(rows["format_id"]).to_pylist() if number is not None]


def stored_bytes(rows: pa.Table, overhead: int) -> int:
    """Bytes of the messages with what each event counts beyond its message."""
    messages = int(pc.sum(rows["message_bytes"]).as_py() or 0)
    return messages + overhead * int(rows.num_rows)
