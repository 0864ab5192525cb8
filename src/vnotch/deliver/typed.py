"""Deliveries of typed records to vnotch's own log service (api/log_records.py), signed like a call of AWS's.

A server of a release before knows no such path; it is told from a refusal by its words, and text is delivered to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session

from vnotch.deliver.endpoint import (
    CONNECT_TIMEOUT_SECONDS,
    CONNECTIONS_MAX,
    READ_TIMEOUT_SECONDS,
    Endpoint,
    Key,
)
from vnotch.deliver.record_body import CONTENT_TYPE, write_body
from vnotch.fields import Format
from vnotch.signed_http import authorities

PATH = "/vnotch/v1/log-records"
CALL_RECORDS_MAX = 100_000
CALL_BYTES_MAX = 8 << 20
"""Of a call's columns, half of what the server takes."""

CALL_SPAN_MS = 24 * 3600 * 1000
_UNKNOWN_CODES = frozenset({"InvalidAction", "UnknownOperationException", "UnknownService"})


class NotServed(Exception):
    """The server knows no deliveries of typed records."""


class RecordCalls:
    """One role session's calls. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint, key: Key) -> None:
        assert endpoint.url is not None
        self._url = endpoint.url.rstrip("/") + PATH
        credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token)
        self._auth = SigV4Auth(credentials, "vnotch", endpoint.region)
        self._session = URLLib3Session(
            verify=authorities(),
            timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
            max_pool_connections=CONNECTIONS_MAX,
            proxies={},
        )

    def put(
        self, group: str, stream: str, records: pa.Table, format: Format, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """The answer. Raises NotServed, ClientError, BotoCoreError."""
        query = urlencode({"create": "true", "group": group, "stream": stream})
        sent = {"Content-Type": CONTENT_TYPE, **headers}
        request = AWSRequest("POST", f"{self._url}?{query}", data=write_body(records, format), headers=sent)
        self._auth.add_auth(request)
        answer = self._session.send(request.prepare())
        try:
            document = json.loads(answer.content or b"{}")
        except ValueError:
            document = None
        if answer.status_code == 200 and isinstance(document, dict):
            return document
        raise _refusal(answer.status_code, document if isinstance(document, dict) else {}, answer.content)


def _refusal(status: int, document: Mapping[str, Any], content: bytes) -> NotServed | ClientError:
    code = str(document.get("__type", "")).rpartition("#")[2]
    if code in _UNKNOWN_CODES or (not code and any(f"<Code>{name}<".encode() in content for name in _UNKNOWN_CODES)):
        return NotServed(str(document.get("message", "")))
    error = {"Code": code or str(status), "Message": str(document.get("message", ""))}
    said: Any = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "PutLogRecords")


def record_parts(records: pa.Table) -> Iterator[pa.Table]:
    """Cuts records into calls; the same records are always cut in the same way."""
    times = records["timestamp"].to_numpy()
    rows = min(CALL_RECORDS_MAX, max(1, CALL_BYTES_MAX * records.num_rows // max(1, records.nbytes)))
    start = 0
    while start < records.num_rows:
        end = min(start + rows, int(np.searchsorted(times, times[start] + CALL_SPAN_MS, side="right")))
        yield records.slice(start, end - start)
        start = end
