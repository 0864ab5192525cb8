"""Verdicts about hosts that are not here: kernels, containers, privileges, each with its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vnotch.doctor.checks import CHECKS, FAIL, OK, WARN, Finding, examine, exit_status
from vnotch.doctor.facts import Facts, Hook, Unit

ROOT = frozenset({"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_PERFMON", "CAP_BPF"})
THREE = frozenset({"CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"})

DEBIAN_12 = Facts(
    kernel="6.1.0-18-amd64",
    machine="x86_64",
    python=(3, 11),
    is_root=True,
    capabilities=ROOT,
    libbpf="libbpf 1.1",
    has_btf=True,
    has_bpffs=True,
    built=("vnotch.bpf.o", "firewall.bpf.o", "libvnotch.so"),
    wheel_tags=("py3-none-linux_x86_64",),
    memlock_bytes=8 << 20,
    open_files_max=1 << 16,
    clock_synchronised=True,
    clock_error_seconds=0.02,
    data_dir="/var/lib/vnotch",
    disk_free_bytes=100_000_000_000,
    disk_total_bytes=200_000_000_000,
    budget_bytes=20_000_000_000,
    port=4480,
)


def found(name: str, **changes: Any) -> Finding:
    return next(item for item in examine(replace(DEBIAN_12, **changes)) if item.name == name)


def test_a_debian_12_as_it_comes_is_fine_for_root() -> None:
    findings = examine(DEBIAN_12)
    assert {finding.name: finding.verdict for finding in findings if finding.verdict != OK} == {}
    assert exit_status(findings) == 0
    assert len({finding.name for finding in findings}) == len(CHECKS)


@pytest.mark.parametrize(
    ("release", "verdict", "attaching"),
    [
        ("5.4.0-150-generic", FAIL, "clsact"),  # Ubuntu 20.04
        ("5.15.0-100-generic", FAIL, "clsact"),  # Ubuntu 22.04
        ("5.17.0", WARN, "clsact"),
        ("6.1.0-18-amd64", OK, "clsact"),  # Debian 12
        ("6.5.13", OK, "clsact"),
        ("6.6.0", OK, "tcx"),
        ("6.8.0-31-generic", OK, "tcx"),  # Ubuntu 24.04
        ("7.0.1", OK, "tcx"),
        ("nonsense", FAIL, "clsact"),
    ],
)
def test_kernels(release: str, verdict: str, attaching: str) -> None:
    finding = found("kernel", kernel=release)
    assert finding.verdict == verdict
    assert release in finding.found
    if verdict == FAIL:
        assert "--capture FILE" in finding.means
        assert "Debian 12" in (finding.remedy or "")
    assert found("attaching", kernel=release).found.startswith(attaching)


def test_no_bpf_at_all_says_what_works_instead() -> None:
    finding = found("bpf(2)", bpf_error="ENOSYS")
    assert (finding.verdict, finding.remedy) == (FAIL, "a kernel with CONFIG_BPF_SYSCALL")
    assert "--from-capture" in finding.means


def test_bpf_forbidden_to_root_is_a_failure_and_to_a_user_is_not() -> None:
    assert found("bpf(2)", bpf_error="EPERM").verdict == FAIL
    assert found("bpf(2)", bpf_error="EPERM", is_root=False, capabilities=frozenset()).verdict == OK


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"capabilities": THREE, "is_root": False}, OK),
        ({"capabilities": THREE - {"CAP_BPF"}, "is_root": False}, WARN),
        (
            {"capabilities": frozenset({"CAP_SYS_ADMIN", "CAP_NET_ADMIN"})},
            OK,
        ),  # CAP_SYS_ADMIN stands for the two others
        ({"capabilities": frozenset({"CAP_SYS_ADMIN"})}, FAIL),
        ({"capabilities": frozenset(), "is_root": True}, FAIL),
        ({"capabilities": frozenset(), "is_root": False}, WARN),
        ({"capabilities": frozenset(), "is_root": False, "interpreter_capabilities": THREE}, OK),
        ({"capabilities": frozenset(), "is_root": False, "units": (Unit("/u", THREE),)}, OK),
    ],
)
def test_privilege(changes: dict[str, Any], verdict: str) -> None:
    assert found("privilege", **changes).verdict == verdict


def test_a_unit_that_lacks_a_capability_is_named_with_it() -> None:
    finding = found("unit", units=(Unit("/etc/systemd/system/vnotch-agent.service", THREE - {"CAP_PERFMON"}),))
    assert finding.verdict == FAIL
    assert "does not give CAP_PERFMON" in finding.found
    assert "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON" in (finding.remedy or "")


def test_a_container_without_privilege_is_told_the_flags_and_what_works_without() -> None:
    finding = found("container", container="podman", capabilities=frozenset(), bpf_error="EPERM")
    assert finding.verdict == FAIL
    assert "--cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON" in (finding.remedy or "")
    assert "--capture FILE" in finding.means
    assert found("container", container="podman").verdict == OK
    assert found("container", container="podman", capabilities=frozenset(), is_root=False).verdict == WARN


def test_root_of_a_user_namespace_is_not_root() -> None:
    assert found("container", user_namespace=True, bpf_error="EPERM").verdict == FAIL


def test_no_libbpf_and_no_btf() -> None:
    assert found("libbpf", libbpf=None).remedy == "sudo apt install libbpf1"
    assert found("libbpf", libbpf=None).verdict == FAIL
    assert found("BTF", has_btf=False).verdict == WARN
    firewall = found("host firewall", netfilter_drops="no BTF", netfilter_remedy="a newer kernel")
    assert (firewall.verdict, firewall.found, firewall.remedy) == (WARN, "no BTF", "a newer kernel")


@pytest.mark.parametrize(
    ("release", "limit", "capabilities", "verdict"),
    [
        ("6.1.0", 65536, THREE, OK),
        ("5.10.0", 65536, THREE, FAIL),
        ("5.10.0", None, THREE, OK),
        ("5.10.0", 65536, ROOT, OK),  # CAP_SYS_RESOURCE
    ],
)
def test_locked_memory_counts_below_5_11(release: str, limit: int | None, capabilities: Any, verdict: str) -> None:
    changes: dict[str, Any] = {"kernel": release, "memlock_bytes": limit, "capabilities": capabilities}
    assert found("locked memory", **changes).verdict == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"clock_synchronised": None}, WARN),
        ({"clock_synchronised": False}, WARN),
        ({"clock_error_seconds": 2.0}, WARN),
        ({"clock_error_seconds": None}, OK),
    ],
)
def test_clock(changes: dict[str, Any], verdict: str) -> None:
    assert found("clock", **changes).verdict == verdict


def test_disk() -> None:
    assert found("disk", disk_free_bytes=50_000_000).verdict == FAIL
    assert found("disk", disk_free_bytes=1_000_000_000).verdict == WARN
    assert found("disk", disk_free_bytes=1_000_000_000, spool_bytes=1_500_000_000).verdict == OK
    assert found("disk", data_dir_writable=False).verdict == WARN
    assert "20.0 GB" in found("disk").means


def test_port() -> None:
    assert found("port", port_state="vnotch").verdict == OK
    assert found("port", port_state="other").verdict == WARN


def test_other_programs_on_our_hooks() -> None:
    tcx, xdp = Hook("eth0", "tcx", "ingress", 2), Hook("eth0", "xdp", "ingress", 1)
    assert found("other programs", devices=("eth0",), hooks=(tcx,)).verdict == OK
    assert "2 on eth0 ingress (tcx)" in found("other programs", devices=("eth0",), hooks=(tcx,)).found
    assert found("other programs", devices=("eth0",), hooks=(tcx, xdp)).verdict == WARN
    assert found("other programs", devices=("eth0",), hooks=None).verdict == WARN


@pytest.mark.parametrize(
    "changes",
    [{"python": (3, 10)}, {"machine": "riscv64"}, {"built": ()}, {"wheel_tags": ("py3-none-linux_aarch64",)}],
)
def test_what_was_built_for_something_else_fails(changes: dict[str, Any]) -> None:
    assert found("build", **changes).verdict == FAIL
    assert exit_status(examine(replace(DEBIAN_12, **changes))) == 1


def test_whatever_does_not_work_has_a_remedy_or_says_what_it_means() -> None:
    """Each check, with facts in which everything is wrong."""
    worst = replace(
        DEBIAN_12,
        kernel="4.19.0",
        is_root=True,
        capabilities=frozenset(),
        bpf_error="ENOSYS",
        libbpf=None,
        has_btf=False,
        netfilter_drops="no BTF",
        netfilter_remedy="a newer kernel",
        has_bpffs=False,
        container="docker",
        built=(),
        memlock_bytes=65536,
        open_files_max=64,
        clock_synchronised=False,
        disk_free_bytes=0,
        port_state="other",
        devices=("eth0",),
        hooks=None,
        units=(Unit("/u", frozenset()),),
    )
    for finding in examine(worst):
        if finding.verdict != OK:
            assert finding.means or finding.remedy, finding.name
            assert finding.verdict in (WARN, FAIL)
    assert exit_status(examine(worst)) == 1
