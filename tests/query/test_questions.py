"""Named questions: what their headers mean, and that each answers what it says, over logs that are made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asking import Answered, ask, write

from vnotch.errors import InputError
from vnotch.query.questions import find_question, parse_question, questions

HEADER = "interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action"
FULL = HEADER + " az-id flow-direction pkt-srcaddr pkt-dstaddr"
T = 1_700_000_000


def flow(
    source: str, destination: str, srcport: int = 40_000, dstport: int = 443, *, bytes: int = 100, packets: int = 1,
    start: int = T, seconds: int = 10, action: str = "ACCEPT", protocol: int = 6, eni: str = "eni-1",
) -> str:  # fmt: skip
    end = start + seconds
    return f"{eni} {source} {destination} {srcport} {dstport} {protocol} {packets} {bytes} {start} {end} {action}"


def answer(folder: Path, name: str, *values: str, lines: list[str], header: str = HEADER, **named: str) -> Answered:
    """Asks over exactly these lines."""
    path = write(folder / "logs" / "a.log", *lines, header=header)
    question = find_question(name)
    columns = {column.replace("-", "_"): "" for column in header.split()}
    question.check_columns(columns)
    return ask(question.sql, path, parameters=question.bind(values, named), extra=question.optional)


def rows(found: Answered, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in found.rows]


@pytest.mark.parametrize("name", list(questions()))
def test_every_question_says_what_it_answers_and_runs_over_nothing(tmp_path: Path, name: str):
    question = find_question(name)
    assert question.answers.endswith(".")
    assert question.chart is not None or name == "unused-ports"
    required = ["10.0.0.1"] if any(item.default is None for item in question.parameters) else []
    path = write(tmp_path / "a.log", flow("10.0.0.1", "10.0.0.2") + " - - - -", header=FULL)
    found = ask(question.sql, path, parameters=question.bind(required, {}), extra=question.optional)
    chart = question.drawn(question.bind(required, {}))
    named = {*question.addresses, *([chart.label, chart.value] if chart else [])}
    assert named <= set(found.columns)


def test_top_talkers(tmp_path: Path):
    lines = [flow("10.0.0.1", "10.0.0.2", bytes=10, packets=9), flow("10.0.0.1", "10.0.0.3", bytes=10, packets=9)]
    lines += [flow("10.0.0.9", "10.0.0.2", bytes=100, packets=1)]
    by_bytes = answer(tmp_path, "top-talkers", lines=lines)
    assert rows(by_bytes, "source", "bytes", "packets", "records") == [
        ("10.0.0.9", 100, 1, 1), ("10.0.0.1", 20, 18, 2),
    ]  # fmt: skip
    assert rows(answer(tmp_path, "top-talkers", lines=lines, by="packets", limit="1"), "source") == [("10.0.0.1",)]


def test_rejected(tmp_path: Path):
    lines = [flow("198.51.100.1", "10.0.0.1", dstport=22, action="REJECT", start=T + place) for place in range(3)]
    lines += [flow("198.51.100.2", "10.0.0.1", dstport=53, protocol=17, action="REJECT"), flow("10.0.0.1", "10.0.0.2")]
    assert rows(answer(tmp_path, "rejected", lines=lines), "rejected", "records") == [("tcp/22", 3), ("udp/53", 1)]
    assert rows(answer(tmp_path, "rejected", "source", lines=lines), "rejected", "records", "ports") == [
        ("198.51.100.1", 3, 1), ("198.51.100.2", 1, 1),
    ]  # fmt: skip


def test_who_talks_to(tmp_path: Path):
    lines = [
        flow("10.0.0.5", "10.0.0.1", 40_000, 443, bytes=10), flow("10.0.0.1", "10.0.0.5", 443, 40_000, bytes=90),
        flow("10.0.0.7", "10.0.0.8"),
    ]  # fmt: skip
    expected = [("10.0.0.5", "to", 443, 90), ("10.0.0.5", "from", 443, 10)]
    for target in ("10.0.0.1", "10.0.0.0/30"):
        found = answer(tmp_path, "who-talks-to", target, lines=lines)
        assert rows(found, "peer", "direction", "port", "bytes") == expected


def test_who_talks_to_an_address_behind_a_nat_gateway(tmp_path: Path):
    """VPC user guide, "Traffic through a NAT gateway": the far end is in the pkt- fields alone."""
    header = HEADER + " pkt-srcaddr pkt-dstaddr"
    line = flow("10.0.1.5", "10.0.0.220", bytes=7) + " 10.0.1.5 203.0.113.5"
    found = answer(tmp_path, "who-talks-to", "203.0.113.5", lines=[line], header=header)
    assert rows(found, "peer", "direction", "bytes") == [("10.0.1.5", "from", 7)]


def test_port_scans(tmp_path: Path):
    vertical = [flow("198.51.100.1", "10.0.0.1", 50_000, port, action="REJECT") for port in range(1, 26)]
    horizontal = [flow("198.51.100.2", f"10.0.0.{n}", 50_000, 22, action="REJECT") for n in range(1, 31)]
    # A busy server answers to many ports, a busy client opens one port of many hosts: neither is a scan.
    server = [flow("10.0.0.1", "203.0.113.9", 443, port) for port in range(40_000, 40_100)]
    client = [flow("10.0.0.2", f"203.0.113.{n}", 50_000, 443) for n in range(1, 50)]
    found = answer(tmp_path, "port-scans", lines=vertical + horizontal + server + client)
    assert rows(found, "source", "kind", "tried", "rejected") == [
        ("198.51.100.2", "addresses with port 22", 30, 30),
        ("198.51.100.1", "ports of one address", 25, 25),
    ]
    assert answer(tmp_path, "port-scans", "26", "31", lines=vertical + horizontal).rows == []


def test_new_destinations(tmp_path: Path):
    day = 86_400
    lines = [
        flow("10.0.0.1", "203.0.113.1", start=T), flow("10.0.0.1", "203.0.113.1", start=T + 3 * day),
        flow("10.0.0.2", "203.0.113.2", dstport=8080, start=T + 3 * day, bytes=7),
        flow("10.0.0.2", "10.0.0.9", start=T + 3 * day),  # not of the internet
        flow("10.0.0.2", "203.0.113.3", start=T + 3 * day, action="REJECT"),
    ]  # fmt: skip
    found = answer(tmp_path, "new-destinations", lines=lines)
    assert rows(found, "destination", "sender", "port", "bytes") == [("203.0.113.2", "10.0.0.2", "tcp/8080", 7)]
    assert len(answer(tmp_path, "new-destinations", "30d", lines=lines).rows) == 2


def test_bytes_per_minute(tmp_path: Path):
    minute = T - T % 60
    lines = [flow("10.0.0.1", "10.0.0.2", bytes=5, start=minute, seconds=place) for place in (0, 59, 60)]
    lines += [flow("10.0.0.1", "10.0.0.2", bytes=1, start=minute, seconds=61, action="REJECT")]
    found = answer(tmp_path, "bytes-per-minute", lines=lines)
    assert [(int(row["minute"].timestamp()), row["bytes"], row["rejected_bytes"]) for row in found.rows] == [
        (minute, 10, None), (minute + 60, 6, 1),
    ]  # fmt: skip
    assert rows(answer(tmp_path, "bytes-per-minute", "60", lines=lines), "bytes", "records") == [(16, 4)]


def test_cross_az(tmp_path: Path):
    """The zone of the far end is learnt from its own records."""
    out = "{} use1-az{} egress - -"
    lines = [
        out.format(flow("10.0.1.1", "10.0.2.1", bytes=10**9), 1), out.format(flow("10.0.1.1", "10.0.1.2", bytes=5), 1),
        flow("10.0.1.1", "10.0.2.1") + " use1-az2 ingress - -", flow("10.0.1.1", "10.0.1.2") + " use1-az1 ingress - -",
        out.format(flow("10.0.1.1", "203.0.113.1", bytes=7), 1),
    ]  # fmt: skip
    found = answer(tmp_path, "cross-az", lines=lines, header=FULL)
    assert rows(found, "source", "destination", "from_az", "to_az", "bytes", "usd") == [
        ("10.0.1.1", "10.0.2.1", "use1-az1", "use1-az2", 10**9, 0.01)
    ]
    told = [f"{flow('10.0.1.1', '10.0.3.1', bytes=3)} use1-az1 egress - - use1-az3"]
    found = answer(tmp_path, "cross-az", lines=told, header=FULL + " next-hop-az-id")
    assert rows(found, "to_az", "bytes") == [("use1-az3", 3)]


def test_nat_bytes(tmp_path: Path):
    """The four records of the VPC user guide, "Traffic through a NAT gateway", with bytes and the answers added."""
    header = "interface-id srcaddr dstaddr pkt-srcaddr pkt-dstaddr bytes"
    lines = [
        "eni-1235b8ca123456789 10.0.1.5 10.0.0.220 10.0.1.5 203.0.113.5 100",
        "eni-1235b8ca123456789 10.0.0.220 203.0.113.5 10.0.0.220 203.0.113.5 100",
        "eni-1235b8ca123456789 203.0.113.5 10.0.0.220 203.0.113.5 10.0.0.220 900",
        "eni-1235b8ca123456789 10.0.0.220 10.0.1.5 203.0.113.5 10.0.1.5 900",
    ]
    found = answer(tmp_path, "nat-bytes", lines=lines, header=header)
    assert rows(found, "inside", "outside", "sent", "received", "bytes") == [
        ("10.0.1.5", "203.0.113.5", 100, 900, 1000)
    ]


def test_long_connections(tmp_path: Path):
    lines = [
        flow("10.0.0.1", "10.0.0.2", 40_000, 22, start=T + place * 600, seconds=600, bytes=1) for place in range(12)
    ]
    lines += [flow("10.0.0.1", "10.0.0.2", 40_001, 22, seconds=600)]
    found = answer(tmp_path, "long-connections", lines=lines)
    assert rows(found, "srcport", "seconds", "records", "bytes") == [(40_000, 7200, 12, 12)]
    assert len(answer(tmp_path, "long-connections", "10m", lines=lines).rows) == 2


def test_unused_ports(tmp_path: Path):
    lines = [
        flow("198.51.100.1", "10.0.0.1", dstport=443, eni="eni-1"),
        flow("198.51.100.1", "10.0.0.1", dstport=22, action="REJECT"),
        flow("198.51.100.1", "10.0.0.2", dstport=22, eni="eni-2"),
    ]  # fmt: skip
    found = answer(tmp_path, "unused-ports", "22, 443", lines=lines)
    assert rows(found, "interface_id", "port", "rejected") == [("eni-1", 22, 1), ("eni-2", 443, 0)]


def test_beacons(tmp_path: Path):
    regular = [flow("10.0.0.1", "203.0.113.1", 40_000 + n, start=T + 300 * n + n % 3) for n in range(20)]
    irregular = [flow("10.0.0.2", "203.0.113.1", 40_000 + n, start=T + 300 * n * n) for n in range(20)]
    # One long connection has a record each interval: regular, and no beacon.
    long = [flow("10.0.0.3", "203.0.113.1", 40_000, start=T + 60 * n) for n in range(20)]
    found = answer(tmp_path, "beacons", lines=regular + irregular + long)
    assert rows(found, "source", "destination", "dstport", "connections") == [("10.0.0.1", "203.0.113.1", 443, 20)]
    assert found.rows[0]["every_seconds"] == pytest.approx(300, abs=1)


GOOD = "-- title: T\n-- answers: What.\n-- parameter: n integer = 3: how many\nSELECT * FROM flow_logs LIMIT $n"


def test_a_question_of_the_user_counts_before_ours(tmp_path: Path):
    (tmp_path / "top-talkers.sql").write_text(GOOD)
    (tmp_path / "mine.sql").write_text(GOOD)
    found = questions(tmp_path)
    assert found["top-talkers"].title == "T"
    assert found["mine"].bind([], {}) == {"n": 3}
    assert "rejected" in found


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELECT 1", "no header"),
        (GOOD.replace("LIMIT $n", ""), "does not occur"),
        (GOOD.replace("integer", "complex"), "parameter"),
        (GOOD.replace("= 3", "= many"), "not right"),
        (GOOD.replace("-- answers", "-- answer"), "unknown header"),
        (GOOD.replace("-- answers: What.", "-- needs: nonsense"), "no field"),
        (GOOD.replace("-- answers: What.", "-- chart: pie a b"), "chart"),
        (GOOD.replace("-- answers: What.", "-- chart: bars a $n"), "chart"),
    ],
)
def test_a_question_that_is_not_right_is_refused_by_name(tmp_path: Path, sql: str, what: str):
    (tmp_path / "bad.sql").write_text(sql)
    with pytest.raises(InputError, match=what) as caught:
        questions(tmp_path)
    assert "bad.sql" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("who-talks-to", [], {}), ("who-talks-to", ["nonsense"], {}), ("who-talks-to", ["10.0.0.1", "1", "2"], {}),
        ("top-talkers", [], {"limit": "-1"}), ("top-talkers", [], {"limit": "1; drop"}), ("top-talkers", ["x"], {}),
        ("top-talkers", ["bytes"], {"by": "bytes"}), ("top-talkers", [], {"nonsense": "1"}),
        ("unused-ports", ["22,x"], {}), ("long-connections", ["1y"], {}),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(name: str, values: list[str], named: dict[str, str]):
    with pytest.raises(InputError):
        find_question(name).bind(values, named)


def test_addresses_are_bound_as_records_have_them():
    question = find_question("who-talks-to")
    assert question.bind(["2001:DB8::0:1"], {})["address"] == "2001:db8::1"
    assert question.bind(["10.0.0.9/24"], {})["address"] == "10.0.0.0/24"


def test_fields_that_a_question_needs_and_logs_lack_are_named():
    with pytest.raises(InputError, match="lacks: pkt-srcaddr, pkt-dstaddr"):
        find_question("nat-bytes").check_columns(dict.fromkeys(("interface_id", "srcaddr", "dstaddr", "bytes"), ""))


def test_a_question_that_does_not_exist_is_refused_with_what_is_near():
    with pytest.raises(InputError, match="top-talkers"):
        find_question("top-talker")


def test_a_header_may_be_minimal():
    question = parse_question("x", "-- title: T\nSELECT 1", "x.sql")
    assert (question.parameters, question.chart, question.needs) == ((), None, ())
