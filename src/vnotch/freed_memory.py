"""Memory that a process frees is kept for what comes next in it."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_PIECE_BYTES_MAX = 32 << 20
_KEPT_BYTES_MAX = 512 << 20
_ARENAS = 2


def keep_freed_memory() -> None:
    """Tells malloc to keep up to 512 MiB that were freed, to map no piece below 32 MiB by itself, and to have two
    arenas for all threads (mallopt(3)); Arrow takes its memory there too, if it is not imported yet.

    For processes that take and free the same pieces again and again: an import for each half million records, a server
    for each delivery. By default they go back to the kernel each time, and filling new pages with zeros took a seventh
    of an import's time and a twentieth of the server's. Where malloc is another than glibc's, nothing is changed.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _PIECE_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)
        mallopt(_M_ARENA_MAX, _ARENAS)
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
