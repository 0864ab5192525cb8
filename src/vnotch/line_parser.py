"""Lines of records by the native library: native/lines.c as it is seen from Python.

Its columns are numbers, and texts as codes (`vnotch.coded`). It takes no line that its columns would not print as again
byte for byte. Which of the distinct texts a column can have is for the caller to say.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from vnotch.address import Values
from vnotch.coded import TEXT_CODES
from vnotch.native_library import Signatures, load_native

LIBRARY = Path(__file__).parent / "native" / "liblines.so"

ABI = 1
"""native/lines.c: LINES_ABI. Raised by one with every change of what crosses this border."""

_KINDS: dict[pa.DataType, tuple[int, type]] = {
    pa.int32(): (0, np.int32),
    pa.int64(): (1, np.int64),
    pa.string(): (2, np.int32),
}
_ABSENT = -1


@cache
def load() -> ctypes.CDLL:
    """The native library with its signatures. Raises HostError where it is missing or of another version."""
    pointer, u32, u64, i64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64
    signatures: Signatures = {
        "lines_open": (pointer, [u32, pointer, pointer, u64]),
        "lines_close": (None, [pointer]),
        "lines_reset": (None, [pointer]),
        "lines_parse_block": (i64, [pointer, pointer, u64, u64, pointer]),
        "lines_parse_each": (i64, [pointer, pointer, pointer, u64, pointer, pointer]),
        "lines_absent": (u64, [pointer, u32]),
        "lines_texts": (u32, [pointer, u32, ctypes.POINTER(pointer), ctypes.POINTER(pointer)]),
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

    def __del__(self) -> None:
        if getattr(self, "_parser", None):
            self._lib.lines_close(self._parser)

    def block(self, data: bytes) -> list[pa.Array] | None:
        """Lines with their ends; empty ones are passed over. None where one of them is no such line."""
        # A line has a byte and a space or an end for each value at least; what is not written to takes no memory.
        columns, places = self._columns(len(data) // (2 * len(self._types)) + 1)
        rows = self._lib.lines_parse_block(self._parser, data, len(data), len(columns[0]), places)
        arrays = self._arrays([column[:rows] for column in columns]) if rows >= 0 else None
        self._lib.lines_reset(self._parser)
        return arrays

    def lines(self, lines: pa.StringArray) -> tuple[list[pa.Array], Values]:
        """One row for each line, which are not null -> (columns, which of them are such lines). Other rows are absent
        throughout. Raises MemoryError where there is no room for the texts."""
        columns, places = self._columns(len(lines))
        taken = np.zeros(len(lines), bool)
        _, offsets, data = lines.buffers()
        if len(lines) and data is not None:
            begins = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
            rows = self._lib.lines_parse_each(
                self._parser, data.address, begins.ctypes.data, len(lines), places, taken.ctypes.data
            )
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
        return columns, (ctypes.c_void_p * len(columns))(*(column.ctypes.data for column in columns))

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
