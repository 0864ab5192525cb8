"""The columns of the table `flow_logs` and their types: those of the fields, and text for what is no field."""

from __future__ import annotations

import pyarrow as pa

from vnotch.fields import FIELDS

COLUMN_TYPES: dict[str, pa.DataType] = {item.column: item.type for item in FIELDS}
"""Columns of all fields, in AWS's order."""


def column_type(column: str) -> pa.DataType:
    return COLUMN_TYPES.get(column, pa.string())
