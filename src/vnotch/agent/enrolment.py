"""Enrolment, the agent's part: candidates are looked for when the host's network changes, and reported to the server.

One thread. Netlink says when it is time to look (links, addresses, routes, neighbours not seen before); what happens in
a container's own namespace it does not say, so that after a change it is looked again a few times, and now and then in
any case. A report is the whole list. Where the host cannot be read none is sent: an empty one would end interfaces.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from vnotch.candidates import Candidate, Found, find_candidates, networks_of
from vnotch.capture.interfaces import Namespace
from vnotch.capture.netlink import attributes
from vnotch.errors import HostError, VnotchError
from vnotch.inventory import EnrolledSubnet
from vnotch.workloads import Workloads

LOOK_SECONDS_MIN = 1.0
LOOK_SECONDS_MAX = 15.0
BUSY_SECONDS = 6.0
"""How long after a change it is looked again each second."""
SETTLE_SECONDS = 3.0
"""How long a new interface that nobody is known to be behind waits for its container to start."""
REPORT_SECONDS = 30.0
"""Between two reports that say the same."""
SHOWN_MAX = 100
"""Refusals in the status."""

RTMGRP = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
"""Links, neighbours, addresses and routes of both families (linux/rtnetlink.h)."""
RTM_NEWNEIGH, RTM_DELNEIGH, NDA_DST = 28, 29, 1
NEIGHBOURS_MAX = 10_000

log = logging.getLogger(__name__)


class Server(Protocol):
    def put_candidates(self, candidates: list[dict[str, Any]]) -> dict[str, Any]: ...


class Enroller:
    """Reports candidates of the subnets that it was last told of; none while there is no such subnet."""

    def __init__(self, server: Server, netns: str | None, workloads: Workloads | None = None) -> None:
        self._server = server
        self._netns = netns
        self._workloads = workloads or Workloads()
        self._subnets: tuple[EnrolledSubnet, ...] = ()
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vnotch-enrolment", daemon=True)
        self._memory = Memory()
        self._found = Found(())
        self._answer: dict[str, Any] = {}
        self._reported: list[dict[str, Any]] | None = None
        self._report_at = 0.0
        self._error: str | None = None

    def start(self) -> None:
        self._thread.start()

    def follow(self, subnets: tuple[EnrolledSubnet, ...]) -> None:
        """Takes in what the server marked; may be called from any thread."""
        if subnets != self._subnets:
            self._subnets = subnets
            os.write(self._wake_write, b"x")

    def stop(self, timeout_seconds: float) -> None:
        self._stopping = True
        os.write(self._wake_write, b"x")
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def status(self) -> dict[str, Any] | None:
        """None where no subnet is marked."""
        if not self._subnets:
            return None
        refused = self._answer.get("refused", [])
        return {
            "subnets": [subnet.subnet_id for subnet in self._subnets],
            "candidates": len(self._found.candidates),
            "omitted": self._found.omitted,
            "unreadable": self._found.unreadable,
            "enrolled": self._answer.get("interfaces", []),
            "refused": refused[:SHOWN_MAX],
            "refused_count": len(refused),
            "leaving": self._answer.get("leaving", []),
            "error": self._error,
        }

    # The thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._watch()
            except (VnotchError, OSError) as error:
                self._fail(error)
                self._wait(None, LOOK_SECONDS_MAX)

    def _watch(self) -> None:
        namespace = Namespace(self._netns)
        try:
            with namespace.run(_watching_socket) as netlink:
                changes = Changes(netlink)
                while not self._stopping:
                    if self._subnets:
                        self._look(namespace)
                    self._wait(changes, self._wait_seconds(changes))
        finally:
            namespace.close()

    def _wait_seconds(self, changes: Changes) -> float:
        busy = changes.is_recent or self._memory.is_waiting
        return LOOK_SECONDS_MIN if busy else max(LOOK_SECONDS_MIN, min(LOOK_SECONDS_MAX, self._report_at - _now()))

    def _wait(self, changes: Changes | None, seconds: float) -> None:
        """Until something changes, but at least LOOK_SECONDS_MIN after the last look."""
        begun = _now()
        while not self._stopping and (left := begun + seconds - _now()) > 0:
            files = [self._wake_read] + ([changes.netlink.fileno()] if changes else [])
            ready, _, _ = select.select(files, [], [], left)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                return
            if changes is not None and ready and changes.read():
                seconds = min(seconds, LOOK_SECONDS_MIN)

    def _look(self, namespace: Namespace) -> None:
        networks = networks_of(cidr for subnet in self._subnets for cidr in subnet.cidrs)
        try:
            self._found = find_candidates(namespace, networks, self._workloads)
        except HostError as error:
            self._fail(error)
            return
        report = [candidate.to_json() for candidate in self._memory.settled(self._found.candidates, _now())]
        if report != self._reported or _now() >= self._report_at:
            self._report(report)

    def _report(self, report: list[dict[str, Any]]) -> None:
        try:
            self._answer = self._server.put_candidates(report)
        except VnotchError as error:
            self._fail(error)
            self._reported, self._report_at = None, _now() + LOOK_SECONDS_MAX
            return
        self._reported, self._error = report, None
        left = [float(item["seconds"]) for item in self._answer.get("leaving", [])]
        self._report_at = _now() + min([REPORT_SECONDS, *(seconds + 0.5 for seconds in left)])

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            log.warning("enrolment: %s", error)
        self._error = str(error)


class Memory:
    """What was known of candidates before.

    A new interface that nobody is known to be behind is held back for SETTLE_SECONDS, since its container may be about
    to start; one whose container was known stays that container's until the device goes.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._named: dict[str, Candidate] = {}
        self.is_waiting = False

    def settled(self, candidates: Sequence[Candidate], now: float) -> list[Candidate]:
        devices = {candidate.device for candidate in candidates}
        self._since = {device: self._since.get(device, now) for device in devices}
        self._named = {device: known for device, known in self._named.items() if device in devices}
        result = []
        self.is_waiting = False
        for candidate in candidates:
            if not candidate.is_anonymous:
                self._named[candidate.device] = candidate
            known = self._named.get(candidate.device)
            if known is not None:
                result.append(replace(known, addresses=candidate.addresses, sense=candidate.sense, mac=candidate.mac))
            elif candidate.sense == "inside" or now >= self._since[candidate.device] + SETTLE_SECONDS:
                result.append(candidate)
            else:
                self.is_waiting = True
        return result


class Changes:
    """Whether netlink told of something new; a neighbour that only changed its state is nothing new."""

    def __init__(self, netlink: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self.netlink = netlink
        self._clock = clock
        self._last = clock()
        self._neighbours: set[bytes] = set()

    @property
    def is_recent(self) -> bool:
        return self._clock() < self._last + BUSY_SECONDS

    def read(self) -> bool:
        """Empties the socket; -> whether there was something new."""
        found = False
        while True:
            try:
                data = memoryview(self.netlink.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError:
                found = True  # messages were lost (ENOBUFS): something changed
                continue
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if length < 16:
                    break
                found |= self._is_new(kind, data[16:length])
                data = data[(length + 3) & ~3 :]
        if found:
            self._last = self._clock()
        return found

    def _is_new(self, kind: int, message: memoryview) -> bool:
        if kind not in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return True
        address = dict(attributes(message, 12)).get(NDA_DST)
        if kind == RTM_DELNEIGH or address is None:
            return False
        name = bytes(message[4:8]) + bytes(address)
        if name in self._neighbours:
            return False
        if len(self._neighbours) >= NEIGHBOURS_MAX:
            self._neighbours.clear()
        self._neighbours.add(name)
        return True


def _watching_socket() -> socket.socket:
    """To be made inside the namespace."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    made.setblocking(False)
    made.bind((0, RTMGRP))
    return made


def _now() -> float:
    return time.monotonic()
