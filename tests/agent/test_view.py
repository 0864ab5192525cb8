"""Looking at what runs: the numbers are those of the packets sent, nothing is taken away, no client is in the way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fake_datapath import FakeDatapath
from world import T0, World, flow_log

from vnotch.agent.asking import NAME, ask
from vnotch.agent.view import RECENT_DRAINS_MAX, WATCHED_SECONDS, Answer, LoopView, RecentDrains, Views, largest
from vnotch.agent.view_socket import CLIENTS_MAX, ViewSocket, on_loop
from vnotch.capture.generations import Drain
from vnotch.capture.glance import Glance
from vnotch.errors import DestinationUnavailable, HostError, InputError
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Outcome


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.configure([5, 6], [flow_log("a", [5, 6], 60), flow_log("r", [5], 600, "REJECT")])
    world.start()
    return world


def views(world: World, datapath: Any = None) -> Views:
    def look() -> LoopView:
        world.capture.intake.recent.watch()
        return world.capture.view()

    return Views(lambda function: function(), look, datapath or world.datapath, lambda: world.time_ns)


def flows(world: World, since: int = 0) -> Answer:
    return views(world).answer({"view": "flows", "since": since})


def packets(table: pa.Table) -> int:
    return int(pc.sum(table["packets"]).as_py() or 0)


def test_what_the_kernel_holds_and_what_windows_hold_add_up_to_what_was_sent(world: World) -> None:
    flows(world)  # somebody watches from now on
    world.send(count=3)
    world.tick_to(10)
    world.send(count=4)
    answer = flows(world)
    live, drained, window = answer.tables
    assert (packets(live), packets(drained), packets(window)) == (4, 3, 3)
    assert answer.about["whole"] is True
    assert answer.about["interfaces"]["0"]["interface_id"] == "eni-5"
    assert answer.about["window_seconds"] == 60


def test_looking_takes_nothing_away(world: World) -> None:
    world.send(count=3)
    for _ in range(5):
        flows(world)
    world.tick_to(10)
    for _ in range(5):
        flows(world)
        views(world).answer({"view": "records", "log_group": None})
    world.send(count=4)
    world.tick_to(70)
    assert world.packets("group-a") == {("eni-5", "192.0.2.1"): 7}
    assert world.repeated == 0


def test_between_two_looks_every_packet_is_in_what_was_drained_or_in_the_map(world: World) -> None:
    """What a rate is made of: drained since + live now - live then."""
    sent, number, before = 0, flows(world).about["number"], 0
    for second in (3, 10, 11, 25, 29, 61, 62):
        world.send(count=second)
        sent += second
        world.tick_to(second)
        answer = flows(world, number)
        live, drained, _ = answer.tables
        assert answer.about["complete"] is True
        assert packets(drained) + packets(live) - before == second
        number, before = answer.about["number"], packets(live)
    assert sent == 201


def test_open_windows_as_the_lines_that_they_would_become(world: World) -> None:
    world.send(count=2)
    world.tick_to(10)
    world.send(count=1)
    world.send(src="192.0.2.9", outcome=Outcome.REJECT)
    answer = views(world).answer({"view": "records", "log_group": "group-a"})
    (table,) = answer.tables
    lines = {message.split(" ")[3]: message.split(" ") for message in table["message"].to_pylist()}
    assert (lines["192.0.2.1"][8], lines["192.0.2.1"][12]) == ("3", "ACCEPT")
    assert (lines["192.0.2.9"][8], lines["192.0.2.9"][12]) == ("1", "REJECT")
    assert set(table["window_start_s"].to_pylist()) == {T0}
    assert set(table["flow_log_id"].to_pylist()) == {"fl-a"}
    # The same lines arrive when the window has closed.
    world.tick_to(70)
    assert sorted(world.lines("group-a")) == sorted(table["message"].to_pylist())


def test_a_group_shows_its_own_flow_logs_with_their_traffic_type(world: World) -> None:
    world.send(count=2)
    world.send(src="192.0.2.9", outcome=Outcome.REJECT)
    (table,) = views(world).answer({"view": "records", "log_group": "group-r"}).tables
    assert [message.split(" ")[3] for message in table["message"].to_pylist()] == ["192.0.2.9"]
    answer = views(world).answer({"view": "records", "log_group": "nowhere"})
    assert (answer.tables[0].num_rows, answer.about["flow_logs"]) == (0, [])


def test_a_flip_in_between_makes_it_look_again(world: World) -> None:
    world.send(count=3)

    class Flipping(FakeDatapath):
        flips = 2

        def glance(self) -> Glance:
            if self.flips:
                self.flips -= 1
                world.capture.step()
                return Glance(None, FLOW_SCHEMA.empty_table())
            return super().glance()

    answer = views(world, Flipping(world.kernel)).answer({"view": "flows", "since": 0})
    live, _, window = answer.tables
    assert (answer.about["whole"], packets(live), packets(window)) == (True, 0, 3)


def test_drains_are_kept_while_somebody_watches_and_no_longer() -> None:
    clock = [0.0]
    recent = RecentDrains(lambda: clock[0])
    drain = Drain(1, 1, FLOW_SCHEMA.empty_table(), LOSS_SCHEMA.empty_table())
    recent.add(1, drain)
    assert recent.drains() == ()
    recent.watch()
    for number in range(2, 2 + 2 * RECENT_DRAINS_MAX):
        recent.add(number, drain)
    assert [item.number for item in recent.drains()] == list(range(2 + RECENT_DRAINS_MAX, 2 + 2 * RECENT_DRAINS_MAX))
    clock[0] = WATCHED_SECONDS + 1
    recent.add(1000, drain)
    assert recent.drains() == ()


def test_the_largest_flows_are_kept_and_the_others_counted() -> None:
    row = dict.fromkeys(FLOW_SCHEMA.names, 0) | {"srcaddr": bytes(16), "dstaddr": bytes(16)}
    table = pa.Table.from_pylist([row | {"srcport": n, "packets": n} for n in range(10)], schema=FLOW_SCHEMA)
    kept, omitted = largest(table, 3)
    assert (sorted(kept["packets"].to_pylist()), omitted) == ([7, 8, 9], 7)
    assert largest(table, 10) == (table, 0)


@pytest.mark.parametrize("question", [{}, {"view": "flows"}, {"view": "flows", "since": "x"}, {"view": "all"}])
def test_another_question_is_refused(world: World, question: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no such view"):
        views(world).answer(question)


# The socket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Longer than a socket's address has room for.
    deep = tmp_path / ("d" * 100)
    deep.mkdir(mode=0o700)
    return deep


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[[Callable[[Mapping[str, Any]], Answer]], ViewSocket]]:
    made: list[ViewSocket] = []

    def start(answer: Callable[[Mapping[str, Any]], Answer]) -> ViewSocket:
        made.append(ViewSocket(folder, answer))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_a_question_and_its_answer_with_tables(folder: Path, serve: Any) -> None:
    table = pa.table({"a": list(range(1000))})
    serve(lambda question: Answer({"asked": question["view"]}, (table, table.slice(0, 0))))
    answer = ask(folder, {"view": "x"})
    assert answer.about == {"asked": "x"}
    assert [item.num_rows for item in answer.tables] == [1000, 0]
    assert answer.tables[0].equals(table)


def test_the_socket_is_its_owners_alone_and_goes_with_the_agent(folder: Path, serve: Any) -> None:
    running = serve(lambda question: Answer({}))
    mode = (folder / NAME).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    running.close()
    assert not (folder / NAME).exists()
    with pytest.raises(HostError, match="no agent runs"):
        ask(folder, {})


def test_a_socket_that_a_killed_agent_left_is_replaced(folder: Path, serve: Any) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        descriptor = os.open(folder, os.O_PATH)
        left.bind(f"/proc/self/fd/{descriptor}/{NAME}")
        os.close(descriptor)
    with pytest.raises(HostError, match="no agent runs"):
        ask(folder, {})
    serve(lambda question: Answer({"here": True}))
    assert ask(folder, {}).about == {"here": True}


def test_errors_come_back_in_words(folder: Path, serve: Any) -> None:
    def answer(question: Mapping[str, Any]) -> Answer:
        raise InputError("no such view", "another") if question else ZeroDivisionError("oops")

    serve(answer)
    with pytest.raises(InputError, match=r"no such view \(another\)"):
        ask(folder, {"view": "x"})
    with pytest.raises(InputError, match="ZeroDivisionError: oops"):
        ask(folder, {})


def connect(folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    descriptor = os.open(folder, os.O_PATH)
    client.connect(f"/proc/self/fd/{descriptor}/{NAME}")
    os.close(descriptor)
    return client


def said_to(folder: Path) -> str:
    """What a client is told that is refused; empty where it has its answer."""
    try:
        ask(folder, {})
    except (InputError, HostError) as error:
        return str(error)
    return ""


def until(check: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while not (found := check()):
        assert time.monotonic() < deadline, what
    return found


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\n", b"\xff\n"])
def test_what_is_no_question_is_refused(folder: Path, serve: Any, line: bytes) -> None:
    serve(lambda question: Answer({"wrong": True}))
    with connect(folder) as client:
        client.sendall(line)
        assert "error" in json.loads(client.makefile("rb").readline())


def test_one_client_too_many_is_told_so_and_those_that_are_slow_hold_up_nobody_for_long(
    folder: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnotch.agent.view_socket.CLIENT_SECONDS", 0.3)
    running = serve(lambda question: Answer({"here": True}))
    silent = [connect(folder) for _ in range(CLIENTS_MAX)]
    said = until(lambda: said_to(folder), "the silent ones are taken in")
    assert "others look at this agent already" in said
    assert running.turned_away >= 1
    until(lambda: said_to(folder) == "", "their time runs out")
    for client in silent:
        client.close()


def test_a_question_without_end_is_cut_off(folder: Path, serve: Any) -> None:
    serve(lambda question: Answer({"wrong": True}))
    with connect(folder) as client:
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 10_000_000:
                sent += client.send(b"x" * 10_000)
    assert sent < 10_000_000
    assert said_to(folder) == ""


def test_the_loop_is_asked_by_its_queue_and_a_busy_one_is_told_of() -> None:
    called: list[Callable[[], None]] = []

    def loop(function: Callable[[], None]) -> None:
        threading.Thread(target=function).start()

    assert on_loop(loop, lambda: 7, 5.0) == 7
    with pytest.raises(ValueError, match="no"):
        on_loop(loop, lambda: int("no"), 5.0)
    with pytest.raises(DestinationUnavailable, match="busy"):
        on_loop(called.append, lambda: 7, 0.01)
