"""A running API on a loopback port, and clients for it.

    def test_something(api):
        api.serve(Ec2(api.state))                       # before the first client
        vpc = api.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")

`api` serves IAM and STS from the start. `api.client("logs", key=(id, secret))` signs with another key.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import uvicorn
from botocore.config import Config
from shared_clients import PLAIN_HTTP
from starlette.routing import BaseRoute
from state_database import give_back_state, take_state

from vnotch.api.access_log import AccessLog
from vnotch.api.app import build_app
from vnotch.api.exchange import Limits
from vnotch.api.http import http_server, listen
from vnotch.api.iam import Iam
from vnotch.api.service import Service
from vnotch.api.sts import Sts
from vnotch.iam import sigv4
from vnotch.store.accounts import Accounts
from vnotch.store.administrator import ensure_administrator

ACCOUNT = "123456789012"
REGION = "us-east-1"
ADMINISTRATOR_FILE = "credentials.json"
SESSION = boto3.session.Session()
"""One for all clients: it keeps the service models, which take most of a second to read."""


class RunningApi:
    """State, accounts and a server in a thread that starts with the first look at `endpoint`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = take_state()
        self.accounts = Accounts(self.state, ACCOUNT, REGION)
        ensure_administrator(self.accounts, folder / ADMINISTRATOR_FILE)
        self.access_log = AccessLog(folder / "access.log")
        self.flow_log_for: Callable[[str, str, str], tuple[str, str] | None] = lambda *_: None
        self.services: list[Service] = self._own_services()
        self.routes: list[BaseRoute] = []
        self.limits = Limits()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    def _own_services(self) -> list[Service]:
        sts = Sts(self.accounts, lambda *question: self.flow_log_for(*question), self.access_log)
        return [Iam(self.accounts), sts]

    def serve(self, *services: Service, routes: Sequence[BaseRoute] = ()) -> None:
        assert self._server is None, "serve() comes before the first client"
        self.services.extend(services)
        self.routes.extend(routes)

    @property
    def endpoint(self) -> str:
        if self._server is None:
            self._start()
        assert self._socket is not None
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def administrator_key(self) -> tuple[str, str]:
        content = json.loads((self.folder / ADMINISTRATOR_FILE).read_text())
        return content["access_key_id"], content["secret_access_key"]

    def client(self, service: str, key: tuple[str, ...] | None = None, region: str = REGION, **config: Any) -> Any:
        """A boto3 client; `key` is (id, secret) or (id, secret, session token), by default the administrator's."""
        key_id, secret, *token = key or self.administrator_key
        settings = {"retries": {"max_attempts": 0}, "read_timeout": 20, "connect_timeout": 5, **config}
        return SESSION.client(
            service,
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=token[0] if token else None,
            config=Config(**settings),
        )

    def send(
        self,
        service: str,
        body: bytes,
        key: tuple[str, ...] | None = None,
        *,
        method: str = "POST",
        path: str = "/",
        query: str = "",
        headers: dict[str, str] | None = None,
        now_s: float | None = None,
    ) -> httpx.Response:
        """A request of the test's own making, signed by vnotch; a `key` of () sends it unsigned."""
        key = self.administrator_key if key is None else key
        url = f"{self.endpoint}{path}" + (f"?{query}" if query else "")
        sent = {"host": url.split("/")[2], "content-type": "application/x-www-form-urlencoded", **(headers or {})}
        if key:
            covered = sigv4.Request(method, path, query, list(sent.items()), hashlib.sha256(body).hexdigest())
            sent |= sigv4.sign(
                covered,
                key[0],
                key[1],
                now_s=time.time() if now_s is None else now_s,
                region=REGION,
                service=service,
                session_token=key[2] if len(key) > 2 else "",
            )
        return httpx.request(method, url, content=body, headers=sent, timeout=20, verify=PLAIN_HTTP)

    def _start(self) -> None:
        app = build_app(self.state, self.services, self.accounts, self.routes, self.access_log, self.limits)
        self._socket = listen("127.0.0.1", 0)
        self._server = http_server(app)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            assert self._thread.is_alive(), "the server ended at its start"
            time.sleep(0.005)

    def restart(self) -> None:
        """A new server on the same folder, as after a stop."""
        self.stop()
        self._server = None
        self.accounts = Accounts(self.state)
        self.services[:2] = self._own_services()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(10)
            assert not self._thread.is_alive()

    def close(self) -> None:
        for service in self.services:
            service.end()  # as the server does it: streams that are open would hold up its end for seconds
        self.stop()
        self.access_log.close()
        give_back_state(self.state)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    running = RunningApi(tmp_path)
    yield running
    running.close()


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """One server for a module, whose tests keep to resources of their own."""
    running = RunningApi(tmp_path_factory.mktemp("api"))
    yield running
    running.close()
