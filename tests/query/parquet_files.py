"""Parquet files of records, written by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from asking import SSH

from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.line import parse_line

DEFAULT = parse_format(DEFAULT_FORMAT)
RECORD = parse_line(SSH, DEFAULT)


def parquet(path: Path, rows: list[dict[str, Any]] | None = None, **types: pa.DataType) -> Path:
    """Records in AWS's types, some columns in another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(item.name, types.get(item.name, item.type)) for item in DEFAULT.schema])
    pq.write_table(pa.Table.from_pylist(rows or [RECORD], schema=schema), path)
    return path
