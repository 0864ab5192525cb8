"""The reading end of a BPF ring buffer whose records all have one size.

Layout (kernel/bpf/ringbuf.c): a page with the consumer's position, writable; a page with the producer's; the data,
mapped twice in a row so that a record never wraps. A record is a header of 8 bytes (length, with a BUSY bit until it is
complete) and its data, to a multiple of 8.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

BUSY = 1 << 31


class Ring:
    """A ring buffer of records of `record` type. Reading and consuming are separate, so that a reader that dies in
    between leaves the records for the next one."""

    def __init__(self, fd: int, size_bytes: int, record: np.dtype[Any]) -> None:
        self._size = size_bytes
        self._step = 8 + (record.itemsize + 7) // 8 * 8
        self._record = np.dtype(
            {"names": ["length", "data"], "formats": ["<u4", record], "offsets": [0, 8], "itemsize": self._step}
        )
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    @property
    def position(self) -> int:
        """Bytes consumed since the ring was made."""
        return int.from_bytes(self._consumer[:8], "little")

    def _records(self, begin: int, end: int) -> npt.NDArray[Any]:
        count = (end - begin) // self._step
        start = mmap.PAGESIZE + begin % self._size
        return np.frombuffer(self._producer[start : start + count * self._step], self._record)

    def end(self) -> int:
        """The position behind the last record that is complete, as are all before it."""
        begin = self.position
        produced = int.from_bytes(self._producer[:8], "little")
        (busy,) = np.nonzero(self._records(begin, produced)["length"] & BUSY)
        return begin + int(busy[0]) * self._step if len(busy) else produced

    def read(self, end: int, begin: int = 0) -> npt.NDArray[Any]:
        """A copy of the records from `begin` to `end` (values that `end()` gave) that have not been consumed."""
        begin = max(begin, self.position)
        return self._records(begin, max(end, begin))["data"].copy()

    def consume(self, end: int) -> None:
        """Gives the room before `end` back to the programs."""
        if end > self.position:
            self._consumer[:8] = end.to_bytes(8, "little")

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
