"""Signed calls of vnotch's own part of the API (paths below /vnotch/v1, service name `vnotch`), by all who make them.

JSON goes and JSON comes. SigV4 and the connections are botocore's.
"""

from __future__ import annotations

import json
import os
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from vnotch.errors import HostError, InputError

CONNECT_TIMEOUT_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0
SAID_CHARACTERS_MAX = 300


def authorities() -> str | bool:
    """Whose certificates are believed: as by AWS's clients, those in the file that AWS_CA_BUNDLE names, which is how
    one's own server or proxy is believed; else the usual ones."""
    return os.environ.get("AWS_CA_BUNDLE") or True


class NoAnswer(HostError):
    """Nobody answers there, or it is no vnotch server."""


class Refused(InputError):
    """The server answered and refused. `status` is HTTP's, `code` AWS's name for it where there is one, `said` its
    words."""

    def __init__(self, message: str, status: int, code: str, said: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.said = said


class SignedHttp:
    """One server and one key. Keeps its connections; one thread uses it at a time."""

    def __init__(self, url: str, region: str, access_key_id: str, secret_access_key: str) -> None:
        self.url = url.rstrip("/")
        self._region = region
        self._credentials = Credentials(access_key_id, secret_access_key)
        self._sessions: dict[float, URLLib3Session] = {}

    def request(
        self, method: str, path: str, body: Any = None, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """The answer's JSON object. Raises NoAnswer and Refused."""
        data = b"" if body is None else json.dumps(body).encode()
        return self.send(method, path, data, "application/json", timeout_seconds=timeout_seconds)

    def send(
        self,
        method: str,
        path: str,
        data: bytes | memoryview,
        content_type: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """The same with a body of any kind."""
        request = AWSRequest(method, self.url + path, data=data, headers={"Content-Type": content_type})
        SigV4Auth(self._credentials, "vnotch", self._region).add_auth(request)
        connect_seconds = min(CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        session = self._sessions.get(timeout_seconds)
        if session is None:
            session = URLLib3Session(verify=authorities(), timeout=(connect_seconds, timeout_seconds))
            self._sessions[timeout_seconds] = session
        try:
            answer = session.send(request.prepare())
            status, content = answer.status_code, answer.content
        except BotoCoreError as error:
            raise NoAnswer(f"no answer from {self.url}: {error}", "is the server running? `vnotch server`") from error
        try:
            document = json.loads(content or b"{}")
        except ValueError:
            document = None
        if status >= 300:
            raise self._refused(method, path, status, content, document if isinstance(document, dict) else {})
        if not isinstance(document, dict):
            raise NoAnswer(f"{self.url} answers {method} {path} with no JSON object", "is it a vnotch server?")
        return document

    def _refused(self, method: str, path: str, status: int, content: bytes, document: dict[str, Any]) -> Refused:
        code = str(document.get("__type", ""))
        said = str(document.get("message") or content[:SAID_CHARACTERS_MAX].decode(errors="replace"))
        words = " ".join(word for word in (code, said) if word) or f"HTTP status {status}"
        return Refused(f"{self.url} refuses {method} {path.partition('?')[0]}: {words}", status, code, said)
