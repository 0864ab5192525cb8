"""Real traffic for a lab, for a bounded time at a bounded rate, and a count of what became of it.

Each kind of traffic is one function; a run takes them in turn. What a target received of the port scan is read at its
own interface, behind the capture, so that a count can say that a rejected packet did not arrive.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle
from secrets import randbelow

from vnotch.errors import InputError
from vnotch.interrupts import check
from vnotch.lab import protocols
from vnotch.lab.namespaces import Portal
from vnotch.lab.network import ENI_DEVICE, PREFIX
from vnotch.lab.topology import DNS_PORT, SERVICES, Eni, Outside, Topology

VISIT_SECONDS = 2.0
PROBE_SECONDS = 0.8  # below the first retransmission of a SYN (1 s, RFC 6298): one probe is one packet
IN_FLIGHT_MAX = 64
RATE_MAX = 1000.0
SECONDS_MAX = 86400.0
SCAN_PORTS = 150
_LOOK_SECONDS = 0.2  # how often the caller looks whether it was interrupted

_WELL_KNOWN = (22, 80, 443, 3306, 3389, 8080, 21, 23, 25, 53, 110, 111, 135, 139, 143, 445, 993, 995, 1433, 1521, 2049)
_ETH_P_IP = 0x0800
_SO_ATTACH_FILTER = 26


@dataclass
class Counts:
    """Of one kind of traffic. `sent` = `ok` + `refused` + `timed_out` + `failed` at the end of a run.

    `refused` is a reset or an ICMP error; `failed` a wrong answer, `problem` the last of them. `skipped` was never sent
    because too much was under way.
    """

    sent: int = 0
    ok: int = 0
    refused: int = 0
    timed_out: int = 0
    failed: int = 0
    skipped: int = 0
    problem: str = ""


@dataclass
class TrafficReport:
    """What a run did. `probed` and `arrived` are the TCP ports of the scan by target: tried at its public address, and
    seen at its interface; `answered` those that were open."""

    seconds: float = 0.0
    kinds: dict[str, Counts] = field(default_factory=dict)
    probed: dict[str, set[int]] = field(default_factory=dict)
    arrived: dict[str, set[int]] = field(default_factory=dict)
    answered: dict[str, set[int]] = field(default_factory=dict)

    def count(self, kind: str) -> Counts:
        return self.kinds.setdefault(kind, Counts())

    def to_json(self) -> dict[str, object]:
        ports = {name: getattr(self, name) for name in ("probed", "arrived", "answered")}
        listed = {name: {host: sorted(seen) for host, seen in hosts.items()} for name, hosts in ports.items()}
        return {"seconds": self.seconds, "kinds": {kind: vars(counts) for kind, counts in self.kinds.items()}, **listed}


def run_traffic(
    topology: Topology,
    prefix: str = PREFIX,
    *,
    seconds: float,
    rate: float = 20.0,
    scan_ports: int = SCAN_PORTS,
    stop: threading.Event | None = None,
) -> TrafficReport:
    """Makes traffic for `seconds` at `rate` actions a second, and one scan of `scan_ports` ports at each target.

    Blocks; the work is done by a thread of its own, so the caller's network namespace is not touched. `stop` ends it
    early. Raises InputError for bounds, HostError where the lab is not up.
    """
    if not 0 < seconds <= SECONDS_MAX or not 0 < rate <= RATE_MAX or not 0 <= scan_ports <= 65535:
        right = f"up to {SECONDS_MAX:.0f} s, up to {RATE_MAX:.0f} a second, up to 65535 ports"
        raise InputError(f"traffic for {seconds} s at {rate} a second with {scan_ports} ports", right)
    result: list[TrafficReport | BaseException] = []

    def work() -> None:
        try:
            result.append(asyncio.run(_run(topology, prefix, seconds, rate, scan_ports, stop)))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work, name="vnotch-lab-traffic", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        check()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def run_once(topology: Topology, prefix: str = PREFIX, *, eni: str | None = None) -> TrafficReport:
    """Each action exactly once, or those about one ENI, without a scan: what a new instance begins with, and a check
    that a lab works."""
    result: list[TrafficReport | BaseException] = []

    async def once() -> TrafficReport:
        generator = _Generator(topology, Portal(), prefix)
        for action in generator.actions():
            if eni in (None, action.eni):
                await generator.perform(action)
        generator.portal.close()
        return generator.report

    def work() -> None:
        try:
            result.append(asyncio.run(once()))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work, name="vnotch-lab-traffic", daemon=True)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


@dataclass(frozen=True)
class _Action:
    kind: str
    eni: str  # the ENI of the VPC that it is about
    weight: int
    function: Callable[[], Awaitable[object]]


async def _run(
    topology: Topology, prefix: str, seconds: float, rate: float, scan_ports: int, stop: threading.Event | None
) -> TrafficReport:
    generator = _Generator(topology, Portal(), prefix)
    taps = generator.watch_scanned()
    began = time.monotonic()
    try:
        visits = asyncio.create_task(generator.visit(seconds, rate, stop))
        scan = asyncio.create_task(generator.scan(seconds, scan_ports, stop))
        await asyncio.gather(visits, scan)
        await generator.settle()
    finally:
        for tap in taps:
            asyncio.get_running_loop().remove_reader(tap)
            tap.close()
        generator.portal.close()
    generator.report.seconds = time.monotonic() - began
    return generator.report


class _Generator:
    def __init__(self, topology: Topology, portal: Portal, prefix: str) -> None:
        self.topology = topology
        self.portal = portal
        self.prefix = prefix
        self.report = TrafficReport()
        self.under_way: set[asyncio.Task[None]] = set()

    # --- the run

    async def visit(self, seconds: float, rate: float, stop: threading.Event | None) -> None:
        """Starts one action after the other, evenly; a slow answer holds up no other. Each action has its turn once
        before the weights count, so that a short run has everything in it."""
        actions = self.actions()
        turns = chain(actions, cycle([action for action in actions for _ in range(action.weight)]))
        for number in range(int(seconds * rate)):
            await self._until(number / rate, stop)
            if stop is not None and stop.is_set():
                return
            action = next(turns, None)
            if action is None:
                return
            if len(self.under_way) >= IN_FLIGHT_MAX:
                self.report.count(action.kind).skipped += 1
            else:
                self._start(self.perform(action))

    async def scan(self, seconds: float, ports: int, stop: threading.Event | None) -> None:
        """Probes each target's ports from the scanner over the first four fifths of the run."""
        probes = [
            (scanner, target, port)
            for scanner in self.topology.with_role("scanner")[:1]
            for port in _ports_to_scan(ports)
            for target in self.scanned()
        ]
        for number, (scanner, target, port) in enumerate(probes):
            await self._until(seconds * 0.8 * number / len(probes), stop)
            if stop is not None and stop.is_set():
                return
            self._start(self._probe(scanner, target, port))

    async def settle(self) -> None:
        if self.under_way:
            await asyncio.wait(self.under_way)
        await asyncio.sleep(0.1)  # the last packets of a scan reach their taps

    async def _until(self, offset_seconds: float, stop: threading.Event | None) -> None:
        if not hasattr(self, "_began"):
            self._began = time.monotonic()
        while (left := self._began + offset_seconds - time.monotonic()) > 0:
            if stop is not None and stop.is_set():
                return
            await asyncio.sleep(min(left, 0.2))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def perform(self, action: _Action) -> None:
        await self._counted(action.kind, VISIT_SECONDS, action.function)

    async def _counted(self, kind: str, seconds: float, function: Callable[[], Awaitable[object]]) -> bool:
        counts = self.report.count(kind)
        counts.sent += 1
        try:
            async with asyncio.timeout(seconds):
                await function()
        except TimeoutError:
            counts.timed_out += 1
        except OSError:
            counts.refused += 1
        except (ValueError, asyncio.IncompleteReadError) as error:
            counts.failed += 1
            counts.problem = f"{type(error).__name__}: {error}"
        else:
            counts.ok += 1
            return True
        return False

    # --- what there is to do

    def actions(self) -> list[_Action]:
        """All that this topology can do: visitors, instances and the services they use."""
        found: list[_Action] = []
        if visitors := self.topology.with_role("visitor"):
            for eni in self.topology.enis:
                found += self._visitor_actions(eni, visitors)
        for eni in self.topology.of_kind("instance"):
            found += self._instance_actions(eni)
        return found

    def _visitor_actions(self, eni: Eni, visitors: Sequence[Outside]) -> list[_Action]:
        """What comes to an ENI from outside; each kind of it from every visitor in turn."""
        found: list[_Action] = []
        public, ipv6 = str(eni.public_address), str(eni.ipv6)

        def add(kind: str, weight: int, function: Callable[[str], Awaitable[object]]) -> None:
            turns = cycle(visitors)
            found.append(_Action(kind, eni.name, weight, lambda: function(next(turns).name)))

        if eni.public_address is None:
            return found
        if "http" in eni.services:
            add("http", 4, lambda visitor: self._fetch(visitor, public, "/"))
            for visitor in visitors:  # each of them in a round: the ACL of the mock environment tells them apart
                found.append(_Action("ping", eni.name, 1, partial(self._ping, visitor.name, public)))
            if eni.calls:
                add("http-app", 3, lambda visitor: self._fetch(visitor, public, "/app"))
            if eni.ipv6:
                add("http-ipv6", 2, lambda visitor: self._fetch(visitor, ipv6, "/"))
                add("ping-ipv6", 1, lambda visitor: self._ping(visitor, ipv6))
        if "ssh" in eni.services:
            add("ssh", 1, lambda visitor: self._ssh(visitor, public))
        return found

    def _instance_actions(self, eni: Eni) -> list[_Action]:
        """What an instance does by itself."""
        found: list[_Action] = []
        vpc = self.topology.vpc

        def add(kind: str, weight: int, function: Callable[[], Awaitable[object]]) -> None:
            found.append(_Action(kind, eni.name, weight, function))

        add("dns", 1, lambda: self._dns(eni.name, str(vpc.resolver), f"{eni.name}.vpc.internal", str(eni.address)))
        add("time", 1, lambda: self._time(eni.name, str(vpc.time)))
        add("metadata", 1, lambda: self._metadata(eni.name, str(vpc.metadata)))
        if eni.calls and "mysql" in self.topology.eni(eni.calls).services:
            add("mysql", 1, lambda: self._mysql(eni.name, str(self.topology.eni(eni.calls or "").address)))
        neighbour = next((other for other in self.topology.of_kind("instance") if other != eni), None)
        if "http" in eni.services and neighbour:
            add("http-inside", 1, lambda: self._fetch(neighbour.name, str(eni.address), "/"))
        public = self.seen_as(eni)
        site = next(iter(self.topology.with_role("site")), None)
        if public is None or site is None:
            return found
        if "http" in site.services:
            kind = "http-out" if eni.public_address else "http-nat"
            add(kind, 2, lambda: self._whoami(eni.name, str(site.address), public))
        if "dns" in site.services:
            add("dns-out", 1, lambda: self._dns(eni.name, str(site.address), f"{site.name}.example", str(site.address)))
        return found

    def seen_as(self, eni: Eni) -> str | None:
        """The address from which the internet sees an ENI's IPv4 connections, or None where it has no way out."""
        route = self.topology.subnet(eni.subnet).default_route
        if route == "internet":
            return str(eni.public_address) if eni.public_address else None
        return None if route == "none" else str(self.topology.eni(route).public_address)

    # --- one action each; an OSError is a refusal, a ValueError a wrong answer

    async def _connect(self, name: str, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connecting = self.portal.socket(f"{self.prefix}-{name}", family, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(connecting, (address, port))
        except BaseException:
            connecting.close()
            raise
        return await asyncio.open_connection(sock=connecting)

    async def _fetch(self, name: str, address: str, path: str, method: str = "GET") -> str:
        reader, writer = await self._connect(name, address, SERVICES["http"])
        try:
            return await protocols.fetch(reader, writer, address, path, method)
        finally:
            writer.close()

    async def _whoami(self, name: str, address: str, expected: str) -> None:
        said = await self._fetch(name, address, "/whoami")
        if said != expected:
            raise ValueError(f"seen as {said}, not as {expected}")

    async def _metadata(self, name: str, address: str) -> None:
        await self._fetch(name, address, "/latest/api/token", "PUT")
        said = await self._fetch(name, address, "/latest/meta-data/instance-id")
        if not said.startswith("i-"):
            raise ValueError(f"instance id {said!r}")

    async def _ssh(self, name: str, address: str) -> None:
        reader, writer = await self._connect(name, address, SERVICES["ssh"])
        try:
            await protocols.ssh_visit(reader, writer)
        finally:
            writer.close()

    async def _mysql(self, name: str, address: str) -> None:
        reader, writer = await self._connect(name, address, SERVICES["mysql"])
        try:
            await protocols.mysql_visit(reader, writer)
        finally:
            writer.close()

    async def _ask(self, name: str, kind: int, protocol: int, address: tuple[str, int], question: bytes) -> _Asked:
        """A socket that has sent one datagram."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        asking = self.portal.socket(f"{self.prefix}-{name}", family, kind, protocol)
        try:
            asking.connect(address)
            await asyncio.get_running_loop().sock_sendall(asking, question)
        except BaseException:
            asking.close()
            raise
        return _Asked(asking)

    async def _dns(self, name: str, server: str, host: str, expected: str) -> None:
        identity = randbelow(65536)
        question = protocols.dns_question(identity, host)
        with await self._ask(name, socket.SOCK_DGRAM, 0, (server, DNS_PORT), question) as asked:
            addresses = protocols.dns_addresses(await asked.answer(), identity)
        if addresses != [expected]:
            raise ValueError(f"{host} is {addresses}, not {expected}")

    async def _time(self, name: str, server: str) -> None:
        question = protocols.time_question()
        with await self._ask(name, socket.SOCK_DGRAM, 0, (server, 123), question) as asked:
            offset = protocols.time_offset_seconds(await asked.answer(), question)
        if abs(offset) > 5:
            raise ValueError(f"the time is {offset} s off")

    async def _ping(self, name: str, address: str) -> None:
        ipv6 = ":" in address
        identity, sequence = randbelow(65536), 1
        protocol = socket.IPPROTO_ICMPV6 if ipv6 else socket.IPPROTO_ICMP
        request = protocols.echo_request(identity, sequence, ipv6)
        with await self._ask(name, socket.SOCK_RAW, protocol, (address, 0), request) as asked:
            while not protocols.is_echo_reply(await asked.answer(), identity, sequence, ipv6):
                pass  # a raw socket sees other ICMP too; the caller's timeout bounds this

    # --- the scan

    def scanned(self) -> list[Eni]:
        return [eni for eni in self.topology.of_kind("instance") if eni.public_address]

    async def _probe(self, scanner: Outside, target: Eni, port: int) -> None:
        self.report.probed.setdefault(target.name, set()).add(port)

        async def connect() -> None:
            _, writer = await self._connect(scanner.name, str(target.public_address), port)
            writer.close()

        if await self._counted("scan", PROBE_SECONDS, connect):
            self.report.answered.setdefault(target.name, set()).add(port)

    def watch_scanned(self) -> list[socket.socket]:
        """Opens a packet socket at each target's own interface, which hears the scanner alone."""
        taps = []
        for scanner in self.topology.with_role("scanner")[:1]:
            for target in self.scanned():
                seen = self.report.arrived.setdefault(target.name, set())
                tap = self.portal.socket(f"{self.prefix}-{target.name}", socket.AF_PACKET, socket.SOCK_DGRAM)
                _hear_only(tap, int(scanner.address))
                tap.bind((ENI_DEVICE, _ETH_P_IP))
                asyncio.get_running_loop().add_reader(tap, _note_probes, tap, seen)
                taps.append(tap)
        return taps


class _Asked:
    """A datagram socket whose question is under way; closes with its block."""

    def __init__(self, asking: socket.socket) -> None:
        self.socket = asking

    async def answer(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    def __enter__(self) -> _Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _ports_to_scan(count: int) -> list[int]:
    """The well-known ports that scanners try first, then upwards from 1."""
    ports = list(dict.fromkeys([*_WELL_KNOWN, *range(1, min(65536, count + len(_WELL_KNOWN) + 1))]))
    return ports[:count]


def _note_probes(tap: socket.socket, seen: set[int]) -> None:
    """Reads what is there; each TCP SYN's port goes into `seen`."""
    while True:
        try:
            packet = tap.recv(2048)
        except BlockingIOError:
            return
        at = (packet[0] & 15) * 4
        if len(packet) >= at + 20 and packet[9] == socket.IPPROTO_TCP and packet[at + 13] & 0x12 == 0x02:
            seen.add(struct.unpack_from(">H", packet, at + 2)[0])


def _hear_only(tap: socket.socket, source: int) -> None:
    """A classic BPF filter (linux/filter.h): IPv4 packets from one source."""
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 12),  # ld [12]: the source address
            (0x15, 0, 1, source),  # jeq source
            (0x06, 0, 0, 0xFFFF),  # ret: all of it
            (0x06, 0, 0, 0),  # ret: nothing
        )
    )
    buffer = ctypes.create_string_buffer(program)
    tap.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(buffer)))
