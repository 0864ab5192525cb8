"""The agent's key at its start, and a server that is away, or goes away in the middle of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vnotch.cli.agent import configure, key_path
from vnotch.cli.endpoint import NoServer
from vnotch.config import Folders
from vnotch.signed_http import NoAnswer

KEY = {"access_key_id": "AKIA", "secret_access_key": "secret", "region": "us-east-1", "account": "123456789012"}


@contextmanager
def server_that_goes_away() -> Iterator[str]:
    """Takes connections and answers nothing, as one that is killed does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def close_each() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=close_each, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def configured(folders: Folders, url: str) -> Any:
    return configure(
        folders, "a1", endpoint_url=url, key_file=None, netns=None, attach_mode="auto", flows_per_map=64,
        capture_file=None, flush=False, region=None, ip_ranges=None, pin_dir=None,
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path)
    folders.credentials.write_text(json.dumps(KEY))
    return folders


def give_key(folders: Folders, url: str) -> Path:
    path = key_path(folders, "a1")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**KEY, "endpoint_url": url}))
    return path


def test_an_agent_with_a_key_goes_on_where_the_server_goes_away_as_it_asks(folders: Folders) -> None:
    with server_that_goes_away() as url:
        known = give_key(folders, url)
        config = configured(folders, url)
    assert (config.key_file, config.endpoint_url) == (known, url)


def test_one_with_a_key_goes_on_where_the_server_is_away(folders: Folders) -> None:
    with server_that_goes_away() as url:
        pass
    known = give_key(folders, url)
    config = configured(folders, url)
    assert (config.key_file, config.endpoint_url) == (known, url)


def test_one_without_a_key_needs_the_server(folders: Folders) -> None:
    with server_that_goes_away() as url, pytest.raises(NoAnswer):
        configured(folders, url)
    with pytest.raises(NoServer):
        configured(folders, url)
    assert not key_path(folders, "a1").exists()
