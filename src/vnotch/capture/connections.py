"""Connections and fragments under way, as the datapath keeps them: read, forgotten, swept."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vnotch.capture import layout, libbpf
from vnotch.capture.layout import CONNECTION, CONNECTION_KEY, FRAGMENT_KEY, FRAGMENT_VALUE

Entries = tuple[Any, Any]
"""An array of keys and one of values, of one length."""


class Connections:
    """The map `connections`. `sweep_program` removes those that are over."""

    def __init__(self, fd: int, sweep_program: int) -> None:
        self._fd = fd
        self._program = sweep_program

    def read(self) -> Entries:
        """CONNECTION_KEY and CONNECTION; those that are over and not swept included."""
        return _read(self._fd, CONNECTION_KEY, CONNECTION)

    def forget(self, slot: int) -> None:
        keys, _ = self.read()
        _delete(self._fd, keys[keys["slot"] == slot])

    def sweep(self, now_ns: int) -> None:
        """`now_ns` counts with the test clock alone."""
        context = bytearray(192)
        context[152:160] = now_ns.to_bytes(8, "little")  # struct __sk_buff: tstamp
        libbpf.run_program(self._program, bytes(64), bytes(context))


class Fragments:
    """The map `fragments`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> Entries:
        """FRAGMENT_KEY and FRAGMENT_VALUE."""
        return _read(self._fd, FRAGMENT_KEY, FRAGMENT_VALUE)

    def sweep(self) -> None:
        keys, values = self.read()
        oldest = time.monotonic_ns() - layout.FRAGMENT_NS
        _delete(self._fd, keys[values["ns"].astype(np.int64) < oldest])


def _read(fd: int, key: np.dtype[Any], value: np.dtype[Any]) -> Entries:
    room = libbpf.map_info(fd).max_entries
    keys, values = np.empty(room, key), np.empty(room, value)
    count = libbpf.lookup_batch(fd, keys, values)
    return keys[:count], values[:count]


def _delete(fd: int, keys: Any) -> None:
    if len(keys):
        libbpf.delete_batch(fd, np.ascontiguousarray(keys))
