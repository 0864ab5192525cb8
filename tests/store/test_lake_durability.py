"""What an acknowledgement is worth: the order of fsyncs, kill -9, a disk that is full, a sync that fails."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.store.writer import BASE_MS, POINTS, rows_of
from vnotch.store import ducklake
from vnotch.store.committer import LakeUnavailable
from vnotch.store.lake import PUT_SCHEMA, Lake
from vnotch.store.upkeep import UpkeepIntervals

NEVER = UpkeepIntervals(merge=1e9, clean=1e9, expire=1e9)
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
EVER = 2**53


def numbered(count: int, text: str = "m") -> pa.Table:
    times = pa.array(range(BASE_MS, BASE_MS + count), pa.int64())
    return pa.table([times, pa.array([f"{text}{number}" for number in range(count)])], schema=PUT_SCHEMA)


def messages(lake: Lake) -> Counter[str]:
    return Counter(lake.events(1, start_ms=0, end_ms=EVER, limit=10_000_000)["message"].to_pylist())


# The order of fsyncs, as the kernel saw it


TRACED = """
import os, sys
from pathlib import Path
import pyarrow as pa
from tests.store.test_lake_durability import NEVER, numbered
from vnotch.store.lake import Lake
lake = Lake.open(Path(sys.argv[1]), intervals=NEVER)
lake.upkeep().result()
from tests.store.writer import FORMAT
for number in range(3):
    os.write(1, b"MARK begin\\n")
    events = numbered(int(sys.argv[2]), f"{number}-")
    seconds = pa.array([1] * events.num_rows, pa.int64())
    records = pa.table([*events.columns, seconds, seconds], ["timestamp_ms", *FORMAT.columns])
    if sys.argv[3] == "records":
        lake.submit_records(1, 1, FORMAT, records, 0, b"key %d" % number).result()
    else:
        lake.submit(1, 1, events, 0, b"key %d" % number).result()
    os.write(1, b"MARK acknowledged\\n")
os._exit(0)
"""


def traced_calls(folder: Path, rows: int, kind: str) -> list[list[tuple[str, str]]]:
    """For each put, (call, path) of its fsyncs and of the last writes to Parquet files, in order."""
    trace = folder / "trace"
    subprocess.run(
        [
            *("strace", "-f", "-y", "-e", "trace=fsync,fdatasync,write,pwrite64", "-s", "32", "-o", str(trace)),
            *(sys.executable, "-c", TRACED, str(folder / "lake"), str(rows), kind),
        ],
        env=ENVIRONMENT,
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        timeout=100,
    )
    puts: list[list[tuple[str, str]]] = []
    inside = False
    for line in trace.read_text(errors="replace").splitlines():
        found = re.search(r"(fsync|fdatasync|write|pwrite64)\(\d+<([^>]*)>(.*)", line)
        if found is None:
            continue
        call, path, rest = found.groups()
        if "MARK begin" in rest:
            puts.append([])
            inside = True
        elif "MARK acknowledged" in rest:
            puts[-1].append(("acknowledged", ""))
            inside = False
        elif inside:
            puts[-1].append(("fsync" if call.startswith("f") else "write", path))
    return puts


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (sudo apt install strace)")
@pytest.mark.parametrize("kind", ["text", "records"])
def test_data_then_folder_then_catalog_are_synced_before_the_acknowledgement(tmp_path: Path, kind: str) -> None:
    puts = traced_calls(tmp_path, rows=500, kind=kind)
    assert len(puts) == 3
    for calls in puts:
        files = {path for call, path in calls if call == "write" and path.endswith(".parquet")}
        assert len(files) == 1  # the events; the batch key is a row in the catalog
        (file,) = files
        last_write = max(i for i, (call, path) in enumerate(calls) if call == "write" and path == file)
        file_synced = calls.index(("fsync", file))
        folder_synced = calls.index(("fsync", os.path.dirname(file)))
        catalog_written = [
            i for i, (call, path) in enumerate(calls) if call == "write" and path.endswith("catalog.sqlite-wal")
        ]
        catalog_synced = [
            i for i, (call, path) in enumerate(calls) if call == "fsync" and path.endswith("catalog.sqlite-wal")
        ]
        acknowledged = calls.index(("acknowledged", ""))
        assert last_write < file_synced < folder_synced < min(catalog_written)
        # The last frame of the commit is in the log before the sync that answers for it.
        assert max(catalog_written) < max(catalog_synced) < acknowledged


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (sudo apt install strace)")
@pytest.mark.parametrize("kind", ["text", "records"])
def test_a_small_put_is_synced_in_the_catalog(tmp_path: Path, kind: str) -> None:
    for calls in traced_calls(tmp_path, rows=3, kind=kind):
        assert not [path for call, path in calls if call == "write" and path.endswith(".parquet")]
        written = [i for i, (call, path) in enumerate(calls) if call == "write" and path.endswith("sqlite-wal")]
        synced = [i for i, (call, path) in enumerate(calls) if call == "fsync" and path.endswith("sqlite-wal")]
        assert max(written) < max(synced) < calls.index(("acknowledged", ""))


# kill -9


def kill_at_random(folder: Path, first: int, acknowledgements: int, delay_seconds: float, threads: int) -> list[int]:
    """Runs the writer and kills it a moment after so many acknowledgements; the batches it acknowledged in all."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/store/writer.py"), str(folder), str(first), str(threads)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    lines = [process.stdout.readline() for _ in range(acknowledgements)]
    time.sleep(delay_seconds)
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    assert process.wait() == -signal.SIGKILL, "the writer ended by itself"
    return [int(line) for line in lines]


def check_after_kill(folder: Path, acknowledged: list[int]) -> None:
    """Every acknowledged batch is there whole and once; one that was under way is there whole or not at all."""
    lake = Lake.open(folder, intervals=NEVER)
    try:
        # Of records the message is the first field of the line.
        found = Counter(message.partition(" ")[0] for message in messages(lake).elements())
        twice = [message for message, count in found.items() if count != 1]
        assert not twice
        rows = Counter(int(message.partition("-")[0]) for message in found)
        assert not [batch for batch in acknowledged if rows[batch] != rows_of(batch)]
        assert not [batch for batch, count in rows.items() if count != rows_of(batch)]
    finally:
        lake.close()


def run_kills(folder: Path, kills: int, seed: int) -> int:
    chance = random.Random(seed)
    acknowledged: list[int] = []
    for number in range(kills):
        after, delay_seconds = chance.randrange(8), chance.uniform(0, 0.15)
        acknowledged += kill_at_random(folder, number * 100_000, after, delay_seconds, chance.choice((1, 4)))
        if number % 5 == 4 or number == kills - 1:
            check_after_kill(folder, acknowledged)
    return len(acknowledged)


def test_kill_9_loses_and_repeats_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    assert run_kills(tmp_path / "lake", kills=10, seed=1) > 20


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_kills(tmp_path: Path) -> None:
    assert run_kills(tmp_path / "lake", kills=100, seed=2) > 500


def die_at(folder: Path, first: int, point: str, number: int) -> list[int]:
    """Runs the writer until it kills itself at a named point; the batches that it acknowledged."""
    process = subprocess.run(
        [sys.executable, str(ROOT / "tests/store/writer.py"), str(folder), str(first), "4", point, str(number)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, f"the writer never came to {point}"
    return [int(line) for line in process.stdout.splitlines()[1:]]


NAMED = [f"{when} {name}" for name in POINTS for when in ("before", "after")]
assert len(NAMED) == 20


@pytest.mark.parametrize("point", NAMED[::4])
def test_kill_9_at_a_named_point(tmp_path: Path, point: str) -> None:
    check_after_kill(tmp_path / "lake", die_at(tmp_path / "lake", 0, point, 3))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kill_9_at_every_named_point(tmp_path: Path) -> None:
    """One lake lives through all of them, some of them early and some late."""
    acknowledged: list[int] = []
    for number, point in enumerate(NAMED):
        acknowledged += die_at(tmp_path / "lake", number * 100_000, point, 1 + number % 4)
        check_after_kill(tmp_path / "lake", acknowledged)
    assert len(acknowledged) > 20


# Failing disks


def test_a_sync_that_fails_is_not_acknowledged_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path / "lake", intervals=NEVER)
    lake.submit(1, 1, numbered(100, "before"), 0, b"1").result()

    def broken(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(ducklake, "sync_path", broken)
        with pytest.raises(LakeUnavailable, match="Input/output"):
            lake.submit(1, 1, numbered(100, "failed"), 0, b"2").result()
    files = len(list((tmp_path / "lake/data/main/events").glob("*.parquet")))
    assert files == 1
    # The batch was not stored, so its key is still free.
    assert not lake.submit(1, 1, numbered(100, "failed"), 0, b"2").result().duplicate
    assert len(messages(lake)) == 200
    assert lake.status()["failed_commits"] == 1
    lake.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "vnotch-test", str(mounted)], check=True)
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.root
def test_a_full_disk_is_refused_clearly_and_service_resumes(small_disk: Path) -> None:
    lake = Lake.open(small_disk / "lake", intervals=NEVER, budget_bytes=1 << 40)
    ballast = small_disk / "ballast"
    acknowledged: Counter[str] = Counter()

    def put(number: int) -> bool:
        # Bytes that do not compress, so that the disk really fills.
        texts = [f"{number}-{row}-{random.randbytes(200).hex()}" for row in range(500)]
        times = pa.array([BASE_MS] * 500, pa.int64())
        try:
            lake.submit(1, 1, pa.table([times, pa.array(texts)], schema=PUT_SCHEMA), 0, b"%d" % number).result()
        except LakeUnavailable:
            return False
        acknowledged.update(texts)
        return True

    for round_number in range(2):
        ballast.write_bytes(b"x" * (2 << 20))
        outcomes = [put(round_number * 1000 + number) for number in range(60)]
        assert outcomes[0]
        assert not outcomes[-1]
        assert messages(lake) == acknowledged
        ballast.unlink()
        assert put(round_number * 1000 + 999)
        assert messages(lake) == acknowledged
        # Make room for the second round as the disk budget would.
        lake._upkeep.budget_bytes = 1
        lake.upkeep().result()
        lake._upkeep.budget_bytes = 1 << 40
        _clean_at_once(lake)
        acknowledged = messages(lake)
        assert not acknowledged
    lake.close()
    reopened = Lake.open(small_disk / "lake", intervals=NEVER)
    assert messages(reopened) == acknowledged
    reopened.close()


def _clean_at_once(lake: Lake) -> None:
    from vnotch.store import upkeep

    before, upkeep.READER_SECONDS = upkeep.READER_SECONDS, 0
    try:
        for _ in range(2):
            lake.upkeep().result()
            time.sleep(0.01)
    finally:
        upkeep.READER_SECONDS = before
