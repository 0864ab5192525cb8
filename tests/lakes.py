"""New log stores for tests: copies of an empty one that is made once a process, since its tables take 0.2 s to make."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from vnotch.store.lake import Lake


@cache
def _empty() -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory(prefix="vntest-lake-")
    Lake.open(Path(made.name) / "lake").close()
    return made


def new_lake(folder: Path, **options: Any) -> Lake:
    """An open lake without events in `folder`, which is not there yet; options as for `Lake.open`."""
    shutil.copytree(Path(_empty().name) / "lake", folder)
    return Lake.open(folder, **options)
