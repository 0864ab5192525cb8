"""How fast flow logs in files are written, read and imported: `make bench-sql`.

Each question is a whole process of `vnotch query` on two cores, from its start to its exit, at its default settings;
the median of the rounds counts. The data is bench/make_records.py's, its Parquet files written anew as vnotch delivers
them (`bucket_files`). The last line is one JSON object.

    parquet_write_per_s      typed records of plain text and integers to a Parquet file, one core, its CPU time
    parquet_bytes_per_record of the 50 M records
    text_write_per_s         typed records to lines to a gzip file, one core, its CPU time
    import_per_s             gzip text by `vnotch import` into a log group of a server of its own, wall time of the
                             command on the same two cores, less that of an import that finds nothing to do

    count_s       records by action           talkers_s   addresses that sent most bytes, of 50 M Parquet records
    needle_s      records from one address     rss_mb      the greatest memory of the three
    text_query_per_s         records a second over gzip text, the slowest of the three questions
    duckdb_csv_per_s         the same by DuckDB's own CSV reader, which checks less, in a process of its own
    flowlogs_reader_per_s    the same files read by flowlogs-reader (PyPI), one thread, which is its default
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vnotch.bucket_files import TextFile, write_parquet
from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.line import record_lines

HERE = Path(__file__).parent
NEEDLE = "203.0.113.77"
QUESTIONS = {
    "count": "select action, count(*) as n from flow_logs group by 1 order by 1",
    "talkers": "select srcaddr, sum(bytes) as bytes from flow_logs group by 1 order by 2 desc, 1 limit 10",
    "needle": f"select * from flow_logs where srcaddr = '{NEEDLE}' order by start, dstaddr, srcport",
}
TARGETS = {
    "count_s": "at most 1", "talkers_s": "at most 2.2", "needle_s": "at most 1", "rss_mb": "below 500",
    "text_query_per_s": "at least 2,000,000", "parquet_write_per_s": "at least 2,000,000",
    "parquet_bytes_per_record": "at most 14", "text_write_per_s": "at least 800,000",
    "import_per_s": "at least 1,500,000",
}  # fmt: skip


def make(folder: Path, kind: str, records: int) -> Path:
    """The files of one kind, made once and kept."""
    made = folder / f"{kind}-{records}"
    if not made.exists():
        work = made.with_suffix(".part")
        command = [sys.executable, HERE / "make_records.py", work, "--records", str(records), f"--{kind}"]
        subprocess.run(command, check=True)
        if kind == "parquet":
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(rewrite, sorted(work.rglob("*.parquet"))))
        work.rename(made)
    return made


def rewrite(path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    with path.open("wb") as out:
        write_parquet(table, out)


def write_rates(parquet: Path, core: int) -> tuple[float, float]:
    """Records a second of CPU of one core: Parquet, text. The best of three, since others may be at work too."""
    os.sched_setaffinity(0, {core})
    pa.set_cpu_count(1)
    format = parse_format(DEFAULT_FORMAT)
    tables = [pq.read_table(path, partitioning=None) for path in sorted(parquet.rglob("*.parquet"))[:2]]
    table = pa.concat_tables(tables).combine_chunks().cast(format.schema)
    table = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))  # in no order

    def write_lines(out: io.BytesIO) -> None:
        with TextFile(out, format.header) as file:
            for begin in range(0, table.num_rows, 100_000):
                file.write(record_lines(table.slice(begin, 100_000), format))

    return tuple(  # type: ignore[return-value]
        max(table.num_rows / _cpu_seconds(write) for _ in range(3))
        for write in (lambda: write_parquet(table, io.BytesIO()), lambda: write_lines(io.BytesIO()))
    )


def _cpu_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def import_rate(text: Path, records: int, cores: set[int]) -> float:
    """Of a whole `vnotch import`, server and client on the same cores."""
    vnotch = [sys.executable, "-m", "vnotch"]
    with tempfile.TemporaryDirectory(prefix="vnotch-bench-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()

        def pinned(*arguments: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [*vnotch, *arguments, "--data-dir", f"{folder}/data"], stdout=subprocess.DEVNULL,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )  # fmt: skip

        server = pinned("server", "--port", str(port))
        try:
            while not Path(folder, "data", "endpoint").exists():
                assert server.poll() is None, "the server ended"
                time.sleep(0.1)
            seconds = []
            for _ in range(2):  # the second one finds nothing to do
                began = time.perf_counter()
                assert pinned("import", str(text), "--log-group", "bench", "--create").wait() == 0
                seconds.append(time.perf_counter() - began)
        finally:
            server.terminate()
            server.wait()
    return records / (seconds[0] - seconds[1])


@dataclass(frozen=True)
class Asked:
    """One process: its wall and CPU time in seconds, its peak memory in MB, its answer."""

    seconds: float
    cpu_seconds: float
    memory_mb: float
    answer: Any


def ask(folder: Path, sql: str, cores: set[int]) -> Asked:
    command = [sys.executable, "-m", "vnotch", "query", sql, "--from", str(folder), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{sql}: exit status {os.waitstatus_to_exitcode(status)}")
    return Asked(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, json.loads(answer))


def rounds(folder: Path, records: int, count: int, cores: set[int]) -> dict[str, list[Asked]]:
    """The questions, `count` times each, interleaved."""
    found: dict[str, list[Asked]] = {name: [] for name in QUESTIONS}
    for _ in range(count):
        for name, sql in QUESTIONS.items():
            found[name].append(ask(folder, sql, cores))
    for name, asked in found.items():
        times = " ".join(f"{item.seconds:.2f}" for item in asked)
        cpu, memory = min(item.cpu_seconds for item in asked), max(item.memory_mb for item in asked)
        print(f"{folder.name:>18} {name:>8}: {times} s, at least {cpu:.2f} s of CPU, {memory:.0f} MB", flush=True)
    total = sum(row["n"] for row in found["count"][0].answer)
    assert total == records, f"{total} of {records} records"
    return found


def median_seconds(asked: list[Asked]) -> float:
    return statistics.median(item.seconds for item in asked)


def check(parquet: Path, text: Path) -> None:
    """Text and Parquet of the same records must give the same answers, and pyarrow the same counts."""
    cores = os.sched_getaffinity(0)
    for name, sql in QUESTIONS.items():
        answers = [ask(folder, sql, cores).answer for folder in (parquet, text)]
        assert answers[0] == answers[1], f"{name}: text and Parquet answer differently"
    counts: dict[str, int] = {}
    for path in parquet.rglob("*.parquet"):
        column = pq.read_table(path, columns=["action"], partitioning=None)["action"]
        for item in column.value_counts().to_pylist():
            counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    answer = ask(text, QUESTIONS["count"], cores).answer
    assert {row["action"]: row["n"] for row in answer} == counts, "pyarrow counts otherwise"


class LocalBucket:
    """What flowlogs-reader needs of a client of S3, over a local folder, so that no server is in the measurement."""

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": open(Key, "rb"), "ContentLength": os.path.getsize(Key)}


DUCKDB = """
import sys, duckdb
from vnotch.fields import DEFAULT_FORMAT, parse_format
format = parse_format(DEFAULT_FORMAT)
kinds = {"int32": "INTEGER", "int64": "BIGINT", "string": "VARCHAR"}
columns = {item.column: kinds[str(item.type)] for item in format.fields}
connection = duckdb.connect(config={"threads": 2, "preserve_insertion_order": False})
connection.execute(
    f"CREATE VIEW flow_logs AS SELECT * FROM read_csv('{sys.argv[1]}/**/*.gz', columns={columns}, delim=' ',"
    " header=true, nullstr='-', quote='', escape='', auto_detect=false, hive_partitioning=false)"
)
print(len(connection.execute(sys.argv[2]).fetchall()))
"""


def duckdb_seconds(folder: Path, sql: str, cores: set[int]) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", DUCKDB, folder, sql], check=True, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    return time.perf_counter() - began


def flowlogs_reader_rate(files: list[Path]) -> float:
    from flowlogs_reader import S3FlowLogsReader

    class Reader(S3FlowLogsReader):  # type: ignore[misc]
        def _get_all_keys(self) -> Iterator[str]:
            return iter(map(str, files))

    began = time.perf_counter()
    count = sum(1 for _ in Reader("bucket", boto_client=LocalBucket()))
    seconds = time.perf_counter() - began
    lines = sum(gzip.decompress(path.read_bytes()).count(b"\n") - 1 for path in files)
    assert count == lines, f"flowlogs-reader gave {count} of {lines} records"
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE / "data", help="where the data is made and kept (3 GB)")
    parser.add_argument("--records", type=int, default=50_000_000, help="Parquet records")
    parser.add_argument("--text-records", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True, parents=True)
    parquet = make(options.folder, "parquet", options.records)
    text = make(options.folder, "text", options.text_records)
    check(make(options.folder, "parquet", options.text_records), text)
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    of_parquet = rounds(parquet, options.records, options.rounds, cores)
    of_text = rounds(text, options.text_records, options.rounds, cores)
    slowest = max(map(median_seconds, of_text.values()))
    result = {f"{name}_s": round(median_seconds(asked), 2) for name, asked in of_parquet.items()}
    result["rss_mb"] = round(max(item.memory_mb for asked in of_parquet.values() for item in asked))
    result["text_query_per_s"] = round(options.text_records / slowest)
    result["text_rss_mb"] = round(max(item.memory_mb for asked in of_text.values() for item in asked))
    of_duckdb = [statistics.median(duckdb_seconds(text, sql, cores) for _ in range(3)) for sql in QUESTIONS.values()]
    result["duckdb_csv_per_s"] = round(options.text_records / max(of_duckdb))
    result["flowlogs_reader_per_s"] = round(flowlogs_reader_rate(sorted(text.rglob("*.gz"))[:2]))
    result["parquet_bytes_per_record"] = round(
        sum(path.stat().st_size for path in parquet.rglob("*.parquet")) / options.records, 1
    )
    with ProcessPoolExecutor(1) as pool:
        written = pool.submit(write_rates, make(options.folder, "parquet", options.text_records), min(cores)).result()
    result["parquet_write_per_s"], result["text_write_per_s"] = map(round, written)
    result["import_per_s"] = round(import_rate(text, options.text_records, cores))
    for name, target in TARGETS.items():
        print(f"{name:>18}: {result[name]:,} ({target})")
    print(f"{'load':>18}: {os.getloadavg()[0]:.1f} on cores {sorted(cores)}, which no one else should use")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
