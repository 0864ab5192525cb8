"""Which agent a command beside it means, and what it says where there is none."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vnotch.agent.process import lock_folder
from vnotch.boot import boot_id
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.site import Site
from vnotch.config import Folders
from vnotch.errors import HostError, InputError, VnotchError

INODE = os.stat("/proc/self/ns/net").st_ino


class Heard(Endpoint):
    """An endpoint that has heard of agents: name -> seconds ago and members of what they told."""

    agents: dict[str, tuple[float, dict[str, Any]]]

    def agent_status(self, agent: str) -> dict[str, Any] | None:
        if agent not in self.agents:
            return None
        seconds, members = self.agents[agent]
        about = {"process": 1, "boot_id": boot_id(), "netns": None, "netns_inode": INODE, **members}
        return {"received_ms": (time.time() - seconds) * 1000, "agent": about}


def endpoint(**agents: Any) -> Heard:
    made = Heard("http://127.0.0.1:1", "a", "b", "us-east-1", "123456789012")
    object.__setattr__(
        made, "agents", {name: told if isinstance(told, tuple) else (told, {}) for name, told in agents.items()}
    )
    return made


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setattr("socket.gethostname", lambda: "web1.example.org")
    return Folders(tmp_path)


def test_without_a_name_it_is_the_one_of_this_hosts_name(folders: Folders) -> None:
    folders.agent("other").mkdir(parents=True)
    assert Site.find(folders, endpoint(web1=1, other=1), None).agent == "web1"
    assert Site.find(folders, endpoint(other=1), None).agent == "other", "or the only one here"


def test_of_several_one_must_be_named(folders: Folders) -> None:
    for name in ("one", "two"):
        folders.agent(name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"several agents run on this host: one, two.*--agent"):
        Site.find(folders, endpoint(one=1, two=1), None)
    assert Site.find(folders, endpoint(one=1, two=1), "two").agent == "two"
    assert Site.find(folders, endpoint(one=100, two=1), None).agent == "two", "one that runs goes first"


@pytest.mark.parametrize(
    ("agents", "name", "said"),
    [
        ({}, None, r"no agent of this host is known.*vnotch agent.*vnotch up"),
        ({}, "db", r"not heard of an agent db.*sudo vnotch agent --name db"),
        ({"web1": 45}, None, r"agent web1 does not run: it was last heard of 45 s ago.*sudo vnotch agent --name web1"),
        ({"db": (1, {"boot_id": "x"})}, "db", r"agent db runs on another host"),
        ({"web1": (90, {"boot_id": "x"})}, None, r"no agent of this host is known"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_helps(
    folders: Folders, agents: dict[str, Any], name: str | None, said: str
) -> None:
    with pytest.raises(VnotchError, match=said):
        Site.find(folders, endpoint(**agents), name).require_running()


def test_an_agent_that_has_just_ended_is_known_by_its_lock(folders: Folders) -> None:
    held = lock_folder(folders.agent("web1"), "web1")
    assert Site.find(folders, endpoint(web1=1), None).runs
    os.close(held)
    with pytest.raises(HostError, match="agent web1 does not run"):
        Site.find(folders, endpoint(web1=1), None).require_running()


def test_the_namespace_must_be_the_agents(folders: Folders) -> None:
    site = Site.find(folders, endpoint(web1=1), None)
    with site.namespace() as namespace:
        assert namespace.inode == INODE
    gone = Site.find(folders, endpoint(web1=(1, {"netns": "vnotch-no-such", "netns_inode": 1})), None)
    with pytest.raises(HostError, match=r"no network namespace|run this as root"), gone.namespace():
        pass


@pytest.mark.root
def test_without_root_another_namespace_is_refused(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    site = Site.find(folders, endpoint(web1=(1, {"netns_inode": 1})), None)
    with pytest.raises(HostError, match=r"captures another network namespace than this one.*as root"), site.namespace():
        pass


def test_an_agent_that_starts_behind_its_server_is_waited_for(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders.root / "endpoint").write_text("http://127.0.0.1:1\n")
    server = endpoint()
    starting = threading.Timer(0.3, lambda: server.agents.update({"web1": (0.0, {})}))
    starting.start()
    assert Site.await_running(folders, server, None).agent == "web1"
    starting.join()
    assert capsys.readouterr().err.count("waiting up to 10 s for the agent") == 1


def test_behind_a_server_that_has_run_for_a_while_no_agent_is_waited_for(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    running = folders.root / "endpoint"
    for age_seconds in (None, 60):
        if age_seconds:
            running.write_text("http://127.0.0.1:1\n")
            os.utime(running, (time.time() - age_seconds,) * 2)
        with pytest.raises(HostError, match="no agent of this host is known"):
            Site.await_running(folders, endpoint(), None)
    assert "waiting" not in capsys.readouterr().err


def test_the_wait_for_an_agent_has_an_end(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnotch.cli.site.START_SECONDS", 0.3)
    (folders.root / "endpoint").write_text("http://127.0.0.1:1\n")
    with pytest.raises(HostError, match="agent web1 does not run"):
        Site.await_running(folders, endpoint(web1=45), None)
