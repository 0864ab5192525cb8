"""Rules for all tests: where root and eBPF are missing, tests marked `root` skip at a desk and fail in CI."""

from __future__ import annotations

import ctypes.util
import os
from pathlib import Path

import pytest


def _missing_for_root_tests() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    if ctypes.util.find_library("bpf") is None and not list(Path("/usr/lib").glob("*/libbpf.so.1")):
        return "libbpf.so.1 is missing (sudo apt install libbpf1)"
    if not Path("/sys/kernel/btf").exists() and not Path("/proc/sys/kernel/unprivileged_bpf_disabled").exists():
        return "this kernel has no bpf system call"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with root tests take longest: they go first, so that the workers end at about the same time.
    long = {item.path for item in items if item.get_closest_marker("root")}
    items.sort(key=lambda item: item.path not in long)
    reason = _missing_for_root_tests()
    if reason is None or os.environ.get("CI"):
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """In CI a test marked `root` that skips by itself is a failure: what it proves would be silently unproven."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("root") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: a root test was skipped in CI: {report.longrepr}"
    return report
