"""Alerts on flow logs without CloudWatch (`vnotch server --alert`): one thread looks at what was committed, and calls.

It reads beside the committer and never holds it up. An alert's look at new records has `BUDGET_SECONDS`; one that takes
longer is skipped and counted. Between two rounds it rests so that alerts take a fifth of the time at most.

GET /vnotch/v1/alerts    vnotch:ListAlerts    each alert, how it stands and what it counted
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.routing import Route

from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.store.accounts import Accounts
from vnotch.store.flow_alerts import (
    LISTENERS_MAX,
    NEW_LISTENER,
    TOLD_MAX,
    AlertProgress,
    Finding,
    FlowAlert,
    bursts,
    described,
    fresh,
    known_listeners,
    listeners,
    own_addresses,
    remember,
    told_count,
    told_until,
)
from vnotch.store.lake import EVER_MS, Lake, QueryFailed, Relation
from vnotch.store.log_groups import DAY_MS, find_group
from vnotch.store.log_totals import graves_of
from vnotch.store.reading import Reading
from vnotch.store.state import State

log = logging.getLogger(__name__)

STEP_SECONDS = 2.0
REST = 4.0
"""Times as long as a round took."""
BUDGET_SECONDS = 5.0
LEARN_SECONDS = 30.0
LEARN_AGAIN_SECONDS = 600.0
FINDINGS_MAX = 100
"""Of one alert in one round; as many as calls may wait."""
LATE_MS = 3600_000
"""Records that are older than this when they come, an import for instance, are nobody's alarm any more."""
_FIRST = -1
"""Before every sequence number."""


@dataclass
class Standing:
    """`state`: waiting for the log group, learning, watching."""

    state: str = "waiting"
    counters: Counter[str] = field(default_factory=Counter)
    error: str | None = None
    learn_due: float = 0.0


class AlertWatch:
    """`start` begins, `close` ends; `step` is one round, for tests with a time of their own."""

    def __init__(
        self, state: State, lake: Lake, accounts: Accounts, webhooks: Webhooks, alerts: Sequence[FlowAlert]
    ) -> None:
        self.state = state
        self.lake = lake
        self.accounts = accounts
        self.webhooks = webhooks
        self.alerts = list(alerts)
        self.standing = {alert.text: Standing() for alert in alerts}
        self._ended = threading.Event()
        self.asking: Reading | None = None
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/alerts", self.describe, ["GET"])]

    async def describe(self, request: SignedRequest) -> dict[str, Any]:
        request.authorise("vnotch:ListAlerts", "*")
        return self.shown()

    def shown(self) -> dict[str, Any]:
        """How the alerts stand, without their URLs, and what became of all calls of webhooks."""
        return {"alerts": [self._shown(alert) for alert in self.alerts], "webhooks": dict(self.webhooks.counters)}

    def _shown(self, alert: FlowAlert) -> dict[str, Any]:
        standing = self.standing[alert.text]
        shown = {"alert": alert.text, "state": standing.state, "error": standing.error}
        return {**shown, "counters": dict(standing.counters)}

    def start(self) -> None:
        if self.alerts:
            self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            if (reading := self.asking) is not None:
                reading.interrupt()
            self._thread.join(30)

    def _run(self) -> None:
        while not self._ended.is_set():
            began, seen = time.monotonic(), self.lake.last_sequence
            self.step(int(time.time() * 1000))
            if self._ended.wait(max(STEP_SECONDS, REST * (time.monotonic() - began))):
                return
            # A group may be made, or deleted, without a commit: a look now and then is due all the same.
            self.lake.committed_after(seen, STEP_SECONDS)

    def step(self, now_ms: int) -> None:
        for alert in self.alerts:
            if self._ended.is_set():
                return
            standing = self.standing[alert.text]
            try:
                self._look(alert, standing, now_ms)
            except Exception as error:
                # The others go on; this one is tried again from where it stands.
                standing.counters["failures"] += 1
                standing.error = str(error)
                log.exception("alert %s: this round failed, the next begins anew", alert.text)

    def _look(self, alert: FlowAlert, standing: Standing, now_ms: int) -> None:
        upto = self.lake.last_sequence
        with self.state.read() as session:
            row = session.get(AlertProgress, alert.text)
            group = find_group(session, alert.log_group)
            buried = graves_of(session, group.id) if group is not None else []
        if row is None:
            row = AlertProgress(alert=alert.text, position=upto, learned=alert.kind != NEW_LISTENER)
            with self.state.write(notify=False) as session:
                session.add(row)
        if group is None:
            standing.state = "waiting"
            return
        looking = _Look(self, alert, standing, group.id, buried, now_ms)
        if not row.learned:
            if time.monotonic() < standing.learn_due:
                return
            standing.state = "learning"
            if not looking.learn(row.position):
                standing.learn_due = time.monotonic() + LEARN_AGAIN_SECONDS
                return
        standing.state = "watching"
        if upto <= row.position:
            return
        try:
            findings = looking.find(row.position, upto)
            standing.error = None
        except QueryFailed as error:
            if self._ended.is_set():
                return
            standing.counters["skipped"] += 1
            standing.error = str(error)
            log.error("alert %s: new records are passed over: %s", alert.text, error)
            findings = []
        # Noted first: a process that dies here has told a finding too little, and never one twice.
        with self.state.write(notify=False) as session:
            current = session.get(AlertProgress, alert.text)
            assert current is not None
            current.position = upto
            remember(session, alert, findings, now_ms - late_ms(alert) - alert.window_ms)
        for finding in findings:
            self._tell(alert, standing, finding)

    def _tell(self, alert: FlowAlert, standing: Standing, finding: Finding) -> None:
        standing.counters["findings"] += 1
        content = {
            "kind": alert.kind,
            "alert": alert.text,
            "account": self.accounts.account,
            "region": self.accounts.region,
            "logGroup": alert.log_group,
            "window": {"start": _moment(finding.start_ms), "end": _moment(finding.end_ms)},
            "source": finding.source or None,
            "destination": finding.destination or None,
            "port": finding.port,
            "protocol": finding.protocol,
            "counts": finding.counts,
            "examples": finding.examples,
        }
        for url in alert.urls:
            self.webhooks.call(url, content)


@dataclass(frozen=True)
class _Look:
    """One alert's look at its group."""

    watch: AlertWatch
    alert: FlowAlert
    standing: Standing
    group_id: int
    buried: Sequence[int]
    now_ms: int

    def relation(self, start_ms: int, end_ms: int, after: int, upto: int) -> Relation:
        everything = self.watch.lake.relation(
            [self.group_id], start_ms=start_ms, end_ms=end_ms, without_streams=self.buried
        )
        return everything.stored(after, upto)

    def learn(self, upto: int) -> bool:
        """Takes what the group's last days have as known; False where that could not be asked."""
        with self.watch.state.read() as session:
            own = own_addresses(session)
        start_ms = self.now_ms - self.alert.days * DAY_MS
        try:
            with self.watch.lake.reading(LEARN_SECONDS) as reading, self._interruptible(reading):
                relation = self.relation(start_ms, EVER_MS, _FIRST, upto)
                found, total = listeners(reading, relation, _FIRST, own, [], LISTENERS_MAX)
        except QueryFailed as error:
            self.standing.counters["skipped"] += 1
            self.standing.error = str(error)
            log.error("alert %s: cannot learn, tries again later: %s", self.alert.text, error)
            return False
        self.standing.counters["learned"] += len(found)
        self.standing.counters["unlearned"] += total - len(found)
        with self.watch.state.write(notify=False) as session:
            remember(session, self.alert, found, 0)
            row = session.get(AlertProgress, self.alert.text)
            assert row is not None
            row.learned = True
        return True

    def find(self, after: int, upto: int) -> list[Finding]:
        """What the records after one sequence number and up to another make new. Raises QueryFailed."""
        oldest_ms, near_ms = self.now_ms - late_ms(self.alert), self.alert.window_ms
        until = time.monotonic() + BUDGET_SECONDS
        with self.watch.lake.reading(BUDGET_SECONDS) as reading, self._interruptible(reading):
            new = fresh(reading, self.relation(0, EVER_MS, after, upto), oldest_ms)
            self.standing.counters["late"] += new.late
            if new.first_ms is None or new.last_ms is None:
                return []
            relation = self.relation(new.first_ms - near_ms, new.last_ms + near_ms, _FIRST, upto)
            if self.alert.kind == NEW_LISTENER:
                found, total = self._listeners(reading, relation, after)
            else:
                found, total = self._bursts(reading, relation, after, new.first_ms - near_ms)
            self.standing.counters["dropped"] += total - len(found)
            # A finding is told also where there is no time left for its numbers.
            return [
                described(reading, self.alert, relation, finding) if time.monotonic() < until else finding
                for finding in found
            ]

    def _listeners(self, reading: Reading, relation: Relation, after: int) -> tuple[list[Finding], int]:
        with self.watch.state.read() as session:
            own, known = own_addresses(session), known_listeners(session, self.alert)
        found, total = listeners(reading, relation, after, own, known, FINDINGS_MAX)
        return found[: max(0, LISTENERS_MAX - len(known))], total

    def _bursts(self, reading: Reading, relation: Relation, after: int, since_ms: int) -> tuple[list[Finding], int]:
        with self.watch.state.read() as session:
            room = min(FINDINGS_MAX, TOLD_MAX - told_count(session, self.alert))
            quiet_ms = told_until(session, self.alert, since_ms)
        return bursts(reading, self.alert, relation, after, quiet_ms, max(0, room))

    @contextmanager
    def _interruptible(self, reading: Reading) -> Iterator[None]:
        self.watch.asking = reading
        try:
            yield
        finally:
            self.watch.asking = None


def late_ms(alert: FlowAlert) -> int:
    return max(LATE_MS, 2 * alert.window_ms)


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
