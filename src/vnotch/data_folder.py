"""A server's data folder: it can be written, one process at a time has it, and it may lie in memory."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vnotch.errors import HostError, InputError

FREE_BYTES_MIN = 64 << 20
"""Below this much free disk the server does not start: SQLite and DuckLake both need room to commit."""
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 256 << 20
_STARTING_SECONDS = 60


def prepare_folder(folder: Path) -> None:
    """Makes the data folder and proves that it can be written. Raises HostError with the remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / ".write-probe"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        # Made here, so that an agent that runs as root makes only its own folder below.
        (folder / "agents").mkdir(exist_ok=True)
    except OSError as error:
        raise HostError(
            f"the data folder {folder} cannot be written: {error.strerror}", "name another with --data-dir"
        ) from None
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_MIN:
        raise HostError(
            f"only {free >> 20} MB are free where {folder} is, {FREE_BYTES_MIN >> 20} MB are needed",
            "make room, or name another folder with --data-dir",
        )


def lock_folder(folder: Path) -> int:
    """One server a folder. Returns the descriptor that holds the lock until the process ends."""
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 32, 0).decode() or "unknown"
        os.close(descriptor)
        raise HostError(
            f"a vnotch server already runs with the data folder {folder} (process {owner.strip()})",
            "stop it, or name another folder with --data-dir",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


@contextmanager
def folder_in_memory(name: Path | None = None) -> Iterator[Path]:
    """A new data folder on a file system in memory, gone at the end; those that killed servers have left go too.

    `name`: where it is found meanwhile, by a link. Raises InputError where something is there already.
    """
    above = _in_memory()
    _remove_left_over(above)
    if name is not None:
        if name.is_symlink() and not name.exists():
            name.unlink()  # of a server that was killed
        if name.exists():
            raise InputError(
                f"{name} is there already, and --in-memory makes a folder of its own",
                "name one that is not there, or leave --data-dir (and VNOTCH_DATA_DIR) out",
            )
    folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=above))
    try:
        if name is not None:
            name.parent.mkdir(parents=True, exist_ok=True)
            name.symlink_to(folder)
        yield name or folder
    finally:
        if name is not None:
            name.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def is_in_memory(folder: Path) -> bool:
    return folder.resolve().is_relative_to(MEMORY)


def _prefix() -> str:
    return f"vnotch-{os.getuid()}-"


def _in_memory() -> Path:
    """/dev/shm, or the folder of temporary files where that has no room, as in a container with little of it."""
    with suppress(OSError):
        if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN and os.access(MEMORY, os.W_OK):
            return MEMORY
    return Path(tempfile.gettempdir())


def _remove_left_over(above: Path) -> None:
    for folder in above.glob(f"{_prefix()}*"):
        with suppress(OSError, HostError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if not (folder / "server.lock").exists() and time.time() - folder.stat().st_mtime < _STARTING_SECONDS:
                continue  # of a server that is starting
            held = lock_folder(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)
