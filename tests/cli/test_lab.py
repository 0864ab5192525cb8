"""`vnotch lab` by its commands: twice up, twice down, and down after each part of it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import RunningServer, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NAME = f"cli{os.getpid() % 100000}"


def namespaces() -> list[str]:
    done = subprocess.run(["ip", "-json", "netns", "list"], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return [each["name"] for each in found if each["name"].startswith(f"vn{NAME}-")]


def lab(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run("lab", *arguments, "--data-dir", server.data_dir, seconds=120)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def status(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab(server, "status", "--json").stdout)
    return found


def made(server: RunningServer) -> tuple[int, int]:
    """How many VPCs and flow logs there are."""
    ec2 = server.endpoint.client("ec2")
    return len(ec2.describe_vpcs()["Vpcs"]), len(ec2.describe_flow_logs()["FlowLogs"])


def test_a_lab_goes_up_and_down_whatever_is_repeated_or_killed(server: RunningServer) -> None:
    before = made(server)
    up = ("up", "--name", NAME, "--interval", "2")
    try:
        first = lab(server, *up)
        assert first.returncode == 0, first.stderr
        # What is made is said before it is made.
        assert first.stderr.index(f"vn{NAME}-web") < first.stderr.index("making network namespaces")
        one = status(server)
        assert (one["name"], one["phase"], set(one["devices"].values())) == (NAME, "up", {True})

        again = lab(server, *up)
        assert again.returncode == 0, again.stderr
        assert status(server) == one
        other = run("lab", "up", "--name", NAME, "--data-dir", str(server.folders.root / "other"))
        assert other.returncode == 2

        # The agent is killed: `up` starts another, which captures what is there.
        os.kill(one["agent_pid"], signal.SIGKILL)
        healed = lab(server, *up)
        assert healed.returncode == 0, healed.stderr
        assert status(server)["agent_pid"] not in (None, one["agent_pid"])
        assert status(server)["namespaces"] == one["namespaces"]

        # The server is killed: the network goes, and what it has in the API goes when it is back.
        server.kill()
        down = lab(server, "down")
        assert down.returncode == 2
        assert "start the server again and repeat vnotch lab down" in down.stderr
        assert namespaces() == []
        server.start()
        assert lab(server, "down").returncode == 0
        assert made(server) == before
        assert status(server)["phase"] == "absent"

        twice = lab(server, "down")
        assert twice.returncode == 0
        assert "there is no lab" in twice.stderr
        assert not Path(f"/run/vnotch/bpf/{NAME}").exists()
        assert not Path(f"/run/vnotch/vn{NAME}.json").exists()
    finally:
        if server.process.poll() is not None:
            server.start()
        lab(server, "down", "--name", NAME)
    assert namespaces() == []
