"""The agent as a process: settings, threads, signals, and the loop that waits for the next tick.

Threads: the loop (the caller's), the configuration poll, the status post, the link watcher and the courier's pool. They
speak to the loop through one queue; the loop never waits for any of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnotch.agent.configuration import ConfigurationPoll, ServerClient, StatusPost, load_key
from vnotch.agent.loop import Capture
from vnotch.capture.interfaces import LinkWatcher, Namespace
from vnotch.config import FLOWS_PER_MAP, REGION, SPOOL_BYTES, SPOOL_SECONDS
from vnotch.deliver.batch import Batch
from vnotch.deliver.courier import BACKOFF_SECONDS_MAX, Courier
from vnotch.deliver.endpoint import BatchRefused, Endpoint
from vnotch.deliver.logs import Delivered, LogGroups
from vnotch.deliver.role import Roles
from vnotch.errors import AccessError, HostError, VnotchError
from vnotch.inventory import AgentConfiguration

PINS = Path("/run/vnotch/bpf")
"""Where maps and links of agents are pinned, a folder for each. It is a mount of its own: /sys/fs/bpf is hidden from
processes that `ip netns exec` starts, and is missing in many containers."""

STOP_SECONDS = 3.0
"""How long a stopping agent goes on delivering; the rest stays in the spool."""

RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentConfig:
    """Settings of an agent. `folder` holds its journal, spool, progress and status."""

    name: str
    endpoint_url: str
    key_file: Path
    folder: Path
    region: str = REGION
    netns: str | None = None  # the network namespace whose interfaces it captures; None: its own
    attach_mode: str = "auto"  # auto, tcx, clsact
    flows_per_map: int = FLOWS_PER_MAP
    pin_dir: Path | None = None  # default: PINS / name
    spool_bytes_max: int = SPOOL_BYTES
    spool_seconds_max: int = SPOOL_SECONDS
    backoff_seconds_max: float = BACKOFF_SECONDS_MAX  # between two tries of a destination that fails
    flush_on_exit: bool = False  # close all windows when stopped, and wait until everything is delivered
    flush_seconds: float = 20.0  # but no longer than this
    capture_file: Path | None = None  # played in place of the kernel
    detach_on_exit: bool = False  # leave no program, map or pin; otherwise capture goes on until the next start


def run(config: AgentConfig, started: Callable[[], None] = lambda: None) -> bool:
    """Runs until SIGINT or SIGTERM. `started` is called when the agent is ready to capture.

    -> whether nothing was left to deliver at the end. Raises HostError (a second agent of the name, missing privilege,
    a folder that cannot be written) and InputError (no key) before anything is captured.
    """
    key = load_key(config.key_file)
    lock = lock_folder(config.folder, config.name)
    try:
        datapath = open_datapath(config)
        try:
            endpoint = Endpoint(config.endpoint_url, config.region)
            groups = LogGroups(endpoint, Roles(endpoint, key))
            server = [ServerClient(config.endpoint_url, config.region, config.name, key) for _ in range(2)]
            agent = Agent(config, datapath, groups.deliver, server[0], server[1], forget=groups.forget)
            watcher = None if config.capture_file else _watch_links(config.netns, agent)
            for number in (signal.SIGINT, signal.SIGTERM):
                if threading.current_thread() is threading.main_thread():
                    signal.signal(number, lambda *_: agent.stop())
            try:
                return agent.run(started)
            finally:
                if watcher is not None:
                    watcher.close()
        finally:
            if config.detach_on_exit:
                datapath.destroy()
                _remove_empty(PINS, PINS.parent)
            else:
                datapath.close()
    finally:
        os.close(lock)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # another agent's pins are there, or it is gone
            folder.rmdir()


def open_datapath(config: AgentConfig) -> Any:
    """The kernel's datapath, or the capture file that is played in its place (without root, and without libbpf)."""
    if config.capture_file is not None:
        from vnotch.capture.playback import Playback

        return Playback(config.capture_file)
    from vnotch.capture.kernel import Datapath  # looks for libbpf, which nothing before needs

    return Datapath.open(
        netns=config.netns,
        pin_dir=config.pin_dir or PINS / config.name,
        flows_per_map=config.flows_per_map,
        attach_mode=config.attach_mode,
    )


def lock_folder(folder: Path, name: str) -> int:
    """Makes the folder and locks it for one agent. -> the descriptor that holds the lock until the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            f"the agent's folder {folder} cannot be written: {error.strerror}", "name another with --data-dir"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
        os.close(descriptor)
        raise HostError(f"an agent named {name} already runs here (process {owner})", "stop it first") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class Agent:
    """The loop and its threads, wired. `deliver` takes a batch to its destination; `forget` drops a flow log's keys."""

    def __init__(
        self,
        config: AgentConfig,
        datapath: Any,
        deliver: Callable[[Batch], Delivered],
        poll_client: ServerClient,
        post_client: ServerClient,
        *,
        forget: Callable[[str], None] = lambda flow_log_id: None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._deliver = deliver
        self._forget = forget
        self._now_ns = now_ns
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._due_ns: int | None = None
        self._pending: AgentConfiguration | None = None
        self.capture_error: str | None = None
        self.capture = Capture(
            config.folder,
            datapath,
            spool_bytes_max=config.spool_bytes_max,
            spool_seconds_max=config.spool_seconds_max,
            now_ns=now_ns,
        )
        self.courier = Courier(
            self.capture.spool,
            self._carry,
            backoff_seconds_max=config.backoff_seconds_max,
            on_status=lambda: self._events.put(self._show),
        )
        self._poll = ConfigurationPoll(
            poll_client,
            config.folder / "configuration.json",
            lambda configuration: self._events.put(lambda: self._configure(configuration)),
        )
        self._post = StatusPost(post_client)

    # For other threads

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Ends the loop. May be called from a signal handler."""
        self._events.put(self._stop)

    def links_changed(self, vanished: list[str]) -> None:
        """Interfaces of the host came, or these went."""
        self._events.put(lambda: self._relink(vanished))

    # The loop

    def run(self, started: Callable[[], None] = lambda: None) -> bool:
        """-> whether nothing was left to deliver at the end."""
        if (last := self._poll.last()) is not None:
            self._configure(last)
        for thread in (self.courier, self._poll, self._post):
            thread.start()
        started()
        try:
            while not self._stopping:
                self._wait()
        finally:
            empty = self._end()
        return empty

    def _wait(self) -> None:
        """Waits for the next tick or event, whichever is first, and does it."""
        wait_s = self._until_tick_s()
        if wait_s <= 0:
            self._tick()
            return
        retries = self._pending is not None or self.capture.interfaces.has_unattached
        try:
            event = self._events.get(timeout=min(wait_s, RETRY_SECONDS) if retries else wait_s)
        except queue.Empty:
            if retries:
                self._retry()
            return
        event()

    def _until_tick_s(self) -> float:
        """Seconds to the next tick, at multiples of its length since the epoch; 0 or less where it is due.

        A tick that came due while an event was handled stays due. Where the clock is set back or the tick is shortened,
        the next one is the next boundary from now.
        """
        tick_ns = self.capture.tick_seconds * 1_000_000_000
        now_ns = self._now_ns()
        self._due_ns = min(self._due_ns or (1 << 63), (now_ns // tick_ns + 1) * tick_ns)
        return (self._due_ns - now_ns) / 1e9

    def _tick(self) -> None:
        self._due_ns = None
        self._guarded(lambda: self._woken(self.capture.step()))
        self._retry()
        self._show()

    def _retry(self) -> None:
        if self._pending is not None:
            self._configure(self._pending)
        elif self.capture.interfaces.has_unattached and self.capture.interfaces.retry():
            self._show()

    def _configure(self, configuration: AgentConfiguration) -> None:
        before = self.capture.flow_log_ids or set()
        self._pending = configuration
        if self._guarded(lambda: self.capture.apply(configuration)):
            self._pending = None
            for flow_log_id in before - (self.capture.flow_log_ids or set()):
                self.courier.forget(flow_log_id)
        self.courier.wake()
        self._show()

    def _relink(self, vanished: list[str]) -> None:
        for device in vanished:
            self.capture.interfaces.gone(device)
        self.capture.interfaces.retry()
        self._show()

    def _stop(self) -> None:
        self._stopping = True

    def _guarded(self, action: Callable[[], None]) -> bool:
        """Does what the datapath or the disk may refuse; nothing is lost by that, and it is done again later."""
        try:
            action()
        except (VnotchError, OSError) as error:
            if self.capture_error is None:
                log.error("capture: %s", error)
            self.capture_error = str(error)
            return False
        self.capture_error = None
        return True

    def _woken(self, something_new: bool) -> None:
        if something_new:
            self.courier.wake()

    def _carry(self, batch: Batch) -> Delivered:
        try:
            return self._deliver(batch)
        except AccessError as error:
            served = self.capture.flow_log_ids
            if served is not None and batch.flow_log_id not in served:
                # The flow log was deleted, or has no interface here any more: no role will ever take this.
                self._forget(batch.flow_log_id)
                raise BatchRefused(f"the flow log is gone: {error.message}") from error
            raise

    def _end(self) -> bool:
        """The last drain, then delivery for a short time. Windows that are open go on at the next start."""
        flush = self._config.flush_on_exit
        self._poll.stop()
        self._guarded(lambda: self._woken(self.capture.step(close_all=flush)))
        self.courier.hurry()
        empty = self.courier.wait_until_empty(self._config.flush_seconds if flush else STOP_SECONDS)
        self.courier.stop(STOP_SECONDS)
        self._show()
        self._post.stop(STOP_SECONDS)
        return empty

    # The status

    def _show(self) -> None:
        status = self.status()
        path = self._config.folder / "status.json"
        temporary = path.with_name(".status.json")
        try:
            temporary.write_text(json.dumps(status))
            os.replace(temporary, path)
        except OSError as error:
            log.error("the status cannot be written: %s", error)
        self._post.post(status)

    def status(self) -> dict[str, Any]:
        """What is posted to the server and written to status.json."""
        served = self.capture.flow_log_ids or set()
        outcomes = self.courier.statuses()
        outcomes |= dict.fromkeys(self.capture.refused, ("FAILED", "Unknown error"))
        configuration = self.capture.configuration
        return {
            "revision": configuration.revision if configuration else None,
            **self.capture.status(),
            "flow_logs": [
                {"flow_log_id": flow_log_id, "status": status, "message": message}
                for flow_log_id, (status, message) in sorted(outcomes.items())
                if flow_log_id in served
            ],
            "deliveries": self.courier.counters(),
            "errors": {
                "capture": self.capture_error,
                "configuration": self._poll.error,
                "status": self._post.error,
                "records": self.capture.refused,
            },
            "agent": {"name": self._config.name, "process": os.getpid(), "time_ns": self._now_ns()},
        }


def _watch_links(netns: str | None, agent: Agent) -> LinkWatcher:
    """Tells the agent of interfaces that come and go, from a thread of its own."""
    namespace = Namespace(netns)
    watcher = LinkWatcher(namespace)

    def watch() -> None:
        try:
            while not agent.stopping:
                if changes := watcher.changes(60.0):
                    gone = [change.old_name or change.name for change in changes if change.kind != "appeared"]
                    agent.links_changed(gone)
        except (VnotchError, OSError, ValueError) as error:
            log.warning("interfaces are looked at each second, watching them failed: %s", error)
        finally:
            namespace.close()

    threading.Thread(target=watch, name="vnotch-links", daemon=True).start()
    return watcher
