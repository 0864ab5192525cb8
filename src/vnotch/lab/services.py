"""What answers in a lab: one process that holds the sockets of every namespace.

A socket stays in the namespace in which it was made, so one event loop serves all instances, the router's own services
and the outside world. The process ends when the journal of its lab goes, and takes in instances that are added.

    python -m vnotch.lab.services FOLDER
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from vnotch.config import REGION
from vnotch.errors import VnotchError
from vnotch.lab import protocols
from vnotch.lab.journal import Journal, process_start_ticks, write_json
from vnotch.lab.namespaces import Portal, is_namespace
from vnotch.lab.topology import SERVICES, Eni, Outside, Topology

READY_FILE = "services.json"
CONNECTIONS_MAX = 512
CONNECTION_SECONDS = 15
_POLL_SECONDS = 0.5
_LOGGED_ERRORS_MAX = 100
_IPV6_ANY, _IPV4_ANY = "::", "0.0.0.0"

Session = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Services:
    """The servers of one lab. `serve` opens those that are not open yet and closes those of instances that went."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.portal = Portal()
        self.topology: Topology | None = None
        self.instance_ids: dict[str, str] = {}
        self.macs: dict[str, str] = {}
        self.region = REGION
        self.open: dict[tuple[str, str], object] = {}  # (namespace, service)
        self.serving: dict[str, str | None] = {}  # name -> the instance that it is
        self.connections = asyncio.Semaphore(CONNECTIONS_MAX)
        self.refused = 0

    def namespace(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    async def serve(self, journal: Journal) -> tuple[list[str], bool]:
        """Opens what the journal's topology asks for; the names that are served, and whether these are all.

        The journal names an instance before its namespace is there: such a one is for the next call.
        """
        topology = self.topology = journal.topology()
        self.instance_ids, self.macs = journal.instance_ids, journal.macs
        self.region = journal.api.get("region", REGION)
        hosts: list[Eni | Outside] = [*(eni for eni in topology.enis if eni.of is None), *topology.outside]
        self._close_gone({host.name for host in hosts})
        served = []
        await self._open_once("router", "vpc", lambda: self._start_vpc_services(topology))
        for host in hosts:
            if not is_namespace(self.namespace(host.name)):
                continue
            for service in host.services:
                await self._open_once(host.name, service, partial(self._start_service, host, service))
            served.append(host.name)
            self.serving[host.name] = self.instance_ids.get(host.name)
        return served, len(served) == len(hosts)

    def _close_gone(self, names: set[str]) -> None:
        """An instance that went keeps its namespace alive by the sockets in it; another may have its name since."""
        for name, instance_id in list(self.serving.items()):
            if name in names and self.instance_ids.get(name) == instance_id:
                continue
            del self.serving[name]
            for key in [key for key in self.open if key[0] == name]:
                _close(self.open.pop(key))
            self.portal.forget(self.namespace(name))

    async def _open_once(self, name: str, service: str, start: Callable[[], Awaitable[object]]) -> None:
        if (name, service) not in self.open:
            self.open[name, service] = await start()

    async def _start_service(self, host: Eni | Outside, service: str) -> object:
        port = SERVICES[service]
        if service == "dns":
            addresses = [str(host.address)] + ([str(host.ipv6)] if host.ipv6 else [])
            return [await self._name_server(host.name, address, port, False) for address in addresses]
        session: Session = {
            "http": self._page_session(host),
            "app": self._application_session(host),
            "mysql": protocols.mysql_session,
            "ssh": protocols.ssh_session,
        }[service]
        families = [_IPV4_ANY] + ([_IPV6_ANY] if host.ipv6 else [])
        return [await self._listen(host.name, address, port, session) for address in families]

    async def _start_vpc_services(self, topology: Topology) -> object:
        """Resolver, metadata and time: addresses of the router, in both families where the VPC has both."""
        vpc = topology.vpc
        resolvers, metadata, times = [str(vpc.resolver)], [str(vpc.metadata)], [str(vpc.time)]
        if vpc.ipv6_cidr:
            resolvers.append("fd00:ec2::253")
            metadata.append("fd00:ec2::254")
            times.append("fd00:ec2::123")
        started: list[object] = []
        for address in resolvers:
            started.append(await self._name_server("router", address, 53, True))
        for address in metadata:
            started.append(await self._listen("router", address, 80, self._metadata_session))
        for address in times:
            started.append(await self._datagrams("router", address, 123, protocols.time_answer))
        return started

    # --- sockets

    async def _listen(self, name: str, address: str, port: int, session: Session) -> asyncio.Server:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = self.portal.socket(self.namespace(name), family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address, port))

        async def bounded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if self.connections.locked():
                    self.refused += 1
                    return
                async with self.connections:
                    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                        async with asyncio.timeout(CONNECTION_SECONDS):
                            await session(reader, writer)
                            await writer.drain()
            except TimeoutError:
                pass  # the client was too slow; its connection is closed as any other
            finally:
                writer.close()

        return await asyncio.start_server(bounded, sock=listening, limit=16384, backlog=128)

    async def _datagrams(
        self, name: str, address: str, port: int, answer: Callable[[bytes], bytes | None]
    ) -> asyncio.DatagramTransport:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = self.portal.socket(self.namespace(name), family, socket.SOCK_DGRAM)
        bound.bind((address, port))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Answering(answer), sock=bound)
        return transport

    async def _name_server(self, name: str, address: str, port: int, inside: bool) -> object:
        """A DNS server over UDP and TCP; `inside` it knows the VPC's private names too."""
        answer = lambda query: protocols.dns_answer(query, self._names(inside))  # noqa: E731
        datagrams = await self._datagrams(name, address, port, answer)
        return datagrams, await self._listen(name, address, port, protocols.dns_session(answer))

    async def connect(self, name: str, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that begins in the namespace of `name`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connecting = self.portal.socket(self.namespace(name), family, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(connecting, (address, port))
        except BaseException:
            connecting.close()
            raise
        return await asyncio.open_connection(sock=connecting)

    # --- what they say

    def _names(self, inside: bool) -> dict[str, list[str]]:
        """Host names and their addresses: private ones for the VPC, public ones for everybody else."""
        names: dict[str, list[str]] = {}
        assert self.topology is not None
        for eni in self.topology.enis:
            if inside:
                names[f"{eni.name}.vpc.internal"] = [str(eni.address)] + ([str(eni.ipv6)] if eni.ipv6 else [])
            if eni.public_address:
                public = [str(eni.public_address)] + ([str(eni.ipv6)] if eni.ipv6 else [])
                names[f"{eni.name}.vpc.example"] = public
        for host in self.topology.outside:
            names[f"{host.name}.example"] = [str(host.address)] + ([str(host.ipv6)] if host.ipv6 else [])
        return names

    def _page_session(self, host: Eni | Outside) -> Session:
        """A web server: `/` a page of 8 kB, `/whoami` the client's address, `/app` what is behind it."""

        async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await protocols.read_request(reader)
            path = request.path
            if path == "/whoami":
                protocols.respond(writer, 200, writer.get_extra_info("peername")[0])
            elif path == "/":
                protocols.respond(writer, 200, f"<h1>{host.name}</h1>\n" + "<p>Water over the weir.</p>\n" * 300)
            elif path.startswith("/app") and isinstance(host, Eni) and host.calls:
                status, body = await self._call(host, lambda r, w: protocols.fetch(r, w, host.calls or "", path))
                protocols.respond(writer, status, body)
            else:
                protocols.respond(writer, 404, "not found\n")

        return session

    def _application_session(self, host: Eni | Outside) -> Session:
        """The application: each page is one session with the database behind it, if it has one."""

        async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await protocols.read_request(reader)
            if not isinstance(host, Eni) or not host.calls:
                protocols.respond(writer, 200, "no database\n")
                return
            status, version = await self._call(host, protocols.mysql_visit)
            protocols.respond(writer, status, f"database {version}\n")

        return session

    async def _call(
        self,
        host: Eni,
        visit: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[str]],
    ) -> tuple[int, str]:
        """Visits the service that `host` calls; the HTTP status and what it said."""
        assert self.topology is not None
        target = self.topology.eni(host.calls or "")
        try:
            async with asyncio.timeout(3):
                connection = await self.connect(host.name, str(target.address), SERVICES[target.services[0]])
                try:
                    return 200, await visit(*connection)
                finally:
                    connection[1].close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            return 502, f"{target.name}: {type(error).__name__}\n"

    async def _metadata_session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Instance metadata, versions 1 and 2 (EC2 user guide, "Instance metadata categories")."""
        request = await protocols.read_request(reader)
        peer = writer.get_extra_info("peername")[0]
        assert self.topology is not None
        eni = next((eni for eni in self.topology.enis if peer in (str(eni.address), str(eni.ipv6))), None)
        if eni is None or eni.name not in self.instance_ids:
            protocols.respond(writer, 404, "not found\n")
        elif request.method == "PUT" and request.path == "/latest/api/token":
            protocols.respond(writer, 200, protocols.metadata_token(peer))
        else:
            answers = {
                "instance-id": self.instance_ids[eni.name],
                "local-ipv4": str(eni.address),
                "mac": self.macs.get(eni.name, eni.mac),
                "hostname": f"{eni.name}.vpc.internal",
                "placement/availability-zone": self.region + self.topology.subnet(eni.subnet).zone,
                **({"public-ipv4": str(eni.public_address)} if eni.public_address else {}),
                **({"ipv6": str(eni.ipv6)} if eni.ipv6 else {}),
            }
            category = request.path.removeprefix("/latest/meta-data/")
            if category == "":
                protocols.respond(writer, 200, "\n".join(sorted(answers)))
            else:
                protocols.respond(writer, 200 if category in answers else 404, answers.get(category, "not found\n"))


def _close(opened: object) -> None:
    """A server, a transport, or a list or pair of them."""
    if isinstance(opened, list | tuple):
        for each in opened:
            _close(each)
    elif isinstance(opened, asyncio.Server | asyncio.BaseTransport):
        opened.close()


class _Answering(asyncio.DatagramProtocol):
    """One answer a datagram, or none."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is no subclass of it

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        answer = self.answer(data)
        if answer is not None:
            self.transport.sendto(answer, address)


def _log_some(left: list[int]) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Logs the first errors of callbacks and no more: the log file has no other bound."""

    def log(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if left[0] > 0:
            left[0] -= 1
            loop.default_exception_handler(context)

    return log


async def _run(folder: Path) -> None:
    journal = Journal.load(folder)
    if journal is None:
        return
    services = Services(journal.prefix)
    seen = 0
    ended = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(_log_some([_LOGGED_ERRORS_MAX]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    while not ended.is_set():
        try:
            changed = journal.path.stat().st_mtime_ns
        except FileNotFoundError:
            return  # the lab is gone
        if changed != seen and (journal := Journal.load(folder) or journal):
            names, complete = await services.serve(journal)
            write_json(
                folder / READY_FILE,
                {"pid": os.getpid(), "start_ticks": process_start_ticks(os.getpid()), "names": names},
            )
            seen = changed if complete else 0
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _POLL_SECONDS)


def ready(folder: Path) -> tuple[int, int, list[str]] | None:
    """Pid, start ticks and names served, as the process of this folder last said, or None."""
    try:
        document = json.loads((folder / READY_FILE).read_text())
        return int(document["pid"]), int(document["start_ticks"]), list(document["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main(arguments: list[str]) -> int:
    try:
        asyncio.run(_run(Path(arguments[0])))
    except VnotchError as error:
        print(f"vnotch lab services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
