"""`vnotch agent`: settings from the command line, and the key that the agent gets at its first start on this host."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from vnotch.agent import AgentConfig
from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders
from vnotch.errors import InputError


def ensure_key(folders: Folders, name: str, endpoint: Endpoint) -> Path:
    """The agent's key file; made by registering the agent with the administrator's key where there is none that fits
    this server."""
    path = folders.agent(name) / "key.json"
    wanted = {"endpoint_url": endpoint.url, "account": endpoint.account}
    try:
        document = json.loads(path.read_text())
        if {key: document.get(key) for key in wanted} == wanted:
            return path
    except (OSError, ValueError):
        pass
    answer = endpoint.request("PUT", f"/vnotch/v1/agents/{name}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(".key.json")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(wanted | {key: answer[key] for key in ("access_key_id", "secret_access_key")}, file)
    temporary.replace(path)
    return path


def _registered_at(key_file: Path, otherwise: str) -> str:
    try:
        return str(json.loads(key_file.read_text())["endpoint_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise


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
) -> AgentConfig:
    """The agent's settings. With a key file nothing of the server's is read; without one the agent registers itself."""
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
        raise InputError(f"{name!r} is no name for an agent", "letters, digits, - and _, at most 64")
    if key_file is None:
        endpoint = Endpoint.find(folders, endpoint_url)
        known = folders.agent(name) / "key.json"
        if known.exists() and not endpoint.is_up():
            # The server is away: an agent that it knows goes on alone, at the address where it was registered.
            key_file, url, region = known, endpoint_url or _registered_at(known, endpoint.url), endpoint.region
        else:
            endpoint.require_up()
            key_file, url, region = ensure_key(folders, name, endpoint), endpoint.url, endpoint.region
    elif endpoint_url is None or region is None:
        raise InputError("a key file needs its server", "give --endpoint-url and --region too")
    else:
        url = endpoint_url
    return AgentConfig(
        name=name,
        endpoint_url=url,
        key_file=key_file,
        folder=folders.agent(name),
        region=region,
        netns=netns,
        attach_mode=attach_mode,
        flows_per_map=flows_per_map,
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
