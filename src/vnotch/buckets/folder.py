"""A folder of this host that stands for an S3 endpoint: a bucket is a folder in it, an object a file.

Agents upload to the server, by a request that it has signed beforehand with a key of its own, which it makes anew at
each start. A file appears whole or not at all, and on disk before the answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from vnotch.bucket_keys import Layout
from vnotch.buckets.upload import UPLOAD_SECONDS, Presence, PresignedRequest, Upload
from vnotch.durable import sync_folder
from vnotch.errors import AccessError, HostError, InputError
from vnotch.iam.sigv4 import Request, presign, query_pairs, read_signature, verify

ROUTE = "/vnotch/v1/objects"
SERVICE = "vnotch"
NAME_BYTES_MAX = 255
"""Of one part of a path (NAME_MAX of linux/limits.h)."""

_KEY_ID = "vnotch-folder"
_BOUND = ("content-length", "x-amz-content-sha256")


class Folder:
    """Implements `upload.BucketStore`, and takes what was uploaded. `url` is how agents reach the server."""

    def __init__(self, root: Path, url: str, region: str, now_s: Callable[[], float] = time.time) -> None:
        self.root = root
        self._url = url
        self._region = region
        self._now_s = now_s
        self._secret = secrets.token_hex(32)

    def presence(self, bucket: str, folder: str) -> Presence:
        try:
            _check_key(folder)
        except InputError:
            return Presence.UNKNOWN
        path = self.root / bucket
        if not path.is_dir():
            return Presence.MISSING
        return Presence.THERE if os.access(path, os.W_OK | os.X_OK) else Presence.DENIED

    def admits_delivery(self, bucket: str, layout: Layout, may_change_policy: Callable[[], bool]) -> bool:
        return True  # a folder has no policy

    def presign(self, upload: Upload) -> PresignedRequest:
        _check_key(upload.key)
        digest = b64decode(upload.sha256).hex()
        headers = {"content-length": str(upload.length), "x-amz-content-sha256": digest}
        query = f"bucket={quote(upload.bucket, safe='-_.~')}&key={quote(upload.key, safe='-_.~')}"
        signed = [("host", urlsplit(self._url).netloc), *headers.items()]
        request = Request("PUT", ROUTE, query, signed, digest)
        signed_query = presign(
            request, _KEY_ID, self._secret, now_s=self._now_s(), region=self._region, service=SERVICE,
            seconds=UPLOAD_SECONDS,
        )  # fmt: skip
        return PresignedRequest("PUT", f"{self._url}{ROUTE}?{signed_query}", headers)

    def accept(self, headers: list[tuple[str, str]], query: str, now_s: float) -> Writing:
        """What a request to upload may write. Raises SignatureError where it is not one of `presign`'s, or too late."""
        signature = read_signature(headers, query)
        stated = dict(headers)
        request = Request("PUT", ROUTE, query, headers, stated.get("x-amz-content-sha256", ""))
        key_id_fits = hmac.compare_digest(signature.access_key_id.encode(), _KEY_ID.encode())
        verify(
            signature, self._secret if key_id_fits else "", request, now_s=now_s, regions=[self._region],
            service=SERVICE,
        )  # fmt: skip
        if not set(_BOUND) <= set(signature.signed_headers):
            raise AssertionError("a signature of ours covers the length and the digest")
        named = dict(query_pairs(query))
        _check_key(named["key"])
        bucket = self.root / named["bucket"]
        return Writing(bucket, bucket / named["key"], int(stated["content-length"]), request.payload_sha256)


class Writing:
    """An object that is being written. `write` and `finish` raise InputError for what is not the object that was
    signed, AccessError where the bucket is gone, HostError where the disk does not take it; `abort` leaves nothing."""

    def __init__(self, bucket: Path, path: Path, length: int, sha256: str) -> None:
        self._bucket = bucket
        self._path = path
        self._length = length
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._received = 0
        self._file: Any = None
        self._temporary = path.with_name(f".{secrets.token_hex(8)}.part")

    def write(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._length:
            raise InputError("the body is longer than its length says")
        self._digest.update(data)
        with _host_errors(self._path):
            if self._file is None:
                if not self._bucket.is_dir():
                    raise AccessError(f"the folder {self._bucket} is not there")
                _make_folders(self._path.parent)
                self._file = self._temporary.open("xb")
            self._file.write(data)

    def finish(self) -> None:
        """It is on disk, whole, when this returns."""
        if self._received != self._length or self._digest.hexdigest() != self._sha256:
            raise InputError("the body is not what was signed")
        with _host_errors(self._path):
            if self._file is None:
                raise InputError("an object of no bytes is no flow log file")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._path)
            sync_folder(self._path.parent)

    def abort(self) -> None:
        if self._file is not None:
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _check_key(key: str) -> None:
    """Raises InputError for a key that no path below the bucket's folder can stand for alone: parts `.` and `..` and
    empty ones lead elsewhere, a long one has no file."""
    for part in key.removesuffix("/").split("/") if key else ():
        size = len(part.encode(errors="surrogateescape"))
        if part in ("", ".", "..") or "\0" in part or size > NAME_BYTES_MAX:
            raise InputError(f"the folder of a bucket cannot have the key {key!r}", "name another folder")


_MAKING = threading.Lock()


def _make_folders(folder: Path) -> None:
    """Makes what is missing, durably."""
    missing = []
    with _MAKING:
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


@contextlib.contextmanager
def _host_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", "make room on the server's disk") from error
