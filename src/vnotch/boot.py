"""Which boot of the machine this is: what was counted, opened or running in another one is gone."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Names this boot of the machine (proc(5), /proc/sys/kernel/random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
