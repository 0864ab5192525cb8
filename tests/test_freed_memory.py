"""Memory that was freed is there for what comes next."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
from vnotch.freed_memory import keep_freed_memory

def round() -> int:
    "Pages that the kernel gave while 80 MiB were written and freed."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [b"x" * (8 << 20) for _ in range(10)]
    del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {kept}:
    keep_freed_memory()
round(), round()
print(round())
"""


@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept(kept: bool) -> None:
    command = [sys.executable, "-c", FAULTS.format(kept=kept)]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (faults < 1000) == kept, f"{faults} pages"
