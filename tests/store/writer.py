"""A process that puts batches into a lake and says on its output which ones were acknowledged; made to be killed.

    python writer.py FOLDER FIRST_BATCH THREADS [POINT NUMBER]

Batch N has `rows_of(N)` events with the messages `N-0`, `N-1`, ... in stream N % 3; small ones are inlined in the
catalog, large ones are Parquet files. Odd batches have a key and are put twice; of every four batches two are records
in typed columns whose one text field is that message. Each acknowledged batch is a line `N`. With a point, the process
kills itself the NUMBER-th time that it gets there; `POINTS` names them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from vnotch.fields import parse_format
from vnotch.store import committer, ducklake, event_files, upkeep
from vnotch.store.lake import PUT_SCHEMA, Lake
from vnotch.store.upkeep import UpkeepIntervals

BASE_MS = 1_700_000_000_000
FORMAT = parse_format("${interface-id} ${start} ${end}")


def rows_of(batch: int) -> int:
    return 3 + 400 * (batch % 2) + 2000 * (batch % 7 == 0)


def events_of(batch: int) -> pa.Table:
    rows = rows_of(batch)
    times = pa.array(range(BASE_MS + batch, BASE_MS + batch + rows), pa.int64())
    return pa.table([times, pa.array([f"{batch}-{row}" for row in range(rows)])], schema=PUT_SCHEMA)


def records_of(batch: int) -> pa.Table:
    events = events_of(batch)
    seconds = pa.array([1] * events.num_rows, pa.int64())
    return pa.table([events["timestamp_ms"], events["message"], seconds, seconds], ["timestamp_ms", *FORMAT.columns])


POINTS: dict[str, tuple[Any, str]] = {
    "rows numbered": (committer, "numbered_rows"),
    "file written": (event_files, "write_events"),
    "file added": (committer, "add_events"),
    "rows inserted": (committer, "insert"),
    "synced": (ducklake, "sync_path"),
    "new files synced": (ducklake.Catalog, "_sync_new_files"),
    "stored": (committer.Committer, "_store"),
    "files merged": (event_files, "sorted_rows"),
    "merge done": (upkeep, "merge_files"),
    "cleaned": (upkeep.Upkeep, "clean"),
}
"""Name -> the function at whose end (`after`) or beginning (`before`) it is."""


def die_at(point: str, number: int) -> None:
    """Arms one of the points, `before NAME` or `after NAME`."""
    when, _, name = point.partition(" ")
    owner, attribute = POINTS[name]
    right = getattr(owner, attribute)
    left = [number]

    def armed(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = right(*arguments, **options)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, armed)


def main() -> None:
    folder, first, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    lake = Lake.open(folder, intervals=UpkeepIntervals(merge=0.2, clean=0.3, expire=0.5))
    print("open", flush=True)
    if len(sys.argv) > 4:
        die_at(sys.argv[4], int(sys.argv[5]))
    numbers = count(first)

    def put() -> None:
        while True:
            batch = next(numbers)
            key = f"batch {batch}".encode() if batch % 2 else None
            for _ in range(2 if key else 1):
                if batch % 4 < 2:
                    lake.submit_records(1, batch % 3, FORMAT, records_of(batch), BASE_MS, key).result()
                else:
                    lake.submit(1, batch % 3, events_of(batch), BASE_MS, key).result()
            os.write(1, f"{batch}\n".encode())

    for _ in range(threads):
        threading.Thread(target=put, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
