"""iperf3 over a veth pair, with the capture at its two hooks and without, in turn: what it takes from a fast stream."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time

from veth import Veth

from vnotch.capture.kernel import Datapath

SECONDS = 4
HOST_V4, INSTANCE_V4 = "10.77.9.1", "10.77.9.2"


def iperf(veth: Veth, slot: int, rounds: int) -> dict[str, float] | None:
    """Median Gb/s with two hooks (`iperf_gbps`), without (`iperf_plain_gbps`), and the ratio; None without iperf3."""
    if shutil.which("iperf3") is None:
        return None
    for namespace, address in ((veth.host, HOST_V4), (veth.instance, INSTANCE_V4)):
        subprocess.run(["ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", veth.device], check=True)
    inside = ("ip", "netns", "exec")
    server = subprocess.Popen(
        [*inside, veth.host, "iperf3", "-s", "-B", HOST_V4], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(0.5)
        measured: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for captured in (False, True):
                measured[captured].append(_one(veth, slot, captured))
    finally:
        server.terminate()
        server.wait()
    plain, ours = statistics.median(measured[False]), statistics.median(measured[True])
    ratio = statistics.median(a / b for a, b in zip(measured[True], measured[False], strict=True))
    return {"iperf_plain_gbps": round(plain, 2), "iperf_gbps": round(ours, 2), "iperf_ratio": round(ratio, 3)}


def _one(veth: Veth, slot: int, captured: bool) -> float:
    """Gb/s of one run; it ends with a drain, so that the maps are as empty for the next."""
    command = ["ip", "netns", "exec", veth.instance, "iperf3", "-c", HOST_V4, "-t", str(SECONDS), "-J"]
    if not captured:
        return _gbps(command)
    with Datapath.open(netns=veth.host) as datapath:
        datapath.set_interface(slot)
        datapath.attach(veth.device, slot)
        return _gbps(command)


def _gbps(command: list[str]) -> float:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
