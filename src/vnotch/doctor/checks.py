"""Facts -> findings. Pure: every verdict follows from the facts alone.

`fail`: capturing, or the server, cannot work here. `warn`: it works, and something is to be known or to be done first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vnotch.config import SPOOL_BYTES
from vnotch.doctor.facts import Facts

OK, WARN, FAIL = "ok", "warn", "fail"

KERNEL_MIN = (5, 17)
"""bpf_loop."""
KERNEL_TESTED = (6, 1)
"""Debian 12's, the oldest that tests run on."""
KERNEL_TCX = (6, 6)
KERNEL_MEMCG = (5, 11)
"""From here on maps are charged to the control group, and RLIMIT_MEMLOCK says nothing (commit 97306be45fbe)."""
PYTHON_MIN = (3, 11)
MACHINES = {"x86_64", "aarch64"}
CAPTURING = {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}
MAPS_BYTES = 64 << 20
DISK_BYTES_MIN = 2_000_000_000
OPEN_FILES_MIN = 1024
INSTEAD = "what works without: `vnotch agent --capture FILE` plays a capture file, `vnotch demo --from-capture`"


@dataclass(frozen=True)
class Finding:
    name: str
    verdict: str
    found: str
    means: str = ""
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order in which one thing needs another."""
    return [check(facts) for check in CHECKS]


def exit_status(findings: list[Finding]) -> int:
    """1 where something fails."""
    return 1 if any(finding.verdict == FAIL for finding in findings) else 0


def version_of(release: str) -> tuple[int, int]:
    """(major, minor) of `uname -r`; (0, 0) where it begins with no version."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def can_capture(capabilities: frozenset[str]) -> bool:
    """As capture/kernel.py asks for it: CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7))."""
    return "CAP_NET_ADMIN" in capabilities and ("CAP_SYS_ADMIN" in capabilities or capabilities >= CAPTURING)


def kernel(facts: Facts) -> Finding:
    version = version_of(facts.kernel)
    found = f"Linux {facts.kernel}"
    if version < KERNEL_MIN:
        return Finding(
            "kernel",
            FAIL,
            found,
            "capturing needs Linux 5.17 (bpf_loop); " + INSTEAD,
            "run a newer kernel: Debian 12 has 6.1, Ubuntu 24.04 has 6.8",
        )
    if version < KERNEL_TESTED:
        return Finding("kernel", WARN, found, "should work, and is older than any kernel that is tested (6.1)")
    return Finding("kernel", OK, found)


def attaching(facts: Facts) -> Finding:
    if version_of(facts.kernel) >= KERNEL_TCX:
        return Finding("attaching", OK, "tcx", "links are pinned: capture goes on while the agent is replaced")
    means = "the filter stays while the agent is replaced; another program's `tc qdisc del clsact` would end it"
    return Finding("attaching", OK, "clsact (tcx comes with Linux 6.6)", means)


def bpf(facts: Facts) -> Finding:
    if facts.bpf_error == "ENOSYS":
        means = "this kernel has no bpf(2); " + INSTEAD
        return Finding("bpf(2)", FAIL, "missing", means, "a kernel with CONFIG_BPF_SYSCALL")
    if facts.bpf_error == "EPERM" and can_capture(facts.capabilities):
        means = "something forbids it in spite of the capabilities: seccomp, a security module, or kernel lockdown; "
        return Finding("bpf(2)", FAIL, "forbidden", means + INSTEAD, _container_remedy(facts))
    if facts.bpf_error == "EPERM":
        return Finding("bpf(2)", OK, "there; this process may not use it")
    if facts.bpf_error is not None:
        return Finding("bpf(2)", WARN, facts.bpf_error, "bpf(2) answers what it should not")
    return Finding("bpf(2)", OK, "there")


def privilege(facts: Facts) -> Finding:
    have = ", ".join(sorted(facts.capabilities & (CAPTURING | {"CAP_SYS_ADMIN"}))) or "none of those needed"
    if can_capture(facts.capabilities):
        who = "root" if facts.is_root else "this process"
        return Finding("privilege", OK, f"{who} may capture", have)
    if facts.is_root:
        return Finding(
            "privilege",
            FAIL,
            f"root without capabilities ({have})",
            "capturing needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; " + INSTEAD,
            _container_remedy(facts),
        )
    if can_capture(facts.interpreter_capabilities):
        return Finding("privilege", OK, "the interpreter's file has the capabilities", have)
    giving = [unit.path for unit in facts.units if can_capture(unit.capabilities)]
    if giving:
        return Finding("privilege", OK, f"the agent's unit has the capabilities ({giving[0]})", "this process has not")
    means = "server and queries need none; the agent needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    return Finding("privilege", WARN, f"this user may not capture ({have})", means, "sudo vnotch doctor sees more")


def units(facts: Facts) -> Finding:
    lacking = [unit for unit in facts.units if not can_capture(unit.capabilities)]
    if not facts.units:
        return Finding("unit", OK, "no systemd unit of the agent", "it is run by hand, or by `vnotch up`")
    if lacking:
        missing = ", ".join(sorted(CAPTURING - lacking[0].capabilities))
        return Finding(
            "unit",
            FAIL,
            f"{lacking[0].path} does not give {missing}",
            "the agent that it starts cannot capture",
            f"systemctl edit, AmbientCapabilities={' '.join(sorted(CAPTURING))}",
        )
    return Finding("unit", OK, facts.units[0].path, "gives the capabilities that capturing needs")


def container(facts: Facts) -> Finding:
    if facts.user_namespace:
        means = "root here is not root of the host, and the kernel keeps bpf(2) from it; " + INSTEAD
        verdict = WARN if facts.bpf_error is None and can_capture(facts.capabilities) else FAIL
        return Finding("container", verdict, "a user namespace", means, "run the agent on the host, or rootful")
    if facts.container is None:
        return Finding("container", OK, "not in a container")
    if can_capture(facts.capabilities) and facts.bpf_error is None:
        means = "the interfaces of this container's network namespace are captured, and no others"
        return Finding("container", OK, f"in {facts.container}, with privilege", means)
    if not facts.is_root:
        return Finding("container", WARN, f"in {facts.container}", "the agent needs its privilege from outside")
    means = "a container gets no bpf(2) unless it is told to; " + INSTEAD
    return Finding("container", FAIL, f"in {facts.container}, without privilege", means, _container_remedy(facts))


def _container_remedy(facts: Facts) -> str:
    if facts.container is None:
        return "run it as root of the host"
    flags = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in sorted(CAPTURING))
    return f"{facts.container} run --network host {flags} -v /sys/fs/bpf:/sys/fs/bpf ..., or run the agent on the host"


def libbpf(facts: Facts) -> Finding:
    if facts.libbpf is None:
        return Finding("libbpf", FAIL, "not found", "capturing needs libbpf.so.1", "sudo apt install libbpf1")
    return Finding("libbpf", OK, facts.libbpf)


def btf(facts: Facts) -> Finding:
    if facts.has_btf:
        return Finding("BTF", OK, "/sys/kernel/btf/vmlinux")
    means = "capture and verdicts work without; what the host's own firewall drops cannot be told from what it accepts"
    return Finding("BTF", WARN, "no /sys/kernel/btf/vmlinux", means, "a kernel with CONFIG_DEBUG_INFO_BTF")


def host_firewall(facts: Facts) -> Finding:
    if facts.netfilter_drops is None:
        return Finding("host firewall", OK, "the kernel tells which packets netfilter drops")
    return Finding("host firewall", WARN, facts.netfilter_drops, remedy=facts.netfilter_remedy)


def bpffs(facts: Facts) -> Finding:
    if facts.has_bpffs:
        return Finding("bpffs", OK, "/sys/fs/bpf is mounted")
    if facts.container is not None:
        means = "the agent mounts one of its own where it may; without, capture ends with the agent"
        return Finding("bpffs", WARN, "not mounted", means, f"{facts.container} run -v /sys/fs/bpf:/sys/fs/bpf ...")
    return Finding("bpffs", OK, "/sys/fs/bpf is not mounted", "the agent mounts one of its own below /run/vnotch")


def build(facts: Facts) -> Finding:
    missing = [name for name in ("vnotch.bpf.o", "firewall.bpf.o", "libvnotch.so") if name not in facts.built]
    if facts.python < PYTHON_MIN:
        version = ".".join(map(str, facts.python))
        return Finding("build", FAIL, f"Python {version}", "vnotch needs Python 3.11", "install a newer Python")
    if facts.machine not in MACHINES:
        return Finding("build", FAIL, facts.machine, "eBPF and parser are built for x86_64 and aarch64", None)
    if missing:
        return Finding(
            "build", FAIL, f"{', '.join(missing)} missing", "the compiled parts", "make native, or reinstall"
        )
    wrong = [tag for tag in facts.wheel_tags if not tag.endswith(("any", facts.machine))]
    if wrong:
        means = f"the wheel is of another machine than {facts.machine}"
        return Finding("build", FAIL, wrong[0], means, "install the wheel of this machine")
    return Finding("build", OK, f"Python {facts.python[0]}.{facts.python[1]}, {facts.machine}")


def memory(facts: Facts) -> Finding:
    if version_of(facts.kernel) >= KERNEL_MEMCG:
        return Finding("locked memory", OK, "the limit does not concern maps (Linux 5.11 and later)")
    if facts.memlock_bytes is None or facts.memlock_bytes >= MAPS_BYTES or "CAP_SYS_RESOURCE" in facts.capabilities:
        return Finding("locked memory", OK, _size(facts.memlock_bytes))
    means = f"maps take about {MAPS_BYTES >> 20} MB"
    return Finding(
        "locked memory", FAIL, _size(facts.memlock_bytes), means, "ulimit -l unlimited, LimitMEMLOCK=infinity"
    )


def files(facts: Facts) -> Finding:
    found = f"{facts.open_files_max:,} open files at most"
    if facts.open_files_max >= OPEN_FILES_MIN:
        return Finding("open files", OK, found)
    means = "each attached interface takes two, each client of the server one"
    return Finding("open files", WARN, found, means, f"ulimit -n {OPEN_FILES_MIN * 64}")


def clock(facts: Facts) -> Finding:
    means = "windows lie on the clock: one that is off puts records into the wrong one, one that steps makes some late"
    if facts.clock_synchronised is None:
        return Finding("clock", WARN, "not known whether it is synchronised", means)
    if not facts.clock_synchronised:
        remedy = "timedatectl set-ntp true, or install chrony"
        if facts.container is not None:
            remedy = "the host's clock is what counts: look there"
        return Finding("clock", WARN, "not synchronised", means, remedy)
    error = facts.clock_error_seconds
    if error is not None and error > 0.5:
        return Finding("clock", WARN, f"synchronised, may be off by {error:.1f} s", means, "a nearer time server")
    return Finding("clock", OK, "synchronised" if error is None else f"synchronised, within {error * 1000:.0f} ms")


def disk(facts: Facts) -> Finding:
    found = f"{_size(facts.disk_free_bytes)} free of {_size(facts.disk_total_bytes)} at {facts.data_dir}"
    bounds = f"log groups may take {_size(facts.budget_bytes)}, the spool {_size(SPOOL_BYTES)}"
    means = f"{bounds}; the oldest goes first, counted"
    if not facts.data_dir_writable:
        return Finding(
            "disk", WARN, f"{facts.data_dir} is not this user's to write", means, "another --data-dir, or sudo"
        )
    if facts.disk_free_bytes < DISK_BYTES_MIN // 20:
        return Finding("disk", FAIL, found, "no room for a spool", "make room, or choose another --data-dir")
    if facts.disk_free_bytes < SPOOL_BYTES - facts.spool_bytes:
        return Finding("disk", WARN, found, means, "make room: a server that is away for long fills the spool")
    return Finding("disk", OK, found, means)


def port(facts: Facts) -> Finding:
    if facts.port_state == "vnotch":
        return Finding("port", OK, f"a vnotch server answers at 127.0.0.1:{facts.port}")
    if facts.port_state == "free":
        return Finding("port", OK, f"127.0.0.1:{facts.port} is free")
    means = "a server cannot listen there"
    return Finding("port", WARN, f"something else answers at 127.0.0.1:{facts.port}", means, "vnotch server --port N")


def hooks(facts: Facts) -> Finding:
    if not facts.devices:
        return Finding("other programs", OK, "no interface is captured here yet")
    if facts.hooks is None:
        remedy = "sudo vnotch doctor"
        return Finding("other programs", WARN, "not to be seen", "looking at hooks needs privilege", remedy)
    xdp = sorted({hook.device for hook in facts.hooks if hook.kind == "xdp"})
    others = [f"{hook.count} on {hook.device} {hook.direction} ({hook.kind})" for hook in facts.hooks]
    if xdp:
        means = "XDP comes before our hook: what it drops, redirects or rewrites is not seen as it came"
        return Finding("other programs", WARN, f"XDP on {', '.join(xdp)}", means, "ip link show; capture behind it")
    if others:
        return Finding("other programs", OK, "; ".join(others), "ours come first and let them run (TCX_NEXT)")
    return Finding("other programs", OK, f"none on {', '.join(facts.devices)}")


def _size(size: int | None) -> str:
    if size is None:
        return "unlimited"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    kernel,
    bpf,
    privilege,
    container,
    units,
    libbpf,
    build,
    attaching,
    bpffs,
    btf,
    host_firewall,
    memory,
    files,
    hooks,
    clock,
    disk,
    port,
)
