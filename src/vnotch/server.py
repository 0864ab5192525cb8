"""`vnotch server`: the API endpoint, the log service and the state behind them, wired together. It needs no privilege.

The order of starting is the order in which things can fail cheaply: folder, lock, port, then state and lake. The socket
is bound before state is written; a port in use leaves no new folder behind.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from vnotch.api.wipe import Wipe
from vnotch.buckets import open_buckets
from vnotch.buckets.s3 import S3Settings
from vnotch.buckets.upload import BucketStore
from vnotch.config import ENDPOINT_HOST, ENDPOINT_PORT, Folders
from vnotch.data_folder import lock_folder, prepare_folder
from vnotch.delivery_streams import DeliveryStream
from vnotch.errors import VnotchError
from vnotch.server_identity import check_identity
from vnotch.store.accounts import Accounts
from vnotch.store.administrator import ensure_administrator
from vnotch.store.flow_alerts import FlowAlert
from vnotch.store.lake import Lake
from vnotch.store.log_metrics import LogMetrics
from vnotch.store.metric_filters import MetricFilters
from vnotch.store.state import State
from vnotch.store.wipe import finish as finish_wipe
from vnotch.store.wipe import wipe


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


def run(config: ServerConfig, started: Callable[[str], None] = lambda url: None) -> None:
    """Serves until SIGINT or SIGTERM, over wipes that are asked for. `started` is called with the endpoint's URL once
    it answers; after a wipe again."""
    check_identity(config.account, config.region, config.host)
    folder = config.folders.root
    is_new = not folder.exists()
    lock = None
    try:
        prepare_folder(folder)
        lock = lock_folder(folder)
        listener = listen(config.host, config.port)
    except VnotchError:
        if lock is not None:
            os.close(lock)
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        finish_wipe(folder)  # one that was killed half way
        while _serve(config, listener, started):
            gc.unfreeze()  # what the one before held is garbage now
            wipe(folder, config.state_url)
    finally:
        listener.close()
        os.close(lock)


def _serve(config: ServerConfig, listener: socket.socket, started: Callable[[str], None]) -> bool:
    """-> whether it ended because the state is to be wiped. Connections wait at the listener meanwhile."""
    folders = config.folders
    wiping = Wipe()
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
            app = compose(config, state, accounts, lake, agents, buckets, wiping)

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
                _run_until_signal(app, listener, lambda: _say_started(config, started), ending, wiping)
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
    return wiping.asked


def compose(
    config: ServerConfig,
    state: State,
    accounts: Accounts,
    lake: Lake,
    agents: Agents,
    buckets: BucketStore,
    wiping: Wipe,
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
        *wiping.routes(),
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
    app: Starlette,
    listener: socket.socket,
    on_started: Callable[[], None],
    on_ending: Callable[[], None],
    wiping: Wipe,
) -> None:
    """Serves until SIGINT or SIGTERM, or until a wipe is asked for; `on_ending` lets requests go that wait."""
    server = _UvicornServer(http_server(app).config, on_started)

    def end() -> None:
        server.should_exit = True
        on_ending()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        wiping.asked = False
        end()

    wiping.end = end
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # uvicorn closes what it is given, and the port has to stay ours.
        server.run(sockets=[listener.dup()])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
