"""Command lines that run a program as a user without root, with the capabilities named and no others.

The program sees the checkout, its interpreter and its packages at their own paths, also where they lie below a folder
that is closed to other users (as /root is): in a mount namespace of its own such a folder is an open one that has these
trees in it and nothing else.
"""

from __future__ import annotations

import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

UID = 64321
"""Of no user: nothing on the host belongs to it."""

AGENT = ("bpf", "net_admin", "perfmon")
"""What the agent's unit gives, and no more."""

ROOT = Path(__file__).resolve().parent.parent


def command(
    argv: Sequence[str], *, netns: str, capabilities: Sequence[str] = AGENT, uid: int = UID, trees: Sequence[Path] = ()
) -> list[str]:
    """`argv` as user `uid` in the network namespace `netns`; `trees` are further folders that it must reach."""
    granted = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    drop = [
        "nsenter",
        f"--net=/run/netns/{netns}",
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        f"--bounding-set={granted}",
        f"--inh-caps={granted}",
        f"--ambient-caps={granted}",
        "--no-new-privs",
        "env",
        f"PYTHONPATH={ROOT / 'src'}",
        "PYTHONDONTWRITEBYTECODE=1",
        f"HOME=/nonexistent-{uid}",
        *argv,
    ]
    needed = [ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), *trees]
    script = "\n".join(["set -e", *_open(needed), f"exec {shlex.join(drop)}"])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


def _open(trees: Sequence[Path]) -> list[str]:
    """Shell lines, for a mount namespace of one's own, after which everyone reaches these trees."""
    closed = {tree: found for tree in trees if (found := _closed_above(tree)) is not None}
    lines = ["mount -t tmpfs -o mode=755 vntest /mnt"] if closed else []
    for number, tree in enumerate(closed):
        lines.append(f"mkdir /mnt/{number}; mount --bind {shlex.quote(str(tree))} /mnt/{number}")
    for folder in sorted(set(closed.values())):
        lines.append(f"mount -t tmpfs -o mode=755 vntest {shlex.quote(str(folder))}")
    for number, tree in enumerate(closed):
        place = shlex.quote(str(tree))
        lines.append(f"mkdir -p {place}; mount --bind /mnt/{number} {place}")
    return lines


def _closed_above(tree: Path) -> Path | None:
    """The outermost folder above `tree` that other users cannot pass."""
    return next((path for path in reversed(tree.parents) if not path.stat().st_mode & stat.S_IXOTH), None)
