"""Where windows of bursts and scans begin, against a search that tries every record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vnotch.store.flow_alerts import PORT_SCAN, REJECTS, FlowAlert, _full, _full_of_ports


def tried(times: np.ndarray, new: np.ndarray, ports: np.ndarray, alert: FlowAlert) -> list[int]:
    starts, quiet_ms = [], -1
    for start in times.tolist():
        inside = (times >= start) & (times < start + alert.window_ms)
        count = len(set(ports[inside].tolist())) if alert.kind == PORT_SCAN else int(inside.sum())
        if start >= quiet_ms and count >= alert.least and new[inside].any():
            starts.append(start)
            quiet_ms = start + alert.window_ms
    return starts


@pytest.mark.parametrize("seed", range(40))
def test_windows_are_those_that_a_search_of_every_record_finds(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    times = np.sort(numbers.integers(0, 20_000, 200))
    new, ports = numbers.random(200) < 0.2, numbers.integers(0, 12, 200)
    alert = FlowAlert(REJECTS, "flow", "", (), seconds=1)
    found = 0
    for least in range(1, 20):
        bursts, scans = replace(alert, least=least), replace(alert, kind=PORT_SCAN, least=least)
        assert _full(times, new, bursts) == tried(times, new, ports, bursts)
        assert _full_of_ports(times, new, ports, scans) == tried(times, new, ports, scans)
        found += len(_full(times, new, bursts))
    assert found
