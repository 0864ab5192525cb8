"""Remakes docs/performance.md: runs the benchmarks and writes their figures with the method. `make performance`.

An argument is the number of rounds (7 by default).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"

GOALS = {
    "hot_ns": ("one hot flow", "130", "90"),
    "flows10k_ns": ("10,000 flows in turn", "350", "250"),
    "new_ns": ("every packet a new flow", "700", "450"),
    "counted_ns": ("one hot flow, in the rounds of the next two", "", ""),
    "hot_enforced_ns": ("the same, enforced: 50 rules, 20 ACL entries", "counting + 60", ""),
    "hot_enforced1000_ns": ("the same, enforced: 1,000 rules, 40 ACL entries", "counting + 60", ""),
    "first_packet1000_ns": ("every packet a new connection against 1,000 rules", "900", ""),
    "firewall_drop_ns": ("a packet that the host's firewall drops, beside counting it", "", ""),
}

TEXT = """# What the capture costs

This page is remade by `make performance` (root; about six minutes). Figures of {day}: {machine}.
Machines that share their cores are noisy; what is compared is measured in turn, in one run.

## A packet

A flood of 64-byte Ethernet frames crosses a veth pair between two network namespaces and is captured at the far side's
tc ingress hook. The figures are the kernel's own run statistics (`BPF_ENABLE_STATS`) of our program less those of a
program of two instructions behind it at the same hook, which is what the measuring itself costs. Workloads are
interleaved; the median of {rounds} rounds is shown.

| net ns a packet | figure | at most | goal |
| --- | --- | --- | --- |
{costs}

Rules decide a connection's first packet; the verdict is kept with the connection, which is why a hot flow pays next to
nothing for 1,000 of them. 1,000 rules on 100 interfaces are changed in {rule_change_s} s.

## Nothing is lost without a word

The same flood at full speed for 30 s, with a drain every second: half of it with maps of the default size, half with
maps that are far too small for its flows. {flood_packets:,} packets; {unaccounted} of all packets on this page that the
device had seen were told by no drain, as counted or as lost.

## Around it

| what | figure | at most |
| --- | --- | --- |
| drain, from the flip to the Arrow table | {drain_per_s:,} flows/s | at least 1,500,000 |
| memory of an agent's process that has drained | {agent_rss_mb} MB | 150 |
| kernel memory of all maps at their defaults, the host firewall's included | {kernel_map_mb} MB | 60 |
{iperf}

## Beside other tools

The same floods with each of these tools listening at the device in place of vnotch. They count in user space: the
figure is the CPU time of their processes a packet, to which comes what the kernel spends to hand them a copy. Ours is
spent in the kernel, in the path of the packet, and is all there is.

| | ns a packet, one flow | missed | ns a packet, new flows | missed |
| --- | --- | --- | --- | --- |
| vnotch | {hot_ns:.0f} | 0 | {new_ns:.0f} | 0 |
{peers}

## Method in full

`make bench-datapath` runs the measurements and prints them as a table and as one line of JSON (`bench/datapath.py`;
the flood is `bench/veth.py`). Without iperf3, softflowd, nfdump or pmacct their rows are left out. What helped and what
did not is told in [bpf/README.md](../bpf/README.md).
"""


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    command = [sys.executable, str(ROOT / "bench" / "datapath.py"), "--rounds", str(rounds)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(process.returncode)
    PAGE.write_text(page(json.loads(lines[-1]), rounds))
    print(f"written: {PAGE.relative_to(ROOT)}")


def page(figures: dict[str, Any], rounds: int) -> str:
    costs = (
        f"| {what} | {figures[key]:.0f} | {most} | {goal} |"
        for key, (what, most, goal) in GOALS.items()
        if key in figures
    )
    iperf = ""
    if figures.get("iperf_ratio"):
        iperf = (
            "| one TCP stream by iperf3 (segments of 64 kB), with two hooks to without | {} to {} Gb/s, ratio {} | |"
        )
        iperf = iperf.format(figures["iperf_gbps"], figures["iperf_plain_gbps"], figures["iperf_ratio"])
    columns = ("hot_cpu_ns", "hot_missed_percent", "new_cpu_ns", "new_missed_percent")
    peers = (
        f"| {name} | " + " | ".join(f"{of[key]}{' %' if 'percent' in key else ''}" for key in columns) + " |"
        for name, of in figures["peers"].items()
    )
    return TEXT.format(
        **{key: value for key, value in figures.items() if key not in ("peers",)},
        day=datetime.now(UTC).date(),
        machine=machine(),
        rounds=rounds,
        costs="\n".join(costs),
        iperf=iperf,
        peers="\n".join(peers) or "| (none is installed) | | | | |",
    )


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    release = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores ({model}), Linux {release}, a virtual machine that shares them"


if __name__ == "__main__":
    main()
