"""Every named question once more, by loops over the lines, on records of three formats with absent values."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
from asking import ask, write

from vnotch.query.questions import find_question

DEFAULT = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
)
FORMATS = (
    DEFAULT,
    f"{DEFAULT} pkt-srcaddr pkt-dstaddr az-id flow-direction",
    "end start flow-direction az-id next-hop-az-id srcaddr dstaddr pkt-srcaddr pkt-dstaddr srcport dstport protocol "
    "packets bytes action interface-id",
)
NUMBERS = {"srcport", "dstport", "protocol", "packets", "bytes", "start", "end"}
T = 1_700_000_000
HOUR = 3600
INSIDE = [f"10.0.{zone}.{host}" for zone in (1, 2) for host in range(4, 12)]
OUTSIDE = [f"203.0.113.{number}" for number in range(1, 30)] + ["2001:db8::5"]
PRIVATE = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10")]
PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp"}

Record = dict[str, Any]
Rows = Iterable[tuple[Any, ...]]


def made(chance: random.Random) -> Record:
    towards = chance.choice([(INSIDE, OUTSIDE + INSIDE), (OUTSIDE, INSIDE)])
    source, destination = map(chance.choice, towards)
    ports = [chance.randint(32_768, 60_999), chance.choice([22, 80, 443, 8080, *range(1, 40)])]
    if chance.random() < 0.3:
        ports.reverse()
    end = T + chance.randint(0, 6 * HOUR)
    return {
        "interface-id": f"eni-{chance.randint(1, 3)}", "srcaddr": source, "dstaddr": destination,
        "srcport": ports[0], "dstport": ports[1], "protocol": chance.choice([6, 6, 17, 1]),
        "packets": chance.randint(1, 50), "bytes": chance.randint(40, 9000), "start": end - chance.randint(0, 59),
        "end": end, "action": "REJECT" if chance.random() < 0.2 else "ACCEPT", "log-status": "OK", "version": 2,
        "account-id": "123456789012", "az-id": f"use1-az{1 if source in INSIDE[:8] else 2}",
        "flow-direction": chance.choice(["egress", "ingress"]),
        "pkt-srcaddr": source if chance.random() < 0.8 else chance.choice(OUTSIDE),
        "pkt-dstaddr": destination if chance.random() < 0.8 else chance.choice(OUTSIDE),
        "next-hop-az-id": chance.choice(["use1-az1", "use1-az2", None]),
    }  # fmt: skip


def beacon(number: int) -> Record:
    """One record of several connections at regular intervals."""
    chance = random.Random(number)
    regular = {"srcaddr": "10.0.1.4", "dstaddr": "203.0.113.99", "srcport": 40_000 + number, "dstport": 443}
    times = {"start": T + 300 * number, "end": T + 300 * number + 1, "protocol": 6, "action": "ACCEPT"}
    return {**made(chance), **regular, **times}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A folder, and its records as the lines say them: a field that a line has not, or has as `-`, is None."""
    folder, chance = tmp_path_factory.mktemp("logs"), random.Random(11)
    records: list[Record] = []
    for number, header in enumerate(FORMATS):
        names = header.split()
        rows = [made(chance) for _ in range(900)] + [beacon(place) for place in range(12)]
        rows += [{"interface-id": "eni-9", "start": T, "end": T + 60, "log-status": "NODATA"}] if number == 0 else []
        lines = [" ".join(str(row.get(name) or "-") for name in names) for row in rows]
        write(folder / f"{number}.log", *lines, header=header)
        known = {name for names in FORMATS for name in names.split()}
        records += [
            {name.replace("-", "_"): row.get(name) if name in names else None for name in known} for row in rows
        ]
    return folder, records


def grouped(records: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


def total(records: list[Record], name: str) -> int:
    return sum(record[name] for record in records)


def is_private(address: str) -> bool:
    return any(ip_address(address) in network for network in PRIVATE)


def top_talkers(records: list[Record]) -> Rows:
    for source, found in grouped((r for r in records if r["srcaddr"]), lambda r: r["srcaddr"]).items():
        yield source, total(found, "bytes"), total(found, "packets"), len(found)


def rejected(records: list[Record]) -> Rows:
    groups = grouped((r for r in records if r["action"] == "REJECT"), lambda r: (r["protocol"], r["dstport"]))
    for (protocol, port), found in groups.items():
        yield f"{PROTOCOLS[protocol]}/{port}", len(found), len({r["srcaddr"] for r in found}), total(found, "packets")


def who_talks_to(records: list[Record], address: str) -> Rows:
    def key(r: Record) -> tuple[Any, ...]:
        sent = address in (r["srcaddr"], r["pkt_srcaddr"])
        peer = (r["pkt_dstaddr"] or r["dstaddr"]) if sent else (r["pkt_srcaddr"] or r["srcaddr"])
        port = min(r["srcport"], r["dstport"])
        return peer, "to" if sent else "from", PROTOCOLS[r["protocol"]], port, r["action"]

    named = [r for r in records if address in (r["srcaddr"], r["dstaddr"], r["pkt_srcaddr"], r["pkt_dstaddr"])]
    for found, rows in grouped(named, key).items():
        yield *found, total(rows, "bytes"), len(rows)


def port_scans(records: list[Record], least: int) -> Rows:
    tried = [
        r for r in records if r["protocol"] in (6, 17) and (r["action"] == "REJECT" or r["dstport"] < r["srcport"])
    ]
    for (source, _), found in grouped(tried, lambda r: (r["srcaddr"], r["dstaddr"])).items():
        if len(ports := {r["dstport"] for r in found}) >= least:
            yield source, "ports of one address", len(ports)
    for (source, port), found in grouped(tried, lambda r: (r["srcaddr"], r["dstport"])).items():
        hosts = {r["dstaddr"] for r in found}
        if len(hosts) >= least and any(r["action"] == "REJECT" for r in found):
            yield source, f"addresses with port {port}", len(hosts)


def new_destinations(records: list[Record], within: int) -> Rows:
    accepted = [r for r in records if r["action"] == "ACCEPT"]
    last = max(r["end"] for r in accepted)
    for destination, found in grouped(accepted, lambda r: r["pkt_dstaddr"] or r["dstaddr"]).items():
        if min(r["start"] for r in found) >= last - within and not is_private(destination):
            yield destination, total(found, "bytes"), len(found)


def bytes_per_minute(records: list[Record]) -> Rows:
    for minute, found in grouped((r for r in records if r["bytes"]), lambda r: r["end"] // 300 * 300).items():
        no = [r for r in found if r["action"] == "REJECT"]
        yield minute, total(found, "bytes"), total(no, "bytes") if no else None, len(found)


def cross_az(records: list[Record]) -> Rows:
    zones: dict[str, str] = {}
    for r in records:
        if r["az_id"] and r["flow_direction"]:
            address = r["srcaddr"] if r["flow_direction"] == "egress" else r["dstaddr"]
            zones[address] = min(r["az_id"], zones.get(address, r["az_id"]))
    out = [{**r, "to": r["next_hop_az_id"] or zones.get(r["dstaddr"])} for r in records if r["az_id"]]
    out = [r for r in out if r["flow_direction"] == "egress" and r["to"] and r["to"] != r["az_id"]]
    for key, found in grouped(out, lambda r: (r["srcaddr"], r["dstaddr"], r["az_id"], r["to"])).items():
        yield *key, total(found, "bytes"), len(found)


def nat_bytes(records: list[Record]) -> Rows:
    found: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for r in records:
        if not r["pkt_srcaddr"]:
            continue
        other_source, other_end = r["srcaddr"] != r["pkt_srcaddr"], r["dstaddr"] != r["pkt_dstaddr"]
        if other_end and not other_source:
            found[r["interface_id"], r["srcaddr"], r["pkt_dstaddr"]][0] += r["bytes"]
        elif other_source and not other_end:
            found[r["interface_id"], r["dstaddr"], r["pkt_srcaddr"]][1] += r["bytes"]
    for (interface, inside, outside), (sent, received) in found.items():
        if is_private(inside) and not is_private(outside):
            yield interface, inside, outside, sent, received, sent + received


def long_connections(records: list[Record], least: int) -> Rows:
    names = ("srcaddr", "dstaddr", "protocol", "srcport", "dstport")
    kept = [r for r in records if r["action"] == "ACCEPT" and r["protocol"] in (6, 17, 132)]
    for key, found in grouped(kept, lambda r: tuple(r[name] for name in names)).items():
        seconds = max(r["end"] for r in found) - min(r["start"] for r in found)
        if seconds >= least:
            yield key[0], key[1], key[3], key[4], seconds, len(found), total(found, "bytes")


def unused_ports(records: list[Record], ports: list[int]) -> Rows:
    for interface in {r["interface_id"] for r in records if r["interface_id"]}:
        for port in ports:
            met = [r for r in records if (r["interface_id"], r["dstport"]) == (interface, port)]
            met = [r for r in met if r["protocol"] in (6, 17)]
            if not any(r["action"] == "ACCEPT" for r in met):
                yield interface, port, len(met)


def beacons(records: list[Record], least: int, jitter: float) -> Rows:
    opened = [
        r for r in records
        if r["action"] == "ACCEPT" and r["protocol"] in (6, 17) and r["dstport"] < r["srcport"]
    ]  # fmt: skip
    names = ("srcaddr", "dstaddr", "protocol", "dstport")
    for key, found in grouped(opened, lambda r: tuple(r[name] for name in names)).items():
        starts = sorted(min(r["start"] for r in rows) for rows in grouped(found, lambda r: r["srcport"]).values())
        gaps = [after - before for before, after in pairwise(starts)]
        if len(starts) >= least and gaps and mean(gaps) > 0 and pstdev(gaps) / mean(gaps) <= jitter:
            yield key[0], key[1], key[3], len(starts), total(found, "bytes")


PORTS = [7, 22, 23, 80, 443, 5432]


@pytest.mark.parametrize(
    ("name", "values", "columns", "wanted"),
    [
        ("top-talkers", (), "source bytes packets records", top_talkers),
        ("rejected", (), "rejected records sources packets", rejected),
        ("who-talks-to", ("10.0.1.5",), "peer direction protocol port action bytes records",
         lambda records: who_talks_to(records, "10.0.1.5")),
        ("who-talks-to", ("203.0.113.7",), "peer direction protocol port action bytes records",
         lambda records: who_talks_to(records, "203.0.113.7")),
        ("port-scans", ("6", "6"), "source kind tried", lambda records: port_scans(records, 6)),
        ("new-destinations", (str(6 * HOUR - 300),), "destination bytes records",
         lambda records: new_destinations(records, 6 * HOUR - 300)),
        ("bytes-per-minute", ("5",), "minute bytes rejected_bytes records", bytes_per_minute),
        ("cross-az", (), "source destination from_az to_az bytes records", cross_az),
        ("nat-bytes", (), "interface_id inside outside sent received bytes", nat_bytes),
        ("long-connections", ("55",), "source destination srcport dstport seconds records bytes",
         lambda records: long_connections(records, 55)),
        ("unused-ports", (",".join(map(str, PORTS)),), "interface_id port rejected",
         lambda records: unused_ports(records, PORTS)),
        ("beacons", ("3", "0.3"), "source destination dstport connections bytes",
         lambda records: beacons(records, 3, 0.3)),
    ],
)  # fmt: skip
def test_every_question_answers_what_the_lines_say(
    logs: tuple[Path, list[Record]],
    name: str,
    values: tuple[str, ...],
    columns: str,
    wanted: Callable[[list[Record]], Rows],
) -> None:
    folder, records = logs
    question = find_question(name)
    named = {} if name == "bytes-per-minute" else {"limit": "100000"}
    found = ask(question.sql, folder, parameters=question.bind(values, named), extra=question.optional)
    rows = [tuple(row[column] for column in columns.split()) for row in found.rows]
    if name == "bytes-per-minute":
        rows = [(int(minute.timestamp()), *rest) for minute, *rest in rows]
    expected = list(wanted(records))
    assert expected
    assert sorted(rows, key=repr) == sorted(expected, key=repr)
