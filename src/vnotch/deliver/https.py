"""One request to a destination that others run, a bucket or an endpoint: no redirects, no settings of this host's AWS
tools, and of the answer no more than is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import HTTPError

from vnotch.deliver.endpoint import CONNECT_TIMEOUT_SECONDS
from vnotch.errors import DestinationUnavailable
from vnotch.signed_http import authorities


@dataclass(frozen=True)
class Answer:
    """`said` is its body, None where that is longer than was asked for."""

    status: int
    content_type: str
    said: bytes | None


class Https:
    """Keeps connections. Safe to use from several threads."""

    def __init__(self, *, read_timeout_seconds: float, connections_max: int, answer_bytes_max: int) -> None:
        """`read_timeout_seconds`: between two bytes of an answer."""
        self._answer_bytes_max = answer_bytes_max
        self._session = URLLib3Session(
            verify=authorities(),
            timeout=(CONNECT_TIMEOUT_SECONDS, read_timeout_seconds),
            max_pool_connections=connections_max,
        )

    def send(self, method: str, url: str, body: Any, headers: Mapping[str, str]) -> Answer:
        """Raises DestinationUnavailable where there is no answer."""
        request = AWSRequest(method, url, data=body, headers=dict(headers), stream_output=True).prepare()
        try:
            answer = self._session.send(request)
            said = answer.raw.read(self._answer_bytes_max + 1, decode_content=True)
            if len(said) > self._answer_bytes_max:
                answer.raw.close()
            else:
                answer.raw.release_conn()
        except (BotoCoreError, HTTPClientError, HTTPError) as error:
            raise DestinationUnavailable(f"{place_of(url)}: {error}") from error
        kind = str(answer.headers.get("content-type", ""))
        return Answer(answer.status_code, kind, said if len(said) <= self._answer_bytes_max else None)


def place_of(url: str) -> str:
    """Without the query, which may have a signature."""
    return url.partition("?")[0]
