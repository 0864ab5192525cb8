"""What can be merged with what: pure, from the names, sizes and formats of files.

Merged are files of one folder, flow log, kind and format that end in the same slot or, if asked for, the same hour or
day. The new name is AWS's, with the time of the first of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from vnotch.bucket_keys import SLOT_SECONDS, KeyName, other_service, parse_name
from vnotch.bucket_replacement import Merge, Old
from vnotch.compact.trees import Found

OLDS_PER_MERGE_MAX = 10_000
"""Files merged into one, which bounds the list of them."""
_PARQUET, _TEXT = ".log.parquet", ".log.gz"


@dataclass(frozen=True)
class Part:
    """A file that may be merged, and what its name says."""

    found: Found
    name: KeyName

    @property
    def is_parquet(self) -> bool:
        return self.found.name.endswith(_PARQUET)


@dataclass(frozen=True)
class Group:
    """Files to become one, in order of time."""

    into: str
    parts: tuple[Part, ...]
    format: pa.Schema | bytes
    """The columns of Parquet, or the header line of text."""

    @property
    def size(self) -> int:
        return sum(part.found.size for part in self.parts)

    @property
    def merge(self) -> Merge:
        return Merge(self.into, tuple(Old(part.found.name, part.found.size, part.found.tag) for part in self.parts))


def part_of(found: Found, settled_s: float, small_bytes: int) -> Part | None:
    """A file as what may be merged; None where it is no flow log of AWS's name, is large already, or may change.

    What was written after `settled_s` (Unix seconds) may be written again by an upload that is repeated.
    """
    name = parse_name(found.key)
    if name is None or not is_flow_log(found):
        return None
    return Part(found, name) if found.size < small_bytes and found.modified_s < settled_s else None


def is_flow_log(found: Found) -> bool:
    """Whether it is one by AWS's names of files and folders."""
    right = found.name.endswith((_PARQUET, _TEXT)) and other_service(found.key) is None
    return right and parse_name(found.key) is not None


def candidates(parts: Iterable[Part], span_seconds: int) -> Iterator[list[Part]]:
    """Parts that may become one if their formats are the same; of a single folder."""
    sets: dict[tuple[object, ...], list[Part]] = {}
    for part in parts:
        name = part.name
        span = name.slot_s // span_seconds
        if name.slots > 1 and (name.end_s - 1) // span_seconds != span:
            continue  # it spans more already
        sets.setdefault((name.account, name.region, name.flow_log_id, part.is_parquet, span), []).append(part)
    for found in sets.values():
        if len(found) > 1:
            yield sorted(found, key=lambda part: (part.name.slot_s, part.found.name))


def groups(parts: Sequence[Part], target_bytes: int, format: pa.Schema | bytes) -> Iterator[Group]:
    """Parts of one format, in order of time, cut where they make a file of the size wanted."""
    begin = size = 0
    for number, part in enumerate(parts):
        if number > begin and (size + part.found.size > target_bytes or number - begin == OLDS_PER_MERGE_MAX):
            yield from _group(parts[begin:number], format)
            begin, size = number, 0
        size += part.found.size
    yield from _group(parts[begin:], format)


def without(group: Group, number: int) -> Group | None:
    """The group without one of its parts; None where that leaves nothing to merge."""
    return next(_group((*group.parts[:number], *group.parts[number + 1 :]), group.format), None)


def _group(parts: Sequence[Part], format: pa.Schema | bytes) -> Iterator[Group]:
    if len(parts) < 2:
        return
    first = parts[0]
    slots = (max(part.name.end_s for part in parts) - first.name.slot_s) // SLOT_SECONDS
    spans = f"s{slots}" if slots > 1 else ""
    about = "\n".join(f"{part.found.name} {part.found.size} {part.found.tag}" for part in parts)
    digest = hashlib.sha256(about.encode()).hexdigest()[:8]
    suffix = _PARQUET if first.is_parquet else _TEXT
    yield Group(f"{first.found.name.rpartition('_')[0]}_{digest}{spans}{suffix}", tuple(parts), format)
