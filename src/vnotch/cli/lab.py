"""`vnotch lab`: a VPC on this host, built through the API, captured by an agent of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from vnotch.cli.children import Child, vnotch
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.root import is_root, run_again_as_root
from vnotch.cli.terminal import out, step
from vnotch.config import Folders
from vnotch.errors import HostError, InputError, VnotchError
from vnotch.interrupts import interrupt_on

if TYPE_CHECKING:  # the lab itself is imported where it is used: it takes half of the time of any other command
    from vnotch.lab.lab import Event, Lab, Status

DEFAULT_NAME = "lab"
AGENT_SECONDS = 20.0
STOP_SECONDS = 30.0
_NAME = re.compile(r"[a-z][a-z0-9]{0,13}\Z")

lab = typer.Typer(help="A VPC on this host: instances, gateways, an outside world, real traffic.", no_args_is_help=True)

Topology = Annotated[
    Path | None, typer.Option("--topology", help="Topology file.", show_default="the mock environment")
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the lab: its namespaces are vnNAME-*, its agent is NAME.",
        show_default=f"that of the lab in the data folder, else {DEFAULT_NAME}",
    ),
]


def folder_of(folders: Folders) -> Path:
    return folders.root / "lab"


def prefix_of(name: str) -> str:
    """What the names of a lab's namespaces begin with."""
    return f"vn{name}"


def name_of(folders: Folders, given: str | None) -> str:
    """The lab's name: the one given, or that of the lab whose journal is in the folder. Raises InputError."""
    from vnotch.lab.journal import Journal

    journal = Journal.load(folder_of(folders))
    there = journal.prefix.removeprefix("vn") if journal else None
    name = given or there or DEFAULT_NAME
    if not _NAME.match(name):
        raise InputError(f"{name!r} is no name for a lab", "1 to 14 of a-z and 0-9, a letter first")
    if there is not None and name != there:
        raise InputError(f"the lab of {folders.root} is named {there}", "another one needs another --data-dir")
    return name


def _need_root(folders: Folders, what: str, *arguments: str | None) -> None:
    """Goes on as root by sudo where it is not root. Folders are passed on, since root's are others."""
    if not is_root():
        given = [argument for argument in arguments if argument is not None]
        run_again_as_root([*vnotch("lab", what), "--data-dir", str(folders.root), *given], f"vnotch lab {what}")


def _refuse_another(folders: Folders, name: str) -> None:
    """Raises HostError where a lab of this name is up that belongs to another folder, before anything is announced."""
    from vnotch.lab.journal import Journal, owner

    other = owner(prefix_of(name))
    if other and other != folder_of(folders) and Journal.load(other) is not None:
        raise HostError(
            f"another lab named {name} is up",
            f"vnotch lab down --data-dir {other.parent} takes it down; or name this one with --name and --data-dir",
        )


def _options(**given: object) -> list[str]:
    """The options that were given, as words of a command line."""
    found = (
        (f"--{key.replace('_', '-')}", value)
        for key, value in given.items()
        if value is not None and value is not False
    )
    return [word for key, value in found for word in ([key] if value is True else [key, str(value)])]


@lab.command()
def up(
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    topology: Topology = None,
    interval: Annotated[
        int,
        typer.Option(
            help="Aggregation interval in seconds: 60 or 600; 1 to 900 if the server has --any-interval.",
            min=1,
            max=900,
        ),
    ] = 60,
    name: Name = None,
    brief: Annotated[bool, typer.Option("--brief", hidden=True)] = False,
) -> None:
    """Build the lab, start its agent, create its flow logs. Needs root (asks sudo) and a running server."""
    from vnotch.lab.topology_file import load_topology

    folders = folders_of(data_dir)
    chosen = load_topology(topology) if topology else None
    endpoint = Endpoint.await_up(folders, endpoint_url)
    name = name_of(folders, name)
    given = _options(endpoint_url=endpoint_url, topology=topology, interval=interval, name=name, brief=brief)
    _need_root(folders, "up", *given)
    check()
    agent = LabAgent(folders, endpoint, name)
    built = _lab(folders, endpoint, agent.name, chosen)
    _refuse_another(folders, name)
    if not brief and built.status().phase == "absent":
        for line in built.plan():
            step(line)
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    try:
        status = built.up(interval_seconds=interval, network_ready=lambda: agent.start(built.router_namespace))
    except BaseException as error:
        agent.stop_if_started()
        if isinstance(error, InputError) and "Aggregation Interval" in error.message:
            raise InputError(
                f"this server takes no aggregation interval of {interval} s",
                "60 or 600; 1 to 900 where it runs with --any-interval",
            ) from None
        raise
    agent.start(built.router_namespace)  # where the lab was up already and its agent had ended
    if not brief:
        _show(status, agent)


@lab.command()
def down(data_dir: DataDir = None, endpoint_url: EndpointUrl = None, name: Name = None) -> None:
    """Remove the lab, its agent, and what it made through the API. Needs root (asks sudo); safe to repeat."""
    folders = folders_of(data_dir)
    _need_root(folders, "down", *_options(endpoint_url=endpoint_url, name=name))
    from vnotch.lab.privilege import check_host

    endpoint = _endpoint_or_none(folders, endpoint_url)
    check_host()
    # The agent first: it closes its windows and delivers them while their flow logs still exist.
    agent = LabAgent(folders, endpoint, name_of(folders, name))
    agent.stop()
    _lab(folders, endpoint, agent.name).down()


@lab.command()
def status(
    data_dir: DataDir = None,
    name: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show what exists. Changes nothing."""
    folders = folders_of(data_dir)
    agent = LabAgent(folders, None, name_of(folders, name))
    found = _lab(folders, None, agent.name).status()
    if not as_json:
        _show(found, agent)
        return
    document: dict[str, Any] = {
        "name": agent.name,
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
    """Add an instance to the lab that is up; it is captured from its first packet. Needs root (asks sudo)."""
    folders = folders_of(data_dir)
    endpoint = Endpoint.find(folders, endpoint_url).require_up()
    _need_root(folders, "add", name, *_options(subnet=subnet, endpoint_url=endpoint_url))
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    added = _lab(folders, endpoint, name_of(folders, None)).add(name, subnet)
    out.print(f"{added.interface_id} {added.instance_id} at {added.eni.address}")


@lab.command()
def follow(
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    vpc: Annotated[
        str | None, typer.Option("--vpc", help="VPC to build.", show_default="that of the first instance launched")
    ] = None,
    name: Name = None,
) -> None:
    """Build what RunInstances launches, until Ctrl-C: this host is in lab mode. Needs root (asks sudo)."""
    import threading

    from vnotch.lab.control import ControlPlane
    from vnotch.lab.follow import FollowingLab

    folders = folders_of(data_dir)
    endpoint = Endpoint.await_up(folders, endpoint_url)
    name = name_of(folders, name)
    _need_root(folders, "follow", *_options(endpoint_url=endpoint_url, vpc=vpc, name=name))
    check()
    agent = LabAgent(folders, endpoint, name)
    keys = endpoint.access_key_id, endpoint.secret_access_key
    control = ControlPlane(endpoint.url, *keys, endpoint.region, agent.name)
    _refuse_another(folders, name)
    following = FollowingLab(folder_of(folders), prefix=prefix_of(name), control=control, events=_tell)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    agent.stop()  # of a lab host that was killed: it captures a namespace that is removed now
    step(f"lab host {name!r} takes instances; Ctrl-C takes them down")
    try:
        following.follow(vpc, stop, lambda: agent.start(following.router_namespace))
    finally:
        agent.stop_if_started()


@lab.command()
def traffic(
    data_dir: DataDir = None,
    seconds: Annotated[float, typer.Option(help="How long.", min=1)] = 30.0,
    rate: Annotated[float, typer.Option(help="Actions a second.", min=0.1)] = 20.0,
    scan_ports: Annotated[int, typer.Option(help="Ports that the scanner tries at each target.", min=0)] = 150,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make real traffic in the lab for a while. Needs root (asks sudo)."""
    folders = folders_of(data_dir)
    _need_root(folders, "traffic", *_options(seconds=seconds, rate=rate, scan_ports=scan_ports, json=as_json))
    from vnotch.lab.privilege import check_host

    check_host()
    lab_up = _lab(folders, None, name_of(folders, None))
    if lab_up.status().phase == "up" and not as_json:
        step(f"making traffic for {seconds:g} s")
    report = lab_up.traffic(seconds=seconds, rate=rate, scan_ports=scan_ports)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json()) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("traffic", "sent", "ok", "refused", "timed out", "failed"):
        table.add_column(column, justify="left" if column == "traffic" else "right")
    for kind, counts in sorted(report.kinds.items()):
        numbers = (counts.sent, counts.ok, counts.refused, counts.timed_out, counts.failed)
        table.add_row(kind, *map(str, numbers))
    out.print(table)


@lab.command(hidden=True)
def check() -> None:
    """Exit with 0 if this host can build the lab and capture it."""
    from vnotch.capture.kernel import Datapath
    from vnotch.lab.privilege import check_host

    check_host()

    with Datapath.open(flows_per_map=64):
        pass


class LabAgent:
    """The agent that captures the lab's router namespace: a process of its own, found again by pid and start time."""

    def __init__(self, folders: Folders, endpoint: Endpoint | None, name: str) -> None:
        self.name = name
        self._folders = folders
        self._endpoint = endpoint
        self._started = False
        self.folder = folder_of(folders)
        self._note = self.folder / "agent.json"
        self.log = self.folder / "agent.log"

    def pid(self) -> int | None:
        """Its process id, or None where it does not run."""
        from vnotch.lab.journal import process_start_ticks

        try:
            pid, start_ticks = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return None
        return pid if process_start_ticks(pid) == start_ticks else None

    def start(self, namespace: str) -> None:
        """Starts it on the namespace and waits until it captures; nothing where it runs. Raises HostError."""
        if self.pid() is not None:
            return
        from vnotch.lab.journal import process_start_ticks, write_json

        assert self._endpoint is not None
        step(f"starting agent {self.name!r} in {namespace}")
        ready = self.folder / "agent.ready"
        ready.unlink(missing_ok=True)
        command = ["agent", "--name", self.name, "--data-dir", str(self._folders.root), "--netns", namespace]
        command += ["--endpoint-url", self._endpoint.url, "--ready-file", str(ready), "--flush"]
        child = Child("agent", vnotch(*command), self.log, detached=True)
        self._started = True
        write_json(self._note, [child.pid, process_start_ticks(child.pid)])
        child.wait_until(ready.exists, AGENT_SECONDS, "starting the agent")

    def stop_if_started(self) -> None:
        """Ends the agent that this command has started, and leaves one that ran before alone."""
        if self._started:
            self.stop()

    def stop(self) -> None:
        """Ends it and waits until it has delivered what it had, at most STOP_SECONDS. Safe to repeat."""
        from vnotch.lab.journal import process_start_ticks

        pid = self.pid()
        if pid is not None:
            step(f"ending agent {self.name!r}; it delivers what it has")
            start_ticks = process_start_ticks(pid)
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                deadline = time.monotonic() + STOP_SECONDS
                while process_start_ticks(pid) == start_ticks and time.monotonic() < deadline:
                    time.sleep(0.05)
        self._note.unlink(missing_ok=True)


def _lab(folders: Folders, endpoint: Endpoint | None, name: str, topology: Any = None) -> Lab:
    from vnotch.lab.control import ControlPlane
    from vnotch.lab.lab import Lab

    control = None
    if endpoint is not None:
        keys = endpoint.access_key_id, endpoint.secret_access_key
        control = ControlPlane(endpoint.url, *keys, endpoint.region, name)
    return Lab(folder_of(folders), topology, prefix=prefix_of(name), control=control, events=_tell)


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
        if status.folder != agent.folder:
            out.print(f"There is no lab in this data folder. Another one is up, made from {status.folder.parent}.")
        elif status.namespaces:
            out.print(f"There is no lab. Left over: {', '.join(status.namespaces)}; vnotch lab down removes that.")
        else:
            out.print("There is no lab.")
        return
    out.print(f"The lab is {status.phase}, its folder is {status.folder}.")
    interfaces = status.api.get("interfaces", {})
    assert isinstance(interfaces, dict)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # Only root can look into the namespace with the links.
    columns = ("name", "subnet", "address", "interface", "device", *(["link"] if status.devices else []))
    for column in columns:
        table.add_column(column)
    for eni in status.enis:
        link = "[green]up[/]" if status.devices.get(eni.device) else "[red]down[/]"
        row = (eni.name, eni.subnet, str(eni.address), interfaces.get(eni.name, ""), eni.device, link)
        table.add_row(*row[: len(columns)])
    out.print(table)
    services = f"process {status.services}" if status.services else "[red]not running[/]"
    capture = f"process {pid}, log {agent.log}" if (pid := agent.pid()) else "[red]not running[/]"
    out.print(f"Services: {services}. Agent: {capture}.")
    if status.phase == "up":
        out.print("Make traffic with: vnotch lab traffic. Read it with: vnotch tail /vnotch/lab/all")
