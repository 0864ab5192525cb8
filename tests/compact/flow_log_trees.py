"""Trees of small files of flow logs, and what any reader finds in them."""

from __future__ import annotations

import gzip
import os
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from asking import FOLDER, HEADER

from vnotch.compact.compaction import Compaction, Result, Settings
from vnotch.compact.trees import Tree
from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.line import parse_lines, record_lines
from vnotch.query.problems import Problems
from vnotch.query.progress import Progress

DEFAULT = parse_format(DEFAULT_FORMAT)
DAY = FOLDER.format(day="2026/01/31")
SOMEONE_GONE = "a-host-that-is-not-this-one boot 1 1"


def line(number: int) -> str:
    return (
        f"2 123456789012 eni-{number % 3:017x} 10.0.0.{number % 250} 10.0.1.1 {number % 60000} 443 6 {number + 1} 1000 "
        f"{1769860800 + number} 1769860860 ACCEPT OK"
    )


def name(time: str, hash: str, suffix: str = ".log.gz", flow_log: str = "fl-1234abcd") -> str:
    return f"123456789012_vpcflowlogs_us-east-1_{flow_log}_{time}_{hash}{suffix}"


def text_file(lines: list[str], header: str = HEADER) -> bytes:
    return gzip.compress("\n".join([header, *lines, ""]).encode())


def parquet_file(lines: list[str]) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(parse_lines(pa.array(lines), DEFAULT), out, compression="snappy")  # as AWS writes them
    return out.getvalue().to_pybytes()


def many(files: int, lines_per_file: int, suffix: str = ".log.gz", time: str = "20260131T1200Z") -> dict[str, bytes]:
    """Files of one flow log that end in one slot, by name, with lines that are all different."""
    make = text_file if suffix == ".log.gz" else parquet_file
    return {
        name(time, f"{number:08x}", suffix): make(
            [line(number * lines_per_file + place) for place in range(lines_per_file)]
        )
        for number in range(files)
    }


def fill(folder: Path, files: dict[str, bytes], age_seconds: float = 172_800) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    then = time.time() - age_seconds
    for file_name, data in files.items():
        (folder / file_name).write_bytes(data)
        os.utime(folder / file_name, (then, then))


def compacted(
    tree: Tree, problems: Problems | None = None, dry_run: bool = False, owner: str | None = None, **settings: float
) -> Result:
    chosen = Settings(**settings)  # type: ignore[arg-type]
    problems = Problems() if problems is None else problems
    run = Compaction(tree, chosen, problems, Progress(), sleep=lambda seconds: None, owner=owner)
    return run.run(dry_run)


def lines_of(folder: Path) -> Counter[str]:
    """All records of all files of flow logs below a folder, as a reader that knows nothing of vnotch finds them."""
    found: Counter[str] = Counter()
    for path in folder.rglob("[!_.]*.log.gz"):
        header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        assert header.startswith("version ")
        found.update(lines)
    for path in folder.rglob("[!_.]*.log.parquet"):
        found.update(record_lines(pq.read_table(path, partitioning=None), DEFAULT).to_pylist())
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
