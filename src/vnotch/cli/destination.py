"""Where a flow log delivers to, as people say it: a log group by its name, or a bucket by `--to s3://BUCKET/FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from vnotch.bucket_keys import EXTENSIONS, parse_bucket_arn
from vnotch.errors import InputError

BUCKET_SCHEME = "s3://"

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="s3://BUCKET[/FOLDER]",
        help="Deliver files into a bucket instead of a log group.",
    ),
]
FileFormat = Annotated[
    str | None,
    typer.Option(help=f"Of a bucket's files: {' or '.join(EXTENSIONS)}.", show_default=next(iter(EXTENSIONS))),
]
Hive = Annotated[bool, typer.Option("--hive", help="Hive-compatible folders in the bucket: year=2026/month=01/...")]
PerHour = Annotated[bool, typer.Option("--per-hour", help="A folder of the bucket for each hour, not each day.")]


@dataclass(frozen=True)
class BucketFiles:
    """A bucket as destination."""

    bucket: str
    folder: str  # as given
    file_format: str | None = None
    hive: bool = False
    per_hour: bool = False

    @classmethod
    def of(
        cls, to: str | None, file_format: str | None, hive: bool, per_hour: bool, others: Mapping[str, object]
    ) -> BucketFiles | None:
        """None where no bucket is asked for. `others` are options of a log group, which do not go with one. Raises
        InputError."""
        if to is None:
            given = {"--file-format": file_format, "--hive": hive, "--per-hour": per_hour}
            if wrong := [option for option, value in given.items() if value]:
                raise InputError(f"{', '.join(wrong)} is for the files of a bucket", "name it with --to s3://BUCKET")
            return None
        bucket, _, folder = to.removeprefix(BUCKET_SCHEME).partition("/")
        if not to.startswith(BUCKET_SCHEME) or parse_bucket_arn(f"arn:aws:s3:::{bucket}") is None:
            raise InputError(f"--to {to}", "s3://BUCKET or s3://BUCKET/FOLDER")
        if wrong := [option for option, value in others.items() if value]:
            raise InputError(f"{', '.join(wrong)} is for a log group", "leave it out, or --to")
        if file_format not in (None, *EXTENSIONS):
            raise InputError(f"--file-format {file_format}", " or ".join(EXTENSIONS))
        return cls(bucket, folder, file_format, hive, per_hour)

    @property
    def url(self) -> str:
        return f"{BUCKET_SCHEME}{self.bucket}/{self.folder}".rstrip("/")

    def parameters(self) -> dict[str, Any]:
        """Of CreateFlowLogs."""
        arn = f"arn:aws:s3:::{self.bucket}" + (f"/{self.folder}" if self.folder else "")
        options: dict[str, Any] = {"HiveCompatiblePartitions": self.hive, "PerHourPartition": self.per_hour}
        if self.file_format is not None:
            options["FileFormat"] = self.file_format
        return {"LogDestinationType": "s3", "LogDestination": arn, "DestinationOptions": options}


def destination_words(row: Mapping[str, Any]) -> str:
    """Where a described flow log delivers to: its log group's name, or the bucket's URL and what is not default."""
    if row.get("LogDestinationType") != "s3":
        return str(row.get("LogGroupName") or row.get("LogDestination") or "-")
    parsed = parse_bucket_arn(row["LogDestination"])
    assert parsed is not None, "the server takes nothing else"
    options = row.get("DestinationOptions", {})
    words = [options["FileFormat"]] if options.get("FileFormat") not in (None, next(iter(EXTENSIONS))) else []
    words += ["hive"] if options.get("HiveCompatiblePartitions") else []
    words += ["hourly"] if options.get("PerHourPartition") else []
    url = f"{BUCKET_SCHEME}{'/'.join(parsed)}".rstrip("/")
    return f"{url} ({', '.join(words)})" if words else url
