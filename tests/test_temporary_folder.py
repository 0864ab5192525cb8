"""Temporary folders: gone at the end, and what a killed process left is removed by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vnotch.temporary_folder import TemporaryFolder

HOLDER = """
import sys
from vnotch.temporary_folder import TemporaryFolder
folder = TemporaryFolder("vnotch-test-")
(folder.path / "spill").mkdir()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_there_until_it_is_cleaned_up(place: Path):
    folder = TemporaryFolder("vnotch-test-")
    (folder.path / "file").write_bytes(b"x")
    assert folder.path.parent == place
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.cleanup()
    assert list(place.iterdir()) == []


def test_a_killed_process_s_goes_and_a_living_one_s_stays(place: Path):
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().decode().strip())
        TemporaryFolder("vnotch-test-").cleanup()
        assert (held / "spill").exists()
        process.send_signal(signal.SIGKILL)
    assert held.exists()
    TemporaryFolder("vnotch-test-").cleanup()
    assert list(place.iterdir()) == []


def test_what_is_not_ours_stays(place: Path):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (place / "vnotch-test-link").symlink_to(elsewhere)
    (place / "vnotch-test-without-lock").mkdir()
    (place / "vnotch-test-linked-lock").mkdir()
    (place / "vnotch-test-linked-lock" / "lock").symlink_to(elsewhere / "lock")
    (place / "vnotch-other-").mkdir()
    before = sorted(place.iterdir())
    if os.geteuid() == 0:
        (place / "vnotch-test-of-another").mkdir()
        (place / "vnotch-test-of-another" / "lock").touch()
        os.chown(place / "vnotch-test-of-another", 65534, 65534)
        before = sorted(place.iterdir())
    TemporaryFolder("vnotch-test-").cleanup()
    assert sorted(place.iterdir()) == before
    assert (elsewhere / "lock").exists()
