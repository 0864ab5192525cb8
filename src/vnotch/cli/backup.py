"""`vnotch backup` and `vnotch restore`: the log store and the state as a folder, taken while the server runs."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vnotch.cli.options import DataDir, Json, folders_of
from vnotch.cli.terminal import counted, out, plain

if TYPE_CHECKING:
    from vnotch.store.backup import Backup


def backup(
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not be there yet.")],
    data_dir: DataDir = None,
    without_buckets: Annotated[
        bool, typer.Option("--without-buckets", help="Leave out what is in the buckets of the data folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy log groups, events, state, buckets and the administrator's key to a new folder, also while a server runs.

    Whatever was acknowledged before the command began is in it. Buckets are those in the data folder, where no other
    S3 endpoint is named. What agents have not delivered yet is not in it: it stays with them, and is delivered later.
    """
    from vnotch.store.backup import back_up

    with out.status("copying") as shown:
        made = back_up(
            folders_of(data_dir).root,
            target.absolute(),
            time.time(),
            lambda text: shown.update(plain(text)),
            buckets=not without_buckets,
        )
    if as_json:
        sys.stdout.write(json.dumps(asdict(made)) + "\n")
    else:
        out.print(f"{plain(str(target))}: {_held(made)}")


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `vnotch backup` made.")],
    data_dir: DataDir = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the store that is there, with all it holds.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup into the data folder. No server may run there; the first start counts the log streams anew."""
    from vnotch.data_folder import lock_folder
    from vnotch.store.backup import restore as put_back

    root = folders_of(data_dir).root
    lock = lock_folder(root) if root.exists() else None
    try:
        with out.status("copying"):
            made = put_back(source.absolute(), root, force=force)
    finally:
        if lock is not None:
            os.close(lock)
    if as_json:
        sys.stdout.write(json.dumps(asdict(made)) + "\n")
    else:
        out.print(f"{plain(str(root))}: {_held(made)}")


def _held(made: Backup) -> str:
    events = f"{counted(made.files, 'file')} of events, {made.bytes / 1e6:,.1f} MB"
    return events + (
        f"; {made.bucket_files} in buckets, {made.bucket_bytes / 1e6:,.1f} MB" if made.bucket_files else ""
    )
