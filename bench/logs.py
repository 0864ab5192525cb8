"""How fast the log service takes records in and answers: `make bench-logs`.

A server process of its own over loopback, with its usual stores on disk and all requests signed (SigV4). The records
are bench/make_records.py's, their times moved into the last 24 hours; a call has one interface's records of one hour.
Ingest runs with the server on one core and this process, which makes and signs the calls, on the other; an
acknowledgement means that the records are synced to disk. The last line is one JSON object.

    typed_ingest_per_s       records a second in typed columns, from the first call to the last acknowledgement
    put_log_events_per_s     the same as text by PutLogEvents, in calls of up to 1 MB
    bytes_per_record         Parquet files and catalog, after merging, by records
    count_by_action_ms       Logs Insights, from StartQuery to the complete result: records by action
    top_talkers_ms           the ten addresses that sent most bytes
    needle_ms                the records of one address among all
    insights_bin_ms          bytes by hour and action
    last_100_of_stream_ms    GetLogEvents, newest first
    filter_reject_22_ms      FilterLogEvents, the first page of rejected SSH by a space-delimited pattern; a page ends
                             where its budget of events does, full or not
    filter_reject_22_all_ms  all of its pages, one after the other
    server_rss_mb            the greatest memory of the server in all of this
    read_during_ingest_ratio time of last_100 while records are taken in, by its time while nothing is; asked by
                             a process of its own

Questions run with the server on both cores; each figure is the median of the rounds; null is what was not measured.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import groupby, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vnotch.cli.endpoint import Endpoint
from vnotch.coded import coded_table, plain_table
from vnotch.config import Folders
from vnotch.deliver.logs import put_log_events_body
from vnotch.deliver.record_body import CONTENT_TYPE, write_body
from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.freed_memory import keep_freed_memory
from vnotch.iam.sigv4 import Request, sign
from vnotch.line import record_lines

HERE = Path(__file__).parent
FORMAT = parse_format(DEFAULT_FORMAT)
GROUP, TEXT_GROUP, SIDE_GROUP = "flows", "flows-as-text", "flows-meanwhile"
NEEDLE = "203.0.113.77"
QUESTIONS = {
    "count_by_action_ms": "stats count(*) as n by action",
    "top_talkers_ms": "stats sum(bytes) as b by srcAddr | sort b desc | limit 10",
    "needle_ms": f'filter srcAddr = "{NEEDLE}" or dstAddr = "{NEEDLE}" | stats count(*) as n',
    "insights_bin_ms": "stats sum(bytes) as b by bin(1h), action",
}
REJECTED_SSH = (
    "[version, account, eni, source, destination, srcport, dstport=22, protocol, packets, bytes, start, end, "
)
REJECTED_SSH += "action=REJECT, status]"
TARGETS = {
    "typed_ingest_per_s": "at least 600,000", "put_log_events_per_s": "at least 200,000",
    "bytes_per_record": "at most 16", "count_by_action_ms": "at most 150", "top_talkers_ms": "at most 600",
    "needle_ms": "at most 250", "last_100_of_stream_ms": "at most 60", "filter_reject_22_ms": "at most 500",
    "insights_bin_ms": "at most 600", "server_rss_mb": "at most 1,500", "read_during_ingest_ratio": "at most 2",
}  # fmt: skip
CONNECTIONS = 64
"""As many as an agent has (deliver.courier.WORKERS)."""
TEXT_CALL_BYTES = 1_000_000
MERGED_SECONDS_MAX = 400


class Server:
    """The server process and a way to call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.endpoint: Endpoint | None = None

    def __enter__(self) -> Server:
        log = (self.folder.parent / "server.log").open("wb")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "vnotch", "server", "--data-dir", str(self.folder), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not (self.folder / "endpoint").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((self.folder.parent / "server.log").read_text())
            time.sleep(0.05)
        self.endpoint = Endpoint.find(Folders(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(120)

    def on_cores(self, cores: set[int]) -> None:
        """Of all of its threads."""
        assert self.process is not None
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)

    def cpu_seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024


class Caller:
    """One connection; signs and sends. Not botocore, which takes longer for a call than the server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.host = urlsplit(endpoint.url).netloc
        self.connection = http.client.HTTPConnection(self.host, timeout=120)

    def __call__(self, service: str, path: str, query: str, body: bytes, headers: dict[str, str]) -> Any:
        sent = {"host": self.host, **headers}
        covered = Request("POST", path, query, list(sent.items()), sha256(body).hexdigest())
        key_id, secret = self.endpoint.access_key_id, self.endpoint.secret_access_key
        sent |= sign(covered, key_id, secret, now_s=time.time(), region=self.endpoint.region, service=service)
        while True:
            self.connection.request("POST", f"{path}?{query}" if query else path, body, sent)
            answer = self.connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                return json.loads(content or b"{}")
            if b"Throttl" not in content:
                raise SystemExit(f"{answer.status} {content[:500]!r}")
            time.sleep(0.02)


Call = tuple[str, str, str, bytes, dict[str, str]]


def typed_call(group: str, stream: str, records: pa.Table) -> Call:
    query = urlencode({"create": "true", "group": group, "stream": stream})
    headers = {"content-type": CONTENT_TYPE, "x-vnotch-batch-id": os.urandom(8).hex()}
    return "vnotch", "/vnotch/v1/log-records", query, write_body(records, FORMAT), headers


def text_calls(group: str, stream: str, records: pa.Table) -> Iterator[Call]:
    lines = record_lines(plain_table(records), FORMAT)
    sizes = np.cumsum(pc.binary_length(lines).to_numpy().astype(np.int64) + 26)
    events = pa.table({"timestamp": records["timestamp"], "message": lines})
    begin = 0
    while begin < len(lines):
        before = int(sizes[begin - 1]) if begin else 0
        end = min(begin + 10_000, int(np.searchsorted(sizes, before + TEXT_CALL_BYTES, side="right")))
        body = put_log_events_body(group, stream, events.slice(begin, end - begin))
        target = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "Logs_20140328.PutLogEvents"}
        yield "logs", "/", "", body, {**target, "x-vnotch-batch-id": os.urandom(8).hex()}
        begin = end


def batches(folder: Path, records: int) -> Iterator[tuple[str, pa.Table]]:
    """(stream, records of one interface in one hour, text coded as an agent has it), with times that end now."""
    made = folder / f"parquet-{records}"
    if not made.exists():
        work = made.with_suffix(".part")
        command = [sys.executable, HERE / "make_records.py", work, "--records", str(records), "--parquet"]
        subprocess.run(command, check=True)
        work.rename(made)
    files = sorted(made.rglob("*.parquet"))
    last_s = pc.max(pq.read_table(files[-1], columns=["start"], partitioning=None)["start"]).as_py()
    shift_s = int(time.time()) - last_s
    texts = [item.column for item in FORMAT.fields if pa.types.is_string(item.type)]
    for _, paths in groupby(files, key=lambda path: path.parent):  # a folder is an hour
        parts = [pq.read_table(path, partitioning=None, read_dictionary=texts) for path in paths]
        table = coded_table(pa.concat_tables(parts))
        for name in ("start", "end"):
            table = table.set_column(table.column_names.index(name), name, pc.add(table[name], shift_s))
        table = table.add_column(0, "timestamp", pc.multiply(table["start"], 1000))
        interfaces = table["interface_id"].chunk(0)
        ranks = np.argsort(np.argsort(interfaces.dictionary.to_pylist()))[interfaces.indices.to_numpy()]
        order = np.lexsort([table["start"].to_numpy(), ranks])
        table = table.take(pa.array(order))
        cuts = np.flatnonzero(np.diff(ranks[order])) + 1
        bounds = [0, *cuts.tolist(), table.num_rows]
        for begin, end in pairwise(bounds):
            yield f"{table['interface_id'][begin].as_py()}-all", table.slice(begin, end - begin)


class Feed:
    """Sends calls over several connections; the calls are made by the threads that send them."""

    def __init__(self, server: Server, make: Iterator[tuple[int, Callable[[], Iterator[Call]]]]) -> None:
        self.records = 0
        self._make = make
        self._server = server
        self._lock = threading.Lock()
        self._failed: queue.Queue[BaseException] = queue.Queue()
        self.stop = False

    def run(self) -> float:
        """Sends all of it; the seconds that took."""
        began = time.perf_counter()
        threads = [threading.Thread(target=self._work) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not self._failed.empty():
            raise self._failed.get()
        return time.perf_counter() - began

    def _work(self) -> None:
        assert self._server.endpoint is not None
        caller = Caller(self._server.endpoint)
        try:
            while not self.stop:
                with self._lock:
                    found = next(self._make, None)
                if found is None:
                    return
                count, calls = found
                for call in calls():
                    caller(*call)
                with self._lock:
                    self.records += count
        except BaseException as error:
            self.stop = True
            self._failed.put(error)


def typed(group: str, source: Iterator[tuple[str, pa.Table]]) -> Iterator[tuple[int, Callable[[], Iterator[Call]]]]:
    for stream, records in source:
        yield records.num_rows, lambda stream=stream, records=records: iter([typed_call(group, stream, records)])


def as_text(group: str, source: Iterator[tuple[str, pa.Table]]) -> Iterator[tuple[int, Callable[[], Iterator[Call]]]]:
    for stream, records in source:
        yield records.num_rows, lambda stream=stream, records=records: text_calls(group, stream, records)


def median_ms(ask: Callable[[], Any], rounds: int) -> float:
    ask()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(taken), 1)


def insights(logs: Any, question: str, begin_s: int, end_s: int) -> list[dict[str, str]]:
    query = logs.start_query(logGroupName=GROUP, startTime=begin_s, endTime=end_s, queryString=question)["queryId"]
    while True:
        answer = logs.get_query_results(queryId=query)
        if answer["status"] == "Complete":
            return [{cell["field"]: cell["value"] for cell in row} for row in answer["results"]]
        if answer["status"] not in ("Scheduled", "Running"):
            raise SystemExit(f"{question}: {answer['status']}")
        time.sleep(0.005)


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "lake").rglob("*") if path.is_file())


def wait_until_merged(folder: Path, quiet_seconds: float) -> int:
    """Merging and cleaning run by themselves; the size of the folder once it has been the same for a while."""
    deadline, size, since = time.monotonic() + MERGED_SECONDS_MAX, 0, time.monotonic()
    while time.monotonic() < deadline:
        now = stored_bytes(folder)
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > quiet_seconds:
            break
        time.sleep(2)
    return size


def ask(logs: Any, stream: str, begin_s: int, end_s: int, records: int, rounds: int) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for name, question in QUESTIONS.items():
        try:
            rows = insights(logs, question, begin_s, end_s)
        except logs.exceptions.ClientError as error:
            print(f"{name}: {error}", file=sys.stderr)
            measured[name] = None
            continue
        print(f"{name}: {rows[:3]}")
        if name == "count_by_action_ms":
            assert sum(int(row["n"]) for row in rows) == records, rows
        measured[name] = median_ms(lambda question=question: insights(logs, question, begin_s, end_s), rounds)  # type: ignore[misc]
    measured["last_100_of_stream_ms"] = median_ms(lambda: last_100(logs, stream), rounds)
    found, pages = rejected(logs), list(all_rejected(logs))
    print(f"filter_reject_22_ms: {len(found)} events in the first of {len(pages)} pages, the first: {found[:1]}")
    print(f"filter_reject_22_all_ms: {sum(map(len, pages))} events")
    measured["filter_reject_22_ms"] = median_ms(lambda: rejected(logs), rounds)
    measured["filter_reject_22_all_ms"] = median_ms(lambda: list(all_rejected(logs)), rounds)
    return measured


def last_100(logs: Any, stream: str) -> None:
    events = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, limit=100)["events"]
    assert len(events) == 100


def rejected(logs: Any) -> list[dict[str, Any]]:
    page: list[dict[str, Any]] = logs.filter_log_events(logGroupName=GROUP, filterPattern=REJECTED_SSH)["events"]
    return page


def all_rejected(logs: Any) -> Iterator[list[dict[str, Any]]]:
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=GROUP, filterPattern=REJECTED_SSH)
    return (page["events"] for page in pages)


def while_taking_in(server: Server, stream: str, source: Iterator[tuple[str, pa.Table]], rounds: int) -> float:
    """By what factor a page of a stream takes longer while records are taken in as fast as they come.

    The reader is a process of its own, or it would also wait for the threads that make and sign the calls.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as reader:
        ask_ms = partial(reader.submit, pages_ms, server.endpoint, stream, rounds * 3)
        idle = ask_ms().result()
        feed = Feed(server, typed(SIDE_GROUP, source))
        thread = threading.Thread(target=feed.run)
        thread.start()
        time.sleep(2)
        busy = ask_ms().result()
        feed.stop = True
        thread.join()
    print(f"a page of a stream: {idle} ms, while records are taken in: {busy} ms")
    return round(busy / idle, 2)


def pages_ms(endpoint: Endpoint, stream: str, rounds: int) -> float:
    logs = endpoint.client("logs")
    last_100(logs, stream)
    return median_ms(lambda: last_100(logs, stream), rounds)


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with Server(folder / "data") as server:
        assert server.endpoint is not None
        logs = server.endpoint.client("logs")
        for group in (GROUP, TEXT_GROUP, SIDE_GROUP):
            logs.create_log_group(logGroupName=group)
        os.sched_setaffinity(0, {1})
        server.on_cores({0})
        began_cpu, begin_s = server.cpu_seconds(), int(time.time()) - 90_000
        feed = Feed(server, typed(GROUP, batches(arguments.folder, arguments.records)))
        seconds = feed.run()
        assert feed.records == arguments.records
        cpu = server.cpu_seconds() - began_cpu
        print(f"{feed.records:,} typed records in {seconds:.1f} s, {cpu:.1f} s of the server's CPU")
        result["typed_ingest_per_s"] = int(feed.records / seconds)
        server.on_cores({0, 1})
        os.sched_setaffinity(0, {0, 1})
        end_s = int(time.time()) + 3600
        size = wait_until_merged(folder / "data", arguments.quiet_seconds)
        result["bytes_per_record"] = round(size / arguments.records, 2)
        stream = logs.describe_log_streams(logGroupName=GROUP, limit=1)["logStreams"][0]["logStreamName"]
        result |= ask(logs, stream, begin_s, end_s, arguments.records, arguments.rounds)
        source = batches(arguments.folder, arguments.records)
        result["read_during_ingest_ratio"] = while_taking_in(server, stream, source, arguments.rounds)
        result["put_log_events_per_s"] = put_as_text(server, logs, arguments)
        result["server_rss_mb"] = server.peak_mb()
    return result


def put_as_text(server: Server, logs: Any, arguments: argparse.Namespace) -> int:
    source = batches(arguments.folder, arguments.records)
    chosen, count = [], 0
    while count < arguments.text_records and (item := next(source, None)) is not None:
        chosen.append(item)
        count += item[1].num_rows
    for stream in {stream for stream, _ in chosen}:
        logs.create_log_stream(logGroupName=TEXT_GROUP, logStreamName=stream)
    os.sched_setaffinity(0, {1})
    server.on_cores({0})
    feed = Feed(server, as_text(TEXT_GROUP, iter(chosen)))
    began_cpu = server.cpu_seconds()
    seconds = feed.run()
    cpu = server.cpu_seconds() - began_cpu
    print(f"{feed.records:,} records as text in {seconds:.1f} s, {cpu:.1f} s of the server's CPU")
    return int(feed.records / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000_000)
    parser.add_argument("--text-records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quiet-seconds", type=float, default=190, help="no file changes for so long: it is merged")
    parser.add_argument("--folder", type=Path, default=HERE / "data", help="where the data is made and kept (0.5 GB)")
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vnotch-bench-logs-") as folder:
        result = run(arguments, Path(folder))
    for name, target in TARGETS.items():
        print(f"{name:28} {result.get(name)!s:>12}   {target}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
