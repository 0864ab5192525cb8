"""Which files were imported into which log groups, and which parts of others: so that none is taken twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, ForeignKey, Integer, String, Text, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.state import Base

FILE_ID_CHARACTERS = 32


class LogImport(Base):
    """A file of which all parts are stored."""

    __tablename__ = "log_import"
    group_id: Mapped[int] = mapped_column(ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True)
    file_id: Mapped[str] = mapped_column(String(FILE_ID_CHARACTERS), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    complete_ms: Mapped[int] = mapped_column(BigInteger)


class LogImportPart(Base):
    """A part that is stored, of a file that is not complete."""

    __tablename__ = "log_import_part"
    group_id: Mapped[int] = mapped_column(ForeignKey("log_group.id", ondelete="CASCADE"), primary_key=True)
    file_id: Mapped[str] = mapped_column(String(FILE_ID_CHARACTERS), primary_key=True)
    part: Mapped[int] = mapped_column(Integer, primary_key=True)


@dataclass(frozen=True)
class Imported:
    parts: tuple[int, ...] = ()
    complete: bool = False


def imported(session: Session, group_id: int, file_ids: Sequence[str]) -> dict[str, Imported]:
    """What is stored of some files; those of which nothing is are left out."""
    of_group = LogImportPart.group_id == group_id, LogImportPart.file_id.in_(file_ids)
    parts: dict[str, list[int]] = {}
    for row in session.scalars(select(LogImportPart).where(*of_group).order_by(LogImportPart.part)):
        parts.setdefault(row.file_id, []).append(row.part)
    done = select(LogImport.file_id).where(LogImport.group_id == group_id, LogImport.file_id.in_(file_ids))
    found = {file_id: Imported(tuple(numbers)) for file_id, numbers in parts.items()}
    return found | {file_id: Imported(complete=True) for file_id in session.scalars(done)}


def add_part(session: Session, group_id: int, file_id: str, number: int) -> None:
    """A part is stored. It may be known already."""
    session.merge(LogImportPart(group_id=group_id, file_id=file_id, part=number))


def complete(session: Session, group_id: int, file_id: str, name: str, now_ms: int) -> None:
    session.merge(LogImport(group_id=group_id, file_id=file_id, name=name, complete_ms=now_ms))
    of_file = LogImportPart.group_id == group_id, LogImportPart.file_id == file_id
    session.execute(delete(LogImportPart).where(*of_file))
