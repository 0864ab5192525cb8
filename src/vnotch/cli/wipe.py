"""`vnotch wipe`: a fresh state, whether a server runs or not."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from vnotch.cli.endpoint import Endpoint, answering_since_ns
from vnotch.cli.options import DataDir, Json, folders_of
from vnotch.cli.terminal import out, plain, step
from vnotch.config import Folders
from vnotch.errors import HostError, InputError
from vnotch.interrupts import wait_until

RESTART_SECONDS = 60


def wipe(
    data_dir: DataDir = None,
    state_url: Annotated[
        str | None,
        typer.Option(envvar="VNOTCH_STATE_URL", help="Database of the state; a server that runs knows its own."),
    ] = None,
    buckets: Annotated[
        bool, typer.Option("--buckets", help="Empty the buckets in the data folder too; the buckets stay.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete what was made by the API and every log event: a server as after its first start.

    Account, region, the administrator's key and those of agents stay, so that clients and agents go on; a server that
    runs goes on too. What agents have not delivered yet stays with them, and has nowhere to go any more.
    """
    folders = folders_of(data_dir)
    if not any(path.exists() for path in (folders.state, folders.lake)):
        raise InputError(f"{folders.root} has no state", "name the data folder of a server with --data-dir")
    if (folders.root / "lab" / "lab.json").exists():
        raise InputError(f"a lab is up, whose network is in the state of {folders.root}", "vnotch lab down")
    _ask(folders, buckets, yes)
    began = time.monotonic()
    is_running = _wipe(folders, state_url)
    if buckets:
        _empty_buckets(folders)
    seconds = time.monotonic() - began
    if as_json:
        sys.stdout.write(json.dumps({"seconds": round(seconds, 3), "server": is_running}) + "\n")
    else:
        after = "the server goes on" if is_running else "the next server begins anew"
        out.print(f"{plain(str(folders.root))}: wiped in {seconds:.2f} s; {after}, with the keys of before")


def _ask(folders: Folders, buckets: bool, yes: bool) -> None:
    """Says what goes and what stays, and asks. Raises InputError where nobody can be asked, Abort on a no."""
    going = [f"the state ({_size(folders.state)})", f"all log events ({_size(folders.lake)})"]
    staying = ["account and region", "the keys of the administrator and of agents", "access.log"]
    (going if buckets else staying).append(f"what is in buckets ({_size(folders.buckets)})")
    step(f"from {folders.root} goes: {', '.join(going)}")
    step(f"stays: {', '.join(staying)}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody can be asked whether to wipe", "give --yes")
    typer.confirm("Wipe?", abort=True, err=True)


def _wipe(folders: Folders, state_url: str | None) -> bool:
    """-> whether a server runs, which then did it."""
    from vnotch.data_folder import lock_folder

    try:
        lock = lock_folder(folders.root)
    except HostError:
        _ask_server(folders)
        return True
    try:
        from vnotch.store.wipe import wipe as wipe_state

        wipe_state(folders.root, state_url)
    finally:
        os.close(lock)
    return False


def _ask_server(folders: Folders) -> None:
    before = answering_since_ns(folders)
    Endpoint.find(folders).request("POST", "/vnotch/v1/wipe")
    if not wait_until(lambda: answering_since_ns(folders) not in (before, 0), RESTART_SECONDS, every_seconds=0.01):
        raise HostError(
            f"the server has not come back within {RESTART_SECONDS} s", "see what it says, and start it again"
        )


def _empty_buckets(folders: Folders) -> None:
    for bucket in folders.buckets.iterdir() if folders.buckets.exists() else ():
        for path in bucket.iterdir() if bucket.is_dir() else ():
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                raise HostError(f"{path} cannot be removed: {error.strerror}") from None


def _size(folder: Path) -> str:
    found = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    return f"{found / 1e6:,.1f} MB"
