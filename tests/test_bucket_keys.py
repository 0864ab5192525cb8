"""Keys of flow logs in a bucket; the names are those of the VPC user guide, "Publish flow logs to Amazon S3"."""

from __future__ import annotations

from calendar import timegm

import pytest

from vnotch.bucket_keys import KeyName, other_service, parse_name, partition_seconds

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
