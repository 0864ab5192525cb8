"""Rules for all tests: where root and eBPF are missing, tests marked `root` skip at a desk and fail in CI."""

from __future__ import annotations

import ctypes.util
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from shared_clients import share_models

if TYPE_CHECKING:
    from links import Pair

# Compiled modules are kept whatever the environment says: each of the hundreds of processes that tests start would
# compile vnotch anew, and each worker all tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4_000_000_000
"""Free in MEMORY where tests have their folders there; a run takes a tenth of it."""


def _work_in_memory() -> None:
    """Servers, lakes and spools sync what they write; on a disk tests wait for that as long as they compute. That
    files are synced, and before what, is told from the calls, which are the same there. TMPDIR names another place."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    found = os.statvfs(MEMORY)
    if found.f_bavail * found.f_frsize >= MEMORY_BYTES_MIN and not found.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_work_in_memory()

share_models()

# A machine with other work to do is no failure.
hypothesis.settings.register_profile("vnotch", deadline=None)
hypothesis.settings.load_profile("vnotch")

LONGEST_FIRST = (
    # With --dist loadfile a worker takes the next file when it is done with one: what begins last must be short.
    "test_demo.py",
    "cli/test_attach.py",
    "test_privilege.py",
    "test_enrol.py",
    "test_bad_input.py",
    "agent/test_crash.py",
    "test_documented.py",
    "test_lake_durability.py",
    "cli/test_commands.py",
    "test_lake.py",
    "api/test_logs.py",
    "test_takeover.py",
    "test_spine.py",
    "test_bucket_spine.py",
    "test_server.py",
    "test_host_firewall_drains.py",
    "cli/test_lab.py",
    "test_views_live.py",
    "lab/test_lab.py",
    "test_follow.py",
    "cli/test_query.py",
    "test_imports.py",
    "insights/test_properties.py",
    "test_log_records.py",
    "logs/test_faults.py",
    "cli/test_flow_logs.py",
    "store/test_records.py",
    "store/test_backup.py",
    "cli/test_wipe.py",
    "cloudwatch/test_alert_watch.py",
    "cli/test_access.py",
    "api/test_agents.py",
    "test_bucket_tree.py",
    "test_filter_pattern_agreement.py",
    "cloudwatch/test_alarms.py",
    "cloudwatch/test_log_metrics.py",
    "test_bucket_crash.py",
    "test_evaluation.py",
    "test_javascript_reader.py",
    "cloudwatch/test_metrics.py",
    "test_live_tail.py",
    "test_pcap_fuzz.py",
)
"""Files that take longest, as a run with --durations shows them."""


def _missing_for_root_tests() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    if ctypes.util.find_library("bpf") is None and not list(Path("/usr/lib").glob("*/libbpf.so.1")):
        return "libbpf.so.1 is missing (sudo apt install libbpf1)"
    if not Path("/sys/kernel/btf").exists() and not Path("/proc/sys/kernel/unprivileged_bpf_disabled").exists():
        return "this kernel has no bpf system call"
    return None


def _rank(path: Path) -> int:
    found = (place for place, end in enumerate(LONGEST_FIRST) if f"/{path.as_posix()}".endswith(f"/{end}"))
    return next(found, len(LONGEST_FIRST))


def _side_by_side(items: list[pytest.Item], root: set[Path]) -> None:
    """Files with root tests wait for windows and processes, and leave the cores idle; the others do not. So each kind
    is spread over the whole run, and of each the longest come first."""
    paths = sorted(dict.fromkeys(item.path for item in items), key=_rank)
    kinds = [path for path in paths if path in root], [path for path in paths if path not in root]
    places = {path: number / len(kind) for kind in kinds for number, path in enumerate(kind)}
    items.sort(key=lambda item: places[item.path])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = {item.path for item in items if item.get_closest_marker("root")}
    _side_by_side(items, root)
    reason = _missing_for_root_tests()
    if reason is None or os.environ.get("CI"):
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Thousands of tests and what they import are there to the end: no garbage collection walks them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """In CI a test marked `root` that skips by itself is a failure: what it proves would be silently unproven."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("root") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: a root test was skipped in CI: {report.longrepr}"
    return report


@pytest.fixture
def pair() -> Iterator[Pair]:
    from links import Pair

    made = Pair()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["tcx", "clsact"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both ways of attaching."""
    return str(request.param)
