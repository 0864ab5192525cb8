"""Text columns as codes: each distinct text once, and for each row which of them it has.

Records repeat their texts, so what is asked of a column's texts is asked of the distinct ones, and what is done with
rows is done with numbers. Arrow's form of it is the dictionary; here always with codes of 32 bits, null where a row has
no value, and no null among the texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.address import Values

TEXT_CODES = pa.dictionary(pa.int32(), pa.string())


def is_coded(type_: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(type_))


def coded(column: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """A text column, coded or not, as one array of TEXT_CODES."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not is_coded(whole.type) or whole.dictionary.null_count:
        return whole.cast(pa.string()).dictionary_encode()
    if whole.type == TEXT_CODES:
        return whole
    texts = whole.dictionary if pa.types.is_string(whole.dictionary.type) else whole.dictionary.cast(pa.string())
    return pa.DictionaryArray.from_arrays(whole.indices.cast(pa.int32()), texts)


def coded_table(table: pa.Table) -> pa.Table:
    """The table in one chunk, each of its text columns coded."""
    columns = [
        coded(column) if is_coded(column.type) or pa.types.is_string(column.type) else column.combine_chunks()
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def coded_schema(fields: Iterable[tuple[str, pa.DataType]]) -> pa.Schema:
    """Names and types, text coded."""
    return pa.schema([(name, TEXT_CODES if kind == pa.string() else kind) for name, kind in fields])


def plain_table(table: pa.Table) -> pa.Table:
    """The table with its text columns as text."""
    fields = [item.with_type(pa.string()) if is_coded(item.type) else item for item in table.schema]
    return table.cast(pa.schema(fields))


def compacted(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same rows with no text that none of them has; the texts stay in their order."""
    codes, texts = codes_of(column), column.dictionary
    used = np.zeros(len(texts) + 1, bool)  # the last one stands for null
    used[codes] = True
    absent = bool(used[-1])
    used = used[:-1]
    if used.all():
        return column
    places = np.cumsum(used, dtype=np.int32) - 1
    fewer = np.append(places, np.int32(0))[codes]
    mask = codes == len(texts) if absent else None
    return pa.DictionaryArray.from_arrays(pa.array(fewer, mask=mask), texts.filter(pa.array(used)))


def code_type(texts: int) -> type[np.signedinteger[Any]]:
    """The narrowest type that has room for the codes of so many texts."""
    return np.int8 if texts <= 1 << 7 else np.int16 if texts <= 1 << 15 else np.int32


def codes_of(column: pa.DictionaryArray) -> Values:
    """The code of each row; of null the number of texts."""
    indices = column.indices
    if indices.null_count:
        indices = indices.fill_null(len(column.dictionary))
    codes: Values = indices.to_numpy()
    return codes


def of_each(column: pa.DictionaryArray, values: Values, absent: int) -> Values:
    """A number of each distinct text -> the number of each row."""
    return np.append(values, values.dtype.type(absent))[codes_of(column)]


def ordered(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same rows, their texts in the order in which rows first have them and no others: the same for the same rows,
    whatever else the column's texts are."""
    if _is_ordered(column):
        return column
    encoded = column.indices.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, pc.take(column.dictionary, encoded.dictionary))


def _is_ordered(column: pa.DictionaryArray) -> bool:
    """Looking costs a tenth of ordering. Columns with nulls are not looked at."""
    if column.indices.null_count or not len(column):
        return False
    codes = codes_of(column)
    greatest = np.maximum.accumulate(codes)
    return bool(
        codes[0] == 0 and greatest[-1] == len(column.dictionary) - 1 and (greatest[1:] - greatest[:-1] <= 1).all()
    )
