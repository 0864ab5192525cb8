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
import os
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import URLLib3Session

from vnotch.deliver.batch import Batch, as_text
from vnotch.deliver.endpoint import CONNECT_TIMEOUT_SECONDS, BatchRefused
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
        self._http = URLLib3Session(
            verify=os.environ.get("AWS_CA_BUNDLE") or True,
            timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
            max_pool_connections=CONNECTIONS_MAX,
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
        try:
            answer = self._http.send(AWSRequest("POST", target.url, data=body, headers=headers).prepare())
            status, said, kind = answer.status_code, answer.content, str(answer.headers.get("content-type", ""))
        except (BotoCoreError, HTTPClientError) as error:
            raise DestinationUnavailable(f"{target.url}: {error}") from error
        _check(target.url, request_id, status, kind, said)


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


def _check(url: str, request_id: str, status: int, kind: str, said: bytes) -> None:
    """Raises DeliveryError unless the endpoint has acknowledged this request."""
    text = f"{url}: HTTP {status} {_error_message(said)}".rstrip()
    if status == 200:
        if _acknowledges(request_id, kind, said):
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


def _acknowledges(request_id: str, kind: str, said: bytes) -> bool:
    if len(said) > ANSWER_BYTES_MAX or kind.partition(";")[0].strip().lower() != "application/json":
        return False
    try:
        document = json.loads(said)
    except ValueError:
        return False
    if not isinstance(document, dict) or not isinstance(document.get("timestamp"), int):
        return False
    return document.get("requestId") == request_id


def _error_message(said: bytes) -> str:
    try:
        found = json.loads(said[:ANSWER_BYTES_MAX])
        return str(found.get("errorMessage", ""))[:300] if isinstance(found, dict) else ""
    except ValueError:
        return ""
