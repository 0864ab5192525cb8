"""Shell completion as a shell asks for it: by the variable that typer's scripts set."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import RunningServer, environment
from vnotch.config import Folders


@pytest.fixture(scope="module")
def made(server: RunningServer) -> dict[str, str]:
    logs, ec2 = server.endpoint.client("logs"), server.endpoint.client("ec2")
    for group in ("/web/all", "/web/reject", "/db"):
        logs.create_log_group(logGroupName=group)
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.0.0/24")["Subnet"]["SubnetId"]
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "Name", "Value": "frontend"}]}]
    eni = ec2.create_network_interface(SubnetId=subnet, TagSpecifications=tags)["NetworkInterface"]
    return {"vpc": vpc, "subnet": subnet, "eni": eni["NetworkInterfaceId"]}


def complete(line: str, data_dir: str) -> subprocess.CompletedProcess[str]:
    """What bash does when TAB is pressed behind the line. It hangs for no more than the timeout."""
    words = line.split(" ")
    return subprocess.run(
        [sys.executable, "-m", "vnotch"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(
            _VNOTCH_COMPLETE="complete_bash",
            COMP_WORDS=line,
            COMP_CWORD=str(len(words) - 1),
            VNOTCH_DATA_DIR=data_dir,
        ),
        check=False,
    )


def test_names_that_the_server_knows(server: RunningServer, made: dict[str, str]) -> None:
    assert complete("vnotch tail /web", server.data_dir).stdout.split() == ["/web/all", "/web/reject"]
    assert set(complete("vnotch top --interface ", server.data_dir).stdout.split()) == {made["eni"], "frontend"}
    found = set(complete("vnotch flow-logs create ", server.data_dir).stdout.split())
    assert found >= {made["vpc"], made["subnet"], made["eni"], "frontend"}


def test_commands_complete_too(server: RunningServer) -> None:
    assert "flow-logs" in complete("vnotch flow", server.data_dir).stdout.split()
    assert complete("vnotch flow-logs d", server.data_dir).stdout.split() == ["delete"]


@pytest.fixture
def silent(server: RunningServer, tmp_path: Path) -> Iterator[str]:
    """A data folder whose server takes connections and never says a word."""
    folders = Folders(tmp_path)
    folders.credentials.write_text(server.folders.credentials.read_text())
    with socket.create_server(("127.0.0.1", 0)) as mute:
        (tmp_path / "endpoint").write_text(f"http://127.0.0.1:{mute.getsockname()[1]}")
        yield str(tmp_path)


def test_without_an_answer_there_is_nothing_to_say(server: RunningServer, nothing: str, silent: str) -> None:
    for data_dir in (nothing, silent):
        done = complete("vnotch tail /w", data_dir)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_the_script_for_bash_asks_vnotch() -> None:
    line = f"{sys.executable} -m vnotch --show-completion; true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(), check=True)
    assert "_VNOTCH_COMPLETE=complete_bash" in done.stdout
    assert "complete -o default -F _vnotch_completion vnotch" in done.stdout
