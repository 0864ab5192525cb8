"""Names that were given to files of flow logs in buckets: each to one file alone.

A name has a hash of 32 bits. Over the slots of a day and the agents of a large flow log two files will some day have
the same one, and the later would write over the earlier; so the second is told to take another name.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.state import Base

KEPT_SECONDS = 7 * 86_400
"""Longer than an agent keeps a file, and than records of one slot can go on coming."""


class FlowLogFile(Base):
    """`agent` and `sha256` (base64) tell the file from others."""

    __tablename__ = "bucket_file_names"

    flow_log_id: Mapped[str] = mapped_column(primary_key=True)  # it may be deleted, and its last files still on the way
    slot_s: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name_hash: Mapped[str] = mapped_column(primary_key=True)
    agent: Mapped[str]
    sha256: Mapped[str]
    given_ms: Mapped[int] = mapped_column(BigInteger, index=True)


def owner(session: Session, flow_log_id: str, slot_s: int, name_hash: str) -> tuple[str, str] | None:
    """Agent and digest of the file that has this name; None where none has."""
    row = session.get(FlowLogFile, (flow_log_id, slot_s, name_hash))
    return (row.agent, row.sha256) if row else None


def give(session: Session, flow_log_id: str, slot_s: int, name_hash: str, agent: str, sha256: str, now_ms: int) -> bool:
    """Gives the name to this file; False where another has it. Forgets names that are old."""
    found = owner(session, flow_log_id, slot_s, name_hash)
    if found is not None:
        return found == (agent, sha256)
    session.execute(delete(FlowLogFile).where(FlowLogFile.given_ms < now_ms - KEPT_SECONDS * 1000))
    session.add(
        FlowLogFile(
            flow_log_id=flow_log_id, slot_s=slot_s, name_hash=name_hash, agent=agent, sha256=sha256, given_ms=now_ms
        )
    )
    return True
