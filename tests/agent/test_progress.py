"""The progress file: what becomes of the spool when it is damaged or gone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from vnotch.agent.progress import Progress
from vnotch.deliver.batch import EVENT_SCHEMA, Batch
from vnotch.deliver.spool import Spool


def spool_with_batches(folder: Path, commits: int) -> None:
    spool = Spool(folder / "spool", bytes_max=1 << 30, seconds_max=3600, complete_commit=0)
    events = pa.table([pa.array([1], pa.int64()), pa.array(["x"], pa.string())], schema=EVENT_SCHEMA)
    for commit in range(1, commits + 1):
        spool.write(commit, [Batch(f"b{commit}", "fl-1", "g", "eni-1-all", "arn", events)], now_s=1_700_000_000)
        spool.release(commit)


@pytest.mark.parametrize("content", [b"", b"{", b'{"commit": 12}', None])
def test_without_its_progress_an_agent_keeps_what_it_spooled(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    spool_with_batches(tmp_path, 12)
    path = tmp_path / "progress.json"
    if content is not None:
        path.write_bytes(content)
    progress = Progress.load(path)
    spool = Spool(tmp_path / "spool", bytes_max=1 << 30, seconds_max=3600, complete_commit=progress.commit)
    assert spool.waiting() == {"fl-1": 12}
    assert progress.commit == 12, "the next commit has a number of its own"
    assert len(caplog.records) == (content is not None), "what was set aside is said"


def test_the_first_start(tmp_path: Path) -> None:
    assert Progress.load(tmp_path / "progress.json").commit == 0
