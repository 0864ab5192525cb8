"""Saved queries of Logs Insights."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from vnotch.store.state import Base


class QueryDefinition(Base):
    """`group_names` are the log groups that it is for, as they were given; `token` is the clientToken of the call that
    made it."""

    __tablename__ = "query_definition"
    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), index=True)
    query: Mapped[str] = mapped_column(Text)
    group_names: Mapped[list[str]] = mapped_column(JSON)
    parameters: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    modified_ms: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str | None] = mapped_column(String(128), unique=True)
