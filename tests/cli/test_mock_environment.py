"""The example script where no host is in lab mode: it says so in a line, and takes away what it had made."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import RunningServer, environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "mock_environment.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path)
    yield running
    running.stop()


def example(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    keys = {
        "AWS_ENDPOINT_URL": server.endpoint.url,
        "AWS_ACCESS_KEY_ID": server.endpoint.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.endpoint.secret_access_key,
        "AWS_DEFAULT_REGION": server.endpoint.region,
    }
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment(**keys))


def test_without_a_lab_host_it_says_in_a_line_what_to_do(server: RunningServer) -> None:
    done = example(server)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "There is no host in lab mode" in line
    assert "vnotch lab follow" in line
    made = re.search(r"--remove (vpc-[0-9a-f]+)$", line)
    assert made is not None, line
    removed = example(server, "--remove", made[1])
    assert (removed.returncode, removed.stderr) == (0, "")
    ec2 = server.endpoint.client("ec2")
    assert not ec2.describe_vpcs()["Vpcs"]
    assert not ec2.describe_flow_logs()["FlowLogs"]
    assert not ec2.describe_addresses()["Addresses"]
    gone = example(server, "--remove", made[1])
    assert gone.returncode == 1
    assert gone.stderr == f"mock_environment.py: The vpc ID '{made[1]}' does not exist.\n"
