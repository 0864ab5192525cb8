"""`vnotch top`: flows and rates per ENI as they are now. The agent is asked; nothing is flipped or emptied for it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vnotch.cli.completion import interface_ids
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import AgentName, DataDir, folders_of
from vnotch.cli.terminal import STYLES, is_terminal, literal, out
from vnotch.config import Folders
from vnotch.errors import InputError
from vnotch.interrupts import pause

if TYPE_CHECKING:
    from vnotch.cli.local_agents import LocalAgent
    from vnotch.cli.rates import FlowRate, InterfaceRate, Rates

NAMES_SECONDS = 30.0
"""How often the server is asked for names: it is not needed for anything else here."""
WIDE = 150
"""Columns of a terminal from which on rules have their place."""


def top(
    data_dir: DataDir = None,
    agent: AgentName = None,
    interface: Annotated[
        str | None,
        typer.Option(help="One ENI alone: its id, Name tag or device.", autocompletion=interface_ids),
    ] = None,
    sort: Annotated[str, typer.Option(help="packets or bytes.")] = "bytes",
    limit: Annotated[
        int | None, typer.Option(help="Flows shown.", min=1, max=10_000, show_default="a screenful")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=60)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Two looks, one table, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for each look.")] = False,
) -> None:
    """Show flows and rates of each ENI, live. Reads what runs without disturbing it; needs the agent's own user.

    What the host's own firewall drops is ACCEPT here until the next drain, ten seconds at most, makes it REJECT.
    """
    if sort not in ("packets", "bytes"):
        raise InputError(f"{sort!r} is nothing to sort by", "packets or bytes")
    from vnotch.cli.local_agents import local_agents

    watch = Watch(local_agents(folders_of(data_dir), agent), Names(folders_of(data_dir)), interface, sort)
    if as_json:
        _print_json(watch, interval, limit or 100, once)
    elif once or not is_terminal():
        watch.look(1)
        pause(interval)
        out.print(watch.look(limit or 20).shown(out.width))
    else:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(watch.look(limit or max(5, out.height - 12)).shown(out.width), refresh=True)
                pause(interval)


def _print_json(watch: Watch, interval: float, limit: int, once: bool) -> None:
    watch.look(1)
    while True:
        pause(interval)
        sys.stdout.write(json.dumps(watch.look(limit).to_json()) + "\n")
        sys.stdout.flush()
        if once:
            return


class Names:
    """Name tags of interfaces, where the server tells them; nothing here depends on that."""

    def __init__(self, folders: Folders, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folders = folders
        self._monotonic = monotonic
        self._due = 0.0
        self._names: dict[str, str] = {}

    def __call__(self) -> Mapping[str, str]:
        if self._monotonic() >= self._due:
            self._due = self._monotonic() + NAMES_SECONDS
            try:
                endpoint = Endpoint.find(self._folders)
                if endpoint.is_up():
                    self._names = endpoint.interface_names()
            except Exception:  # a view of what runs here goes on without names, whatever the server has
                return self._names
        return self._names


class Watch:
    """One look after the other at all agents."""

    def __init__(
        self, agents: Sequence[LocalAgent], names: Callable[[], Mapping[str, str]], interface: str | None, sort: str
    ) -> None:
        from vnotch.cli.rates import Meter

        self._agents = {agent.name: (agent, Meter()) for agent in agents}
        self._names = names
        self._interface = interface
        self._sort = sort

    def look(self, limit: int) -> Look:
        """Raises HostError where no agent answers."""
        from vnotch.cli.local_agents import ask_all

        names = self._names()
        wanted = next((eni for eni, name in names.items() if name == self._interface), self._interface)
        found = []
        for name, (agent, meter) in self._agents.items():
            if len(self._agents) == 1:
                answers = ask_all([agent], {"view": "flows", "since": meter.since})
            else:
                answers = _running(agent, meter.since)
            for _, answer in answers:
                rates = meter.rates(answer, sort=self._sort, limit=limit, interface=wanted)
                found.append((name, rates))
        if not found:
            ask_all([agent for agent, _ in self._agents.values()], {"view": "flows", "since": 0})
        look = Look(found, names, self._sort, limit)
        if wanted is not None and not look.interfaces:
            raise InputError(f"no agent here captures {self._interface}", "vnotch status lists the ENIs of this host")
        return look


def _running(agent: LocalAgent, since: int) -> list[tuple[LocalAgent, Any]]:
    from vnotch.agent.asking import NotRunning

    try:
        return [(agent, agent.ask({"view": "flows", "since": since}))]
    except NotRunning:
        return []


class Look:
    """What one look at all agents found, to be shown."""

    def __init__(self, found: Sequence[tuple[str, Rates]], names: Mapping[str, str], sort: str, limit: int) -> None:
        self._names = names
        self.found = found
        self.interfaces = [(rates.seconds, item) for _, rates in found for item in rates.interfaces]
        flows = [(rates.seconds, item) for _, rates in found for item in rates.flows]
        self.flows = sorted(flows, key=lambda item: getattr(item[1], sort), reverse=True)[:limit]
        self.flows_all = sum(rates.flows_all for _, rates in found)
        self.omitted = sum(rates.omitted for _, rates in found)

    def to_json(self) -> dict[str, Any]:
        """Rates are of a second; null at the first look at an agent."""

        def members(seconds: float | None, item: FlowRate | InterfaceRate) -> dict[str, Any]:
            document = {"name": self._names.get(item.interface_id), **asdict(item)}
            for key in [key for key in document if key.endswith(("packets", "bytes")) and "window" not in key]:
                count = document.pop(key)
                document[f"{key}_per_second"] = round(count / seconds, 3) if seconds else None
            return document

        return {
            "time": time.time(),
            "interfaces": [members(*item) for item in self.interfaces],
            "flows": [members(*item) for item in self.flows],
            "flows_all": self.flows_all,
            "flows_left_out": self.omitted,
        }

    def shown(self, width: int) -> Group:
        parts: list[Any] = [self._interfaces_table(), self._flows_table(width)]
        more = self.flows_all - len(self.flows)
        if more > 0:
            parts.append(Text(f"and {more:,} more", style="dim"))
        if self.omitted:
            parts.append(Text(f"{self.omitted:,} smaller flows were left out by the agent", style="yellow"))
        return Group(*parts)

    def _interfaces_table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("ENI", overflow="fold")
        table.add_column("device")
        for column in ("flows", "in", "out", "accept/s", "reject/s", "excluded/s"):
            table.add_column(column, justify="right")
        for seconds, item in self.interfaces:
            rejects = rate(item.reject_packets, seconds)
            table.add_row(
                literal(named(item.interface_id, self._names)),
                literal(item.device),
                f"{item.flows:,}",
                bits(item.ingress_bytes, seconds),
                bits(item.egress_bytes, seconds),
                rate(item.accept_packets, seconds),
                Text(rejects, style=STYLES["REJECT"] if item.reject_packets else ""),
                rate(item.excluded_packets, seconds),
            )
        return table

    def _flows_table(self, width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        wide = width >= WIDE
        table.add_column("ENI", overflow="ellipsis", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("action", no_wrap=True)
        if wide:
            table.add_column("rule", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("from", overflow="fold")
        table.add_column("to", overflow="fold")
        table.add_column("packets/s", justify="right", no_wrap=True)
        table.add_column("bit/s", justify="right", no_wrap=True)
        if wide:
            table.add_column("packets", justify="right", no_wrap=True)
            table.add_column("bytes", justify="right", no_wrap=True)
        for seconds, item in self.flows:
            rule = [item.rule_layer if item.rule_id == "-" else item.rule_id] if wide else []
            window = [f"{item.window_packets:,}", f"{item.window_bytes:,}"] if wide else []
            table.add_row(
                literal(self._names.get(item.interface_id, item.interface_id)),
                "in" if item.direction == "ingress" else "out",
                Text(item.action, style=STYLES[item.action]),
                *rule,
                item.protocol,
                literal(end(item.srcaddr, item.srcport, item.protocol)),
                literal(end(item.dstaddr, item.dstport, item.protocol)),
                rate(item.packets, seconds),
                bits(item.bytes, seconds),
                *window,
            )
        return table


def named(interface_id: str, names: Mapping[str, str]) -> str:
    return f"{names[interface_id]} ({interface_id})" if interface_id in names else interface_id


def end(address: str, port: int, protocol: str) -> str:
    """An address with its port, where the protocol has ports (RFC 3986 for IPv6: brackets)."""
    if protocol not in ("tcp", "udp", "sctp"):
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def rate(count: int, seconds: float | None) -> str:
    """Of a second, for people: `-` where no time is known; `0` is nothing at all, `<1` is something."""
    if not seconds:
        return "-"
    value = count / seconds
    return "<1" if 0 < value < 0.5 else f"{value:,.0f}"


def bits(size: int, seconds: float | None) -> str:
    """Bytes as bits of a second, in powers of ten as networks count."""
    if not seconds:
        return "-"
    value = size * 8 / seconds
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:,.0f} {unit}".rstrip() if unit == "" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} T"
