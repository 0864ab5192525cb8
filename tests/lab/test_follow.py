"""A working lab through the API alone: what boto3 launches runs on this host, is captured, and goes again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import RunningServer, environment, start, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NAME = f"fol{os.getpid() % 100000}"
EXAMPLE = Path(__file__).parents[2] / "examples" / "mock_environment.py"


class Following:
    """A server, and a host in lab mode."""

    def __init__(self, folder: Path) -> None:
        self.server = RunningServer(folder, "--any-interval")
        self.log = folder / "follow.log"
        self.start()

    def start(self) -> None:
        self.process = start("lab", "follow", "--name", NAME, "--data-dir", self.server.data_dir, log=self.log)

    def client(self, service: str) -> Any:
        return self.server.endpoint.client(service)

    def example(self, *arguments: str) -> str:
        """The example script's output, run as its docstring says."""
        keys = {
            "AWS_ACCESS_KEY_ID": self.server.endpoint.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.server.endpoint.secret_access_key,
            "AWS_DEFAULT_REGION": self.server.endpoint.region,
        }
        command = [sys.executable, str(EXAMPLE), "--endpoint-url", self.server.endpoint.url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment(**keys))
        assert done.returncode == 0, done.stderr + self.log.read_text()
        return done.stdout

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Following]:
    lab = Following(tmp_path)
    try:
        yield lab
    finally:
        try:
            lab.stop()
        finally:
            lab.server.stop()
    assert namespaces() == []
    assert "Traceback" not in lab.log.read_text() + lab.server.log.read_text()


def namespaces() -> list[str]:
    done = subprocess.run(["ip", "-json", "netns", "list"], capture_output=True, text=True, check=True)
    return [row["name"] for row in json.loads(done.stdout or "[]") if row["name"].startswith(f"vn{NAME}-")]


def inside(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", f"vn{NAME}-{name}", *command], capture_output=True, text=True, timeout=30
    )


def page(name: str, url: str) -> str:
    """What a client in a namespace gets; empty where it gets nothing within 3 s."""
    code = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=3).read().decode())"
    return inside(name, sys.executable, "-c", code).stdout


def messages(logs: Any, group: str) -> list[list[str]]:
    try:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        return [event["message"].split() for page in pages for event in page["events"]]
    except logs.exceptions.ResourceNotFoundException:
        return []


def test_the_example_builds_a_vpc_that_works_and_is_captured(following: Following) -> None:
    until("the host says that it is there", lambda: "waiting for the first instance" in following.log.read_text())
    made = json.loads(following.example("--interval", "2"))
    ec2, logs = following.client("ec2"), following.client("logs")
    statuses = ec2.describe_instance_status()["InstanceStatuses"]
    assert {row["InstanceStatus"]["Status"] for row in statuses} == {"ok"}

    # Through the internet gateway, and from the web server to the application to the database.
    assert "web" in page("alice", "http://203.0.113.10/")
    assert "database" in page("alice", "http://203.0.113.10/app")
    # The groups are enforced: nobody outside reaches the bastion's port 80, no visitor the application.
    assert page("alice", "http://203.0.113.20/") == ""
    # The network ACL lets bob's pings in and their answers not out; alice gets hers.
    assert inside("bob", "busybox", "ping", "-c", "1", "-W", "1", "203.0.113.10").returncode != 0
    assert inside("alice", "busybox", "ping", "-c", "1", "-W", "2", "203.0.113.10").returncode == 0

    web, group = made["instances"]["web"], "/vnotch/mock-environment"
    until("records name the instance", lambda: (web, "80", "ACCEPT") in ports(logs, group), 40)
    # What the ACL lets not out is REJECTed there, and never arrives: that was seen above.
    until("the answer to bob is REJECTed", lambda: (web, "0", "REJECT") in ports(logs, group), 40)

    further = ec2.create_network_interface(SubnetId=made["private"], PrivateIpAddress="10.0.1.77")
    further_id = further["NetworkInterface"]["NetworkInterfaceId"]
    attachment_id = ec2.attach_network_interface(NetworkInterfaceId=further_id, InstanceId=web, DeviceIndex=1)
    until("the second interface is there", lambda: "10.0.1.77" in inside("web", "ip", "-br", "addr").stdout)
    assert (
        inside("app", "busybox", "ping", "-c", "1", "-W", "2", "10.0.1.77").returncode != 0
    )  # its group: the VPC's default one
    ec2.detach_network_interface(AttachmentId=attachment_id["AttachmentId"])
    until("the second interface is gone", lambda: "eth1" not in inside("web", "ip", "-br", "link").stdout)
    ec2.delete_network_interface(NetworkInterfaceId=further_id)

    # Killed, the host comes back and has what the API says, no more and no less.
    following.process.kill()
    following.process.wait()
    ec2.terminate_instances(InstanceIds=[made["instances"]["bastion"]])
    following.start()
    ec2.get_waiter("instance_terminated").wait(
        InstanceIds=[made["instances"]["bastion"]], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    until("the web server is back", lambda: "web" in page("alice", "http://203.0.113.10/"), 60)
    assert f"vn{NAME}-bastion" not in namespaces()

    following.example("--remove", made["vpc"])
    assert {name.rpartition("-")[2] for name in namespaces()}.isdisjoint(made["instances"])


def ports(logs: Any, group: str) -> set[tuple[str, str, str]]:
    """(instance id, destination port, action) of all records."""
    return {(row[2], row[7], row[13]) for row in messages(logs, group) if row[-1] == "OK"}
