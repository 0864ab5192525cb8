"""Memory of an import's process: what is freed is kept for what comes next."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PIECE_BYTES_MAX = 32 << 20
_KEPT_BYTES_MAX = 512 << 20


def keep_freed_memory() -> None:
    """Tells malloc to keep up to 512 MiB that were freed, and to map no piece below 32 MiB by itself (mallopt(3)).

    An import takes and frees the same pieces for each half million records. By default they go back to the kernel each
    time, and filling new pages with zeros took a seventh of its time. Where malloc is another than glibc's, nothing is
    changed.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _PIECE_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)
