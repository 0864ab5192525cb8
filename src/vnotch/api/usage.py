"""vnotch's own endpoint for `vnotch usage`: a month's quantities by log group, and what they would cost on AWS.

    GET /vnotch/v1/usage?month=2026-01      vnotch:GetUsage

Requests are counted in memory and written every few seconds, so that no request waits for it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from decimal import Decimal
from typing import Any

from starlette.routing import Route

from vnotch.api.access_log import AccessEntry, AccessLog
from vnotch.api.log_prices import AS_OF, CURRENCY, GB, REGION, SOURCE, bill
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.api.service import ApiError
from vnotch.store.log_usage import LogUsage, add_requests, month_of, note_stored, usage_of
from vnotch.store.state import State

log = logging.getLogger(__name__)

WRITE_SECONDS = 10.0
STORED_SECONDS = 3600.0
NAMES_MAX = 10_000
"""Names between two writes; requests beyond count for the account alone."""

DECIMALS = 9
"""A GB to its bytes."""

MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
INFREQUENT = "INFREQUENT_ACCESS"


class Usage:
    """`routes()` goes into `build_app(extra_routes=...)`; `start` and `close` are for what is written by itself."""

    def __init__(self, state: State, access_log: AccessLog) -> None:
        self.state = state
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        access_log.listeners.append(self.count)

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/usage", self.get, ["GET"])]

    # Requests

    def count(self, entry: AccessEntry) -> None:
        if not entry.action.startswith("logs:"):
            return
        resource = entry.resources[0] if entry.resources else ""
        key = (month_of(entry.time_ms), resource.partition(":log-group:")[2].partition(":")[0])
        with self._lock:
            if key not in self._counts and len(self._counts) >= NAMES_MAX:
                key = (key[0], "")
            self._counts[key] += 1

    def write(self, *, stored: bool = False) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts and not stored:
            return
        try:
            with self.state.write(notify=False) as session:
                add_requests(session, counts)
                if stored:
                    note_stored(session, month_of(int(time.time() * 1000)))
        except Exception:
            with self._lock:
                self._counts.update(counts)
            raise

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        stored_due = 0.0
        while True:
            ended = self._ended.wait(WRITE_SECONDS)
            stored = ended or time.monotonic() >= stored_due
            try:
                self.write(stored=stored)
                stored_due = time.monotonic() + STORED_SECONDS if stored else stored_due
            except Exception as error:
                log.warning("usage could not be written, it is tried again: %s", error)
            if ended:
                return

    # The answer

    async def get(self, request: SignedRequest) -> dict[str, Any]:
        request.authorise("vnotch:GetUsage", "*")
        month = request.query_params.get("month") or month_of(request.now_ms)
        if request.query_params.keys() - {"month"} or not MONTH.fullmatch(month):
            raise ApiError("InvalidParameterException", f"the parameter is month, as 2026-01, not {month!r}")
        rows: list[LogUsage] = await request.in_pool(self._rows, month)
        return document(rows, month, request.region)

    def _rows(self, month: str) -> list[LogUsage]:
        self.write(stored=True)
        with self.state.read() as session:
            return usage_of(session, month)


def document(rows: list[LogUsage], month: str, region: str) -> dict[str, Any]:
    """Quantities by group in bytes; the bill of the account in AWS's units, as decimal texts."""
    lines = bill(quantities(rows))
    return {
        "month": month,
        "region": region,
        "groups": [
            {
                "group": row.name or None,
                "log_class": row.log_class,
                "events": row.events,
                "custom_bytes": row.custom_bytes,
                "vended_bytes": row.vended_bytes,
                "stored_bytes": row.stored_bytes,
                "scanned_bytes": row.scanned_bytes,
                "requests": row.requests,
            }
            for row in rows
        ],
        "bill": [{name: _text(value) for name, value in line.items()} for line in lines],
        "total": _text(sum((line["cost"] for line in lines), Decimal(0))),
        "prices": {"currency": CURRENCY, "region": REGION, "source": SOURCE, "as_of": AS_OF},
    }


def quantities(rows: list[LogUsage]) -> dict[str, Decimal]:
    """By dimension, in the units of the prices."""
    found: Counter[str] = Counter()
    for row in rows:
        suffix = "_infrequent_access" if row.log_class == INFREQUENT else ""
        found["custom_ingestion" + suffix] += row.custom_bytes
        found["vended_ingestion" + suffix] += row.vended_bytes
        found["storage"] += row.stored_bytes
        found["insights"] += row.scanned_bytes
    requests = Decimal(sum(row.requests for row in rows))
    return {name: Decimal(size) / GB for name, size in found.items()} | {"requests": requests}


def _text(value: Any) -> Any:
    return f"{round(value, DECIMALS).normalize():f}" if isinstance(value, Decimal) else value
