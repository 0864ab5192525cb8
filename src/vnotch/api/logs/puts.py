"""What all ways of handing in events share: which batches a request holds, which times are let in, what is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from vnotch.api.logs.part import invalid, no_such_stream, throttled, unavailable
from vnotch.store.committer import Appended, LakeFull, LakeUnavailable, StreamGone
from vnotch.store.log_groups import DAY_MS

SPAN_MS_MAX = DAY_MS
OLD_MS = 14 * DAY_MS
NEW_MS = 2 * 3_600_000
COMMIT_SECONDS_MAX = 60

BATCH_ID_HEADER = "x-vnotch-batch-id"
BATCH_EVENTS_HEADER = "x-vnotch-batch-events"
BATCH_ID_CHARACTERS_MAX = 128


def submitted(submit: Callable[[], Future[Appended]]) -> Future[Appended]:
    """What the lake answers to a batch, or the service's error."""
    try:
        return submit()
    except LakeFull:
        # What was handed in before it is stored; a retry finds it so by its key.
        raise throttled() from None
    except LakeUnavailable as error:
        raise unavailable(str(error)) from error


def members_of(headers: Mapping[str, str], events: int) -> list[tuple[str | None, int, int]]:
    """The batches in a request: id, first event and the one past the last. Without ids, all events without one.

    AWS has no such headers. They let an agent send what has gathered of a stream in one call, and again in another
    grouping after a failure, with each batch stored once.
    """
    ids_text, counts_text = headers.get(BATCH_ID_HEADER), headers.get(BATCH_EVENTS_HEADER)
    if ids_text is None:
        return [(None, 0, events)]
    ids = [ids_text] if counts_text is None else ids_text.split(",")
    if not all(1 <= len(batch_id) <= BATCH_ID_CHARACTERS_MAX for batch_id in ids):
        raise invalid(f"The header {BATCH_ID_HEADER} must have 1 to {BATCH_ID_CHARACTERS_MAX} characters for each id.")
    if counts_text is None:
        return [(ids[0], 0, events)]
    counts = [int(text) if text.isascii() and text.isdigit() else 0 for text in counts_text.split(",")]
    if len(counts) != len(ids) or len(set(ids)) != len(ids) or not all(counts) or sum(counts) != events:
        raise invalid(f"The header {BATCH_EVENTS_HEADER} must have each id's number of events, {events} in all.")
    ends = list(accumulate(counts))
    return [(batch_id, end - count, end) for batch_id, count, end in zip(ids, counts, ends, strict=True)]


def stored(futures: list[Future[Appended]], answer: dict[str, Any]) -> dict[str, Any]:
    """The answer once all is stored; the first error where one is not."""
    try:
        for future in futures:
            future.result(timeout=0)
    except StreamGone:
        raise no_such_stream() from None
    except (LakeUnavailable, FutureTimeout) as error:
        raise unavailable(str(error) or "The log store did not answer in time.") from error
    return answer


def within_time(events: pa.Table, now_ms: int, retention_days: int | None) -> tuple[int, int, dict[str, int]]:
    """The first event that is let in, one past the last, and rejectedLogEventsInfo (empty where all are).

    Raises ApiError for over 24 h. The indexes are those of the service model: of the first event that is too new, and
    one past the last event that is too old or expired.
    """
    stamps = events["timestamp_ms"].to_numpy()
    old = int(np.searchsorted(stamps, now_ms - OLD_MS, side="left"))
    new = int(np.searchsorted(stamps, now_ms + NEW_MS, side="right"))
    expired = 0
    if retention_days is not None:
        expired = int(np.searchsorted(stamps, now_ms - retention_days * DAY_MS, side="left"))
    rejected = {}
    if new < len(stamps):
        rejected["tooNewLogEventStartIndex"] = new
    if old:
        rejected["tooOldLogEventEndIndex"] = old
    if expired:
        rejected["expiredLogEventEndIndex"] = expired
    begin = max(old, expired)
    if begin < new and int(stamps[new - 1]) - int(stamps[begin]) > SPAN_MS_MAX:
        raise invalid("The batch of log events in a single PutLogEvents request cannot span more than 24 hours.")
    return begin, new, rejected
