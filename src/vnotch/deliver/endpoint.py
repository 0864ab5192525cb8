"""The AWS endpoint that an agent delivers to, and what its errors mean to a delivery.

Clients are botocore's, with nothing of this host's own AWS settings in them: no profile, no files, no environment keys.
botocore's retries are off, because the courier has its own back-off and counts every attempt.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vnotch.errors import AccessError, DeliveryError, DestinationUnavailable, RateLimitedError
from vnotch.service_models import session

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0
CONNECTIONS_MAX = 20
"""Of one client; the courier's bound on the calls of one flow log."""

ACCESS_CODES = {
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
}
EXPIRED_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    # The session is of a role that was deleted meanwhile; one of the same name may be there by now.
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
RATE_CODES = {
    "LimitExceededException",  # the quota of log groups: also `Rate limited` (VPC user guide, troubleshooting)
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}


class ExpiredCredentials(AccessError):
    """The session has run out or is known no more; with a new one the same call may pass."""


class BatchRefused(DeliveryError):
    """The destination will never take this batch: trying again is of no use."""


@dataclass(frozen=True)
class Key:
    """Credentials. `session_token` and `expires_s` (Unix time) are those of a role session."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expires_s: float | None = None


class Endpoint:
    """Makes clients. `url` None is AWS itself. Safe to use from several threads."""

    def __init__(
        self,
        url: str | None,
        region: str,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self.url = url
        self.region = region
        nothing = (None, None, os.devnull, None)
        self._session = session(
            session_vars={
                "profile": (None, None, None, None),
                "config_file": nothing,
                "credentials_file": nothing,
            }
        )
        self._config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=connect_timeout_seconds,
            read_timeout=read_timeout_seconds,
            parameter_validation=False,
            max_pool_connections=CONNECTIONS_MAX,
        )
        self._lock = threading.Lock()  # a session is not safe to make clients with from two threads

    def client(self, service: str, key: Key) -> Any:
        with self._lock:
            return self._session.create_client(
                service,
                region_name=self.region,
                endpoint_url=self.url,
                aws_access_key_id=key.access_key_id,
                aws_secret_access_key=key.secret_access_key,
                aws_session_token=key.session_token,
                config=self._config,
            )


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def delivery_error(error: BotoCoreError | ClientError) -> DeliveryError:
    """What an error of a client means: whose fault it is and whether it can pass."""
    if not isinstance(error, ClientError):
        return DestinationUnavailable(str(error))
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = str(error)
    if code in EXPIRED_CODES:
        return ExpiredCredentials(text)
    if code in RATE_CODES or status == 429:
        return RateLimitedError(text)
    if code in ACCESS_CODES or status in (401, 403):
        return AccessError(text)
    if status >= 500 or code in ("OperationAbortedException", "ServiceUnavailableException", "RequestTimeout"):
        return DestinationUnavailable(text)
    if code.isdecimal() or not code:
        # botocore puts the status where the answer names no error: this was no AWS service but a proxy, or another
        # server on that port. It must not cost a batch.
        return DestinationUnavailable(text)
    return BatchRefused(text)
