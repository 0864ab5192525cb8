"""What is known of a host, as plain values, so that each verdict can be tested with hosts that are not here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hook:
    """Programs of others on an attached interface. `kind` is tcx, clsact or xdp; `count` how many."""

    device: str
    kind: str
    direction: str
    count: int


@dataclass(frozen=True)
class Unit:
    """The systemd unit of the agent: its path, and the capabilities that it gives."""

    path: str
    capabilities: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """None is `not known`, and why that is so is the check's to say."""

    kernel: str  # uname -r
    machine: str  # uname -m
    python: tuple[int, int]
    is_root: bool = False
    capabilities: frozenset[str] = frozenset()  # effective, of this process: CAP_BPF, ...
    interpreter_capabilities: frozenset[str] = frozenset()  # file capabilities of this interpreter
    units: tuple[Unit, ...] = ()
    bpf_error: str | None = None  # what bpf(2) answers to a harmless call: ENOSYS, EPERM, or None where it works
    libbpf: str | None = None
    has_btf: bool = False  # /sys/kernel/btf/vmlinux
    netfilter_drops: str | None = None  # why the host firewall's verdict is not to be had; None: it is
    netfilter_remedy: str | None = None
    has_bpffs: bool = False  # mounted at /sys/fs/bpf
    built: tuple[str, ...] = ()  # names of the compiled parts that are there
    wheel_tags: tuple[str, ...] = ()  # of the installed package: py3-none-linux_x86_64
    container: str | None = None  # podman, docker, lxc, ...
    user_namespace: bool = False  # root here is not root of the host
    memlock_bytes: int | None = None  # RLIMIT_MEMLOCK; None is unlimited
    open_files_max: int = 0
    clock_synchronised: bool | None = None
    clock_error_seconds: float | None = None  # the kernel's own estimate (maxerror)
    data_dir: str = ""
    data_dir_writable: bool = True
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0
    budget_bytes: int = 0  # what log groups may take of it
    spool_bytes: int = 0
    port: int = 0
    port_state: str = "free"  # free, vnotch, other
    devices: tuple[str, ...] = ()  # interfaces that agents here capture
    hooks: tuple[Hook, ...] | None = ()  # None: not to be seen without privilege
