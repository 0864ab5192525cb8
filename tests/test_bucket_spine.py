"""The whole path into buckets on real packets: namespaces, eBPF, agent, an S3 server, and independent readers.

The network is that of `spine`. SeaweedFS stands for S3; its key is the server's alone. boto3, pyarrow,
flowlogs-reader and `vnotch query` read what arrived, and all must find what the sender counted.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy
from flowlogs_reader import S3FlowLogsReader
from seaweed import OWNER, Seaweed, seaweed
from spine import ADDRESSES, AGENT, PORT, Network, Spine, running, until

from tests.cli.running import environment
from vnotch.bucket_keys import parse_name, slot_of
from vnotch.fields import DEFAULT_FORMAT, parse_format

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

BUCKET = "flow-logs"
TEXT, HIVE = "plain", "a%b/ü/AWSLogs"
ACCOUNT, REGION = "123456789012", "us-east-1"


class BucketSpine(Spine):
    def __init__(self, folder: Path, network: Network, weed: Seaweed) -> None:
        super().__init__(folder, network)
        self.weed = weed
        self.s3 = weed.client(OWNER)
        self.proxy = FaultProxy(weed.url)

    def settings_of(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Only the server has the bucket's key."""
        if name != "server":
            return [], {}
        variables = self.weed.environment()
        del variables["AWS_ENDPOINT_URL_S3"]
        return ["--s3-endpoint", self.proxy.url, "--s3-region", "eu-west-1"], variables

    def make_bucket_flow_logs(self) -> None:
        ec2 = self.endpoint.client("ec2")
        ec2.delete_flow_logs(FlowLogIds=[self.flow_log])
        vpc = ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.77.0.0/16"]}])["Vpcs"][0]["VpcId"]
        self.bucket_logs = {}
        for folder, options in (
            (TEXT, None),
            (HIVE, {"FileFormat": "parquet", "HiveCompatiblePartitions": True, "PerHourPartition": True}),
        ):
            made = ec2.create_flow_logs(
                ResourceIds=[vpc], ResourceType="VPC", TrafficType="ALL", LogDestinationType="s3",
                LogDestination=f"arn:aws:s3:::{BUCKET}/{folder}", MaxAggregationInterval=5,
                **({"DestinationOptions": options} if options else {}),
            )  # fmt: skip
            assert made["Unsuccessful"] == []
            self.bucket_logs[folder] = made["FlowLogIds"][0]

    def objects(self, folder: str) -> dict[str, bytes]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return {key: self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def text_records(self) -> list[list[str]]:
        return [
            line.split(" ")
            for data in self.objects(TEXT).values()
            for line in gzip.decompress(data).decode().splitlines()[1:]
        ]

    def counted(self) -> dict[str, tuple[int, int]]:
        return ours((fields[2], *fields[3:8], *fields[8:10]) for fields in self.text_records())


def ours(rows: Any) -> dict[str, tuple[int, int]]:
    """Interface -> packets and bytes of the datagrams that the sender counted."""
    found: dict[str, tuple[int, int]] = {}
    for eni, *flow, packets, size in rows:
        if [str(part) for part in flow] == [ADDRESSES["a"], ADDRESSES["b"], "40000", str(PORT), "17"]:
            before = found.get(eni, (0, 0))
            found[eni] = before[0] + int(packets), before[1] + int(size)
    return found


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed"), BUCKET) as server:
        yield server


@pytest.fixture
def spine(tmp_path: Path, weed: Seaweed) -> Iterator[BucketSpine]:
    weed.empty(BUCKET)
    made = BucketSpine(tmp_path, Network(), weed)
    try:
        with running(made) as spine:
            spine.make_bucket_flow_logs()
            yield spine
    finally:
        made.proxy.close()


def test_exactly_the_packets_sent_are_in_the_bucket_whatever_dies_meanwhile(spine: BucketSpine) -> None:
    until("both interfaces are attached", lambda: spine.binding_states() == {"attached"})
    spine.network.link_up()
    spine.send(300)
    until("a first file comes at once", lambda: spine.objects(TEXT) and spine.objects(HIVE))
    spine.kill("agent")
    spine.send(200)
    spine.start_agent()
    spine.send(100)
    spine.kill("server")
    spine.send(50)
    spine.start_server()
    until("the agent has what was sent", lambda: sum(spine.in_records().values()) >= 2 * spine.sent)
    for flow_log in spine.bucket_logs.values():
        spine.flow_log = flow_log
        assert spine.delivery() == ("SUCCESS", None)
    # What was collected for a flow log until it is deleted arrives, without an end of the slot or of the agent.
    spine.endpoint.client("ec2").delete_flow_logs(FlowLogIds=[spine.bucket_logs[HIVE]])
    until("the deleted flow log's last files are there", lambda: hive_records(spine) == spine.wanted)
    ledger = spine.in_records()
    agent = spine.processes["agent"]
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0, "with --flush everything is delivered at the end"

    # boto3 and gzip
    assert spine.counted() == spine.wanted
    assert {
        eni: sum(int(f[8]) for f in spine.text_records() if f[2] == eni and f[13] == "OK") for eni in ledger
    } == ledger
    check_text_files(spine)
    check_parquet_files(spine)
    check_other_readers(spine, ledger)


def test_a_bucket_that_is_gone_shows_and_nothing_is_lost_until_it_is_back(spine: BucketSpine) -> None:
    until("both interfaces are attached", lambda: spine.binding_states() == {"attached"})
    spine.network.link_up()
    spine.proxy.always = "no-bucket"
    spine.flow_log = spine.bucket_logs[TEXT]
    spine.send(200)
    until("the delivery fails", lambda: spine.delivery() == ("FAILED", "Access error"))
    spine.kill("agent")
    spine.send(50)
    spine.start_agent()
    assert spine.objects(TEXT) == {}
    spine.proxy.always = None
    until("the first file arrives", lambda: spine.objects(TEXT))
    until("the delivery heals", lambda: spine.delivery() == ("SUCCESS", None))
    agent = spine.processes["agent"]
    until("the agent has what was sent", lambda: sum(spine.in_records().values()) >= 2 * spine.sent)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
    assert spine.counted() == spine.wanted
    puts = [json.loads(line) for line in (spine.folders.root / "access.log").read_text().splitlines()]
    signed = [entry for entry in puts if entry["action"] == "vnotch:PresignUpload"]
    assert signed
    assert all(entry["principal_arn"].endswith(f":agent/{AGENT}") for entry in signed)


def check_text_files(spine: BucketSpine) -> None:
    """AWS's names and layout (VPC user guide, flow log files), and each record in its slot."""
    name = re.compile(
        rf"{TEXT}/AWSLogs/{ACCOUNT}/vpcflowlogs/{REGION}/(\d{{4}})/(\d\d)/(\d\d)/"
        rf"{ACCOUNT}_vpcflowlogs_{REGION}_{spine.bucket_logs[TEXT]}_\1\2\3T\d\d\d[05]Z_[0-9a-f]{{8}}\.log\.gz"
    )
    for key, data in spine.objects(TEXT).items():
        assert name.fullmatch(key), key
        header, *lines = gzip.decompress(data).decode().splitlines()
        assert header == (
            "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action "
            "log-status"
        )
        parsed = parse_name(key)
        assert parsed is not None
        assert {slot_of(int(line.split(" ")[11])) for line in lines} == {parsed.slot_s}


def check_parquet_files(spine: BucketSpine) -> None:
    """pyarrow reads the files by themselves, with AWS's columns and types."""
    name = re.compile(
        rf"{re.escape(HIVE)}/AWSLogs/aws-account-id={ACCOUNT}/aws-service=vpcflowlogs/aws-region={REGION}/"
        rf"year=(\d{{4}})/month=(\d\d)/day=(\d\d)/hour=(\d\d)/"
        rf"{ACCOUNT}_vpcflowlogs_{REGION}_{spine.bucket_logs[HIVE]}_\1\2\3T\4\d[05]Z_[0-9a-f]{{8}}\.log\.parquet"
    )
    for key, data in spine.objects(HIVE).items():
        assert name.fullmatch(key), key
        assert pq.read_table(io.BytesIO(data)).schema.names == list(parse_format(DEFAULT_FORMAT).columns)
    assert hive_records(spine) == spine.wanted


def hive_records(spine: BucketSpine) -> dict[str, tuple[int, int]]:
    columns = ("interface_id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes")
    return ours(tuple(row[column] for column in columns) for row in hive_rows(spine))


def hive_rows(spine: BucketSpine) -> list[dict[str, Any]]:
    return [row for data in spine.objects(HIVE).values() for row in pq.read_table(io.BytesIO(data)).to_pylist()]


def check_other_readers(spine: BucketSpine, ledger: dict[str, int]) -> None:
    weed = spine.weed
    client = boto3.client(
        "s3", endpoint_url=weed.url, region_name="eu-west-1", aws_access_key_id=OWNER[0], aws_secret_access_key=OWNER[1]
    )
    now = datetime.now(UTC).replace(tzinfo=None)  # the reader compares times without zone
    reader = S3FlowLogsReader(
        f"{BUCKET}/{TEXT}", start_time=now - timedelta(hours=1), end_time=now + timedelta(hours=1), boto_client=client,
        include_accounts={ACCOUNT}, include_regions={REGION},
    )  # fmt: skip
    read: Counter[str] = Counter()
    for record in reader:
        if record.log_status == "OK":
            read[record.interface_id] += record.packets
    assert dict(read) == ledger
    by_pyarrow: Counter[str] = Counter()  # of a flow log that ended before the ledger was looked at
    for row in hive_rows(spine):
        if row["log_status"] == "OK":
            by_pyarrow[row["interface_id"]] += row["packets"]
    for folder, wanted in ((TEXT, ledger), (HIVE, by_pyarrow)):
        command = [
            sys.executable, "-m", "vnotch", "query", "--output", "csv",
            "select interface_id, sum(packets) from flow_logs where log_status = 'OK' group by 1",
            "--from", f"s3://{BUCKET}/{folder}/",
        ]  # fmt: skip
        variables = environment(**weed.environment())
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        answer = dict(line.split(",") for line in done.stdout.splitlines()[1:])
        assert {eni: int(packets) for eni, packets in answer.items()} == wanted
