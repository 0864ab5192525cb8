"""The agent: its settings, its threads, and the loop that waits for the next tick.

Threads: the loop (the caller's), the configuration poll, the status post, the link watcher, the courier's pool, and
those of the socket by which people look. They speak to the loop through one queue; it never waits for any of them.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vnotch.agent.configuration import ConfigurationPoll, ServerClient, StatusPost
from vnotch.agent.enrolment import Enroller
from vnotch.agent.loop import Capture
from vnotch.agent.owners import OwnerObserver
from vnotch.agent.view import LoopView, Views
from vnotch.agent.view_socket import ViewSocket, on_loop
from vnotch.boot import boot_id
from vnotch.capture.interfaces import namespace_path
from vnotch.config import FLOWS_PER_MAP, REGION, SPOOL_BYTES, SPOOL_SECONDS
from vnotch.deliver.batch import Batch, join
from vnotch.deliver.bucket import NameTaken
from vnotch.deliver.courier import BACKOFF_SECONDS_MAX, Courier
from vnotch.deliver.endpoint import BatchRefused
from vnotch.deliver.logs import Delivered
from vnotch.deliver.outbox import SlotFile
from vnotch.deliver.publisher import Publisher
from vnotch.errors import AccessError, DeliveryError, VnotchError
from vnotch.inventory import AgentConfiguration
from vnotch.service_ranges import NO_RANGES, ServiceRanges

STOP_SECONDS = 3.0
"""How long a stopping agent goes on delivering; the rest stays in the spool."""

RETRY_SECONDS = 1.0

VIEW_SECONDS = 5.0
"""How long a view waits for the loop."""

STATUS_BYTES_MAX = 3_500_000
"""The server takes 4 MiB. A status that is longer, of thousands of interfaces, goes without the ledger's windows."""

UPLOADS = 8
UPLOADS_PER_FLOW_LOG = 4
"""Files under way at once. They have megabytes, so a few fill a link."""

Carried = TypeVar("Carried", Batch, SlotFile)

log = logging.getLogger(__name__)


def _no_upload(file: SlotFile) -> Delivered:
    raise DeliveryError("this agent has no way to a bucket")


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
    capture_file: Path | None = None  # played in place of the kernel; needs no privilege
    spool_bytes_max: int = SPOOL_BYTES
    spool_seconds_max: int = SPOOL_SECONDS
    backoff_seconds_max: float = BACKOFF_SECONDS_MAX  # between two tries of a destination that fails
    flush_on_exit: bool = False  # close all windows when stopped, and wait until everything is delivered
    flush_seconds: float = 20.0  # but no longer than this
    ip_ranges: Path | None = None  # AWS's ip-ranges.json, for the pkt-*-aws-service fields
    detach_on_exit: bool = False  # leave no program, map or pin; otherwise capture goes on until the next start


class Agent:
    """The loop and its threads, wired. `deliver` takes a batch to its log stream, `upload` a file to its bucket;
    `forget` drops a flow log's keys."""

    def __init__(
        self,
        config: AgentConfig,
        datapath: Any,
        deliver: Callable[[Batch], Delivered],
        poll_client: ServerClient,
        post_client: ServerClient,
        *,
        upload: Callable[[SlotFile], Delivered] = _no_upload,
        forget: Callable[[str], None] = lambda flow_log_id: None,
        ranges: ServiceRanges = NO_RANGES,
        owners: OwnerObserver | None = None,
        enroller: Enroller | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._upload_file = upload
        self._forget = forget
        self._now_ns = now_ns
        self._boot_id = boot_id()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._show_asked = threading.Event()
        self._stopping = False
        self._due_ns: int | None = None
        self._pending: AgentConfiguration | None = None
        self.capture_error: str | None = None
        self.capture = Capture(
            config.folder,
            datapath,
            spool_bytes_max=config.spool_bytes_max,
            spool_seconds_max=config.spool_seconds_max,
            ranges=ranges,
            owners=owners,
            now_ns=now_ns,
        )
        self.courier = Courier(
            self.capture.spool,
            lambda batch: self._carry(batch, deliver),
            join=join,
            backoff_seconds_max=config.backoff_seconds_max,
            on_status=self._show_soon,
        )
        self.uploads = Courier(
            self.capture.outbox,
            lambda file: self._carry(file, self._upload),
            workers=UPLOADS,
            per_flow_log=UPLOADS_PER_FLOW_LOG,
            backoff_seconds_max=config.backoff_seconds_max,
            on_status=self._show_soon,
        )
        self.publisher = Publisher(
            self.capture.spool,
            self.capture.outbox,
            config.folder,
            self.capture.incarnation,
            self.capture.intervals,
            on_files=self.uploads.wake,
            now_s=lambda: now_ns() / 1e9,
        )
        self._poll = ConfigurationPoll(
            poll_client,
            config.folder / "configuration.json",
            lambda configuration: self._events.put(lambda: self._configure(configuration)),
            on_return=self._hurry,
        )
        self._post = StatusPost(post_client)
        views = Views(lambda look: on_loop(self._events.put, look, VIEW_SECONDS), self._look, datapath, now_ns)
        self._views = ViewSocket(config.folder, views.answer)
        self._enroller = enroller

    # For other threads

    @property
    def stopping(self) -> bool:
        return self._stopping

    def serves(self, flow_log_id: str) -> bool:
        """False for a flow log that was deleted, or has no interface here any more."""
        served = self.capture.flow_log_ids
        return served is None or flow_log_id in served

    def stop(self) -> None:
        """Ends the loop. May be called from a signal handler."""
        self._events.put(self._stop)

    def _show_soon(self) -> None:
        """One status for however many flow logs changed theirs since the last one."""
        if not self._show_asked.is_set():
            self._show_asked.set()
            self._events.put(self._show)

    def links_changed(self, vanished: Sequence[str], renamed: Sequence[tuple[str, str]] = ()) -> None:
        """Interfaces of the host came, or these went, or have another name (old, new)."""
        self._events.put(lambda: self._relink(vanished, renamed))

    # The loop

    def run(self, started: Callable[[], None] = lambda: None) -> bool:
        """-> whether nothing was left to deliver at the end."""
        if (last := self._poll.last()) is not None:
            self._configure(last)
        delivering = (self.courier, self.uploads, self.publisher)
        for thread in (*delivering, self._poll, self._post, self._views, self._enroller):
            if thread is not None:
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
        if (trial_s := self.capture.interfaces.trial_seconds) is not None:
            wait_s = min(wait_s, trial_s if trial_s > 0 else self._end_trials())
        retries = self._pending is not None or self.capture.interfaces.has_unattached
        try:
            event = self._events.get(timeout=min(wait_s, RETRY_SECONDS) if retries else wait_s)
        except queue.Empty:
            if retries:
                self._retry()
            return
        event()

    def _end_trials(self) -> float:
        """Ends enforcement that nobody has confirmed; -> seconds to wait, where the datapath fails at it."""
        if self._guarded(lambda: self._shown(self.capture.interfaces.end_trials())):
            return 0.0
        return RETRY_SECONDS

    def _shown(self, something_new: bool) -> None:
        if something_new:
            self._show()

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
        self._forget_ended()
        self._show()

    def _forget_ended(self) -> None:
        """Deliveries of flow logs that are gone, once all is delivered that was collected for them."""
        if (served := self.capture.flow_log_ids) is not None:
            for courier in (self.courier, self.uploads):
                for flow_log_id in courier.forget_all_but(served):
                    self._forget(flow_log_id)

    def _retry(self) -> None:
        if self._pending is not None:
            self._configure(self._pending)
        elif self.capture.interfaces.has_unattached and self.capture.interfaces.retry():
            self._show()

    def _configure(self, configuration: AgentConfiguration) -> None:
        self._pending = configuration
        if self._enroller is not None:
            self._enroller.follow(configuration.enrolled_subnets)
        if self._guarded(lambda: self.capture.apply(configuration)):
            self._pending = None
        self._woken(True)
        self._show()

    def _relink(self, vanished: Sequence[str], renamed: Sequence[tuple[str, str]]) -> None:
        for device in vanished:
            self.capture.interfaces.gone(device)
        for old, new in renamed:
            self.capture.interfaces.renamed(old, new)
        self.capture.interfaces.retry()
        self._show()

    def _look(self) -> LoopView:
        self.capture.intake.recent.watch()
        return self.capture.view()

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
            self.publisher.wake()

    def _hurry(self) -> None:
        self.courier.hurry()
        self.uploads.hurry()

    def _carry(self, batch: Carried, deliver: Callable[[Carried], Delivered]) -> Delivered:
        try:
            return deliver(batch)
        except AccessError as error:
            if not self.serves(batch.flow_log_id):
                # Its role, its bucket or the time that it may still be delivered in is gone too, and will not be back.
                self._forget(batch.flow_log_id)
                raise BatchRefused(f"the flow log is gone: {error.message}") from error
            raise

    def _upload(self, file: SlotFile) -> Delivered:
        try:
            return self._upload_file(file)
        except NameTaken:
            self.capture.outbox.rename(file)
            raise

    def _end(self) -> bool:
        """The last drain, then delivery for a short time. Windows that are open go on at the next start."""
        flush = self._config.flush_on_exit
        self._views.close()
        self._poll.stop()
        if self._enroller is not None:
            self._enroller.stop(STOP_SECONDS)
        self._guarded(lambda: self._woken(self.capture.step(close_all=flush)))
        if flush:
            self.publisher.publish(everything=True)
        self.publisher.stop(STOP_SECONDS)
        self._hurry()
        deadline = time.monotonic() + (self._config.flush_seconds if flush else STOP_SECONDS)
        empty = self.courier.wait_until_empty(deadline - time.monotonic())
        empty &= self.uploads.wait_until_empty(deadline - time.monotonic())
        empty &= not (flush and self.capture.spool.slots())
        self.courier.stop(STOP_SECONDS)
        self.uploads.stop(STOP_SECONDS)
        self._show()
        self._post.stop(STOP_SECONDS)
        return empty

    # The status

    def _show(self) -> None:
        self._show_asked.clear()
        status = self.status()
        text = json.dumps(status)
        if len(text) > STATUS_BYTES_MAX:
            del status["ledger"]["windows"]
            text = json.dumps(status)
        path = self._config.folder / "status.json"
        temporary = path.with_name(".status.json")
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        except OSError as error:
            log.error("the status cannot be written: %s", error)
        self._post.post(status)

    def status(self) -> dict[str, Any]:
        """What is posted to the server and written to status.json."""
        served = self.capture.flow_log_ids or set()
        outcomes = self.courier.statuses() | self.uploads.statuses()
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
            "deliveries": self.courier.counters() | self.uploads.counters(),
            "enrolment": self._enroller.status() if self._enroller else None,
            "errors": {
                "capture": self.capture_error,
                "configuration": self._poll.error,
                "status": self._post.error,
                "records": self.capture.refused,
                "files": self.publisher.error,
                "views": self._views.error,
            },
            "agent": {
                "name": self._config.name,
                "process": os.getpid(),
                "time_ns": self._now_ns(),
                "boot_id": self._boot_id,
                "netns": self._config.netns,
                "netns_inode": _inode(self._config.netns),
            },
        }


def _inode(netns: str | None) -> int | None:
    """Tells the network namespace that is captured from all others of the host; None where it is gone."""
    try:
        return namespace_path(netns).stat().st_ino
    except OSError:
        return None
