"""Flow logs of a bucket in Spark: a table `flow_logs`, and three questions.

    spark-submit flow_logs.py --hive s3a://my-flow-logs/       settings of s3a: README.md beside this
    spark-submit flow_logs.py /mnt/flow-logs/                  a folder, plain folders of dates in it

Parquet and text, by day and by hour.
"""

from __future__ import annotations

import argparse

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import IntegerType, LongType, StringType, StructField, StructType

WIDE = ("packets", "bytes", "start", "end")
NARROW = ("version", "srcport", "dstport", "protocol", "tcp_flags", "traffic_path", "encryption_status")

QUESTIONS = {
    "records by action": "SELECT action, count(*) AS records FROM flow_logs GROUP BY action ORDER BY action",
    "top talkers": "SELECT srcaddr, sum(bytes) AS bytes FROM flow_logs WHERE srcaddr IS NOT NULL "
    "GROUP BY srcaddr ORDER BY bytes DESC, srcaddr LIMIT 10",
    "rejected by port": "SELECT dstport, count(*) AS records, sum(packets) AS packets FROM flow_logs "
    "WHERE action = 'REJECT' GROUP BY dstport ORDER BY records DESC, dstport LIMIT 10",
}


def read_parquet(spark: SparkSession, place: str, hive: bool) -> DataFrame:
    """Hive-compatible folders become columns (year, month, day, hour), by which Spark prunes; plain ones do not."""
    return spark.read.option("recursiveFileLookup", str(not hive).lower()).parquet(place)


def read_text(spark: SparkSession, place: str, header: str) -> DataFrame:
    """`header` is the header line of the files: with a schema Spark reads them once, and types are AWS's."""
    columns = [name.replace("-", "_") for name in header.split(" ")]
    kinds = {**dict.fromkeys(WIDE, LongType()), **dict.fromkeys(NARROW, IntegerType())}
    schema = StructType([StructField(name, kinds.get(name, StringType())) for name in columns])
    reader = spark.read.schema(schema).option("recursiveFileLookup", "true").option("pathGlobFilter", "*.log.gz")
    # A header line that is not this one ends the job instead of being read into wrong columns.
    reader = reader.option("header", "true").option("sep", " ").option("nullValue", "-").option("mode", "FAILFAST")
    return reader.option("quote", "").option("enforceSchema", "true").csv(place)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("place", help="s3a://bucket/prefix/ or a folder")
    arguments.add_argument("--hive", action="store_true", help="Parquet in Hive-compatible folders")
    arguments.add_argument("--text", metavar="HEADER", help="text, and the header line of its files")
    asked = arguments.parse_args()
    spark = SparkSession.builder.appName("flow logs").getOrCreate()
    if asked.text:
        flow_logs = read_text(spark, asked.place, asked.text)
    else:
        flow_logs = read_parquet(spark, asked.place, asked.hive)
    flow_logs.createOrReplaceTempView("flow_logs")
    for name, sql in QUESTIONS.items():
        print(name)
        spark.sql(sql).show(truncate=False)


if __name__ == "__main__":
    main()
