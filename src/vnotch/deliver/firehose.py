"""The Firehose destination: records posted to an HTTPS endpoint as Amazon Data Firehose posts them.

Facts (Firehose developer guide, "HTTP endpoint delivery request and response specifications"): a POST of JSON,
`{"requestId", "timestamp", "records": [{"data": base64}]}`, at most 64 MiB before compression, with the headers below;
`requestId` is the same whenever the same data is sent again. Delivered is what is answered with HTTP 200, content type
application/json, and a body that has the request's own `requestId` and a timestamp; all else is tried again, but for
413, which says that the data will never be taken. Redirects are not followed. An answer has at most 1 MiB.

Each record's data is `{"message": "<line>"}`, as flow logs have it there. Which endpoint a delivery stream leads to the
server knows (`vnotch.delivery_streams`); an agent asks it, and posts by itself.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vnotch.deliver.batch import Batch, as_text
from vnotch.deliver.endpoint import BatchRefused
from vnotch.deliver.https import Answer, Https
from vnotch.deliver.logs import Delivered
from vnotch.errors import AccessError, DeliveryError, DestinationUnavailable, RateLimitedError

REQUEST_BYTES_MAX = 4 << 20
REQUEST_RECORDS_MAX = 10_000
"""Of one request before compression: far below the protocol's 64 MiB, since vendors' own bounds are lower."""
ANSWER_BYTES_MAX = 1 << 20
READ_TIMEOUT_SECONDS = 60.0
ASK_AGAIN_SECONDS = 60.0
CONNECTIONS_MAX = 20
_RECORD_OVERHEAD = len('{"data":""},')
_NAMESPACE = uuid.UUID("8c2f4f0e-6f0b-5b8e-9d5e-2f1f4c1d7a11")


@dataclass(frozen=True)
class Target:
    """Where one flow log's records go, as the server says it."""

    arn: str
    url: str
    access_key: str
    compress: bool
    attributes: Mapping[str, str]


class DeliveryStreams:
    """Posts batches. Safe to use from several threads.

    `ask` gives the server's answer for a flow log; it raises AccessError and DestinationUnavailable.
    """

    def __init__(
        self, ask: Callable[[str], Mapping[str, Any]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._targets: dict[str, tuple[float, Target]] = {}
        self._https = Https(
            read_timeout_seconds=READ_TIMEOUT_SECONDS,
            connections_max=CONNECTIONS_MAX,
            answer_bytes_max=ANSWER_BYTES_MAX,
        )

    def deliver(self, batch: Batch) -> Delivered:
        """Posts the whole batch, or raises with the batch to be posted again as a whole, under the same request ids.

        Raises AccessError, RateLimitedError, DestinationUnavailable; BatchRefused for what will never be taken.
        """
        target = self._target(batch.flow_log_id)
        identity = ",".join(member.batch_id for member in batch.members) or batch.batch_id
        try:
            for number, messages in enumerate(requests_of(as_text(batch).events)):
                request_id = str(uuid.uuid5(_NAMESPACE, f"{identity}/{number}"))
                self._post(target, request_id, messages)
        except AccessError:
            with self._lock:
                self._targets.pop(batch.flow_log_id, None)  # another key may be there by the next try
            raise
        return Delivered(accepted=batch.events.num_rows)

    def _target(self, flow_log_id: str) -> Target:
        with self._lock:
            known = self._targets.get(flow_log_id)
            if known is not None and self._monotonic() < known[0]:
                return known[1]
            answer = self._ask(flow_log_id)
            try:
                target = Target(**answer)
            except TypeError as error:
                raise DestinationUnavailable(f"the server's answer is no delivery stream: {error}") from error
            self._targets[flow_log_id] = self._monotonic() + ASK_AGAIN_SECONDS, target
            return target

    def _post(self, target: Target, request_id: str, messages: list[str]) -> None:
        body = request_body(request_id, int(time.time() * 1000), messages)
        headers = {
            "Content-Type": "application/json",
            "X-Amz-Firehose-Protocol-Version": "1.0",
            "X-Amz-Firehose-Request-Id": request_id,
            "X-Amz-Firehose-Source-Arn": target.arn,
        }
        if target.access_key:
            headers["X-Amz-Firehose-Access-Key"] = target.access_key
        if target.attributes:
            headers["X-Amz-Firehose-Common-Attributes"] = json.dumps({"commonAttributes": dict(target.attributes)})
        if target.compress:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1, mtime=0)
        _check(target.url, request_id, self._https.send("POST", target.url, body, headers))


def requests_of(events: pa.Table) -> Iterator[list[str]]:
    """The messages of a batch, cut into requests; the same events are always cut in the same way."""
    messages: list[str] = []
    size = 0
    for message in events["message"].to_pylist():
        length = (len(message.encode()) + len('{"message":""}') + 2) // 3 * 4 + _RECORD_OVERHEAD
        if messages and (size + length > REQUEST_BYTES_MAX or len(messages) == REQUEST_RECORDS_MAX):
            yield messages
            messages, size = [], 0
        messages.append(message)
        size += length
    if messages:
        yield messages


def request_body(request_id: str, timestamp_ms: int, messages: list[str]) -> bytes:
    records = [
        {"data": b64encode(json.dumps({"message": message}, separators=(",", ":")).encode()).decode()}
        for message in messages
    ]
    document = {"requestId": request_id, "timestamp": timestamp_ms, "records": records}
    return json.dumps(document, separators=(",", ":")).encode()


def _check(url: str, request_id: str, answer: Answer) -> None:
    """Raises DeliveryError unless the endpoint has acknowledged this request."""
    status = answer.status
    text = f"{url}: HTTP {status} {_error_message(answer)}".rstrip()
    if status == 200:
        if _acknowledges(request_id, answer):
            return
        raise DestinationUnavailable(f"{url} answers 200 without the acknowledgement of the Firehose protocol")
    if status == 413:
        raise BatchRefused(text)
    if status == 429:
        raise RateLimitedError(text)
    if status in (401, 403):
        raise AccessError(text, "is the access key of the delivery stream right?")
    if status >= 500 or status < 400:
        raise DestinationUnavailable(text)
    raise DeliveryError(text)


def _acknowledges(request_id: str, answer: Answer) -> bool:
    if answer.content_type.partition(";")[0].strip().lower() != "application/json":
        return False
    document = _document(answer)
    return document.get("requestId") == request_id and type(document.get("timestamp")) is int


def _error_message(answer: Answer) -> str:
    return str(_document(answer).get("errorMessage", ""))[:300]


def _document(answer: Answer) -> dict[str, Any]:
    """The JSON object that was answered; empty where that is none, or longer than the protocol allows."""
    try:
        found = json.loads(answer.said or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
