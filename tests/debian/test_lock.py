"""The lock of the package's dependencies: it has what pyproject.toml asks for, and a hash for each file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def locked() -> dict[str, list[str]]:
    """Name -> locked versions (more than one where they differ by the Python version)."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "packaging" / "requirements.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pinned = re.match(r"([A-Za-z0-9_.-]+)==([^ ;]+)", line)
            assert pinned, line
            assert "--hash=sha256:" in line, pinned[1]
            found.setdefault(canonicalize_name(pinned[1]), []).append(pinned[2])
    return found


def test_the_lock_satisfies_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = locked()
    for text in project["dependencies"]:
        wanted = Requirement(text)
        found = versions.get(canonicalize_name(wanted.name))
        assert found, f"{wanted.name} is not locked: see packaging/requirements.txt"
        assert all(wanted.specifier.contains(version) for version in found), (text, found)


def test_no_tool_of_the_build_is_bundled() -> None:
    assert not {"ziglang", "hatchling", "pytest", "mypy", "ruff"} & locked().keys()
