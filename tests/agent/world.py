"""A host in miniature: a clock, a kernel, a configuration, the loop, and a log service that takes batches."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_datapath import FakeDatapath, Kernel

from vnotch.agent.loop import Capture
from vnotch.deliver.batch import as_text
from vnotch.fields import DEFAULT_FORMAT
from vnotch.inventory import AgentConfiguration, FlowLog, Interface
from vnotch.service_ranges import NO_RANGES

SECOND = 1_000_000_000
T0 = 1_700_000_040  # a multiple of 60, not of 600
ROLE = "arn:aws:iam::123456789012:role/flow-logs"


def interface(number: int) -> Interface:
    return Interface(
        interface_id=f"eni-{number}",
        device=f"veth{number}",
        account_id="123456789012",
        region="us-east-1",
        vpc_id="vpc-1",
        subnet_id="subnet-1",
        az_id="use1-az1",
        private_ipv4=(f"10.0.0.{number}",),
        vpc_cidrs=("10.0.0.0/16", "fd00:1::/56"),
        subnet_cidrs=("10.0.0.0/24", "fd00:1::/64"),
    )


def flow_log(
    name: str, enis: list[int], interval: int = 60, traffic: str = "ALL", format: str | None = None
) -> FlowLog:
    return FlowLog(
        flow_log_id=f"fl-{name}",
        resource_id="vpc-1",
        traffic_type=traffic,
        log_format=format or str(getattr(DEFAULT_FORMAT, "text", DEFAULT_FORMAT)),
        max_aggregation_interval=interval,
        log_destination_type="cloud-watch-logs",
        log_group_name=f"group-{name}",
        deliver_logs_permission_arn=ROLE,
        interface_ids=tuple(f"eni-{number}" for number in enis),
    )


class World:
    """`start` begins or begins again the agent's loop on what is on disk and in the kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time_ns = T0 * SECOND
        self.set_forward_ns = 0  # what of `time_ns` is no time that passed
        self.kernel = Kernel(lambda: self.time_ns)
        self.configuration = AgentConfiguration(1)
        self.arrived: dict[str, list[tuple[str, str]]] = defaultdict(list)  # group -> (stream, line)
        self.batch_ids: dict[str, str] = {}
        self.repeated = 0
        self.spool_bytes_max = 10**9
        self.wiped = True
        self.ranges = NO_RANGES
        self.early_seconds: int | None = None  # most tests look at whole windows
        self.owners: Any = None
        self.capture: Capture

    def start(self, *, taken_over: bool = True, before: Kernel | None = None) -> Capture:
        self.datapath = FakeDatapath(self.kernel, taken_over=taken_over, before=before)
        self.capture = Capture(
            self.folder,
            self.datapath,
            spool_bytes_max=self.spool_bytes_max,
            spool_seconds_max=24 * 3600,
            early_seconds=self.early_seconds,
            ranges=self.ranges,
            owners=self.owners,
            now_ns=lambda: self.time_ns,
            elapsed_ns=lambda: self.time_ns - self.set_forward_ns,
        )
        self.capture.apply(self.configuration)
        return self.capture

    def configure(self, interfaces: list[int], flow_logs: list[FlowLog], **more: Any) -> None:
        """`more` are members of the configuration beside."""
        self.kernel.devices |= {f"veth{number}" for number in interfaces}
        self.configuration = replace(
            self.configuration,
            revision=self.configuration.revision + 1,
            interfaces=tuple(interface(number) for number in interfaces),
            flow_logs=tuple(flow_logs),
            **more,
        )
        if hasattr(self, "capture"):
            self.capture.apply(self.configuration)

    def send(self, number: int = 5, src: str = "192.0.2.1", count: int = 1, **more: object) -> int:
        return sum(self.kernel.packet(f"veth{number}", src, f"10.0.0.{number}", **more) for _ in range(count))

    def set_clock_forward(self, seconds: int) -> None:
        self.time_ns += seconds * SECOND
        self.set_forward_ns += seconds * SECOND

    def tick_to(self, second: int) -> None:
        """Lets time pass to T0 + second, with a step of the loop at each tick, some milliseconds late."""
        end_ns = (T0 + second) * SECOND
        while True:
            tick_ns = self.capture.tick_seconds * SECOND
            boundary_ns = (self.time_ns // tick_ns + 1) * tick_ns
            if boundary_ns > end_ns:
                break
            self.time_ns = boundary_ns + 15_000_000
            self.capture.step()
            self.deliver()
        self.time_ns = max(self.time_ns, end_ns)

    def deliver(self) -> None:
        """Everything that is visible in the spool arrives. A batch id that comes twice counts once."""
        spool = self.capture.spool
        for flow_log_id in list(spool.waiting()):
            while leased := spool.lease(flow_log_id):
                [entry] = leased
                batch = spool.read(entry)
                assert batch is not None
                lines = as_text(batch).events["message"].to_pylist()
                if batch.batch_id not in self.batch_ids:
                    self.batch_ids[batch.batch_id] = "\n".join(lines)
                    self.arrived[batch.group] += [(batch.stream, line) for line in lines]
                    times = batch.events["timestamp"].to_pylist()
                    assert times == sorted(times)
                else:
                    self.repeated += 1
                    assert self.batch_ids[batch.batch_id] == "\n".join(lines), "an id stands for two batches"
                spool.acknowledge(entry)

    def finish(self) -> None:
        """Closes all windows and delivers."""
        self.capture.step(close_all=True)
        self.deliver()

    def lines(self, group: str) -> list[str]:
        return [line for _, line in self.arrived[group]]

    def packets(self, group: str) -> Counter[tuple[str, str]]:
        """(interface, source) -> packets, over all default-format records of a group with status OK."""
        found: Counter[tuple[str, str]] = Counter()
        for line in self.lines(group):
            fields = line.split(" ")
            if fields[13] == "OK":
                found[fields[2], fields[3]] += int(fields[8])
        return found
