"""The agent without root: a user with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON captures, enforces and takes over; the
server has no capability at all. Both live in a network namespace of the test, so the agent's is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import unprivileged
from links import Pair
from policies import FLOW_LOGS_TRUST, allow
from traffic import start_flood

from vnotch.capture import libbpf, pins
from vnotch.capture.layout import META
from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders
from vnotch.errors import HostError, InputError

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

AGENT_UID, SERVER_UID, OTHER_UID = unprivileged.UID, unprivileged.UID + 1, unprivileged.UID + 2
THREE = 1 << 12 | 1 << 38 | 1 << 39
"""CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h)."""
PORT = 9999


def until(what: str, check: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ConnectionError, HostError, InputError):
            if found := check():
                return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.25)


def status_of(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Host:
    """A pair of namespaces with server and agent in the first, each as a user of its own."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.pair = pair
        self.folder = folder
        self.pin_dir = Path(f"/run/vntest-{os.getpid()}/agent")
        self.server_folders, self.agent_folders = Folders(folder / "server"), Folders(folder / "agent")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sent = 0
        for path, uid in ((self.server_folders.root, SERVER_UID), (self.agent_folders.root, AGENT_UID)):
            path.mkdir()
            os.chown(path, uid, uid)

    def start(self, name: str, argv: list[str], uid: int, capabilities: tuple[str, ...]) -> int:
        command = unprivileged.command(argv, netns=self.pair.host, uid=uid, capabilities=capabilities)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self.processes[name].pid

    def start_server(self) -> int:
        argv = [sys.executable, "-m", "vnotch", "server", "--any-interval", "--data-dir", str(self.server_folders.root)]
        process = self.start("server", argv, SERVER_UID, ())
        until("the server answers", (self.server_folders.root / "endpoint").exists)
        self.endpoint = Endpoint.find(self.server_folders)
        return process

    def prepare(self, *more: str) -> subprocess.CompletedProcess[str]:
        """As the unit does it: as root, in the host's own mount namespace."""
        argv = [
            *("nsenter", f"--net=/run/netns/{self.pair.host}", sys.executable, "-m", "vnotch", "prepare"),
            *("--user", str(AGENT_UID), "--name", "agent", "--pin-dir", str(self.pin_dir)),
            *more,
        ]
        environment = {**os.environ, "PYTHONPATH": str(unprivileged.ROOT / "src")}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)

    def prepare_with_key(self) -> subprocess.CompletedProcess[str]:
        folders = ["--data-dir", str(self.agent_folders.root), "--server-data-dir", str(self.server_folders.root)]
        return self.prepare(*folders)

    def start_agent(self, mode: str, *more: str) -> int:
        argv = [
            *(sys.executable, "-m", "vnotch", "agent", "--name", "agent", "--attach-mode", mode),
            *("--flows-per-map", "4096", "--data-dir", str(self.agent_folders.root), "--pin-dir", str(self.pin_dir)),
            *more,
        ]
        return self.start("agent", argv, AGENT_UID, unprivileged.AGENT)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(60)

    def request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return self.pair.in_host(self.endpoint.request, method, path, body)

    def make_resources(self) -> None:
        def make() -> None:
            ec2, iam = self.endpoint.client("ec2"), self.endpoint.client("iam")
            iam.create_role(RoleName="logs", AssumeRolePolicyDocument=FLOW_LOGS_TRUST)
            iam.put_role_policy(RoleName="logs", PolicyName="deliver", PolicyDocument=allow("logs:*"))
            vpc = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
            subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.1.0/24")["Subnet"]["SubnetId"]
            made = ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress="10.99.1.10")
            self.eni = made["NetworkInterface"]["NetworkInterfaceId"]
            made = ec2.create_flow_logs(
                ResourceIds=[vpc],
                ResourceType="VPC",
                TrafficType="ALL",
                LogGroupName="group",
                DeliverLogsPermissionArn="arn:aws:iam::123456789012:role/logs",
                MaxAggregationInterval=1,
            )
            assert made["Unsuccessful"] == []

        self.pair.in_host(make)
        binding = {"agent": "agent", "device": self.pair.host_device, "enforce": True}
        self.request("PUT", self.binding_path, {"instance_id": None, "interface_type": None, **binding})

    @property
    def binding_path(self) -> str:
        return f"/vnotch/v1/network-interfaces/{self.eni}/binding"

    def attached(self) -> bool:
        return bool(self.request("GET", self.binding_path)["state"] == "attached")

    def send(self, count: int) -> None:
        """From the instance, which the default security group allows."""
        assert start_flood(self.pair, count, 10, seed=self.sent).wait() == 0
        self.sent += count

    def arrives(self) -> bool:
        """Whether a datagram of the host reaches the instance; the default security group lets none in."""
        with (
            self.pair.in_instance(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as here,
            self.pair.in_host(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as there,
        ):
            here.bind((self.pair.instance_v4, PORT))
            here.settimeout(0.5)
            there.sendto(b"hello", (self.pair.instance_v4, PORT))
            with contextlib.suppress(TimeoutError):
                return here.recv(16) == b"hello"
            return False

    def counted(self) -> tuple[int, int]:
        """Packets in records: of the floods, accepted; to the instance, rejected."""

        def read() -> list[list[str]]:
            logs = self.endpoint.client("logs")
            if not logs.describe_log_groups(logGroupNamePrefix="group")["logGroups"]:
                return []
            pages = logs.get_paginator("filter_log_events").paginate(logGroupName="group")
            return [event["message"].split() for page in pages for event in page["events"]]

        records = self.pair.in_host(read)
        assert not any(fields[13] == "SKIPDATA" for fields in records)
        sent = sum(int(fields[8]) for fields in records if fields[4] == "198.51.100.1" and fields[12] == "ACCEPT")
        refused = sum(int(fields[8]) for fields in records if fields[6] == str(PORT) and fields[12] == "REJECT")
        return sent, refused

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.prepare("--undo")
        subprocess.run(["umount", str(self.pin_dir)], check=False, capture_output=True)
        with contextlib.suppress(FileNotFoundError):
            self.pin_dir.parent.rmdir()
        for log in sorted(self.folder.glob("*.log")):
            print(f"---- {log.name}\n{log.read_text()[-4000:]}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Open to other users, as pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="vntest-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def host(pair: Pair, folder: Path) -> Iterator[Host]:
    made = Host(pair, folder)
    try:
        yield made
    finally:
        made.close()


def test_the_three_capabilities_capture_enforce_and_take_over(host: Host, mode: str) -> None:
    server = host.start_server()
    assert int(status_of(server)["CapEff"], 16) == int(status_of(server)["CapBnd"], 16) == 0
    prepared = host.prepare_with_key()
    assert prepared.returncode == 0, prepared.stderr
    key = host.agent_folders.agent("agent") / "key.json"
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (AGENT_UID, 0o600)
    credentials = host.server_folders.credentials
    assert (credentials.stat().st_uid, credentials.stat().st_mode & 0o077) == (SERVER_UID, 0)
    before = key.read_bytes(), host.pin_dir.stat().st_dev, host.pin_dir.stat().st_mode
    assert host.prepare_with_key().returncode == 0
    assert (key.read_bytes(), host.pin_dir.stat().st_dev, host.pin_dir.stat().st_mode) == before, "once is enough"

    assert host.arrives(), "nothing is in its way yet"
    agent = host.start_agent(mode)
    host.make_resources()
    until("the interface is attached", host.attached)
    status = status_of(agent)
    assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == dict.fromkeys(
        ("CapEff", "CapPrm", "CapBnd"), THREE
    )
    assert status["Uid"].split() == [str(AGENT_UID)] * 4
    assert host.request("GET", host.binding_path)["mode"] == mode
    host.send(100)
    assert not host.arrives()
    until("the records have arrived", lambda: host.counted() == (100, 1))

    host.kill("agent")
    host.send(50)
    assert not host.arrives(), "what was enforced stays enforced while nobody is there"
    assert host.prepare_with_key().returncode == 0
    host.start_agent(mode)
    host.send(25)
    until("the records of the time between have arrived", lambda: host.counted() == (175, 2))
    assert key.read_bytes() == before[0]

    assert host.kill("agent", signal.SIGTERM) == 0
    assert host.pin_dir.is_mount()
    assert any(name.startswith(("link_", "meta")) for name in os.listdir(host.pin_dir)), "the capture goes on"
    undone = host.prepare("--undo")
    assert undone.returncode == 0, undone.stderr
    assert not host.pin_dir.exists()
    assert host.arrives(), "nothing is in its way any more"


def test_an_upgrade_to_another_layout_says_what_it_loses(host: Host, mode: str) -> None:
    """What the programs of the release before counted while no agent was there is in the ledger as lost, exactly."""
    host.start_server()
    assert host.prepare_with_key().returncode == 0
    host.start_agent(mode)
    host.make_resources()
    until("the interface is attached", host.attached)
    host.send(100)
    until("the records have arrived", lambda: host.counted() == (100, 0))
    host.kill("agent")
    fd = libbpf.get_pin(host.pin_dir / "meta")
    assert fd is not None
    meta = libbpf.map_lookup(fd, bytes(4), META.itemsize)
    assert meta
    libbpf.map_update(fd, bytes(4), (99).to_bytes(4, "little") + meta[4:])
    os.close(fd)
    host.send(40)

    host.start_agent(mode)

    def ledger() -> tuple[int, int, int]:
        status = json.loads((host.agent_folders.agent("agent") / "status.json").read_text())["ledger"]
        seen = sum(row["packets"] for row in status["seen"])
        return seen, status["total"]["packets"], status["total"]["lost"].get("UPGRADE", {"packets": 0})["packets"]

    until("the ledger says what is lost", lambda: ledger()[2] == 40)
    host.send(25)
    until("the ledger is whole", lambda: ledger() == (165, 165, 40))
    log = (host.folder / "agent.log").read_text()
    assert "40 packets that the other release counted since its last drain (20" in log
    assert not [name for name in os.listdir(host.pin_dir) if name.startswith("before_")]


def test_an_agent_that_detaches_leaves_an_empty_mount(host: Host, mode: str) -> None:
    host.start_server()
    assert host.prepare_with_key().returncode == 0
    host.start_agent(mode, "--flush")
    host.make_resources()
    until("the interface is attached", host.attached)
    assert host.kill("agent", signal.SIGTERM) == 0
    assert pins.PinFolder(host.pin_dir).names() == []
    assert host.pin_dir.stat().st_uid == AGENT_UID
    assert host.arrives()


def test_a_server_with_new_data_gives_a_new_key(host: Host) -> None:
    host.start_server()
    assert host.prepare_with_key().returncode == 0
    key = host.agent_folders.agent("agent") / "key.json"
    old = key.read_bytes()
    host.kill("server")
    shutil.rmtree(host.server_folders.root)
    host.server_folders.root.mkdir()
    os.chown(host.server_folders.root, SERVER_UID, SERVER_UID)
    assert host.prepare_with_key().returncode == 0, "an agent with a key needs no server to start"
    assert key.read_bytes() == old
    host.start_server()
    assert host.prepare_with_key().returncode == 0
    assert key.read_bytes() != old


def test_without_server_and_key_there_is_one_line(host: Host) -> None:
    host.server_folders.root.rmdir()
    done = host.prepare_with_key()
    assert done.returncode == 2
    assert "no vnotch server has started with the data folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_that_was_not_prepared_is_told_how(host: Host) -> None:
    code = (
        "from pathlib import Path; from vnotch.capture.kernel import Datapath\n"
        f"Datapath.open(pin_dir=Path({str(host.pin_dir)!r}))"
    )
    command = unprivileged.command([sys.executable, "-c", code], netns=host.pair.host)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"vnotch prepare --user USER --pin-dir {host.pin_dir}" in done.stderr
    pins.prepare(host.pin_dir, OTHER_UID, OTHER_UID)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"belongs to user {OTHER_UID}" in done.stderr


@pytest.mark.parametrize("missing", unprivileged.AGENT)
def test_none_of_the_three_can_be_left_out(pair: Pair, missing: str) -> None:
    code = "from vnotch.capture.kernel import Datapath; Datapath.open()"
    rest = [name for name in unprivileged.AGENT if name != missing]
    command = unprivileged.command([sys.executable, "-c", code], netns=pair.host, capabilities=rest)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON" in done.stderr


def test_prepare_takes_no_place_that_others_may_change(folder: Path) -> None:
    """A user who can put a link where root mounts has the choice of what root mounts over."""
    theirs = folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, OTHER_UID, OTHER_UID)
    with pytest.raises(InputError, match="root alone may change"):
        pins.prepare(theirs / "pins", AGENT_UID, AGENT_UID)
    base = Path(f"/run/vntest-{os.getpid()}")
    try:
        with pytest.raises(InputError, match="absolute"):
            pins.prepare(base / ".." / "pins", AGENT_UID, AGENT_UID)
        (base / "full").mkdir(parents=True)
        (base / "full" / "file").touch()
        with pytest.raises(InputError, match="not empty"):
            pins.prepare(base / "full", AGENT_UID, AGENT_UID)
        (base / "link").symlink_to(base / "full")
        with pytest.raises(InputError, match="not a folder"):
            pins.prepare(base / "link", AGENT_UID, AGENT_UID)
        pins.prepare(base / "bpf", OTHER_UID, OTHER_UID)
        with pytest.raises(InputError, match=f"belong to user {OTHER_UID}"):
            pins.prepare(base / "bpf", AGENT_UID, AGENT_UID)
    finally:
        subprocess.run(["umount", str(base / "bpf")], check=False, capture_output=True)
        shutil.rmtree(base)
