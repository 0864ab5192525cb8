"""Keys of flow logs in a bucket; the names are those of the VPC user guide, "Publish flow logs to Amazon S3"."""

from __future__ import annotations

from calendar import timegm

import pytest

from vnotch.bucket_keys import KeyName, Layout, other_service, parse_bucket_arn, parse_name, partition_seconds, slot_of

GUIDE = "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_20180620T1620Z_fe123456.log.gz"
PLAIN = "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/"
HIVE = "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/year=2018/month=06/day=20/"
DAY = timegm((2018, 6, 20, 0, 0, 0))


@pytest.mark.parametrize("folder", ["", PLAIN, "my/folder/" + PLAIN, HIVE + "hour=16/"])
def test_a_name_says_who_wrote_it_and_its_slot(folder: str):
    expected = KeyName("123456789012", "us-east-1", "fl-1234abcd", timegm((2018, 6, 20, 16, 20, 0)))
    assert parse_name(folder + GUIDE) == expected
    assert parse_name(folder + GUIDE.replace(".log.gz", ".log.parquet")) == expected


def test_a_merged_file_says_how_many_slots_it_spans():
    name = parse_name(PLAIN + GUIDE.replace("fe123456", "fe123456s12"))
    assert name is not None
    assert (name.slot_s, name.end_s) == (timegm((2018, 6, 20, 16, 20, 0)), timegm((2018, 6, 20, 17, 20, 0)))


@pytest.mark.parametrize(
    "name",
    ["flow.log.gz", GUIDE.replace("vpcflowlogs", "CloudTrail"), GUIDE.replace("20180620", "20181320"), GUIDE + ".bak"],
)
def test_other_names_say_nothing(name: str):
    assert parse_name(name) is None


@pytest.mark.parametrize(
    ("folder", "begin", "seconds"),
    [
        (PLAIN, DAY, 86_400),
        (PLAIN + "16/", DAY + 16 * 3600, 3600),
        (HIVE, DAY, 86_400),
        (HIVE + "hour=16/", DAY + 16 * 3600, 3600),
        ("AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/", timegm((2018, 6, 1, 0, 0, 0)), 30 * 86_400),
        ("AWSLogs/123456789012/vpcflowlogs/us-east-1/2020/", timegm((2020, 1, 1, 0, 0, 0)), 366 * 86_400),
        # A folder of the user's that looks like AWS's: the last one counts.
        ("x/year=1999/AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/", DAY, 86_400),
        ("../AWSLogs/1%2F/AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/", DAY, 86_400),
    ],
)
def test_folders_say_which_time_they_are_of(folder: str, begin: int, seconds: int):
    assert partition_seconds(folder) == (begin, begin + seconds)


@pytest.mark.parametrize(
    "folder", ["", "AWSLogs/123456789012/vpcflowlogs/us-east-1/", "logs/2018/06/20/", PLAIN.replace("06", "13")]
)
def test_folders_without_a_date_say_nothing(folder: str):
    assert partition_seconds(folder) is None


def test_logs_of_other_services_are_known_by_their_folder():
    assert other_service("x/AWSLogs/123456789012/CloudTrail/us-east-1/2018/06/20/a.json.gz") == "CloudTrail"
    assert other_service(PLAIN + GUIDE) is None
    assert other_service(HIVE + GUIDE) is None
    assert other_service("my/own/flow.log.gz") is None


# --- the key that a file gets ---

SLOT = timegm((2018, 6, 20, 16, 20, 0))


@pytest.mark.parametrize(
    ("hive", "per_hour", "partitions"),
    [
        (False, False, PLAIN),
        (False, True, PLAIN + "16/"),
        (True, False, HIVE),
        (True, True, HIVE + "hour=16/"),
    ],
)
def test_a_file_gets_the_key_of_the_guides_table(hive: bool, per_hour: bool, partitions: str):
    layout = Layout("", "123456789012", "us-east-1", "plain-text", hive, per_hour)
    assert layout.key("fl-1234abcd", SLOT, "fe123456") == partitions + GUIDE
    parquet = Layout("", "123456789012", "us-east-1", "parquet", hive, per_hour)
    assert parquet.key("fl-1234abcd", SLOT, "fe123456") == partitions + GUIDE.replace(".log.gz", ".log.parquet")


def test_month_day_and_hour_have_two_digits():
    key = Layout("", "123456789012", "us-east-1", per_hour=True).key("fl-1", timegm((2026, 1, 2, 3, 5, 0)), "0" * 8)
    assert "/2026/01/02/03/" in key
    assert "_20260102T0305Z_" in key


@pytest.mark.parametrize(
    ("folder", "begins"),
    [
        ("", "AWSLogs/"),
        ("folder", "folder/AWSLogs/"),
        ("folder/", "folder/AWSLogs/"),
        ("a/AWSLogs/b/", "a/AWSLogs/b/AWSLogs/"),
        ("a/../b", "a/../b/AWSLogs/"),
        ("100%/%2e%2e", "100%/%2e%2e/AWSLogs/"),
        ("ü ñ/日本/", "ü ñ/日本/AWSLogs/"),
        ("a//", "a//AWSLogs/"),
    ],
)
def test_the_folder_is_taken_as_it_was_given(folder: str, begins: str):
    key = Layout(folder, "123456789012", "us-east-1").key("fl-1234abcd", SLOT, "fe123456")
    assert key == begins + PLAIN.removeprefix("AWSLogs/") + GUIDE


@pytest.mark.parametrize("folder", ["", "my/folder", "AWSLogs/2017/01/", "year=2017/"])
@pytest.mark.parametrize("hive", [False, True])
@pytest.mark.parametrize("per_hour", [False, True])
def test_what_is_written_is_found_again_by_its_time(folder: str, hive: bool, per_hour: bool):
    key = Layout(folder, "123456789012", "us-east-1", "parquet", hive, per_hour).key("fl-1234abcd", SLOT, "fe123456")
    parsed = parse_name(key)
    assert parsed is not None
    assert parsed.slot_s == SLOT
    begin, end = partition_seconds(key.rpartition("/")[0] + "/") or (0, 0)
    assert (begin, end - begin) == ((SLOT - 1200, 3600) if per_hour else (DAY, 86_400))
    assert other_service(key) is None


def test_a_slot_is_five_minutes_of_which_the_end_belongs_to_the_next():
    """ "16:20:00 to 16:24:59" in the guide."""
    assert {slot_of(SLOT), slot_of(SLOT + 299)} == {SLOT}
    assert slot_of(SLOT + 300) == SLOT + 300


@pytest.mark.parametrize(
    ("arn", "parts"),
    [
        ("arn:aws:s3:::my-bucket", ("my-bucket", "")),
        ("arn:aws:s3:::my-bucket/", ("my-bucket", "")),
        ("arn:aws:s3:::my-bucket/a/b", ("my-bucket", "a/b")),
        ("arn:aws-cn:s3:::my.bucket/a%2F/", ("my.bucket", "a%2F/")),
        ("arn:aws:s3:::My-Bucket", None),
        ("arn:aws:s3:us-east-1:123456789012:my-bucket", None),
        ("arn:aws:s3:::", None),
        ("s3://my-bucket", None),
    ],
)
def test_the_arn_of_a_bucket(arn: str, parts: tuple[str, str] | None):
    assert parse_bucket_arn(arn) == parts
