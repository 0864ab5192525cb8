"""The server as a process: one a folder, values fixed at its first start, a start after a kill, a quick end."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from tests.cli.running import RunningServer, free_port, run
from vnotch.errors import HostError


@pytest.fixture
def server(tmp_path: Path):  # type: ignore[no-untyped-def]
    running = RunningServer(tmp_path)
    yield running
    if running.process.poll() is None:
        running.kill()


def refused(done: subprocess.CompletedProcess[str], what: str) -> None:
    assert done.returncode == 2
    assert done.stderr.startswith("vnotch: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert what in done.stderr


def test_a_second_server_on_the_same_folder_is_refused(server: RunningServer) -> None:
    done = run("server", "--data-dir", server.data_dir, "--port", str(free_port()))
    refused(done, f"already runs with the data folder {server.data_dir} (process {server.process.pid})")
    assert server.endpoint.client("sts").get_caller_identity()["Account"] == "123456789012"


def test_after_a_kill_it_starts_again_with_what_it_had_acknowledged(server: RunningServer) -> None:
    vpc = server.endpoint.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    key = server.endpoint.access_key_id
    server.kill()
    server.start()
    assert server.endpoint.access_key_id == key
    assert [found["VpcId"] for found in server.endpoint.client("ec2").describe_vpcs()["Vpcs"]] == [vpc]


def test_account_and_region_are_fixed_at_the_first_start(tmp_path: Path) -> None:
    server = RunningServer(tmp_path, "--account", "210987654321", "--region", "eu-central-1")
    identity = server.endpoint.client("sts").get_caller_identity()
    assert identity["Account"] == "210987654321"
    assert server.endpoint.region == "eu-central-1"
    server.stop()
    again = ["server", "--data-dir", server.data_dir, "--port", str(free_port())]
    refused(run(*again, "--account", "123456789012"), "the account of this data folder is 210987654321")
    refused(run(*again, "--region", "us-east-1"), "the region of this data folder is eu-central-1")
    server.arguments = ()
    server.start()
    assert server.endpoint.client("sts").get_caller_identity()["Account"] == "210987654321"
    server.stop()


def test_it_ends_within_seconds_also_while_an_agent_waits_for_news(server: RunningServer) -> None:
    server.endpoint.request("PUT", "/vnotch/v1/agents/waiting")
    path = "/vnotch/v1/agents/waiting/configuration"
    revision = server.endpoint.request("GET", path)["revision"]
    answered = threading.Event()

    def wait() -> None:
        try:
            server.endpoint.request("GET", f"{path}?revision={revision}&wait_seconds=30")
        except HostError:
            pass  # the connection may end before an answer
        finally:
            answered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not answered.wait(1), "the long poll is open"
    assert server.stop() < 3
    waiting.join(5)
    assert answered.is_set()
    assert server.process.returncode == 0
    assert "Traceback" not in server.log.read_text()


def test_an_ended_server_leaves_no_address_behind(server: RunningServer) -> None:
    server.stop()
    assert not (server.folders.root / "endpoint").exists()
