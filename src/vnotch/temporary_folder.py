"""Temporary folders that a killed process cannot leave for good: the next run of the same kind removes them.

Each has a lock that its process holds until it ends, however it ends. A folder whose lock is free is nobody's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from vnotch.interrupts import uninterrupted

_LOCK = "lock"


class TemporaryFolder:
    """A folder in the host's place for temporary files, gone at `cleanup` or with the interpreter."""

    def __init__(self, prefix: str) -> None:
        _remove_left_over(prefix)
        with uninterrupted():
            self._made = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        self.path = Path(self._made.name)
        self._lock: int | None = None
        with suppress(OSError):  # without a lock, on a file system that has none, it is never taken for left over
            new = self.path / f"{_LOCK}.new"
            self._lock = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            new.rename(self.path / _LOCK)  # only now: who sees a lock finds it held

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        self._made.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_left_over(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # of someone else, gone meanwhile, without a lock, or held
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
