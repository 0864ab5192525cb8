"""Alerts on flow logs: bursts of REJECT records, port scans and new listeners, found in the typed columns of a group.

Found is by the times of the records: a window begins at a record and is `seconds` long, so that a burst is found
wherever it lies. What was found is remembered by key (source, or source and destination) until its window is over; a
burst that goes on is one finding a window. How far an alert came and what it told are in the state, so that a restart
repeats nothing and passes nothing over. The definitions agree with the questions `port-scans` and `unused-ports`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import BigInteger, ForeignKey, String, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vnotch.store.lake import Relation
from vnotch.store.network import Address
from vnotch.store.pages import page_sql
from vnotch.store.reading import Reading
from vnotch.store.state import Base

REJECTS, PORT_SCAN, NEW_LISTENER = "rejects", "port-scan", "new-listener"
EXAMPLES_MAX = 5
ROWS_MAX = 2_000_000
"""Records of busy sources that one look goes over; what is beyond counts as one finding that was dropped."""
LISTENERS_MAX = 10_000
TOLD_MAX = 10_000
"""That one alert remembers. What is found beyond is neither told nor remembered, and counted as dropped."""

_SYN_ACK = 16
"""The bit that a SYN-ACK packet alone sets in tcp-flags, where it counts as 18 (VPC user guide, tcp-flags)."""

_ATTEMPT = "protocol IN (6, 17) AND (action = 'REJECT' OR dstport < srcport)"
"""As in the question `port-scans`: answers of servers go to many ports too, but from the lower port."""


@dataclass(frozen=True)
class FlowAlert:
    """`text` is the setting without its URLs: the name of the alert in the state."""

    kind: str
    log_group: str
    text: str
    urls: tuple[str, ...]
    seconds: int
    least: int = 1  # records of a burst, ports of a scan
    by_source: bool = True
    days: int = 0  # of the group's past that a new-listener alert learns from

    @property
    def window_ms(self) -> int:
        return self.seconds * 1000


class AlertProgress(Base):
    __tablename__ = "alert_progress"
    alert: Mapped[str] = mapped_column(String(1024), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)  # the sequence number up to which records were looked at
    learned: Mapped[bool]  # a new-listener alert knows what the group held when it began


class AlertTold(Base):
    """What a burst or scan was told of: until `quiet_ms`, in the records' time, its records make no further finding."""

    __tablename__ = "alert_told"
    alert: Mapped[str] = mapped_column(ForeignKey("alert_progress.alert", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(String(64), primary_key=True)  # "" where sources are counted together
    destination: Mapped[str] = mapped_column(String(64), primary_key=True)  # "" in bursts
    quiet_ms: Mapped[int] = mapped_column(BigInteger)


class AlertListener(Base):
    """A listener that was seen, told or learned."""

    __tablename__ = "alert_listener"
    alert: Mapped[str] = mapped_column(ForeignKey("alert_progress.alert", ondelete="CASCADE"), primary_key=True)
    address: Mapped[str] = mapped_column(String(64), primary_key=True)
    port: Mapped[int] = mapped_column(primary_key=True)
    protocol: Mapped[int] = mapped_column(primary_key=True)


@dataclass(frozen=True)
class Finding:
    """Times in Unix ms. `source` and `destination` are "" where there is not one alone; port and protocol are those of
    a listener."""

    source: str
    destination: str
    start_ms: int
    end_ms: int
    port: int | None = None
    protocol: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fresh:
    """The new records of a group that are not too old: times of the first and the last, None where there is none."""

    first_ms: int | None
    last_ms: int | None
    late: int


def fresh(reading: Reading, new: Relation, oldest_ms: int) -> Fresh:
    """What is new, without what is older than `oldest_ms`; that is counted as late."""
    sql = (
        "SELECT min(timestamp_ms) FILTER (timestamp_ms >= ?), max(timestamp_ms) FILTER (timestamp_ms >= ?), "
        f"count(*) FILTER (timestamp_ms < ?) FROM {new.sql} WHERE format_id IS NOT NULL"
    )
    row = reading.arrow(sql, [oldest_ms, oldest_ms, oldest_ms, *new.parameters])
    first_ms, last_ms, late = (column[0].as_py() for column in row.columns)
    return Fresh(first_ms, last_ms, late)


def bursts(
    reading: Reading,
    alert: FlowAlert,
    relation: Relation,
    after: int,
    quiet_ms: Mapping[tuple[str, str], int],
    limit: int,
) -> tuple[list[Finding], int]:
    """The windows of each source (and destination) that are full, are after what was told (`quiet_ms`), do not overlap
    and have a record after the sequence number `after`; the first `limit` of them, and how many there are."""
    source, destination, counted = _keys(alert)
    sql = f"""
WITH told AS (
    SELECT unnest(?::VARCHAR[]) AS source, unnest(?::VARCHAR[]) AS destination, unnest(?::BIGINT[]) AS quiet_ms
),
open AS (
    SELECT source, destination, timestamp_ms, sequence, dstport
    FROM (
        SELECT {source} AS source, {destination} AS destination, timestamp_ms, sequence, dstport
        FROM {relation.sql} WHERE {_condition(alert)}
    ) LEFT JOIN told USING (source, destination)
    WHERE timestamp_ms >= coalesce(quiet_ms, 0)
),
busy AS (
    SELECT source, destination, row_number() OVER (ORDER BY source, destination) AS key FROM open
    GROUP BY source, destination HAVING {counted} >= {alert.least} AND max(sequence) > {int(after)}
)
SELECT key, source, destination, timestamp_ms, sequence > {int(after)} AS is_new, coalesce(dstport, -1) AS port
FROM open JOIN busy USING (source, destination) ORDER BY key, timestamp_ms LIMIT {ROWS_MAX + 1}"""
    lists = [[key[0] for key in quiet_ms], [key[1] for key in quiet_ms], list(quiet_ms.values())]
    rows = reading.arrow(sql, [*lists, *relation.parameters])
    is_cut = rows.num_rows > ROWS_MAX
    rows = rows.slice(0, ROWS_MAX)
    keys, times, new, ports = (rows[name].to_numpy() for name in ("key", "timestamp_ms", "is_new", "port"))
    found = []
    bounds = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), rows.num_rows]
    for begin, end in pairwise(bounds):
        part = slice(begin, end)
        if alert.kind == PORT_SCAN:
            starts = _full_of_ports(times[part], new[part], ports[part], alert)
        else:
            starts = _full(times[part], new[part], alert)
        for start_ms in starts:
            place = rows["source"][begin].as_py(), rows["destination"][begin].as_py()
            found.append(Finding(*place, start_ms, start_ms + alert.window_ms))
    found.sort(key=lambda finding: (finding.start_ms, finding.source, finding.destination))
    return found[:limit], len(found) + is_cut


def _full(times: np.ndarray, new: np.ndarray, alert: FlowAlert) -> list[int]:
    """Where windows begin that have enough records and a new one among them; none overlaps another."""
    ends = np.searchsorted(times, times + alert.window_ms)
    before = np.concatenate([[0], np.cumsum(new)])
    places = np.arange(len(times))
    full = np.flatnonzero((ends - places >= alert.least) & (before[ends] > before[places]))
    starts, at = [], 0
    while (nth := int(np.searchsorted(full, at))) < len(full):
        starts.append(int(times[full[nth]]))
        at = int(ends[full[nth]])
    return starts


def _full_of_ports(times: np.ndarray, new: np.ndarray, ports: np.ndarray, alert: FlowAlert) -> list[int]:
    """The same for windows that have enough different ports."""
    ends = np.searchsorted(times, times + alert.window_ms).tolist()
    fresh_at, tried = new.tolist(), ports.tolist()
    starts: list[int] = []
    inside: Counter[int] = Counter()
    low = high = newer = 0
    while low < len(tried):
        for port, is_new in zip(tried[high : ends[low]], fresh_at[high : ends[low]], strict=True):
            inside[port] += 1
            newer += is_new
        high = ends[low]
        if len(inside) >= alert.least and newer:
            starts.append(int(times[low]))
            low, newer = high, 0
            inside.clear()
            continue
        newer -= fresh_at[low]
        inside[tried[low]] -= 1
        if not inside[tried[low]]:
            del inside[tried[low]]
        low += 1
    return starts


def described(reading: Reading, alert: FlowAlert, relation: Relation, finding: Finding) -> Finding:
    """The finding with its numbers and with example records, the first ones of its window."""
    conditions, parameters = _of_finding(alert, finding)
    where = " AND ".join(conditions)
    sql = (
        "SELECT count(*) AS records, count(*) FILTER (action = 'REJECT') AS rejected, "
        "count(DISTINCT srcaddr) AS sources, count(DISTINCT dstaddr) AS destinations, count(DISTINCT dstport) AS ports "
        f"FROM {relation.sql} WHERE {where}"
    )
    (counts,) = reading.arrow(sql, [*relation.parameters, *parameters]).to_pylist()
    shown = ["timestamp_ms", "sequence", "message"]  # a page is in order by what it shows
    sql, first = page_sql(relation, shown, conditions, None, "timestamp_ms, sequence", EXAMPLES_MAX)
    examples = reading.arrow(sql, [*first, *parameters])["message"].to_pylist()
    place = finding.source, finding.destination, finding.start_ms, finding.end_ms, finding.port, finding.protocol
    return Finding(*place, counts, examples)


def listeners(
    reading: Reading,
    relation: Relation,
    after: int,
    own: Sequence[tuple[str, str]],
    known: Sequence[tuple[str, int, int]],
    limit: int,
) -> tuple[list[Finding], int]:
    """Addresses and ports of our own interfaces (`own`: interface id, address) that answered an accepted connection and
    are not `known` (address, port, protocol); at most `limit`, and how many there are.

    That it answered is a SYN-ACK where records have tcp-flags. Else, the lower port is the server's, and TCP must have
    sent more than one packet: a lone one may be a refusal.
    """
    tie = "(seen.interface_id IS NULL OR own.interface_id = seen.interface_id)"
    sql = f"""
WITH own AS (SELECT unnest(?::VARCHAR[]) AS interface_id, unnest(?::VARCHAR[]) AS address),
known AS (SELECT unnest(?::VARCHAR[]) AS address, unnest(?::INTEGER[]) AS port, unnest(?::INTEGER[]) AS protocol),
seen AS (
    SELECT coalesce(interface_id, '') AS eni, interface_id, srcaddr, dstaddr, srcport, dstport, protocol, tcp_flags,
        packets, timestamp_ms, sequence
    FROM {relation.sql} WHERE action = 'ACCEPT' AND protocol IN (6, 17)
),
asked AS (
    SELECT eni, dstaddr AS address, dstport AS port, srcaddr AS peer, srcport AS peer_port, protocol,
        min(timestamp_ms) AS first_ms, max(sequence) AS newest
    FROM seen
    WHERE EXISTS (FROM own WHERE own.address = seen.dstaddr AND {tie})
        AND NOT EXISTS (
            FROM known
            WHERE known.address = seen.dstaddr AND known.port = seen.dstport AND known.protocol = seen.protocol
        )
    GROUP BY ALL
),
answered AS (
    SELECT eni, srcaddr AS address, srcport AS port, dstaddr AS peer, dstport AS peer_port, protocol,
        bit_or(tcp_flags) AS flags, max(packets) AS packets, max(timestamp_ms) AS last_ms, max(sequence) AS newest
    FROM seen WHERE EXISTS (FROM own WHERE own.address = seen.srcaddr AND {tie})
    GROUP BY ALL
)
SELECT address, port, protocol, min(first_ms) AS start_ms, max(greatest(first_ms, last_ms)) AS end_ms,
    arg_min(peer, first_ms) AS source, count(*) OVER () AS total
FROM asked JOIN answered USING (eni, address, port, peer, peer_port, protocol)
WHERE greatest(asked.newest, answered.newest) > {int(after)}
    AND CASE
        WHEN protocol = 17 THEN port < peer_port
        WHEN flags IS NOT NULL THEN flags & {_SYN_ACK} <> 0
        ELSE port < peer_port AND coalesce(packets, 2) > 1
    END
GROUP BY address, port, protocol ORDER BY start_ms, address, port, protocol LIMIT {int(limit)}"""
    lists = [list(column) for column in zip(*own, strict=True)] or [[], []]
    lists += [list(column) for column in zip(*known, strict=True)] or [[], [], []]
    rows = reading.arrow(sql, [*lists, *relation.parameters]).to_pylist()
    found = [
        Finding(row["source"], row["address"], row["start_ms"], row["end_ms"] + 1, row["port"], row["protocol"])
        for row in rows
    ]
    return found, rows[0]["total"] if rows else 0


def _keys(alert: FlowAlert) -> tuple[str, str, str]:
    """SQL: source, destination, and what is counted."""
    if alert.kind == PORT_SCAN:
        return "srcaddr", "dstaddr", "count(DISTINCT dstport)"
    return ("srcaddr" if alert.by_source else "''"), "''", "count(*)"


def _condition(alert: FlowAlert) -> str:
    if alert.kind == PORT_SCAN:
        return f"{_ATTEMPT} AND srcaddr IS NOT NULL AND dstaddr IS NOT NULL"
    return "action = 'REJECT'" + (" AND srcaddr IS NOT NULL" if alert.by_source else "")


def _of_finding(alert: FlowAlert, finding: Finding) -> tuple[list[str], list[Any]]:
    """Conditions that its records meet, and their parameters."""
    conditions = [f"timestamp_ms >= {finding.start_ms}", f"timestamp_ms < {finding.end_ms}"]
    parameters: list[Any] = []
    if alert.kind == NEW_LISTENER:
        conditions.append(
            "action = 'ACCEPT' AND protocol = ? "
            "AND ((dstaddr = ? AND dstport = ? AND srcaddr = ?) OR (srcaddr = ? AND srcport = ? AND dstaddr = ?))"
        )
        place = [finding.destination, finding.port, finding.source]
        return conditions, [finding.protocol, *place, *place]
    conditions.append(f"({_condition(alert)})")
    for column, value in (("srcaddr", finding.source), ("dstaddr", finding.destination)):
        if value:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    return conditions, parameters


# The state


def told_until(session: Session, alert: FlowAlert, since_ms: int) -> dict[tuple[str, str], int]:
    """(source, destination) -> the time up to which nothing of them is told again, where that is after `since_ms`."""
    wanted = select(AlertTold).where(AlertTold.alert == alert.text, AlertTold.quiet_ms > since_ms)
    return {(row.source, row.destination): row.quiet_ms for row in session.scalars(wanted)}


def told_count(session: Session, alert: FlowAlert) -> int:
    return session.scalar(select(func.count()).select_from(AlertTold).where(AlertTold.alert == alert.text)) or 0


def known_listeners(session: Session, alert: FlowAlert) -> list[tuple[str, int, int]]:
    wanted = select(AlertListener.address, AlertListener.port, AlertListener.protocol)
    return [(row[0], row[1], row[2]) for row in session.execute(wanted.where(AlertListener.alert == alert.text))]


def own_addresses(session: Session) -> list[tuple[str, str]]:
    """(interface id, address) of every interface."""
    return [(row[0], row[1]) for row in session.execute(select(Address.interface_id, Address.address))]


def remember(session: Session, alert: FlowAlert, findings: Sequence[Finding], forget_ms: int) -> None:
    """Notes what is told now; what was told of times before `forget_ms` cannot come again, and is forgotten."""
    session.execute(delete(AlertTold).where(AlertTold.alert == alert.text, AlertTold.quiet_ms <= forget_ms))
    for finding in findings:
        if finding.port is not None and finding.protocol is not None:
            place = {"address": finding.destination, "port": finding.port, "protocol": finding.protocol}
            session.merge(AlertListener(alert=alert.text, **place))
        else:
            key = {"source": finding.source, "destination": finding.destination}
            session.merge(AlertTold(alert=alert.text, quiet_ms=finding.end_ms, **key))
