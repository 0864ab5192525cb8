"""`vnotch wipe` and `vnotch server --in-memory`, as people run them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.running import RunningServer, free_port, run, start, until
from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders
from vnotch.data_folder import folder_in_memory, lock_folder
from vnotch.errors import InputError


def fill(endpoint: Endpoint) -> None:
    endpoint.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")
    logs = endpoint.client("logs")
    logs.create_log_group(logGroupName="g")
    logs.create_log_stream(logGroupName="g", logStreamName="s")
    event = {"timestamp": int(time.time() * 1000), "message": "hello"}
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=[event])


def is_fresh(endpoint: Endpoint) -> bool:
    vpcs = endpoint.client("ec2").describe_vpcs()["Vpcs"]
    return not vpcs and not endpoint.client("logs").describe_log_groups()["logGroups"]


def test_a_state_is_wiped_while_its_server_runs_and_while_none_does(tmp_path: Path) -> None:
    server = RunningServer(tmp_path)
    folders, clients = server.folders, server.endpoint
    fill(clients)
    agent = clients.request("PUT", "/vnotch/v1/agents/web1")
    object_ = folders.buckets / "b" / "key"
    object_.parent.mkdir(parents=True)
    object_.write_text("records")

    refused = run("wipe", "--data-dir", server.data_dir)
    assert refused.returncode == 2
    assert "give --yes" in refused.stderr
    assert "all log events" in refused.stderr, "it says what goes before it asks"
    assert not is_fresh(clients)

    done = run("wipe", "--yes", "--json", "--data-dir", server.data_dir)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["server"] is True
    assert server.process.poll() is None
    assert is_fresh(clients), "with the key of before, by the clients of before"
    assert Endpoint.find(folders) == clients
    fill(clients)  # no name is taken, and no event of before is in the group
    found = clients.client("logs").filter_log_events(logGroupName="g")["events"]
    assert [event["message"] for event in found] == ["hello"]
    key = Endpoint(clients.url, agent["access_key_id"], agent["secret_access_key"], clients.region, clients.account)
    assert key.request("GET", "/vnotch/v1/agents/web1/configuration")["interfaces"] == []
    assert object_.exists()
    server.stop()
    assert "Traceback" not in server.log.read_text()

    done = run("wipe", "--yes", "--buckets", "--data-dir", server.data_dir)
    assert done.returncode == 0, done.stderr
    assert not object_.exists()
    assert object_.parent.is_dir()
    server.start()
    assert is_fresh(clients)
    server.stop()


def test_a_wipe_needs_permission(tmp_path: Path) -> None:
    server = RunningServer(tmp_path)
    iam = server.endpoint.client("iam")
    iam.create_user(UserName="ana")
    made = iam.create_access_key(UserName="ana")["AccessKey"]
    ana = Endpoint(
        server.endpoint.url, made["AccessKeyId"], made["SecretAccessKey"],
        server.endpoint.region, server.endpoint.account,
    )  # fmt: skip
    with pytest.raises(InputError, match="vnotch:Wipe"):
        ana.request("POST", "/vnotch/v1/wipe")
    assert [user["UserName"] for user in iam.list_users()["Users"]] == ["administrator", "ana"]
    server.stop()


def test_a_folder_without_a_server_and_one_with_a_lab_are_refused(tmp_path: Path) -> None:
    done = run("wipe", "--yes", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "has no state" in done.stderr
    (tmp_path / "state").mkdir()
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.json").write_text("{}")
    done = run("wipe", "--yes", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "vnotch lab down" in done.stderr


def test_a_server_in_memory_leaves_nothing(tmp_path: Path) -> None:
    link = tmp_path / "data"
    log = tmp_path / "log"
    process = start("server", "--in-memory", "--data-dir", str(link), "--port", str(free_port()), log=log)
    until("the server answers", lambda: (link / "endpoint").exists() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    folder = link.resolve()
    assert folder != link
    endpoint = Endpoint.find(Folders(link))
    fill(endpoint)
    assert run("wipe", "--yes", "--data-dir", str(link)).returncode == 0
    assert is_fresh(endpoint)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not folder.exists()
    assert not link.is_symlink()
    assert f"--data-dir {link}" in log.read_text(), "it says how its clients find it"
    done = run("server", "--in-memory", "--state-url", "sqlite:///x", "--port", str(free_port()))
    assert done.returncode == 2
    assert "--state-url" in done.stderr


def test_a_folder_in_memory_takes_no_place_that_is_taken_and_clears_what_was_killed(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(InputError, match="there already"), folder_in_memory(taken):
        raise AssertionError("not reached")
    link = tmp_path / "link"
    with folder_in_memory(link) as first:
        killed = first.resolve()
        held = lock_folder(first)
        with folder_in_memory() as other:
            assert killed.exists(), "a server holds it"
            assert other != killed
        os.close(held)  # as its process ends
        with folder_in_memory() as other:
            assert not killed.exists()
        assert not other.exists()
        with folder_in_memory(link) as second:  # the link of the killed one is replaced
            assert second.resolve() != killed
            (second / "x").write_text("x")
