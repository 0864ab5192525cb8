"""`vnotch demo`, whole: from the capture without privilege, and live. What it promises is read off its own output."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import command, environment, run, until

EXACT_ROWS = 6  # five interfaces and the total
RECORD = re.compile(r"2 123456789012 eni-[0-9a-f]{17} .* (ACCEPT OK|REJECT OK|- NODATA)")


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "-json", "netns", "list"], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return {each["name"] for each in found if each["name"].startswith("vndemo")}


def processes(folder: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def nothing_is_left(folder: Path, before: set[str]) -> None:
    assert list(folder.iterdir()) == []
    assert processes(folder) == []
    assert namespaces() <= before
    pins = [line for line in Path("/proc/mounts").read_text().splitlines() if "/run/vnotch/bpf/demo" in line]
    assert pins == []
    assert not list(Path("/run/vnotch").glob("bpf/demo*")) or before


def packets(text: str) -> dict[str, int]:
    """Interface -> packets in the record lines that were shown as they arrived; the summary repeats some of them."""
    found: dict[str, int] = {}
    for line in text.partition("Records by action")[0].splitlines():
        words = line.split(" ")
        if RECORD.fullmatch(line) and words[-1] == "OK":
            found[words[2]] = found.get(words[2], 0) + int(words[8])
    return found


def ledger(text: str) -> dict[str, list[int]]:
    """Interface -> seen, in records, excluded, lost, as the table shows them."""
    table = text.partition("Ledger:")[2].partition("Excluded")[0]
    rows = [line.split() for line in table.splitlines() if line.split() and line.split()[-1] == "exact"]
    return {row[0]: [int(word.replace(",", "")) for word in row[-5:-1]] for row in rows}


def promises_are_kept(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert "✗" not in done.stdout
    rows = ledger(done.stdout)
    assert len(rows) == EXACT_ROWS
    total = rows.pop("total")
    assert all(seen == recorded + excluded + lost for seen, recorded, excluded, lost in rows.values())
    assert [sum(column) for column in zip(*rows.values(), strict=True)] == total
    # What the table says is in records was shown, record by record.
    assert packets(done.stdout) == {interface: row[1] for interface, row in rows.items()}
    assert "ACCEPT OK" in done.stdout
    assert "REJECT OK" in done.stdout
    assert done.stdout.count("  aws --endpoint-url http://127.0.0.1:") == 4
    # What it makes is said before it is made, and the first record comes later still.
    both = done.stdout
    assert both.index("This makes, and removes at its end") < both.index("Records as they arrive") < both.index("OK\n")


@pytest.mark.timeout(180)
def test_the_demo_from_the_capture(tmp_path: Path) -> None:
    before = namespaces()
    done = run("demo", "--from-capture", seconds=150, TMPDIR=str(tmp_path))
    promises_are_kept(done)
    assert "No live capture" in done.stdout
    nothing_is_left(tmp_path, before)


@pytest.mark.root
@pytest.mark.timeout(240)
def test_the_live_demo_on_another_port_and_interval(tmp_path: Path) -> None:
    before = namespaces()
    done = run("demo", "--seconds", "8", "--window", "2", seconds=200, TMPDIR=str(tmp_path))
    promises_are_kept(done)
    assert "No live capture" not in done.stdout
    scan = re.search(r"The port scan tried (\d+) ports from outside: (\d+) probes arrived", done.stdout)
    assert scan is not None
    assert int(scan[1]) > int(scan[2]) > 0
    nothing_is_left(tmp_path, before)


@pytest.mark.root
@pytest.mark.timeout(240)
@pytest.mark.parametrize("moment", ["This makes", "making network namespaces", "REJECT OK"])
def test_ctrl_c_at_any_moment_removes_everything(tmp_path: Path, moment: str) -> None:
    before = namespaces()
    shown = tmp_path / "shown"
    folder = tmp_path / "tmp"
    folder.mkdir()
    with shown.open("wb") as output:
        process = subprocess.Popen(
            command("demo", "--seconds", "20", "--window", "1"),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment(TMPDIR=str(folder), PYTHONUNBUFFERED="1"),
        )
    try:
        until(moment, lambda: moment in shown.read_text() or process.poll() is not None, 90)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, shown.read_text()
    finally:
        process.kill()
    text = shown.read_text()
    assert "Traceback" not in text
    assert "interrupted; removing what was made" in text
    assert text.strip().endswith("Everything that was made has been removed.")
    nothing_is_left(folder, before)


@pytest.mark.root
@pytest.mark.soak
@pytest.mark.timeout(240)
def test_what_a_killed_demo_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    before = namespaces()
    shown = tmp_path / "shown"
    folder = tmp_path / "tmp"
    folder.mkdir()
    with shown.open("wb") as output:
        process = subprocess.Popen(
            command("demo", "--stay", "--seconds", "5", "--window", "1"),
            stdout=output,
            stderr=output,
            env=environment(TMPDIR=str(folder), PYTHONUNBUFFERED="1"),
        )
    until("records", lambda: "REJECT OK" in shown.read_text() or process.poll() is not None, 90)
    process.kill()
    process.wait()
    # Its server ends with it: the port is free again, and nobody answers with its keys.
    until("its server ends", lambda: not any(" server " in line for line in processes(folder)), 20)
    assert namespaces() > before
    done = run("demo", "--seconds", "5", "--window", "1", seconds=200, TMPDIR=str(folder))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "removing what a demo that was killed has left" in done.stderr
    time.sleep(0.2)
    nothing_is_left(folder, before)
