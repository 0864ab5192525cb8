"""Long-lived commands whose Ctrl-C Python has thrown away, since it came while a file was finalised: they end all the
same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import RunningServer, environment
from tests.cli.test_demo import processes
from vnotch.fields import DEFAULT_FORMAT

BEGIN = """
import io, signal, sys
import vnotch.cli
from vnotch.__main__ import main

class Body(io.IOBase):
    def close(self):
        signal.raise_signal(signal.SIGINT)
        super().close()

def losing(owner, name):
    method = getattr(owner, name)
    def lost(*arguments, **more):
        found = method(*arguments, **more)
        Body()
        sys.stderr.write("thrown away\\n")
        return found
    setattr(owner, name, lost)
"""


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    ending = f"\nsys.argv = {['vnotch', *arguments]!r}\nmain()\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", BEGIN + script + ending],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_demo(tmp_path: Path) -> None:
    script = "from vnotch.cli.demo import Demo\nlosing(Demo, '_read')\n"
    done = run(script, "demo", "--from-capture", TMPDIR=str(tmp_path))
    assert done.returncode == 130, done.stdout + done.stderr
    assert "thrown away\n• interrupted; removing what was made\n" in done.stderr
    assert done.stdout.strip().endswith("Everything that was made has been removed.")
    assert list(tmp_path.iterdir()) == []
    assert processes(tmp_path) == []


@pytest.mark.soak
def test_the_demo_at_its_end(tmp_path: Path) -> None:
    script = "from vnotch.cli.demo import Demo\nlosing(Demo, '_show_commands')\n"
    done = run(script, "demo", "--from-capture", TMPDIR=str(tmp_path))
    assert done.returncode == 130, done.stdout + done.stderr
    assert "thrown away\n• interrupted; removing what was made\n" in done.stderr


def test_tail_and_insights(server: RunningServer) -> None:
    logs = server.endpoint.client("logs")
    logs.create_log_group(logGroupName="lost")
    for script, *arguments in (
        ("from vnotch.cli.tail import Tail\nlosing(Tail, 'poll')\n", "tail", "lost"),
        ("losing(sys.modules['vnotch.cli.insights'], '_start')\n", "insights", "fields @message", "-g", "lost"),
    ):
        done = run(script, *arguments, "--data-dir", server.data_dir)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "thrown away\n"), arguments


def test_a_question(tmp_path: Path) -> None:
    header = DEFAULT_FORMAT.replace("${", "").replace("}", "")
    line = "2 123456789012 eni-0123456789abcdef0 192.0.2.1 192.0.2.2 1 22 6 1 40 1 2 ACCEPT OK\n"
    (tmp_path / "a.log").write_text(header + "\n" + line * 3000)
    joined = "flow_logs a, flow_logs b, flow_logs c, flow_logs d where a.bytes + b.bytes > c.bytes + d.bytes"
    script = "from vnotch.query.engine import Engine\nlosing(Engine, '_progress_of_duckdb')\n"
    done = run(script, "query", f"select count(*) from {joined}", str(tmp_path / "a.log"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "thrown away\n")


def test_a_merge_of_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "other.txt").write_text("no flow log\n")
    script = "from vnotch.compact.compaction import Compaction\nlosing(Compaction, '_folder')\n"
    done = run(script, "compact", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "thrown away\n")
