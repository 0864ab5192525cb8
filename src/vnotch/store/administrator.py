"""The administrator: the user that the first start makes, and the file with its key, which only its owner may read.

A state that was made anew beside a file that is there (`vnotch wipe`) takes the key of the file, so that clients which
have it go on. In every other case the state decides: a lost or spoilt file gets a new key.
"""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.durable import replace_file
from vnotch.store.accounts import KEYS_PER_USER_MAX, Accounts
from vnotch.store.principals import AccessKey, InlinePolicy, User, new_access_key, new_secret, new_unique_id

ADMINISTRATOR = "administrator"
ADMINISTRATOR_POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
)


def ensure_administrator(accounts: Accounts, file: Path) -> None:
    """Makes the administrator, with a key in `file`; does nothing if it works. Of its keys the oldest goes when the
    quota is full."""
    there = _read(file)
    if there is not None and _works(accounts, *there):
        return
    with accounts.write() as session:
        user = session.get(User, ADMINISTRATOR)
        if user is None:
            user = accounts.make_user(session, ADMINISTRATOR)
        else:
            there = None
        assert user is not None
        if session.get(InlinePolicy, (user.user_id, "AdministratorAccess")) is None:
            session.add(InlinePolicy(owner_id=user.user_id, name="AdministratorAccess", document=ADMINISTRATOR_POLICY))
        session.flush()
        _make_room(session, user)
        key_id, secret = there or (new_unique_id("AKIA"), new_secret())
        session.add(new_access_key(key_id, secret, user=user))
        # Before the commit: a file whose key is unknown is made anew, a key that no file holds is lost.
        write_key_file(file, key_id, secret, accounts.account, accounts.region)


def write_key_file(file: Path, key_id: str, secret: str, account: str, region: str) -> None:
    """Writes the file, for its owner alone, whole or not at all."""
    content = {"access_key_id": key_id, "secret_access_key": secret, "account": account, "region": region}
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(file, (json.dumps(content, indent=2) + "\n").encode())


def _read(file: Path) -> tuple[str, str] | None:
    """Key id and secret; None where the file has none of the form that this release makes."""
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        key_id, secret = str(content["access_key_id"]), str(content["secret_access_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    well_formed = re.fullmatch(r"AKIA[A-Z2-7]{16}", key_id) and re.fullmatch(r"[A-Za-z0-9+/]{40}", secret)
    return (key_id, secret) if well_formed else None


def _works(accounts: Accounts, key_id: str, secret: str) -> bool:
    identity = accounts.identity(key_id)
    return identity is not None and identity.active and hmac.compare_digest(identity.secret_access_key, secret)


def _make_room(session: Session, user: User) -> None:
    keys = list(
        session.scalars(select(AccessKey).where(AccessKey.user_key == user.name_key).order_by(AccessKey.created_ms))
    )
    for key in keys[: max(0, len(keys) - KEYS_PER_USER_MAX + 1)]:
        session.delete(key)
