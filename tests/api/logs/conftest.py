"""The service `logs` on a running API, with a group and a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lakes import new_lake

from vnotch.api.logs import Logs
from vnotch.api.quotas import Quotas
from vnotch.store.lake import Lake


@pytest.fixture
def lake(tmp_path: Any) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake")
    yield lake
    lake.close()


@pytest.fixture
def quotas() -> Quotas:
    return Quotas()


@pytest.fixture
def logs(api: Any, lake: Lake, quotas: Quotas) -> Iterator[Any]:
    service = Logs(api.state, lake, quotas)
    api.serve(service)
    yield api.client("logs")
    service.close()  # queries end before the lake is closed


@pytest.fixture
def stream(logs: Any) -> Any:
    logs.create_log_group(logGroupName="flow")
    logs.create_log_stream(logGroupName="flow", logStreamName="eni-1-all")
    return {"logGroupName": "flow", "logStreamName": "eni-1-all"}
