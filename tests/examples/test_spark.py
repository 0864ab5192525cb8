"""Spark reads the files that vnotch writes, and answers as DuckDB does: PySpark in local mode, files from SeaweedFS."""

from __future__ import annotations

import importlib.util
import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from asking import ask
from seaweed import OWNER, Seaweed

from vnotch.bucket_files import write_parquet, write_text
from vnotch.bucket_replacement import REPLACEMENT_NAME, Replacement
from vnotch.fields import DEFAULT_FORMAT, parse_format
from vnotch.line import parse_lines

pytestmark = pytest.mark.soak

BUCKET = "logs"
DEFAULT = parse_format(DEFAULT_FORMAT)
RECORDS_PER_FILE = 20_000
FOLDERS = {
    "plain": "AWSLogs/123456789012/vpcflowlogs/us-east-1/2026/01/{day}/{hour}/",
    "hive": "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/year=2026/month=01/"
    "day={day}/hour={hour}/",
}
SUFFIXES = {"text": ".log.gz", "parquet": ".log.parquet"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "spark" / "flow_logs.py"


def lines(seed: int) -> pa.Array:
    chance = random.Random(seed)
    status = "2 123456789012 eni-0000000000000000f - - - - - - - 1769860800 1769860860 - NODATA"
    made = [
        f"2 123456789012 eni-{chance.randrange(40):017x} {address(chance)} {address(chance)} {chance.randrange(65536)} "
        f"{chance.choice((22, 53, 80, 443, 3389))} {chance.choice((6, 17))} {chance.randrange(1, 90)} "
        f"{chance.randrange(1 << 40)} {1769860800 + chance.randrange(300)} 1769861100 "
        f"{chance.choice(('ACCEPT', 'ACCEPT', 'REJECT'))} OK"
        for _ in range(RECORDS_PER_FILE)
    ]
    return pa.array([*made, status])


def address(chance: random.Random) -> str:
    if chance.random() < 0.1:
        return f"2001:db8::{chance.randrange(1, 500):x}"
    return f"10.{chance.randrange(4)}.{chance.randrange(8)}.{chance.randrange(1, 250)}"


def name(seed: int, suffix: str) -> str:
    return f"123456789012_vpcflowlogs_us-east-1_fl-1234abcd_20260131T1200Z_{seed:08x}{suffix}"


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Seaweed, Path]]:
    """Files of four kinds in a bucket, and the folder into which all of it was downloaded."""
    server = Seaweed(tmp_path_factory.mktemp("weed"), [])
    try:
        client = server.client(OWNER)
        client.create_bucket(Bucket=BUCKET)
        for seed, (day, hour) in enumerate([("30", "23"), ("31", "00"), ("31", "01")]):
            records = lines(seed)
            for kind, suffix in SUFFIXES.items():
                out = io.BytesIO()
                if kind == "text":
                    write_text(records, DEFAULT.header, out)
                else:
                    write_parquet(parse_lines(records, DEFAULT), out)
                for layout, folder in FOLDERS.items():
                    key = f"{layout}-{kind}/{folder.format(day=day, hour=hour)}{name(seed, suffix)}"
                    client.put_object(Bucket=BUCKET, Key=key, Body=out.getvalue())
        said = Replacement((), "nobody", 0)  # what lies there while files are merged
        client.put_object(Bucket=BUCKET, Key=f"hive-parquet/{REPLACEMENT_NAME}", Body=said.to_bytes())
        top = tmp_path_factory.mktemp("downloaded")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for item in page["Contents"]:
                path = top / item["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(BUCKET, item["Key"], str(path))
        yield server, top
    finally:
        server.stop()


@pytest.fixture(scope="module")
def example() -> ModuleType:
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java 17: apt install openjdk-17-jre-headless")
    pytest.importorskip("pyspark", reason="pip install 'pyspark>=4,<5', as make soak does")
    spec = importlib.util.spec_from_file_location("spark_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def spark(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    builder = example.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
    builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    session = builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield session
    session.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("kind", SUFFIXES)
def test_spark_answers_as_duckdb_does(
    downloaded: tuple[Seaweed, Path],
    example: ModuleType,
    spark: Any,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    kind: str,
):
    server, top = downloaded
    for variable, value in server.environment().items():
        monkeypatch.setenv(variable, value)
    place = f"file://{top}/{layout}-{kind}"
    if kind == "text":
        flow_logs = example.read_text(spark, place, DEFAULT.header)
    else:
        flow_logs = example.read_parquet(spark, place, layout == "hive")
    flow_logs.createOrReplaceTempView("flow_logs")
    assert spark.sql("SELECT count(*) FROM flow_logs").first()[0] == 3 * (RECORDS_PER_FILE + 1)
    for question, sql in example.QUESTIONS.items():
        ours = ask(sql.replace("ORDER BY action", "ORDER BY action NULLS FIRST"), f"s3://{BUCKET}/{layout}-{kind}/")
        assert not ours.problems
        assert [row.asDict() for row in spark.sql(sql).collect()] == ours.rows, question


@pytest.mark.timeout(600)
def test_spark_prunes_by_folders_and_has_aws_types(downloaded: tuple[Seaweed, Path], example: ModuleType, spark: Any):
    flow_logs = example.read_parquet(spark, f"file://{downloaded[1]}/hive-parquet", True)
    assert flow_logs.where("day = 31 AND hour = 1").count() == RECORDS_PER_FILE + 1
    kinds = dict(flow_logs.dtypes)
    assert {kinds[item.column] for item in DEFAULT.fields if item.type == pa.int64()} == {"bigint"}
    assert {kinds[item.column] for item in DEFAULT.fields if item.type == pa.int32()} == {"int"}
    assert {kinds[item.column] for item in DEFAULT.fields if item.type == pa.string()} == {"string"}
