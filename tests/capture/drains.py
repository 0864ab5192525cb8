"""Sums over drains, as the tests state their expectations."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import NamedTuple

from vnotch.capture.kernel import Datapath, Drain
from vnotch.flow import Exclusion, Outcome


class Flow(NamedTuple):
    direction: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: int
    outcome: Outcome = Outcome.ACCEPT


class Sum(NamedTuple):
    packets: int
    bytes: int


def drain_all(datapath: Datapath) -> Drain:
    """One drain, committed."""
    drain = datapath.flip_and_drain()
    datapath.commit(drain.generation)
    return drain


def totals(drains: Iterable[Drain], slot: int, direction: int) -> Sum:
    """Everything that drains account for: flows, exclusions, losses."""
    packets = bytes_ = 0
    for drain in drains:
        for table in (drain.flows, drain.losses):
            for row in table.select(["slot", "direction", "packets", "bytes"]).to_pylist():
                if (row["slot"], row["direction"]) == (slot, direction):
                    packets += row["packets"]
                    bytes_ += row["bytes"]
    return Sum(packets, bytes_)


def flows(*drains: Drain) -> dict[Flow, Sum]:
    """Flows by their 5-tuple, without what is excluded."""
    packets: Counter[Flow] = Counter()
    bytes_: Counter[Flow] = Counter()
    for drain in drains:
        for row in drain.flows.to_pylist():
            if row["outcome"] == Outcome.EXCLUDED:
                continue
            size = 4 if row["family"] == 4 else 16
            flow = Flow(
                row["direction"],
                str(ip_address(row["srcaddr"][:size])),
                row["srcport"],
                str(ip_address(row["dstaddr"][:size])),
                row["dstport"],
                row["protocol"],
                Outcome(row["outcome"]),
            )
            packets[flow] += row["packets"]
            bytes_[flow] += row["bytes"]
    return {flow: Sum(packets[flow], bytes_[flow]) for flow in packets}


def excluded(*drains: Drain) -> dict[tuple[int, Exclusion], int]:
    """(direction, reason) -> packets."""
    found: Counter[tuple[int, Exclusion]] = Counter()
    for drain in drains:
        for row in drain.flows.to_pylist():
            if row["outcome"] == Outcome.EXCLUDED:
                found[row["direction"], Exclusion(row["exclusion"])] += row["packets"]
    return dict(found)


@contextmanager
def flipping(datapath: Datapath) -> Iterator[list[Drain]]:
    """Drains and commits without a pause, in a thread, and once more at the end."""
    drains: list[Drain] = []
    failure: list[BaseException] = []
    stop = threading.Event()

    def flip() -> None:
        try:
            while not stop.is_set():
                drains.append(drain_all(datapath))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield drains
    finally:
        stop.set()
        thread.join()
    drains.append(drain_all(datapath))
    assert not failure, failure
