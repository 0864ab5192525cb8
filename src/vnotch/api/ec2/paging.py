"""Pages of EC2's Describe operations: MaxResults, NextToken and what continues a page.

A token is the number of the last row of a page, so rows that appear or go between two pages neither repeat nor hide
others. It is opaque to clients and says for which operation it was made.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from vnotch.api.service import ApiError

RESULTS = (5, 1000)
"""Bounds of MaxResults in EC2's service model (DescribeVpcs and others)."""


@dataclass(frozen=True)
class Page:
    """Where a page begins and how many rows it may have. Without MaxResults everything is one page, as on AWS."""

    operation: str
    after: int = 0
    limit: int | None = None

    @classmethod
    def of(
        cls,
        operation: str,
        params: dict[str, Any],
        ids_member: str | None = None,
        clamp: bool = False,
        results: tuple[int, int] = RESULTS,
    ) -> Page:
        """Raises ApiError for a size out of bounds, a foreign token, or ids and MaxResults together.

        `clamp`: a size over the maximum gives the maximum (API DescribeFlowLogs) instead of an error. `ids_member`: the
        member that excludes MaxResults (API DescribeNetworkInterfaces). `results`: the least and the greatest size.
        """
        limit = params.get("MaxResults")
        if limit is None:
            return cls(operation, _position(operation, params.get("NextToken")))
        if ids_member and params.get(ids_member):
            raise ApiError(
                "InvalidParameterCombination",
                f"The parameter {ids_member} cannot be used with the parameter MaxResults",
            )
        least, greatest = results
        if limit < least:
            # This text is what DescribeInstances answers.
            raise _size(limit, f"Expecting a value greater than {least}.")
        if limit > greatest and not clamp:
            raise _size(limit, f"Expecting a value smaller than {greatest}.")
        return cls(operation, _position(operation, params.get("NextToken")), min(limit, greatest))

    def token(self, last: int) -> str:
        """The NextToken of a page whose last row has the number `last`."""
        return base64.urlsafe_b64encode(f"{self.operation}:{last}".encode()).decode()


def _size(limit: int, hint: str) -> ApiError:
    return ApiError("InvalidParameterValue", f"Value ( {limit} ) for parameter maxResults is invalid. {hint}")


def _position(operation: str, token: str | None) -> int:
    if not token:
        return 0
    try:
        maker, _, number = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode().partition(":")
        if maker == operation:
            return int(number)
    except (binascii.Error, UnicodeError, ValueError):
        pass
    # The code is in EC2's error list (InvalidNextToken); its text is not published.
    raise ApiError("InvalidNextToken", f"The token '{token}' is invalid")
