"""What a server may be: its account, its region and the address that it listens at.

Apart from the server, because what is wrong with them is told before its services are imported, which takes most of a
second.
"""

from __future__ import annotations

import re

from vnotch.errors import InputError


def check_identity(account: str | None, region: str | None, host: str) -> None:
    """Raises InputError for an account or a region of another form than AWS's, None being one of before, and for an
    address that is not loopback: without TLS keys and data would cross the network."""
    if account is not None and not re.fullmatch(r"[0-9]{12}", account):
        raise InputError(f"{account!r} is no account id", "12 digits, such as 123456789012")
    if region is not None and not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}", region):
        raise InputError(f"{region!r} is no region", "such as us-east-1")
    if not (host.startswith("127.") or host in ("::1", "localhost")):
        raise InputError(
            f"the endpoint cannot be {host}: without TLS it listens on loopback only",
            "use 127.0.0.1 and put a proxy with TLS before it",
        )
