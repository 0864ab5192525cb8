"""Which process is at work on a folder, told so that a later one on the same host can see that it is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Host, boot, PID and the time at which it started, by blanks; a PID is used again, its time of start is not."""
    pid = os.getpid()
    return f"{socket.gethostname()} {_boot()} {pid} {_started(pid)}"


def is_gone(owner: str) -> bool:
    """Whether a process of this host is no more. Of another host's nothing is known, so it is not."""
    host, _, rest = owner.partition(" ")
    boot, _, process = rest.partition(" ")
    pid, _, started = process.partition(" ")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    return boot != _boot() or _started(int(pid)) != started


def _boot() -> str:
    return _BOOT.read_text().strip()


def _started(pid: int) -> str:
    """Field 22 of its stat, in clock ticks after the boot (proc(5)); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
