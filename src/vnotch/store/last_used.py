"""When access keys and roles were used last (IAM API Reference, GetAccessKeyLastUsed, RoleLastUsed).

A use is noted in memory and written with all others once a minute and at the server's end, so that a call writes
nothing for it. A crash loses a minute of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import BigInteger, String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.errors import HostError
from vnotch.store.principals import AccessKey, Role
from vnotch.store.state import Base, State

WRITTEN_EACH_SECONDS = 60.0

log = logging.getLogger(__name__)


class LastUse(Base):
    """Of one access key, or of one role by whichever of its sessions."""

    __tablename__ = "iam_last_use"
    subject_id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the key's id, or the role's unique id
    used_ms: Mapped[int] = mapped_column(BigInteger)
    service: Mapped[str] = mapped_column(String(64))
    region: Mapped[str] = mapped_column(String(32))


@dataclass(frozen=True)
class Use:
    used_ms: int
    service: str
    region: str


class LastUses:
    """Safe for any thread. Keys and roles that exist are all that can be noted, so that it is bounded as they are."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._noted: dict[str, Use] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, subject_id: str, use: Use) -> None:
        with self._lock:
            self._noted[subject_id] = use

    def of(self, session: Session, subject_ids: Collection[str]) -> dict[str, Use]:
        """The last uses of those that were ever used."""
        rows = session.scalars(select(LastUse).where(LastUse.subject_id.in_(subject_ids)))
        found = {row.subject_id: Use(row.used_ms, row.service, row.region) for row in rows}
        return found | {each: use for each in subject_ids if (use := self._noted.get(each)) is not None}

    def write(self) -> None:
        """Writes what was noted since, and forgets keys and roles that are no more."""
        with self._lock:
            noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            with self._state.write(notify=False) as session:
                for subject_id, use in noted.items():
                    session.merge(
                        LastUse(subject_id=subject_id, used_ms=use.used_ms, service=use.service, region=use.region)
                    )
                session.flush()
                keys, roles = select(AccessKey.access_key_id), select(Role.role_id)
                gone = LastUse.subject_id.not_in(keys) & LastUse.subject_id.not_in(roles)
                session.execute(delete(LastUse).where(gone))
        except HostError as error:
            with self._lock:
                self._noted = noted | self._noted  # the next minute's attempt has them again
            log.warning("when keys were used last cannot be written: %s", error)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="last-uses", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self.write()

    def _run(self) -> None:
        while not self._ending.wait(WRITTEN_EACH_SECONDS):
            self.write()
