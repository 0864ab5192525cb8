"""A lab from up to down: the order of the steps, and the way back from each of them.

What is about to be made is in the journal before it is made; what a step that fails has left is removed at once, what
a crash has left by the next `down` or `up`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vnotch.errors import HostError, InputError, VnotchError
from vnotch.interrupts import pause
from vnotch.lab import namespaces, services
from vnotch.lab.control import ControlPlane, Made
from vnotch.lab.journal import BUILDING, REMOVING, UP, Journal, Ownership, owner, ownership, process_start_ticks
from vnotch.lab.network import PREFIX, Network, remove_namespace
from vnotch.lab.privilege import check_host
from vnotch.lab.topology import Eni, Outside, Topology
from vnotch.lab.topology_file import default_topology_path, load_topology
from vnotch.lab.traffic import TrafficReport, run_once, run_traffic
from vnotch.module_process import module_command, module_environment

SERVICES_SECONDS = 30.0
STOP_SECONDS = 3.0
SERVICES_LOG = "services.log"
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,15}\Z")  # without a hyphen: the names of one lab never begin with another's


@dataclass(frozen=True)
class Event:
    """A step on the way, for people. `kind` is `step` (about to be done), `done`, or `word` (good to know)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Status:
    """What there is. `phase` is absent, building, up or removing; `devices` are the host sides and whether each is up;
    `services` the pid of the process that serves, if it runs; `api` ids by kind and name."""

    phase: str
    folder: Path
    namespaces: tuple[str, ...] = ()
    devices: dict[str, bool] = field(default_factory=dict)
    services: int | None = None
    api: dict[str, object] = field(default_factory=dict)
    enis: tuple[Eni, ...] = ()


@dataclass(frozen=True)
class Added:
    """An instance that came to a lab, and what its first traffic met."""

    eni: Eni
    instance_id: str
    interface_id: str | None
    report: TrafficReport


Attached = Callable[[Eni], None]


class Lab:
    """One lab, its folder and its prefix of namespace names.

    With `control` the lab's resources are made through the API and each link goes up when the agent has attached it;
    without, `attached` of `up` and `add` is called for each ENI before its link goes up.
    """

    def __init__(
        self,
        folder: Path,
        topology: Topology | None = None,
        *,
        prefix: str = PREFIX,
        control: ControlPlane | None = None,
        events: Callable[[Event], None] = lambda event: None,
    ) -> None:
        if not _PREFIX.match(prefix):
            raise InputError(f"{prefix!r} is no prefix", "1 to 16 of a-z and 0-9, a letter first")
        self.folder = folder.absolute()
        self.prefix = prefix
        self.control = control
        self._given = topology
        self._events = events
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def topology(self) -> Topology:
        """Of the lab that is up, else the one it would be built from."""
        journal = Journal.load(self.folder)
        return journal.topology() if journal else self._wanted()

    @property
    def router_namespace(self) -> str:
        """The namespace with the host sides of all ENIs: where an agent captures."""
        return f"{self.prefix}-router"

    def plan(self) -> list[str]:
        """What `up` will create, in words, one item a line."""
        topology = self._wanted()
        kinds = [("instance", "instance"), ("managed", "managed service"), ("nat_gateway", "NAT gateway")]
        lines = [f"network namespace {self.router_namespace}: the VPC router {topology.vpc.cidr}, and its services"]
        lines.append(f"network namespace {self.prefix}-internet: the world outside")
        for kind, words in kinds:
            for eni in topology.of_kind(kind):
                public = f", {eni.public_address}" if eni.public_address else ""
                lines.append(f"network namespace {self.prefix}-{eni.name}: {words} at {eni.address}{public}")
        for host in topology.outside:
            lines.append(f"network namespace {self.prefix}-{host.name}: {host.role} at {host.address}")
        lines.append("in these namespaces: veth pairs, addresses, routes, sysctls and nft tables; on the host: none")
        lines.append(f"one process that serves all namespaces, and its journal in {self.folder}")
        return lines

    # --- up

    def up(
        self,
        *,
        interval_seconds: int = 60,
        attached: Attached | None = None,
        network_ready: Callable[[], None] | None = None,
    ) -> Status:
        """Builds the lab; does nothing where it is up. Raises InputError or HostError, and then leaves nothing.

        `network_ready` is called when the router namespace and the links in it are there and still down: the moment
        to start an agent on it. `interval_seconds` is the flow logs' aggregation interval.
        """
        check_host()
        wanted = self._wanted()
        if self.control:
            self.control.require_up()
        with ownership(self.prefix) as owned:
            self._refuse_foreign(owned)
            journal = Journal.load(self.folder)
            if journal and journal.phase == UP and self._is_whole(journal):
                if self._given is not None and journal.topology_text != wanted.text:
                    raise InputError("the lab that is up was built from another topology", "vnotch lab down first")
                self._say("word", "the lab is up already")
                self._ensure_services(journal)
                return self.status()
            if journal or namespaces.existing(self.prefix):
                self._say("word", "removing what an earlier lab has left")
                self._clear(journal, owned)
            owned.take(self.folder)
            journal = Journal(self.folder, self.prefix, BUILDING, wanted.path, wanted.text)
            journal.api = {"token": secrets.token_hex(8)} if self.control else {}
            journal.save()
            try:
                self._build(journal, wanted, interval_seconds, attached, network_ready)
            except BaseException:
                self._say("word", "the lab could not be built; removing what was made")
                try:
                    self._clear(journal, owned)
                except VnotchError as second:
                    self._say("word", str(second))
                raise
        return self.status()

    def _build(
        self,
        journal: Journal,
        topology: Topology,
        interval_seconds: int,
        attached: Attached | None,
        network_ready: Callable[[], None] | None,
    ) -> None:
        salt = secrets.token_hex(8)
        journal.instance_ids = {eni.name: _instance_id(salt, eni.name) for eni in topology.of_kind("instance")}
        if self.control:
            self._say("step", "making the VPC, its subnets, interfaces and flow logs through the API")
            made = self.control.create_vpc(topology, journal.api["token"])
            self.control.create_flow_logs(topology, made, journal.api["token"], interval_seconds)
            self._note_api(journal, made)
        network = Network(topology, self.prefix)
        self._say("step", "making network namespaces and links")
        for name in network.namespaces():
            journal.namespaces.append(name)
            journal.save()
            network.create_namespace(name)
        network.create_hubs()
        hosts: list[Eni | Outside] = [*topology.enis, *topology.outside]
        for host in hosts:
            network.create_link(host, journal.macs.get(host.name))
        network.translate()
        if network_ready:
            network_ready()
        self._attach(journal, topology.enis, attached)
        for host in hosts:
            network.raise_link(host)
        network.route_subnets()
        self._say("done", f"{len(topology.enis)} interfaces are up")
        self._start_services(journal)
        journal.phase = UP
        journal.save()
        self._say("done", "the lab is up")

    def _note_api(self, journal: Journal, made: Made) -> None:
        assert self.control is not None
        journal.api |= {
            "url": self.control.url,
            "region": self.control.region,
            "agent": self.control.agent,
            "vpc": made.vpc_id,
            "role": made.role_arn,
            "subnets": made.subnets,
            "groups": made.groups,
            "interfaces": made.interfaces,
            "flow_logs": made.flow_logs,
        }
        journal.macs = dict(made.macs)
        journal.save()

    def _attach(self, journal: Journal, enis: tuple[Eni, ...], attached: Attached | None) -> None:
        """The capture comes before the link, so that an interface is captured from its first packet."""
        if self.control:
            names = ", ".join(eni.name for eni in enis)
            self._say("step", f"waiting for agent {self.control.agent!r} to attach {names}")
            interfaces = {eni.name: journal.api["interfaces"][eni.name] for eni in enis}
            for eni in enis:
                self.control.bind(eni, interfaces[eni.name], journal.instance_ids.get(eni.name))
            self.control.wait_attached(interfaces)
        if attached:
            for eni in enis:
                attached(eni)

    # --- down

    def down(self) -> None:
        """Removes the lab, or what is left of one; says so where there is none. Raises HostError, also where the API
        did not answer: then the network is gone and the journal stays, so that `down` can be repeated."""
        check_host()
        with ownership(self.prefix) as owned:
            self._refuse_foreign(owned)
            journal = Journal.load(self.folder)
            if journal is None and not namespaces.existing(self.prefix):
                owned.release()
                self._say("word", "there is no lab")
                return
            self._clear(journal, owned)
            self._say("done", "the lab is down")

    def _clear(self, journal: Journal | None, owned: Ownership) -> None:
        """The API's resources first, flow logs before all; then processes, links and namespaces; the journal last."""
        problem: VnotchError | None = None
        if journal:
            journal.phase = REMOVING
            journal.save()
            problem = self._clear_api(journal)
        self._stop_services(journal)
        for name in dict.fromkeys([*(journal.namespaces if journal else ()), *namespaces.existing(self.prefix)]):
            inside = namespaces.processes(name)
            if inside:
                listed = ", ".join(map(str, inside))
                self._say("word", f"{name} is removed, but processes go on in it: {listed}")
            remove_namespace(name)
        for leftover in (services.READY_FILE, SERVICES_LOG):
            (self.folder / leftover).unlink(missing_ok=True)
        if problem:
            raise problem
        if journal:
            journal.remove()
        owned.release()

    def _clear_api(self, journal: Journal) -> VnotchError | None:
        if "token" not in journal.api:
            return None
        if self.control is None:
            return HostError(
                f"the lab has resources at {journal.api.get('url', 'an endpoint')} that are still there",
                "start the server again and repeat vnotch lab down",
            )
        self._say("step", "deleting flow logs, interfaces, subnets and the VPC through the API")
        try:
            for words in self.control.remove(journal.api["token"]):
                self._say("word", f"the API keeps {words}")
        except VnotchError as error:
            return HostError(f"the network is removed, but not the lab's resources: {error.message}", "repeat it later")
        return None

    # --- status, add, traffic

    def status(self) -> Status:
        """What there is now; changes nothing. As another user it sees names, not the state of links."""
        journal = Journal.load(self.folder)
        names = tuple(namespaces.existing(self.prefix))
        if journal is None:
            return Status("absent", owner(self.prefix) or self.folder, names)
        devices: dict[str, bool] = {}
        topology = journal.topology()
        if self.router_namespace in names and os.geteuid() == 0:
            with suppress(HostError):  # half-built: the name is there, the namespace is not
                devices = Network(topology, self.prefix).devices()
        return Status(
            journal.phase, self.folder, names, devices, self._services_pid(journal), journal.api, topology.enis
        )

    def add(self, name: str, subnet: str, *, attached: Attached | None = None) -> Added:
        """One more instance, a web server at the subnet's next free address, and its first traffic.

        Raises InputError, HostError; what was made of the instance is then removed.
        """
        check_host()
        with ownership(self.prefix) as owned:
            self._refuse_foreign(owned)
            journal = Journal.load(self.folder)
            if journal is None or journal.phase != UP:
                raise HostError("the lab is not up", "vnotch lab up")
            topology, eni = journal.topology().with_instance(name, subnet)
            if "token" in journal.api and self.control is None:
                raise InputError("this lab's resources are made through the API", "give its endpoint")
            network = Network(topology, self.prefix)
            journal.added.append([name, subnet])
            journal.namespaces.append(network.namespace(name))
            journal.instance_ids[name] = _instance_id(secrets.token_hex(8), name)
            journal.save()
            try:
                self._build_instance(journal, network, eni, attached)
            except BaseException:
                self._undo_instance(journal, network, name)
                raise
        report = run_once(topology, self.prefix, eni=name)
        self._say("done", f"{name} is up at {eni.address}")
        return Added(eni, journal.instance_ids[name], journal.api.get("interfaces", {}).get(name), report)

    def _build_instance(self, journal: Journal, network: Network, eni: Eni, attached: Attached | None) -> None:
        if self.control:
            subnet_id = journal.api["subnets"][eni.subnet]
            made = self.control.create_interface(eni, subnet_id, journal.api["token"], journal.api.get("groups", {}))
            journal.api["interfaces"][eni.name], journal.macs[eni.name] = made
            journal.save()
        network.create_namespace(network.namespace(eni.name))
        network.create_link(eni, journal.macs.get(eni.name))
        network.translate()
        self._attach(journal, (eni,), attached)
        network.raise_link(eni)
        self._ensure_services(journal)
        self._wait_services(journal)

    def _undo_instance(self, journal: Journal, network: Network, name: str) -> None:
        interface_id = journal.api.get("interfaces", {}).pop(name, None)
        if self.control and interface_id:
            try:
                self.control.delete_interface(interface_id)
            except VnotchError as error:
                self._say("word", f"{interface_id} is left in the API until vnotch lab down: {error.message}")
        remove_namespace(network.namespace(name))
        journal.added.pop()
        journal.namespaces.remove(network.namespace(name))
        journal.instance_ids.pop(name)
        journal.macs.pop(name, None)
        journal.save()
        Network(journal.topology(), self.prefix).translate()

    def traffic(
        self, *, seconds: float, rate: float = 20.0, scan_ports: int = 150, stop: threading.Event | None = None
    ) -> TrafficReport:
        """Makes traffic in the lab that is up (traffic.run_traffic)."""
        if self.status().phase != UP:
            raise HostError("the lab is not up", "vnotch lab up")
        return run_traffic(self.topology, self.prefix, seconds=seconds, rate=rate, scan_ports=scan_ports, stop=stop)

    # --- the process that serves

    def _start_services(self, journal: Journal) -> None:
        self._say("step", "starting the services")
        command = module_command("vnotch.lab.services", str(self.folder))
        with open(self.folder / SERVICES_LOG, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=module_environment(),
            )
        journal.services = [self._process.pid, process_start_ticks(self._process.pid) or 0]
        journal.save()
        self._wait_services(journal)

    def _wait_services(self, journal: Journal) -> None:
        """Until the process serves every name of the topology."""
        wanted = {eni.name for eni in journal.topology().enis}
        deadline = time.monotonic() + SERVICES_SECONDS
        while True:
            said = services.ready(self.folder)
            if said and [said[0], said[1]] == journal.services and wanted <= set(said[2]):
                return
            if self._services_pid(journal) is None or time.monotonic() > deadline:
                log = (self.folder / SERVICES_LOG).read_text(errors="replace").strip().splitlines()
                raise HostError(f"the lab's services did not start: {log[-1] if log else 'no message'}")
            pause(0.05)

    def _ensure_services(self, journal: Journal) -> None:
        if self._services_pid(journal) is None:
            self._say("word", "the lab's services had ended")
            self._start_services(journal)

    def _services_pid(self, journal: Journal) -> int | None:
        if self._process and self._process.poll() is None and journal.services[:1] == [self._process.pid]:
            return self._process.pid
        if journal.services and process_start_ticks(journal.services[0]) == journal.services[1]:
            return journal.services[0]
        return None

    def _stop_services(self, journal: Journal | None) -> None:
        """Ends the process by id and start time, as the journal and as the process itself have noted them."""
        noted = {tuple(journal.services)} if journal and journal.services else set()
        if said := services.ready(self.folder):
            noted.add((said[0], said[1]))
        for pid, start_ticks in noted:
            for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
                if process_start_ticks(pid) != start_ticks:
                    break
                os.kill(pid, number)
                deadline = time.monotonic() + seconds
                while process_start_ticks(pid) == start_ticks and time.monotonic() < deadline:
                    time.sleep(0.02)
        if self._process:
            self._process.wait(STOP_SECONDS)
            self._process = None

    # --- pieces

    def _wanted(self) -> Topology:
        if self._given is None:
            journal = Journal.load(self.folder)
            if journal and journal.phase == UP:
                return journal.topology()
            self._given = load_topology(default_topology_path())
        return self._given

    def _refuse_foreign(self, owned: Ownership) -> None:
        """Another folder's lab is not ours to touch, unless its journal is gone: then it is a leftover."""
        other = owned.folder
        if other and other != self.folder and Journal.load(other) is not None:
            raise HostError(f"another lab is up, made from {other}", f"take it down first: its folder is {other}")

    def _is_whole(self, journal: Journal) -> bool:
        """Whether all that the journal promises is there."""
        topology = journal.topology()
        network = Network(topology, self.prefix)
        if not set(network.namespaces()) <= set(namespaces.existing(self.prefix)):
            return False
        devices = network.devices()
        return all(devices.get(eni.device) for eni in topology.enis)

    def _say(self, kind: str, text: str) -> None:
        self._events(Event(kind, text))


def _instance_id(salt: str, name: str) -> str:
    """An id of AWS's form: `i-` and 17 hexadecimal digits."""
    return f"i-0{hashlib.sha256(f'{salt} {name}'.encode()).hexdigest()[:16]}"
