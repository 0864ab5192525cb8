"""A host in miniature whose flow logs go into a bucket, which is a dictionary of keys and contents."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from world import SECOND, World, flow_log

from vnotch.bucket_keys import slot_of
from vnotch.deliver.publisher import Publisher
from vnotch.inventory import FlowLog


def bucket_log(name: str, enis: list[int], interval: int = 60, file_format: str = "plain-text", **more: Any) -> FlowLog:
    return replace(
        flow_log(name, enis, interval, **more),
        log_destination_type="s3",
        log_group_name="",
        deliver_logs_permission_arn="",
        file_format=file_format,
    )


class BucketWorld(World):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.objects: dict[tuple[str, int, str], bytes] = {}  # flow log, slot, hash
        self.formats: dict[str, str] = {}  # flow log -> file format
        self.uploads = 0
        self.everything = False

    def start(self, **more: Any) -> Any:
        capture = super().start(**more)
        self.publisher = Publisher(
            capture.spool, capture.outbox, self.folder, capture.incarnation, capture.intervals,
            now_s=lambda: self.time_ns / SECOND,
        )  # fmt: skip
        return capture

    def deliver(self) -> None:
        super().deliver()
        self.publisher.publish(everything=self.everything)
        outbox = self.capture.outbox
        for flow_log_id in outbox.ready():
            while leased := outbox.lease(flow_log_id):
                [file] = leased
                assert outbox.read(file) is file
                self.put((flow_log_id, file.slot_s, file.name_hash), file.path.read_bytes(), file.file_format)
                outbox.acknowledge(file)

    def put(self, key: tuple[str, int, str], data: bytes, file_format: str) -> None:
        self.uploads += 1
        assert self.objects.get(key, data) == data, f"{key} has other contents than before"
        self.objects[key] = data
        self.formats[key[0]] = file_format

    def finish(self) -> None:
        self.everything = True
        super().finish()
        self.everything = False

    def tables(self, flow_log_id: str) -> list[tuple[int, pa.Table]]:
        """Slot and records of each file, as text."""
        found = []
        for (name, slot_s, _), data in self.objects.items():
            if name != flow_log_id:
                continue
            if self.formats[name] == "parquet":
                table = pq.read_table(io.BytesIO(data))
                rows = [["-" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
                names = table.schema.names
            else:
                header, *lines = gzip.decompress(data).decode().splitlines()
                names = header.replace("-", "_").split(" ")
                rows = [line.split(" ") for line in lines]
            assert rows, "a file without a record"
            found.append((slot_s, pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})))
        return found

    def packets(self, group: str) -> Counter[tuple[str, str]]:
        counted: Counter[tuple[str, str]] = Counter()
        for slot_s, table in self.tables(group.replace("group-", "fl-")):
            for row in table.to_pylist():
                assert slot_of(int(row["end"])) == slot_s
                if row["log_status"] == "OK":
                    counted[row["interface_id"], row["srcaddr"]] += int(row["packets"])
        return counted
