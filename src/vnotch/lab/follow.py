"""A lab that follows the API: what RunInstances launches in a VPC is built on this host, as long as the lab runs.

The network is compared with what the API says, a few times a minute and whole, so that a step that failed, a call that
was lost or a restart of either side is mended by the next round. Names, addresses and links of what stays are never
touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from vnotch.errors import VnotchError
from vnotch.lab.api_source import Answers, Source, topology_source
from vnotch.lab.journal import BUILDING, UP, Journal, ownership
from vnotch.lab.lab import Lab
from vnotch.lab.network import Network, remove_namespace
from vnotch.lab.privilege import check_host
from vnotch.lab.topology import Eni, Topology
from vnotch.lab.topology_file import default_topology_path, load_topology, parse_topology

ROUND_SECONDS = 1.0


class FollowingLab(Lab):
    """`follow` builds and changes until it is told to stop, and then removes everything; the API's resources stay."""

    def follow(self, vpc_id: str | None, stop: threading.Event, network_ready: Callable[[], None]) -> None:
        """`vpc_id`: the VPC to build; None for that of the first instance that is launched. `network_ready`: the moment
        to start an agent on the router's namespace. Raises InputError, HostError; then nothing is left."""
        check_host()
        assert self.control is not None
        self.control.require_up()
        self._world = load_topology(default_topology_path())
        self._reports: dict[str, tuple[str, str]] = {}  # instance -> state and reason, to be told in the next round
        self._said = ""
        with ExitStack() as left:
            owned = left.enter_context(ownership(self.prefix))
            self._refuse_foreign(owned)
            if (journal := Journal.load(self.folder)) is not None:
                self._say("word", "removing what an earlier lab has left")
                self._clear(journal, owned)
            owned.take(self.folder)
            journal = None
            try:
                while not stop.is_set():
                    journal = self._round(journal, vpc_id, network_ready)
                    stop.wait(ROUND_SECONDS)
            finally:
                self._leave(journal)
                self._clear(journal, owned)

    def _round(self, journal: Journal | None, vpc_id: str | None, network_ready: Callable[[], None]) -> Journal | None:
        assert self.control is not None
        told, self._reports = self._reports, {}
        try:
            answer = self.control.tell_lab_host(self.prefix.removeprefix("vn"), vpc_id, told)
            if answer["vpc_id"] is None:
                self._once("waiting for the first instance that is launched")
                return journal
            source, topology = self._wanted_by(answer)
        except VnotchError as error:
            self._reports = {**told, **self._reports}
            self._once(f"{error.message}: what is there stays as it is")
            return journal
        if journal is None:
            journal = self._open(answer["vpc_id"], topology, network_ready)
        self._change(journal, topology, source, answer["instances"])
        return journal

    def _wanted_by(self, answer: dict[str, Any]) -> tuple[Source, Topology]:
        """The topology of all that lives. An instance whose tags ask for what cannot be is left out, and said to have
        failed."""
        assert self.control is not None
        living = [row for row in answer["instances"] if row["state"] in ("pending", "running")]
        rows = self.control.describe_network(answer["vpc_id"])
        kept: list[dict[str, Any]] = []
        source = topology_source(Answers(**rows, instances=kept), self._world)
        topology = parse_topology(source.text, answer["vpc_id"])
        for row in living:
            tried = topology_source(Answers(**rows, instances=[*kept, row]), self._world)
            try:
                topology = parse_topology(tried.text, answer["vpc_id"])
            except VnotchError as error:
                self._reports[row["instance_id"]] = ("failed", error.message)
                self._say("word", f"{row['instance_id']}: {error.message}")
                continue
            source, kept = tried, [*kept, row]
        return source, topology

    def _open(self, vpc_id: str, topology: Topology, network_ready: Callable[[], None]) -> Journal:
        """The router, the internet and the hosts outside; no instance yet."""
        assert self.control is not None
        self._say("step", f"building {vpc_id}")
        empty = parse_topology(_without_enis(topology.text), vpc_id)
        network = Network(empty, self.prefix)
        journal = Journal(self.folder, self.prefix, BUILDING, vpc_id, empty.text)
        journal.api = {"url": self.control.url, "region": self.control.region, "agent": self.control.agent}
        journal.api |= {"vpc": vpc_id, "interfaces": {}}
        journal.save()
        for name in network.namespaces():
            journal.namespaces.append(name)
            journal.save()
            network.create_namespace(name)
        network.create_hubs()
        for host in empty.outside:
            network.create_link(host)
            network.raise_link(host)
        network.translate()
        network_ready()
        self._start_services(journal)
        journal.phase = UP
        journal.save()
        return journal

    def _change(self, journal: Journal, topology: Topology, source: Source, instances: list[dict[str, Any]]) -> None:
        before = journal.topology()
        had = {journal.api["interfaces"].get(eni.name): eni for eni in before.enis}
        wanted = {source.interfaces[eni.name]: eni for eni in topology.enis}
        gone = [eni for interface_id, eni in had.items() if interface_id not in wanted]
        new = [eni for interface_id, eni in wanted.items() if interface_id not in had]
        old_network, network = Network(before, self.prefix), Network(topology, self.prefix)
        for eni in sorted(gone, key=lambda eni: eni.of is None):
            self._remove(journal, old_network, eni)
        if topology.text != journal.topology_text:
            journal.topology_text = topology.text
            journal.save()
            network.translate()
            if not new:
                self._route(network)
        # A NAT gateway before the subnets that lead to it, an instance before its further interfaces.
        for eni in sorted(new, key=lambda eni: (eni.kind != "nat_gateway", eni.device_index)):
            self._add(journal, network, eni, source)
        if new:
            self._route(network)
        failed = {instance_id for instance_id, (state, _) in self._reports.items() if state == "failed"}
        for row in instances:
            if row["state"] == "shutting-down":
                self._reports[row["instance_id"]] = ("terminated", "")
            elif row["state"] == "pending" and row["instance_id"] not in failed:
                self._reports[row["instance_id"]] = ("running", "")

    def _route(self, network: Network) -> None:
        """Not where a NAT gateway could not be built: its subnets have no way out until it is."""
        try:
            network.route_subnets()
        except VnotchError as error:
            self._say("word", error.message)

    def _add(self, journal: Journal, network: Network, eni: Eni, source: Source) -> None:
        """Captured before its link goes up. What cannot be built is taken away again and said to have failed."""
        assert self.control is not None
        interface_id, instance_id = source.interfaces[eni.name], source.instances.get(eni.name)
        journal.api["interfaces"][eni.name] = interface_id
        if eni.of is None:
            journal.namespaces.append(network.namespace(eni.name))
        if instance_id:
            journal.instance_ids[eni.name] = instance_id
        journal.macs[eni.name] = source.macs.get(eni.name) or self.control.mac_of(interface_id)
        journal.save()
        try:
            if eni.of is None:
                network.create_namespace(network.namespace(eni.name))
            network.create_link(eni, journal.macs[eni.name])
            self.control.bind(eni, interface_id, instance_id)
            self.control.wait_attached({eni.name: interface_id})
            network.raise_link(eni)
        except VnotchError as error:
            self._remove(journal, network, eni)
            if instance_id and eni.of is None:
                self._reports[instance_id] = ("failed", error.message)
            self._say("word", f"{eni.name} could not be built: {error.message}")
            return
        self._say("done", f"{eni.name} ({instance_id or interface_id}) is up at {eni.address}")

    def _remove(self, journal: Journal, network: Network, eni: Eni) -> None:
        assert self.control is not None
        self.control.unbind(journal.api["interfaces"].pop(eni.name))
        network.remove_link(eni)
        if eni.of is None:
            remove_namespace(network.namespace(eni.name))
            journal.namespaces.remove(network.namespace(eni.name))
        journal.instance_ids.pop(eni.name, None)
        journal.macs.pop(eni.name, None)
        journal.save()
        self._say("done", f"{eni.name} is gone")

    def _leave(self, journal: Journal | None) -> None:
        """The instances end with the lab that runs them, and the API learns it."""
        if journal is None or self.control is None:
            return
        self._say("step", "taking the lab down")
        told = dict.fromkeys(journal.instance_ids.values(), ("terminated", ""))
        try:
            for interface_id in journal.api["interfaces"].values():
                self.control.unbind(interface_id)
            self.control.tell_lab_host(self.prefix.removeprefix("vn"), None, told)
        except VnotchError as error:
            self._say("word", f"the API does not know that the lab is gone: {error.message}")

    def _once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say("word", text)


def _without_enis(text: str) -> str:
    """The same topology file without instances and NAT gateways, and without the routes that lead to the latter."""
    tables = text.split("\n\n")
    kept = [table for table in tables if not table.lstrip().startswith(("[[instance]]", "[[nat_gateway]]"))]
    lines = "\n\n".join(kept).splitlines()
    return "\n".join(
        line if not line.startswith("default_route") or '"internet"' in line else 'default_route = "none"'
        for line in lines
    )
