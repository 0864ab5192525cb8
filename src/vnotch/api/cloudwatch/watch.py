"""What goes on by itself: metric filters and the log service's own metrics count new events, alarms are evaluated, and
old data is dropped. One thread."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import select

from vnotch.api.cloudwatch.alarms import call_actions
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.store.accounts import Accounts
from vnotch.store.alarms import Alarm, change_state, decide, values
from vnotch.store.log_metrics import LogMetrics
from vnotch.store.metric_filters import MetricFilters
from vnotch.store.metrics import forget_old
from vnotch.store.state import State

log = logging.getLogger(__name__)

STEP_SECONDS = 2.0
FORGET_SECONDS = 3600.0


class MetricWatch:
    """`start` begins, `close` ends; `step` is one round, for tests with a time of their own."""

    def __init__(
        self, state: State, accounts: Accounts, filters: MetricFilters, log_metrics: LogMetrics, webhooks: Webhooks
    ) -> None:
        self.state = state
        self.accounts = accounts
        self.filters = filters
        self.log_metrics = log_metrics
        self.webhooks = webhooks
        self._ended = threading.Event()
        self._forget_due = 0.0
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)
        self.webhooks.close()

    def _run(self) -> None:
        while not self._ended.wait(STEP_SECONDS):
            try:
                self.step(int(time.time() * 1000))
            except Exception:
                log.exception("metrics and alarms: this round failed, the next begins anew")

    def step(self, now_ms: int) -> None:
        self.filters.step()
        self.log_metrics.step()
        self.evaluate(now_ms)
        if time.monotonic() >= self._forget_due:
            self._forget_due = time.monotonic() + FORGET_SECONDS
            with self.state.write(notify=False) as session:
                forget_old(session, now_ms)

    def evaluate(self, now_ms: int) -> None:
        """Every alarm once; of those that change their state, the actions are called."""
        decided = []
        with self.state.read() as session:
            for alarm in session.scalars(select(Alarm)):
                decision = decide(alarm.asked, alarm.state, values(session, alarm.asked, now_ms))
                if decision is not None:
                    decided.append((alarm, decision))
        for alarm, decision in decided:
            with self.state.write(notify=False) as session:
                row = session.get(Alarm, alarm.name)
                if row is None or row.asked != alarm.asked or row.state != alarm.state:
                    continue  # changed meanwhile: the next round looks again
                change_state(row, decision.state, decision.reason, None, now_ms)
            call_actions(self.webhooks, row, alarm.state, self.accounts.account, self.accounts.region)
