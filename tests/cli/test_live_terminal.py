"""`vnotch top` and `vnotch tail --live` at a terminal: a real server, an agent's socket with answers made here."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.cli.running import RunningServer, command, environment, run
from tests.cli.test_open_windows import answer as records
from tests.cli.test_rates import answer as flows
from tests.cli.test_rates import flow
from vnotch.agent.view import Answer
from vnotch.agent.view_socket import ViewSocket

GROUP = "terminal"


@pytest.fixture(scope="module")
def agent(server: RunningServer) -> Iterator[None]:
    """An agent that sees 100 packets a second of one flow."""
    folder = server.folders.agent("made")
    folder.mkdir(parents=True)

    def answer(question: Mapping[str, Any]) -> Answer:
        if question["view"] == "records":
            found = records("192.0.2.7 443 3 300 61 62 ACCEPT 2 OK")
            about = {"flow_logs": [{**found.about["flow_logs"][0], "log_group_name": GROUP}]}
            return Answer(about, found.tables)
        now = time.monotonic()
        return flows(now, 7, [flow("192.0.2.7", int(now * 100))])

    logs = server.endpoint.client("logs")
    logs.create_log_group(logGroupName=GROUP)
    logs.create_log_stream(logGroupName=GROUP, logStreamName="s")
    event = {"timestamp": int(time.time() * 1000), "message": "a record REJECT"}
    logs.put_log_events(logGroupName=GROUP, logStreamName="s", logEvents=[event])
    socket = ViewSocket(folder, answer)
    socket.start()
    yield
    socket.close()


def shown(server: RunningServer, *words: str, until: bytes) -> str:
    """What a terminal gets until it has this, and then until Ctrl-C has ended the command."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*words, "--data-dir", server.data_dir),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="160", LINES="40"),
    )
    os.close(theirs)
    data, deadline = b"", time.monotonic() + 60
    try:
        while until not in data:
            assert time.monotonic() < deadline, data
            if select.select([ours], [], [], 0.2)[0]:
                data += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while select.select([ours], [], [], 10)[0]:
            try:
                data += os.read(ours, 65536)
            except OSError:  # EIO: the other side is closed
                break
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"Traceback" not in data
    return data.decode(errors="replace")


def test_top_is_a_screen_that_is_given_back(server: RunningServer, agent: None) -> None:
    text = shown(server, "top", "--interval", "0.2", until=b"192.0.2.7:40000")
    assert "\x1b[?1049h" in text  # the alternate screen (xterm control sequences), entered
    assert "\x1b[?1049l" in text  # and left
    assert "eni-a" in text


def test_top_for_machines_goes_on_until_its_reader_goes(server: RunningServer, agent: None) -> None:
    line = f"{' '.join(command('top', '--json', '--interval', '0.2', '--data-dir', server.data_dir))} | head -2"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment(), timeout=60, check=True
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_tail_live_marks_what_is_open_below_the_records(server: RunningServer, agent: None) -> None:
    text = shown(server, "tail", GROUP, "--live", until=b"192.0.2.7")
    assert "a record" in text
    assert "open: 1 flows of windows that have not closed, not records yet" in text


def test_tail_live_elsewhere_prints_each_open_flow_once(server: RunningServer, agent: None) -> None:
    done = run("tail", GROUP, "--live", "--no-follow", "--data-dir", server.data_dir)
    assert done.stdout.splitlines() == ["a record REJECT", "open 192.0.2.7 443 3 300 61 62 ACCEPT 2 OK"]
    refused = run("tail", GROUP, "--live", "--filter", "x", "--data-dir", server.data_dir)
    assert (refused.returncode, "leave --filter" in refused.stderr) == (2, True)
