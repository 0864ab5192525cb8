"""This host -> `Facts`. Everything is read; nothing is made, loaded, attached or changed.

What cannot be read (a privilege, a container without /sys) is None or empty, and the checks say what that means.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from vnotch.capture import host_firewall
from vnotch.capture.libbpf import KERNEL_BTF
from vnotch.config import ENDPOINT_HOST, Folders
from vnotch.doctor.facts import Facts, Hook, Unit

# include/uapi/linux/capability.h
CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 24: "CAP_SYS_RESOURCE", 38: "CAP_PERFMON", 39: "CAP_BPF"}
SYS_BPF = {"x86_64": 321, "aarch64": 280}
BPF_MAP_GET_NEXT_ID = 12
UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
UNIT = "vnotch-agent.service"
FULL_ID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7)
STA_UNSYNC, TIME_ERROR = 0x40, 5  # include/uapi/linux/timex.h


def read_facts(folders: Folders, port: int) -> Facts:
    native = Path(__file__).parent.parent / "capture" / "native"
    synchronised, error_seconds = _clock()
    firewall = host_firewall.check()
    disk = _disk(folders.root)
    devices = captured_devices(folders)
    return Facts(
        kernel=platform.release(),
        machine=platform.machine(),
        python=sys.version_info[:2],
        is_root=os.geteuid() == 0,
        capabilities=_effective_capabilities(),
        interpreter_capabilities=_file_capabilities(Path(sys.executable).resolve()),
        units=tuple(_units()),
        bpf_error=_bpf_error(),
        libbpf=_libbpf(),
        has_btf=KERNEL_BTF.exists(),
        netfilter_drops=firewall.message if firewall else None,
        netfilter_remedy=firewall.remedy if firewall else None,
        has_bpffs=_has_bpffs(),
        built=tuple(path.name for path in native.glob("*")),
        wheel_tags=tuple(_wheel_tags()),
        container=_container(),
        user_namespace=_id_map() not in (FULL_ID_MAP, None),
        memlock_bytes=_limit(resource.RLIMIT_MEMLOCK),
        open_files_max=_limit(resource.RLIMIT_NOFILE) or 1 << 30,
        clock_synchronised=synchronised,
        clock_error_seconds=error_seconds,
        data_dir=str(folders.root),
        data_dir_writable=os.access(_existing(folders.root), os.W_OK),
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        budget_bytes=_budget(disk.total),
        spool_bytes=_spool_bytes(folders),
        port=port,
        port_state=_port_state(port),
        devices=devices,
        hooks=_hooks(devices),
    )


# Kernel and privilege


def _effective_capabilities() -> frozenset[str]:
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return frozenset(name for bit, name in CAPABILITIES.items() if held >> bit & 1)
    return frozenset()


def _file_capabilities(path: Path) -> frozenset[str]:
    """The permitted set of struct vfs_cap_data (capabilities(7)): two 32-bit words after the magic, interleaved with
    the inheritable set."""
    try:
        raw = os.getxattr(path, "security.capability")
    except OSError:
        return frozenset()
    words = [int.from_bytes(raw[start : start + 4], "little") for start in (4, 12) if len(raw) >= start + 4]
    held = sum(word << 32 * place for place, word in enumerate(words))
    return frozenset(name for bit, name in CAPABILITIES.items() if held >> bit & 1)


def _units() -> Iterable[Unit]:
    for folder in UNITS:
        text = _text(f"{folder}/{UNIT}")
        if text:
            yield Unit(f"{folder}/{UNIT}", unit_capabilities(text))
            return  # the first hides the others (systemd.unit(5))


def unit_capabilities(text: str) -> frozenset[str]:
    """What a unit's service has: all of them where it runs as root and nothing bounds it, else its ambient set."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            words = values.setdefault(name, [])
            if not value:
                words.clear()  # an empty assignment resets (systemd.exec(5))
                values[name] = [""]
            words += value.split()
    user = (values.get("User") or ["root"])[-1]
    if user in ("root", "0", "") and "CapabilityBoundingSet" not in values:
        return frozenset(CAPABILITIES.values())
    chosen = values.get("AmbientCapabilities" if user not in ("root", "0", "") else "CapabilityBoundingSet", [])
    return frozenset(chosen) & frozenset(CAPABILITIES.values())


def _bpf_error() -> str | None:
    """bpf(2) asked for the map after the highest id there can be (kernel/bpf/syscall.c, bpf_obj_get_next_id): ENOENT
    where all is well, EPERM without privilege."""
    number = SYS_BPF.get(platform.machine())
    if number is None:
        return None
    attributes = ctypes.create_string_buffer((0x7FFFFFFE).to_bytes(4, "little"), 64)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), BPF_MAP_GET_NEXT_ID, attributes, ctypes.c_uint(12))
    code = ctypes.get_errno()
    return None if result == 0 or code == errno.ENOENT else errno.errorcode.get(code, str(code))


def _libbpf() -> str | None:
    try:
        library = ctypes.CDLL("libbpf.so.1")
        library.libbpf_version_string.restype = ctypes.c_char_p
        return f"libbpf {library.libbpf_version_string().decode().removeprefix('v')}"
    except (OSError, AttributeError):
        return None


def _has_bpffs() -> bool:
    lines = _text("/proc/self/mounts").splitlines()
    return any(line.split()[1:3] == ["/sys/fs/bpf", "bpf"] for line in lines)


def _container() -> str | None:
    """As systemd-detect-virt(1) tells: the variable that a container's first process has, or the manager's own file."""
    with suppress(OSError):
        for word in Path("/proc/1/environ").read_bytes().split(b"\0"):
            if word.startswith(b"container=") and len(word) > 10:
                return word[10:].decode(errors="replace")
    for path, name in (("/run/.containerenv", "podman"), ("/.dockerenv", "docker")):
        if Path(path).exists():
            return name
    return _text("/run/systemd/container").strip() or None


def _id_map() -> list[str] | None:
    lines = _text("/proc/self/uid_map").splitlines()
    return lines[0].split() if lines else None


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


# Build, clock, disk, port


def _wheel_tags() -> Iterable[str]:
    with suppress(metadata.PackageNotFoundError):
        for line in (metadata.distribution("vnotch").read_text("WHEEL") or "").splitlines():
            if line.startswith("Tag: "):
                yield line.removeprefix("Tag: ").strip()


class _Timex(ctypes.Structure):
    """The head of struct timex (adjtimex(2)); the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 256),
    )


def _clock() -> tuple[bool | None, float | None]:
    """-> whether the kernel's clock is synchronised, and by how much it may be off, seconds. modes 0 only reads."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        return None, None
    synchronised = state != TIME_ERROR and not timex.status & STA_UNSYNC
    return synchronised, timex.maxerror / 1e6 if synchronised else None


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _disk(path: Path) -> Any:
    return shutil.disk_usage(_existing(path))


def _budget(total_bytes: int) -> int:
    from vnotch.store.lake import BUDGET_BYTES, BUDGET_DISK_PART

    return min(BUDGET_BYTES, int(total_bytes * BUDGET_DISK_PART))


def _spool_bytes(folders: Folders) -> int:
    total = 0
    with suppress(OSError):
        for path in folders.agent("x").parent.glob("*/spool/*.arrow"):
            with suppress(OSError):
                total += path.stat().st_size
    return total


def _port_state(port: int) -> str:
    try:
        with socket.create_connection((ENDPOINT_HOST, port), timeout=1.0) as client:
            client.settimeout(2.0)
            client.sendall(b"GET /vnotch/v1/agents/-/status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            with client.makefile("rb") as answer:
                # A path that is vnotch's own, where it wants a signature.
                return "vnotch" if b"MissingAuthenticationTokenException" in answer.read(4096) else "other"
    except ConnectionRefusedError:
        return "free"
    except OSError:
        return "other"


# Hooks


def captured_devices(folders: Folders) -> tuple[str, ...]:
    """Devices that agents below this data folder capture in this network namespace, as their configuration says."""
    found: set[str] = set()
    with suppress(OSError):
        for path in folders.agent("x").parent.glob("*/configuration.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                found |= {item["device"] for item in json.loads(path.read_text())["interfaces"]}
    here = {name for _, name in socket.if_nameindex()}
    return tuple(sorted(found & here))


def _hooks(devices: Iterable[str]) -> tuple[Hook, ...] | None:
    """Programs on these devices that are not ours; None where looking is not permitted."""
    from pyroute2 import IPRoute

    from vnotch.capture.interfaces import CLSACT_EGRESS, CLSACT_HANDLE, CLSACT_INGRESS

    found = []
    try:
        with IPRoute() as netlink:
            for device in devices:
                index = socket.if_nametoindex(device)
                link = netlink.get_links(index)[0]
                if (xdp := link.get_attr("IFLA_XDP")) and xdp.get_attr("IFLA_XDP_ATTACHED"):
                    found.append(Hook(device, "xdp", "ingress", 1))
                for direction, parent in (("ingress", CLSACT_INGRESS), ("egress", CLSACT_EGRESS)):
                    handles = {m["handle"] for m in netlink.get_filters(index=index, parent=parent) if m["handle"]}
                    if others := len(handles - {CLSACT_HANDLE}):
                        found.append(Hook(device, "clsact", direction, others))
                    count = _tcx_count(index, direction)
                    if count is None:
                        return None
                    if count > 1:  # one of them is ours
                        found.append(Hook(device, "tcx", direction, count - 1))
    except OSError:  # pyroute2's errors are such; a device may go meanwhile
        return None
    return tuple(found)


def _tcx_count(index: int, direction: str) -> int | None:
    """Programs on a tcx hook (BPF_PROG_QUERY); 0 where the kernel has no tcx, None where asking is not permitted."""
    from vnotch.capture.libbpf import ATTACH_TCX_EGRESS, ATTACH_TCX_INGRESS

    try:
        library = ctypes.CDLL("libbpf.so.1")
    except OSError:
        return 0
    kind = ATTACH_TCX_INGRESS if direction == "ingress" else ATTACH_TCX_EGRESS
    flags, count = ctypes.c_uint32(), ctypes.c_uint32(0)
    # The union that has target_fd has target_ifindex too (include/uapi/linux/bpf.h).
    result = library.bpf_prog_query(index, kind, 0, ctypes.byref(flags), None, ctypes.byref(count))
    if result == -errno.EPERM:
        return None
    return int(count.value) if result in (0, -errno.ENOSPC) else 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
