"""Text files: the header line or the format decides, what fits no record is counted and named."""

from __future__ import annotations

import gzip
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asking import HEADER, NODATA, RDP, SSH, ask, write
from hypothesis import given, settings
from hypothesis import strategies as st

import vnotch.query.text as text_module
from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, FIELDS, Field, Format, format_text, parse_format
from vnotch.line import parse_line, record_lines
from vnotch.query.problems import Problem
from vnotch.query.text import parse_header

SAMPLES = tomllib.loads((Path(__file__).parents[1] / "data" / "aws_samples.toml").read_text())
TAG_KEYS = {"instance": "ab", "network-interface": "ab", "auto-scaling-group": "ab"}


def value(item: Field, format_: Format) -> st.SearchStrategy[Any]:
    if item.name == "version":
        return st.just(format_.version)
    if item.address:
        strategy: st.SearchStrategy[Any] = st.ip_addresses().map(str)
    elif item.values:
        strategy = st.sampled_from(item.values)
    elif pa.types.is_string(item.type):
        printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
        strategy = printable.filter(lambda text: text != "-") | st.sampled_from(['"', "'", "NULL", "\\N", "nan", ","])
    else:
        strategy = st.integers(0, 2**31 - 1 if item.type == pa.int32() else 2**63 - 1)
    return strategy if item.required else st.none() | strategy


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, Format]:
    names = draw(st.lists(st.sampled_from([item.name for item in FIELDS]), min_size=1, unique=True))
    format_ = parse_format(format_text(names), TAG_KEYS)
    record = st.fixed_dictionaries({item.column: value(item, format_) for item in format_.fields})
    return pa.Table.from_pylist(draw(st.lists(record, min_size=1, max_size=6)), schema=format_.schema), format_


@given(tables(), st.sampled_from([".log", ".log.gz"]))
@settings(deadline=None, max_examples=60)
def test_any_table_written_as_text_reads_back_equal(case: tuple[pa.Table, Format], suffix: str):
    table, format_ = case
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"a{suffix}", *record_lines(table, format_).to_pylist(), header=format_.header)
        found = ask("select * from flow_logs", path)
    assert not found.problems
    assert set(found.columns) == set(format_.columns)
    assert [{name: row[name] for name in format_.columns} for row in found.rows] == table.to_pylist()


@pytest.mark.parametrize("sample", SAMPLES["samples"], ids=lambda sample: sample["name"])
def test_the_lines_that_aws_documents_are_read(tmp_path: Path, sample: dict[str, Any]):
    format_ = parse_format(format_text(SAMPLES["formats"][sample["format"]].split()))
    with_header = ask("select * from flow_logs", write(tmp_path / "a.log", sample["line"], header=format_.header))
    without = ask(
        "select * from flow_logs", write(tmp_path / "b.log", sample["line"], header=None), format=format_.names
    )
    assert (
        with_header.rows
        == without.rows
        == [
            {item.column: parse_line(sample["line"], format_)[item.column] for item in FIELDS if item in format_.fields}
        ]
    )


def test_columns_are_awss_names_in_the_order_of_the_fields_and_dash_is_null(tmp_path: Path):
    found = ask("select * from flow_logs", write(tmp_path / "a.log", NODATA))
    assert found.columns == HEADER.replace("-", "_").split()
    assert found.rows[0]["srcaddr"] is None
    assert found.rows[0]["bytes"] is None
    assert found.rows[0]["log_status"] == "NODATA"


def test_files_of_different_formats_are_one_table(tmp_path: Path):
    write(tmp_path / "a.log", SSH)
    write(tmp_path / "b.log.gz", "10.0.0.9 5 eni-9", header="pkt-dstaddr tcp-flags interface-id")
    found = ask("select interface_id, srcaddr, tcp_flags, pkt_dstaddr from flow_logs order by 1", tmp_path)
    assert [tuple(row.values()) for row in found.rows] == [
        ("eni-1235b8ca123456789", "172.31.16.139", None, None),
        ("eni-9", None, 5, "10.0.0.9"),
    ]


def test_the_number_of_values_decides_nothing(tmp_path: Path):
    """Fourteen values, but the header says which."""
    names = list(reversed(HEADER.split()))
    write(tmp_path / "a.log", " ".join(reversed(SSH.split())), header=" ".join(names))
    assert ask("select srcaddr, dstport from flow_logs", tmp_path).rows == [{"srcaddr": "172.31.16.139", "dstport": 22}]
    write(tmp_path / "b" / "c.log", SSH, header=None)
    with pytest.raises(InputError, match="no header line"):
        ask("select 1 from flow_logs", tmp_path / "b")


def test_a_header_line_counts_more_than_the_format_given(tmp_path: Path):
    write(tmp_path / "a.log", "10.0.0.1 10.0.0.2", header="srcaddr dstaddr")
    assert ask("select srcaddr from flow_logs", tmp_path, format=["dstaddr", "srcaddr"]).values == ["10.0.0.1"]


def test_columns_that_are_no_field_are_kept_as_text_and_named(tmp_path: Path):
    write(tmp_path / "a.log", "10.0.0.1 7 -", header="srcaddr new-field x2")
    found = ask("select * from flow_logs", tmp_path)
    assert found.rows == [{"srcaddr": "10.0.0.1", "new_field": "7", "x2": None}]
    assert list(found.problems.notes) == ["columns that are no field of a flow log, read as text: new_field, x2"]
    assert not found.problems


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        (b"version account-id interface-id", ("version", "account_id", "interface_id")),
        (b"srcaddr", ("srcaddr",)),
        (b"tgw-id srcaddr", ("tgw_id", "srcaddr")),
        (SSH.encode(), None),
        (NODATA.encode(), None),
        (b"vpc-abc eni-1 subnet-2", None),
        (b"- -", None),
        (b"", None),
    ],
)
def test_header_lines_are_told_from_records(line: bytes, columns: tuple[str, ...] | None):
    found = parse_header(line)
    assert (found.columns if found else None) == columns


SUMS = "select count(*) as n, sum(bytes) as b, count(*) filter (action = 'REJECT') as r from flow_logs"


@pytest.mark.parametrize("questions", [SUMS, "select count(*) as n, count(action) as a from flow_logs"])
def test_files_joined_into_one_are_read_by_each_header(tmp_path: Path, questions: str):
    other = "interface-id srcaddr action bytes"
    joined = [SSH, HEADER, RDP, other, "eni-2 10.0.0.1 REJECT 100", HEADER, SSH]
    path = write(tmp_path / "a.log", *joined)
    found = ask(questions, path)
    assert not found.problems
    assert found.rows[0]["n"] == 4
    if "b" in found.rows[0]:
        assert (found.rows[0]["b"], found.rows[0]["r"]) == (3 * 4249 + 100, 2)


def test_an_answer_of_all_columns_that_a_later_header_adds_to_misses_them(tmp_path: Path):
    """The table has the columns of the first header lines; one further down is known when it is read."""
    path = write(tmp_path / "a.log", SSH, f"{HEADER} tcp-flags", f"{RDP} 3")
    found = ask("select * from flow_logs", path)
    assert len(found.rows) == 2
    (problem,) = found.problems.of(Problem.LATE_COLUMNS)
    assert (problem.file, problem.sample) == (str(path), "tcp_flags")
    found = ask("select action, bytes from flow_logs", path)  # which misses nothing
    assert not found.problems
    assert any("tcp_flags" in note for note in found.problems.notes)


def test_joined_files_of_texts_alone_are_read_too(tmp_path: Path):
    """A header line of a format without numbers looks like a record."""
    path = write(
        tmp_path / "a.log", "i-1 10.0.0.1", "instance-id srcaddr", "i-2 10.0.0.2", header="instance-id srcaddr"
    )
    assert ask("select srcaddr from flow_logs", path).values == ["10.0.0.1", "10.0.0.2"]
    assert ask("select count(*) from flow_logs", path).values == [2]


def test_gzip_of_several_members_is_one_file(tmp_path: Path):
    one, two = (gzip.compress(f"{HEADER}\n{line}\n".encode()) for line in (SSH, RDP))
    (tmp_path / "a.log.gz").write_bytes(one + two + b"\0" * 512)
    found = ask("select dstport from flow_logs order by 1", tmp_path)
    assert found.values == [22, 3389]
    assert not found.problems


def test_gzip_is_known_by_its_content(tmp_path: Path):
    (tmp_path / "a.log").write_bytes(gzip.compress(f"{HEADER}\n{SSH}\n".encode()))
    (tmp_path / "b.log.gz").write_text(f"{HEADER}\n{RDP}")
    found = ask("select dstport from flow_logs order by 1", tmp_path)
    assert found.values == [22, 3389]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_of_either_kind_and_empty_lines_are_read(tmp_path: Path, end: str):
    path = write(tmp_path / "a.log", "", SSH, "", RDP, "", end=end)
    found = ask(SUMS, path)
    assert found.rows == [{"n": 2, "b": 2 * 4249, "r": 1}]
    assert not found.problems


def test_a_gzip_file_that_ends_early_gives_what_is_whole_and_is_named(tmp_path: Path):
    lines = [SSH.replace("20641", str(port)) for port in range(50_000)]
    whole = gzip.compress((HEADER + "\n" + "".join(line + "\n" for line in lines)).encode())
    (tmp_path / "a.log.gz").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "b.log", RDP)
    found = ask("select count(*) as n, count(distinct srcport) as p from flow_logs", tmp_path)
    assert 10_000 < found.rows[0]["n"] < 50_000
    assert found.rows[0]["n"] == found.rows[0]["p"]  # no row twice, none made of half a line
    assert [item.file for item in found.problems.of(Problem.TRUNCATED)] == [str(tmp_path / "a.log.gz")]


def test_damaged_gzip_is_named(tmp_path: Path):
    good = bytearray(gzip.compress(f"{HEADER}\n{SSH}\n".encode()))
    good[-5] ^= 0xFF  # the length or the checksum
    (tmp_path / "a.log.gz").write_bytes(bytes(good))
    (tmp_path / "b.log.gz").write_bytes(b"\x1f\x8b\x08\x00garbage")
    write(tmp_path / "c.log", SSH)
    found = ask("select count(*) from flow_logs", tmp_path)
    assert {item.file for kind in (Problem.DAMAGED_GZIP, Problem.TRUNCATED) for item in found.problems.of(kind)} == {
        str(tmp_path / "a.log.gz"), str(tmp_path / "b.log.gz"),
    }  # fmt: skip


BAD = {
    Problem.WRONG_COUNT: ["2 123456789010 eni-1", SSH + " OK", "nonsense"],
    Problem.WRONG_VALUE: [
        SSH.replace("4249", "many"), SSH.replace("4249", "9223372036854775808"), SSH.replace("4249", "1e3"),
        SSH.replace(" 4249 ", "  "),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(BAD))
def test_lines_that_are_no_records_are_counted_and_the_rest_is_read(tmp_path: Path, kind: Problem):
    bad = BAD[kind]
    path = write(tmp_path / "a.log", SSH, *bad, RDP)
    found = ask(SUMS, path)
    assert found.rows == [{"n": 2, "b": 2 * 4249, "r": 1}]
    assert [(item.file, item.lines) for item in found.problems.of(kind)] == [(str(path), len(bad))]
    assert found.problems.lines == len(bad)


def test_bytes_that_are_no_text_are_counted(tmp_path: Path):
    path = write(tmp_path / "a.log", SSH)
    path.write_bytes(path.read_bytes() + SSH.replace("eni-", "eni-\xff").encode("latin-1") + b"\n")
    found = ask("select count(interface_id), count(*) as n from flow_logs", path)
    assert found.rows[0]["n"] == 1
    assert found.problems.of(Problem.NOT_TEXT)[0].lines == 1


@pytest.mark.parametrize("beside", [(), ("nonsense",)], ids=["alone", "beside a bad line"])
def test_bytes_that_are_no_text_matter_only_in_columns_that_are_read(tmp_path: Path, beside: tuple[str, ...]):
    """Whatever other lines its block has."""
    path = write(tmp_path / "a.log", *beside)
    path.write_bytes(path.read_bytes() + SSH.replace("eni-", "eni-\xff").encode("latin-1") + b"\n")
    found = ask("select action, bytes from flow_logs", path)
    assert len(found.rows) == 1
    assert not found.problems.of(Problem.NOT_TEXT)


def test_a_file_that_is_scanned_twice_is_counted_once(tmp_path: Path):
    path = write(tmp_path / "a.log", SSH, "nonsense")
    found = ask("select count(*) from flow_logs a join flow_logs b using (srcaddr, action)", path)
    assert found.values == [1]
    assert found.problems.lines == 1


def test_a_header_that_names_a_field_twice_is_named(tmp_path: Path):
    write(tmp_path / "a.log", "1 2", header="srcport srcport")
    write(tmp_path / "b.log", SSH)
    found = ask("select count(*) from flow_logs", tmp_path)
    assert found.values == [1]
    assert found.problems.of(Problem.BAD_HEADER)


def test_empty_files_are_no_problem(tmp_path: Path):
    write(tmp_path / "a.log", header=None)
    write(tmp_path / "b.log.gz", header=None)
    write(tmp_path / "c.log")
    write(tmp_path / "d.log", SSH)
    found = ask("select count(*) from flow_logs", tmp_path)
    assert found.values == [1]
    assert not found.problems


def test_foreign_files_are_named_and_not_read(tmp_path: Path):
    write(tmp_path / "a.log", SSH)
    trail = tmp_path / "AWSLogs" / "123456789012" / "CloudTrail" / "us-east-1" / "x.json.gz"
    trail.parent.mkdir(parents=True)
    trail.write_bytes(b"{}")
    for name in ("_SUCCESS", "notes.md", ".hidden.log"):
        (tmp_path / name).write_text("x")
    found = ask("select count(*) from flow_logs", tmp_path)
    assert found.values == [1]
    assert not found.problems
    assert len(found.problems.foreign) == 4


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path):
    import os

    write(tmp_path / "a.log", SSH)
    (tmp_path / "b.log").symlink_to(tmp_path / "nowhere")
    found = ask("select count(*) from flow_logs", tmp_path)
    assert found.values == [1]
    assert [item.file for item in found.problems.of(Problem.GONE)] == [str(tmp_path / "b.log")]
    if os.geteuid() != 0:
        write(tmp_path / "c.log", SSH).chmod(0)
        assert ask("select count(*) from flow_logs", tmp_path).problems.of(Problem.DENIED)


def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_module, "LINE_BYTES_MAX", 1 << 20)
    path = write(tmp_path / "a.log", SSH)
    path.write_bytes(path.read_bytes() + b"x" * (8 << 20))
    found = ask("select count(*) from flow_logs", path)
    assert found.problems.of(Problem.UNREADABLE)


@given(st.binary(max_size=200), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_bytes_behind_a_header_give_rows_or_problems(data: bytes, compressed: bool):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        content = f"{HEADER}\n{SSH}\n".encode() + data
        path.write_bytes(gzip.compress(content) if compressed else content)
        found = ask("select count(*) from flow_logs where srcaddr = '172.31.16.139'", path)
    assert found.values == [1] or found.problems


def test_blocks_cut_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 100)
    lines = [SSH.replace("20641", str(port)) for port in range(200)]
    write(tmp_path / "a.log.gz", *lines)
    write(tmp_path / "b.log", *lines)
    found = ask("select srcport, count(*) as n from flow_logs group by 1 order by 1", tmp_path)
    assert [(row["srcport"], row["n"]) for row in found.rows] == [(port, 2) for port in range(200)]


def test_the_default_format_is_the_headers_twin():
    assert parse_format(DEFAULT_FORMAT).header == HEADER


def test_rows_that_a_condition_wants_are_found_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blocks without any are skipped by the condition's columns alone; those with one are read as a whole."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 2000)
    lines = [SSH.replace("20641", str(port)) for port in range(3000)]
    for place in (0, 1234, 1235, 2999):
        lines[place] = lines[place].replace("172.31.16.139", "10.9.9.9")
    lines.insert(600, "nonsense")
    lines.insert(1300, HEADER)
    write(tmp_path / "a.log.gz", *lines)
    found = ask("select srcport, bytes, action from flow_logs where srcaddr = '10.9.9.9' order by 1", tmp_path)
    assert found.rows == [{"srcport": port, "bytes": 4249, "action": "ACCEPT"} for port in (0, 1234, 1235, 2999)]
    assert found.problems.lines == 1
    assert ask(
        "select count(*), sum(bytes) as b from flow_logs where tcp_flags = 1", tmp_path, extra=["tcp_flags"]
    ).rows[0] == {"count_star()": 0, "b": None}
