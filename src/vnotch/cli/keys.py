"""`vnotch keys`: which access keys there are, and a new one in the place of an old one."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import out, plain, step
from vnotch.config import Folders
from vnotch.errors import InputError

keys = typer.Typer(no_args_is_help=True, help="Access keys: list them, put new ones in their place.")


@keys.command("list")
def list_(data_dir: DataDir = None, endpoint_url: EndpointUrl = None, as_json: Json = False) -> None:
    """List all access keys: whose they are, since when, when they were used last (UTC), and whether they are active.

    Secrets are never shown.
    """
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    rows = endpoint.request("GET", "/vnotch/v1/keys")["keys"]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("access key", "whose", "since", "last used", "status"):
        table.add_column(column, overflow="fold")
    for row in rows:
        whose = f"agent {row['agent']}" if row["agent"] else f"user {row['user']}"
        mine = " (of this folder)" if row["access_key_id"] == endpoint.access_key_id else ""
        active = row["status"] == "Active"
        status = f"[{'green' if active else 'dim'}]{row['status'].lower()}[/]"
        since, used = _moment(row["created_ms"]), _moment(row["used_ms"])
        table.add_row(row["access_key_id"], plain(whose) + mine, since, used, status)
    out.print(table)


def _moment(time_ms: int | None) -> str:
    return "never" if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


@keys.command()
def rotate(
    user: Annotated[
        str | None, typer.Argument(help="Whose key.", show_default="the administrator, whose key this folder has")
    ] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
) -> None:
    """Make a new key and delete the old ones, so that whoever holds one of those holds nothing.

    The administrator's new key goes into the data folder, where vnotch's own commands find it; it is tried before the
    old one is deleted. Another user's new key is printed, once.
    """
    folders = folders_of(data_dir)
    endpoint = Endpoint.find(folders, endpoint_url).require_up()
    iam = endpoint.client("iam")
    own = iam.get_user()["User"]["UserName"]
    if user is None or user.lower() == own.lower():
        new, gone = _rotate_own(folders, endpoint, endpoint_url, iam, own)
    else:
        new, gone = _rotate_other(iam, user)
    if as_json:
        shown = {"user": new["UserName"], "access_key_id": new["AccessKeyId"], "deleted": gone}
        if new["UserName"] != own:
            shown["secret_access_key"] = new["SecretAccessKey"]
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return
    if new["UserName"] == own:
        out.print(f"{new['AccessKeyId']} is the key of {own}, in {folders.credentials}")
    else:
        out.print(f"AWS_ACCESS_KEY_ID={new['AccessKeyId']}\nAWS_SECRET_ACCESS_KEY={new['SecretAccessKey']}")
        step("the secret is not shown again")
    for key_id in gone:
        out.print(f"{key_id} is deleted")


def _rotate_own(
    folders: Folders, endpoint: Endpoint, url: str | None, iam: Any, own: str
) -> tuple[dict[str, Any], list[str]]:
    # A key that an interrupted rotation has left goes first: a user has two at most.
    gone = _delete_keys(iam, own, keep={endpoint.access_key_id})
    new = iam.create_access_key()["AccessKey"]
    _write(folders.credentials, new, endpoint)
    tried = Endpoint.find(folders, url)
    tried.client("sts").get_caller_identity()
    return new, gone + _delete_keys(tried.client("iam"), own, keep={new["AccessKeyId"]})


def _rotate_other(iam: Any, user: str) -> tuple[dict[str, Any], list[str]]:
    try:
        there = [item["AccessKeyId"] for item in iam.list_access_keys(UserName=user)["AccessKeyMetadata"]]
    except iam.exceptions.NoSuchEntityException:
        raise InputError(
            f"there is no user {user}",
            "`vnotch keys list` shows whose keys there are; an agent's is renewed on its own host (docs/iam.md)",
        ) from None
    if len(there) > 1:
        raise InputError(
            f"{user} has {len(there)} keys, and no room for another",
            f"delete one: vnotch aws iam delete-access-key --user-name {user} --access-key-id {there[0]}",
        )
    new = iam.create_access_key(UserName=user)["AccessKey"]
    return new, _delete_keys(iam, user, keep={new["AccessKeyId"]})


def _delete_keys(iam: Any, user: str, keep: set[str]) -> list[str]:
    listed = iam.list_access_keys(UserName=user)["AccessKeyMetadata"]
    gone = [item["AccessKeyId"] for item in listed if item["AccessKeyId"] not in keep]
    for key_id in gone:
        iam.delete_access_key(UserName=user, AccessKeyId=key_id)
    return gone


def _write(file: Path, key: dict[str, Any], endpoint: Endpoint) -> None:
    """As the server writes it: whole or not at all, for its owner alone; who has the server's folder keeps it."""
    from vnotch.store.administrator import write_key_file

    before = file.stat()
    write_key_file(file, key["AccessKeyId"], key["SecretAccessKey"], endpoint.account, endpoint.region)
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(file, before.st_uid, before.st_gid)
