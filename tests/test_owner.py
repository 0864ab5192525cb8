"""Owners: what several observations of one flow settle to, and their join to records."""

from __future__ import annotations

import pyarrow as pa
import pytest
from flows import flow, flow_table
from test_record import flow_log, interface, lines_of, window

from vnotch.flow import Direction, Outcome
from vnotch.owner import OWNER_SCHEMA, Owners, flow_keys, merge_observations

FORMAT = "${srcport} ${dstport} ${flow-direction} ${x-process} ${x-unit} ${x-container}"


def seen(port: int, *values: str | None, exact: bool = True) -> pa.Table:
    """An observation of the flow from `port`."""
    key = flow_keys(flow_table([flow(srcport=port, dstport=80)]))[0].as_py()
    row = {"key": key, "exact": exact} | dict(zip(("process", "unit", "container"), values, strict=False))
    return pa.Table.from_pylist([row], schema=OWNER_SCHEMA)


def process_of(*observations: pa.Table, port: int = 1) -> str | None:
    keys = flow_keys(flow_table([flow(srcport=9), flow(srcport=port, dstport=80)]))
    found = Owners(merge_observations(observations)).of_flows(keys)["process"].to_pylist()
    assert found[0] is None, "nobody saw the other flow"
    return found[1]


@pytest.mark.parametrize(
    ("observations", "expected"),
    [
        ([], None),
        ([seen(1, "nginx/8")], "nginx/8"),
        ([seen(1, "nginx/8"), seen(1, "nginx/8")], "nginx/8"),
        ([seen(1, "nginx/8"), seen(1, "nginx/9")], None),
        ([seen(1, "nginx/8"), seen(1, None)], "nginx/8"),
        ([seen(1, "nginx/8", exact=False)], "nginx/8"),
        ([seen(1, "nginx/8", exact=False), seen(1, "nginx/9")], "nginx/9"),
        ([seen(1, "nginx/8", exact=False), seen(1, None)], None),
        ([seen(2, "nginx/8")], None),
    ],
)
def test_the_connections_own_socket_counts_and_two_answers_are_none(
    observations: list[pa.Table], expected: str | None
) -> None:
    assert process_of(*observations) == expected


def test_verdict_and_rule_do_not_change_who_it_was() -> None:
    one, two = flow(srcport=1), flow(srcport=1, rule=7, outcome=Outcome.REJECT, packets=9)
    keys = flow_keys(flow_table([one, two, flow(srcport=1, slot=2)]))
    assert keys[0] == keys[1] != keys[2]


def test_fields_are_in_records_and_absent_where_nobody_is_known() -> None:
    rows = [
        flow(srcport=1, dstport=80, start=1_700_000_040),
        flow(srcport=2, dstport=80, start=1_700_000_041),
        flow(srcport=1, dstport=80, direction=Direction.EGRESS, start=1_700_000_042),
    ]
    owners = Owners(seen(1, "tmux: server/812", r"dev-sda\x2d1.mount", "0123456789ab"))
    lines = lines_of(window(rows), {1: interface()}, flow_log(FORMAT), owners=owners)
    assert lines == [
        r"1 80 ingress tmux:%20server/812 dev-sda\x2d1.mount 0123456789ab",
        "2 80 ingress - - -",
        "1 80 egress - - -",
    ]


@pytest.mark.parametrize(
    ("name", "text"), [("100%/1", "100%25/1"), ("ä\n/1", "%C3%A4%0A/1"), ("-", "%2D"), ("(sd-pam)/7", "(sd-pam)/7")]
)
def test_no_name_breaks_a_line(name: str, text: str) -> None:
    rows = [flow(srcport=1, dstport=80, start=1_700_000_040)]
    lines = lines_of(window(rows), {1: interface()}, flow_log("${x-process}"), owners=Owners(seen(1, name)))
    assert lines == [text]
