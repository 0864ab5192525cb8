"""Buckets: a real S3 server (SeaweedFS) with real authentication, AWS's layout, and the user's own AWS settings."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import FOLDER, HEADER, HIVE, NAME, RDP, SSH, ask
from parquet_files import RECORD, parquet
from seaweed import OWNER, READER, Seaweed, seaweed

from vnotch.errors import AccessError, HostError, InputError
from vnotch.query.bucket import parse_url
from vnotch.query.problems import Problem

BUCKET = "logs"
TEXT = gzip.compress(f"{HEADER}\n{SSH}\n{RDP}\n".encode())
COUNT = "select count(*) from flow_logs"


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed"), BUCKET, [f"List:{BUCKET}", f"Read:{BUCKET}/open/*"]) as server:
        yield server


@pytest.fixture(autouse=True)
def settings(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.become_owner(monkeypatch)


@pytest.fixture
def parquet_bytes(tmp_path: Path) -> bytes:
    return parquet(tmp_path / "x.parquet", [RECORD, RECORD | {"action": "REJECT"}]).read_bytes()


def put(weed: Seaweed, key: str, data: bytes) -> str:
    weed.client(OWNER).put_object(Bucket=BUCKET, Key=key, Body=data)
    return f"s3://{BUCKET}/{key}"


def test_text_and_parquet_plain_and_hive_are_one_table(weed: Seaweed, parquet_bytes: bytes):
    day = FOLDER.format(day="2026/01/31")
    hive = HIVE.format(year="2026", month="01", day="31")
    put(weed, "one/" + day + NAME.format(time="20260131T1200Z") + ".gz", TEXT)
    put(weed, "one/" + day + "12/" + NAME.format(time="20260131T1205Z") + ".gz", TEXT)
    put(weed, "one/" + hive + NAME.format(time="20260131T1200Z") + ".parquet", parquet_bytes)
    put(weed, "one/" + hive + "hour=12/" + NAME.format(time="20260131T1205Z") + ".parquet", parquet_bytes)
    found = ask("select action, count(*) as n from flow_logs group by 1 order by 1", f"s3://{BUCKET}/one/")
    assert found.rows == [{"action": "ACCEPT", "n": 4}, {"action": "REJECT", "n": 4}]
    assert not found.problems


def test_one_object_and_a_prefix_within_a_name_are_read(weed: Seaweed):
    url = put(weed, "single/flow-a.log.gz", TEXT)
    put(weed, "single/flow-b.log.gz", TEXT)
    assert ask(COUNT, url).values == [2]
    assert ask(COUNT, f"s3://{BUCKET}/single/flow-").values == [4]


@pytest.mark.parametrize(
    "prefix",
    [
        "100%/",
        "a b+c=d&e/",
        "üñ/日本/",
        "AWSLogs/AWSLogs/",
        "x%2Fy/",
        "it's;--/",
        "q?[1]*#/",
        "year=2025/month=01/",
        "dots../",
    ],
)
def test_any_prefix_is_read_as_it_is(weed: Seaweed, prefix: str, parquet_bytes: bytes):
    put(weed, prefix + "a.log.gz", TEXT)
    put(weed, prefix + "b.parquet", parquet_bytes)
    assert ask(COUNT, f"s3://{BUCKET}/{prefix}").values == [4]


def test_dots_in_a_prefix_never_lead_out_of_it(weed: Seaweed):
    put(weed, "up/secret.log.gz", TEXT)
    put(weed, "down/a.log.gz", TEXT)
    with pytest.raises((InputError, HostError)):
        ask(COUNT, f"s3://{BUCKET}/down/../up/")


@pytest.mark.parametrize("hive", [False, True])
def test_folders_of_other_times_are_not_listed_and_files_not_read(weed: Seaweed, hive: bool):
    """They hold what would be a problem if it were read."""
    top = f"pruned-{hive}/"

    def key(year: str, month: str, day: str, time: str) -> str:
        if hive:
            folder = HIVE.format(year=year, month=month, day=day) + f"hour={time[:2]}/"
        else:
            folder = FOLDER.format(day=f"{year}/{month}/{day}") + f"{time[:2]}/"
        return top + folder + NAME.format(time=f"{year}{month}{day}T{time}Z") + ".gz"

    ended = 1769860805  # 2026-01-31T12:00:05Z
    line = SSH.replace("1418530070", str(ended))
    put(weed, key("2026", "01", "31", "1200"), gzip.compress(f"{HEADER}\n{line}\n".encode()))
    for other in (("2026", "01", "31", "0900"), ("2026", "01", "30", "1200"), ("2025", "01", "31", "1200")):
        put(weed, key(*other), b"\x1f\x8b garbage")
    found = ask(COUNT, f"s3://{BUCKET}/{top}", since="2026-01-31T11:45", until="2026-01-31T12:30")
    assert found.values == [1]
    assert not found.problems
    assert ask(COUNT, f"s3://{BUCKET}/{top}").problems.files == 3


def test_bad_objects_are_named_and_the_rest_is_read(weed: Seaweed, parquet_bytes: bytes):
    put(weed, "bad/a.log.gz", TEXT)
    cut = put(weed, "bad/b.log.gz", TEXT[: len(TEXT) // 2])
    half = put(weed, "bad/c.parquet", parquet_bytes[: len(parquet_bytes) // 2])
    put(weed, "bad/readme.html", b"<html>")
    found = ask(COUNT, f"s3://{BUCKET}/bad/")
    assert found.values == [2]
    assert [item.file for item in found.problems.of(Problem.TRUNCATED)] == [cut]
    assert [item.file for item in found.problems.of(Problem.DAMAGED_PARQUET)] == [half]
    assert found.problems.foreign == ["bad/readme.html"]


def test_objects_that_may_not_be_read_are_named(weed: Seaweed, parquet_bytes: bytes, monkeypatch: pytest.MonkeyPatch):
    put(weed, "open/a.log.gz", TEXT)
    denied = {put(weed, "closed/b.log.gz", TEXT), put(weed, "closed/c.parquet", parquet_bytes)}
    for name, value in weed.environment(READER).items():
        monkeypatch.setenv(name, value)
    found = ask(COUNT, f"s3://{BUCKET}/open/", f"s3://{BUCKET}/closed/")
    assert found.values == [2]
    assert {item.file for item in found.problems.of(Problem.DENIED)} == denied


def test_a_bucket_that_may_not_be_listed_is_an_error(weed: Seaweed, monkeypatch: pytest.MonkeyPatch):
    for name, value in weed.environment(READER).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AccessError, match="listing s3://ready is refused: AccessDenied"):
        ask(COUNT, "s3://ready/")


def test_a_wrong_key_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessError, match="SignatureDoesNotMatch") as caught:
        ask(COUNT, f"s3://{BUCKET}/")
    assert "is the key of your AWS settings right" in str(caught.value)


def test_a_bucket_that_does_not_exist_is_an_error():
    with pytest.raises(InputError, match="there is no bucket nowhere"):
        ask(COUNT, "s3://nowhere/")


def test_a_question_cannot_reach_another_object(weed: Seaweed, parquet_bytes: bytes, monkeypatch: pytest.MonkeyPatch):
    put(weed, "mine/a.parquet", parquet_bytes)
    other = put(weed, "other/b.parquet", parquet_bytes)
    with pytest.raises(InputError):
        ask(f"select * from read_parquet('{other}')", f"s3://{BUCKET}/mine/")
    monkeypatch.setattr("vnotch.query.engine.check_statement", lambda connection, sql: None)
    for sql in (
        f"select * from read_parquet('{other}')", f"select * from '{other}'", f"from read_parquet('s3://{BUCKET}/*/*')",
        f"copy (select 1 as a) to 's3://{BUCKET}/mine/new.parquet'",
    ):  # fmt: skip
        with pytest.raises(InputError):
            ask(sql, f"s3://{BUCKET}/mine/")
    assert OWNER[1] not in str(ask("from duckdb_secrets()", f"s3://{BUCKET}/mine/").rows)


def test_the_users_profile_and_its_endpoint_are_used(
    weed: Seaweed, parquet_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As the aws CLI would: the profile has the endpoint, the region and, by its source, the key."""
    put(weed, "profile/a.parquet", parquet_bytes)
    put(weed, "profile/b.log.gz", TEXT)
    for name in weed.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "config").write_text(
        f"[profile mine]\nregion = eu-west-1\nservices = here\n[services here]\ns3 =\n  endpoint_url = {weed.url}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {OWNER[0]}\naws_secret_access_key = {OWNER[1]}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(HostError, match="no AWS credentials"):
        ask(COUNT, f"s3://{BUCKET}/profile/", endpoint_url=weed.url)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert ask(COUNT, f"s3://{BUCKET}/profile/").values == [4]


def test_an_endpoint_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr("vnotch.query.bucket.TRIES", 1)
    with pytest.raises(HostError, match="logs"):
        ask(COUNT, f"s3://{BUCKET}/")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3://bucket//a", ("bucket", "/a")),
        ("s3://bucket/%2e%2e/ü", ("bucket", "%2e%2e/ü")),
    ],
)
def test_urls_are_taken_apart_and_nothing_is_decoded(url: str, parts: tuple[str, str]):
    assert parse_url(url) == parts


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(InputError, match="names no bucket"):
        parse_url("s3:///prefix")
