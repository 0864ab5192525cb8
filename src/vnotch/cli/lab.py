"""`vnotch lab`: a VPC on this host, built through the API, captured by an agent of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from vnotch.cli.children import Child, vnotch
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import out, step
from vnotch.config import Folders
from vnotch.errors import HostError, VnotchError
from vnotch.lab.control import ControlPlane
from vnotch.lab.journal import process_start_ticks, write_json
from vnotch.lab.lab import Event, Lab, Status
from vnotch.lab.privilege import check_host
from vnotch.lab.topology_file import load_topology

AGENT = "lab"
AGENT_SECONDS = 20.0
STOP_SECONDS = 30.0

lab = typer.Typer(help="A VPC on this host: instances, gateways, an outside world, real traffic.", no_args_is_help=True)

Topology = Annotated[
    Path | None, typer.Option("--topology", help="Topology file.", show_default="the mock environment")
]


def folder_of(folders: Folders) -> Path:
    return folders.root / "lab"


@lab.command()
def up(
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    topology: Topology = None,
    interval: Annotated[
        int, typer.Option(help="Aggregation interval in seconds: 60 or 600; 1 to 900 if the server has --any-interval.")
    ] = 60,
) -> None:
    """Build the lab, start its agent, create its flow logs. Needs root and a running server."""
    folders = folders_of(data_dir)
    chosen = load_topology(topology) if topology else None
    endpoint = Endpoint.find(folders, endpoint_url).require_up()
    agent = LabAgent(folders, endpoint)
    built = _lab(folders, endpoint, chosen)
    for line in built.plan():
        step(line)
    try:
        status = built.up(interval_seconds=interval, network_ready=lambda: agent.start(built.router_namespace))
    except BaseException:
        agent.stop()
        raise
    agent.start(built.router_namespace)  # where the lab was up already and its agent had ended
    _show(status, agent)


@lab.command()
def down(data_dir: DataDir = None, endpoint_url: EndpointUrl = None) -> None:
    """Remove the lab, its agent, and what it made through the API. Needs root; safe to repeat."""
    folders = folders_of(data_dir)
    endpoint = _endpoint_or_none(folders, endpoint_url)
    check_host()
    # The agent first: it closes its windows and delivers them while their flow logs still exist.
    LabAgent(folders, endpoint).stop()
    _lab(folders, endpoint).down()


@lab.command()
def status(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show what exists. Changes nothing."""
    folders = folders_of(data_dir)
    agent = LabAgent(folders, None)
    found = _lab(folders, None).status()
    if not as_json:
        _show(found, agent)
        return
    document: dict[str, Any] = {
        "phase": found.phase,
        "folder": str(found.folder),
        "namespaces": found.namespaces,
        "devices": found.devices,
        "services_pid": found.services,
        "agent_pid": agent.pid(),
        "api": found.api,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


@lab.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the new instance.")],
    subnet: Annotated[str, typer.Option("--subnet", help="Name of its subnet in the topology.")],
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Add an instance to the lab that is up; it is captured from its first packet. Needs root."""
    folders = folders_of(data_dir)
    endpoint = Endpoint.find(folders, endpoint_url).require_up()
    added = _lab(folders, endpoint).add(name, subnet)
    out.print(f"{added.interface_id} {added.instance_id} at {added.eni.address}")


@lab.command()
def traffic(
    data_dir: DataDir = None,
    seconds: Annotated[float, typer.Option(help="How long.", min=1)] = 30.0,
    rate: Annotated[float, typer.Option(help="Actions a second.", min=0.1)] = 20.0,
    scan_ports: Annotated[int, typer.Option(help="Ports that the scanner tries at each target.", min=0)] = 150,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make real traffic in the lab for a while. Needs root."""
    check_host()
    report = _lab(folders_of(data_dir), None).traffic(seconds=seconds, rate=rate, scan_ports=scan_ports)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json()) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("traffic", "sent", "ok", "refused", "timed out", "failed"):
        table.add_column(column, justify="left" if column == "traffic" else "right")
    for kind, counts in sorted(report.kinds.items()):
        numbers = (counts.sent, counts.ok, counts.refused, counts.timed_out, counts.failed)
        table.add_row(kind, *map(str, numbers))
    out.print(table)


@lab.command(hidden=True)
def check() -> None:
    """Exit with 0 if this host can build the lab and capture it."""
    check_host()
    from vnotch.capture.kernel import Datapath

    with Datapath.open(flows_per_map=64):
        pass


class LabAgent:
    """The agent that captures the lab's router namespace: a process of its own, found again by pid and start time."""

    def __init__(self, folders: Folders, endpoint: Endpoint | None) -> None:
        self._folders = folders
        self._endpoint = endpoint
        self._note = folder_of(folders) / "agent.json"
        self.log = folder_of(folders) / "agent.log"

    def pid(self) -> int | None:
        """Its process id, or None where it does not run."""
        try:
            pid, start_ticks = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return None
        return pid if process_start_ticks(pid) == start_ticks else None

    def start(self, namespace: str) -> None:
        """Starts it on the namespace and waits until it captures; nothing where it runs. Raises HostError."""
        if self.pid() is not None:
            return
        assert self._endpoint is not None
        step(f"starting agent {AGENT!r} in {namespace}")
        ready = folder_of(self._folders) / "agent.ready"
        ready.unlink(missing_ok=True)
        command = ["agent", "--name", AGENT, "--data-dir", str(self._folders.root), "--netns", namespace]
        command += ["--endpoint-url", self._endpoint.url, "--ready-file", str(ready), "--flush"]
        child = Child("agent", vnotch(*command), self.log)
        write_json(self._note, [child.pid, process_start_ticks(child.pid)])
        child.wait_until(ready.exists, AGENT_SECONDS, "starting the agent")

    def stop(self) -> None:
        """Ends it and waits until it has delivered what it had, at most STOP_SECONDS. Safe to repeat."""
        pid = self.pid()
        if pid is not None:
            start_ticks = process_start_ticks(pid)
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                deadline = time.monotonic() + STOP_SECONDS
                while process_start_ticks(pid) == start_ticks and time.monotonic() < deadline:
                    time.sleep(0.05)
        self._note.unlink(missing_ok=True)


def _lab(folders: Folders, endpoint: Endpoint | None, topology: Any = None) -> Lab:
    control = None
    if endpoint is not None:
        keys = endpoint.access_key_id, endpoint.secret_access_key
        control = ControlPlane(endpoint.url, *keys, endpoint.region, AGENT)
    return Lab(folder_of(folders), topology, control=control, events=_tell)


def _tell(event: Event) -> None:
    step(event.text)


def _endpoint_or_none(folders: Folders, url: str | None) -> Endpoint | None:
    try:
        return Endpoint.find(folders, url).require_up()
    except VnotchError as error:
        step(f"{error.message}: only the network is removed")
        return None


def _show(status: Status, agent: LabAgent) -> None:
    if status.phase == "absent":
        out.print("There is no lab." + (f" Left over: {', '.join(status.namespaces)}" if status.namespaces else ""))
        return
    out.print(f"The lab is {status.phase}, its folder is {status.folder}.")
    interfaces = status.api.get("interfaces", {})
    assert isinstance(interfaces, dict)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "subnet", "address", "interface", "device", "link"):
        table.add_column(column)
    for eni in status.enis:
        link = {True: "[green]up[/]", False: "[red]down[/]"}.get(status.devices.get(eni.device, None), "?")  # type: ignore[arg-type]
        table.add_row(eni.name, eni.subnet, str(eni.address), interfaces.get(eni.name, ""), eni.device, link)
    out.print(table)
    services = f"process {status.services}" if status.services else "[red]not running[/]"
    capture = f"process {pid}, log {agent.log}" if (pid := agent.pid()) else "[red]not running[/]"
    out.print(f"Services: {services}. Agent: {capture}.")


__all__ = ["HostError", "lab"]
