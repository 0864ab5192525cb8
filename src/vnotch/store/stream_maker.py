"""Makes log streams for many who ask at once, in few transactions: each is a sync of the disk, whatever it holds.

Who asks first makes them for all that wait; those find theirs made when their turn comes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import select

from vnotch.store.log_groups import IDS_AT_ONCE, LogGroup, LogStream
from vnotch.store.state import State


class Made(Enum):
    """What became of a request for a stream."""

    NEW = "new"
    EXISTED = "existed"
    NO_GROUP = "no group"


@dataclass
class _Request:
    group_id: int
    name: str
    now_ms: int
    outcome: Made | None = None
    error: Exception | None = None


class StreamMaker:
    """Safe to use from several threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []

    def make(self, group_id: int, name: str, now_ms: int) -> Made:
        """Raises HostError where the state cannot be written; nothing is made then."""
        request = _Request(group_id, name, now_ms)
        with self._lock:
            self._waiting.append(request)
        with self._turn:
            if request.outcome is None and request.error is None:
                with self._lock:
                    requests, self._waiting = self._waiting, []
                self._make(requests)
        if request.error is not None:
            raise request.error
        assert request.outcome is not None
        return request.outcome

    def _make(self, requests: list[_Request]) -> None:
        outcomes: list[Made] = []
        try:
            with self._state.write() as session:
                asked = {request.group_id for request in requests}
                groups = set(session.scalars(select(LogGroup.id).where(LogGroup.id.in_(asked))))
                there = set()
                for group_id in groups:
                    for names in _parts({request.name for request in requests if request.group_id == group_id}):
                        wanted = select(LogStream.name).where(LogStream.group_id == group_id, LogStream.name.in_(names))
                        there |= {(group_id, name) for name in session.scalars(wanted)}
                for request in requests:
                    key = (request.group_id, request.name)
                    if request.group_id not in groups:
                        outcomes.append(Made.NO_GROUP)
                    elif key in there:
                        outcomes.append(Made.EXISTED)
                    else:
                        there.add(key)
                        session.add(LogStream(group_id=key[0], name=key[1], creation_ms=request.now_ms))
                        outcomes.append(Made.NEW)
        except Exception as error:
            for request in requests:
                request.error = error
            return
        for request, outcome in zip(requests, outcomes, strict=True):
            request.outcome = outcome


def _parts(names: Iterable[str]) -> Iterable[list[str]]:
    listed = sorted(names)
    for start in range(0, len(listed), IDS_AT_ONCE):
        yield listed[start : start + IDS_AT_ONCE]
