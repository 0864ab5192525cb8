"""CloudWatch and the log service on a running API, and a web server that takes the calls of alarms."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import botocore.model
import pytest
from lakes import new_lake

from vnotch.api.cloudwatch import CloudWatch
from vnotch.api.cloudwatch.watch import MetricWatch
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.logs import Logs
from vnotch.store.lake import Lake
from vnotch.store.log_metrics import LogMetrics
from vnotch.store.metric_filters import MetricFilters

TOPIC = "arn:aws:sns:us-east-1:123456789012:ops"


class Hook:
    """`calls` are the documents that were posted; `answers` the statuses of the next answers, 200 after them."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.arrived = threading.Semaphore(0)
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = hook.answers.pop(0) if hook.answers else 200
                if status == 200:
                    hook.calls.append(json.loads(body))
                    hook.arrived.release()
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    def wait(self) -> dict[str, Any]:
        assert self.arrived.acquire(timeout=30), "the webhook is not called"
        return self.calls[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def lake(tmp_path: Any) -> Iterator[Lake]:
    lake = new_lake(tmp_path / "lake")
    yield lake
    lake.close()


@pytest.fixture
def watch(api: Any, lake: Lake, hook: Hook) -> Iterator[MetricWatch]:
    """Not started: a test calls its steps."""
    logs, webhooks = Logs(api.state, lake), Webhooks({TOPIC: hook.url})
    api.serve(logs, CloudWatch(api.state, webhooks))
    filters = MetricFilters(api.state, lake, logs.totals)
    yield MetricWatch(api.state, api.accounts, filters, LogMetrics(api.state, lake), webhooks)
    webhooks.close()


@pytest.fixture(params=["smithy-rpc-v2-cbor", "json", "query"])
def cloudwatch(request: Any, api: Any, watch: MetricWatch, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client for each protocol that clients of some age speak."""
    with monkeypatch.context() as changed:
        changed.setattr(botocore.model, "PRIORITY_ORDERED_SUPPORTED_PROTOCOLS", (request.param,))
        client = api.client("cloudwatch")
    assert client.meta.service_model.resolved_protocol == request.param
    return client
