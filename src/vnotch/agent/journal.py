"""The journal: drains on disk between the kernel's maps and the spool.

A drain is written here, whole and fsynced, before the kernel's map is emptied, and is removed once every window that it
went into has been spooled. One file a drain, `NUMBER,SIZE,CRC.arrow`: two or three Arrow IPC streams, the flows (whose
schema metadata says the rest), the losses and, where some were found, the owners. Numbers only grow, over restarts too.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from vnotch.durable import replace_file, set_aside, sync_folder
from vnotch.owner import OWNER_SCHEMA

COMPRESSED_ROWS_MIN = 256
"""Below this a compressor costs a hundred times what writing does, and saves less than a disk block."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One drain.

    `boot_id`, `generation` and `flipped_ns` name the drain itself, so that the same drain seen again is recognised
    (generations begin at 1 again with new maps). `starts` is the beginning of the window that it went into, by track;
    `ledger_start_s` that of its window in the ledger.
    """

    number: int
    boot_id: str
    generation: int
    flipped_ns: int
    starts: Mapping[str, int]
    ledger_start_s: int
    flows: pa.Table  # FLOW_SCHEMA
    losses: pa.Table  # LOSS_SCHEMA
    owners: pa.Table = field(default_factory=OWNER_SCHEMA.empty_table)  # OWNER_SCHEMA


@dataclass(frozen=True)
class _File:
    name: str
    starts: Mapping[str, int]


class Journal:
    """The open journal. One thread uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged_files = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files: dict[int, _File] = {}
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                path.unlink()  # never renamed: its drain was not committed and is still in the map
            elif path.suffix == ".arrow" and (number := _number(path.name)) is not None:
                self._files[number] = _File(path.name, {})
            elif path.suffix != ".damaged":
                self._damaged(path)

    def append(self, entry: Entry) -> None:
        """Makes the drain durable. Raises OSError where the disk does not take it."""
        about = {
            "boot_id": entry.boot_id,
            "generation": entry.generation,
            "flipped_ns": entry.flipped_ns,
            "starts": dict(entry.starts),
            "ledger_start_s": entry.ledger_start_s,
        }
        sink = pa.BufferOutputStream()
        compression = "lz4" if entry.flows.num_rows >= COMPRESSED_ROWS_MIN else None
        options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
        tables = [entry.flows.replace_schema_metadata({"vnotch": json.dumps(about)}), entry.losses]
        tables += [entry.owners] if entry.owners.num_rows else []
        for table in tables:
            with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table)
        data = sink.getvalue()
        name = f"{entry.number:015d},{data.size},{zlib.crc32(data):08x}.arrow"
        replace_file(self.folder / name, data)
        self._files[entry.number] = _File(name, dict(entry.starts))

    def replay(self) -> Iterator[Entry]:
        """All drains, oldest first. What cannot be read is set aside and counted."""
        for number, file in sorted(self._files.items()):
            path = self.folder / file.name
            try:
                entry = _decode(number, path)
            except (OSError, ValueError) as error:
                log.error("journal: %s is damaged: %s", path, error)
                del self._files[number]
                self._damaged(path)
                continue
            self._files[number] = replace(file, starts=entry.starts)
            yield entry

    def remove(self, done: Callable[[int, Mapping[str, int]], bool]) -> int:
        """Removes the drains for which `done(number, starts)` is true; -> how many."""
        numbers = [number for number, file in self._files.items() if done(number, file.starts)]
        for number in numbers:
            (self.folder / self._files.pop(number).name).unlink(missing_ok=True)
        if numbers:
            sync_folder(self.folder)
        return len(numbers)

    def has_any(self, done: Callable[[int, Mapping[str, int]], bool]) -> bool:
        return any(done(number, file.starts) for number, file in self._files.items())

    @property
    def first_number(self) -> int | None:
        return min(self._files, default=None)

    @property
    def last_number(self) -> int | None:
        return max(self._files, default=None)

    @property
    def size(self) -> int:
        """Bytes of all drains, as their names tell them."""
        return sum(int(file.name.split(",")[1]) for file in self._files.values())

    def __len__(self) -> int:
        return len(self._files)

    def _damaged(self, path: Path) -> None:
        self.damaged_files += 1
        if path.exists():
            set_aside(path)


def _number(name: str) -> int | None:
    parts = name.removesuffix(".arrow").split(",")
    return int(parts[0]) if len(parts) == 3 and parts[0].isdigit() else None


def _decode(number: int, path: Path) -> Entry:
    data = path.read_bytes()
    _, size, crc = path.name.removesuffix(".arrow").split(",")
    if str(len(data)) != size or f"{zlib.crc32(data):08x}" != crc:
        raise ValueError("size or checksum differ")
    source = pa.BufferReader(data)
    try:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        flows = pa.ipc.open_stream(source, options=options).read_all()
        losses = pa.ipc.open_stream(source, options=options).read_all()
        about = json.loads(flows.schema.metadata[b"vnotch"])
        flows = flows.replace_schema_metadata(None)
        if source.tell() == source.size():
            return Entry(number=number, flows=flows, losses=losses, **about)
        owners = pa.ipc.open_stream(source, options=options).read_all()
        return Entry(number=number, flows=flows, losses=losses, owners=owners, **about)
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(str(error)) from error
