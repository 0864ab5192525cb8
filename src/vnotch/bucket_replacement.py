"""What a folder of a bucket says while files in it are being merged: which file takes the place of which others.

A bucket cannot put one object and delete others in one step. So there is a file beside them from before a merged one
appears until some time after the last old one is gone. It names both, so that whoever knows it counts no record twice
and misses none, and whoever finds it left behind can end what was begun. Its name begins with `_`: Hive, Spark, Trino
and Athena pass over such files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from vnotch.errors import InputError

REPLACEMENT_NAME = "_vnotch-replacement.json"
REPLACEMENT_BYTES_MAX = 16 << 20


@dataclass(frozen=True)
class Old:
    """A file that is replaced: its name in the folder, and the size and tag by which it is known to be the same."""

    name: str
    size: int
    tag: str


@dataclass(frozen=True)
class Merge:
    """`into` takes the place of `olds` as soon as it is there."""

    into: str
    olds: tuple[Old, ...]


@dataclass(frozen=True)
class Replacement:
    """All that is merged in the folder where this lies.

    `owner` is the process at work; what it has not begun by `expires_s` (Unix seconds) it does not do any more.
    """

    merges: tuple[Merge, ...]
    owner: str
    expires_s: int

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Replacement:
        """Raises InputError."""
        try:
            found = json.loads(data)
            merges = tuple(_merge(merge) for merge in found["merges"])
            replacement = cls(merges, str(found["owner"]), int(found["expires_s"]))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{REPLACEMENT_NAME} cannot be read: {error}") from None
        names = [name for merge in merges for name in (merge.into, *(old.name for old in merge.olds))]
        if any("/" in name or name in ("", ".", "..") for name in names):
            raise InputError(f"{REPLACEMENT_NAME} names what is not in its folder")
        return replacement


def _merge(found: Any) -> Merge:
    olds = tuple(Old(str(old["name"]), int(old["size"]), str(old["tag"])) for old in found["olds"])
    return Merge(str(found["into"]), olds)


def is_replacement(key: str) -> bool:
    return key.rpartition("/")[2] == REPLACEMENT_NAME
