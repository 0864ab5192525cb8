"""Other flow tools on the same flood: what they spend a packet in user space, and what they miss.

Each tool that is installed (softflowd, nfpcapd with nfdump, pmacctd) listens at the host's side of the pair while the
flood crosses it, then ends and tells how many packets it has counted. Their CPU time is the process's own, children
included; ours is the kernel's run statistics. All run with the buffers and tables that the floods need.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veth import Frames, Veth

FLOWS_MAX = 524288
BUFFER_MB = 64
SETTLE_SECONDS = 2.0
END_SECONDS = 20.0


@dataclass(frozen=True)
class Peer:
    """One tool: the command that listens on a device and leaves its results in a folder, and how they are read."""

    name: str
    needs: tuple[str, ...]
    command: Callable[[str, Path], list[str]]
    counted: Callable[[str, Path], int]  # what it has said, the folder -> packets
    before_end: Callable[[Path], str] = lambda folder: ""  # asked while it still runs


def _softflowd(device: str, folder: Path) -> list[str]:
    return [
        *("softflowd", "-d", "-i", device, "-m", str(FLOWS_MAX), "-B", str(BUFFER_MB << 20)),
        *("-p", str(folder / "pid"), "-c", str(folder / "control")),
    ]


def _softflowd_statistics(folder: Path) -> str:
    return subprocess.run(
        ["softflowctl", "-c", str(folder / "control"), "statistics"], check=True, capture_output=True, text=True
    ).stdout


def _softflowd_counted(said: str, folder: Path) -> int:
    return int(re.search(r"Packets processed: (\d+)", said)[1])  # type: ignore[index]


def _nfpcapd(device: str, folder: Path) -> list[str]:
    return [
        *("nfpcapd", "-i", device, "-w", str(folder), "-b", str(BUFFER_MB), "-B", str(FLOWS_MAX), "-t", "300"),
    ]


def _nfpcapd_counted(said: str, folder: Path) -> int:
    done = subprocess.run(["nfdump", "-R", str(folder), "-I"], check=True, capture_output=True, text=True)
    return sum(int(number) for number in re.findall(r"^Packets: (\d+)", done.stdout, re.MULTILINE))


def _pmacctd(device: str, folder: Path) -> list[str]:
    (folder / "conf").write_text(
        "daemonize: false\nplugins: print\naggregate: src_host,dst_host,src_port,dst_port,proto\n"
        f"pcap_interface: {device}\nprint_output: csv\nprint_output_file: {folder}/out\nprint_refresh_time: 3600\n"
        f"print_cache_entries: {FLOWS_MAX // 4}\nplugin_buffer_size: 10240\nplugin_pipe_size: {BUFFER_MB << 20}\n"
    )
    return ["pmacctd", "-f", str(folder / "conf")]


def _pmacctd_counted(said: str, folder: Path) -> int:
    names, *rows = (line.split(",") for line in (folder / "out").read_text().splitlines())
    return sum(int(row[names.index("PACKETS")]) for row in rows)


PEERS = (
    Peer("softflowd", ("softflowd", "softflowctl"), _softflowd, _softflowd_counted, _softflowd_statistics),
    Peer("nfpcapd", ("nfpcapd", "nfdump"), _nfpcapd, _nfpcapd_counted),
    Peer("pmacctd", ("pmacctd",), _pmacctd, _pmacctd_counted),
)


def installed() -> list[Peer]:
    return [peer for peer in PEERS if all(shutil.which(tool) for tool in peer.needs)]


@dataclass(frozen=True)
class Result:
    cpu_ns: float  # a packet that was sent
    missed: int  # of those sent


def run(peer: Peer, veth: Veth, frames: Frames, count: int) -> Result:
    """One flood with the tool listening."""
    with tempfile.TemporaryDirectory(prefix="vnbench-") as name:
        folder = Path(name)
        command = ["ip", "netns", "exec", veth.host, *peer.command(veth.device, folder)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, process_group=0
        )
        try:
            time.sleep(SETTLE_SECONDS)
            idle_s = _cpu_s(process.pid)
            veth.flood(frames, count)
            time.sleep(SETTLE_SECONDS)
            said = peer.before_end(folder)
        finally:
            _end(process)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - idle_s
        return Result(used_s / count * 1e9, count - peer.counted(said, folder))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the tool to write what it has and to end; waits for its children too, which do so after it."""
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + END_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _cpu_s(pid: int) -> float:
    """What a process has used so far, its start included."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
