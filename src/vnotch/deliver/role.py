"""The credentials of flow logs' roles: AssumeRole with the agent's key, once per flow log until shortly before expiry.

On AWS the service principal `vpc-flow-logs.amazonaws.com` assumes the role of a flow log (VPC user guide, IAM role for
publishing flow logs to CloudWatch Logs). Here the agent's key stands for that principal; the role session is named
after the flow log, by which the server finds the source account and ARN for the trust policy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from vnotch.deliver.endpoint import BatchRefused, Endpoint, Key, delivery_error
from vnotch.errors import AccessError

REFRESH_BEFORE_SECONDS = 300
"""A role session is renewed this long before it ends, or at half of its life where that is shorter."""


@dataclass(frozen=True)
class _Session:
    role_arn: str
    key: Key
    renew_s: float


class Roles:
    """Role sessions by flow log. Safe to use from several threads; two flow logs never wait for each other."""

    def __init__(self, endpoint: Endpoint, agent_key: Key, *, now: Callable[[], float] = time.time) -> None:
        self._sts: Any = endpoint.client("sts", agent_key)
        self._now = now
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    def key(self, flow_log_id: str, role_arn: str) -> Key:
        """The credentials of the flow log's role.

        Raises AccessError where STS refuses (permission, trust policy, no such role), RateLimitedError,
        DestinationUnavailable.
        """
        with self._lock:
            session = self._sessions.get(flow_log_id)
        if session and session.role_arn == role_arn and self._now() < session.renew_s:
            return session.key
        session = self._assume(flow_log_id, role_arn)
        with self._lock:
            self._sessions[flow_log_id] = session
        return session.key

    def forget(self, flow_log_id: str) -> None:
        """The next `key` asks STS again."""
        with self._lock:
            self._sessions.pop(flow_log_id, None)

    def _assume(self, flow_log_id: str, role_arn: str) -> _Session:
        try:
            answer = self._sts.assume_role(RoleArn=role_arn, RoleSessionName=flow_log_id)
        except (BotoCoreError, ClientError) as error:
            meaning = delivery_error(error)
            # Whatever else STS finds wrong with the request lies in the role: AWS shows that as `Access error`.
            raise (AccessError(meaning.message) if isinstance(meaning, BatchRefused) else meaning) from error
        found = answer["Credentials"]
        expires_s = found["Expiration"].timestamp()
        life = max(0.0, expires_s - self._now())
        return _Session(
            role_arn=role_arn,
            key=Key(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], expires_s),
            renew_s=expires_s - min(REFRESH_BEFORE_SECONDS, life / 2),
        )
