"""The table over the files of one flow log, as Glue and Hive's DDL describe it (Athena user guide, VPC flow logs).

Text is read by position, so the columns are those of the flow log's format in its order; Parquet is read by name.
Partitions are days, or hours where the flow log has folders for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from vnotch.fields import ABSENT, SEPARATOR, Format

_TYPES = {pa.int32(): "int", pa.int64(): "bigint", pa.string(): "string"}
_HIVE = "org.apache.hadoop.hive"
_TEXT = (
    "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
    "org.apache.hadoop.mapred.TextInputFormat",
    f"{_HIVE}.ql.io.HiveIgnoreKeyTextOutputFormat",
)
_PARQUET = (
    f"{_HIVE}.ql.io.parquet.serde.ParquetHiveSerDe",
    f"{_HIVE}.ql.io.parquet.MapredParquetInputFormat",
    f"{_HIVE}.ql.io.parquet.MapredParquetOutputFormat",
)
"""SerDe, input format, output format."""


@dataclass(frozen=True)
class Files:
    """Where the files of a flow log are and how they are laid out: LogDestination and DestinationOptions."""

    bucket: str
    folder: str
    account: str
    region: str
    parquet: bool = False
    hive: bool = False
    per_hour: bool = False

    @property
    def location(self) -> str:
        """The folder above the dates, with a `/` at its end."""
        folder = f"{self.folder.rstrip('/')}/" if self.folder.strip("/") else ""
        if self.hive:
            below = f"aws-account-id={self.account}/aws-service=vpcflowlogs/aws-region={self.region}"
        else:
            below = f"{self.account}/vpcflowlogs/{self.region}"
        return f"s3://{self.bucket}/{folder}AWSLogs/{below}/"

    @property
    def partitions(self) -> tuple[str, ...]:
        return ("year", "month", "day", "hour") if self.per_hour else ("year", "month", "day")

    def partition_location(self, values: tuple[str, ...]) -> str:
        """The folder of a partition; `values` may be `${year}` and its like."""
        names = zip(self.partitions, values, strict=True)
        return self.location + "/".join(f"{name}={value}" if self.hive else value for name, value in names)


def columns(format: Format) -> list[tuple[str, str]]:
    """Name and type in Hive's words."""
    return [(item.column, _TYPES[item.type]) for item in format.fields]


def storage(format: Format, files: Files) -> dict[str, Any]:
    """Glue's StorageDescriptor."""
    serde, inputs, outputs = _PARQUET if files.parquet else _TEXT
    settings = {"serialization.format": "1"}
    if not files.parquet:
        settings = {"field.delim": SEPARATOR, "serialization.format": SEPARATOR, "serialization.null.format": ABSENT}
    return {
        "Columns": [{"Name": name, "Type": type_} for name, type_ in columns(format)],
        "Location": files.location,
        "InputFormat": inputs,
        "OutputFormat": outputs,
        "SerdeInfo": {"SerializationLibrary": serde, "Parameters": settings},
    }


def table_input(name: str, format: Format, files: Files) -> dict[str, Any]:
    """Glue's TableInput."""
    parameters = {"EXTERNAL": "TRUE", "classification": "parquet" if files.parquet else "csv"}
    if not files.parquet:
        parameters["skip.header.line.count"] = "1"
    return {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
        "PartitionKeys": [{"Name": key, "Type": "string"} for key in files.partitions],
        "StorageDescriptor": storage(format, files),
    }


def projected_ddl(name: str, format: Format, files: Files, first_day: date) -> str:
    """CREATE EXTERNAL TABLE with partition projection: no partition is ever loaded, Athena computes them.

    One flow log's files have one format, so each needs a table of its own where formats differ.
    """
    listed = ",\n".join(f"  `{column}` {type_}" for column, type_ in columns(format))
    serde, inputs, outputs = _PARQUET if files.parquet else _TEXT
    if files.parquet:
        rows = f"ROW FORMAT SERDE '{serde}'\nSTORED AS INPUTFORMAT '{inputs}'\nOUTPUTFORMAT '{outputs}'"
        properties = {}
    else:
        rows = f"ROW FORMAT DELIMITED FIELDS TERMINATED BY '{SEPARATOR}' NULL DEFINED AS '{ABSENT}'"
        properties = {"skip.header.line.count": "1"}
    properties |= _projection(files, first_day)
    written = ",\n".join(f"  '{key}' = '{value}'" for key, value in properties.items())
    keys = ", ".join(f"`{key}` string" for key in _projected(files))
    return (
        f"CREATE EXTERNAL TABLE IF NOT EXISTS `{name}` (\n{listed}\n)\nPARTITIONED BY ({keys})\n{rows}\n"
        f"LOCATION '{files.location}'\nTBLPROPERTIES (\n{written}\n)"
    )


def _projected(files: Files) -> tuple[str, ...]:
    """In plain folders the date is one key, which a range in WHERE prunes."""
    if files.hive:
        return files.partitions
    return ("day", "hour") if files.per_hour else ("day",)


def _projection(files: Files, first_day: date) -> dict[str, str]:
    found = {"projection.enabled": "true"}

    def integers(key: str, least: int, most: int, digits: int) -> None:
        found[f"projection.{key}.type"] = "integer"
        found[f"projection.{key}.range"] = f"{least:0{digits}d},{most:0{digits}d}"
        found[f"projection.{key}.digits"] = str(digits)

    if files.hive:
        integers("year", first_day.year, first_day.year + 20, 4)
        integers("month", 1, 12, 2)
        integers("day", 1, 31, 2)
    else:
        found["projection.day.type"] = "date"
        found["projection.day.range"] = f"{first_day:%Y/%m/%d},NOW"
        found["projection.day.format"] = "yyyy/MM/dd"
    if files.per_hour:
        integers("hour", 0, 23, 2)
    template = "/".join(f"{key}=${{{key}}}" if files.hive else f"${{{key}}}" for key in _projected(files))
    found["storage.location.template"] = files.location + template
    return found


def day_of(time: datetime) -> date:
    return time.astimezone(UTC).date()
