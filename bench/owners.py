"""What it costs to find who is behind flows: milliseconds of one drain, by sockets, flows and open files.

    python bench/owners.py [SOCKETS] [PROCESSES]

Makes SOCKETS connected sockets in this process, PROCESSES more with 100 open files each, and observes flows of all the
connections: a first time, with everything known, and with new sockets. Then one line of JSON.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from statistics import median

import pyarrow as pa

from vnotch.agent.owners import OwnerObserver
from vnotch.flow import FLOW_SCHEMA, Direction
from vnotch.inventory import Interface

OPEN_FILES = (
    "import os, sys; files = [os.open('/dev/null', 0) for _ in range(100)]; print(flush=True); sys.stdin.read()"
)
ROUNDS = 7


def connect(count: int) -> tuple[list[socket.socket], pa.Table]:
    """Connections over loopback and the flows of both their ends."""
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    kept, rows = [server], []
    port = server.getsockname()[1]
    for _ in range(count // 2):
        client = socket.create_connection(("127.0.0.1", port))
        kept += [client, server.accept()[0]]
        rows.append(_flow(client.getsockname()[1], port, Direction.INGRESS))
        rows.append(_flow(client.getsockname()[1], port, Direction.EGRESS))
    return kept, pa.Table.from_pylist(rows, schema=FLOW_SCHEMA)


def _flow(srcport: int, dstport: int, direction: Direction) -> dict[str, object]:
    here = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    ends = {"srcaddr": here, "dstaddr": here, "srcport": srcport, "dstport": dstport, "direction": direction}
    plain = {field.name: 0 for field in FLOW_SCHEMA}
    return plain | ends | {"slot": 1, "family": 4, "protocol": 6, "packets": 1, "bytes": 40}


def main(sockets: int, processes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    others = [
        subprocess.Popen([sys.executable, "-c", OPEN_FILES], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for process in others:
            assert process.stdout is not None
            process.stdout.readline()
        kept, flows = connect(sockets)
        eni = Interface("eni-1", "lo", "1", "us-east-1", "vpc-1", "subnet-1", "use1-az1", sense="inside")
        first, known = [], []
        for _ in range(ROUNDS):
            observer = OwnerObserver(None)
            observer.observe(flows, {1: eni})
            first.append(observer.counters.milliseconds)
            assert observer.counters.found == flows.num_rows == len(kept) - 1
            observer.observe(flows, {1: eni})
            known.append(observer.counters.milliseconds)
            observer.close()
    finally:
        for process in others:
            process.kill()
            process.communicate()
    result = {"sockets": sockets, "processes": processes, "first_ms": median(first), "known_ms": median(known)}
    print(f"{sockets} sockets and flows: {result['known_ms']} ms a drain, {result['first_ms']} ms with a search of")
    print(f"all processes ({processes} of them with 100 open files each)")
    print(json.dumps(result))


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [1000, 0][len(numbers) :]))
