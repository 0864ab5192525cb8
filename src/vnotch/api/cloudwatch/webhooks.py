"""Webhooks: what an alarm calls. A POST with the JSON that AWS sends to an SNS topic, tried three times.

An action of an alarm is an `http(s)` URL, or an ARN that the server maps to one (`vnotch server --webhook ARN=URL`).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from vnotch.errors import InputError

log = logging.getLogger(__name__)

WAITING_MAX = 100
TRIES_SECONDS = (0.0, 1.0, 5.0)
TIMEOUT_SECONDS = 10.0


class Webhooks:
    """A thread that calls URLs one after another; what its queue does not take is counted and logged."""

    def __init__(self, mapped: Mapping[str, str] | None = None) -> None:
        self.mapped = dict(mapped or {})
        self.counters = {"called": 0, "failed": 0, "dropped": 0}
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(WAITING_MAX)
        self._ended = threading.Event()
        self._http = URLLib3Session(timeout=(TIMEOUT_SECONDS, TIMEOUT_SECONDS))
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def url_of(self, action: str) -> str | None:
        """The URL that an action stands for; None where it stands for none."""
        if action in self.mapped:
            return self.mapped[action]
        return action if is_url(action) else None

    def call(self, action: str, content: Mapping[str, Any]) -> None:
        """Never waits, and never raises."""
        url = self.url_of(action)
        try:
            if url is None:
                raise queue.Full
            self._waiting.put_nowait((url, orjson.dumps(content)))
        except queue.Full:
            self.counters["dropped"] += 1
            log.error("the action %s is dropped: %s", action, "it has no URL" if url is None else "too many wait")

    def close(self) -> None:
        self._ended.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(TIMEOUT_SECONDS)
        if lost := sum(item is not None for item in self._waiting.queue):
            self.counters["dropped"] += lost
            log.error("%d calls of webhooks are dropped: the server ends", lost)

    def _run(self) -> None:
        while not self._ended.is_set():
            item = self._waiting.get()
            if item is not None:
                self._post(*item)

    def _post(self, url: str, body: bytes) -> None:
        said = ""
        for pause in TRIES_SECONDS:
            if self._ended.wait(pause):
                return
            try:
                request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
                status = self._http.send(request.prepare()).status_code
            except (BotoCoreError, OSError, ValueError) as error:
                said = str(error)
                continue
            if status < 300:
                self.counters["called"] += 1
                return
            said = f"HTTP {status}"
        self.counters["failed"] += 1
        log.error("the webhook %s was not taken: %s", urlsplit(url)._replace(query="", fragment="").geturl(), said)


def is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None


def webhook_map(settings: Iterable[str]) -> dict[str, str]:
    """`ARN=URL` settings. Raises InputError."""
    mapped = {}
    for setting in settings:
        arn, _, url = setting.partition("=")
        if not arn.startswith("arn:") or not is_url(url):
            raise InputError(f"webhook {setting!r} is no ARN=URL", "such as arn:aws:sns:...:ops=https://example.com/x")
        mapped[arn] = url
    return mapped
