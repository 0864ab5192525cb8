"""Which formats the lines of a log group can be in: those of its flow logs and of its records, and the default."""

from __future__ import annotations

from sqlalchemy import select

from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, Format
from vnotch.record import flow_log_format
from vnotch.store.lake import Lake
from vnotch.store.network import FlowLog
from vnotch.store.remembered import Remembered
from vnotch.store.state import State


class KnownFormats:
    """Remembers its answers until the control plane changes. Safe to use from several threads."""

    def __init__(self, state: State, lake: Lake) -> None:
        self._state = state
        self._lake = lake
        self._texts: Remembered[str, list[str]] = Remembered(state)

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
        def read() -> list[str]:
            with self._state.read() as session:
                wanted = select(FlowLog.log_format).where(FlowLog.log_group_name == name).distinct()
                return list(session.scalars(wanted))

        return self._texts.get(name, read) or []
