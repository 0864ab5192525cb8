"""What a bucket is asked to take, and what both kinds of buckets can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vnotch.bucket_keys import Layout

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

    def forbids_delivery(self, bucket: str, layout: Layout) -> bool:
        """Whether the bucket's policy forbids log delivery to put the files of a flow log there."""
        ...

    def presign(self, upload: Upload) -> PresignedRequest:
        """Raises InputError for a key that the bucket cannot have, HostError where the server has no credentials."""
        ...
