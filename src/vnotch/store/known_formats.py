"""Which formats the lines of a log group can be in: those of its flow logs and of its records, and the default."""

from __future__ import annotations

import threading

from sqlalchemy import select

from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, Format
from vnotch.record import flow_log_format
from vnotch.store.lake import Lake
from vnotch.store.network import FlowLog
from vnotch.store.state import State


class KnownFormats:
    """Remembers its answers until the control plane changes. Safe to use from several threads."""

    def __init__(self, state: State, lake: Lake) -> None:
        self._state = state
        self._lake = lake
        self._lock = threading.Lock()
        self._texts: dict[str, list[str]] = {}
        self._changes = 0
        state.on_change.append(self._forget)

    def of_group(self, group_id: int, name: str) -> list[Format]:
        formats = {DEFAULT_FORMAT: flow_log_format(DEFAULT_FORMAT)}
        for text in self._of_flow_logs(name):
            try:
                formats[text] = flow_log_format(text)
            except InputError:  # of a later release than this one; its lines are text here
                continue
        formats |= {format.text: format for format in self._lake.formats([group_id]).values()}
        return list(formats.values())

    def _of_flow_logs(self, name: str) -> list[str]:
        with self._lock:
            if (known := self._texts.get(name)) is not None:
                return known
            before = self._changes
        with self._state.read() as session:
            wanted = select(FlowLog.log_format).where(FlowLog.log_group_name == name).distinct()
            texts = list(session.scalars(wanted))
        with self._lock:
            if before == self._changes:  # else what was read may be older than what was written meanwhile
                self._texts[name] = texts
        return texts

    def _forget(self) -> None:
        with self._lock:
            self._changes += 1
            self._texts.clear()
