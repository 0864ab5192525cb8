"""The log-group destination: CloudWatch Logs' PutLogEvents, here or on AWS.

Facts (CloudWatch Logs API reference, PutLogEvents): a call takes at most 1,048,576 bytes, counted as the UTF-8 bytes of
the messages plus 26 for each event; at most 10,000 events; all within 24 hours; in chronological order. Events that are
too old or too new are left out by the service, which says which ones, and the rest is taken.

The group and the stream are made when the service says that they are missing, so on the first traffic and not before
(VPC user guide), again after someone deleted them, and with no further call in the steady state.

Records go to vnotch's own service in typed columns (`deliver.typed`), else as lines.

botocore signs and sends. The body of PutLogEvents is written here, by column, because botocore would walk over every
event in Python twice.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import BotoCoreError, ClientError

from vnotch.deliver.batch import Batch, as_text
from vnotch.deliver.endpoint import BatchRefused, Endpoint, ExpiredCredentials, Key, code_of, delivery_error
from vnotch.deliver.role import Roles
from vnotch.deliver.typed import NotServed, RecordCalls, record_parts
from vnotch.errors import DestinationUnavailable
from vnotch.record import flow_log_format

CALL_BYTES_MAX = 1_048_576
EVENT_OVERHEAD_BYTES = 26
CALL_EVENTS_MAX = 10_000
CALL_SPAN_MS = 24 * 3600 * 1000

BATCH_HEADER = "x-vnotch-batch-id"
EVENTS_HEADER = "x-vnotch-batch-events"
"""Where a call holds several batches: their ids in the first header, each one's number of events in this one, both by
commas. The service takes each of them once, whichever others it comes with. AWS knows neither header."""


@dataclass
class Delivered:
    """What became of a batch's events. The sum of all members is the batch's number of events."""

    accepted: int = 0
    too_old: int = 0
    too_new: int = 0
    expired: int = 0
    too_large: int = 0

    def add(self, other: Delivered) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class LogGroups:
    """Delivers batches to log groups. Safe to use from several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        roles: Roles,
        *,
        typed: bool = False,
        is_served: Callable[[str], bool] = lambda flow_log_id: True,
    ) -> None:
        """`is_served`: False for a flow log that is gone, whose log group is not made again for its last records."""
        self._is_served = is_served
        self._endpoint = endpoint
        self._roles = roles
        self._typed = typed  # until the service says that it knows no such thing
        self._clients: dict[str, tuple[Key, _Client]] = {}
        self._locks: dict[str, threading.Lock] = {}

    def deliver(self, batch: Batch) -> Delivered:
        """Delivers the whole batch, or raises with the batch to be delivered again as a whole.

        A part that had already arrived is recognised by the service by its batch id. Raises AccessError,
        RateLimitedError, DestinationUnavailable; BatchRefused where trying again is of no use.
        """
        if batch.log_format and self._typed:
            try:
                return self._deliver_records(batch)
            except NotServed:
                self._typed = False
        batch = as_text(batch)
        if batch.members:
            return self._deliver_joined(batch)
        result = Delivered()
        events, result.too_large = without_too_large(batch.events)
        for number, part in enumerate(parts(events)):
            self._put(batch, {BATCH_HEADER: f"{batch.batch_id}/{number}"}, part, result)
        return result

    def _deliver_records(self, batch: Batch) -> Delivered:
        result = Delivered()
        pieces = list(record_parts(batch.events))
        if batch.members and len(pieces) > 1:
            for member in batch.members:
                result.add(self._deliver_records(member))
            return result
        if batch.members:
            self._put(batch, _member_headers(batch), batch.events, result)
            return result
        for number, part in enumerate(pieces):
            self._put(batch, {BATCH_HEADER: f"{batch.batch_id}/{number}"}, part, result)
        return result

    def _deliver_joined(self, batch: Batch) -> Delivered:
        result = Delivered()
        events, result.too_large = without_too_large(batch.events)
        if result.too_large or sum(1 for _ in parts(events)) > 1:
            result = Delivered()
            for member in batch.members:
                result.add(self.deliver(member))
            return result
        self._put(batch, _member_headers(batch), events, result)
        return result

    def _put(self, batch: Batch, headers: dict[str, str], events: pa.Table, result: Delivered) -> None:
        client = self._client(batch)
        try:
            client.put(batch, headers, events, result)
        except ExpiredCredentials:
            # Once: credentials that are refused when they are new are no matter of time.
            with self._lock_of(batch.flow_log_id):
                known = self._clients.get(batch.flow_log_id)
                if known is not None and known[1] is client:
                    self.forget(batch.flow_log_id)
            self._client(batch).put(batch, headers, events, result)

    def forget(self, flow_log_id: str) -> None:
        """Its credentials and its client; the next delivery makes them anew."""
        self._clients.pop(flow_log_id, None)
        self._roles.forget(flow_log_id)

    def _client(self, batch: Batch) -> _Client:
        """The flow log's, with its role's credentials; one thread makes it and the others wait for that."""
        with self._lock_of(batch.flow_log_id):
            key = self._roles.key(batch.flow_log_id, batch.role_arn)
            known = self._clients.get(batch.flow_log_id)
            if known is None or known[0] != key:
                calls = RecordCalls(self._endpoint, key) if self._typed else None
                known = (key, _Client(self._endpoint.client("logs", key), calls, self._is_served))
                self._clients[batch.flow_log_id] = known
            return known[1]

    def _lock_of(self, flow_log_id: str) -> threading.Lock:
        return self._locks.setdefault(flow_log_id, threading.Lock())


class _Client:
    """One role session's client of the log service. Safe to use from several threads."""

    def __init__(self, client: Any, records: RecordCalls | None, is_served: Callable[[str], bool]) -> None:
        self._client = client
        self._is_served = is_served
        self._records = records
        self._call_of = threading.local()  # the body and headers of the call that the thread is about to make
        # Before signing, so that the signature covers the body and the header.
        client.meta.events.register("before-call.cloudwatch-logs.PutLogEvents", self._fill)

    def _fill(self, params: dict[str, Any], **_: Any) -> None:
        params["body"] = self._call_of.body
        params["headers"] |= self._call_of.headers

    def put(self, batch: Batch, headers: dict[str, str], events: pa.Table, result: Delivered) -> None:
        put = self._put_records if batch.log_format else self._put_lines
        answer = put(batch, headers, events)
        if answer is None:
            self._make(batch)
            answer = put(batch, headers, events)
        if answer is None:
            raise DestinationUnavailable(f"{batch.group} {batch.stream}: made, and missing again")
        _count(answer.get("rejectedLogEventsInfo", {}), events.num_rows, result)

    def _put_lines(self, batch: Batch, headers: dict[str, str], events: pa.Table) -> dict[str, Any] | None:
        """The answer; None where the group or the stream is missing."""
        self._call_of.headers = headers
        self._call_of.body = put_log_events_body(batch.group, batch.stream, events)
        try:
            return self._call("put_log_events", logGroupName=batch.group, logStreamName=batch.stream, logEvents=[])
        except _Missing:
            return None

    def _put_records(self, batch: Batch, headers: dict[str, str], records: pa.Table) -> dict[str, Any] | None:
        """The answer; None where the group is missing. A missing stream is made by the service."""
        assert self._records is not None
        format = flow_log_format(batch.log_format)
        try:
            return self._records.put(batch.group, batch.stream, records, format, headers)
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return None
            raise delivery_error(error) from error
        except BotoCoreError as error:
            raise delivery_error(error) from error

    def _make(self, batch: Batch) -> None:
        stream = {"logGroupName": batch.group, "logStreamName": batch.stream}
        try:
            self._call("create_log_stream", **stream)
        except _Missing:
            if not self._is_served(batch.flow_log_id):
                raise BatchRefused(f"{batch.group} is gone, and so is the flow log") from None
            self._call("create_log_group", logGroupName=batch.group)
            try:
                self._call("create_log_stream", **stream)
            except _Missing as error:
                raise DestinationUnavailable(error.message) from error  # deleted again between the two calls

    def _call(self, name: str, **params: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, name)(**params)
            return answer
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError):
                if code_of(error) == "ResourceNotFoundException":
                    raise _Missing(str(error)) from error
                if code_of(error) == "ResourceAlreadyExistsException":
                    return {}
            raise delivery_error(error) from error


class _Missing(BatchRefused):
    """The log group or the log stream is not there."""


def _member_headers(batch: Batch) -> dict[str, str]:
    # A batch that is small has one part, so that it has the same id here as alone.
    ids = ",".join(f"{member.batch_id}/0" for member in batch.members)
    counts = ",".join(str(member.events.num_rows) for member in batch.members)
    return {BATCH_HEADER: ids, EVENTS_HEADER: counts}


def _count(rejected: dict[str, int], events: int, result: Delivered) -> None:
    # Both end indexes are exclusive and count from the oldest event; an event may be both too old and past retention.
    too_old = min(int(rejected.get("tooOldLogEventEndIndex", 0)), events)
    expired = min(max(int(rejected.get("expiredLogEventEndIndex", 0)) - too_old, 0), events - too_old)
    too_new = min(events - int(rejected.get("tooNewLogEventStartIndex", events)), events - too_old - expired)
    result.too_old += too_old
    result.expired += expired
    result.too_new += too_new
    result.accepted += events - too_old - expired - too_new


def without_too_large(events: pa.Table) -> tuple[pa.Table, int]:
    """The events that a call can hold at all (1 byte and more, and not above its bound), and how many were left out."""
    length = pc.binary_length(events["message"])
    fits = pc.and_(pc.greater(length, 0), pc.less_equal(length, CALL_BYTES_MAX - EVENT_OVERHEAD_BYTES))
    kept = events.filter(fits)
    return kept, events.num_rows - kept.num_rows


def parts(events: pa.Table) -> Iterator[pa.Table]:
    """Cuts events into calls within AWS's limits; the same events are always cut in the same way."""
    times = events["timestamp"].to_numpy()
    ends = np.cumsum(pc.binary_length(events["message"]).to_numpy().astype(np.int64) + EVENT_OVERHEAD_BYTES)
    start = 0
    while start < events.num_rows:
        before = int(ends[start - 1]) if start else 0
        end = min(
            start + CALL_EVENTS_MAX,
            int(np.searchsorted(ends, before + CALL_BYTES_MAX, side="right")),
            int(np.searchsorted(times, times[start] + CALL_SPAN_MS, side="right")),
        )
        yield events.slice(start, end - start)
        start = end


def put_log_events_body(group: str, stream: str, events: pa.Table) -> bytes:
    """The JSON body of PutLogEvents."""
    messages = events["message"].combine_chunks()
    # A message that JSON must escape is not one of a flow log in AWS's formats; the general way costs ten times more.
    if pc.any(pc.match_substring_regex(messages, r'["\\\x00-\x1f\x7f]')).as_py():
        messages = pa.array([json.dumps(message)[1:-1] for message in messages.to_pylist()], pa.string())
    timestamps = pc.cast(events["timestamp"].combine_chunks(), pa.string())
    items = pc.binary_join_element_wise('{"timestamp":', timestamps, ',"message":"', messages, '"}', "")
    whole = pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)
    joined = pc.binary_join(whole, ",")[0].as_py()
    names = f'"logGroupName":{json.dumps(group)},"logStreamName":{json.dumps(stream)}'
    return f'{{{names},"logEvents":[{joined}]}}'.encode()
