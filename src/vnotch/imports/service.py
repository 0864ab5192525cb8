"""The log service as an import sees it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vnotch.errors import InputError
from vnotch.imports.body import CONTENT_TYPE, write_part
from vnotch.imports.parts import Part
from vnotch.signed_http import NoAnswer, Refused, SignedHttp

_PATH = "/vnotch/v1/log-imports"
PART_SECONDS = 90.0
TRIES = 8
_WAIT_SECONDS = 0.2
_WAIT_SECONDS_MAX = 10.0
_AGAIN = ("ThrottlingException", "ServiceUnavailableException")


@dataclass(frozen=True)
class State:
    """What is stored of a file."""

    parts: frozenset[int] = frozenset()
    complete: bool = False


class PartRefused(InputError):
    """The service will not have a part, however often it comes."""


class LogService:
    """One connection; one thread uses it at a time."""

    def __init__(self, http: SignedHttp, group: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = http
        self._group = quote(group, safe="")
        self._sleep = sleep

    def states(self, file_ids: Sequence[str]) -> list[State]:
        """Of each file. Raises Refused for a group that is not there or may not be written to."""
        body = {"files": list(dict.fromkeys(file_ids))}
        found = self._again(lambda: self._http.request("POST", f"{_PATH}/status?group={self._group}", body))["files"]
        return [
            State(frozenset(found[item]["parts"]), found[item]["complete"]) if item in found else State()
            for item in file_ids
        ]

    def put(self, file_id: str, part: Part) -> dict[str, int]:
        """Numbers of records by what became of them. Raises PartRefused."""
        path = f"{_PATH}?group={self._group}&file={file_id}&part={part.number}"
        body = write_part(part.records, part.format)

        def send() -> dict[str, Any]:
            return self._http.send("POST", path, body, CONTENT_TYPE, timeout_seconds=PART_SECONDS)

        try:
            return self._again(send)
        except Refused as refused:
            if refused.code == "InvalidParameterException":
                raise PartRefused(refused.said) from None
            raise

    def complete(self, file_id: str, name: str) -> None:
        body = {"file": file_id, "name": name[:2000]}
        self._again(lambda: self._http.request("POST", f"{_PATH}/complete?group={self._group}", body))

    def _again(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Until it is answered: a part that arrived the first time is recognised when it comes again."""
        for number in range(TRIES):
            try:
                return call()
            except Refused as refused:
                if refused.code not in _AGAIN or number == TRIES - 1:
                    raise
            except NoAnswer:
                if number == TRIES - 1:
                    raise
            longest = min(_WAIT_SECONDS_MAX, _WAIT_SECONDS * 2.0**number)
            self._sleep(longest * random.uniform(0.5, 1.0))
        raise AssertionError("the last try raises")
