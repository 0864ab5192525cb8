"""Lines of records by the native library: native/lines.c as it is seen from Python.

`LineParser` makes columns of lines: numbers, and texts as codes (`vnotch.coded`). It takes no line that its columns
would not print as again byte for byte. Which of the distinct texts a column can have is for the caller to say.
`line_lengths` says how long the lines of columns are, `reordered` puts coded rows in another order.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.address import Values
from vnotch.coded import TEXT_CODES, code_type, codes_of, compacted, is_coded
from vnotch.native_library import Signatures, load_native

LIBRARY = Path(__file__).parent / "native" / "liblines.so"

ABI = 3
"""native/lines.c: LINES_ABI. Raised by one with every change of what crosses this border."""

_KINDS: dict[pa.DataType, tuple[int, type]] = {
    pa.int32(): (0, np.int32),
    pa.int64(): (1, np.int64),
    pa.string(): (2, np.int32),
}
_ABSENT = -1
_FIRST_ROWS = 1 << 16


@cache
def load() -> ctypes.CDLL:
    """The native library with its signatures. Raises HostError where it is missing or of another version."""
    pointer, u32, u64, i64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64
    signatures: Signatures = {
        "lines_open": (pointer, [u32, pointer, pointer, u64]),
        "lines_close": (None, [pointer]),
        "lines_reset": (None, [pointer]),
        "lines_parse_block": (i64, [pointer, pointer, u64, u64, pointer, ctypes.POINTER(u64)]),
        "lines_parse_each": (i64, [pointer, pointer, pointer, u64, pointer, pointer]),
        "lines_absent": (u64, [pointer, u32]),
        "lines_reorder_codes": (u32, [pointer, pointer, u64, u32, pointer, pointer, pointer]),
        "lines_texts": (u32, [pointer, u32, ctypes.POINTER(pointer), ctypes.POINTER(pointer)]),
        "lines_measure": (None, [u32, pointer, pointer, pointer, u64, pointer, pointer, pointer]),
        "lines_dotted_quads": (None, [pointer, pointer, u64, pointer]),
    }
    return load_native(LIBRARY, "lines_abi", ABI, signatures)


class LineParser:
    """A parser of lines with values of these types (int32, int64, string). One thread uses it at a time.

    `required` says which values are never absent.
    """

    def __init__(self, types: Sequence[pa.DataType], required: Sequence[bool]) -> None:
        self._lib = load()
        self._types = list(types)
        kinds = bytes(_KINDS[kind][0] for kind in self._types)
        self._parser = self._lib.lines_open(len(kinds), kinds, bytes(required), secrets.randbits(64))
        if not self._parser:
            raise MemoryError("no room for a parser of lines")
        self.rows = 0
        """Appended and not taken."""
        self._gathered: list[Values] = []
        self._left_out = False
        """Texts are known of lines that are no rows."""

    def __del__(self) -> None:
        if getattr(self, "_parser", None):
            self._lib.lines_close(self._parser)

    def append(self, data: bytes, rows_max: int) -> int | None:
        """Reads lines with their ends until `rows` is `rows_max`, passing over empty ones. -> the bytes that it read.

        None, and nothing is read, where one of the lines is no such line.
        """
        # A line has a byte and a space or an end for each value at least; what is not written to takes no memory.
        room = min(rows_max - self.rows, len(data) // (2 * len(self._types)) + 1)
        if not self._gathered or self.rows + room > len(self._gathered[0]):
            self._make_room(room, rows_max)
        places = _addresses([column[self.rows :] for column in self._gathered])
        taken = ctypes.c_uint64()
        rows = self._lib.lines_parse_block(self._parser, data, len(data), room, places, ctypes.byref(taken))
        if rows < 0:
            self._left_out = True
            if not self.rows:
                self.take()
            return None
        self.rows += rows
        return taken.value

    def _make_room(self, room: int, rows_max: int) -> None:
        """Four times as much as there was, which of a large file is soon all that it may need."""
        had = len(self._gathered[0]) if self._gathered else _FIRST_ROWS // 4
        columns = self._columns(min(rows_max, max(self.rows + room, 4 * had)))[0]
        for new, old in zip(columns, self._gathered, strict=bool(self._gathered)):
            new[: self.rows] = old[: self.rows]
        self._gathered = columns

    def take(self) -> list[pa.Array]:
        """The columns of what was appended, which is forgotten."""
        columns = self._gathered or self._columns(0)[0]
        arrays = self._arrays([column[: self.rows] for column in columns])
        if self._left_out:
            arrays = [compacted(item) if is_coded(item.type) else item for item in arrays]
        self._lib.lines_reset(self._parser)
        self.rows, self._gathered, self._left_out = 0, [], False
        return arrays

    def lines(self, lines: pa.StringArray) -> tuple[list[pa.Array], Values]:
        """One row for each line, which are not null -> (columns, which of them are such lines). Other rows are absent
        throughout. Raises MemoryError where there is no room for the texts."""
        columns, places = self._columns(len(lines))
        taken = np.zeros(len(lines), bool)
        data = lines.buffers()[2]
        if len(lines) and data is not None:
            begins = _offsets(lines).ctypes.data
            rows = self._lib.lines_parse_each(self._parser, data.address, begins, len(lines), places, taken.ctypes.data)
            if rows < 0:
                self._lib.lines_reset(self._parser)
                raise MemoryError("no room for the texts of lines")
        elif len(lines):
            return [pa.nulls(len(lines), TEXT_CODES if kind == pa.string() else kind) for kind in self._types], taken
        arrays = self._arrays(columns)
        self._lib.lines_reset(self._parser)
        return arrays, taken

    def _columns(self, rows: int) -> tuple[list[Values], object]:
        columns: list[Values] = [np.empty(rows, _KINDS[kind][1]) for kind in self._types]
        return columns, _addresses(columns)

    def _arrays(self, columns: Sequence[Values]) -> list[pa.Array]:
        arrays = []
        for place, (column, kind) in enumerate(zip(columns, self._types, strict=True)):
            absent = column == _ABSENT if self._lib.lines_absent(self._parser, place) else None
            values = pa.array(column, mask=absent)
            arrays.append(pa.DictionaryArray.from_arrays(values, self._texts(place)) if kind == pa.string() else values)
        return arrays

    def _texts(self, place: int) -> pa.StringArray:
        """A copy of a column's distinct texts, by code."""
        found, ends = ctypes.c_void_p(), ctypes.c_void_p()
        count = self._lib.lines_texts(self._parser, place, ctypes.byref(found), ctypes.byref(ends))
        offsets = np.zeros(count + 1, np.int32)
        if not count:
            return pa.array([], pa.string())
        offsets[1:] = np.ctypeslib.as_array(ctypes.cast(ends, ctypes.POINTER(ctypes.c_uint32)), (count,))
        data = ctypes.string_at(found.value or 0, int(offsets[-1]))
        return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))


def line_lengths(columns: Sequence[pa.Array]) -> tuple[Values, list[tuple[int, int] | None]]:
    """(the length of each row's line, values with one space between them; of each column of numbers the least and the
    greatest, None for texts and where all are absent).

    The columns are int32, int64 or of TEXT_CODES, all of one length. Numbers below zero have no line, and any length.
    """
    rows = len(columns[0])
    sizes = np.full(rows, len(columns) - 1, np.int32)
    kinds = bytearray()
    held: list[Values | None] = []
    lengths: list[Values | None] = []
    for column in columns:
        coded = is_coded(column.type)
        kinds.append(_KINDS[pa.string() if coded else column.type][0])
        held.append(codes_of(column) if coded else (column.fill_null(0) if column.null_count else column).to_numpy())
        lengths.append(_lengths(column.dictionary) if coded else None)
    least, greatest = np.empty((2, len(columns)), np.int64)
    load().lines_measure(
        len(columns), bytes(kinds), _addresses(held), _addresses(lengths), rows,
        sizes.ctypes.data, least.ctypes.data, greatest.ctypes.data,
    )  # fmt: skip
    bounds: list[tuple[int, int] | None] = list(zip(least.tolist(), greatest.tolist(), strict=True))
    for place, column in enumerate(columns):
        if lengths[place] is not None or column.null_count == rows:
            bounds[place] = None
        elif column.null_count:
            bounds[place] = tuple(pc.min_max(column).as_py().values())
    return sizes, bounds


def _lengths(texts: pa.StringArray) -> Values:
    """The length of each text, and behind the last that of what is absent, whose line has one character."""
    return np.append(np.diff(_offsets(texts)), np.int32(1))


def _offsets(texts: pa.StringArray) -> Values:
    offsets = texts.buffers()[1]
    if not len(texts) or offsets is None:
        return np.zeros(len(texts) + 1, np.int32)
    return np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _addresses(arrays: Sequence[Values | None]) -> object:
    return (ctypes.c_void_p * len(arrays))(*(None if array is None else array.ctypes.data for array in arrays))


def dotted_quads(texts: pa.StringArray) -> Values:
    """Which texts, none of them null, are IPv4 addresses as inet_pton(3) takes them."""
    found = np.zeros(len(texts), bool)
    data = texts.buffers()[2]
    if data is not None:
        load().lines_dotted_quads(data.address, _offsets(texts).ctypes.data, len(texts), found.ctypes.data)
    return found


def reordered(codes: Values, texts: pa.StringArray, order: Values) -> pa.DictionaryArray:
    """A column's codes (int32, of null the number of its texts, as `codes_of` has them) at these places (int64), with
    the texts that they have in the order in which they first have them, and as narrow as these allow: the same for the
    same rows, whatever else is in the column."""
    found, out, places = np.empty(len(texts), np.int32), np.empty(len(order), np.int32), np.zeros(len(texts), np.int32)
    codes, order = np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(order, np.int64)
    assert not len(order) or 0 <= order.min() <= order.max() < len(codes)
    pointers = (array.ctypes.data for array in (places, found, out))
    count = load().lines_reorder_codes(codes.ctypes.data, order.ctypes.data, len(order), len(texts), *pointers)
    absent = out == _ABSENT
    indices = pa.array(out.astype(code_type(count), copy=False), mask=absent if absent.any() else None)
    return pa.DictionaryArray.from_arrays(indices, texts.take(pa.array(found[:count])), safe=False)
