"""Buckets, read as the user's own AWS settings say: profile, region, endpoint, role, SSO, certificates.

botocore finds all of these, as it does for the aws CLI. It lists and reads; for Parquet, of which DuckDB reads only the
parts that a question needs, DuckDB's S3 client gets what botocore found (`duckdb_secret`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session

from vnotch.bucket_keys import other_service
from vnotch.errors import AccessError, HostError, InputError, VnotchError
from vnotch.query.files import CHUNK_BYTES, FileProblem, LogFile, is_folder_wanted, is_wanted
from vnotch.query.period import Period
from vnotch.query.problems import Problem, Problems

CONNECTIONS = 32
TRIES = 5
LISTINGS = 16
"""Folders that are listed at once."""
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "InvalidObjectState")
_GONE = ("NoSuchKey", "404")
_MAY_LIST = "s3:ListBucket is needed on the bucket"
_REFUSED = (
    *_DENIED,
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
)


def parse_url(url: str) -> tuple[str, str]:
    """`s3://bucket/prefix` -> (bucket, prefix), the prefix as it is: nothing in it is decoded. Raises InputError."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{url!r} names no bucket", "write s3://bucket/prefix")
    return bucket, prefix


class Bucket:
    """One bucket. `profile` and `endpoint_url` override the user's settings."""

    remote = True

    def __init__(self, name: str, profile: str | None = None, endpoint_url: str | None = None) -> None:
        self.name = name
        self._session = Session(profile=profile)
        self._endpoint_url = endpoint_url

    @cached_property
    def client(self) -> Any:
        config = Config(max_pool_connections=CONNECTIONS, retries={"mode": "standard", "total_max_attempts": TRIES})
        region = self._session.get_config_variable("region") or "us-east-1"
        try:
            return self._session.create_client("s3", region_name=region, endpoint_url=self._endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise HostError(f"AWS settings: {error}") from None

    def files(self, prefix: str, period: Period, problems: Problems) -> Iterator[LogFile]:
        """The flow logs under a prefix, of all folders or, with a period, only of those that can have records of it.

        Raises AccessError and InputError where the bucket cannot be listed.
        """

        def wanted(page: dict[str, Any]) -> Iterator[LogFile]:
            for found in page.get("Contents", ()):
                key = found["Key"]
                if key.endswith("/") and not found["Size"]:
                    continue  # what consoles make to show an empty folder
                if key == prefix or is_wanted(key, period, problems):
                    yield LogFile(self, f"s3://{self.name}/{key}", key, found["Size"])

        def listed(folder: str) -> tuple[list[LogFile], list[str]]:
            files: list[LogFile] = []
            below: list[str] = []
            for page in self.pages(folder, flat=False):
                files += wanted(page)
                below += [found["Prefix"] for found in page.get("CommonPrefixes", ())]
            return files, below

        if period.is_open:
            # Folders are told apart by time alone; without a period one listing has everything.
            for page in self.pages(prefix, flat=True):
                yield from wanted(page)
            return
        level = [prefix]
        with ThreadPoolExecutor(LISTINGS, "vnotch-list") as pool:
            while level:
                below: list[str] = []
                for files, folders in pool.map(listed, level):
                    yield from files
                    below += folders
                level = [name for name in below if self._is_folder_wanted(name, period, problems)]

    def _is_folder_wanted(self, folder: str, period: Period, problems: Problems) -> bool:
        if other_service(folder) is not None:
            problems.add_foreign(folder)
            return False
        return is_folder_wanted(folder, period, problems)

    def pages(self, prefix: str, flat: bool) -> Iterator[dict[str, Any]]:
        request = {"Bucket": self.name, "Prefix": prefix, **({} if flat else {"Delimiter": "/"})}
        try:
            yield from self.client.get_paginator("list_objects_v2").paginate(**request)
        except (ClientError, BotoCoreError) as error:
            raise self._listing_error(error) from None

    def _listing_error(self, error: Exception) -> VnotchError:
        code = _code(error)
        if isinstance(error, NoCredentialsError):
            return HostError("there are no AWS credentials", "aws configure, or name a profile with --profile")
        if code == "NoSuchBucket":
            return InputError(f"there is no bucket {self.name}")
        if code in _REFUSED:
            remedy = _MAY_LIST if code in _DENIED else "is the key of your AWS settings right, and still good?"
            return AccessError(f"listing s3://{self.name} is refused: {code}", remedy)
        return HostError(f"s3://{self.name}: {error}")

    def chunks(self, key: str) -> Iterator[bytes]:
        body = self._get(key)
        try:
            while chunk := body.read(CHUNK_BYTES):
                yield chunk
        except Exception as error:  # urllib3's and botocore's own; the connection broke while it was read
            raise FileProblem(Problem.UNREADABLE, str(error)) from None
        finally:
            body.close()

    def head(self, key: str, count: int) -> bytes:
        return self._part(key, f"bytes=0-{count - 1}")

    def tail(self, key: str, count: int) -> bytes:
        return self._part(key, f"bytes=-{count}")

    def _part(self, key: str, part: str) -> bytes:
        try:
            body = self._get(key, Range=part)
            try:
                return bytes(body.read())
            finally:
                body.close()
        except FileProblem:
            raise
        except Exception as error:
            raise FileProblem(Problem.UNREADABLE, str(error)) from None

    def _get(self, key: str, **request: str) -> Any:
        try:
            return self.client.get_object(Bucket=self.name, Key=key, **request)["Body"]
        except ClientError as error:
            code = _code(error)
            if code in _DENIED:
                raise FileProblem(Problem.DENIED) from None
            if code in _GONE:
                raise FileProblem(Problem.GONE) from None
            raise FileProblem(Problem.UNREADABLE, str(error)) from None
        except BotoCoreError as error:
            raise FileProblem(Problem.UNREADABLE, str(error)) from None

    def duckdb_secret(self) -> tuple[str, list[str], dict[str, str]]:
        """What DuckDB's S3 client needs to read this bucket as we do: (statement, its values, settings).

        Credentials of a role or of SSO are valid for as long as AWS says, an hour mostly, and DuckDB does not renew
        them: a single question over Parquet in a bucket that runs longer fails.
        """
        credentials = self._session.get_credentials()
        values: dict[str, str] = {"REGION": self._region()}
        if credentials is not None:
            frozen = credentials.get_frozen_credentials()
            values |= {"KEY_ID": frozen.access_key, "SECRET": frozen.secret_key}
            if frozen.token:
                values["SESSION_TOKEN"] = frozen.token
        endpoint = urlsplit(self.client.meta.endpoint_url)
        own = not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        if own:
            values["ENDPOINT"] = endpoint.netloc
        values["URL_STYLE"] = "path" if own or "." in self.name else "vhost"
        flags = f", USE_SSL {'true' if endpoint.scheme == 'https' else 'false'}"
        options = "".join(f", {name} ?" for name in values)
        scope = "s3://" + self.name.replace("'", "''") + "/"
        name = "s3_" + "".join(character if character.isalnum() else "_" for character in self.name)
        statement = f"CREATE OR REPLACE SECRET {name} (TYPE s3, SCOPE '{scope}'{flags}{options})"
        bundle = self._session.get_config_variable("ca_bundle")
        return statement, list(values.values()), {"ca_cert_file": bundle} if bundle else {}

    def _region(self) -> str:
        """The bucket's own region, which may be another than the user's."""
        try:
            headers = self.client.head_bucket(Bucket=self.name)["ResponseMetadata"]["HTTPHeaders"]
            return str(headers.get("x-amz-bucket-region") or self.client.meta.region_name)
        except (ClientError, BotoCoreError):
            return str(self.client.meta.region_name)


def _code(error: Exception) -> str:
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""
