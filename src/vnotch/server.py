"""`vnotch server`: the API endpoint, the log service and the state behind them, wired together. It needs no privilege.

The order of starting is the order in which things can fail cheaply: folder, lock, port, then state and lake. The socket
is bound before state is written; a port in use leaves no new folder behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from vnotch.api.access import Access
from vnotch.api.access_log import AccessLog
from vnotch.api.agents import Agents
from vnotch.api.app import build_app
from vnotch.api.cloudwatch import CloudWatch
from vnotch.api.cloudwatch.alert_watch import AlertWatch
from vnotch.api.cloudwatch.watch import MetricWatch
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.delivery_streams import StreamTargets
from vnotch.api.ec2 import Ec2
from vnotch.api.explanations import Explanations
from vnotch.api.http import http_server, listen
from vnotch.api.iam import Iam
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.log_imports import LogImports
from vnotch.api.log_records import LogRecords
from vnotch.api.logs import Logs
from vnotch.api.quotas import Quotas
from vnotch.api.sts import Sts
from vnotch.api.uploads import Uploads
from vnotch.api.usage import Usage
from vnotch.buckets import open_buckets
from vnotch.buckets.s3 import S3Settings
from vnotch.buckets.upload import BucketStore
from vnotch.config import ENDPOINT_HOST, ENDPOINT_PORT, Folders
from vnotch.delivery_streams import DeliveryStream
from vnotch.errors import HostError, InputError, VnotchError
from vnotch.store.accounts import Accounts
from vnotch.store.administrator import ensure_administrator
from vnotch.store.flow_alerts import FlowAlert
from vnotch.store.lake import Lake
from vnotch.store.log_metrics import LogMetrics
from vnotch.store.metric_filters import MetricFilters
from vnotch.store.state import State

FREE_BYTES_MIN = 64 << 20
"""Below this much free disk the server does not start: SQLite and DuckLake both need room to commit."""


@dataclass(frozen=True)
class ServerConfig:
    folders: Folders
    host: str = ENDPOINT_HOST
    port: int = ENDPOINT_PORT
    account: str | None = None  # fixed at first start
    region: str | None = None  # fixed at first start
    any_interval: bool = False  # aggregation intervals from 1 to 900 s beside AWS's 60 and 600
    quotas: Quotas = field(default_factory=Quotas)
    state_url: str | None = None  # SQLAlchemy's URL of the state's database; None: SQLite in the data folder
    s3_endpoint: str | None = None  # aws, a URL, or file:FOLDER; None: the data folder's own
    s3: S3Settings = field(default_factory=S3Settings)
    webhooks: Mapping[str, str] = field(default_factory=dict)  # ARN of an alarm's action -> URL
    streams: Mapping[str, DeliveryStream] = field(default_factory=dict)  # by name
    alerts: Sequence[FlowAlert] = ()

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def check(self) -> None:
        """Raises InputError for an account or a region of another form than AWS's."""
        if self.account is not None and not re.fullmatch(r"[0-9]{12}", self.account):
            raise InputError(f"{self.account!r} is no account id", "12 digits, such as 123456789012")
        if self.region is not None and not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}", self.region):
            raise InputError(f"{self.region!r} is no region", "such as us-east-1")


def prepare_folder(folder: Path) -> None:
    """Makes the data folder and proves that it can be written. Raises HostError with the remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / ".write-probe"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        # Made here, so that an agent that runs as root makes only its own folder below.
        (folder / "agents").mkdir(exist_ok=True)
    except OSError as error:
        raise HostError(
            f"the data folder {folder} cannot be written: {error.strerror}", "name another with --data-dir"
        ) from None
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_MIN:
        raise HostError(
            f"only {free >> 20} MB are free where {folder} is, {FREE_BYTES_MIN >> 20} MB are needed",
            "make room, or name another folder with --data-dir",
        )


def lock_folder(folder: Path) -> int:
    """One server a folder. Returns the descriptor that holds the lock until the process ends."""
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 32, 0).decode() or "unknown"
        os.close(descriptor)
        raise HostError(
            f"a vnotch server already runs with the data folder {folder} (process {owner.strip()})",
            "stop it, or name another folder with --data-dir",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def bind(host: str, port: int) -> socket.socket:
    """The listening socket. Only loopback addresses are taken: without TLS keys and data would cross the network."""
    if not (host.startswith("127.") or host in ("::1", "localhost")):
        raise InputError(
            f"the endpoint cannot be {host}: without TLS it listens on loopback only",
            "use 127.0.0.1 and put a proxy with TLS before it",
        )
    return listen(host, port)


def run(config: ServerConfig, started: Callable[[str], None] = lambda url: None) -> None:
    """Serves until SIGINT or SIGTERM. `started` is called with the endpoint's URL once it answers."""
    config.check()
    folder = config.folders.root
    is_new = not folder.exists()
    lock = None
    try:
        prepare_folder(folder)
        lock = lock_folder(folder)
        listener = bind(config.host, config.port)
    except VnotchError:
        if lock is not None:
            os.close(lock)
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        _serve(config, listener, started)
    finally:
        listener.close()
        os.close(lock)


def _serve(config: ServerConfig, listener: socket.socket, started: Callable[[str], None]) -> None:
    folders = config.folders
    state = State.open(folders.state, config.state_url)
    try:
        state.create_tables()
        accounts = Accounts(state, config.account, config.region)
        ensure_administrator(accounts, folders.credentials)
        lake = Lake.open(folders.lake)
        try:
            agents = Agents(state, accounts)
            buckets = open_buckets(
                config.s3_endpoint, config.s3, folder=folders.buckets, url=config.url, region=accounts.region
            )
            app = compose(config, state, accounts, lake, agents, buckets)

            def ending() -> None:
                agents.watch.close()
                app.state.api.end()

            # What there is now stays: collections of garbage need not walk it, nor the process's end take it apart.
            gc.freeze()
            accounts.last_uses.start()
            app.state.alert_watch.start()
            app.state.metric_watch.start()
            app.state.usage.start()
            try:
                _run_until_signal(app, listener, lambda: _say_started(config, started), ending)
            finally:
                app.state.alert_watch.close()
                app.state.usage.close()
                app.state.metric_watch.close()
                accounts.last_uses.close()
        finally:
            lake.close()
    finally:
        (folders.root / "endpoint").unlink(missing_ok=True)
        state.close()


def compose(
    config: ServerConfig, state: State, accounts: Accounts, lake: Lake, agents: Agents, buckets: BucketStore
) -> Starlette:
    """The application with every service on it, and `metric_watch`, `alert_watch` and `usage` in its state."""
    logs = Logs(state, lake, config.quotas)
    webhooks = Webhooks(config.webhooks)
    alerts = AlertWatch(state, lake, accounts, webhooks, config.alerts)
    access_log = AccessLog(config.folders.root / "access.log")
    usage = Usage(state, access_log)
    services = [
        Ec2(
            state,
            accounts,
            any_interval=config.any_interval,
            quotas=config.quotas,
            buckets=buckets,
            streams=config.streams,
        ),
        Iam(accounts),
        Sts(accounts, agents.flow_log_for, access_log),
        logs,
        CloudWatch(state, webhooks),
    ]
    ours = [
        *agents.routes(),
        *Uploads(state, accounts, buckets).routes(),
        *StreamTargets(state, accounts, config.streams).routes(),
        *LogRecords(logs).routes(),
        *LogImports(state, lake).routes(),
        *LabHosts(state, accounts).routes(),
        *Explanations(state, accounts).routes(),
        *Access(accounts, access_log).routes(),
        *alerts.routes(),
        *usage.routes(),
    ]
    app = build_app(state, services, accounts, extra_routes=ours, access_log=access_log)
    app.state.alert_watch = alerts
    filters = MetricFilters(state, lake, logs.totals)
    app.state.metric_watch = MetricWatch(state, accounts, filters, LogMetrics(state, lake), webhooks)
    app.state.usage = usage
    return app


def _say_started(config: ServerConfig, started: Callable[[str], None]) -> None:
    """Writes the address down for vnotch's own commands, then tells it."""
    path = config.folders.root / "endpoint"
    temporary = path.with_name(".endpoint")
    temporary.write_text(config.url + "\n")
    temporary.replace(path)
    started(config.url)


class _UvicornServer(uvicorn.Server):
    """Says when it answers, and leaves signals to us: uvicorn would raise them again after its end."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _run_until_signal(
    app: Starlette, listener: socket.socket, on_started: Callable[[], None], on_ending: Callable[[], None]
) -> None:
    """Serves until SIGINT or SIGTERM; `on_ending` then lets requests go that wait for something."""
    server = _UvicornServer(http_server(app).config, on_started)

    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True
        on_ending()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
