"""The server's side of buckets: whether one is there, and requests, signed beforehand, by which agents upload to it.

`S3` speaks to an S3 endpoint with credentials of the server, `Folder` is a folder of this host that stands for one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vnotch.buckets.folder import Folder
from vnotch.buckets.s3 import S3, S3Settings
from vnotch.buckets.upload import BucketStore
from vnotch.errors import InputError

FOLDER_SCHEME = "file:"
AWS = "aws"


def open_buckets(endpoint: str | None, settings: S3Settings, *, folder: Path, url: str, region: str) -> BucketStore:
    """The buckets of an endpoint: `aws`, `http(s)://...`, or `file:PATH`; None is the folder given.

    `url` and `region` are the server's own, by which agents upload into a folder. Raises InputError and HostError.
    """
    if endpoint is None or endpoint.startswith(FOLDER_SCHEME):
        if settings != S3Settings():
            raise InputError("buckets in a folder have no S3 region, credentials or policies", "give --s3-endpoint too")
        if endpoint is not None:
            path = endpoint.removeprefix(FOLDER_SCHEME)
            folder = Path("/" + path.lstrip("/") if path.startswith("//") else path)
            if not folder.is_absolute() or not folder.is_dir():
                raise InputError(f"--s3-endpoint {endpoint}: {folder} is no folder", "file:/an/absolute/path")
        return Folder(folder, url, region)
    if endpoint == AWS:
        return S3(settings)
    if not endpoint.startswith(("https://", "http://")):
        raise InputError(f"--s3-endpoint {endpoint}", "aws, https://HOST[:PORT] or file:/FOLDER")
    return S3(replace(settings, endpoint_url=endpoint))
