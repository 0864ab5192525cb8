"""`vnotch prepare`: what an agent without root needs and only root can give it, before it starts.

    a pin folder     a bpffs of its own, since mounting one needs CAP_SYS_ADMIN
    a key            the agent is registered with the administrator's key, which the agent itself never sees

The agent's unit runs it by `ExecStartPre=+`. It does what is missing and ends; with `--undo` it takes out of the kernel
what an agent has left there.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vnotch.cli.agent import check_name, default_name, is_key_of, key_path, read_key, register, write_key
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.terminal import step
from vnotch.config import Folders
from vnotch.errors import HostError, InputError
from vnotch.interrupts import wait_until

WAIT_SECONDS = 30.0
"""How long a server that starts at the same time may take until it answers."""


def prepare(
    user: Annotated[str, typer.Option(help="User that the agent runs as: a name, or a number of both user and group.")],
    name: Annotated[str, typer.Option(help="Name of the agent.", show_default="host name")] = "",
    pin_dir: Annotated[
        Path | None, typer.Option(help="Where the agent pins.", show_default="/run/vnotch/bpf/NAME")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The agent's data folder; with it the agent gets a key.", show_default="no key")
    ] = None,
    server_data_dir: Annotated[
        Path, typer.Option(help="The data folder of the server at which the agent is registered.")
    ] = Path("/var/lib/vnotch"),
    undo: Annotated[
        bool, typer.Option("--undo", help="End what that user's agents capture; remove their pins and mounts.")
    ] = False,
) -> None:
    """Prepare this host, as root, for an agent that runs without root; systemd units call it."""
    from vnotch.capture import pins

    name = check_name(name or default_name())
    uid, gid = user_of(user)
    if undo:
        end_capture([pin_dir] if pin_dir else _pins_of(uid, pins.PINS))
        return
    pins.prepare(pin_dir or pins.PINS / name, uid, gid)
    if data_dir is not None:
        give_key(Folders(data_dir.absolute()), name, Folders(server_data_dir.absolute()), uid, gid)


def user_of(text: str) -> tuple[int, int]:
    """uid and gid. Raises InputError for a user that is not there, and for root, whose agent needs no preparing."""
    if text.isdigit():
        uid = gid = int(text)
    else:
        try:
            found = pwd.getpwnam(text)
        except KeyError:
            raise InputError(f"there is no user {text}", f"make it: adduser --system --group {text}") from None
        uid, gid = found.pw_uid, found.pw_gid
    if uid == 0:
        raise InputError("an agent that runs as root needs no preparing", "name the user that the agent runs as")
    return uid, gid


def _pins_of(uid: int, above: Path) -> list[Path]:
    """All pin folders of a user: the host, and with it its agent, may have had another name."""
    return [path for path in sorted(above.iterdir()) if path.stat().st_uid == uid] if above.exists() else []


def end_capture(places: list[Path]) -> None:
    """Ends what was attached by the agents that pinned there, in this network namespace. Nothing there: nothing is
    done."""
    from vnotch.capture import pins

    for place in places:
        if place.exists() and pins.is_bpffs(place):
            from vnotch.capture.kernel import Datapath

            Datapath.open(pin_dir=place).destroy()
            step(f"nothing is captured by the agent of {place} any more")
    pins.remove_empty_pin_folders()


def give_key(folders: Folders, name: str, server: Folders, uid: int, gid: int) -> None:
    """A key for the agent, where it has none that the server takes. All in the agent's folder is done as its user.

    An agent with a key goes on without its server; without one, a server that starts is waited for. Raises HostError
    where there is neither key nor server.
    """
    _own_folder(folders.root, uid, gid)
    path = key_path(folders, name)
    with _as_user(uid, gid):
        key = read_key(path)
    if not wait_until(server.credentials.exists, WAIT_SECONDS if server.root.exists() and not key else 0, _say_waiting):
        if not key:
            raise HostError(
                f"no vnotch server has started with the data folder {server.root}, and {path} has no key",
                "start the server first, or bring the key of a server elsewhere",
            )
        return
    endpoint = Endpoint.find(server)
    if not wait_until(endpoint.is_up, 0 if key else WAIT_SECONDS, _say_waiting):
        if not key:
            endpoint.require_up()
        return
    if not is_key_of(key, name, endpoint):
        document = register(name, endpoint)
        with _as_user(uid, gid):
            write_key(path, document)
        step(f"agent {name} is registered at {endpoint.url}")


def _say_waiting() -> None:
    step(f"waiting up to {WAIT_SECONDS:.0f} s for the server")


def _own_folder(folder: Path, uid: int, gid: int) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, uid, gid)
    owner = folder.stat().st_uid
    if owner != uid:
        raise InputError(f"{folder} belongs to user {owner}, not to {uid}", f"chown -R {uid}:{gid} {folder}")


@contextmanager
def _as_user(uid: int, gid: int) -> Iterator[None]:
    """Files are looked up and made as that user: in a folder of its own it may have put links to elsewhere."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    except OSError as error:
        raise HostError(f"user {uid} cannot use {error.filename}: {error.strerror}", "it must be that user's") from None
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
