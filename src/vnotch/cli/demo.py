"""`vnotch demo`: the whole product on this host in half a minute, and proof that its numbers are right.

    say what will be made -> server -> agent and lab (root) -> traffic -> records as they arrive -> summary -> ledger

Without root or eBPF the same pipeline runs on a capture of the same environment: the agent plays the file in place of
the kernel. The demo ends with status 0 only if everything that it promises has happened; each thing that did not is
named.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vnotch.capture.playback import duration_seconds
from vnotch.cli.children import Child, ask, run_to_end, vnotch
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.lab import prefix_of
from vnotch.cli.place import Place
from vnotch.cli.root import acquire, as_root, is_root, refresh
from vnotch.cli.summary import Tally, accounts, excluded_line, is_settled, ledger_table, records_table, talkers_table
from vnotch.cli.tail import Tail
from vnotch.cli.terminal import counted, is_terminal, out, record_text, step
from vnotch.config import ENDPOINT_HOST, Folders
from vnotch.errors import HostError
from vnotch.fields import DEFAULT_FORMAT
from vnotch.interrupts import INTERRUPTS, check, interrupt_on, pause, uninterrupted
from vnotch.lab.control import GROUP_ALL, GROUP_REJECT, ControlPlane
from vnotch.lab.topology import Eni, Topology
from vnotch.lab.topology_file import load_topology

TCP, SSH = 6, 22
_PROTOCOLS = {1: "icmp", TCP: "tcp", 17: "udp", 58: "icmpv6"}
TRAFFIC_RATE = 6
"""Actions a second: real traffic, but a person should be able to follow the records."""
SCAN_PORTS = 80
START_SECONDS = 60.0
SETTLE_SECONDS = 40.0
"""How long after the traffic the last windows may take to close, be delivered and be read back."""
REFRESH_SECONDS = 60.0
"""How often sudo's permission is refreshed; it runs out after 5 to 15 minutes, and the end needs it again."""
INTERRUPTED = 130


@dataclass(frozen=True)
class DemoOptions:
    topology: Path
    capture: Path
    seconds: float = 30.0
    interval_seconds: int = 5
    port: int | None = None  # None: the usual one, or one that is free
    from_capture: bool = False
    stay: bool | None = None  # None: stay in a terminal

    @property
    def stays(self) -> bool:
        return is_terminal() if self.stay is None else self.stay


def why_no_capture() -> str | None:
    """Why this process can neither capture nor build a lab, in a few words; None where it can."""
    if sys.platform != "linux":
        return "this is not Linux"
    if not acquire("the lab and the agent of this demo need root"):
        return "not root, and sudo gives no root here"
    probe = ask(as_root(vnotch("lab", "check")))
    if probe.returncode == 0:
        return None
    lines = probe.stderr.strip().splitlines()
    return lines[-1].removeprefix("vnotch: ") if lines else "the lab cannot be built"


@dataclass
class Demo:
    options: DemoOptions
    children: list[Child] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    rejects_read: int = 0
    failures: list[str] = field(default_factory=list)
    lab_is_up: bool = False
    ended_ms: float = 0.0  # when the traffic was over; a status from before says nothing about the end

    def run(self) -> int:
        """Returns the exit status. Everything that was made is gone when this returns."""
        reason = "asked for with --from-capture" if self.options.from_capture else why_no_capture()
        self.live = reason is None
        self.seconds = self.options.seconds
        self.topology = load_topology(self.options.topology)
        interrupt_on(signal.SIGTERM, signal.SIGHUP)
        self.place = Place(self.options.port)
        self.folders = Folders(self.place.folder / "data")
        interrupted = False
        try:
            self._announce(reason)
            self._start_server()
            if self.live:
                self._start_lab()
            else:
                self._start_capture()
            self._show_instances()
            self._watch()
            self._summarise()
            self._show_commands()
            check()
            if self.options.stays:
                self._stay()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._tear_down(interrupted)
        self._tell_failures()
        if not self.failures:
            out.print("[bold green]✓[/] Everything that was made has been removed.")
        return 1 if self.failures else INTERRUPTED if interrupted else 0

    # What it does, in order

    def _announce(self, reason: str | None) -> None:
        if not self.live:
            out.print(f"[yellow]No live capture: {reason}.[/]")
            out.print("The same pipeline runs on a capture that was recorded of the same environment.\n")
        out.print("[bold]This makes, and removes at its end:[/]")
        if self.live:
            enis, outside = self.topology.enis, self.topology.outside
            names = ["router", "internet", *(eni.name for eni in enis), *(host.name for host in outside)]
            out.print(f"  • {len(names)} network namespaces {prefix_of(self.place.name)}-*, joined by veth pairs:")
            out.print(f"    {', '.join(names)}")
            out.print("  • eBPF programs at the host sides of these pairs, pinned in /run/vnotch")
            out.print("  Nothing of the host's own network is touched: no sysctl, nft table, route or address.")
        out.print(f"  • a vnotch server on {ENDPOINT_HOST}:{self.place.port}, its data and keys in {self.place.folder}")
        if self.live and not is_root():
            out.print(
                "[bold]As root, by sudo:[/] vnotch agent (capture), vnotch lab up, traffic and down; the rest as you."
            )
        out.print()

    def _start_server(self) -> None:
        command = ["server", "--data-dir", str(self.folders.root), "--port", str(self.place.port), "--any-interval"]
        running = self.folders.root / "endpoint"
        server = self._child("server", vnotch(*command))
        server.wait_until(running.exists, START_SECONDS, "starting the server")
        self.endpoint = Endpoint.find(self.folders)
        step(f"server answers at {self.endpoint.url}")

    def _start_lab(self) -> None:
        self.place.remove_leftover()
        self.lab_is_up = True
        up = ["lab", "up", "--brief", "--name", self.place.name, "--topology", str(self.options.topology.absolute())]
        self._run_as_root(*up, "--interval", str(self.options.interval_seconds))
        traffic = ["lab", "traffic", "--data-dir", str(self.folders.root), "--seconds", str(self.options.seconds)]
        traffic += ["--json", "--rate", str(TRAFFIC_RATE), "--scan-ports", str(SCAN_PORTS)]
        self.traffic = self._child("traffic", as_root(vnotch(*traffic)))

    def _start_capture(self) -> None:
        """The lab's network exists in the API alone; the agent plays the capture of it."""
        endpoint, name = self.endpoint, self.place.name
        control = ControlPlane(endpoint.url, endpoint.access_key_id, endpoint.secret_access_key, endpoint.region, name)
        made = control.create_vpc(self.topology, name)
        control.create_flow_logs(self.topology, made, name, self.options.interval_seconds)
        interfaces, flow_logs = counted(len(self.topology.enis), "interface"), counted(len(made.flow_logs), "flow log")
        step(f"made a VPC with {interfaces} and {flow_logs} through the API")
        capture, ready = self.options.capture, self.place.folder / "agent.ready"
        self.seconds = duration_seconds(capture)
        command = ["agent", "--data-dir", str(self.folders.root), "--name", name, "--ready-file", str(ready)]
        agent = self._child("agent", vnotch(*command, "--capture", str(capture), "--flush"))
        agent.wait_until(ready.exists, START_SECONDS, "starting the agent")
        for eni in self.topology.enis:
            control.bind(eni, made.interfaces[eni.name], None)
        control.wait_attached(made.interfaces)
        step(f"playing {capture.name} ({capture.stat().st_size >> 10} kB) in its own time, {self.seconds:.0f} s")

    def _show_instances(self) -> None:
        self.names = self._names()
        ids = {name: found for found, name in self.names.items() if found.startswith("eni-")}
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("who", "interface", "subnet", "address", "lets in"):
            table.add_column(column)
        for eni in self.topology.enis:
            table.add_row(eni.name, ids.get(eni.name, ""), eni.subnet, str(eni.address), _lets_in(self.topology, eni))
        out.print()
        out.print(table)

    def _watch(self) -> None:
        """Shows records as they arrive, until the traffic has ended and every packet seen is in the ledger and read."""
        logs = self.endpoint.client("logs")
        self.readers = [Tail(logs, group, 0) for group in (GROUP_ALL, GROUP_REJECT)]
        interval = self.options.interval_seconds
        out.print(f"[bold]Records as they arrive in the log group {GROUP_ALL}[/]")
        out.print(f"[dim]The traffic runs for {self.seconds:.0f} s; the first window of {interval} s closes soon.[/]")
        out.print(Text(DEFAULT_FORMAT.replace("${", "").replace("}", ""), style="bold"))
        end = time.monotonic() + self.seconds
        deadline = end + SETTLE_SECONDS + interval
        refreshed = time.monotonic()
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while time.monotonic() < deadline:
                arrived = self._read()
                left = end - time.monotonic()
                if is_terminal():
                    live.update(self._progress(left), refresh=True)
                elif arrived:
                    out.print(self._progress(left))
                if left < 0 and self._is_complete():
                    return
                if self.live and not self.traffic.is_running() and left > 0:
                    return  # it ended too early: the summary says why
                if time.monotonic() - refreshed > REFRESH_SECONDS and self.live:
                    refresh()
                    refreshed = time.monotonic()
                pause(0.5)
        self.failures.append(f"not every packet was in a record {SETTLE_SECONDS:.0f} s after the traffic ended")

    def _read(self) -> int:
        """Reads what is new in both log groups, shows the first one's. -> how many it showed."""
        shown = 0
        for event in self.readers[0].poll():
            self.tally.add(event.message)
            out.print(record_text(event.message))
            shown += 1
        self.rejects_read += sum(1 for _ in self.readers[1].poll())
        return shown

    def _progress(self, left: float) -> Text:
        counts = self.tally.records
        return Text.assemble(
            (f"── {counts.total():,} records: ", "bold"),
            (f"ACCEPT {counts['ACCEPT']:,}", "bold green"),
            ", ",
            (f"REJECT {counts['REJECT']:,}", "bold red"),
            f", NODATA {counts['NODATA']:,} ── ",
            f"traffic ends in {left:.0f} s" if left > 0 else "the last windows are closing",
        )

    def _is_complete(self) -> bool:
        """The traffic is over, all that was seen is booked, and as many packets were read back as were booked."""
        if self.live and self.traffic.is_running():
            return False
        if not self.ended_ms:
            self.ended_ms = time.time() * 1000
        status = self._status()
        if status is None or status["received_ms"] <= self.ended_ms or not is_settled(status["ledger"]):
            return False
        booked = sum(account.accept + account.reject for account in accounts(status["ledger"]).values())
        return booked > 0 and self.tally.packets.total() == booked

    def _status(self) -> dict[str, Any] | None:
        """The agent's last status, over HTTP: its folder may be root's."""
        return self.endpoint.agent_status(self.place.name)

    def _summarise(self) -> None:
        status = self._status()
        if status is None:
            self.failures.append("the agent reported no status")
            return
        out.print()
        out.print(records_table(self.tally))
        out.print(talkers_table(self.tally, self.names))
        table, wrong = ledger_table(status["ledger"], self.tally, self.names)
        out.print(table)
        out.print(f"[dim]Excluded, as on AWS: {excluded_line(status['ledger'])}[/]")
        self.failures += wrong
        if self.live:
            self._judge_scan()
        self._show_pair()
        self._explain_reject()
        for action in ("ACCEPT", "REJECT"):
            if not self.tally.records[action]:
                self.failures.append(f"no {action} record was read")
        if not self.rejects_read:
            self.failures.append(f"no record was read from {GROUP_REJECT}")
        if not self.failures:
            out.print("[bold green]✓[/] Every packet is accounted for.")

    def _judge_scan(self) -> None:
        """What was rejected must not have arrived: the scanned instances listened at their own interfaces."""
        if self.traffic.stop() != 0:
            self.failures.append(f"the traffic failed: {self.traffic.last_words()}")
            return
        report = json.loads(self.traffic.log.read_text().strip().splitlines()[-1])
        probed, arrived = (sum(map(len, report[key].values())) for key in ("probed", "arrived"))
        out.print(
            f"The port scan tried {probed} ports from outside: {arrived} probes arrived, at ports that are let in;\n"
            f"{probed - arrived} were rejected at the interface and never arrived."
        )
        scanners = self.topology.with_role("scanner")
        for eni in self.topology.enis:
            let_in = {port for host in scanners for port in self.topology.lets_in(eni, host.address, TCP)}
            for port in sorted(set(report["arrived"].get(eni.name, ())) - let_in):
                self.failures.append(f"a probe of port {port} arrived at {eni.name}, which does not let it in")

    def _show_pair(self) -> None:
        """The pair of AWS's documentation: a ping that the security group lets in, its reply rejected by the ACL."""
        pair = self.tally.rejected_reply()
        if pair is None:
            self.failures.append("no ping was seen whose reply the network ACL rejects")
            return
        out.print("\nA ping that the security group lets in; its reply, which the stateless network ACL rejects:")
        for line in pair:
            out.print(record_text(line))

    def _explain_reject(self) -> None:
        """Why the scanner does not reach a port, in words."""
        scanner = self.topology.with_role("scanner")[0].address
        closed = next(
            eni
            for eni in self.topology.of_kind("instance")
            if eni.public_address and SSH not in self.topology.lets_in(eni, scanner, TCP)
        )
        query = urlencode({"source": str(scanner), "destination": str(closed.address), "port": SSH})
        found = self.endpoint.request("GET", f"/vnotch/v1/explanation?{query}")
        out.print(f"\nWhy a packet was rejected: [bold]vnotch explain {scanner} {closed.address} {SSH}[/]")
        out.print(Text(found["text"]))
        if found["outcome"] != "REJECT":
            self.failures.append("the explanation says that the scanner is let in")

    def _names(self) -> dict[str, str]:
        """Names for people, as the topology has them, by address and by interface id."""
        names: dict[str, str] = {}
        for eni in self.topology.enis:
            names |= {str(address): eni.name for address in (eni.address, eni.ipv6) if address}
        paginator = self.endpoint.client("ec2").get_paginator("describe_network_interfaces")
        for page in paginator.paginate():
            for interface in page["NetworkInterfaces"]:
                if name := names.get(interface["PrivateIpAddress"]):
                    names[interface["NetworkInterfaceId"]] = name
        for host in self.topology.outside:
            names |= {str(address): f"{host.name} (outside)" for address in (host.address, host.ipv6) if address}
        return names

    def _show_commands(self) -> None:
        url, stays = self.endpoint.url, self.options.stays
        if stays:
            out.print(f"\n[bold]The endpoint is {url}[/] for any AWS client. In another terminal:\n")
        else:
            out.print(
                f"\n[bold]The endpoint was {url}[/] and ends now. While a demo runs (vnotch demo --stay keeps it):\n"
            )
        beside = Path(sys.executable).parent
        if shutil.which("aws") is None or shutil.which("vnotch") != str(beside / "vnotch"):
            out.print(f"  . {beside / 'activate'}")
        out.print(f'  eval "$(vnotch env --data-dir {self.folders.root})"')
        for command in (
            "ec2 describe-flow-logs",
            f"logs describe-log-streams --log-group-name {GROUP_ALL}",
            f"logs filter-log-events --log-group-name {GROUP_REJECT} --max-items 5",
            "ec2 describe-network-interfaces --query 'NetworkInterfaces[].[NetworkInterfaceId,Description]'",
        ):
            out.print(Text(f"  aws --endpoint-url {url} {command}"))

    def _stay(self) -> None:
        self._tell_failures()
        out.print("\n[bold]Ctrl-C ends the demo and removes everything.[/]")
        refreshed = time.monotonic()
        try:
            while True:
                pause(1)
                if self.live and time.monotonic() - refreshed > REFRESH_SECONDS:
                    refresh()
                    refreshed = time.monotonic()
        except KeyboardInterrupt:
            out.print()

    def _tear_down(self, interrupted: bool) -> None:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
        with contextlib.suppress(OSError):  # the terminal may be gone, the lab is not
            step("interrupted; removing what was made" if interrupted else "removing what was made")
        if self.lab_is_up:
            command = as_root([*vnotch("lab", "down"), "--data-dir", str(self.folders.root)])
            if subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
                self.failures.append(f"the lab was not removed; run: {' '.join(command)}")
        for child in reversed(self.children):
            child.stop()
        if not any("not removed" in failure for failure in self.failures):
            self.place.remove(written_by_root=self.live)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    def _tell_failures(self) -> None:
        for failure in self.failures:
            out.print(Text("✗ ", style="bold red") + Text(failure))

    # Parts

    def _child(self, name: str, command: Sequence[str]) -> Child:
        with uninterrupted():
            child = Child(name, command, self.place.folder / f"{name}.log")
            self.children.append(child)
        return child

    def _run_as_root(self, *arguments: str) -> None:
        """A vnotch command whose steps are shown as this command's own. Raises HostError with what it says last."""
        said: list[str] = []

        def told(line: str) -> None:
            if line.startswith("• "):
                step(line[2:])
            elif line.strip():
                said.append(line)

        if run_to_end(as_root(vnotch(*arguments, "--data-dir", str(self.folders.root))), told) != 0:
            raise HostError(said[-1].removeprefix("vnotch: ") if said else f"vnotch {' '.join(arguments[:2])} failed")


def _lets_in(topology: Topology, eni: Eni) -> str:
    """What an interface's security groups let in, for people."""
    if eni.kind == "nat_gateway":
        return "answers (it has no security group)"
    words = []
    for rule in topology.inbound_rules(eni):
        name = _PROTOCOLS.get(rule.traffic.protocol, str(rule.traffic.protocol))
        words.append(name + (f"/{rule.traffic.low}" if rule.traffic.low > 0 else ""))
    return " ".join(dict.fromkeys(words)) or "nothing"
