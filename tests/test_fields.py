"""The table of fields, held against AWS's published table, and the grammar of formats.

The expectations are written from the VPC user guide ("Flow log records"): names, versions and Parquet types.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, FIELD_BY_NAME, FIELDS, column_name, fields_document, format_text, parse_format

AWS_TABLE = {
    2: "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end "
    "action log-status",
    3: "vpc-id subnet-id instance-id tcp-flags type pkt-srcaddr pkt-dstaddr",
    4: "region az-id sublocation-type sublocation-id",
    5: "pkt-src-aws-service pkt-dst-aws-service flow-direction traffic-path",
    7: "ecs-cluster-arn ecs-cluster-name ecs-container-instance-arn ecs-container-instance-id ecs-container-id "
    "ecs-second-container-id ecs-service-name ecs-task-definition-arn ecs-task-arn ecs-task-id",
    8: "reject-reason",
    9: "resource-id",
    10: "encryption-status",
    11: "instance-tag instance-tag-2 interface-tag interface-tag-2 asg-tag asg-tag-2 interface-type "
    "next-hop-interface-id next-hop-subnet-id next-hop-az-id next-hop-vpc-id next-hop-interface-type",
}
INT_32 = {"version", "srcport", "dstport", "protocol", "tcp-flags", "traffic-path", "encryption-status"}
INT_64 = {"packets", "bytes", "start", "end", "x-lost-packets", "x-lost-bytes"}
EXTENSIONS = ["x-rule-id", "x-rule-layer", "x-lost-packets", "x-lost-bytes", "x-process", "x-unit", "x-container"]
ALL_TAG_KEYS = {"instance": ["a", "b"], "network-interface": ["a", "b"], "auto-scaling-group": ["a", "b"]}
WITHOUT_TAGS = [item.name for item in FIELDS if item.tag is None]


def test_names_and_order_are_those_of_the_published_table_and_ours_follow():
    expected = [name for names in AWS_TABLE.values() for name in names.split()]
    assert len(expected) == 54
    assert [item.name for item in FIELDS] == expected + EXTENSIONS


def test_each_field_has_the_version_that_introduced_it():
    expected = {name: version for version, names in AWS_TABLE.items() for name in names.split()}
    assert {item.name: item.version for item in FIELDS if not item.extension} == expected


@pytest.mark.parametrize(
    ("version", "count"), [(2, 14), (3, 21), (4, 25), (5, 29), (7, 39), (8, 40), (9, 41), (10, 42), (11, 54)]
)
def test_cumulative_counts_by_version(version: int, count: int):
    assert sum(1 for item in FIELDS if item.version is not None and item.version <= version) == count


def test_parquet_types():
    for item in FIELDS:
        expected = pa.int32() if item.name in INT_32 else pa.int64() if item.name in INT_64 else pa.string()
        assert item.type == expected, item.name


def test_column_names_have_underscores():
    assert column_name("pkt-src-aws-service") == "pkt_src_aws_service"
    assert parse_format("${az-id} ${x-rule-id} ${end}").schema.names == ["az_id", "x_rule_id", "end"]


def test_default_format_is_the_exact_text_of_the_documentation():
    assert DEFAULT_FORMAT == (
        "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} ${packets} "
        "${bytes} ${start} ${end} ${action} ${log-status}"
    )
    parsed = parse_format(DEFAULT_FORMAT)
    assert parsed.version == 2
    assert parsed.text == DEFAULT_FORMAT
    assert parsed.header == AWS_TABLE[2]


def test_fields_keep_the_callers_order():
    parsed = parse_format("${log-status} ${version} ${bytes} ${packets}")
    assert parsed.names == ("log-status", "version", "bytes", "packets")
    assert parsed.header == "log-status version bytes packets"


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ("srcaddr dstaddr", 2),
        ("version tcp-flags region", 4),  # fields of versions 2, 3 and 4: version 4
        ("version encryption-status", 10),
        ("version x-rule-id x-lost-bytes", 2),
        ("x-lost-packets", 2),
        ("version interface-type", 11),
    ],
)
def test_version_rule_in_named_cases(names: str, version: int):
    assert parse_format(format_text(names.split())).version == version


@given(st.lists(st.sampled_from([item.name for item in FIELDS]), min_size=1, unique=True))
def test_version_is_the_highest_that_introduced_a_field(names: list[str]):
    introduced = {name: version for version, published in AWS_TABLE.items() for name in published.split()}
    parsed = parse_format(format_text(names), ALL_TAG_KEYS)
    assert parsed.version == max([introduced[name] for name in names if name in introduced] + [2])
    assert parsed.version != 6
    assert parsed.names == tuple(names)
    assert parsed.header.split(" ") == names
    assert parsed.schema.names == [name.replace("-", "_") for name in names]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "at least one field"),
        (" ", "space at its beginning or end"),
        (DEFAULT_FORMAT + " ", "space at its beginning or end"),
        (" ${version}", "space at its beginning or end"),
        ("${version}  ${start}", "exactly one space"),
        ("${version}\t${start}", "exactly one space"),
        ("${version},${start}", "exactly one space"),
        ("${version}${start}", "exactly one space"),
        ("${version} start", "'start' is not of the form"),
        ("${version} $start", "'$start' is not of the form"),
        ("${}", "'${}' is not of the form"),
        ("${version}\n", "is not of the form"),
        ("${pkt-dst-adr}", "there is no field pkt-dst-adr; did you mean pkt-dstaddr?"),
        ("${az_id}", "there is no field az_id; did you mean az-id?"),
        ("${Version}", "there is no field Version; did you mean version?"),
        ("${tgw-src-vpc-account-id}", "there is no field tgw-src-vpc-account-id"),
        ("${start} ${end} ${start}", "the field start occurs twice"),
        ("${instance-tag}", "instance-tag needs a tag key for the resource type instance"),
    ],
)
def test_what_cannot_be_read_is_refused_with_awss_text(text: str, remedy: str):
    with pytest.raises(InputError) as caught:
        parse_format(text)
    assert caught.value.message == (f"1 validation error detected: Value '{text}' at 'logFormat' has an invalid format")
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy


def test_tag_fields_need_as_many_keys_of_their_own_resource_type():
    text = "${interface-tag} ${interface-tag-2}"
    assert parse_format(text, {"network-interface": ["team", "stage"]}).version == 11
    with pytest.raises(InputError, match="interface-tag-2 needs two tag keys"):
        parse_format(text, {"network-interface": ["team"]})
    with pytest.raises(InputError, match="interface-tag needs a tag key"):
        parse_format(text, {"instance": ["team", "stage"]})


def test_only_fields_that_are_never_absent_are_not_nullable():
    schema = parse_format(format_text(WITHOUT_TAGS)).schema
    assert {item.name for item in schema if not item.nullable} == {"version", "start", "end", "log_status"}


def test_fields_that_print_a_dash_say_why():
    for item in FIELDS:
        assert item.known != item.source.startswith("prints `-`"), item.name


def test_the_document_is_current():
    document = Path(__file__).parents[1] / "docs" / "fields.md"
    printed = subprocess.run([sys.executable, "-m", "vnotch.fields"], capture_output=True, text=True, check=True).stdout
    assert printed == fields_document()
    assert document.read_text() == printed, "run: python -m vnotch.fields > docs/fields.md"
    assert all(f"| `{name}` |" in printed for name in FIELD_BY_NAME)
