"""Small files that survive: replaced as a whole, on disk before the call returns."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Puts `data` in place of the file's contents: temporary file, fsync, rename, fsync of the folder.

    After a crash at any point the file has its old contents or its new ones. Raises OSError; the old contents stay.
    """
    temporary = path.with_name(f".{path.name}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes names that were given, changed or removed in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_as(path: Path, example: Path) -> None:
    """Gives a tree that root has made to the owner of `example`, who is to use it; does nothing as another user."""
    if os.geteuid() != 0:
        return
    owner = example.stat()
    for found in (path, *path.rglob("*")):
        os.chown(found, owner.st_uid, owner.st_gid, follow_symlinks=False)


def set_aside(path: Path) -> Path:
    """Moves a file that cannot be read out of the way, where someone may look at it; one of a name is kept."""
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    return aside
