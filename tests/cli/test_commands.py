"""The commands that need no privilege, against a real server: tail, aws, env, help, and an AWS client of any kind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.running import RunningServer, command, environment, free_port, run, start, until
from vnotch.capture.kernel import Datapath
from vnotch.cli import app

GROUP = "cli"
EVIL = "evil \x1b[2J\x1b]0;title\x07 ACCEPT"


@pytest.fixture(scope="module")
def group(server: RunningServer) -> str:
    """A log group with two streams and three events, one of which would steer a terminal."""
    logs = server.endpoint.client("logs")
    logs.create_log_group(logGroupName=GROUP)
    now_ms = int(time.time() * 1000)
    for stream, messages in (("one", ["first REJECT", EVIL]), ("two", ["second ACCEPT"])):
        logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        events = [{"timestamp": now_ms, "message": message} for message in messages]
        logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)
    return GROUP


def tail(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("tail", "--data-dir", server.data_dir, "--no-follow", *arguments)


def test_tail_shows_what_there_is_and_nothing_that_steers_a_terminal(server: RunningServer, group: str) -> None:
    done = tail(server, group)
    assert done.returncode == 0, done.stderr
    shown = sorted(done.stdout.splitlines())
    assert shown == ["evil \\x1b[2J\\x1b]0;title\\x07 ACCEPT", "first REJECT", "second ACCEPT"]


def test_tail_takes_the_only_group_by_itself(server: RunningServer, group: str) -> None:
    assert len(tail(server).stdout.splitlines()) == 3


def test_tail_selects_by_stream_and_by_pattern(server: RunningServer, group: str) -> None:
    assert tail(server, group, "--stream-prefix", "tw").stdout == "second ACCEPT\n"
    assert tail(server, group, "--filter", "REJECT").stdout == "first REJECT\n"


def test_tail_as_json_is_exact(server: RunningServer, group: str) -> None:
    events = [json.loads(line) for line in tail(server, group, "--json").stdout.splitlines()]
    assert {(event["logStreamName"], event["message"]) for event in events} == {
        ("one", "first REJECT"),
        ("one", EVIL),
        ("two", "second ACCEPT"),
    }
    assert all(abs(event["timestamp"] / 1000 - time.time()) < 600 for event in events)


def test_tail_refuses_a_group_that_does_not_exist_and_names_the_way_out(server: RunningServer) -> None:
    done = tail(server, "nowhere")
    assert done.returncode == 2
    assert (
        done.stderr.strip() == "vnotch: there is no log group nowhere — vnotch aws logs describe-log-groups lists them"
    )


def test_tail_waits_for_its_group_follows_it_through_a_restart_and_ends_by_ctrl_c(
    server: RunningServer, tmp_path: Path
) -> None:
    said, shown = tmp_path / "said", tmp_path / "shown"
    with said.open("wb") as errors, shown.open("wb") as output:
        process = subprocess.Popen(
            command("tail", "--data-dir", server.data_dir, "later"), stdout=output, stderr=errors, env=environment()
        )
    try:
        until("it says that it waits", lambda: "waiting for the log group later" in said.read_text())
        logs = server.endpoint.client("logs")
        logs.create_log_group(logGroupName="later")
        logs.create_log_stream(logGroupName="later", logStreamName="s")

        def put(message: str) -> None:
            event = {"timestamp": int(time.time() * 1000), "message": message}
            logs.put_log_events(logGroupName="later", logStreamName="s", logEvents=[event])

        put("one")
        until("the first event is shown", lambda: shown.read_text() == "one\n")
        server.kill()
        until("it says that nobody answers", lambda: "trying again" in said.read_text())
        server.start()
        put("two")
        until("the second event is shown, once", lambda: shown.read_text() == "one\ntwo\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert "Traceback" not in said.read_text()
    finally:
        process.kill()
        process.wait()
        server.endpoint.client("logs").delete_log_group(logGroupName="later")


def test_tail_ends_quietly_when_its_reader_goes_away(server: RunningServer, group: str) -> None:
    line = " ".join(command("tail", "--data-dir", server.data_dir, group))
    done = subprocess.run(
        ["sh", "-c", f"{line} | head -1"], capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_the_aws_cli_runs_against_the_endpoint(server: RunningServer, group: str) -> None:
    done = run(
        *("aws", "logs", "filter-log-events", "--log-group-name", group, "--filter-pattern", "REJECT"),
        *("--query", "events[].message", "--output", "text"),
        VNOTCH_DATA_DIR=server.data_dir,
        # What points to another account must not be used.
        AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
        AWS_SECRET_ACCESS_KEY="of somebody else",
        AWS_SESSION_TOKEN="of somebody else",
        AWS_PROFILE="nobody",
        AWS_REGION="eu-west-1",
    )
    assert (done.returncode, done.stdout) == (0, "first REJECT\n"), done.stderr


def test_the_aws_cli_tails_live(server: RunningServer, tmp_path: Path) -> None:
    logs = server.endpoint.client("logs")
    logs.create_log_group(logGroupName="live")
    logs.create_log_stream(logGroupName="live", logStreamName="s")
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:live"
    shown = tmp_path / "shown"
    with shown.open("w") as out:
        process = subprocess.Popen(
            command("aws", "logs", "start-live-tail", "--log-group-identifiers", arn),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(VNOTCH_DATA_DIR=server.data_dir),
        )
    try:

        def is_shown() -> bool:
            now_ms = int(time.time() * 1000)
            event = {"timestamp": now_ms, "message": "live event"}
            logs.put_log_events(logGroupName="live", logStreamName="s", logEvents=[event])
            time.sleep(0.5)
            return "live event\n" in shown.read_text()

        until("an event is shown", is_shown)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        logs.delete_log_group(logGroupName="live")


def test_an_error_of_the_aws_cli_is_its_own(server: RunningServer) -> None:
    done = run("aws", "logs", "delete-log-group", "--log-group-name", "nowhere", VNOTCH_DATA_DIR=server.data_dir)
    assert done.returncode not in (0, 2)
    assert "ResourceNotFoundException" in done.stderr


def test_without_an_aws_cli_the_remedy_is_named(server: RunningServer, tmp_path: Path) -> None:
    """An interpreter beside which there is none, and a PATH without it."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    paths = os.pathsep.join(path for path in sys.path if path)
    code = f"import sys; sys.executable = {str(python)!r}; from vnotch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "aws", "sts", "get-caller-identity"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(VNOTCH_DATA_DIR=server.data_dir, PATH=str(tmp_path), PYTHONPATH=paths),
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "vnotch: the aws CLI is not installed — sudo apt install awscli, or pip install awscli"
    )


def test_env_points_any_client_here_and_takes_it_back(server: RunningServer) -> None:
    names = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION"]
    names.append("AWS_DISABLE_HOST_PREFIX_INJECTION")
    show = "; ".join(f'echo "{name}=${{{name}-unset}}"' for name in names)
    vnotch = " ".join(command())
    script = f'eval "$({vnotch} env --data-dir {server.data_dir})"\n{show}\neval "$({vnotch} env --unset)"\n{show}'
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, env=environment(), check=True)
    lines = done.stdout.splitlines()
    document = json.loads(server.folders.credentials.read_text())
    assert lines[:6] == [
        f"AWS_ENDPOINT_URL=http://127.0.0.1:{server.port}",
        f"AWS_ACCESS_KEY_ID={document['access_key_id']}",
        f"AWS_SECRET_ACCESS_KEY={document['secret_access_key']}",
        "AWS_DEFAULT_REGION=us-east-1",
        "AWS_REGION=us-east-1",
        "AWS_DISABLE_HOST_PREFIX_INJECTION=true",
    ]
    assert lines[6:] == [f"{name}=unset" for name in names]


def test_boto3_works_with_these_variables_alone(server: RunningServer) -> None:
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(**server.endpoint.environment()),
        check=True,
    )
    assert done.stdout == "123456789012\n"


def test_the_key_is_its_owners_alone(server: RunningServer) -> None:
    assert server.folders.credentials.stat().st_mode & 0o077 == 0
    assert server.folders.root.stat().st_mode & 0o077 == 0


COMMANDS = (
    "|server|agent|up|demo|env|tail|top|status|doctor|explain"
    "|flow-logs|flow-logs create|flow-logs list|flow-logs delete|lab|lab up|lab down|lab status|lab add|lab traffic"
)


@pytest.mark.parametrize("words", COMMANDS.split("|"))
def test_every_command_explains_itself(words: str) -> None:
    done = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="vnotch", env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert "Usage: vnotch" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_commands_are_listed_in_the_order_in_which_a_person_meets_them() -> None:
    shown = CliRunner().invoke(app, ["--help"], prog_name="vnotch", env={"COLUMNS": "80"}).stdout
    words = ("Try it", " demo ", "Run it", " up ", " doctor ", "Set up", " flow-logs ", "Look", " tail ", "Other AWS")
    places = [shown.index(word) for word in words]
    assert places == sorted(places)


def test_no_command_at_all_explains_itself_too() -> None:
    assert "Usage: vnotch" in run().stdout


def test_ctrl_c_while_starting_leaves_no_traceback() -> None:
    for after_seconds in (0.1, 0.2, 0.3):
        process = subprocess.Popen(
            command("demo", "--from-capture"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        time.sleep(after_seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        # The interpreter's own start, before a line of vnotch runs, is Python's.
        assert b"vnotch" not in said or b"Traceback" not in said
        assert process.returncode in (130, -signal.SIGINT)


@pytest.mark.root
def test_up_runs_both_until_ctrl_c_and_a_second_one_leaves_the_first_alone(tmp_path: Path) -> None:
    data, shown = str(tmp_path / "data"), tmp_path / "shown"
    namespace = f"vncli-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    arguments = ("up", "--data-dir", data, "--port", str(free_port()), "--netns", namespace)
    process = start(*arguments, log=shown)
    try:
        until("both run", lambda: "Ctrl-C ends both" in shown.read_text() or process.poll() is not None, 60)
        second = run(*arguments)
        assert second.returncode == 2
        assert f"already runs with the data folder {data}" in second.stderr
        assert run("tail", "--no-follow", "--data-dir", data, "none").stderr.startswith("vnotch: there is no log group")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in shown.read_text()
    finally:
        process.kill()
        # The kernel goes on counting when an agent ends, so that the next one misses nothing; here there is none.
        pins = Path("/run/vnotch/bpf") / socket.gethostname().split(".")[0]
        Datapath.open(netns=namespace, pin_dir=pins).destroy()
        subprocess.run(["ip", "netns", "del", namespace], check=True)
