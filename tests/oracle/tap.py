"""tap.bpf.c at work: counts, and copies of headers, from a program that shares nothing with the capture but its loader.

with Tap(tmp_path, "instance") as tap:
    tap.attach("eth0")
    ...
    tap.totals("eth0", EGRESS).packets
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vnotch.capture import libbpf
from vnotch.capture.interfaces import Namespace
from vnotch.capture.layout import monotonic_to_unix_ns
from vnotch.capture.ring import Ring

SOURCE = Path(__file__).with_name("tap.bpf.c")

INGRESS, EGRESS = 0, 1
"""Hooks of an interface. At a host side, ingress is what the ENI sent."""

HEADER = np.dtype(
    [("ifindex", "<u4"), ("hook", "<u4"), ("ns", "<u8"), ("wire_len", "<u4"), ("cap_len", "<u4"), ("data", "V128")]
)
"""struct header."""


@dataclass(frozen=True)
class Totals:
    frames: int
    """skbs"""
    packets: int
    """on the wire"""
    bytes: int
    """with the link header of each packet on the wire; exact for GSO at egress hooks alone"""
    not_copied: int


@dataclass(frozen=True)
class Header:
    ifindex: int
    hook: int
    unix_ns: int
    wire_len: int
    data: bytes


class Tap:
    """Taps interfaces of one network namespace, by tcx, behind all other programs at each hook or before them."""

    def __init__(self, folder: Path, netns: str | None) -> None:
        """`folder`: where the program is built, once."""
        self._namespace = Namespace(netns)
        self._links: list[int] = []
        loaded = libbpf.Object(_built(folder))
        loaded.load()
        self._programs = [loaded.program_fd("tap_ingress"), loaded.program_fd("tap_egress")]
        self._totals, self._copying, ring = (loaded.map_fd(name) for name in ("totals", "copying", "headers"))
        self._ring = Ring(ring, libbpf.map_info(ring).max_entries, HEADER)
        os.close(ring)
        loaded.close()

    def attach(self, device: str, *, first: bool = False) -> int:
        """Returns the device's ifindex. `first`: before all other programs, so that it sees what those drop."""
        index = self._namespace.index(device)
        for program, kind in zip(self._programs, (libbpf.ATTACH_TCX_INGRESS, libbpf.ATTACH_TCX_EGRESS), strict=True):
            if first:
                what = f"tapping {device}"
                self._links.append(self._namespace.run(libbpf.link_create, program, index, kind, what))
            else:
                self._links.append(self._namespace.run(_append, program, index, kind))
        return index

    def totals(self, device: str, hook: int) -> Totals:
        key = np.array([self._namespace.index(device), hook], "<u4").tobytes()
        raw = libbpf.map_lookup(self._totals, key, 32)
        return Totals(*np.frombuffer(raw, "<u8").tolist()) if raw else Totals(0, 0, 0, 0)

    def copy_headers(self, on: bool) -> None:
        libbpf.map_update(self._copying, bytes(4), int(on).to_bytes(4, "little"))

    def headers(self) -> list[Header]:
        """The first 128 bytes of each frame since the last call, oldest first; 8 MB are held."""
        end = self._ring.end()
        records = self._ring.read(end)
        self._ring.consume(end)
        to_unix_ns = monotonic_to_unix_ns()
        return [
            Header(
                int(record["ifindex"]),
                int(record["hook"]),
                int(record["ns"]) + to_unix_ns,
                int(record["wire_len"]),
                record["data"].tobytes()[: record["cap_len"]],
            )
            for record in records
        ]

    def close(self) -> None:
        self._ring.close()
        for fd in (*self._links, *self._programs, self._totals, self._copying):
            os.close(fd)
        self._namespace.close()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _append(program: int, index: int, kind: int) -> int:
    return libbpf.check(libbpf.library().bpf_link_create(program, index, kind, None), "attaching the tap")


def _built(folder: Path) -> Path:
    output = folder / "tap.bpf.o"
    if not output.exists():
        command = [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-target",
            "bpfel-freestanding",
            "-mcpu=v3",
            "-O2",
            "-g",
            "-c",
        ]
        subprocess.run([*command, str(SOURCE), "-o", str(output)], check=True, stdin=subprocess.DEVNULL)
    return output
