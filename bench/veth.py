"""The flood: 64-byte frames by sendmmsg(2) across a veth pair between two namespaces."""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
import time
from pathlib import Path

import numpy as np

from vnotch.capture.interfaces import Namespace

FRAME_BYTES = 64  # with the frame check sequence, which no veth carries


class Veth:
    """Two namespaces; frames sent at the instance's side come in at the host's, which is captured."""

    host, instance, device = "vnbench-h", "vnbench-i", "vnb0"

    def __enter__(self) -> Veth:
        self.__exit__()
        for name in (self.host, self.instance):
            _run("ip", "netns", "add", name)
            _run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        link = f"ip -n {self.host} link add {self.device} type veth peer name {self.device} netns {self.instance}"
        _run(*link.split())
        for name in (self.host, self.instance):
            _run("ip", "-n", name, "link", "set", self.device, "up")
        self._inside, self.outside = Namespace(self.instance), Namespace(self.host)
        self._socket = self._inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._inside.run(self._socket.bind, (self.device, 0))
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.host, self.instance):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def flood(self, frames: Frames, count: int) -> None:
        """Sends `count` frames, in turn; the receiving side's program has run for all of them when this returns."""
        before = self.received()
        frames.send(self._socket.fileno(), count)
        while self.received() - before < count:
            time.sleep(0.001)

    def received(self) -> int:
        """Frames that came in at the host's side, by the device's own count."""

        def read() -> int:
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                if line.strip().startswith(f"{self.device}:"):
                    return int(line.split(":")[1].split()[1])
            raise AssertionError(self.device)

        return self.outside.run(read)


class Frames:
    """UDP over IPv4, `flows` different ones, prepared for sendmmsg(2)."""

    BATCH = 500

    def __init__(self, flows: int, first: int = 0) -> None:
        number = np.arange(first, first + flows, dtype=np.uint32)
        head = bytes.fromhex("020000007702020000007701") + b"\x08\x00"
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, b"\x0a\x4d\0\x02", b"\xc6\x33\x64\x01")
        frame = (head + ip + struct.pack("!HHHH", 0, 9, 26, 0)).ljust(FRAME_BYTES - 4, b"\0")
        self._frames = np.tile(np.frombuffer(frame, np.uint8), (flows, 1))
        self._frames[:, 34] = number & 0xFF | 0x40  # source port
        self._frames[:, 35] = number >> 8 & 0xFF
        self._frames[:, 28] = number >> 16 & 0xFF  # source address
        self._frames[:, 29] = number & 0xFF
        address = self._frames.ctypes.data + np.arange(flows, dtype=np.uint64) * np.uint64(self._frames.shape[1])
        self._vectors = np.empty((flows, 2), np.uint64)  # struct iovec
        self._vectors[:, 0], self._vectors[:, 1] = address, self._frames.shape[1]
        self._messages = np.zeros((flows, 8), np.uint64)  # struct mmsghdr
        self._messages[:, 2] = self._vectors.ctypes.data + np.arange(flows, dtype=np.uint64) * np.uint64(16)
        self._messages[:, 3] = 1

    def send(self, fd: int, count: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        flows, at = len(self._messages), 0
        if flows < self.BATCH and count > flows:
            self._messages = np.tile(self._messages, (self.BATCH // flows, 1))
            flows = len(self._messages)
        while count:
            batch = min(self.BATCH, flows - at, count)
            sent = libc.sendmmsg(fd, ctypes.c_void_p(self._messages[at:].ctypes.data), batch, 0)
            if sent < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            count -= sent
            at = (at + sent) % flows


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
