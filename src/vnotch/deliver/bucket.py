"""Buckets as a destination: a file of the outbox goes there by one PUT that the server has signed beforehand.

The agent has no key of any bucket. It tells the server which file it wants to upload: flow log, slot, hash, length and
digests. The server decides whether this agent delivers that flow log, makes the key, and answers with the request:

    {"method": "PUT", "url": "https://...", "headers": {"content-length": ..., "content-md5": ..., ...}}

whose signature covers the key, the length and the digests, and ends after some minutes. So nothing else can be written
with it, and what was changed on the way is refused by the bucket.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

from vnotch.deliver.endpoint import ACCESS_CODES, RATE_CODES, BatchRefused
from vnotch.deliver.https import Https, place_of
from vnotch.deliver.logs import Delivered
from vnotch.deliver.outbox import SlotFile
from vnotch.errors import AccessError, DeliveryError, DestinationUnavailable, RateLimitedError

READ_TIMEOUT_SECONDS = 120.0
"""The answer comes once the bucket has the whole file."""

CONNECTIONS_MAX = 8
SAID_BYTES_MAX = 64 << 10

_BUCKET_ACCESS_CODES = ACCESS_CODES | {"AllAccessDisabled", "InvalidAccessKeyId", "NoSuchBucket", "AccountProblem"}
"""AWS has no word of its own for a bucket that is gone; `Access error` is the one that says where to look."""

_FILE_CODES = {"BadDigest", "XAmzContentSHA256Mismatch", "EntityTooLarge", "KeyTooLongError"}
"""What is wrong with the file itself. All else lies in the bucket, and its owner may put it right."""

_PASSING_CODES = {"RequestTimeTooSkewed", "ExpiredToken", "TemporaryRedirect", "PermanentRedirect", "OperationAborted"}
"""A new signature may pass where these came."""


class NameTaken(DestinationUnavailable):
    """Another file of the slot has this name; with another one this may pass."""


Presign = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Buckets:
    """Uploads files. Safe to use from several threads.

    `presign` asks the server; it raises AccessError, NameTaken and DestinationUnavailable.
    """

    def __init__(self, presign: Presign) -> None:
        self._presign = presign
        self._lock = threading.Lock()
        self._https = Https(
            read_timeout_seconds=READ_TIMEOUT_SECONDS, connections_max=CONNECTIONS_MAX, answer_bytes_max=SAID_BYTES_MAX
        )

    def deliver(self, file: SlotFile) -> Delivered:
        """Uploads the whole file. Raises DeliveryError, BatchRefused where trying again is of no use."""
        with self._lock:
            request = self._presign(described(file))
        try:
            method, url, headers = str(request["method"]), str(request["url"]), dict(request["headers"])
        except (KeyError, TypeError, ValueError) as error:
            raise DestinationUnavailable(f"the server's answer is no request: {error!r}") from error
        try:
            with file.path.open("rb") as body:
                answer = self._https.send(method, url, body, headers)
        except OSError as error:
            raise DestinationUnavailable(f"{file.path.name} cannot be read: {error.strerror}") from error
        if answer.status >= 300:
            raise upload_error(place_of(url), answer.status, answer.said or b"")
        return Delivered(accepted=file.records)


def described(file: SlotFile) -> dict[str, Any]:
    """What the server is told of a file; the digests in base64, as S3's headers have them."""
    return {
        "flow_log_id": file.flow_log_id,
        "slot_s": file.slot_s,
        "name_hash": file.name_hash,
        "length": file.size,
        "md5": b64encode(bytes.fromhex(file.md5)).decode(),
        "sha256": b64encode(bytes.fromhex(file.sha256)).decode(),
    }


def upload_error(place: str, status: int, said: bytes) -> DeliveryError:
    """What a bucket's refusal means (S3 API reference, error responses)."""
    code, message = _code(said)
    text = f"{place}: {' '.join(word for word in (code, message) if word) or f'HTTP status {status}'}"
    if code in RATE_CODES or status == 429:
        return RateLimitedError(text)
    if status >= 500 or status < 400 or code in _PASSING_CODES or (code == "AccessDenied" and "expired" in message):
        return DestinationUnavailable(text)
    if code in _BUCKET_ACCESS_CODES or status in (401, 403):
        return AccessError(text)
    if not code:
        return DestinationUnavailable(text)  # no S3, but a proxy, or another server on that port
    return BatchRefused(text) if code in _FILE_CODES else DeliveryError(text)


def _code(said: bytes) -> tuple[str, str]:
    """Code and message of S3's error document; empty for anything else."""
    try:
        root = ElementTree.fromstring(said)
    except ElementTree.ParseError:
        return "", ""
    return root.findtext("Code") or "", root.findtext("Message") or ""
