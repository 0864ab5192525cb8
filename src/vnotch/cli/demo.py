"""`vnotch demo`: the whole product on this host in half a minute, and proof that its numbers are right.

    say what will be made -> server -> agent and lab (root) -> traffic -> records as they arrive -> summary -> ledger

Without root or eBPF the same pipeline runs on a capture of the same environment: the agent plays the file in place of
the kernel. The demo ends with status 0 only if everything that it promises has happened; each thing that did not is
named.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.live import Live
from rich.text import Text

from vnotch.capture.playback import duration_seconds
from vnotch.cli.children import Child, vnotch
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.summary import Tally, accounts, excluded_line, is_settled, ledger_table, records_table, talkers_table
from vnotch.cli.tail import Tail
from vnotch.cli.terminal import is_terminal, out, record_text, step
from vnotch.config import ENDPOINT_HOST, ENDPOINT_PORT, Folders
from vnotch.errors import HostError
from vnotch.lab.control import GROUP_ALL, GROUP_REJECT, ControlPlane
from vnotch.lab.topology_file import load_topology

AGENT = "lab"
TCP = 6
TRAFFIC_RATE = 6
"""Actions a second: real traffic, but a person should be able to follow the records."""
SCAN_PORTS = 80
START_SECONDS = 60.0
SETTLE_SECONDS = 40.0
"""How long after the traffic the last windows may take to close, be delivered and be read back."""


@dataclass(frozen=True)
class DemoOptions:
    topology: Path
    capture: Path
    seconds: float = 30.0
    interval_seconds: int = 5
    port: int = ENDPOINT_PORT
    from_capture: bool = False
    stay: bool | None = None  # None: stay in a terminal


def why_no_capture() -> str | None:
    """Why this process can neither capture nor build a lab, in a few words; None where it can."""
    if sys.platform != "linux":
        return "this is not Linux"
    if os.geteuid() != 0 and not _sudo_works():
        return "not root, and sudo gives no root here"
    probe = subprocess.run(_as_root(vnotch("lab", "check")), capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return None
    lines = probe.stderr.strip().splitlines()
    return lines[-1].removeprefix("vnotch: ") if lines else "the lab cannot be built"


def _sudo_works() -> bool:
    """Whether sudo gives root: without a question, or after one that a person at the terminal can answer."""
    if shutil.which("sudo") is None:
        return False
    if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0:
        return True
    if not (sys.stdin.isatty() and is_terminal()):
        return False
    step("the lab and the agent need root; sudo asks for your password")
    return subprocess.run(["sudo", "-v"], check=False).returncode == 0


def _as_root(command: Sequence[str]) -> list[str]:
    return list(command) if os.geteuid() == 0 else ["sudo", "-n", *command]


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
        self.root = Path(tempfile.mkdtemp(prefix="vnotch-demo-"))
        self.folders = Folders(self.root / "data")
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._announce(reason)
            self._start_server()
            if self.live:
                self._start_lab()
            else:
                self._start_capture()
            self._watch()
            self._summarise()
            self._show_commands()
            if self.options.stay if self.options.stay is not None else is_terminal():
                self._stay()
        except KeyboardInterrupt:
            step("interrupted")
            self.failures.append("interrupted before the end")
        finally:
            self._tear_down()
        return self._verdict()

    # What it does, in order

    def _announce(self, reason: str | None) -> None:
        if not self.live:
            out.print(
                f"[yellow]No live capture: {reason}. The same pipeline runs on a capture of the mock environment.[/]"
            )
        out.print("[bold]This makes, and removes at its end:[/]")
        if self.live:
            out.print(
                "  • network namespaces vnlab-*, joined by veth pairs, all host sides in one of them: nothing of the\n"
                "    host's own network is touched, no sysctl, nft table, route or address\n"
                "  • eBPF programs at the interfaces of that namespace, pinned in /run/vnotch"
            )
            if os.geteuid() != 0:
                out.print(
                    "  • [bold]as root, by sudo:[/] vnotch agent (capture), vnotch lab up, lab traffic and lab down;\n"
                    "    all else runs as you"
                )
        out.print(f"  • a vnotch server on {ENDPOINT_HOST}:{self.options.port}, its data and keys in {self.root}\n")

    def _start_server(self) -> None:
        command = ["server", "--data-dir", str(self.folders.root), "--port", str(self.options.port), "--any-interval"]
        running = self.folders.root / "endpoint"
        server = self._child("server", vnotch(*command))
        server.wait_until(running.exists, START_SECONDS, "starting the server")
        self.endpoint = Endpoint.find(self.folders)
        step(f"server answers at {self.endpoint.url}")

    def _start_lab(self) -> None:
        common = ["--data-dir", str(self.folders.root)]
        self.lab_is_up = True
        interval = str(self.options.interval_seconds)
        self._run_as_root("lab", "up", *common, "--topology", str(self.options.topology), "--interval", interval)
        traffic = ["lab", "traffic", *common, "--seconds", str(self.options.seconds), "--json"]
        traffic += ["--rate", str(TRAFFIC_RATE), "--scan-ports", str(SCAN_PORTS)]
        self.traffic = self._child("traffic", _as_root(vnotch(*traffic)))

    def _start_capture(self) -> None:
        """The lab's network exists in the API alone; the agent plays the capture of it."""
        topology = load_topology(self.options.topology)
        endpoint = self.endpoint
        keys = endpoint.access_key_id, endpoint.secret_access_key
        control = ControlPlane(endpoint.url, *keys, endpoint.region, AGENT)
        made = control.create_vpc(topology, "demo")
        control.create_flow_logs(topology, made, "demo", self.options.interval_seconds)
        step(f"made a VPC with {len(topology.enis)} interfaces and {len(made.flow_logs)} flow logs through the API")
        capture, ready = self.options.capture, self.root / "agent.ready"
        command = ["agent", "--data-dir", str(self.folders.root), "--name", AGENT, "--ready-file", str(ready)]
        agent = self._child("agent", vnotch(*command, "--capture", str(capture), "--flush"))
        agent.wait_until(ready.exists, START_SECONDS, "starting the agent")
        for eni in topology.enis:
            control.bind(eni, made.interfaces[eni.name], None)
        control.wait_attached(made.interfaces)
        self.seconds = duration_seconds(capture)
        step(f"playing {capture.name} ({capture.stat().st_size >> 10} kB) in its own time")

    def _watch(self) -> None:
        """Shows records as they arrive, until the traffic has ended and every packet seen is in the ledger and read."""
        logs = self.endpoint.client("logs")
        self.readers = [Tail(logs, group, 0) for group in (GROUP_ALL, GROUP_REJECT)]
        out.print("\n[bold]Records, as they arrive in the log group[/]", GROUP_ALL)
        end = time.monotonic() + self.seconds
        deadline = end + SETTLE_SECONDS
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while time.monotonic() < deadline:
                self._read(show=True)
                left = end - time.monotonic()
                live.update(self._progress(left), refresh=is_terminal())
                if left < 0 and self._is_complete():
                    return
                if self.live and not self.traffic.is_running() and left > 0:
                    break  # it ended too early: the summary says why
                time.sleep(0.5)
        self.failures.append(f"not every packet was in a record {SETTLE_SECONDS:.0f} s after the traffic ended")

    def _read(self, *, show: bool) -> None:
        for event in self.readers[0].poll():
            self.tally.add(event.message)
            if show:
                out.print(record_text(event.message))
        self.rejects_read += sum(1 for _ in self.readers[1].poll())

    def _progress(self, left: float) -> Text:
        counts = self.tally.records
        text = Text(f"{counts.total():,} records  ", style="bold")
        text += Text(f"ACCEPT {counts['ACCEPT']:,}  ", style="green")
        text += Text(f"REJECT {counts['REJECT']:,}  ", style="red")
        text += Text(f"NODATA {counts['NODATA']:,}  ", style="dim")
        return text + Text(f"traffic ends in {left:.0f} s" if left > 0 else "last windows are closing", style="dim")

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
        return self.endpoint.agent_status(AGENT)

    def _summarise(self) -> None:
        status = self._status()
        if status is None:
            self.failures.append("the agent reported no status")
            return
        names = self._names()
        out.print()
        out.print(records_table(self.tally))
        out.print(talkers_table(self.tally, names))
        table, wrong = ledger_table(status["ledger"], self.tally, names)
        out.print(table)
        out.print(f"[dim]Excluded, as on AWS: {excluded_line(status['ledger'])}[/]")
        self.failures += wrong
        if self.live:
            self._judge_scan()
        for action in ("ACCEPT", "REJECT"):
            if not self.tally.records[action]:
                self.failures.append(f"no {action} record was read")

    def _judge_scan(self) -> None:
        """What was rejected must not have arrived: the scanned instances listened at their own interfaces."""
        if self.traffic.stop() != 0:
            self.failures.append(f"the traffic failed: {self.traffic.last_words()}")
            return
        report = json.loads(self.traffic.log.read_text().strip().splitlines()[-1])
        probed, arrived = (sum(map(len, report[key].values())) for key in ("probed", "arrived"))
        out.print(
            f"The port scan tried {probed} ports from outside: {arrived} probes arrived, at ports that the allow lists "
            f"let in; {probed - arrived} were rejected at the ENI and never arrived."
        )
        for eni in load_topology(self.options.topology).enis:
            let_in = {port for protocol, port in eni.allow or () if protocol == TCP}
            for port in sorted(set(report["arrived"].get(eni.name, ())) - let_in):
                self.failures.append(f"a probe of port {port} arrived at {eni.name}, which does not let it in")

    def _names(self) -> dict[str, str]:
        """Names for people, by address and by interface id, from the tags of the network interfaces."""
        names: dict[str, str] = {}
        paginator = self.endpoint.client("ec2").get_paginator("describe_network_interfaces")
        for page in paginator.paginate():
            for interface in page["NetworkInterfaces"]:
                tags = {tag["Key"]: tag["Value"] for tag in interface.get("TagSet", [])}
                name = tags.get("Name", interface.get("Description", ""))
                names[interface["NetworkInterfaceId"]] = name
                names |= {item["PrivateIpAddress"]: name for item in interface["PrivateIpAddresses"]}
                names |= {item["Ipv6Address"]: name for item in interface.get("Ipv6Addresses", [])}
        for outside in load_topology(self.options.topology).outside:
            names |= {
                str(address): f"{outside.name} (outside)" for address in (outside.address, outside.ipv6) if address
            }
        return names

    def _show_commands(self) -> None:
        url = self.endpoint.url
        out.print(f"\n[bold]The endpoint is {url}[/]" + (" while this runs." if is_terminal() else "; it ends now."))
        out.print("Any AWS client works there. In another terminal:\n")
        data_dir = self.folders.root
        out.print(f'  eval "$({Path(sys.executable).with_name("vnotch")} env --data-dir {data_dir})"')
        for command in (
            "ec2 describe-flow-logs",
            "logs describe-log-streams --log-group-name " + GROUP_ALL,
            f"logs filter-log-events --log-group-name {GROUP_REJECT} --max-items 5",
            "ec2 describe-network-interfaces --query 'NetworkInterfaces[].[NetworkInterfaceId,Description]'",
        ):
            out.print(f"  aws --endpoint-url {url} {command}")

    def _stay(self) -> None:
        out.print("\n[bold]Ctrl-C ends the demo and removes everything.[/]")
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            out.print()

    def _tear_down(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.lab_is_up:
            down = ["lab", "down", "--data-dir", str(self.folders.root)]
            command = _as_root(vnotch(*down)) if self.live else vnotch(*down)
            if subprocess.run(command, check=False, capture_output=True).returncode != 0:
                self.failures.append(f"the lab was not removed; run: {' '.join(command)}")
        for child in reversed(self.children):
            child.stop()
        if self.live and os.geteuid() != 0:  # the agent and the lab have written there as root
            subprocess.run(_as_root(["rm", "-rf", "--", str(self.root)]), check=False)
        shutil.rmtree(self.root, ignore_errors=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _verdict(self) -> int:
        for failure in self.failures:
            out.print(f"[bold red]✗[/] {failure}")
        if not self.failures:
            out.print("[bold green]✓[/] Every packet is accounted for; everything that was made has been removed.")
        return 1 if self.failures else 0

    # Parts

    def _child(self, name: str, command: Sequence[str]) -> Child:
        child = Child(name, command, self.root / f"{name}.log")
        self.children.append(child)
        return child

    def _run_as_root(self, *arguments: str) -> None:
        """A vnotch command in the foreground. It has said what was wrong itself, so only its failing is reported."""
        if subprocess.run(_as_root(vnotch(*arguments)), check=False).returncode != 0:
            raise HostError(f"vnotch {' '.join(arguments[:2])} failed", "the line above says why")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
