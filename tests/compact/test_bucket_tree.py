"""Merging files in a bucket: a real S3 server with real authentication."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from asking import ask
from flow_log_trees import DAY, SOMEONE_GONE, compacted, many
from seaweed import OWNER, READER, Seaweed, seaweed

from vnotch.__main__ import main
from vnotch.compact import compaction
from vnotch.compact.trees import BucketTree, open_tree
from vnotch.errors import AccessError, HostError
from vnotch.query.bucket import Bucket

BUCKET = "logs"
COUNT = "select count(*) from flow_logs"


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed"), BUCKET, [f"List:{BUCKET}", f"Read:{BUCKET}"]) as server:
        yield server


@pytest.fixture(autouse=True)
def settings(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.become_owner(monkeypatch)


def put(weed: Seaweed, prefix: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        weed.client(OWNER).put_object(Bucket=BUCKET, Key=prefix + name, Body=data)


def keys(weed: Seaweed, prefix: str) -> list[str]:
    listed = weed.client(OWNER).list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in listed.get("Contents", ())]


def lines(weed: Seaweed, prefix: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for key in keys(weed, prefix):
        if key.endswith(".log.gz"):
            body = weed.client(OWNER).get_object(Bucket=BUCKET, Key=key)["Body"].read()
            found.update(gzip.decompress(body).decode().splitlines()[1:])
    return found


@pytest.mark.parametrize("folder", ["", "100% a/b+c=d/üñ/AWSLogs/"])
@pytest.mark.parametrize("suffix", [".log.gz", ".log.parquet"])
def test_small_files_in_a_bucket_become_one(weed: Seaweed, folder: str, suffix: str):
    prefix = f"one{suffix}/{folder}"
    put(weed, prefix + DAY, many(12, 5, suffix))
    put(weed, prefix + DAY, {"x.csv": b"not ours"})
    (merged,) = compacted(open_tree(f"s3://{BUCKET}/{prefix}"), older_than_seconds=0).merged
    assert keys(weed, prefix) == [prefix + DAY + merged.into, prefix + DAY + "x.csv"]
    assert ask(COUNT, f"s3://{BUCKET}/{prefix}").values == [60]


class _Killed(BaseException):
    pass


class Fragile(BucketTree):
    def __init__(self, prefix: str, dies_at: int) -> None:
        super().__init__(Bucket(BUCKET), prefix)
        self._left = dies_at

    def _change(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise _Killed

    def _put(self, *arguments: object, **condition: str) -> bool:
        self._change()
        return super()._put(*arguments, **condition)  # type: ignore[arg-type]

    def delete(self, folder: str, names: Sequence[str]) -> None:
        for name in names:
            self._change()
            super().delete(folder, [name])


def test_a_kill_at_any_point_loses_and_doubles_nothing(weed: Seaweed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compaction, "is_gone", lambda owner: owner == SOMEONE_GONE)
    for dies_at in range(1, 30):
        prefix = f"killed-{dies_at}/"
        put(weed, prefix + DAY, many(3, 2))
        before = lines(weed, prefix)
        try:
            compacted(Fragile(prefix, dies_at), owner=SOMEONE_GONE, older_than_seconds=0)
        except _Killed:
            killed = True
        else:
            killed = False
        found = ask(COUNT, f"s3://{BUCKET}/{prefix}")
        assert (found.values, bool(found.problems)) == ([6], False), f"killed at {dies_at}"
        assert set(lines(weed, prefix)) == set(before)
        compacted(open_tree(f"s3://{BUCKET}/{prefix}"), older_than_seconds=0)
        assert lines(weed, prefix) == before
        assert len(keys(weed, prefix)) == 1
        if not killed:
            assert dies_at > 6
            return
    raise AssertionError("it never came to its end")


def test_who_may_not_write_changes_nothing(weed: Seaweed, monkeypatch: pytest.MonkeyPatch):
    put(weed, "denied/" + DAY, many(3, 2))
    before = keys(weed, "denied/")
    for name, value in weed.environment(READER).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AccessError, match="refused"):
        compacted(open_tree(f"s3://{BUCKET}/denied/"), older_than_seconds=0)
    assert keys(weed, "denied/") == before


def test_who_may_write_but_not_delete_changes_nothing(weed: Seaweed):
    """SeaweedFS does not tell the two apart, so the refusal is made here."""

    class MayNotDelete(BucketTree):
        def delete(self, folder: str, names: Sequence[str]) -> None:
            raise AccessError("deleting is refused", "s3:DeleteObject is needed")

    put(weed, "undeletable/" + DAY, many(3, 2))
    before = keys(weed, "undeletable/")
    with pytest.raises(AccessError):
        compacted(MayNotDelete(Bucket(BUCKET), "undeletable/"), older_than_seconds=0)
    assert [key for key in keys(weed, "undeletable/") if "_vnotch" not in key] == before


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr("vnotch.query.bucket.TRIES", 1)
    with pytest.raises(HostError, match=r"127\.0\.0\.1:9"):
        compacted(open_tree(f"s3://{BUCKET}/x/"))


def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vnotch", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capfd.readouterr()
    return int(left.value.code or 0), out, err


def test_the_command_says_what_it_did(
    weed: Seaweed, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compaction, "LINGER_SECONDS", 0.0)
    files = many(4, 3)
    put(weed, "command/" + DAY, files)
    source = f"s3://{BUCKET}/command/"
    status, out, _ = run(capfd, monkeypatch, "compact", source, "--older-than", "0s", "--dry-run", "--json")
    planned = json.loads(out)
    assert (status, planned["dry_run"], planned["merged"][0]["files"]) == (0, True, 4)
    assert len(keys(weed, "command/")) == 4
    status, out, _ = run(capfd, monkeypatch, "compact", source)
    assert (status, "4 files left: large enough, or written too lately" in out) == (0, True)
    status, out, err = run(capfd, monkeypatch, "compact", source, "--older-than", "0s")
    assert (status, err) == (0, "")
    assert "4 files became 1" in out
    assert f"of 4 files, {sum(map(len, files.values())):,} bytes" in out
    assert keys(weed, "command/") == ["command/" + DAY + planned["merged"][0]["into"]]


def test_the_command_names_files_that_it_left(
    weed: Seaweed, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compaction, "LINGER_SECONDS", 0.0)
    files = many(3, 300)
    bad = sorted(files)[1]
    put(weed, "bad/" + DAY, files | {bad: files[bad][:900]})
    status, out, err = run(capfd, monkeypatch, "compact", f"s3://{BUCKET}/bad/", "--older-than", "0s")
    assert status == 3
    assert "these files stay as they are: problems in 1 file" in err
    assert bad in err
    assert "2 files became 1" in out


@pytest.mark.parametrize(
    "arguments",
    [["/nowhere"], [".", "--span", "2h"], [".", "--target-size", "x"], [".", "--target-size", "1TB"],
     [".", "--older-than", "-1"]],
)  # fmt: skip
def test_wrong_options_are_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    status, out, err = run(capfd, monkeypatch, "compact", *arguments)
    assert (status, out, len(err.strip().splitlines())) == (2, "", 1)
