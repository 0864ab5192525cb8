"""`vnotch agent`: settings from the command line, and the key that the agent gets at its first start on this host."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders
from vnotch.errors import InputError

if TYPE_CHECKING:
    from vnotch.agent.agent import AgentConfig


def default_name() -> str:
    """Of the agent of this host."""
    return socket.gethostname().split(".")[0]


def check_name(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
        raise InputError(f"{name!r} is no name for an agent", "letters, digits, - and _, at most 64")
    return name


def key_path(folders: Folders, name: str) -> Path:
    """The key file of an agent in its own folder."""
    return folders.agent(name) / "key.json"


def ensure_key(folders: Folders, name: str, endpoint: Endpoint) -> Path:
    """The agent's key file; made by registering the agent with the administrator's key where there is none that this
    server takes."""
    path = key_path(folders, name)
    if not is_key_of(read_key(path), name, endpoint):
        write_key(path, register(name, endpoint))
    return path


def is_key_of(document: dict[str, Any], name: str, endpoint: Endpoint) -> bool:
    """Whether a key file's content is a key of this agent which the server, that answers, knows: its data may have been
    removed meanwhile."""
    if (document.get("endpoint_url"), document.get("account")) != (endpoint.url, endpoint.account):
        return False
    try:
        key = {part: str(document[part]) for part in ("access_key_id", "secret_access_key")}
        replace(endpoint, **key).request("GET", f"/vnotch/v1/agents/{name}/configuration")
    except (KeyError, InputError):
        return False
    return True


def register(name: str, endpoint: Endpoint) -> dict[str, str]:
    """A new key for the agent, as its file holds it; one that it had before is no longer taken."""
    answer = endpoint.request("PUT", f"/vnotch/v1/agents/{name}")
    return {
        "endpoint_url": endpoint.url,
        "account": endpoint.account,
        "region": endpoint.region,
        "access_key_id": answer["access_key_id"],
        "secret_access_key": answer["secret_access_key"],
    }


def write_key(path: Path, document: dict[str, str]) -> None:
    """Readable by its owner alone, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(".key.json")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
    temporary.replace(path)


def read_key(path: Path) -> dict[str, Any]:
    """Empty where it is no key file; `load_key` of the agent says why not."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _key_from_server(folders: Folders, name: str, endpoint: Endpoint, known: Path) -> Path | None:
    """The agent's key file, after a look whether the server knows it. None where the server is away and the agent has a
    key: it goes on alone, at the address where it was registered."""
    from vnotch.signed_http import NoAnswer

    if not known.exists():
        return ensure_key(folders, name, endpoint.require_up())
    if not endpoint.is_up():
        return None
    try:
        return ensure_key(folders, name, endpoint)
    except NoAnswer:  # it went away in this moment
        return None


def configure(
    folders: Folders,
    name: str,
    *,
    endpoint_url: str | None,
    key_file: Path | None,
    netns: str | None,
    attach_mode: str,
    flows_per_map: int,
    capture_file: Path | None,
    flush: bool,
    region: str | None,
    ip_ranges: Path | None,
    pin_dir: Path | None,
) -> AgentConfig:
    """The agent's settings. With a key file nothing of the server's is read; without one the agent registers itself,
    if this is the server's folder. A key that was brought or prepared (`vnotch prepare`) says where its server is."""
    check_name(name)
    known = key_path(folders, name)
    if key_file is None and known.exists() and not folders.credentials.exists():
        key_file = known
    if key_file is None:
        endpoint = Endpoint.find(folders, endpoint_url)
        url, region = endpoint.url, endpoint.region
        key_file = _key_from_server(folders, name, endpoint, known)
        if key_file is None:
            key_file, url = known, str(endpoint_url or read_key(known).get("endpoint_url", url))
    else:
        document = read_key(key_file)
        url, region = endpoint_url or document.get("endpoint_url", ""), region or document.get("region")
        if not url or region is None:
            raise InputError("a key file needs its server", "give --endpoint-url and --region too")
    from vnotch.agent.agent import AgentConfig

    return AgentConfig(
        name=name,
        endpoint_url=url,
        key_file=key_file,
        folder=folders.agent(name),
        region=region,
        netns=netns,
        attach_mode=attach_mode,
        flows_per_map=flows_per_map,
        pin_dir=pin_dir,
        capture_file=capture_file,
        ip_ranges=ip_ranges,
        flush_on_exit=flush,
        detach_on_exit=flush,
    )


def log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    for noisy in ("botocore", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
