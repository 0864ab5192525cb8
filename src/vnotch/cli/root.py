"""Root for the parts that need it: by sudo, for single commands, and said before it happens.

The lab and the agent need root; server and readers do not and stay with the person who called. A password is asked for
once, at a terminal, and the permission is kept fresh while a long command runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from vnotch.cli.children import ask
from vnotch.cli.terminal import step
from vnotch.errors import HostError


def is_root() -> bool:
    return os.geteuid() == 0


def as_root(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` as root without a question; `acquire` comes before it."""
    return list(command) if is_root() else ["sudo", "-n", *command]


def acquire(why: str) -> bool:
    """Whether `as_root` will work: at once, or after sudo has asked the person at the terminal. `why` says first
    what needs root."""
    if is_root():
        return True
    if shutil.which("sudo") is None:
        return False
    if refresh():
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    step(f"{why}; sudo asks for your password")
    return subprocess.run(["sudo", "-v"], check=False).returncode == 0


def refresh() -> bool:
    """Keeps sudo's permission from running out. False where sudo would ask."""
    return is_root() or ask(["sudo", "-n", "true"]).returncode == 0


def run_again_as_root(command: Sequence[str], what: str) -> NoReturn:
    """Goes on as root in place of this process. Raises HostError where sudo does not give root."""
    if not acquire(f"{what} needs root"):
        raise HostError(f"{what} needs root, and sudo gives none here", "run it as root")
    step(f"as root: sudo {shlex.join(command)}")
    sys.stderr.flush()
    os.execvp("sudo", ["sudo", "-n", *command])
