"""What a lab has made, on disk before it is made, so that `down` cleans up after a crash at any point.

The journal lies in the lab's folder. Namespaces are the host's, not the folder's: which folder the lab that is up
belongs to is in a second file below /run, which is also the lock that one command at a time holds.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vnotch.errors import HostError
from vnotch.lab.topology import Topology
from vnotch.lab.topology_file import parse_topology

RUN = Path("/run/vnotch")
BUILDING, UP, REMOVING = "building", "up", "removing"
_FILE = "lab.json"


def process_start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (proc(5): field 22 of stat); None where there is no such one.

    With the id it names a process for good: ids are used again, the pair is not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] == "Z" else int(after_name[19])


def write_json(path: Path, document: Any) -> None:
    """Replaces a file whole: after a crash there is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}", f"make {path.parent} writable, with room") from error


@dataclass
class Journal:
    """One lab. `api` is what control.py has made, under keys of its own."""

    folder: Path
    prefix: str
    phase: str
    topology_name: str
    topology_text: str
    added: list[list[str]] = field(default_factory=list)  # [name, subnet] of instances that came later
    instance_ids: dict[str, str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)
    services: list[int] = field(default_factory=list)  # [pid, start ticks], or nothing
    api: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Journal | None:
        path = folder / _FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            known = {item.name for item in fields(cls)} - {"folder"}
            return cls(folder=folder, **{key: value for key, value in document.items() if key in known})
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise HostError(f"{path} is not readable", "run it with sudo") from error
        except (ValueError, TypeError) as error:
            raise HostError(f"{path} is not a lab's journal: {error}", "move it away, then vnotch lab down") from error

    @property
    def path(self) -> Path:
        return self.folder / _FILE

    def save(self) -> None:
        document = asdict(self)
        del document["folder"]
        write_json(self.path, document)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def topology(self) -> Topology:
        """The topology as it was when the lab was built, with what was added since."""
        topology = parse_topology(self.topology_text, self.topology_name)
        for name, subnet in self.added:
            topology, _ = topology.with_instance(name, subnet)
        return topology


@contextmanager
def ownership(prefix: str) -> Iterator[Ownership]:
    """Holds the lock on the labs of one prefix on this host. Raises HostError where another command holds it."""
    path = RUN / f"{prefix}.json"
    try:
        RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise HostError("another lab command is at work", "wait until it has ended") from None
            if path.exists() and os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                break
            os.close(descriptor)  # the one before us removed it; the next file is the lock now
    except OSError as error:
        raise HostError(f"cannot use {path}: {error.strerror}", "run it with sudo") from error
    try:
        held = Ownership(path, descriptor)
        yield held
        if held.folder is None:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


class Ownership:
    """The lock, and the folder of the lab that is up, if there is one."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        text = os.pread(descriptor, 65536, 0).decode()
        self.folder: Path | None = Path(text.strip()) if text.strip() else None

    def take(self, folder: Path) -> None:
        self._write(f"{folder}\n")
        self.folder = folder

    def release(self) -> None:
        self._write("")
        self.folder = None

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)


def owner(prefix: str) -> Path | None:
    """The folder of the lab that is up, without the lock."""
    try:
        text = (RUN / f"{prefix}.json").read_text().strip()
    except OSError:
        return None
    return Path(text) if text else None
