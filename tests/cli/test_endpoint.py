"""How commands find the server of a data folder."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from vnotch.cli import endpoint as cli_endpoint
from vnotch.cli.endpoint import Endpoint, NoServer
from vnotch.config import Folders
from vnotch.errors import InputError

KEY = {"access_key_id": "AKIA", "secret_access_key": "secret", "region": "us-east-1", "account": "123456789012"}


def test_a_server_that_is_still_starting_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def start() -> None:
            time.sleep(0.3)
            folders.credentials.write_text(json.dumps(KEY))
            time.sleep(0.3)
            listener.listen()

        starting = threading.Thread(target=start)
        starting.start()
        assert Endpoint.await_up(folders, url).url == url
        starting.join()
    assert capsys.readouterr().err.count("waiting up to") == 1


def test_where_no_server_starts_the_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_endpoint, "START_SECONDS", 0.3)
    with pytest.raises(NoServer, match="no vnotch server has started"):
        Endpoint.await_up(Folders(tmp_path))


def test_a_key_that_cannot_be_read_is_no_reason_to_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders(tmp_path)
    folders.credentials.write_text("no key")
    with pytest.raises(InputError, match=str(folders.credentials)):
        Endpoint.await_up(folders)
    assert "waiting" not in capsys.readouterr().err
