"""AWS's layout of flow logs in a bucket: the key that a file gets, and what a key says of a file before it is read.

    [folder/]AWSLogs/{account}/vpcflowlogs/{region}/{yyyy}/{MM}/{dd}/[{HH}/]{name}
    [folder/]AWSLogs/aws-account-id={account}/aws-service=vpcflowlogs/aws-region={region}/year={yyyy}/month={MM}/day={dd}/[hour={HH}/]{name}
    name: {account}_vpcflowlogs_{region}_{flow-log-id}_{yyyyMMdd}T{HHmm}Z_{hash}.log.gz, or .log.parquet

(VPC user guide, "Publish flow logs to Amazon S3".) The time in the name is the beginning of a slot of five minutes,
UTC, and the file has the records that end in it. The hash of a file of ours into which several slots were merged says
how many it spans from there on (`fe123456s12`: an hour). Folders may hold anything, `AWSLogs` and `..` too: the last
part that looks like AWS's counts.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SLOT_SECONDS = 300

EXTENSIONS = {"plain-text": "log.gz", "parquet": "log.parquet"}
"""What the name of a file ends in, by the FileFormat of DestinationOptions; the first one is AWS's default."""

HASH_DIGITS = 8
"""Of the hash in a name, hexadecimal, as in AWS's example; what it is a hash of AWS does not say."""

_BUCKET_ARN = re.compile(
    r"arn:aws[a-z-]*:s3:::(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<folder>.*))?", re.DOTALL
)
_NAME = re.compile(
    r"(?P<account>[^_/]+)_vpcflowlogs_(?P<region>[a-z0-9-]+)_(?P<flow_log>fl-[0-9a-f]+)"
    r"_(?P<time>[0-9]{8}T[0-9]{4}Z)_(?:[0-9a-f]{8}s(?P<slots>[0-9]{1,4})|[0-9A-Za-z]+)\.log(?:\.gz|\.parquet)?"
)
_PLAIN = re.compile(
    r"(?:^|/)vpcflowlogs/[a-z0-9-]+/(?P<year>[0-9]{4})(?:/(?P<month>[0-9]{2})(?:/(?P<day>[0-9]{2})(?:/(?P<hour>[0-9]{2}))?)?)?(?=/)"
)
_HIVE = re.compile(
    r"(?:^|/)year=(?P<year>[0-9]{4})(?:/month=(?P<month>[0-9]{1,2})(?:/day=(?P<day>[0-9]{1,2})(?:/hour=(?P<hour>[0-9]{1,2}))?)?)?(?=/)"
)
_SERVICE = re.compile(r"(?:^|/)AWSLogs/(?:aws-account-id=)?[0-9]{12}/(?:aws-service=)?(?P<service>[^/=]+)/")


@dataclass(frozen=True)
class KeyName:
    """What the name of a file says: who wrote it, and the beginning of its first slot in Unix seconds."""

    account: str
    region: str
    flow_log_id: str
    slot_s: int
    slots: int = 1

    @property
    def end_s(self) -> int:
        """The end of its last slot, exclusive."""
        return self.slot_s + self.slots * SLOT_SECONDS


@dataclass(frozen=True)
class Layout:
    """Where the files of a flow log lie: LogDestination and DestinationOptions of CreateFlowLogs.

    `folder` is what follows the bucket in LogDestination, as it was given: nothing in it is decoded or resolved.
    """

    folder: str
    account: str
    region: str
    file_format: str = "plain-text"
    hive_compatible: bool = False
    per_hour: bool = False

    def key(self, flow_log_id: str, slot_s: int, name_hash: str) -> str:
        """The key of a file with the records that end in the slot which begins at `slot_s` (Unix seconds)."""
        slot = datetime.fromtimestamp(slot_s, UTC)
        year, month, day, hour = slot.strftime("%Y %m %d %H").split()
        if self.hive_compatible:
            parts = ["aws-service=vpcflowlogs", f"aws-region={self.region}"]
            parts += [f"year={year}", f"month={month}", f"day={day}", *([f"hour={hour}"] if self.per_hour else [])]
        else:
            parts = ["vpcflowlogs", self.region, year, month, day, *([hour] if self.per_hour else [])]
        time = slot.strftime("%Y%m%dT%H%MZ")
        name = f"{self.account}_vpcflowlogs_{self.region}_{flow_log_id}_{time}_{name_hash}"
        return f"{self.top}{'/'.join(parts)}/{name}.{EXTENSIONS[self.file_format]}"

    @property
    def top(self) -> str:
        """What all its keys begin with: `[folder/]AWSLogs/{account}/`."""
        folder = f"{self.folder}/" if self.folder and not self.folder.endswith("/") else self.folder
        return f"{folder}AWSLogs/{'aws-account-id=' if self.hive_compatible else ''}{self.account}/"


def slot_of(end_s: Any) -> Any:
    """The beginning of the slot that a record with this `end` belongs to; of one number or of an array of them."""
    return end_s // SLOT_SECONDS * SLOT_SECONDS


def parse_bucket_arn(arn: str) -> tuple[str, str] | None:
    """`arn:aws:s3:::bucket[/folder/]` -> (bucket, folder as given); None for what is no such ARN."""
    match = _BUCKET_ARN.fullmatch(arn)
    return (match["bucket"], match["folder"] or "") if match else None


def parse_name(key: str) -> KeyName | None:
    """The parts of a file name of AWS's form; None for any other name."""
    match = _NAME.fullmatch(key.rpartition("/")[2])
    if match is None:
        return None
    try:
        slot = datetime.strptime(match["time"], "%Y%m%dT%H%MZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    slots = int(match["slots"] or 1)
    return KeyName(match["account"], match["region"], match["flow_log"], int(slot.timestamp()), slots)


def partition_seconds(folder: str) -> tuple[int, int] | None:
    """The time that a folder's records end in by its partitions, plain or Hive: Unix seconds, end exclusive.

    `folder` ends in `/`; a partition may be incomplete (a year, a month). None where it has none.
    """
    matches = [*_PLAIN.finditer(folder), *_HIVE.finditer(folder)]
    if not matches:
        return None
    match = max(matches, key=lambda found: found.start())
    year, month, day, hour = (int(match[name]) if match[name] else None for name in ("year", "month", "day", "hour"))
    try:
        return _span(year or 0, month, day, hour)
    except ValueError:
        return None


def _span(year: int, month: int | None, day: int | None, hour: int | None) -> tuple[int, int]:
    """Raises ValueError for what is no date."""
    begin = int(datetime(year, month or 1, day or 1, hour or 0, tzinfo=UTC).timestamp())
    if hour is not None:
        return begin, begin + 3600
    if day is not None:
        return begin, begin + 86_400
    if month is not None:
        return begin, begin + 86_400 * monthrange(year, month)[1]
    return begin, int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())


def other_service(key: str) -> str | None:
    """The service whose logs these are, where the key is AWS's and they are no flow logs (`CloudTrail`, ...)."""
    services = _SERVICE.findall(key)
    return services[-1] if services and services[-1] != "vpcflowlogs" else None
