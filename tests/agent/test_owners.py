"""Who is behind a flow: real processes, real packets through a veth pair, and the sockets that they left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from links import Pair, run
from world import T0, World, flow_log, interface

from vnotch.agent.owners import OwnerObserver, WindowOwners
from vnotch.capture.cgroups import cgroup2_mount
from vnotch.capture.kernel import Datapath
from vnotch.capture.processes import SocketHolders
from vnotch.flow import Direction
from vnotch.owner import KEY_BYTES, OWNER_SCHEMA, Owners, flow_keys

SLOT = 5
PORT = 8080
FORMAT = "${srcaddr} ${x-process} ${x-unit} ${x-container}"

SERVER = """
    import os, socket, sys
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    kind = socket.SOCK_STREAM if sys.argv[2] == "tcp" else socket.SOCK_DGRAM
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((sys.argv[1], int(sys.argv[3])))
    if kind == socket.SOCK_STREAM:
        server.listen()
    children = 0
    if "fork" in sys.argv:
        children = os.fork()
        if children == 0:
            sys.stdin.read()
            os._exit(0)
    print(children, flush=True)
    kept = []
    while True:
        if kind == socket.SOCK_DGRAM:
            data, sender = server.recvfrom(100)
            server.sendto(data, sender)
            continue
        connection, _ = server.accept()
        connection.sendall(b"hello")
        if "close" in sys.argv:
            connection.recv(1)
            connection.close()
        elif "child" in sys.argv and os.fork() == 0:
            server.close()
            print(os.getpid(), flush=True)
            connection.recv(1)
            os._exit(0)
        elif "child" in sys.argv:
            connection.close()
        else:
            kept.append(connection)
"""
CLIENT = """
    import socket, sys
    if sys.argv[2] == "tcp":
        client = socket.create_connection((sys.argv[1], int(sys.argv[3])))
        client.recv(5)
    else:
        client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((sys.argv[1], int(sys.argv[3])))
        client.send(b"hello")
        client.recv(100)
    if "close" in sys.argv:
        client.close()
    print("ready", flush=True)
    sys.stdin.read()
"""


class Programs:
    """Python programs in the pair's namespaces, ended with the test."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._running: list[subprocess.Popen[str]] = []

    def start(self, inside: Callable[..., Any], code: str, *arguments: object) -> tuple[int, str]:
        """-> (pid, the first line it printed). `inside`: Pair.in_host or Pair.in_instance."""
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        process = inside(lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        self._running.append(process)
        return process.pid, self.line(process.pid)

    def line(self, pid: int) -> str:
        process = next(process for process in self._running if process.pid == pid)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def stop(self, pid: int) -> None:
        process = next(process for process in self._running if process.pid == pid)
        process.kill()
        process.wait()

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


class Seen:
    """What an observer says of the flows of one drain, by direction and the own end's port."""

    def __init__(self, observer: OwnerObserver, datapath: Datapath, device: str = Pair.host_device) -> None:
        drain = datapath.flip_and_drain()
        datapath.commit(drain.generation)
        self.flows = drain.flows
        eni = replace(interface(5), device=device)
        self.observations = observer.observe(drain.flows, {SLOT: eni})
        self.owners = Owners(self.observations).of_flows(flow_keys(drain.flows))

    def of(self, part: str, protocol: int, port: int | None) -> set[str | None]:
        """The values of all flows of a protocol whose own end has this port (None: any)."""
        rows = self.flows.to_pylist()
        values = self.owners[part].to_pylist()
        ports = [row["dstport"] if row["direction"] == Direction.INGRESS else row["srcport"] for row in rows]
        return {
            value
            for row, value, own in zip(rows, values, ports, strict=True)
            if row["protocol"] == protocol and port in (None, own)
        }


@pytest.fixture
def mode() -> str:
    return "auto"


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def datapath(pair: Pair, mode: str) -> Iterator[Datapath]:
    opened = Datapath.open(netns=pair.host, attach_mode=mode, flows_per_map=8192)
    try:
        opened.set_interface(SLOT)
        opened.attach(pair.host_device, SLOT)
        yield opened
    finally:
        opened.destroy()


@pytest.fixture
def programs(pair: Pair) -> Iterator[Programs]:
    made = Programs(pair)
    yield made
    made.close()


@pytest.fixture
def observer(pair: Pair) -> Iterator[OwnerObserver]:
    made = OwnerObserver(pair.host)
    yield made
    made.close()


def name_of(pid: int) -> str:
    return f"{Path(f'/proc/{pid}/comm').read_text().strip()}/{pid}"


@pytest.mark.root
def test_a_server_in_the_namespace_behind_the_veth(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    server, _ = programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT)
    seen = Seen(observer, datapath)
    assert seen.flows.num_rows == 2, "there and back"
    assert seen.of("process", 6, PORT) == {name_of(server)}
    assert seen.observations["exact"].to_pylist() == [True, True]


@pytest.mark.root
def test_a_client_and_the_end_that_is_the_hosts_own(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    programs.start(pair.in_host, SERVER, "0.0.0.0", "tcp", PORT)
    client, _ = programs.start(pair.in_instance, CLIENT, pair.host_v4, "tcp", PORT)
    assert Seen(observer, datapath).of("process", 6, None) == {name_of(client)}, "the ENI's end, not the other one"


@pytest.mark.root
def test_a_connection_that_is_over_is_its_listeners(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    server, _ = programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT, "close")
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT, "close")
    seen = Seen(observer, datapath)
    assert seen.of("process", 6, PORT) == {name_of(server)}
    programs.stop(server)
    pair.in_host(lambda: _refused(pair.instance_v4))
    assert Seen(observer, datapath).of("process", 6, PORT) == {None}, "nobody listens any more"


def _refused(address: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, PORT))


@pytest.mark.root
def test_a_client_that_was_gone_before_it_was_looked_for_is_nobody(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    programs.start(pair.in_host, SERVER, "0.0.0.0", "tcp", PORT)
    client, _ = programs.start(pair.in_instance, CLIENT, pair.host_v4, "tcp", PORT)
    programs.stop(client)
    assert Seen(observer, datapath).of("process", 6, None) == {None}


@pytest.mark.root
def test_a_listener_of_two_processes_is_neither(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    _, child = programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT, "fork", "close")
    assert int(child) > 0
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT, "close")
    seen = Seen(observer, datapath)
    assert seen.of("process", 6, PORT) == {None}
    assert seen.observations.num_rows == 2, "the listener was found"


@pytest.mark.root
def test_the_child_that_serves_a_connection_is_named(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    server, _ = programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT, "child")
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT)
    child = int(programs.line(server))
    assert child != server
    assert Seen(observer, datapath).of("process", 6, PORT) == {name_of(child)}
    os.kill(child, 9)


@pytest.mark.root
@pytest.mark.parametrize("end", ["server", "client"])
def test_udp(pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver, end: str) -> None:
    sides = (pair.in_instance, pair.in_host) if end == "server" else (pair.in_host, pair.in_instance)
    address = pair.instance_v4 if end == "server" else pair.host_v4
    server, _ = programs.start(sides[0], SERVER, "0.0.0.0", "udp", PORT)
    client, _ = programs.start(sides[1], CLIENT, address, "udp", PORT)
    assert Seen(observer, datapath).of("process", 17, None) == {name_of(server if end == "server" else client)}


@pytest.mark.root
@pytest.mark.parametrize("bound", ["::", Pair.instance_v6])
def test_ipv6(pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver, bound: str) -> None:
    pair.enable_ipv6()
    server, _ = programs.start(pair.in_instance, SERVER, bound, "tcp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v6, "tcp", PORT)
    datagrams, _ = programs.start(pair.in_instance, SERVER, bound, "udp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v6, "udp", PORT)
    seen = Seen(observer, datapath)
    assert seen.of("process", 6, PORT) == {name_of(server)}
    assert seen.of("process", 17, PORT) == {name_of(datagrams)}


@pytest.mark.root
def test_ipv4_at_a_socket_for_both_families(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    pair.enable_ipv6()
    server, _ = programs.start(pair.in_instance, SERVER, "::", "tcp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT)
    assert Seen(observer, datapath).of("process", 6, PORT) == {name_of(server)}


@pytest.mark.root
def test_what_is_forwarded_is_nobodys(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    """The instance's end has a listener on that very port, for its own addresses."""
    programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT)
    run("ip", "-n", pair.host, "route", "add", "10.99.0.0/24", "via", pair.instance_v4)
    pair.in_host(_attempt, "10.99.0.9")
    seen = Seen(observer, datapath)
    assert seen.flows.num_rows >= 1
    assert seen.of("process", 6, PORT) == {None}
    assert seen.observations.num_rows == 0


def _attempt(address: str) -> None:
    with socket.socket() as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect((address, PORT))


@pytest.mark.root
def test_behind_what_is_no_veth_nobody_is_known(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver
) -> None:
    programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT)
    run("ip", "-n", pair.host, "link", "add", "bridge", "type", "bridge")
    assert Seen(observer, datapath, device="bridge").observations.num_rows == 0


@pytest.mark.root
def test_without_the_right_to_enter_the_namespace_nobody_is_known(
    pair: Pair, datapath: Datapath, programs: Programs, tmp_path: Path
) -> None:
    programs.start(pair.in_instance, SERVER, "0.0.0.0", "tcp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT)
    drain = datapath.flip_and_drain()
    with pa.ipc.new_file(tmp_path / "flows", drain.flows.schema) as writer:
        writer.write_table(drain.flows)
    code = """
        import sys, pyarrow as pa
        from dataclasses import replace
        from world import interface
        from vnotch.agent.owners import OwnerObserver
        observer = OwnerObserver(None)
        flows = pa.ipc.open_file(sys.argv[1]).read_all()
        rows = observer.observe(flows, {5: replace(interface(5), device=sys.argv[2])}).num_rows
        observer.close()
        print(rows, observer.counters.namespaces_unreadable)
    """
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", textwrap.dedent(code)]
    result = pair.in_host(
        lambda: subprocess.run(
            [*command, str(tmp_path / "flows"), pair.host_device],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )
    )
    assert result.stdout.split() == ["0", "1"]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    mount = cgroup2_mount()
    assert mount is not None, "this kernel has no cgroup version 2"
    top = mount / f"vntest{os.getpid()}.slice"
    folder = top / f"docker-{'0123456789abcdef' * 4}.scope"
    folder.mkdir(parents=True)
    yield folder
    for path in (folder, top):
        path.rmdir()


@pytest.mark.root
@pytest.mark.parametrize("holders", ["seen", "not seen"])
def test_unit_and_container_by_process_and_by_the_sockets_own_cgroup(
    pair: Pair, datapath: Datapath, programs: Programs, observer: OwnerObserver, cgroup: Path, holders: str
) -> None:
    moved = f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0')\n"
    server, _ = programs.start(pair.in_instance, moved + textwrap.dedent(SERVER), "0.0.0.0", "tcp", PORT)
    programs.start(pair.in_host, CLIENT, pair.instance_v4, "tcp", PORT)
    if holders == "not seen":
        observer._holders = SocketHolders(files_max=0)
    seen = Seen(observer, datapath)
    assert seen.of("unit", 6, PORT) == {cgroup.name}
    assert seen.of("container", 6, PORT) == {"0123456789ab"}
    assert seen.of("process", 6, PORT) == {name_of(server) if holders == "seen" else None}
    assert observer.counters.searches_cut == (holders == "not seen")
    assert observer.counters.searches == (holders == "not seen"), "its cgroup's processes come first"
    programs.stop(server)


# Kept beside the windows


class FakeObserver(OwnerObserver):
    """Says that every flow is `process`."""

    def __init__(self) -> None:
        super().__init__(None)
        self.process: str | None = "nginx/8"
        self.asked: list[set[str]] = []

    def observe(self, flows: pa.Table, interfaces: Any) -> pa.Table:
        self.asked.append({eni.interface_id for eni in interfaces.values()})
        rows = [
            {"key": key, "exact": True, "process": self.process, "unit": None, "container": None}
            for key in flow_keys(flows).to_pylist()
            if self.process
        ]
        return pa.Table.from_pylist(rows, schema=OWNER_SCHEMA)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.owners = FakeObserver()
    return made


def test_only_interfaces_of_flow_logs_that_ask_are_looked_up(world: World) -> None:
    world.configure([5, 6], [flow_log("a", [5, 6])])
    world.start()
    world.send()
    world.tick_to(60)
    assert world.owners.asked == []
    assert world.capture.status()["owners"] is None
    world.configure([5, 6], [flow_log("a", [5, 6]), flow_log("b", [6], format=FORMAT)])
    world.send()
    world.tick_to(120)
    assert {frozenset(asked) for asked in world.owners.asked} == {frozenset({"eni-6"})}


def test_a_flow_keeps_its_name_through_the_window_and_not_into_the_next(world: World) -> None:
    world.configure([5], [flow_log("a", [5], format=FORMAT)])
    world.start()
    world.send()
    world.tick_to(10)
    world.owners.process = None  # its socket has gone
    world.send()
    world.tick_to(60)
    world.send()
    world.tick_to(120)
    assert world.lines("group-a") == ["192.0.2.1 nginx/8 - -", "192.0.2.1 - - -"]


def test_owners_survive_a_restart_with_the_drains_that_they_belong_to(world: World) -> None:
    world.configure([5], [flow_log("a", [5], format=FORMAT)])
    world.start()
    world.send()
    world.tick_to(10)
    world.owners.process = None
    world.start()
    world.send()
    world.send(src="192.0.2.2")
    world.tick_to(60)
    assert sorted(world.lines("group-a")) == ["192.0.2.1 nginx/8 - -", "192.0.2.2 - - -"]


def test_the_bound_turns_away_and_counts() -> None:
    def rows(begin: int, end: int) -> pa.Table:
        found = [
            {"key": number.to_bytes(KEY_BYTES, "big"), "exact": True, "process": "p/1", "unit": None, "container": None}
            for number in range(begin, end)
        ]
        return pa.Table.from_pylist(found, schema=OWNER_SCHEMA)

    kept = WindowOwners(kept_max=10)
    kept.add({"60": T0}, rows(0, 8))
    kept.add({"60": T0}, rows(0, 8))
    assert (kept.kept, kept.turned_away) == (8, 0), "what is known already needs no room"
    kept.add({"60": T0}, rows(8, 13))
    kept.add({"60": T0 + 60}, rows(0, 3))
    assert (kept.kept, kept.turned_away) == (10, 3 + 3)
    assert kept.of("60", T0).observations.num_rows == 10
    assert kept.of("60", T0 + 7).observations.num_rows == 10, "a part of a window that was cut"
    assert kept.of("60", T0 + 60).observations.num_rows == 0
    kept.keep(set())
    assert kept.kept == 0
