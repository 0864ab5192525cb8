"""Whether delivery keeps up: spool and courier of an agent against a server process over loopback, SigV4 and all.

    python bench/delivery.py [--streams 500] [--flow-logs 3] [--window-seconds 5] [--windows 6] [--events 3]

At each window's end every flow log has one batch for every stream, as an agent with so many interfaces makes them. The
first window makes the log streams and is measured by itself. The server is a process of its own with its usual stores
on disk; the agent's part is this process, its CPU time with the making of the batches left out. The last line is JSON;
`p50_ms` and `p99_ms` are from a batch's release to its acknowledgement, `waiting` is what was left when each window
ended.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vnotch.agent.configuration import load_key
from vnotch.cli.agent import ensure_key
from vnotch.cli.endpoint import Endpoint as Administrator
from vnotch.config import SPOOL_BYTES, SPOOL_SECONDS, Folders
from vnotch.deliver.batch import Batch, join
from vnotch.deliver.courier import Courier
from vnotch.deliver.endpoint import Endpoint
from vnotch.deliver.logs import LogGroups
from vnotch.deliver.role import Roles
from vnotch.deliver.spool import Spool
from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.lab.control import PERMISSIONS, TRUST
from vnotch.line import parse_lines

AGENT = "bench"
FORMAT = parse_format(DEFAULT_FORMAT)
START_SECONDS = 60.0
DRAIN_SECONDS = 120.0


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Administrator]]:
    """A server process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vnotch", "server", "--data-dir", str(folder), "--port", str(port)]
    with (folder.parent / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, "--any-interval"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "endpoint").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder.parent / "server.log").read_text())
            time.sleep(0.05)
        yield process, Administrator.find(Folders(folder))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def subscribe(administrator: Administrator, flow_logs: int) -> list[tuple[str, str, str]]:
    """A VPC with one interface that the agent has, and flow logs of it -> (flow log, log group, role)."""
    ec2, iam = administrator.client("ec2"), administrator.client("iam")
    role = iam.create_role(RoleName="bench", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
    iam.put_role_policy(RoleName="bench", PolicyName="deliver", PolicyDocument=json.dumps(PERMISSIONS))
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    eni = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    path = f"/vnotch/v1/network-interfaces/{eni}/binding"
    administrator.request("PUT", path, {"agent": AGENT, "device": "vn-bench"})
    made = []
    for number in range(flow_logs):
        group = f"bench-{number}"
        answer = ec2.create_flow_logs(
            ResourceType="VPC",
            ResourceIds=[vpc],
            TrafficType="ALL",
            LogGroupName=group,
            DeliverLogsPermissionArn=role,
        )
        made.append((answer["FlowLogIds"][0], group, role))
    return made


class Batches:
    """A window's batches: one for each stream of each flow log, with `events` records in the default format."""

    def __init__(self, flow_logs: Sequence[tuple[str, str, str]], streams: int, events: int) -> None:
        self._flow_logs = flow_logs
        self._streams = [f"eni-0{number:016x}-all" for number in range(streams)]
        self._events = events

    def of_window(self, start_s: int, commit: int) -> list[Batch]:
        lines = [
            f"2 123456789012 eni-0123456789abcdef0 10.0.0.{n % 250} 10.0.1.7 {40000 + n} 443 6 12 4711 {start_s} "
            f"{start_s + 4} ACCEPT OK"
            for n in range(self._events)
        ]
        columns: list[Any] = [pa.array([start_s * 1000] * self._events, pa.int64()), pa.array(lines)]
        events = parse_lines(columns[1], FORMAT).add_column(0, "timestamp", columns[0])
        like = Batch("", "", "", "", "", events, 12, 4711, log_format=FORMAT.text)
        return [
            replace(
                like,
                batch_id=f"{flow_log}/{stream}/{start_s}/0.{commit}",
                flow_log_id=flow_log,
                group=group,
                stream=stream,
                role_arn=role,
            )
            for stream in self._streams
            for flow_log, group, role in self._flow_logs
        ]


class Ages:
    """How long batches waited, from `released` until the spool lets them go."""

    def __init__(self, spool: Spool) -> None:
        self.released: dict[int, float] = {}  # by commit
        self.seconds: list[float] = []
        acknowledge = spool.acknowledge

        def timed(entry: Any) -> None:
            acknowledge(entry)
            self.seconds.append(time.monotonic() - self.released[entry.commit])

        spool.acknowledge = timed  # type: ignore[method-assign]


def deliver_first(spool: Spool, courier: Courier, ages: Ages, batches: Batches) -> None:
    """A window that is not measured with the others: its calls find no log stream and make it."""
    spool.write(1, batches.of_window(int(time.time()), 1), time.time())
    ages.released[1] = time.monotonic()
    spool.release(1)
    courier.wake()
    if not courier.wait_until_empty(DRAIN_SECONDS):
        raise SystemExit("the first window was not delivered")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data = folder / "data"
    data.mkdir()
    with server(data) as (process, administrator):
        key = load_key(ensure_key(Folders(data), AGENT, administrator))
        flow_logs = subscribe(administrator, arguments.flow_logs)
        endpoint = Endpoint(administrator.url, administrator.region)
        groups = LogGroups(endpoint, Roles(endpoint, key), typed=True)
        spool = Spool(folder / "spool", bytes_max=SPOOL_BYTES, seconds_max=SPOOL_SECONDS, complete_commit=0)
        ages = Ages(spool)
        courier = Courier(spool, groups.deliver, join=join)
        courier.start()
        batches = Batches(flow_logs, arguments.streams, arguments.events)
        first_s = time.monotonic()
        deliver_first(spool, courier, ages, batches)
        first_s = time.monotonic() - first_s
        ages.seconds.clear()
        calls_before = puts(data / "access.log")
        waiting, writes, making = [], [], 0.0
        began, server_before = time.monotonic(), cpu_seconds(process.pid)
        own_before = time.process_time()
        for window in range(arguments.windows):
            due = began + window * arguments.window_seconds
            time.sleep(max(0.0, due - time.monotonic()))
            before = time.thread_time()
            made = batches.of_window(int(time.time()), window + 2)
            making += time.thread_time() - before
            before = time.monotonic()
            spool.write(window + 2, made, time.time())
            writes.append(time.monotonic() - before)
            ages.released[window + 2] = time.monotonic()
            spool.release(window + 2)
            courier.wake()
            time.sleep(max(0.0, due + arguments.window_seconds - time.monotonic()))
            waiting.append(sum(spool.waiting().values()))
            print(f"window {window + 1}: spooled in {writes[-1]:.2f} s, {waiting[-1]} batches wait", flush=True)
        window_end = time.monotonic()
        emptied = courier.wait_until_empty(DRAIN_SECONDS)
        elapsed = time.monotonic() - began
        courier.stop(5)
        server_cpu, own_cpu = cpu_seconds(process.pid) - server_before, time.process_time() - own_before - making
        counters = courier.counters()
        failures = sum(sum(c["attempts_failed"].values()) for c in counters.values())
        calls = puts(data / "access.log") - calls_before
        server_rss = rss_mb(process.pid)
    delivered = len(ages.seconds)
    p50, p99 = np.percentile(ages.seconds, (50, 99)) * 1000
    return {
        "batches_per_s": round(delivered / elapsed, 1),
        "events_per_s": round(delivered * arguments.events / elapsed, 1),
        "wanted_batches_per_s": round(arguments.streams * arguments.flow_logs / arguments.window_seconds, 1),
        "p50_ms": round(float(p50)),
        "p99_ms": round(float(p99)),
        "calls": calls,
        "waiting": waiting,
        "first_window_s": round(first_s, 2),
        "left_to_drain_s": round(elapsed - (window_end - began), 2),
        "emptied": emptied,
        "failures": failures,
        "spool_write_s": [round(seconds, 2) for seconds in writes],
        "agent_cpu_percent": round(100 * own_cpu / elapsed, 1),
        "server_cpu_percent": round(100 * server_cpu / elapsed, 1),
        "agent_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "server_rss_mb": server_rss,
        "threads": threading.active_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def puts(access_log: Path) -> int:
    """PutLogEvents calls that the server answered."""
    if not access_log.exists():
        return 0
    return sum(json.loads(line)["action"] == "logs:PutLogEvents" for line in access_log.read_text().splitlines())


def rss_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--flow-logs", type=int, default=3)
    parser.add_argument("--window-seconds", type=float, default=5.0)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--events", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vnotch-bench-") as folder:
        print(json.dumps(run(arguments, Path(folder))))


if __name__ == "__main__":
    main()
