"""`vnotch query` and `vnotch ask` as people run them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.running import RunningServer, command, environment
from vnotch.cli import main
from vnotch.fields import DEFAULT_FORMAT, parse_format

HEADER = parse_format(DEFAULT_FORMAT).header
SSH = (
    "2 123456789010 eni-1235b8ca123456789 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK"
)
RDP = (
    "2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530010 1418530070 REJECT OK"
)
"""VPC user guide, "Flow log record examples"."""
BY_ACTION = "select action, sum(bytes) as bytes from flow_logs group by 1 order by 1"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The command in this process, which saves the second that a new one takes to start."""
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("VNOTCH_QUESTIONS", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["vnotch", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        written = capfd.readouterr()
        return Done(int(ended.value.code or 0), written.out, written.err)

    return call


Run = Callable[..., Done]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log.gz").write_bytes(gzip.compress(f"{HEADER}\n{SSH}\n{RDP}\n".encode()))
    return folder


def test_a_question_is_answered_as_a_table(run: Run, logs: Path):
    done = run("query", BY_ACTION, "--from", str(logs))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["action", "bytes"]
    assert lines[2:] == [["ACCEPT", "4249"], ["REJECT", "4249"]]


def test_the_question_may_come_by_standard_input_and_places_behind_it(run: Run, logs: Path):
    done = subprocess.run(
        command("query", "-", str(logs / "a.log.gz"), str(logs / "*.gz"), "--json"),
        input=BY_ACTION, capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert json.loads(done.stdout) == [{"action": "ACCEPT", "bytes": 4249}, {"action": "REJECT", "bytes": 4249}]


def test_answers_are_csv_json_and_lines(run: Run, logs: Path):
    rows = [["ACCEPT", "4249"], ["REJECT", "4249"]]
    assert list(csv.reader(io.StringIO(run("query", BY_ACTION, str(logs), "-o", "csv").stdout))) == [
        ["action", "bytes"], *rows,
    ]  # fmt: skip
    expected = [{"action": action, "bytes": int(count)} for action, count in rows]
    assert json.loads(run("query", BY_ACTION, str(logs), "-o", "json").stdout) == expected
    assert [
        json.loads(line) for line in run("query", BY_ACTION, str(logs), "-o", "jsonl").stdout.splitlines()
    ] == expected
    assert json.loads(run("query", "select 1 from flow_logs where false", str(logs), "--json").stdout) == []


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_answers_go_to_files_when_they_are_whole(run: Run, logs: Path, tmp_path: Path, suffix: str):
    target = tmp_path / f"answer.{suffix}"
    done = run("query", "select srcaddr, dstport from flow_logs order by dstport", str(logs), "--output", str(target))
    assert (done.returncode, done.stdout) == (0, "")
    if suffix == "parquet":
        assert pq.read_table(target).to_pylist()[0] == {"srcaddr": "172.31.16.139", "dstport": 22}
    else:
        assert "172.31.16.139" in target.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, "logs"]
    failed = run("query", "select nonsense from flow_logs", str(logs), "--output", str(tmp_path / f"no.{suffix}"))
    assert failed.returncode == 2
    assert not (tmp_path / f"no.{suffix}").exists()


def test_types_beyond_json_are_written_somehow_sane(run: Run, logs: Path):
    sql = "select utc(start) as t, [1, 2] as l, {'a': 1} as s, 1.5::decimal(5,2) as d, 'x'::blob as b, null as n"
    sql += " from flow_logs limit 1"
    row = {"t": "2014-12-14T04:06:50", "l": [1, 2], "s": {"a": 1}, "d": 1.5, "b": "78", "n": None}
    assert json.loads(run("query", sql, str(logs), "--json").stdout) == [row]
    for form in ("csv", "table", "jsonl"):
        assert run("query", sql, str(logs), "-o", form).returncode == 0


def test_names_that_come_twice_are_told_apart(run: Run, logs: Path):
    done = run("query", "select 1 as a, 2 as a from flow_logs limit 1", str(logs), "--json")
    assert json.loads(done.stdout) == [{"a": 1, "a_2": 2}]


def test_an_answer_that_misses_data_says_so_and_fails(run: Run, logs: Path):
    (logs / "b.log.gz").write_bytes(b"\x1f\x8b\x08 garbage")
    (logs / "c.log").write_text(f"{HEADER}\n{SSH}\nnonsense\n")
    (logs / "readme.md").write_text("x")
    done = run("query", BY_ACTION, str(logs), "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)[0] == {"action": "ACCEPT", "bytes": 2 * 4249}
    for part in (
        "misses data",
        "b.log.gz",
        "1 lines with a wrong number of values",
        "nonsense",
        "1 other file",
        "readme.md",
    ):
        assert part in done.stderr, done.stderr
    assert run("query", BY_ACTION, str(logs), "--skip-bad").returncode == 0


EVIL = "\x1b]0;owned\x07\x1b[31m"


def test_what_is_in_a_line_cannot_steer_a_terminal(run: Run, logs: Path):
    (logs / "b.log").write_text(f"interface-id srcaddr\n{EVIL}eni 10.0.0.1\n")
    (logs / "c.log").write_text(f"{HEADER}\n{EVIL} x\n")
    for form in ("table", "csv", "json"):
        done = run("query", "select interface_id from flow_logs", str(logs), "-o", form)
        assert "\x1b" not in done.stderr
        assert "\x07" not in done.stderr
        if form != "csv":  # CSV is for files and has every text as it is
            assert "\x1b" not in done.stdout
    chart = run("query", "select interface_id, count(*) as n from flow_logs group by 1", str(logs), "--chart")
    assert "\x1b" not in chart.stdout
    assert "\\x1b]0;owned\\x07" in chart.stdout


def test_names_of_files_cannot_forge_what_is_said(run: Run, logs: Path):
    (logs / f"x\n{EVIL}all is well.log").write_text("nonsense\n")
    done = run("query", BY_ACTION, str(logs))
    assert done.returncode == 3
    assert "\x1b" not in done.stderr
    assert "\\x0a\\x1b]0;owned" in done.stderr


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=cmd|"/c calc"!A1', "\tx"])
def test_what_is_in_a_line_is_no_formula_in_csv(run: Run, tmp_path: Path, text: str):
    pq.write_table(pa.table({"srcaddr": [text], "bytes": [-5]}), tmp_path / "a.parquet")
    done = run("query", "select srcaddr, bytes from flow_logs", str(tmp_path), "-o", "csv")
    assert list(csv.reader(io.StringIO(done.stdout)))[1] == ["'" + text, "-5"]


def test_commas_and_quotes_in_csv_are_kept(run: Run, tmp_path: Path):
    pq.write_table(pa.table({"srcaddr": ['a,"b"\nc']}), tmp_path / "a.parquet")
    done = run("query", "select srcaddr from flow_logs", str(tmp_path), "-o", "csv")
    assert list(csv.reader(io.StringIO(done.stdout)))[1] == ['a,"b"\nc']


def test_a_long_table_says_how_many_rows_there_are(run: Run, logs: Path):
    done = run("query", "select range from range(2500), flow_logs limit 2500", str(logs))
    assert "1,000 of 2,500 rows" in done.stdout
    assert len(run("query", "select range from range(2500)", str(logs), "-o", "csv").stdout.splitlines()) == 2501


def test_an_answer_is_drawn(run: Run, logs: Path):
    bars = run("query", BY_ACTION, str(logs), "--chart").stdout.splitlines()
    assert bars[0] == "bytes by action"
    assert bars[2].startswith("ACCEPT  ██")
    over_time = run("query", 'select utc("end") as t, count(*) from flow_logs group by 1', str(logs), "--chart").stdout
    assert "2014-12-14 04:07" in over_time
    failed = run("query", "select action from flow_logs", str(logs), "--chart")
    assert (failed.returncode, "column of numbers" in failed.stderr) == (2, True)


def test_addresses_get_labels(run: Run, logs: Path, tmp_path: Path):
    (tmp_path / "labels").write_text("172.31.16.0/24,lab\n")
    done = run(
        "query",
        "select srcaddr, dstport from flow_logs order by 2",
        str(logs),
        "--labels",
        str(tmp_path / "labels"),
        "--json",
    )
    assert json.loads(done.stdout) == [
        {"srcaddr": "172.31.16.139", "srcaddr_label": "lab", "dstport": 22},
        {"srcaddr": "172.31.9.69", "srcaddr_label": None, "dstport": 3389},
    ]
    asked = run("ask", "top-talkers", "--from", str(logs), "--labels", str(tmp_path / "labels"), "--json")
    assert {row["source"]: row["source_label"] for row in json.loads(asked.stdout)} == {
        "172.31.16.139": "lab", "172.31.9.69": None,
    }  # fmt: skip


def test_text_without_a_header_needs_a_format(run: Run, tmp_path: Path):
    (tmp_path / "a.log").write_text("10.0.0.1 5\n")
    failed = run("query", "select srcaddr from flow_logs", str(tmp_path))
    assert failed.returncode == 2
    assert "no header line, and no --format was given" in failed.stderr
    done = run(
        "query", "select srcaddr, packets from flow_logs", str(tmp_path), "--format", "${srcaddr} ${packets}", "--json"
    )
    assert json.loads(done.stdout) == [{"srcaddr": "10.0.0.1", "packets": 5}]
    wrong = run("query", "select 1", str(tmp_path), "--format", "${srcadr}")
    assert "did you mean srcaddr" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["query", "select 1"], "where are the flow logs?"),
        (["query", "select 1", "/nonexistent"], "no such file"),
        (["query", "select 1", "{logs}", "--since", "soon"], "neither a duration nor a time"),
        (["query", "select 1", "{logs}", "--output", "x.xlsx"], "--output"),
        (["query", "select 1", "{logs}", "--output", "/nonexistent/x.csv"], "/nonexistent/x.csv"),
        (["query", "select 1", "{logs}", "--memory", "much"], "no size"),
        (["query", "select 1", "{logs}", "--memory", "1MB"], "too little"),
        (["query", "select 1", "{logs}", "--timeout", "x"], "no duration"),
        (["query", "select 1", "{logs}", "--labels", "/nonexistent"], "/nonexistent: No such file"),
        (["query", "select max(end) from flow_logs", "{logs}"], 'write "end"'),
        (["query", "drop table flow_logs", "{logs}"], "refused"),
        (["query", "select tcp_flags from flow_logs", "{logs}"], "has no tcp-flags"),
        (["ask", "nonsense", "--from", "{logs}"], "there is no question nonsense"),
        (["ask", "who-talks-to", "--from", "{logs}"], "needs address"),
        (["ask", "top-talkers", "--from", "{logs}", "--nonsense", "1"], "no parameter nonsense"),
        (["ask", "top-talkers", "--from", "{logs}", "--limit"], "no value"),
        (["ask", "cross-az", "--from", "{logs}"], "lacks: az-id, flow-direction"),
    ],
)
def test_what_is_not_right_is_one_line_with_its_remedy(run: Run, logs: Path, arguments: list[str], what: str):
    done = run(*(argument.format(logs=logs) for argument in arguments))
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_questions_are_listed_shown_and_asked(run: Run, logs: Path, tmp_path: Path):
    listed = run("ask").stdout
    names = "top-talkers rejected who-talks-to port-scans new-destinations bytes-per-minute cross-az nat-bytes"
    for name in f"{names} long-connections unused-ports beacons".split():
        assert name in listed
    shown = run("ask", "top-talkers", "--show").stdout
    assert "FROM flow_logs" in shown
    assert "vnotch ask top-talkers [--by bytes] [--limit 20]" in shown
    asked = run("ask", "who-talks-to", "172.31.16.21", "--from", str(logs), "--limit=1", "--json")
    assert [(row["peer"], row["port"], row["direction"]) for row in json.loads(asked.stdout)] == [
        ("172.31.16.139", 22, "from")
    ]
    (tmp_path / "mine.sql").write_text(
        "-- title: Mine\n-- parameter: p integer: port\nSELECT action FROM flow_logs WHERE dstport = $p"
    )
    mine = run("ask", "mine", "3389", "--questions", str(tmp_path), "--from", str(logs), "--json")
    assert json.loads(mine.stdout) == [{"action": "REJECT"}]
    assert "bytes by source" in run("ask", "top-talkers", "--from", str(logs), "--chart").stdout


def test_the_reader_of_the_answer_may_go_away(logs: Path):
    process = subprocess.Popen(
        command("query", "select range from range(5000000)", str(logs), "-o", "csv"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(30) == 141
    assert b"Traceback" not in process.stderr.read()  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_a_question_and_leaves_nothing(tmp_path: Path, number: signal.Signals):
    spill = tmp_path / "tmp"
    spill.mkdir()
    (tmp_path / "a.log").write_text(HEADER + "\n" + (SSH + "\n") * 3000)
    joined = "flow_logs a, flow_logs b, flow_logs c, flow_logs d where a.bytes + b.bytes > c.bytes + d.bytes"
    process = subprocess.Popen(
        command("query", f"select count(*) from {joined}", str(tmp_path / "a.log")),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(TMPDIR=str(spill)),
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),  # under nohup these tests would have SIGHUP ignored
    )  # fmt: skip
    try:
        while not list(spill.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert list(spill.iterdir()) == []


def test_what_a_killed_question_left_is_removed_by_the_next(tmp_path: Path):
    spill, logs = tmp_path / "tmp", tmp_path / "a.log"
    spill.mkdir()
    logs.write_text(HEADER + "\n" + (SSH + "\n") * 3000)
    joined = "flow_logs a, flow_logs b, flow_logs c, flow_logs d where a.bytes + b.bytes > c.bytes + d.bytes"

    def ask_another() -> list[Path]:
        subprocess.run(
            command("query", "select count(*) from flow_logs", str(logs)),
            stdout=subprocess.DEVNULL, env=environment(TMPDIR=str(spill)), check=True,
        )  # fmt: skip
        return list(spill.iterdir())

    process = subprocess.Popen(
        command("query", f"select count(*) from {joined}", str(logs)),
        stdout=subprocess.DEVNULL, env=environment(TMPDIR=str(spill)),
    )  # fmt: skip
    try:
        while not (locks := list(spill.glob("vnotch-query-*/lock"))):
            assert process.poll() is None
            time.sleep(0.01)
        held = {*spill.iterdir()}
        assert {*ask_another()} == held  # somebody's, as long as that one lives
    finally:
        process.kill()
        process.wait()
    assert locks[0].exists()
    assert ask_another() == []


def test_a_timeout_ends_a_question(run: Run, tmp_path: Path):
    (tmp_path / "a.log").write_text(HEADER + "\n" + (SSH + "\n") * 3000)
    joined = "flow_logs a, flow_logs b, flow_logs c, flow_logs d where a.bytes + b.bytes > c.bytes + d.bytes"
    done = run("query", f"select count(*) from {joined}", str(tmp_path), "--timeout", "1s")
    assert (done.returncode, "no answer within 1 s" in done.stderr) == (2, True)


def test_a_log_group_of_a_running_server_is_asked(run: Run, server: RunningServer):
    """No flow log delivers to the group, so its messages have the default format, or the one that is given."""
    client = server.endpoint.client("logs")
    client.create_log_group(logGroupName="/vnotch/mine")
    client.create_log_stream(logGroupName="/vnotch/mine", logStreamName="eni-1-all")
    now = int(time.time())
    lines = [line.replace("1418530010", str(now - 60)).replace("1418530070", str(now)) for line in (SSH, RDP)]
    events = [{"timestamp": (now - 60) * 1000, "message": message} for message in (*lines, "hello\nworld")]
    client.put_log_events(logGroupName="/vnotch/mine", logStreamName="eni-1-all", logEvents=events)
    done = run(
        "query", BY_ACTION, "--from", "group:/vnotch/mine", "--since", "1h", "--json", "--data-dir", server.data_dir
    )
    assert json.loads(done.stdout) == [{"action": "ACCEPT", "bytes": 4249}, {"action": "REJECT", "bytes": 4249}]
    assert done.returncode == 3
    assert "hello\\nworld" in done.stderr
    assert "group:/vnotch/mine" in done.stderr
    missing = run("query", BY_ACTION, "--from", "group:nonsense", "--data-dir", server.data_dir)
    assert (missing.returncode, "there is no log group nonsense" in missing.stderr) == (2, True)


def test_a_message_that_reads_as_a_header_line_decides_nothing(run: Run, server: RunningServer):
    client = server.endpoint.client("logs")
    client.create_log_group(logGroupName="forged")
    client.create_log_stream(logGroupName="forged", logStreamName="s")
    now = int(time.time())
    swapped = HEADER.replace("srcaddr dstaddr", "dstaddr srcaddr")
    twice = HEADER.replace("srcaddr dstaddr", "srcaddr srcaddr")
    record = SSH.replace("1418530010", str(now - 60)).replace("1418530070", str(now))
    events = [{"timestamp": now * 1000, "message": message} for message in (swapped, twice, record, swapped, record)]
    client.put_log_events(logGroupName="forged", logStreamName="s", logEvents=events)
    sql = "select srcaddr, count(*) as n from flow_logs group by 1"
    done = run("query", sql, "--from", "group:forged", "--json", "--data-dir", server.data_dir)
    assert json.loads(done.stdout) == [{"srcaddr": SSH.split()[3], "n": 2}]
    assert done.returncode == 3
    assert "3 lines with a wrong number of values" in done.stderr


def test_a_log_group_has_the_format_of_its_flow_logs(run: Run, server: RunningServer):
    ec2, logs = server.endpoint.client("ec2"), server.endpoint.client("logs")

    def flow_log(group: str, format_: str, traffic_type: str) -> None:
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        made = ec2.create_flow_logs(
            ResourceIds=[vpc], ResourceType="VPC", LogGroupName=group, TrafficType=traffic_type, LogFormat=format_,
            DeliverLogsPermissionArn="arn:aws:iam::123456789012:role/flow-logs",
        )  # fmt: skip
        assert not made["Unsuccessful"], made

    now_ms = int(time.time() * 1000)
    for group in ("one", "two"):
        flow_log(group, "${dstaddr} ${srcaddr} ${bytes}", "ALL")
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s")
        message = {"timestamp": now_ms, "message": "10.0.0.2 10.0.0.1 77"}
        logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=[message])
    flow_log("two", "${srcaddr} ${dstaddr} ${bytes}", "REJECT")
    question = ["query", "select srcaddr, bytes from flow_logs", "--data-dir", server.data_dir, "--json", "--from"]
    done = run(*question, "group:one")
    assert (done.returncode, json.loads(done.stdout)) == (0, [{"srcaddr": "10.0.0.1", "bytes": 77}])
    unclear = run(*question, "group:two")
    assert (unclear.returncode, "flow logs of 2 formats deliver to two" in unclear.stderr) == (2, True)
    given = run(*question, "group:two", "--format", "${srcaddr} ${dstaddr} ${bytes}")
    assert json.loads(given.stdout) == [{"srcaddr": "10.0.0.2", "bytes": 77}]


def on_terminal(*arguments: str) -> str:
    """What a terminal gets that is standard input, output and error."""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        command(*arguments), stdin=terminal, stdout=terminal, stderr=terminal,
        env=environment(TERM="xterm", COLUMNS="120"),
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(controller, 65_536):
            shown += data
    os.close(controller)
    assert process.wait(10) == 0
    return shown.decode()


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_no_form_of_an_answer_steers_a_terminal(tmp_path: Path, form: str):
    evil = EVIL + "\u202ereversed\u2028\x9b31m"
    (tmp_path / "a.log").write_text(f"interface-id srcaddr\n{evil}eni 10.0.0.1\n")
    shown = on_terminal("query", "select interface_id from flow_logs", str(tmp_path), "-o", form)
    answer = shown[shown.index("reversed") - 60 :]
    assert not set("\x07\u202e\u2028\x9b") & set(shown)
    assert "\x1b]" not in shown
    assert "\\u202ereversed\\u2028\\x9b31m" in answer


def test_a_bar_is_shown_on_a_terminal_and_gone_before_the_answer(tmp_path: Path):
    (tmp_path / "a.log").write_text(HEADER + "\n" + (SSH + "\n") * 300_000)
    text = on_terminal("query", "select sum(bytes) as total from flow_logs", str(tmp_path))
    assert "reading" in text
    assert "MB" in text
    assert str(300_000 * 4249) in text
    assert "reading" not in text[text.index("total") :]


def test_a_chart_and_another_output_are_one_too_many(run: Run, logs: Path):
    done = run("query", BY_ACTION, str(logs), "--chart", "--json")
    assert (done.returncode, "either --chart or --output" in done.stderr) == (2, True)


def test_bars_have_the_labels_of_addresses(run: Run, logs: Path, tmp_path: Path):
    (tmp_path / "labels").write_text("172.31.16.0/24,lab\n")
    done = run("ask", "top-talkers", "--from", str(logs), "--labels", str(tmp_path / "labels"), "--chart")
    assert "172.31.16.139 lab  ██" in done.stdout
