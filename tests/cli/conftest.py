"""One server for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import RunningServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server"), "--any-interval")
    yield running
    if running.process.poll() is None:
        running.stop()
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def nothing(tmp_path: Path) -> str:
    """A data folder that no server has used."""
    return str(tmp_path / "nothing")
