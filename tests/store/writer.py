"""A process that puts batches into a lake and says on its output which ones were acknowledged; made to be killed.

    python writer.py FOLDER FIRST_BATCH THREADS

Batch N has `rows_of(N)` events with the messages `N-0`, `N-1`, ... in stream N % 3; small ones are inlined in the
catalog, large ones are Parquet files. Odd batches have a key and are put twice. Each acknowledged batch is a line `N`.
"""

from __future__ import annotations

import os
import sys
import threading
from itertools import count
from pathlib import Path

import pyarrow as pa

from vnotch.store.lake import PUT_SCHEMA, Lake
from vnotch.store.upkeep import UpkeepIntervals

BASE_MS = 1_700_000_000_000


def rows_of(batch: int) -> int:
    return 3 + 400 * (batch % 2) + 2000 * (batch % 7 == 0)


def events_of(batch: int) -> pa.Table:
    rows = rows_of(batch)
    times = pa.array(range(BASE_MS + batch, BASE_MS + batch + rows), pa.int64())
    return pa.table([times, pa.array([f"{batch}-{row}" for row in range(rows)])], schema=PUT_SCHEMA)


def main() -> None:
    folder, first, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    lake = Lake.open(folder, intervals=UpkeepIntervals(merge=0.2, clean=0.3, expire=0.5))
    print("open", flush=True)
    numbers = count(first)

    def put() -> None:
        while True:
            batch = next(numbers)
            key = f"batch {batch}".encode() if batch % 2 else None
            for _ in range(2 if key else 1):
                lake.submit(1, batch % 3, events_of(batch), BASE_MS, key).result()
            os.write(1, f"{batch}\n".encode())

    for _ in range(threads):
        threading.Thread(target=put, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
