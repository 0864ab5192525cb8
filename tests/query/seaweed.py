"""SeaweedFS: a real S3 server with real authentication, on loopback, for as long as a test module runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WEED = Path(sys.executable).with_name("weed")
OWNER = ("AKIAOWNEROWNEROWNER0", "owner-secret")
READER = ("AKIAREADERREADERREAD", "reader-secret")
"""The owner may do everything, the reader what a test says."""
START_SECONDS = 60


class Seaweed:
    def __init__(self, folder: Path, reader_may: list[str]) -> None:
        self.folder = folder
        ports = _free_ports(8)
        self.url = f"http://127.0.0.1:{ports[0]}"
        identities = [
            _identity("owner", OWNER, ["Admin", "Read", "Write", "List"]),
            _identity("reader", READER, reader_may),
        ]
        (folder / "identities.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        arguments = {
            "dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "filer": "true", "s3": "true",
            "s3.config": folder / "identities.json", "s3.port": ports[0], "s3.port.grpc": ports[1],
            "master.port": ports[2], "master.port.grpc": ports[3], "volume.port": ports[4],
            "volume.port.grpc": ports[5], "filer.port": ports[6], "filer.port.grpc": ports[7],
            "s3.port.iceberg": 0, "s3.port.lance": 0,  # two servers may run at once, and these ports are fixed
            "volume.max": "20", "master.volumeSizeLimitMB": "64",
        }  # fmt: skip
        with (folder / "weed.log").open("wb") as log:
            self.process = subprocess.Popen(
                [WEED, "server", *(f"-{name}={value}" for name, value in arguments.items())],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        """Until an object can be written: the parts of the server find each other one after another."""
        client = self.client(OWNER)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError):
                assert self.process.poll() is None, (self.folder / "weed.log").read_text()[-4000:]
                assert time.monotonic() < deadline, (self.folder / "weed.log").read_text()[-4000:]
                time.sleep(0.2)

    def client(self, key: tuple[str, str]) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="eu-west-1", aws_access_key_id=key[0],
            aws_secret_access_key=key[1], config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def environment(self, key: tuple[str, str] = OWNER) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": key[0],
            "AWS_SECRET_ACCESS_KEY": key[1],
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def become_owner(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test's own AWS settings are the owner's, and none but these."""
        for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)

    def empty(self, bucket: str) -> None:
        client = self.client(OWNER)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])

    def stop(self) -> None:
        self.process.kill()  # its data goes with the test; a gentle stop takes half a minute
        self.process.wait()


@contextmanager
def seaweed(folder: Path, bucket: str, reader_may: Sequence[str] = ()) -> Iterator[Seaweed]:
    """A server with an empty bucket, until the end."""
    server = Seaweed(folder, list(reader_may))
    try:
        server.client(OWNER).create_bucket(Bucket=bucket)
        yield server
    finally:
        server.stop()


def _identity(name: str, key: tuple[str, str], actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": key[0], "secretKey": key[1]}], "actions": actions}


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
