from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_logs import FakeLogs


@pytest.fixture
def logs() -> Iterator[FakeLogs]:
    server = FakeLogs()
    yield server
    server.close()
