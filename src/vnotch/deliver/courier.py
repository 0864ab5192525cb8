"""The courier: carries what waits on disk to its destination, without ever making the capture wait: batches from the
spool to log streams, files from the outbox to buckets.

A pool of threads serves the flow logs in turn. Several streams of one flow log are under way at once, up to a bound
that leaves threads for the others; a stream's batches go in order, and those that have gathered go in one call. A flow
log whose destination fails waits alone, longer after each failure, at random within the wait so that many agents do not
come back at once, and is tried with one call at a time until it takes something; the others go on. The outcome of the
last attempt is the flow log's delivery status, in AWS's words (VPC user guide, DeliverLogsStatus and
DeliverLogsErrorMessage).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from vnotch.deliver.endpoint import BatchRefused
from vnotch.deliver.logs import Delivered
from vnotch.errors import DeliveryError

WORKERS = 64
PER_FLOW_LOG = 20
"""Calls of one flow log at once. They wait for the service's commits nearly all of their time: what a service can take
in at once is what one commit of it holds, so that few calls at once would mean many small commits."""

JOINED_BATCHES_MAX = 32
"""Batches of one stream in one call."""

BACKOFF_SECONDS = 0.5
BACKOFF_SECONDS_MAX = 15.0

REFUSED = "refused"

_PRIVATE = ("due", "under_way", "failed_at")

log = logging.getLogger(__name__)


@dataclass
class Delivery:
    """How delivery of one flow log goes. `message` is AWS's DeliverLogsErrorMessage, `detail` what really happened."""

    status: str = "SUCCESS"
    message: str | None = None
    detail: str | None = None
    failures: int = 0  # in a row
    attempts_failed: dict[str, int] = field(default_factory=dict)  # by message, in all
    batches: int = 0
    events: Delivered = field(default_factory=Delivered)
    calls: int = 0  # that took something
    due: float = 0.0  # on the monotonic clock: not before
    under_way: int = 0
    failed_at: float = 0.0  # on the monotonic clock: the last failure


class Parcel(Protocol):
    """What is carried: a batch, or a file."""

    @property
    def batch_id(self) -> str: ...


E = TypeVar("E")
P = TypeVar("P", bound=Parcel)
P_co = TypeVar("P_co", bound=Parcel, covariant=True)


class Source(Protocol[E, P_co]):
    """Where it waits (`spool.Spool`, `outbox.Outbox`)."""

    def waiting(self) -> Mapping[str, int]: ...
    def ready(self) -> list[str]: ...
    def lease(self, flow_log_id: str, batches_max: int = 1) -> list[E]: ...
    def read(self, entry: E) -> P_co | None: ...
    def acknowledge(self, entry: E) -> None: ...
    def give_back(self, entries: Sequence[E]) -> None: ...
    def discard(self, entry: E, reason: str) -> None: ...


class Courier(Generic[E, P]):
    """Carries. `deliver` does one batch and raises DeliveryError; `join` makes one of several, where it can;
    `on_status` is told of each change of a status."""

    def __init__(
        self,
        spool: Source[E, P],
        deliver: Callable[[P], Delivered],
        *,
        join: Callable[[Sequence[P]], P | None] = lambda parcels: None,
        workers: int = WORKERS,
        per_flow_log: int = PER_FLOW_LOG,
        backoff_seconds: float = BACKOFF_SECONDS,
        backoff_seconds_max: float = BACKOFF_SECONDS_MAX,
        on_status: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._deliver = deliver
        self._join = join
        self._per_flow_log = per_flow_log
        self._backoff_seconds = backoff_seconds
        self._backoff_seconds_max = backoff_seconds_max
        self._on_status = on_status
        self._monotonic = monotonic
        self._deliveries: dict[str, Delivery] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"vnotch-courier-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Lets batches under way end, for at most this long; what is not delivered stays in the spool."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def wake(self) -> None:
        """There is something new in the spool."""
        with self._wake:
            self._wake.notify_all()

    def hurry(self) -> None:
        """Ends all waits for a next try, once."""
        with self._wake:
            for delivery in self._deliveries.values():
                delivery.due = 0.0
            self._wake.notify_all()

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Waits until nothing is left to deliver; False where the time ran out first."""
        deadline = time.monotonic() + timeout_seconds
        with self._wake:
            while self._spool.waiting():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wake.wait(min(left, 0.1))
        return True

    def forget_all_but(self, served: Collection[str]) -> list[str]:
        """Flow logs that are gone, and of which nothing is left to deliver: their status goes with them. -> those."""
        kept = {*served, *self._spool.waiting()}
        with self._wake:
            gone = [name for name, delivery in self._deliveries.items() if name not in kept and not delivery.under_way]
            for name in gone:
                del self._deliveries[name]
        return gone

    def statuses(self) -> dict[str, tuple[str, str | None]]:
        """Flow log -> (SUCCESS or FAILED, message), for those that had an attempt."""
        with self._wake:
            tried = {
                name: delivery for name, delivery in self._deliveries.items() if delivery.batches or delivery.failures
            }
            return {name: (delivery.status, delivery.message) for name, delivery in tried.items()}

    def counters(self) -> dict[str, dict[str, Any]]:
        with self._wake:
            return {
                name: {key: value for key, value in asdict(delivery).items() if key not in _PRIVATE}
                for name, delivery in self._deliveries.items()
            }

    # The threads

    def _work(self) -> None:
        while (flow_log_id := self._next()) is not None:
            entries = self._spool.lease(flow_log_id, JOINED_BATCHES_MAX)
            began = self._monotonic()
            outcome: Delivered | DeliveryError | None = None
            delivered = 0
            try:
                if entries:
                    outcome, delivered = self._carry(entries)
            finally:
                changed = self._note(flow_log_id, outcome, delivered, began)
            if changed:
                self._on_status()

    def _next(self) -> str | None:
        """The flow log to serve next, with one call more under way; waits for one. None when the courier stops."""
        with self._wake:
            while not self._stopping:
                now = self._monotonic()
                waits = []
                for flow_log_id in self._spool.ready():
                    delivery = self._deliveries.setdefault(flow_log_id, Delivery())
                    if delivery.under_way < (1 if delivery.failures else self._per_flow_log):
                        waits.append((delivery.due, flow_log_id))
                if waits and min(waits)[0] <= now:
                    delivery = self._deliveries[min(waits)[1]]
                    delivery.under_way += 1
                    # In turn: who is served goes behind those that wait since before.
                    delivery.due = now
                    return min(waits)[1]
                self._wake.wait(min(waits)[0] - now if waits else None)
        return None

    def _carry(self, entries: list[E]) -> tuple[Delivered | DeliveryError | None, int]:
        """Delivers what was leased, together or one after the other -> the outcome and how many batches were taken."""
        read = [(entry, batch) for entry in entries if (batch := self._spool.read(entry)) is not None]
        if not read:
            return None, 0
        joined = self._join([batch for _, batch in read]) if len(read) > 1 else None
        if joined is not None:
            outcome = self._deliver_one(joined)
            if isinstance(outcome, Delivered):
                for entry, _ in read:
                    self._spool.acknowledge(entry)
                return outcome, len(read)
            if not isinstance(outcome, BatchRefused):
                self._spool.give_back([entry for entry, _ in read])
                return outcome, 0
            # One of them is at fault: each is tried alone.
        return self._carry_in_turn(read)

    def _carry_in_turn(self, read: list[tuple[E, P]]) -> tuple[Delivered | DeliveryError | None, int]:
        total, taken = Delivered(), 0
        refused: BatchRefused | None = None
        for number, (entry, batch) in enumerate(read):
            outcome = self._deliver_one(batch)
            if isinstance(outcome, BatchRefused):
                self._spool.discard(entry, REFUSED)
                refused = outcome
                continue
            if not isinstance(outcome, Delivered):
                self._spool.give_back([entry for entry, _ in read[number:]])
                return outcome, taken
            self._spool.acknowledge(entry)
            total.add(outcome)
            taken += 1
        return (refused if refused is not None and not taken else total), taken

    def _deliver_one(self, batch: P) -> Delivered | DeliveryError:
        try:
            return self._deliver(batch)
        except DeliveryError as error:
            return error
        except Exception as error:
            # A mistake of ours must not end the thread; AWS calls it by the same name.
            log.exception("delivery of %s", batch.batch_id)
            return DeliveryError(f"{type(error).__name__}: {error}")

    def _note(self, flow_log_id: str, outcome: Delivered | DeliveryError | None, delivered: int, began: float) -> bool:
        """Keeps the outcome of an attempt. True where the status changed."""
        with self._wake:
            delivery = self._deliveries[flow_log_id]
            before = (delivery.status, delivery.message, bool(delivery.batches or delivery.failures))
            failed_before = bool(delivery.failures)
            delivery.under_way -= 1
            delivery.batches += delivered
            if isinstance(outcome, Delivered):
                delivery.calls += 1
                delivery.events.add(outcome)
                if began >= delivery.failed_at:  # what began before the failure says nothing of what is now
                    delivery.status, delivery.message, delivery.detail, delivery.failures = "SUCCESS", None, None, 0
            elif outcome is not None:
                self._note_failure(flow_log_id, delivery, outcome, began)
            # This thread takes what it made possible itself; the others are needed where that is more than one call.
            self._wake.notify(len(self._threads) if failed_before and not delivery.failures else 1)
            return before != (delivery.status, delivery.message, bool(delivery.batches or delivery.failures))

    def _note_failure(self, flow_log_id: str, delivery: Delivery, outcome: DeliveryError, began: float) -> None:
        delivery.status, delivery.message, delivery.detail = "FAILED", outcome.status, outcome.message
        delivery.attempts_failed[outcome.status] = delivery.attempts_failed.get(outcome.status, 0) + 1
        if delivery.failures and began < delivery.failed_at:
            return  # one of several that were under way when it began to fail: the wait is not longer for each
        delivery.failures += 1
        delivery.failed_at = now = self._monotonic()
        if not isinstance(outcome, BatchRefused):
            delivery.due = now + self._backoff(delivery.failures)
        if delivery.failures == 1:
            log.warning("flow log %s: %s: %s", flow_log_id, outcome.status, outcome.message)

    def _backoff(self, failures: int) -> float:
        longest = min(self._backoff_seconds_max, self._backoff_seconds * 2.0 ** min(failures - 1, 16))
        return longest * random.uniform(0.5, 1.0)
