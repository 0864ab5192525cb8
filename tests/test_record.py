"""Records: AWS's published examples made from flows, the address rules, the log status, what flow logs share."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flows import excluded, flow, flow_table, loss, loss_table
from hypothesis import given
from hypothesis import strategies as st
from test_window import loss_rows, rows

from vnotch.columns import FLOW_VALUES, INTERFACE_VALUES, describes_interface
from vnotch.errors import InputError
from vnotch.fields import DEFAULT_FORMAT, FIELDS, TagKeys, format_text, parse_format
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Direction, Exclusion, Loss, Outcome
from vnotch.inventory import FlowLog, Interface
from vnotch.record import Events, WindowRecords, flow_log_format, parse_line, parse_lines, record_lines, record_table
from vnotch.service_ranges import ServiceRanges
from vnotch.window import Window

DATA = tomllib.loads((Path(__file__).parent / "data" / "aws_samples.toml").read_text())
SAMPLES = DATA["samples"]
RANGES = ServiceRanges((cidr, service) for cidr, service in DATA["ranges"])
MADE = [sample for sample in SAMPLES if "interface" in sample]
T0 = 1_700_000_040
"""A multiple of 60."""

ENI = "eni-0123456789abcdef0"


def interface(interface_id: str = ENI, **values: Any) -> Interface:
    plain = {
        "device": "vn-test",
        "account_id": "123456789012",
        "region": "us-east-1",
        "vpc_id": "vpc-0123456789abcdef0",
        "subnet_id": "subnet-0123456789abcdef0",
        "az_id": "use1-az1",
    }
    return Interface.from_json({"interface_id": interface_id, **plain, **values})


def flow_log(
    format_: str = DEFAULT_FORMAT,
    traffic_type: str = "ALL",
    interface_ids: tuple[str, ...] = (ENI,),
    tag_keys: TagKeys = (),
) -> FlowLog:
    role = "arn:aws:iam::1:role/r"
    return FlowLog(
        "fl-1", "vpc-1", traffic_type, format_, 60, "cloud-watch-logs", "group", role, interface_ids, tag_keys
    )


def window(flow_rows: Any = (), losses: Any = (), start_s: int = T0, end_s: int = T0 + 60) -> Window:
    return Window(start_s, end_s, flow_table(flow_rows), loss_table(losses))


def lines_of(
    of_window: Window,
    interfaces: dict[int, Interface],
    of_log: FlowLog,
    seen: set[str] | frozenset[str] = frozenset(),
    **known: Any,
) -> list[str]:
    """Lines of the typed table; the events must say the same. `known` is what WindowRecords takes beside."""
    records = WindowRecords(of_window, interfaces, **known)
    table = records.table(of_log, seen)
    lines = record_lines(table, flow_log_format(of_log.log_format)).to_pylist()
    assert [line for item in records.events(of_log, seen) for line in item.messages.to_pylist()] == lines
    return lines


def sample_window(sample: dict[str, Any]) -> Window:
    if "flow" not in sample:
        start_s, end_s = sample["window"]
        return window([], [loss(packets=sample["lost"])] if "lost" in sample else [], start_s, end_s)
    values = dict(sample["flow"])
    values["direction"] = Direction[values["direction"]]
    values["outcome"] = Outcome[values.pop("outcome", "ACCEPT")]
    return window([flow(**values)])


@pytest.mark.parametrize("sample", MADE, ids=[sample["name"] for sample in MADE])
def test_published_lines_are_made_from_flows(sample: dict[str, Any]):
    names = DATA["formats"][sample["format"]].split()
    expected = sample["line"].split(" ")
    for name in sample.get("unknown", []):
        expected[names.index(name)] = "-"
    eni = interface(**DATA["interfaces"][sample["interface"]])
    of_log = flow_log(format_text(names), interface_ids=(eni.interface_id,))
    lines = lines_of(sample_window(sample), {1: eni}, of_log, {eni.interface_id}, ranges=RANGES)
    assert lines == [" ".join(expected)]


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample["name"] for sample in SAMPLES])
def test_published_lines_parse_and_print_again(sample: dict[str, Any]):
    names = DATA["formats"][sample["format"]].split()
    format_ = parse_format(format_text(names))
    record = parse_line(sample["line"], format_)
    texts = {name: text for name, text in zip(names, sample["line"].split(" "), strict=True) if text != "-"}
    assert {name: str(value) for name, value in record.items() if value is not None} == {
        name.replace("-", "_"): text for name, text in texts.items()
    }
    table = parse_lines(pa.array([sample["line"]]), format_)
    assert table.to_pylist() == [record]
    assert record_lines(table, format_).to_pylist() == [sample["line"]]
    if "timestamp_ms" in sample:
        assert record["start"] * 1000 == sample["timestamp_ms"]


def test_every_known_field_has_a_source_and_no_other():
    of_interfaces = {item.name for item in FIELDS if describes_interface(item)}
    known = {item.name for item in FIELDS if item.known}
    assert known == set(FLOW_VALUES) | of_interfaces | {"version", "x-lost-packets", "x-lost-bytes"}
    assert not set(FLOW_VALUES) & of_interfaces
    assert of_interfaces == set(INTERFACE_VALUES) | {
        "instance-tag",
        "instance-tag-2",
        "interface-tag",
        "interface-tag-2",
    }
    static = {item.name for item in FIELDS if item.static and item.known}
    assert static == of_interfaces | {"version", "start", "end", "log-status"}


ADDRESSES = format_text(["srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr"])
IN, OUT = Direction.INGRESS, Direction.EGRESS


@pytest.mark.parametrize(
    ("case", "direction", "src", "dst", "line"),
    [
        ("normal, in", IN, "203.0.113.9", "10.0.0.5", "203.0.113.9 10.0.0.5 203.0.113.9 10.0.0.5"),
        ("normal, out", OUT, "10.0.0.5", "203.0.113.9", "10.0.0.5 203.0.113.9 10.0.0.5 203.0.113.9"),
        ("to a secondary address", IN, "203.0.113.9", "10.0.0.6", "203.0.113.9 10.0.0.5 203.0.113.9 10.0.0.6"),
        ("from a secondary address", OUT, "10.0.0.6", "203.0.113.9", "10.0.0.5 203.0.113.9 10.0.0.6 203.0.113.9"),
        ("routed in", IN, "203.0.113.9", "10.9.9.9", "203.0.113.9 10.0.0.5 203.0.113.9 10.9.9.9"),
        ("routed out", OUT, "10.9.9.9", "203.0.113.9", "10.0.0.5 203.0.113.9 10.9.9.9 203.0.113.9"),
        ("source in is left as it is", IN, "10.0.0.6", "10.0.0.5", "10.0.0.6 10.0.0.5 10.0.0.6 10.0.0.5"),
        ("IPv6 in", IN, "2001:db8::1", "2001:db8:0:1::2", "2001:db8::1 2001:db8:0:1::2 2001:db8::1 2001:db8:0:1::2"),
        ("IPv6 not owned", OUT, "2001:db8::9", "2001:db8::1", "2001:db8::9 2001:db8::1 2001:db8::9 2001:db8::1"),
    ],
)  # fmt: skip
def test_address_rules(case: str, direction: Direction, src: str, dst: str, line: str):
    eni = interface(private_ipv4=["10.0.0.5", "10.0.0.6"], ipv6=["2001:db8:0:1::2"])
    assert lines_of(window([flow(src, dst, direction=direction)]), {1: eni}, flow_log(ADDRESSES)) == [line], case


def test_each_interface_has_its_own_primary_address():
    one, two = interface("eni-1", private_ipv4=["10.0.0.1"]), interface("eni-2", private_ipv4=["10.0.0.2"])
    none = interface("eni-3")
    flows = [flow("192.0.2.9", "10.9.9.9", slot=slot) for slot in (1, 2, 3)]
    of_log = flow_log(format_text(["interface-id", "dstaddr"]), interface_ids=("eni-1", "eni-2", "eni-3"))
    assert lines_of(window(flows), {1: one, 2: two, 3: none}, of_log) == [
        "eni-1 10.0.0.1",
        "eni-2 10.0.0.2",
        "eni-3 10.9.9.9",
    ]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [  # RFC 5952, section 4: leading zeros, `::` for the longest run, the first of equal ones, none for a single zero
        ("2001:0db8:0000:0000:0000:0000:0002:0001", "2001:db8::2:1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:DB8::ABCD", "2001:db8::abcd"),
    ],
)
def test_ipv6_text_is_canonical(text: str, canonical: str):
    assert lines_of(window([flow(text, "2001:db8::1")]), {1: interface()}, flow_log("${srcaddr}")) == [canonical]


def test_an_ipv4_and_an_ipv6_address_of_the_same_bytes_stay_apart():
    flows = [flow("10.1.2.3", "10.0.0.1"), flow("a01:203::", "2001:db8::1")]
    assert set(lines_of(window(flows), {1: interface()}, flow_log("${type} ${srcaddr}"))) == {
        "IPv4 10.1.2.3",
        "IPv6 a01:203::",
    }


def test_start_and_end_are_the_whole_seconds_of_the_first_and_last_packet():
    row = flow() | {"start_ns": T0 * 10**9 + 999_999_999, "end_ns": (T0 + 7) * 10**9 + 1}
    assert lines_of(window([row]), {1: interface()}, flow_log("${start} ${end}")) == [f"{T0} {T0 + 7}"]


def test_tcp_flags_are_zero_for_other_protocols():
    flows = [flow(protocol=17), flow(protocol=6, tcp_flags=19, srcport=1)]
    assert sorted(lines_of(window(flows), {1: interface()}, flow_log("${protocol} ${tcp-flags}"))) == ["17 0", "6 19"]


@pytest.mark.parametrize(
    ("known", "printed"),
    [
        ("nat_gateway", "nat_gateway"),
        ("transit_gateway", "transit_gateway"),
        ("interface", "-"),
        ("lambda", "-"),
        (None, "-"),
    ],
)
def test_interface_type_is_printed_for_the_services_of_the_documentation(known: str | None, printed: str):
    eni = interface(interface_type=known)
    assert lines_of(window([flow()]), {1: eni}, flow_log("${interface-type}")) == [printed]


def test_an_interface_that_a_service_holds_has_no_instance():
    format_ = "${instance-id} ${interface-type}"
    nat = interface(interface_type="nat_gateway", instance_id="i-01234567890123456")
    assert lines_of(window([flow()]), {1: nat}, flow_log(format_)) == ["- nat_gateway"]
    database = interface(interface_type="interface", instance_id=None)
    assert lines_of(window([flow()]), {1: database}, flow_log(format_)) == ["- -"]


TAGS = (("instance", ("Name", "Owner")), ("network-interface", ("Name",)))


def test_tag_fields_show_the_keys_of_the_flow_log():
    eni = interface(
        tags=[["Name", "front"], ["Stage", "test"]], instance_tags=[["Name", "web"], ["Owner", "team a/b+c é"]]
    )
    of_log = flow_log("${version} ${instance-tag} ${instance-tag-2} ${interface-tag}", tag_keys=TAGS)
    assert lines_of(window([flow()]), {1: eni}, of_log) == ["11 web team%20a%2Fb%2Bc%20%C3%A9 front"]
    assert lines_of(window(), {1: eni}, of_log, {ENI}) == ["11 web team%20a%2Fb%2Bc%20%C3%A9 front"], "NODATA"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain-Text_1.~", "plain-Text_1.~"),
        ("", "-"),
        ("-", "%2D"),
        ("--", "--"),
        ("100%", "100%25"),
        ("a b", "a%20b"),
        ("a\tb\n", "a%09b%0A"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("\ud800", "%3F"),
    ],
)
def test_tag_values_are_percent_encoded_utf_8(value: str, text: str):
    eni = interface(tags=[["k", value]])
    of_log = flow_log("${interface-tag}", tag_keys=(("network-interface", ("k",)),))
    assert lines_of(window([flow()]), {1: eni}, of_log) == [text]


def test_tags_that_are_not_there_and_auto_scaling_groups_are_absent():
    format_ = "${instance-tag} ${interface-tag} ${asg-tag}"
    keys = (("instance", ("a",)), ("network-interface", ("a",)), ("auto-scaling-group", ("a",)))
    eni = interface(tags=[["b", "c"]])
    assert lines_of(window([flow()]), {1: eni}, flow_log(format_, tag_keys=keys)) == ["- - -"]


def test_flow_logs_with_the_same_format_and_other_tag_keys_do_not_share_lines():
    eni = interface(tags=[["a", "1"], ["b", "2"]])
    records = WindowRecords(window([flow()]), {1: eni})
    for key, value in (("a", "1"), ("b", "2"), ("a", "1")):
        of_log = flow_log("${interface-tag}", tag_keys=(("network-interface", (key,)),))
        (item,) = records.events(of_log, ())
        assert item.messages.to_pylist() == [value]


@pytest.mark.parametrize(
    ("traffic_type", "expected"), [("ALL", {"ACCEPT", "REJECT"}), ("ACCEPT", {"ACCEPT"}), ("REJECT", {"REJECT"})]
)
def test_traffic_types_filter_and_excluded_traffic_is_in_none(traffic_type: str, expected: set[str]):
    flows = [flow(), flow(outcome=Outcome.REJECT), excluded(Exclusion.ARP), excluded(Exclusion.DNS)]
    lines = lines_of(window(flows), {1: interface()}, flow_log("${action} ${log-status}", traffic_type))
    assert set(lines) == {f"{action} OK" for action in expected}
    assert len(lines) == len(expected)


def test_an_unknown_traffic_type_is_refused():
    with pytest.raises(InputError, match="one of ALL, ACCEPT, REJECT"):
        lines_of(window([flow()]), {1: interface()}, flow_log(traffic_type="all"))


def test_rules_split_records_only_in_formats_that_ask_for_them():
    flows = [flow(rule=1, packets=2, bytes=80), flow(rule=2, packets=3, bytes=120), flow(rule=9, packets=5, bytes=200)]
    rules = {1: ("sgr-1", "security-group"), 2: ("acl-1/ingress/100", "network-acl")}
    records = WindowRecords(window(flows), {1: interface()}, rules)
    with_rules = flow_log("${version} ${x-rule-id} ${x-rule-layer} ${packets}")
    (item,) = records.events(with_rules, ())
    assert set(item.messages.to_pylist()) == {
        "2 sgr-1 security-group 2",
        "2 acl-1/ingress/100 network-acl 3",
        "2 - - 5",
    }
    (item,) = records.events(flow_log("${packets} ${bytes}"), ())
    assert item.messages.to_pylist() == ["10 400"]
    assert records.table(flow_log("${packets} ${bytes}"), ()).to_pylist() == [{"packets": 10, "bytes": 400}]
    (item,) = records.events(flow_log("${x-rule-layer} ${packets}"), ())
    assert set(item.messages.to_pylist()) == {"security-group 2", "network-acl 3", "- 5"}, "the layer alone splits too"


def test_merging_over_rules_keeps_accepted_and_rejected_apart_and_the_first_and_last_packet():
    flows = [
        flow(rule=1, packets=2, bytes=80, start=T0 + 9, end=T0 + 20, tcp_flags=2),
        flow(rule=2, packets=3, bytes=120, start=T0 + 4, end=T0 + 30, tcp_flags=1),
        flow(rule=2, outcome=Outcome.REJECT, packets=1, bytes=40, start=T0 + 50, end=T0 + 50),
    ]
    format_ = "${packets} ${bytes} ${start} ${end} ${tcp-flags} ${action}"
    lines = lines_of(window(flows), {1: interface()}, flow_log(format_), rules={1: ("sgr-1", "security-group")})
    assert lines == [f"5 200 {T0 + 4} {T0 + 30} 3 ACCEPT", f"1 40 {T0 + 50} {T0 + 50} 0 REJECT"]
    rejected = flow_log("${x-rule-id} ${packets}", "REJECT")
    assert lines_of(window(flows), {1: interface()}, rejected, rules={2: ("acl-1/egress/*", "network-acl")}) == [
        "acl-1/egress/* 1"
    ]


def test_a_status_record_has_no_rule():
    of_log = flow_log("${log-status} ${x-rule-id} ${x-rule-layer}")
    assert lines_of(window([], [loss()]), {1: interface()}, of_log, rules={0: ("sgr-0", "default")}) == ["SKIPDATA - -"]


ALL_FIELDS = format_text([item.name for item in FIELDS])
STATIC = {
    "version": "11",
    "account-id": "123456789012",
    "interface-id": ENI,
    "start": str(T0),
    "end": str(T0 + 60),
    "vpc-id": "vpc-0123456789abcdef0",
    "subnet-id": "subnet-0123456789abcdef0",
    "instance-id": "i-1",
    "region": "us-east-1",
    "az-id": "use1-az1",
}


def test_nodata_line_exactly():
    assert lines_of(window(), {1: interface()}, flow_log(), {ENI}) == [
        f"2 123456789012 {ENI} - - - - - - - {T0} {T0 + 60} - NODATA"
    ]


def test_skipdata_line_exactly():
    assert lines_of(window([], [loss(packets=3)]), {1: interface()}, flow_log()) == [
        f"2 123456789012 {ENI} - - - - - - - {T0} {T0 + 60} - SKIPDATA"
    ]


@pytest.mark.parametrize(
    ("losses", "more"),
    [
        ([], {"log-status": "NODATA"}),
        (
            [loss(packets=3, bytes=300), loss(direction=OUT, loss=Loss.AGENT, packets=4, bytes=500)],
            {"log-status": "SKIPDATA", "x-lost-packets": "7", "x-lost-bytes": "800"},
        ),
    ],
)
def test_what_stays_on_status_lines(losses: list[dict[str, Any]], more: dict[str, str]):
    (line,) = lines_of(window([], losses), {1: interface(instance_id="i-1")}, flow_log(ALL_FIELDS), {ENI})
    expected = STATIC | more
    assert line.split(" ") == [expected.get(item.name, "-") for item in FIELDS]


def test_ok_records_have_no_losses():
    of_log = flow_log("${log-status} ${x-lost-packets} ${x-lost-bytes}")
    assert lines_of(window([flow(start=T0)], [loss(packets=2, bytes=90)]), {1: interface()}, of_log) == [
        "SKIPDATA 2 90",
        "OK - -",
    ]


def test_nodata_only_after_a_first_record_and_only_without_traffic():
    of_log = flow_log("${log-status}")
    assert lines_of(window(), {1: interface()}, of_log) == []
    assert lines_of(window([flow()]), {1: interface()}, of_log, {ENI}) == ["OK"]
    assert lines_of(window([excluded(Exclusion.ARP)]), {1: interface()}, of_log, {ENI}) == ["NODATA"]
    assert lines_of(window([], [loss(packets=0, bytes=0)]), {1: interface()}, of_log, {ENI}) == ["NODATA"]


@pytest.mark.parametrize("traffic_type", ["ACCEPT", "REJECT"])
def test_status_lines_are_in_flow_logs_of_every_traffic_type(traffic_type: str):
    of_log = flow_log("${log-status}", traffic_type)
    assert lines_of(window(), {1: interface()}, of_log, {ENI}) == ["NODATA"]
    assert lines_of(window([], [loss()]), {1: interface()}, of_log) == ["SKIPDATA"]
    other = flow(outcome=Outcome.REJECT if traffic_type == "ACCEPT" else Outcome.ACCEPT)
    assert lines_of(window([other]), {1: interface()}, of_log, {ENI}) == []  # there was traffic: not NODATA


def test_only_the_flow_logs_interfaces_are_in_it():
    enis = {1: interface("eni-1"), 2: interface("eni-2"), 3: interface("eni-3")}
    of_window = window([flow(slot=1), flow(slot=2), flow(slot=9)], [loss(slot=3), loss(slot=9, packets=4, bytes=77)])
    of_log = flow_log("${interface-id} ${log-status}", interface_ids=("eni-2", "eni-3", "eni-absent"))
    assert lines_of(of_window, enis, of_log) == ["eni-2 OK", "eni-3 SKIPDATA"]
    assert lines_of(of_window, enis, flow_log("${version}", interface_ids=())) == []
    assert WindowRecords(of_window, enis).unclaimed == (5, 117)


def test_two_slots_of_one_interface_are_one_interface():
    enis = {1: interface(), 5: interface(device="vn-again")}
    of_window = window([flow(slot=1, start=T0 + 9), flow(slot=5, start=T0 + 3)], [loss(slot=1), loss(slot=5)])
    assert lines_of(of_window, enis, flow_log("${start} ${log-status} ${x-lost-packets}")) == [
        f"{T0} SKIPDATA 2",
        f"{T0 + 3} OK -",
        f"{T0 + 9} OK -",
    ]


def test_events_are_by_interface_and_in_order_of_time():
    enis = {1: interface("eni-1"), 2: interface("eni-2")}
    starts = [(1, T0 + 30), (2, T0 + 5), (1, T0 - 2), (2, T0 + 59), (1, T0)]
    of_window = window([flow(slot=slot, start=start_s, dstport=start_s - T0 + 2) for slot, start_s in starts], [loss()])
    of_log = flow_log("${start} ${dstport}", interface_ids=("eni-1", "eni-2"))
    first, second = WindowRecords(of_window, enis).events(of_log, ())
    assert isinstance(first, Events)
    assert (first.interface_id, second.interface_id) == ("eni-1", "eni-2")
    assert first.timestamps_ms.to_pylist() == [(T0 - 2) * 1000, T0 * 1000, T0 * 1000, (T0 + 30) * 1000]
    assert first.messages.to_pylist() == [f"{T0 - 2} 0", f"{T0} -", f"{T0} 2", f"{T0 + 30} 32"]
    assert second.timestamps_ms.to_pylist() == [(T0 + 5) * 1000, (T0 + 59) * 1000]


def test_events_have_awss_timestamp_though_the_format_has_no_start():
    (item,) = WindowRecords(window([flow(start=T0 + 1)]), {1: interface()}).events(flow_log("${srcaddr}"), ())
    assert item.timestamps_ms.to_pylist() == [(T0 + 1) * 1000]


def test_flow_logs_with_the_same_format_and_interfaces_share_lines():
    records = WindowRecords(window([flow(), flow(dstport=5)]), {1: interface()})
    (one,), (two,) = records.events(flow_log(), ()), records.events(flow_log(), ())
    assert one.messages.buffers()[2].address == two.messages.buffers()[2].address


def test_typed_columns_are_awss_parquet_columns():
    table = record_table(window([flow()], [loss()]), {1: interface()}, flow_log(ALL_FIELDS), ())
    assert table.schema == flow_log_format(ALL_FIELDS).schema
    assert table.num_rows == 2


def test_a_blank_in_the_inventory_cannot_break_a_line():
    with pytest.raises(InputError, match="az-id 'use1 az1' of eni-0123456789abcdef0 has a blank"):
        lines_of(window([flow()]), {1: interface(az_id="use1 az1")}, flow_log("${az-id}"))
    assert lines_of(window([flow()]), {1: interface(az_id="")}, flow_log("${az-id}")) == ["-"]


def test_an_empty_window_has_no_records():
    empty = Window(T0, T0 + 60, FLOW_SCHEMA.empty_table(), LOSS_SCHEMA.empty_table())
    assert lines_of(empty, {}, flow_log()) == []
    assert lines_of(empty, {1: interface()}, flow_log(ALL_FIELDS)) == []


@given(
    st.lists(rows, max_size=20),
    st.lists(loss_rows, max_size=3),
    st.lists(st.sampled_from([item.name for item in FIELDS]), min_size=1, unique=True),
    st.sampled_from(["ALL", "ACCEPT", "REJECT"]),
    st.sets(st.sampled_from(["eni-0", "eni-1", "eni-2"])),
)
def test_records_parse_back_and_every_packet_is_in_one(
    flow_rows: list[dict[str, Any]], losses: list[dict[str, Any]], names: list[str], traffic_type: str, seen: set[str]
):
    names = [*(name for name in names if name not in ("packets", "action", "x-lost-packets")), "packets", "action"]
    format_ = flow_log_format(format_text([*names, "x-lost-packets"]))
    enis = {slot: interface(f"eni-{slot}", private_ipv4=[f"10.0.0.{slot}"]) for slot in range(3)}
    of_log = flow_log(format_.text, traffic_type, ("eni-0", "eni-1", "eni-2"))
    of_window = window(flow_rows, losses)
    records = WindowRecords(of_window, enis)
    table = records.table(of_log, seen)
    lines = record_lines(table, format_)
    assert parse_lines(lines, format_).equals(table)
    assert [parse_line(line, format_) for line in lines.to_pylist()] == table.to_pylist()
    events = records.events(of_log, seen)
    assert [line for item in events for line in item.messages.to_pylist()] == lines.to_pylist()
    for item in events:
        assert item.timestamps_ms.to_pylist() == sorted(item.timestamps_ms.to_pylist())
    wanted = {"ALL": (0, 1), "ACCEPT": (0,), "REJECT": (1,)}[traffic_type]
    packets = sum(row["packets"] for row in flow_rows if row["outcome"] in wanted)
    assert sum(row["packets"] or 0 for row in table.to_pylist()) == packets
    assert sum(row["x_lost_packets"] or 0 for row in table.to_pylist()) == sum(row["packets"] for row in losses)
