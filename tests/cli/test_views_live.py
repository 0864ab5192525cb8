"""`top`, `tail --live`, `status` and `doctor` on real packets: namespaces, the kernel's maps, an agent and a server.

The numbers that are shown are held against those of the sender, and looking must change nothing of what is recorded.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, run
from tests.spine import ADDRESSES, AGENT, GROUP, PORT, Network, Spine, running, until
from vnotch.agent.asking import NAME, ask
from vnotch.cli.local_agents import LocalAgent
from vnotch.flow import FLOW_SCHEMA

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spine]:
    with running(Spine(tmp_path_factory.mktemp("views"), Network())) as spine:
        until("both interfaces are attached", lambda: spine.binding_states() == {"attached"})
        spine.network.link_up()
        yield spine


def vnotch(spine: Spine, *words: str) -> subprocess.CompletedProcess[str]:
    return run(*words, "--data-dir", str(spine.folders.root))


def ours(tables: list[Any], eni: str, about: dict[str, Any]) -> int:
    """Packets of our datagrams that tables of FLOW_SCHEMA have for an interface."""
    slots = {int(slot) for slot, item in about["interfaces"].items() if item["interface_id"] == eni}
    rows = [row for table in tables for row in table.to_pylist()]
    return sum(
        row["packets"] for row in rows if row["slot"] in slots and (row["dstport"], row["protocol"]) == (PORT, 17)
    )


def as_nobody(action: Callable[[], Any]) -> str:
    """The error that a person without privilege gets, by a child that gives its own up."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            action()
            os.write(writing, b"no error")
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return said.read()


def test_looking_finds_every_packet_and_changes_nothing(spine: Spine) -> None:
    folder = spine.folders.agent(AGENT)
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    since = ask(folder, {"view": "flows", "since": -1}).about["number"]
    for count in (100, 200):
        spine.send(count)
        for _ in range(20):
            ask(folder, {"view": "records", "log_group": None})
    answer = ask(folder, {"view": "flows", "since": since})
    live, drained, _ = answer.tables
    assert live.schema.equals(FLOW_SCHEMA)
    for eni in spine.enis.values():
        assert ours([live, drained], eni, answer.about) == 300
    spine.arrives()


def test_top_shows_rates_of_traffic_that_runs(spine: Spine) -> None:
    sender = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            spine.network.names["a"],
            sys.executable,
            "-c",
            "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 41000))\n"
            f"while True:\n    s.sendto(bytes(100), ('{ADDRESSES['b']}', {PORT})); time.sleep(0.01)",
        ]
    )
    try:

        def seen() -> dict[str, Any] | None:
            done = vnotch(spine, "top", "--once", "--json", "--interval", "1", "--sort", "packets")
            assert done.returncode == 0, done.stderr
            document: dict[str, Any] = json.loads(done.stdout)
            return document if any(flow["srcport"] == 41000 for flow in document["flows"]) else None

        document = until("the flow is shown", seen)
        flows = [flow for flow in document["flows"] if flow["srcport"] == 41000]
        assert {(flow["interface_id"], flow["direction"]) for flow in flows} == {
            (spine.enis["a"], "egress"),
            (spine.enis["b"], "ingress"),
        }
        for flow in flows:
            assert (flow["srcaddr"], flow["dstaddr"], flow["dstport"]) == (ADDRESSES["a"], ADDRESSES["b"], PORT)
            assert (flow["protocol"], flow["action"]) == ("udp", "ACCEPT")
            # Each datagram has 128 bytes of IP, whatever the rate is.
            assert flow["bytes_per_second"] == pytest.approx(128 * flow["packets_per_second"], rel=1e-3)
            assert flow["packets_per_second"] > 0

        done = vnotch(spine, "top", "--once", "--interface", "vn-b")
        assert spine.enis["b"] in done.stdout
        assert spine.enis["a"] not in done.stdout
        assert f"{ADDRESSES['a']}:41000" in done.stdout
        assert "no agent here captures eth7" in vnotch(spine, "top", "--once", "--interface", "eth7").stderr

        lines = vnotch(spine, "tail", GROUP, "--live", "--no-follow", "--json").stdout.splitlines()
        opened = [json.loads(line) for line in lines if "windowStart" in line]
        assert any(f" 41000 {PORT} 17 " in item["message"] and item["open"] is True for item in opened)
        text = vnotch(spine, "tail", GROUP, "--live", "--no-follow").stdout.splitlines()
        assert any(line.startswith("open 2 123456789012 eni-") for line in text)
        assert "no flow log of this host delivers" in vnotch(spine, "tail", "elsewhere", "--live").stderr
    finally:
        sender.kill()
        sender.wait()


def test_status_by_both_sides_and_by_each_alone(spine: Spine) -> None:
    document = json.loads(vnotch(spine, "status", "--json").stdout)
    (agent,) = document["agents"]
    assert (agent["running"], agent["source"], document["server"]["answers"]) == (True, "agent", True)
    assert {item["interface_id"] for item in agent["interfaces"]} == set(spine.enis.values())
    assert {item["device"] for item in agent["interfaces"]} == {"vn-a", "vn-b"}
    for item in agent["interfaces"]:
        assert item["state"] == "attached"
        assert item["enforce"] is False
        assert item["ledger"]["wrong"] is False
        assert item["ledger"]["seen"] > 0
    maps = agent["maps"]
    assert 1_000_000 < maps["memory_bytes"] < 1 << 28
    assert maps["flows_max"] == 131_072
    assert 0 <= maps["connections"] <= maps["connections_max"]
    text = vnotch(spine, "status").stdout
    assert f"agent {AGENT} runs" in text
    assert f"{spine.flow_log} delivers" in text

    said = as_nobody(lambda: LocalAgent(AGENT, spine.folders.agent(AGENT)).ask({"view": "alive"}))
    assert said.startswith(f"HostError: agent {AGENT} runs")
    assert "only its owner may look at it" in said
    assert "sudo" in said

    spine.kill("server")
    document = json.loads(vnotch(spine, "status", "--json").stdout)
    assert (document["server"]["answers"], document["agents"][0]["running"]) == (False, True)
    assert "no vnotch server answers" in vnotch(spine, "status").stdout
    spine.start_server()

    def both() -> bool:
        found = json.loads(vnotch(spine, "status", "--json").stdout)
        return bool(found["server"]["answers"] and found["agents"][0]["server_heard_seconds_ago"] is not None)

    until("the server has heard from the agent", both)


def test_doctor_finds_nothing_on_our_hooks_and_what_others_put_there(spine: Spine, tmp_path: Path) -> None:
    """In the namespace that is captured; the filter is put there by tc, which knows nothing of us."""
    host = spine.network.host

    def doctor() -> dict[str, Any]:
        command = ["ip", "netns", "exec", host, sys.executable, "-m", "vnotch", "doctor", "--json"]
        done = subprocess.run(
            [*command, "--data-dir", str(spine.folders.root)],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        return {item["name"]: item for item in json.loads(done.stdout)["findings"]}

    found = doctor()
    assert found["other programs"]["found"] == "none on vn-a, vn-b"
    assert found["bpf(2)"]["verdict"] == "ok"
    for words in ("qdisc add dev vn-a clsact", "filter add dev vn-a ingress protocol ip u32 match u32 0 0 flowid 1:1"):
        subprocess.run(["tc", "-n", host, *words.split()], check=True, capture_output=True)
    try:
        assert "on vn-a ingress (clsact)" in doctor()["other programs"]["found"]
    finally:
        subprocess.run(["tc", "-n", host, "qdisc", "del", "dev", "vn-a", "clsact"], check=True, capture_output=True)
