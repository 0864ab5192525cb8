"""Files of flow logs, judged by readers that are not ours: pyarrow, DuckDB, gzip and flowlogs-reader."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flowlogs_reader import FlowRecord
from flowlogs_reader.flowlogs_reader import S3FlowLogsReader
from parquet import DictReader, ParquetFormatException

from vnotch.bucket_files import ROW_GROUP_ROWS, ParquetFile, TextFile, in_order, write_parquet, write_text
from vnotch.fields import DEFAULT_FORMAT, FIELDS, parse_format
from vnotch.line import parse_lines, record_lines

DEFAULT = parse_format(DEFAULT_FORMAT)
LINES = [
    "2 123456789010 eni-b235b8ca 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
    "2 123456789010 eni-1235b8ca 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530012 1418530070 REJECT OK",
    "2 123456789010 eni-1235b8ca - - - - - - - 1418530011 1418530071 - NODATA",
    "2 123456789010 eni-1235b8ca 2001:db8::1 2001:db8::2 8 0 58 54 8640 1418530010 1418530070 ACCEPT OK",
]
"""Lines like those of the VPC user guide, out of order."""


def records(lines: list[str]) -> pa.Table:
    return parse_lines(pa.array(lines), DEFAULT)


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    write_parquet(table, out)
    return out.getvalue()


def many(rows: int) -> pa.Table:
    chance = random.Random(7)
    interfaces = [f"eni-{number:017x}" for number in range(50)]
    return records(
        [
            f"2 123456789010 {chance.choice(interfaces)} 10.0.{chance.randrange(256)}.{chance.randrange(256)} 10.1.0.1 "
            f"{chance.randrange(65536)} 443 6 {chance.randrange(1, 1 << 40)} {chance.randrange(1 << 50)} "
            f"{1418530000 + chance.randrange(600)} 1418530700 ACCEPT OK"
            for _ in range(rows)
        ]
    )


def encodings(data: bytes) -> dict[str, set[str]]:
    metadata = pq.read_metadata(io.BytesIO(data))
    group = metadata.row_group(0)
    return {
        group.column(number).path_in_schema: set(group.column(number).encodings)
        for number in range(metadata.num_columns)
    }


def test_parquet_has_the_names_and_types_of_aws_and_every_record():
    read = pq.read_table(io.BytesIO(parquet(records(LINES))))
    assert read.schema == DEFAULT.schema
    assert sorted(record_lines(read, DEFAULT).to_pylist()) == sorted(LINES)


def test_parquet_types_are_those_of_the_aws_documentation_for_every_field():
    """VPC user guide, "Flow log records": INT_32, INT_64 or STRING; a Parquet file knows no more of them."""
    format = parse_format(" ".join(f"${{{item.name}}}" for item in FIELDS if not item.tag))
    metadata = pq.read_metadata(io.BytesIO(parquet(format.schema.empty_table())))
    kinds = {pa.int32(): "INT32", pa.int64(): "INT64", pa.string(): "BYTE_ARRAY"}
    for number, item in enumerate(item for item in FIELDS if not item.tag):
        column = metadata.schema.column(number)
        assert (column.name, column.physical_type) == (item.name.replace("-", "_"), kinds[item.type])
        assert (column.logical_type.type == "STRING") == (item.type == pa.string())


def test_rows_are_in_order_of_interface_and_start():
    table = pq.read_table(io.BytesIO(parquet(many(5000))))
    rows = list(zip(table["interface_id"].to_pylist(), table["start"].to_pylist(), strict=True))
    assert rows == sorted(rows)
    sorting = pq.read_metadata(io.BytesIO(parquet(many(5000)))).row_group(0).sorting_columns
    assert [(item.column_index, item.descending, item.nulls_first) for item in sorting] == [
        (2, False, False), (10, False, False),
    ]  # fmt: skip


def test_rows_without_an_interface_come_last_and_equal_ones_stay_as_they_were():
    table = pa.table(
        {
            "interface_id": pa.array(["b", None, "a", "b", "a", None]),
            "start": pa.array([5, 1, 7, 5, 3, 0], pa.int64()),
            "bytes": pa.array([0, 1, 2, 3, 4, 5], pa.int64()),
        }
    )
    assert in_order(table)["bytes"].to_pylist() == [4, 2, 0, 3, 5, 1]


def test_times_far_apart_are_sorted_like_others():
    table = pa.table({"start": pa.array([1 << 62, -5, 1 << 40, None, 0], pa.int64())})
    assert in_order(table)["start"].to_pylist() == [-5, 0, 1 << 40, 1 << 62, None]


def test_columns_have_dictionaries_and_times_deltas_and_all_have_page_indexes():
    data = parquet(many(5000))
    found = encodings(data)
    assert all("DELTA_BINARY_PACKED" in found[name] for name in ("start", "end"))
    assert all("RLE_DICTIONARY" in kinds for name, kinds in found.items() if name not in ("start", "end"))
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    for number in range(len(found)):
        column = group.column(number)
        assert column.compression == "ZSTD"
        assert column.has_offset_index
        assert column.has_column_index
        assert column.statistics.has_min_max


def test_no_integer_is_byte_stream_split():
    """DuckDB 1.5.5 cannot read it."""
    assert not any("BYTE_STREAM_SPLIT" in kinds for kinds in encodings(parquet(many(5000))).values())


def test_duckdb_reads_what_pyarrow_reads(tmp_path: Path):
    table = many(20_000)
    (tmp_path / "a.parquet").write_bytes(parquet(table))
    connection = duckdb.connect()
    found = connection.execute(
        f"SELECT interface_id, sum(packets), sum(bytes), min(start), count(*) FROM '{tmp_path}/a.parquet' GROUP BY 1"
    ).fetchall()
    expected = table.group_by("interface_id").aggregate(
        [("packets", "sum"), ("bytes", "sum"), ("start", "min"), ("start", "count")]
    )
    assert sorted(found) == sorted(tuple(row.values()) for row in expected.to_pylist())


def test_values_too_many_for_a_dictionary_stand_for_themselves(tmp_path: Path):
    """A scan of the internet: every address once, twice as many as a dictionary may hold."""
    rows = 400_000
    table = pa.table({"srcaddr": pa.array([f"2001:db8:{n >> 16:x}:{n & 65535:x}::1" for n in range(rows)])})
    data = parquet(table)
    assert "PLAIN" in encodings(data)["srcaddr"]
    assert pq.read_table(io.BytesIO(data))["srcaddr"].equals(table["srcaddr"])
    (tmp_path / "a.parquet").write_bytes(data)
    counted = duckdb.sql(f"SELECT count(DISTINCT srcaddr) FROM '{tmp_path}/a.parquet'").fetchone()
    assert counted == (rows,)


def test_text_columns_may_be_dictionaries_already_in_several_chunks():
    table = many(2000)
    coded = pa.table([c.dictionary_encode() if c.type == pa.string() else c for c in table.columns], table.schema.names)
    parts = pa.concat_tables([coded.slice(0, 700), coded.slice(700).cast(coded.schema)])
    out = io.BytesIO()
    with ParquetFile(out, DEFAULT.schema) as file:
        file.write(parts)
        assert (file.rows, file.size) == (2000, len(out.getvalue()))
    assert out.getvalue() == parquet(table)


def test_row_groups_are_bounded():
    table = pa.table({"start": pa.array(range(ROW_GROUP_ROWS + 10, 0, -1), pa.int64())})
    metadata = pq.read_metadata(io.BytesIO(parquet(table)))
    assert [metadata.row_group(number).num_rows for number in range(2)] == [ROW_GROUP_ROWS, 10]


def test_the_same_records_give_the_same_bytes():
    assert parquet(many(3000)) == parquet(many(3000))
    assert text(LINES) == text(LINES)


def text(lines: list[str]) -> bytes:
    out = io.BytesIO()
    write_text(pa.array(lines, pa.string()), DEFAULT.header, out)
    return out.getvalue()


def test_text_is_gzip_of_the_header_line_and_the_lines():
    assert gzip.decompress(text(LINES)).decode() == "\n".join([DEFAULT.header, *LINES, ""])
    assert gzip.decompress(text([])).decode() == DEFAULT.header + "\n"


def test_text_is_written_piece_by_piece():
    out = io.BytesIO()
    with TextFile(out, DEFAULT.header) as file:
        file.write(pa.array(["no", *LINES, "no"]).slice(1, len(LINES)))
        file.write(pa.chunked_array([LINES, LINES[:1]]))
        file.write_bytes(LINES[0].encode() + b"\n", 1)
        assert file.rows == 2 * len(LINES) + 2
    assert file.size == len(out.getvalue())
    lines = gzip.decompress(out.getvalue()).decode().splitlines()
    assert lines == [DEFAULT.header, *LINES, *LINES, LINES[0], LINES[0]]


def test_flowlogs_reader_reads_the_text():
    class Client:
        def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
            return {"Body": io.BytesIO(text(LINES)), "ContentLength": len(text(LINES))}

    class Reader(S3FlowLogsReader):  # type: ignore[misc]
        def _get_all_keys(self) -> list[str]:
            return ["a.log.gz"]

    found = [record.to_message() for record in Reader("bucket", boto_client=Client(), raise_on_error=True)]
    assert found == [FlowRecord.from_cwl_event({"message": line}).to_message() for line in LINES]


def test_flowlogs_reader_cannot_read_parquet_made_for_scanning():
    """As docs/buckets.md says: its library knows no zstd, no deltas, and no dictionaries as they are written today."""
    out = io.BytesIO()
    write_parquet(pa.table({"srcaddr": ["10.0.0.1"] * 3, "end": [1, 2, 3]}), out)
    with pytest.raises(ParquetFormatException, match="Unsupported Codec"):
        list(DictReader(io.BytesIO(out.getvalue())))
    plain = io.BytesIO()
    pq.write_table(pa.table({"srcaddr": ["10.0.0.1"] * 3}), plain, compression="gzip")
    with pytest.raises(ParquetFormatException, match="RLE_DICTIONARY"):
        list(DictReader(io.BytesIO(plain.getvalue())))
