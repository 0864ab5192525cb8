"""`vnotch status`: both sides made here, and the command itself with one side down or both."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.cli.running import RunningServer, run
from vnotch.agent.view import Answer
from vnotch.agent.view_socket import ViewSocket
from vnotch.cli.status import AgentSide, ServerSide, combined, duration, refused_lines, shown
from vnotch.config import Folders
from vnotch.flow import Exclusion
from vnotch.ledger import Balance, Count

NOW_S = 1_700_000_000.0
ENI = "eni-0123456789abcdef0"


def agent_status(seen: int, age_seconds: float = 3) -> dict[str, Any]:
    balance = Balance(Count(100, 10_000), Count(20, 2000), {Exclusion.ARP: Count(5, 0)})
    place = {"slot": 0, "interface_id": ENI, "direction": "ingress"}
    return {
        "revision": 7,
        "interfaces": [{"interface_id": ENI, "state": "attached", "message": None, "mode": "tcx"}],
        "ledger": {
            "interfaces": [{**place, **balance.to_json()}],
            "seen": [{**place, "packets": seen, "bytes": 12_000}],
        },
        "spool": {
            "batches": 2,
            "bytes": 2_000_000,
            "bytes_max": 2_000_000_000,
            "oldest_s": NOW_S - 90,
            "damaged_files": 0,
            "dropped": [
                {"flow_log_id": "fl-1", "stream": "s", "reason": "spool-full", "batches": 1, "events": 9, "packets": 99}
            ],
        },
        "capture": {"journal_failures": 1, "late_packets": {"60": 4}, "unclaimed_packets": 0},
        "maps": {
            "memory_bytes": 45_000_000,
            "flows_max": 131_072,
            "flows_in_last_drain": 1311,
            "connections": 655,
            "connections_max": 65_536,
            "counts": {"connections_full": 2, "spilled": 0},
        },
        "host_firewall": {"seen": True, "message": None, "untold": 6, "unmatched": 0},
        "flow_logs": [{"flow_log_id": "fl-1", "status": "FAILED", "message": "Access error"}],
        "deliveries": {
            "fl-1": {
                "status": "FAILED",
                "message": "Access error",
                "detail": "not authorized to perform: logs:PutLogEvents",
                "failures": 4,
                "batches": 11,
                "events": {"accepted": 100, "too_old": 3},
            }
        },
        "errors": {"capture": None, "configuration": "the server does not answer"},
        "agent": {"name": "host", "process": 1, "time_ns": int((NOW_S - age_seconds) * 1e9)},
    }


def text_of(document: dict[str, Any], width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown(document))
    return console.export_text()


@pytest.mark.parametrize(
    ("seen", "in_map", "exact", "word"),
    [(125, 0, True, "exact"), (130, 5, False, "counting"), (124, 0, False, "WRONG")],
)
def test_the_ledger_is_held_against_what_the_kernel_saw(seen: int, in_map: int, exact: bool, word: str) -> None:
    document = combined([AgentSide("host", True, agent_status(seen))], ServerSide(error="down"), NOW_S)
    ledger = document["agents"][0]["interfaces"][0]["ledger"]
    assert (ledger["seen"], ledger["accept"], ledger["reject"], ledger["lost"]) == (seen, 100, 20, 0)
    assert ledger["excluded"] == {"ARP": 5}
    assert (ledger["in_map"], ledger["exact"], ledger["wrong"]) == (in_map, exact, word == "WRONG")
    assert word in text_of(document)


def test_the_agents_own_status_goes_before_the_one_that_it_posted() -> None:
    posted = {**agent_status(125, age_seconds=300), "received_ms": int((NOW_S - 299) * 1000)}
    server = ServerSide("http://s", names={ENI: "web"}, statuses={"host": posted})
    own = combined([AgentSide("host", True, agent_status(125))], server, NOW_S)["agents"][0]
    assert (own["source"], own["age_seconds"], own["server_heard_seconds_ago"]) == ("agent", 3.0, 299.0)
    assert own["interfaces"][0]["name"] == "web"
    other = combined([AgentSide("host", None, error="its folder is readable by its owner alone")], server, NOW_S)
    found = other["agents"][0]
    assert (found["source"], found["age_seconds"]) == ("server", 300.0)
    shown_text = text_of(other)
    assert "the server has not heard from it for 5 min" in shown_text
    assert "readable by its owner alone" in shown_text


def test_what_is_known_of_an_interface_comes_from_the_configuration_or_the_binding() -> None:
    known = {"device": "veth0", "enforce": True, "group_ids": ["sg-1"], "sense": "outside"}
    local = AgentSide("host", True, agent_status(125), {ENI: known})
    found = combined([local], ServerSide(error="down"), NOW_S)["agents"][0]["interfaces"][0]
    assert {key: found[key] for key in known} == known
    server = ServerSide("http://s", bindings={ENI: {"device": "veth0", "enforce": False}})
    posted = AgentSide("host", None)
    server.statuses["host"] = {**agent_status(125), "received_ms": 1}
    found = combined([posted], server, NOW_S)["agents"][0]["interfaces"][0]
    assert (found["device"], found["enforce"], found["sense"]) == ("veth0", False, None)


def test_what_was_turned_away_is_said_with_its_reason() -> None:
    agent = combined([AgentSide("host", True, agent_status(125))], ServerSide(error="down"), NOW_S)["agents"][0]
    lines = refused_lines(agent)
    assert "dropped (spool-full): 9 records, 99 packets of fl-1 s" in lines
    assert "2 packets judged while the table of connections was full" in lines
    assert "1 drain that the journal could not take" in lines
    assert "3 records of fl-1 not taken: too old" in lines
    assert "6 packets that the host firewall dropped, in records as ACCEPT" in lines
    assert any(line.startswith("4 packets that came late") for line in lines)
    assert not any("spilled" in line or "ring buffer" in line for line in lines), "what is zero is not told"


def test_where_nothing_is_captured_there_are_no_empty_tables() -> None:
    empty = {**agent_status(0), "interfaces": [], "ledger": {"interfaces": [], "seen": []}}
    text = text_of(combined([AgentSide("host", True, empty)], ServerSide(error="down"), NOW_S))
    assert "nothing is captured: vnotch attach shows what could be" in text
    assert "seen = accept" not in text


def test_for_people_it_says_who_failed_and_why() -> None:
    text = text_of(combined([AgentSide("host", True, agent_status(125))], ServerSide(error="no answer"), NOW_S))
    assert "server: no answer" in text
    assert "agent host runs; its own, 3 s ago" in text
    assert "fl-1 FAILED: Access error (not authorized to perform: logs:PutLogEvents); 4 failed tries in a row" in text
    assert "spool 2 batches, 2.0 of 2,000 MB, the oldest 90 s old" in text
    assert "kernel maps 45.0 MB; flows in the last drain 1,311 of 131,072 (1%); connections 655 of 65,536 (1%)" in text
    assert "configuration: the server does not answer" in text
    assert max(map(len, text_of(combined([], ServerSide(error="x"), NOW_S), 80).splitlines())) <= 80


def test_durations() -> None:
    found = [duration(seconds) for seconds in (0, 59, 119, 120, 7199, 7200, 172800, None)]
    assert found == ["0 s", "59 s", "119 s", "2 min", "120 min", "2 h", "2 days", "some time"]


# The command


@pytest.fixture
def put(tmp_path: Path) -> Callable[[Folders], Path]:
    def make(folders: Folders) -> Path:
        folder = folders.agent("host")
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(agent_status(125)))
        (folder / "configuration.json").write_text(json.dumps({"interfaces": [{"interface_id": ENI, "device": "v0"}]}))
        return folder

    return make


def test_without_a_server_the_agents_side_is_shown(tmp_path: Path, put: Callable[[Folders], Path]) -> None:
    folders = Folders(tmp_path)
    folder = put(folders)
    done = run("status", "--data-dir", str(tmp_path), "--json")
    document = json.loads(done.stdout)
    assert document["server"]["answers"] is False
    assert "no vnotch server has started" in document["server"]["error"]
    (agent,) = document["agents"]
    assert (agent["running"], agent["source"], agent["interfaces"][0]["device"]) == (False, "agent", "v0")

    socket = ViewSocket(folder, lambda question: Answer({}))
    threading.Thread(target=socket.start).start()
    try:
        assert json.loads(run("status", "--data-dir", str(tmp_path), "--json").stdout)["agents"][0]["running"] is True
    finally:
        socket.close()


def test_without_an_agent_the_servers_side_is_shown(server: RunningServer) -> None:
    endpoint = server.endpoint
    vpc = endpoint.client("ec2").create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    run("flow-logs", "create", vpc, "--data-dir", server.data_dir)
    done = run("status", "--data-dir", server.data_dir)
    assert done.returncode == 0, done.stderr
    assert "server answers" in done.stdout
    assert "no agent has a folder here" in done.stdout
    assert "1 flow log at the server, 0 failing" in done.stdout


def test_an_agent_that_the_server_knows_is_shown_by_what_it_posted(server: RunningServer) -> None:
    server.endpoint.request("PUT", "/vnotch/v1/agents/far")
    document = json.loads(run("status", "--data-dir", server.data_dir, "--agent", "far", "--json").stdout)
    (agent,) = document["agents"]
    assert (agent["name"], agent["running"], agent["interfaces"]) == ("far", None, [])


def test_with_neither_it_says_how_to_begin(nothing: str) -> None:
    done = run("status", "--data-dir", nothing)
    assert done.returncode == 2
    assert "no vnotch server has started" in done.stderr
    assert "vnotch up" in done.stderr


@pytest.mark.parametrize("words", ["top --once", "tail --live g"])
def test_looking_without_an_agent_says_how_to_start_one(server: RunningServer, words: str) -> None:
    done = run(*words.split(), "--data-dir", server.data_dir)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no agent has a folder below" in done.stderr
    assert "vnotch" in done.stderr.partition(" — ")[2]


def test_the_servers_port_is_known_as_its_own(server: RunningServer) -> None:
    done = run("doctor", "--data-dir", server.data_dir, "--port", str(server.port), "--json")
    findings = {item["name"]: item for item in json.loads(done.stdout)["findings"]}
    assert findings["port"]["found"] == f"a vnotch server answers at 127.0.0.1:{server.port}"
    assert done.returncode == (1 if any(item["verdict"] == "fail" for item in findings.values()) else 0)
