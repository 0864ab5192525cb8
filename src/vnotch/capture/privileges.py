"""What capturing needs of this process."""

from __future__ import annotations

from pathlib import Path

from vnotch.errors import HostError

# include/uapi/linux/capability.h
CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 12, 21, 38, 39


def check_privileges() -> None:
    """Raises HostError where this process may not load and attach programs."""
    status = Path("/proc/self/status").read_text()
    held = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)

    def has(capability: int) -> bool:
        return bool(held >> capability & 1)

    if not (has(CAP_NET_ADMIN) and (has(CAP_SYS_ADMIN) or (has(CAP_BPF) and has(CAP_PERFMON)))):
        raise HostError(
            "capturing packets needs more privilege", "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        )
