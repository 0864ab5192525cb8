"""The agent as a process: its lock, its datapath, its signals.

Imports below are late where they load a native library that the other kind of datapath does not need.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vnotch.agent.agent import Agent, AgentConfig
from vnotch.agent.configuration import ServerClient, load_key
from vnotch.agent.enrolment import Enroller
from vnotch.agent.owners import OwnerObserver
from vnotch.capture.interfaces import LinkWatcher, Namespace
from vnotch.capture.pins import PINS, remove_empty_pin_folders
from vnotch.deliver.batch import Batch
from vnotch.deliver.bucket import Buckets
from vnotch.deliver.endpoint import Endpoint, Key
from vnotch.deliver.firehose import DeliveryStreams
from vnotch.deliver.logs import Delivered, LogGroups
from vnotch.deliver.role import Roles
from vnotch.errors import HostError, VnotchError
from vnotch.service_ranges import NO_RANGES, ServiceRanges

log = logging.getLogger(__name__)


def run(config: AgentConfig, started: Callable[[], None] = lambda: None) -> bool:
    """Runs until SIGINT or SIGTERM. `started` is called when the agent is ready to capture.

    -> whether nothing was left to deliver at the end. Raises HostError (a second agent of the name, missing privilege,
    a folder that cannot be written) and InputError (no key, a ranges file of another form) before anything is captured.
    """
    key = load_key(config.key_file)
    ranges = ServiceRanges.load(config.ip_ranges) if config.ip_ranges else NO_RANGES
    lock = lock_folder(config.folder, config.name)
    try:
        datapath = open_datapath(config)
        try:
            return _serve(config, datapath, key, ranges, started)
        finally:
            if config.detach_on_exit:
                datapath.destroy()
                remove_empty_pin_folders()
            else:
                datapath.close()
    finally:
        os.close(lock)


def open_datapath(config: AgentConfig) -> Any:
    """The kernel's datapath, or the capture file that is played in its place (without root, and without libbpf)."""
    if config.capture_file is not None:
        from vnotch.capture.playback import Playback

        return Playback(config.capture_file)
    from vnotch.capture.kernel import Datapath

    return Datapath.open(
        netns=config.netns,
        pin_dir=config.pin_dir or PINS / config.name,
        flows_per_map=config.flows_per_map,
        attach_mode=config.attach_mode,
    )


def _serve(config: AgentConfig, datapath: Any, key: Key, ranges: ServiceRanges, started: Callable[[], None]) -> bool:
    endpoint = Endpoint(config.endpoint_url, config.region)
    groups = LogGroups(endpoint, Roles(endpoint, key), typed=True, is_served=lambda name: agent.serves(name))
    clients = (ServerClient(config.endpoint_url, config.region, config.name, key) for _ in range(5))
    poll, post, report, uploads, streams = clients
    buckets, delivery_streams = Buckets(uploads.presign), DeliveryStreams(streams.delivery_stream)

    def deliver(batch: Batch) -> Delivered:
        # What goes to a delivery stream has no log group.
        return groups.deliver(batch) if batch.group else delivery_streams.deliver(batch)

    of_host: dict[str, Any] = {}  # what is known of the host's own sockets and interfaces; a file tells of another's
    if config.capture_file is None:
        of_host = {"owners": OwnerObserver(config.netns), "enroller": Enroller(report, config.netns)}
    agent = Agent(
        config, datapath, deliver, poll, post,
        upload=buckets.deliver, forget=groups.forget, ranges=ranges, **of_host,
    )  # fmt: skip
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: agent.stop())
    if config.capture_file is not None:
        return agent.run(started)
    watcher = _watch_links(config.netns, agent)
    try:
        return agent.run(started)
    finally:
        watcher.close()


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


def _watch_links(netns: str | None, agent: Agent) -> LinkWatcher:
    """Tells the agent of interfaces that come and go, from a thread of its own."""
    namespace = Namespace(netns)
    watcher = LinkWatcher(namespace)

    def watch() -> None:
        try:
            while not agent.stopping:
                if changes := watcher.changes(60.0):
                    gone = [change.name for change in changes if change.kind == "vanished"]
                    renamed = [(change.old_name or "", change.name) for change in changes if change.kind == "renamed"]
                    agent.links_changed(gone, renamed)
        except (VnotchError, OSError, ValueError) as error:
            log.warning("interfaces are looked at each second, watching them failed: %s", error)
        finally:
            namespace.close()

    threading.Thread(target=watch, name="vnotch-links", daemon=True).start()
    return watcher
