"""What a bucket is asked to take, and what both kinds of buckets can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vnotch.bucket_keys import Layout
from vnotch.errors import LimitError

UPLOAD_SECONDS = 900
"""How long an upload may be begun after it was signed."""

ACL = "bucket-owner-full-control"
"""Of each object (VPC user guide, publish flow logs to S3)."""


class Presence(Enum):
    """What is known of a bucket."""

    THERE = "there"
    MISSING = "missing"
    DENIED = "denied"
    UNKNOWN = "unknown"  # its endpoint does not answer, or cannot take this folder


class PolicyIsFull(LimitError):
    """A bucket's policy has no room for what log delivery needs (AWS: LogDestinationPermissionIssueException)."""


@dataclass(frozen=True)
class Upload:
    """A file: its place, and what binds the request to it. The digests are in base64, as in S3's headers."""

    bucket: str
    key: str
    length: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class PresignedRequest:
    """A request that may be made as it stands, and no other way."""

    method: str
    url: str
    headers: Mapping[str, str]


class BucketStore(Protocol):
    """Safe to use from several threads."""

    def presence(self, bucket: str, folder: str) -> Presence:
        """Whether a bucket is there and takes objects under `folder`."""
        ...

    def admits_delivery(self, bucket: str, layout: Layout, may_change_policy: Callable[[], bool]) -> bool:
        """Whether the bucket's policy lets log delivery put the files of a flow log there. What it lacks for that is
        added, where this store keeps policies as AWS does and `may_change_policy` says that the caller may.

        Raises PolicyIsFull.
        """
        ...

    def presign(self, upload: Upload) -> PresignedRequest:
        """Raises InputError for a key that the bucket cannot have, HostError where the server has no credentials."""
        ...
