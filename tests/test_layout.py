"""The tree reads in the order of the data path, and imports go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "vnotch"

ORDER = [
    "errors",
    "durable",
    "freed_memory",
    "priority",
    "interrupts",
    "temporary_folder",
    "module_process",
    "native_library",
    "service_models",
    "signed_http",
    "boot",
    # packet
    "flow",
    "owner",
    "rules",
    "deciders",
    "packet",
    "connections",
    "verdict",
    "capture",
    "links",
    "workloads",
    "candidates",
    # flow
    "window",
    "ledger",
    # record
    "fields",
    "inventory",
    "explain",
    "address",
    "service_ranges",
    "paths",
    "coded",
    "line_parser",
    "line",
    "columns",
    "bucket_keys",
    "record",
    "bucket_files",
    "bucket_replacement",
    "athena",
    "delivery_streams",
    # destination
    "deliver",
    # log service and state
    "store",
    # answer
    "query",
    "insights",
    "compact",
    "imports",
    # round the path
    "iam",
    "buckets",
    "api",
    "config",
    "lab",
    # what wires parts together
    "agent",
    "doctor",
    "data_folder",
    "server_identity",
    "server",
    "cli",
]
"""A module imports from its own part and from parts before it, never from one after it."""

MODULES = sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "vnotch" else [module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("vnotch.")}
    return parts - {"__version__"}


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(path) for path in MODULES} - {"__init__", "__main__"} <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    allowed = set(ORDER[: ORDER.index(part) + 1])
    assert imported_parts(path) <= allowed


def test_capture_and_deliver_do_not_know_each_other() -> None:
    for path in MODULES:
        if part_of(path) == "deliver":
            assert "capture" not in imported_parts(path), path


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("vnotch.agent.process", "duckdb"),
        ("vnotch.agent.asking", "pyarrow"),
        ("vnotch.cli.status", "pyarrow"),
        ("vnotch.cli", "vnotch.agent"),
        ("vnotch.cli", "pyarrow"),
        ("vnotch.api.app", "vnotch.capture.kernel"),
        ("vnotch.api.app", "pyroute2"),
    ],
)
def test_importing_a_part_does_not_load_what_it_must_not_need(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
