"""The agent's part of enrolment: what is reported and when, on a namespace of its own, against a server in memory."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from vnotch.agent.enrolment import BUSY_SECONDS, SETTLE_SECONDS, Changes, Enroller, Memory
from vnotch.candidates import Candidate
from vnotch.errors import DestinationUnavailable
from vnotch.inventory import EnrolledSubnet
from vnotch.workloads import Workloads

SUBNET = EnrolledSubnet("subnet-1", ("10.5.0.0/24",))


def anonymous(device: str = "v1", address: str = "10.5.0.9", sense: str = "outside") -> Candidate:
    return Candidate(device, sense, f"device/{device}", (address,), {"Name": device})


def named(device: str = "v1", address: str = "10.5.0.9") -> Candidate:
    return Candidate(device, "outside", "container/1", (address,), {"Name": "web"})


def test_a_new_link_that_is_nobodys_waits_for_its_container() -> None:
    memory = Memory()
    assert memory.settled([anonymous()], 0.0) == []
    assert memory.is_waiting
    assert memory.settled([named()], 1.0) == [named()]
    assert not memory.is_waiting


def test_a_link_that_stays_nobodys_is_reported_under_its_own_name() -> None:
    memory = Memory()
    memory.settled([anonymous()], 0.0)
    assert memory.settled([anonymous()], SETTLE_SECONDS) == [anonymous()]
    assert Memory().settled([anonymous(sense="inside")], 0.0) == [anonymous(sense="inside")], "nobody is to come"


def test_a_link_stays_its_containers_until_it_goes() -> None:
    memory = Memory()
    memory.settled([named()], 0.0)
    assert memory.settled([anonymous(address="10.5.0.10")], 9.0) == [named(address="10.5.0.10")]
    assert memory.settled([], 10.0) == []
    assert memory.settled([anonymous()], 11.0) == []


def neighbour(kind: int, index: int, address: str) -> bytes:
    """RTM_NEWNEIGH (28) or RTM_DELNEIGH (29): struct ndmsg and NDA_DST, of linux/neighbour.h."""
    body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, index, 2, 0, 0) + struct.pack("=HH", 8, 1)
    body += socket.inet_aton(address)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_neighbour_is_new_once_and_all_else_always() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        here.setblocking(False)
        now = [0.0]
        changes = Changes(here, lambda: now[0])
        there.send(neighbour(28, 3, "10.5.0.9"))
        assert changes.read()
        there.send(neighbour(28, 3, "10.5.0.9") + neighbour(29, 3, "10.5.0.8"))
        now[0] = BUSY_SECONDS
        assert not changes.read()
        assert not changes.is_recent
        there.send(neighbour(28, 4, "10.5.0.9"))
        assert changes.read()
        assert changes.is_recent
        there.send(struct.pack("=IHHII", 16, 16, 0, 0, 0))
        assert changes.read(), "a link"


class Server:
    def __init__(self) -> None:
        self.reports: list[list[dict[str, Any]]] = []
        self.answer: dict[str, Any] = {"interfaces": [], "refused": [], "leaving": []}
        self.up = True

    def put_candidates(self, candidates: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.up:
            raise DestinationUnavailable("down")
        self.reports.append(candidates)
        return self.answer

    @property
    def last(self) -> list[str] | None:
        """Devices of the last report."""
        return [item["device"] for item in self.reports[-1]] if self.reports else None


def until(what: str, check: Any) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"vnenrol-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    for each in (name, f"{name}-g"):
        subprocess.run(["ip", "netns", "del", each], check=False, capture_output=True)


def ip(namespace: str, command: str) -> None:
    subprocess.run(["ip", "-n", namespace, *command.split()], check=True, capture_output=True)


@pytest.mark.root
def test_guests_that_come_and_go_are_reported(netns: str) -> None:
    server = Server()
    enroller = Enroller(server, netns, Workloads(sockets=(), domains=()))
    enroller.start()
    try:
        assert enroller.status() is None
        enroller.follow((SUBNET,))
        until("there is a report", lambda: server.reports == [[]])
        guest = f"{netns}-g"
        subprocess.run(["ip", "netns", "add", guest], check=True)
        ip(netns, f"link add v1 type veth peer name eth0 netns {guest}")
        ip(guest, "addr add 10.5.0.9/24 dev eth0")
        until("the guest is reported", lambda: server.last == ["v1"])
        assert server.reports[-1][0] == anonymous().to_json()
        server.answer = {"interfaces": [], "refused": [{"device": "v1", "reason": "taken"}], "leaving": []}
        ip(netns, "link del v1")
        until("it is gone", lambda: server.last == [])
        status = enroller.status()
        assert status is not None
        assert (status["subnets"], status["candidates"], status["refused_count"]) == (["subnet-1"], 0, 1)
        assert len(server.reports) == 3, "a report that says the same is not sent again at once"
    finally:
        enroller.stop(5)


@pytest.mark.root
def test_a_host_that_cannot_be_read_reports_nothing(netns: str) -> None:
    """An empty report would end interfaces."""
    server = Server()
    enroller = Enroller(server, f"{netns}-none", Workloads(sockets=(), domains=()))
    enroller.start()
    try:
        enroller.follow((SUBNET,))
        until("it says so", lambda: (enroller.status() or {}).get("error"))
        assert server.reports == []
    finally:
        enroller.stop(5)


@pytest.mark.root
def test_a_server_that_is_away_is_asked_again(netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnotch.agent.enrolment.LOOK_SECONDS_MAX", 1.0)
    server = Server()
    server.up = False
    enroller = Enroller(server, netns, Workloads(sockets=(), domains=()))
    enroller.start()
    try:
        enroller.follow((SUBNET,))
        until("it says so", lambda: (enroller.status() or {}).get("error") == "down")
        server.up = True
        until("it reports", lambda: server.reports == [[]])
        assert (enroller.status() or {})["error"] is None
    finally:
        enroller.stop(5)
