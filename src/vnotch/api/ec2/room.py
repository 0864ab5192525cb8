"""Room under a quota: how much there is, and the refusal where there is none.

The codes are in EC2's error list. Texts of VPCs, addresses, security groups and internet gateways are those that users
have published; the others have their form.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from vnotch.api.service import ApiError

INTERFACE_LIMIT = ("NetworkInterfaceLimitExceeded", "network interfaces")


def room(session: Session, quota: int, row: type[Any], *where: ColumnElement[bool]) -> int:
    """How many more there may be, of those that the conditions name; never less than none."""
    return max(0, quota - (session.scalar(select(func.count()).select_from(row).where(*where)) or 0))


def refuse_without(left: int, code: str, nouns: str, wanted: int = 1) -> None:
    """Raises ApiError `code` where there is no room for `wanted` more."""
    if left < wanted:
        raise ApiError(code, f"The maximum number of {nouns} has been reached.")
