-- Trino: tables over the flow logs of a bucket. Written by Trino's documentation (Hive connector); not run by us.

CREATE SCHEMA IF NOT EXISTS flow_logs.vpc;

-- Parquet, Hive-compatible folders by hour. Columns are found by name.
CREATE TABLE flow_logs.vpc.parquet_by_hour (
  version integer, account_id varchar, interface_id varchar, srcaddr varchar, dstaddr varchar, srcport integer,
  dstport integer, protocol integer, packets bigint, bytes bigint, start bigint, "end" bigint, action varchar,
  log_status varchar, year varchar, month varchar, day varchar, hour varchar
)
WITH (
  external_location = 's3://my-flow-logs/AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/',
  format = 'PARQUET',
  partitioned_by = ARRAY['year', 'month', 'day', 'hour']
);

-- What folders there are is read once, and again when new ones have come.
CALL flow_logs.system.sync_partition_metadata('vpc', 'parquet_by_hour', 'FULL');

SELECT action, count(*) FROM flow_logs.vpc.parquet_by_hour
WHERE year = '2026' AND month = '01' AND day = '31' GROUP BY action;

-- Text, plain folders by day: all days in one table, since plain folders are no partitions. The CSV format has text
-- alone, so numbers are cast, and `-` is what is absent.
CREATE TABLE flow_logs.vpc.text (
  version varchar, account_id varchar, interface_id varchar, srcaddr varchar, dstaddr varchar, srcport varchar,
  dstport varchar, protocol varchar, packets varchar, bytes varchar, start varchar, "end" varchar, action varchar,
  log_status varchar
)
WITH (
  external_location = 's3://my-flow-logs/AWSLogs/123456789012/vpcflowlogs/us-east-1/',
  format = 'CSV', csv_separator = ' ', skip_header_line_count = 1
);

SELECT srcaddr, sum(CAST(nullif(bytes, '-') AS bigint)) AS bytes FROM flow_logs.vpc.text
GROUP BY srcaddr ORDER BY bytes DESC LIMIT 20;
