"""Questions over files that a test writes, without the command line."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.query.engine import Engine, Settings
from vnotch.query.labels import Labels
from vnotch.query.period import Period
from vnotch.query.problems import Problems
from vnotch.query.progress import Progress
from vnotch.query.table import find_files, open_table
from vnotch.query.text import TextFormat

HEADER = parse_format(DEFAULT_FORMAT).header
SSH = (
    "2 123456789010 eni-1235b8ca123456789 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK"
)
RDP = (
    "2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530010 1418530070 REJECT OK"
)
NODATA = "2 123456789010 eni-1235b8ca123456789 - - - - - - - 1431280876 1431280934 - NODATA"
"""Lines of the VPC user guide, "Flow log record examples"."""

NAME = "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_{time}_fe123456.log"
FOLDER = "AWSLogs/123456789012/vpcflowlogs/us-east-1/{day}/"
HIVE = (
    "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/"
    "year={year}/month={month}/day={day}/"
)


@dataclass
class Answered:
    rows: list[dict[str, Any]]
    problems: Problems
    columns: list[str]

    @property
    def values(self) -> list[Any]:
        """Of an answer of one column."""
        return [next(iter(row.values())) for row in self.rows]


def ask(
    sql: str,
    *sources: Path | str,
    since: str | None = None,
    until: str | None = None,
    format: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    extra: Sequence[str] = (),
    labels: Labels | None = None,
    memory_bytes: int = 500_000_000,
    timeout_seconds: float | None = None,
    endpoint_url: str | None = None,
) -> Answered:
    problems, progress = Problems(), Progress()
    period = Period.parse(since, until)
    given = TextFormat(tuple(name.replace("-", "_") for name in format)) if format else None
    files = find_files([str(source) for source in sources], period, problems, None, endpoint_url)
    table = open_table(files, period, given, problems, progress, extra)
    engine = Engine(table, period, given, labels, Settings(memory_bytes, 2, timeout_seconds), problems, progress)
    try:
        answer = engine.ask(sql, parameters)
        rows = [row for batch in answer.batches for row in batch.to_pylist()]
        return Answered(rows, problems, answer.schema.names)
    finally:
        engine.close()


def write(path: Path, *lines: str, header: str | None = HEADER, end: str = "\n") -> Path:
    """A text file, compressed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line + end for line in ([header] if header else []) + list(lines)).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
