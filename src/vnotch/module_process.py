"""Processes that run a module of ours beside this one, with the interpreter and the source that run here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import vnotch


def module_command(module: str, *arguments: str) -> list[str]:
    """Its command line; -P keeps the folder that it is run in, which may be anyone's, from being imported from."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """Ours, and this very source: a process may run from a tree that is not installed."""
    path = os.pathsep.join(filter(None, [str(Path(vnotch.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
