"""The agent's threads and its life as a process, with a fake kernel and a server that is only an object."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_datapath import FakeDatapath, Kernel
from world import World, flow_log, interface

from vnotch.agent.agent import Agent, AgentConfig
from vnotch.agent.configuration import load_key
from vnotch.agent.process import lock_folder, run
from vnotch.agent.progress import Progress
from vnotch.deliver.batch import Batch
from vnotch.deliver.logs import Delivered
from vnotch.errors import AccessError, DestinationUnavailable, HostError, InputError
from vnotch.inventory import AgentConfiguration, Peer

PACKETS = 8


class FakeServer:
    """Gives out a configuration, takes statuses and batches; `up` and `allowed` break it."""

    def __init__(self) -> None:
        self.now = AgentConfiguration(1)
        self.changed = threading.Condition()
        self.up = True
        self.allowed = True
        self.statuses: list[dict[str, Any]] = []
        self.batches: list[Batch] = []

    def tell(self, interfaces: list[int], flow_logs: list[Any]) -> None:
        with self.changed:
            self.now = AgentConfiguration(
                self.now.revision + 1, tuple(interface(number) for number in interfaces), tuple(flow_logs)
            )
            self.changed.notify_all()

    def configuration(self, revision: int, wait_seconds: int) -> AgentConfiguration:
        if not self.up:
            raise DestinationUnavailable("down")
        with self.changed:
            self.changed.wait_for(lambda: self.now.revision != revision, min(wait_seconds, 1))
            return self.now

    def post_status(self, status: dict[str, Any]) -> None:
        if not self.up:
            raise DestinationUnavailable("down")
        self.statuses.append(json.loads(json.dumps(status)))

    def deliver(self, batch: Batch) -> Delivered:
        if not self.up:
            raise DestinationUnavailable("down")
        if not self.allowed:
            raise AccessError("no")
        self.batches.append(batch)
        return Delivered(accepted=batch.events.num_rows)

    def packets(self) -> int:
        return sum(batch.packets for batch in self.batches)


class Running:
    """An agent on a thread of its own."""

    def __init__(self, folder: Path, server: FakeServer, kernel: Kernel, **settings: Any) -> None:
        config = AgentConfig("t", "http://x", folder / "key", folder, backoff_seconds_max=0.2, **settings)
        self.agent = Agent(config, FakeDatapath(kernel), server.deliver, server, server)  # type: ignore[arg-type]
        self.result: bool | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.result = self.agent.run()

    def stop(self) -> bool | None:
        self.agent.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.result


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(time.time_ns)


@pytest.fixture
def start(tmp_path: Path, server: FakeServer, kernel: Kernel) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def make(**settings: Any) -> Running:
        running.append(Running(tmp_path, server, kernel, **settings))
        return running[-1]

    yield make
    for one in running:
        if one.thread.is_alive():
            one.stop()


def until(check: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def states(server: FakeServer) -> dict[str, str]:
    return (
        {item["interface_id"]: item["state"] for item in server.statuses[-1]["interfaces"]} if server.statuses else {}
    )


def send(kernel: Kernel, count: int = PACKETS) -> None:
    for _ in range(count):
        assert kernel.packet("veth5", "192.0.2.1", "10.0.0.5")


def test_from_a_configuration_to_a_batch(start: Callable[..., Running], server: FakeServer, kernel: Kernel) -> None:
    running = start()
    began = time.monotonic()
    server.tell([5], [flow_log("a", [5], interval=1)])
    until(lambda: states(server) == {"eni-5": "absent"})
    assert time.monotonic() - began < 2, "the state is told at once, not at the next tick"
    kernel.devices.add("veth5")
    running.agent.links_changed([])
    until(lambda: states(server) == {"eni-5": "attached"})
    assert server.statuses[-1]["revision"] == 2
    send(kernel)
    until(lambda: server.packets() == PACKETS)
    until(lambda: server.statuses[-1]["flow_logs"] == [{"flow_log_id": "fl-a", "status": "SUCCESS", "message": None}])
    assert running.stop() is True


def test_a_device_is_found_also_where_nobody_watches(
    start: Callable[..., Running], server: FakeServer, kernel: Kernel
) -> None:
    start()
    server.tell([5], [])
    until(lambda: states(server) == {"eni-5": "absent"})
    kernel.devices.add("veth5")
    until(lambda: states(server) == {"eni-5": "attached"}, 5)


def test_without_the_server_capture_goes_on_and_nothing_is_lost(
    start: Callable[..., Running], server: FakeServer, kernel: Kernel
) -> None:
    kernel.devices.add("veth5")
    server.tell([5], [flow_log("a", [5], interval=1)])
    running = start()
    until(lambda: states(server) == {"eni-5": "attached"})
    server.up = False
    send(kernel)
    time.sleep(1.5)
    assert running.stop() is False, "something is left to deliver"
    send(kernel)
    running = start()
    time.sleep(1.5)
    send(kernel)
    status = running.agent.status()
    assert status["errors"]["configuration"] is not None
    assert {item["state"] for item in status["interfaces"]} == {"attached"}, "from the configuration on disk"
    server.up = True
    until(lambda: server.packets() == 3 * PACKETS, 15)
    assert len({batch.batch_id for batch in server.batches}) == len(server.batches)


def test_access_taken_away_and_given_back(start: Callable[..., Running], server: FakeServer, kernel: Kernel) -> None:
    kernel.devices.add("veth5")
    server.tell([5], [flow_log("a", [5], interval=1)])
    start()
    until(lambda: states(server) == {"eni-5": "attached"})
    server.allowed = False
    send(kernel)
    failed = [{"flow_log_id": "fl-a", "status": "FAILED", "message": "Access error"}]
    until(lambda: server.statuses[-1]["flow_logs"] == failed)
    server.allowed = True
    until(lambda: server.packets() == PACKETS)
    until(lambda: server.statuses[-1]["flow_logs"][0]["status"] == "SUCCESS")


def test_batches_of_a_flow_log_that_is_gone_do_not_wait_for_ever(
    start: Callable[..., Running], server: FakeServer, kernel: Kernel
) -> None:
    kernel.devices.add("veth5")
    server.tell([5], [flow_log("a", [5], interval=1)])
    running = start()
    until(lambda: states(server) == {"eni-5": "attached"})
    server.allowed = False
    send(kernel)
    until(lambda: running.agent.capture.spool.waiting())
    server.tell([], [])
    until(lambda: not running.agent.capture.spool.waiting())
    dropped = running.agent.capture.spool.counters()["dropped"]
    assert [(item["flow_log_id"], item["packets"], item["reason"]) for item in dropped] == [
        ("fl-a", PACKETS, "refused")
    ]


def test_flush_on_exit_closes_windows_and_delivers(
    start: Callable[..., Running], server: FakeServer, kernel: Kernel
) -> None:
    kernel.devices.add("veth5")
    server.tell([5], [flow_log("a", [5], interval=600)])
    running = start(flush_on_exit=True)
    until(lambda: states(server) == {"eni-5": "attached"})
    send(kernel)
    assert running.stop() is True
    assert server.packets() == PACKETS


def test_a_clean_stop_leaves_the_open_window_for_the_next_start(
    start: Callable[..., Running], server: FakeServer, kernel: Kernel
) -> None:
    kernel.devices.add("veth5")
    server.tell([5], [flow_log("a", [5], interval=600)])
    running = start()
    until(lambda: states(server) == {"eni-5": "attached"})
    send(kernel)
    assert running.stop() is True
    assert server.batches == []
    send(kernel)
    start(flush_on_exit=True).stop()
    assert server.packets() == 2 * PACKETS


def test_the_status_file_is_what_the_server_gets(
    start: Callable[..., Running], server: FakeServer, tmp_path: Path
) -> None:
    start().stop()
    until(lambda: server.statuses)
    assert json.loads((tmp_path / "status.json").read_text()).keys() == server.statuses[-1].keys()


def test_a_second_agent_of_the_name_is_refused(tmp_path: Path) -> None:
    lock_folder(tmp_path, "web")
    with pytest.raises(HostError, match=r"an agent named web already runs here \(process \d+\)"):
        lock_folder(tmp_path, "web")


@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_a_bad_key_file_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="key"):
        load_key(path)


def test_a_saved_configuration_that_cannot_be_read_is_set_aside(
    start: Callable[..., Running], server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "configuration.json").write_text('{"revision": 1, "interfaces": [{"unknown": 1}], "flow_logs": []}')
    (tmp_path / "slots.json").write_text("[]")
    (tmp_path / "progress.json").write_text("{}")
    start()
    until(lambda: server.statuses)
    for name in ("configuration", "slots", "progress"):
        assert (tmp_path / f"{name}.json.damaged").exists(), name


def test_the_agent_loads_no_database() -> None:
    code = "import sys, vnotch.agent; print([m for m in ('duckdb', 'sqlalchemy', 'starlette') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_the_configuration_survives_json() -> None:
    eni = replace(interface(5), guest_mac="02:00:00:00:00:07", routes=(("0.0.0.0/0", "igw-1"),), tags=(("a", "b"),))
    of_log = replace(flow_log("a", [5]), tag_keys=(("instance", ("a", "b")),))
    peers = (Peer("eni-9", "vpc-1", "subnet-1", "use1-az1", "nat_gateway", ("10.0.0.9", "fd00:1::9")),)
    configuration = AgentConfiguration(7, (eni,), (of_log,), peers=peers, peers_omitted=2)
    assert AgentConfiguration.from_json(json.loads(json.dumps(configuration.to_json()))) == configuration


def test_progress_and_slots_survive_a_restart_with_all_members(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.configure([5], [replace(flow_log("a", [5]), tag_keys=(("instance", ("a",)),))])
    world.configuration = replace(
        world.configuration,
        interfaces=(replace(interface(5), routes=(("::/0", "igw-1"),), instance_tags=(("a", "b"),)),),
    )
    world.start()
    assert Progress.load(tmp_path / "progress.json").flow_logs == {"fl-a": world.configuration.flow_logs[0]}
    assert list(world.start().interfaces.by_slot.values()) == list(world.configuration.interfaces)


def test_a_ranges_file_of_another_form_ends_the_agent_before_it_touches_anything(tmp_path: Path) -> None:
    key, ranges = tmp_path / "key", tmp_path / "ranges.json"
    key.write_text('{"access_key_id": "a", "secret_access_key": "b"}')
    ranges.write_text('{"prefixes": [{"service": "S3"}], "ipv6_prefixes": []}')
    with pytest.raises(InputError, match=r"ranges\.json: prefixes\[0\]\.ip_prefix is missing"):
        run(AgentConfig("t", "http://x", key, tmp_path / "folder", ip_ranges=ranges))
    assert not (tmp_path / "folder").exists()
