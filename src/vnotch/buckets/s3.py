"""Buckets at an S3 endpoint: AWS's, or one of its kin. Nothing but questions about a bucket goes there from here; the
files go from the agents, by requests that are signed here.

Credentials are found as AWS's tools find them: environment, profile, SSO, the instance's role (botocore's chain).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from vnotch.bucket_keys import Layout
from vnotch.buckets.bucket_policy import ClosedPolicy, delivery_statements, forbids_delivery, with_delivery
from vnotch.buckets.upload import ACL, UPLOAD_SECONDS, Presence, PresignedRequest, Upload
from vnotch.errors import HostError
from vnotch.iam.grammar import PolicyError

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 10.0
REGIONS_MAX = 10_000
"""Buckets whose region is remembered."""

_REGION_HEADER = "x-amz-bucket-region"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class S3Settings:
    """`endpoint_url` None is AWS. `credentials_file` is one of AWS's form (INI)."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    bucket_policies: bool | None = None
    """Whether AWS's statements are added to the policies of buckets; None: everywhere but on AWS."""


class S3:
    """Implements `upload.BucketStore`."""

    def __init__(self, settings: S3Settings) -> None:
        """Raises HostError for settings that botocore does not take (no such profile)."""
        self._settings = settings
        self._lock = threading.Lock()
        self._policies = threading.Lock()
        """Policies are read, added to and written by one at a time."""
        self._clients: dict[str, Any] = {}
        self._regions: dict[str, str] = {}
        try:
            self._session = Session(profile=settings.profile)
            if settings.credentials_file is not None:
                self._session.set_config_variable("credentials_file", settings.credentials_file)
            self._region = settings.region or self._session.get_config_variable("region") or "us-east-1"
            self._client(self._region)
        except (BotoCoreError, ValueError) as error:
            raise HostError(
                f"the server's AWS settings for buckets: {error}", "see --s3-profile, --s3-region"
            ) from None

    def admits_delivery(self, bucket: str, layout: Layout, may_change_policy: Callable[[], bool]) -> bool:
        """By the bucket's policy, where it may be read and is understood; else its endpoint judges alone."""
        client = self._client(self._region_of(bucket))
        with self._policies:
            try:
                document = client.get_bucket_policy(Bucket=bucket)["Policy"]
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchBucketPolicy":
                    return True
                document = None
            except BotoCoreError:
                return True
            try:
                if document is not None and forbids_delivery(document, bucket, layout):
                    return False
                if not self._adds_to_policies:
                    return True
                wanted = with_delivery(document, bucket, layout)
            except ClosedPolicy:
                return False
            except PolicyError as error:
                log.warning("the policy of %s is left to its endpoint: %s", bucket, error.message)
                return True
            if wanted is None:
                return True
            if not may_change_policy():
                return False
            self._put_policy(client, bucket, wanted, layout)
        return True

    @property
    def _adds_to_policies(self) -> bool:
        """On AWS itself only where it is asked for: there the statements would let in AWS's own service, for whichever
        account has this one's number."""
        asked = self._settings.bucket_policies
        return self._settings.endpoint_url is not None if asked is None else asked

    def _put_policy(self, client: Any, bucket: str, document: str, layout: Layout) -> None:
        try:
            client.put_bucket_policy(Bucket=bucket, Policy=document)
        except (ClientError, BotoCoreError) as error:
            # The files come all the same: they are put under the server's own identity.
            statements = json.dumps(delivery_statements(bucket, layout))
            log.warning("the policy of %s lacks what AWS adds and is left so, %s: %s", bucket, error, statements)
        else:
            log.info("the policy of %s lets log delivery put the files under %s", bucket, layout.top)

    def presence(self, bucket: str, folder: str) -> Presence:
        """By HeadBucket, which needs s3:ListBucket. A key with `..` that leads out of the bucket is none on AWS (S3
        user guide, object key names)."""
        if leads_out(folder):
            return Presence.UNKNOWN
        try:
            answer = self._client(self._region).head_bucket(Bucket=bucket)
        except ClientError as error:
            metadata = error.response.get("ResponseMetadata", {})
            status = int(metadata.get("HTTPStatusCode", 0))
            if status in (301, 307, 400) and self._note_region(bucket, metadata):
                return Presence.THERE  # in another region, which the answer names
            if status in (404, 403):
                return Presence.MISSING if status == 404 else Presence.DENIED
            log.warning("bucket %s: %s", bucket, error)
            return Presence.UNKNOWN
        except BotoCoreError as error:
            log.warning("bucket %s: %s", bucket, error)
            return Presence.UNKNOWN
        self._note_region(bucket, answer.get("ResponseMetadata", {}))
        return Presence.THERE

    def presign(self, upload: Upload) -> PresignedRequest:
        """The signature covers host, key, length, MD5 and SHA-256 of the contents, and the ACL."""
        headers = {
            "content-length": str(upload.length),
            "content-md5": upload.md5,
            "x-amz-checksum-sha256": upload.sha256,
            "x-amz-acl": ACL,
        }
        parameters = {
            "Bucket": upload.bucket,
            "Key": upload.key,
            "ContentLength": upload.length,
            "ContentMD5": upload.md5,
            "ChecksumSHA256": upload.sha256,
            "ACL": ACL,
        }
        client = self._client(self._region_of(upload.bucket))
        try:
            url = client.generate_presigned_url("put_object", parameters, ExpiresIn=UPLOAD_SECONDS, HttpMethod="PUT")
        except BotoCoreError as error:
            raise HostError(f"an upload to {upload.bucket} cannot be signed: {error}") from None
        return PresignedRequest("PUT", str(url), headers)

    def _region_of(self, bucket: str) -> str:
        """An endpoint of one's own has the region that was said; AWS's buckets have one each, which is asked once."""
        if self._settings.endpoint_url is not None:
            return self._region
        with self._lock:
            known = self._regions.get(bucket)
        if known is None:
            self.presence(bucket, "")
            with self._lock:
                known = self._regions.get(bucket)
        return known or self._region

    def _note_region(self, bucket: str, metadata: dict[str, Any]) -> bool:
        region = metadata.get("HTTPHeaders", {}).get(_REGION_HEADER)
        if not region:
            return False
        with self._lock:
            if len(self._regions) >= REGIONS_MAX:
                self._regions.clear()
            self._regions[bucket] = str(region)
        return True

    def _client(self, region: str) -> Any:
        with self._lock:
            if region not in self._clients:
                own = self._settings.endpoint_url is not None
                config = Config(
                    signature_version="s3v4",
                    # Few endpoints beside AWS's have a name for each bucket. By `auto`, botocore signs for AWS's global
                    # endpoint, which redirects, for some time, what is for a new bucket.
                    s3={"addressing_style": "path" if own else "virtual"},
                    retries={"total_max_attempts": 2},
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    read_timeout=READ_TIMEOUT_SECONDS,
                )
                self._clients[region] = self._session.create_client(
                    "s3", region_name=region, endpoint_url=self._settings.endpoint_url, config=config
                )
            return self._clients[region]


def leads_out(folder: str) -> bool:
    """Whether `..` in a key leads above the bucket, counted from its beginning."""
    depth = 0
    for part in folder.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False
