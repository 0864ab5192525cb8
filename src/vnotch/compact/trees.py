"""A tree of files that can be changed: a local folder, or a prefix of a bucket. Keys are paths below it.

What a method wrote or removed is durable when it returns, and a file appears as a whole or not at all.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from vnotch.durable import sync_folder
from vnotch.errors import AccessError, HostError, InputError, VnotchError
from vnotch.query.bucket import Bucket, parse_url
from vnotch.query.files import LocalFiles, LogFile
from vnotch.temporary_folder import TemporaryFolder

PUT_BYTES_MAX = 5 << 30
"""Of one PutObject (S3 API reference). It is atomic, which a multipart upload is too, but it needs no tidying up."""
_DELETE_KEYS_MAX = 1000
_HEADS_MAX = 4
"""Files that are asked for one by one; more are listed."""
_PART = ".part"


@dataclass(frozen=True)
class Found:
    """A file of a tree. `tag` changes whenever its contents do."""

    key: str
    size: int
    tag: str
    modified_s: float

    @property
    def folder(self) -> str:
        return self.key[: self.key.rfind("/") + 1]

    @property
    def name(self) -> str:
        return self.key[self.key.rfind("/") + 1 :]


class Tree(Protocol):
    def files(self) -> Iterator[Found]:
        """All files, folder by folder. Raises AccessError, InputError, HostError."""

    def find(self, folder: str, names: Sequence[str]) -> dict[str, Found]:
        """Those of some files of a folder that are there, by name."""

    def log_file(self, found: Found) -> LogFile:
        """The file as readers know it."""

    def scratch(self, folder: str) -> Path:
        """A new empty file on this host, from which `publish` puts a file into the folder."""

    def publish(self, scratch: Path, key: str) -> bool:
        """Puts what was written under its name; False, and nothing is changed, where there is a file of that name."""

    def create(self, key: str, data: bytes) -> bool:
        """As `publish`, of a small file."""

    def put(self, key: str, data: bytes) -> None:
        """A small file, in the place of one that is there."""

    def delete(self, folder: str, names: Sequence[str]) -> None:
        """Removes files; what is not there is right. Raises AccessError where one may not be removed."""

    def forget_scratch(self, folder: str) -> None:
        """Removes what a process that was killed has left in a folder, unseen by readers."""


def open_tree(source: str, profile: str | None = None, endpoint_url: str | None = None) -> Tree:
    """`s3://bucket/prefix`, `file:///folder` or a folder. Raises InputError."""
    if source.startswith("s3://"):
        name, prefix = parse_url(source)
        return BucketTree(Bucket(name, profile, endpoint_url), prefix)
    if source.startswith("file:"):
        url = urlsplit(source)
        if url.netloc not in ("", "localhost") or url.query or url.fragment:
            raise InputError(f"{source!r} is no local folder", "write file:///path")
        source = unquote(url.path)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"{source}: no such folder", "vnotch compact merges the files below a folder or prefix")
    return FolderTree(folder)


class FolderTree:
    """Below a local folder. Links are neither followed nor touched."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._place = LocalFiles()

    def files(self) -> Iterator[Found]:
        def failed(error: OSError) -> None:
            raise _os_error(error)

        for folder, folders, names in os.walk(self._top, onerror=failed):
            folders.sort()
            below = os.path.relpath(folder, self._top)
            prefix = "" if below == "." else below + "/"
            for name in sorted(names):
                if found := self._stat(prefix + name):
                    yield found

    def find(self, folder: str, names: Sequence[str]) -> dict[str, Found]:
        return {name: found for name in names if (found := self._stat(folder + name))}

    def _stat(self, key: str) -> Found | None:
        try:
            status = os.lstat(self._top / key)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        tag = f"{status.st_ino}-{status.st_mtime_ns}"
        return Found(key, status.st_size, tag, status.st_mtime)

    def log_file(self, found: Found) -> LogFile:
        path = str(self._top / found.key)
        return LogFile(self._place, path, path, found.size)

    def scratch(self, folder: str) -> Path:
        try:
            descriptor, path = tempfile.mkstemp(_PART, ".vnotch-", self._top / folder)
        except OSError as error:
            raise _os_error(error) from None
        os.close(descriptor)
        return Path(path)

    def publish(self, scratch: Path, key: str) -> bool:
        path = self._top / key
        try:
            with scratch.open("rb+") as file:
                self._like_its_folder(file.fileno(), path.parent)
                os.fsync(file.fileno())
            _link(scratch, path)
            scratch.unlink(missing_ok=True)
            sync_folder(path.parent)
        except (FileExistsError, FileNotFoundError):  # the scratch file is gone where another took the folder over
            scratch.unlink(missing_ok=True)
            return False
        except OSError as error:
            raise _os_error(error) from None
        return True

    @staticmethod
    def _like_its_folder(descriptor: int, folder: Path) -> None:
        """Readable for whom the folder is; of root's, the folder's owner's."""
        status = folder.stat()
        os.fchmod(descriptor, status.st_mode & 0o666)
        if os.geteuid() == 0:
            os.fchown(descriptor, status.st_uid, status.st_gid)

    def create(self, key: str, data: bytes) -> bool:
        scratch = self.scratch(key[: key.rfind("/") + 1])
        scratch.write_bytes(data)
        return self.publish(scratch, key)

    def put(self, key: str, data: bytes) -> None:
        path = self._top / key
        scratch = self.scratch(key[: key.rfind("/") + 1])
        try:
            with scratch.open("wb") as file:
                self._like_its_folder(file.fileno(), path.parent)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise _os_error(error) from None

    def delete(self, folder: str, names: Sequence[str]) -> None:
        try:
            for name in names:
                (self._top / folder / name).unlink(missing_ok=True)
            sync_folder(self._top / folder)
        except OSError as error:
            raise _os_error(error) from None

    def forget_scratch(self, folder: str) -> None:
        for path in (self._top / folder).glob(f".vnotch-*{_PART}"):
            with suppress(OSError):
                path.unlink()


class BucketTree:
    """Below a prefix of a bucket."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._scratch: TemporaryFolder | None = None

    def files(self) -> Iterator[Found]:
        folders = [self._prefix]
        while folders:
            below: list[str] = []
            for page in self._bucket.pages(folders.pop(), flat=False):
                yield from map(_found, page.get("Contents", ()))
                below += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            folders += reversed(below)

    def find(self, folder: str, names: Sequence[str]) -> dict[str, Found]:
        if len(names) <= _HEADS_MAX:
            return {name: found for name in names if (found := self._head(folder + name))}
        wanted = set(names)
        prefix = os.path.commonprefix([folder + name for name in names])  # noqa: RUF071 - of keys, by character
        pages = self._bucket.pages(prefix, flat=True)
        files = (_found(item) for page in pages for item in page.get("Contents", ()))
        return {file.name: file for file in files if file.folder == folder and file.name in wanted}

    def _head(self, key: str) -> Found | None:
        try:
            item = self._bucket.client.head_object(Bucket=self._bucket.name, Key=key)
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"].get("Code") in ("404", "NoSuchKey"):
                return None
            raise self._error(error, "reading", "s3:GetObject") from None
        return Found(key, item["ContentLength"], item["ETag"], item["LastModified"].timestamp())

    def log_file(self, found: Found) -> LogFile:
        return LogFile(self._bucket, f"s3://{self._bucket.name}/{found.key}", found.key, found.size)

    def scratch(self, folder: str) -> Path:
        if self._scratch is None:
            self._scratch = TemporaryFolder("vnotch-compact-")
        descriptor, path = tempfile.mkstemp(_PART, dir=self._scratch.path)
        os.close(descriptor)
        return Path(path)

    def publish(self, scratch: Path, key: str) -> bool:
        try:
            with scratch.open("rb") as file:
                return self._put(key, file, IfNoneMatch="*")
        finally:
            scratch.unlink()

    def create(self, key: str, data: bytes) -> bool:
        return self._put(key, data, IfNoneMatch="*")

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def _put(self, key: str, body: Any, **condition: str) -> bool:
        try:
            self._bucket.client.put_object(Bucket=self._bucket.name, Key=key, Body=body, **condition)
        except ClientError as error:
            if error.response["Error"].get("Code") in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                return False
            raise self._error(error, "writing", "s3:PutObject") from None
        except BotoCoreError as error:
            raise self._error(error, "writing", "s3:PutObject") from None
        return True

    def delete(self, folder: str, names: Sequence[str]) -> None:
        for begin in range(0, len(names), _DELETE_KEYS_MAX):
            objects = [{"Key": folder + name} for name in names[begin : begin + _DELETE_KEYS_MAX]]
            try:
                answer = self._bucket.client.delete_objects(
                    Bucket=self._bucket.name, Delete={"Objects": objects, "Quiet": True}
                )
            except (ClientError, BotoCoreError) as error:
                raise self._error(error, "deleting", "s3:DeleteObject") from None
            if failed := answer.get("Errors"):
                first = failed[0]
                raise AccessError(
                    f"{len(failed)} files could not be deleted, s3://{self._bucket.name}/{first.get('Key')} for one: "
                    f"{first.get('Code')}",
                    "s3:DeleteObject is needed",
                )

    def forget_scratch(self, folder: str) -> None:
        """The scratch files of a bucket lie in a temporary folder of this run; the next run removes a killed one's."""

    def _error(self, error: Exception, doing: str, permission: str) -> VnotchError:
        code = error.response["Error"].get("Code") if isinstance(error, ClientError) else None
        if code in ("AccessDenied", "403", "Forbidden"):
            return AccessError(f"{doing} in s3://{self._bucket.name} is refused: {code}", f"{permission} is needed")
        return HostError(f"{doing} in s3://{self._bucket.name}: {error}")


def _found(item: dict[str, Any]) -> Found:
    return Found(item["Key"], item["Size"], item["ETag"], item["LastModified"].timestamp())


def _link(scratch: Path, path: Path) -> None:
    """Gives a file its name. Raises FileExistsError; a rename would take the place of the file that is there."""
    try:
        os.link(scratch, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError from None
        scratch.rename(path)


def _os_error(error: OSError) -> VnotchError:
    return HostError(f"{error.filename or 'a file'}: {error.strerror or error}")
