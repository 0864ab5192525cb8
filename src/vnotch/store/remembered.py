"""Answers of the state that are remembered until it changes: for what is asked with every delivery."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from vnotch.store.state import State

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

ANSWERS_MAX = 20_000
"""Beyond it all are forgotten."""


class Remembered(Generic[Key, Value]):
    """Safe to use from several threads."""

    def __init__(self, state: State) -> None:
        self._lock = threading.Lock()
        self._answers: dict[Key, Value] = {}
        self._changes = 0
        state.on_change.append(self._forget)

    def get(self, key: Key, read: Callable[[], Value | None]) -> Value | None:
        """What `read` gave for this key, or gives now. None is not remembered."""
        with self._lock:
            if (known := self._answers.get(key)) is not None:
                return known
            before = self._changes
        answer = read()
        with self._lock:
            if answer is not None and before == self._changes:
                # Else what was read may be older than what was written meanwhile.
                if len(self._answers) >= ANSWERS_MAX:
                    self._answers.clear()
                self._answers[key] = answer
        return answer

    def _forget(self) -> None:
        with self._lock:
            self._changes += 1
            self._answers.clear()
