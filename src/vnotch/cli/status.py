"""`vnotch status`: what is captured here, whether every packet is accounted for, and whether it is delivered.

Two sides know: the agent (its `status.json`, which its owner may read) and the server (the status that the agent posted
last). Either may be down, and what is shown says from whom it is and how old.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import AgentName, DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import counted, literal, out, plain
from vnotch.config import Folders
from vnotch.errors import HostError, VnotchError

if TYPE_CHECKING:
    from vnotch.cli.summary import Account

SILENT_SECONDS = 60.0
"""An agent posts its status at each tick, so every ten seconds at the latest."""
BINDINGS_MAX = 500
"""Interfaces whose binding the server is asked for one by one, where the agent's own folder is not to be read."""

STATE_STYLES = {"attached": "green", "absent": "yellow", "failed": "bold red", "pending": "yellow"}


@dataclass
class ServerSide:
    """What the server answers; `error` says why it does not."""

    url: str | None = None
    error: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    flow_logs: list[dict[str, Any]] = field(default_factory=list)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)  # agent -> its last status
    bindings: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class AgentSide:
    """What is found in an agent's folder. `running` is None where that is not to be seen; `error` says why not."""

    name: str
    running: bool | None = None
    status: dict[str, Any] | None = None
    interfaces: dict[str, dict[str, Any]] = field(default_factory=dict)  # of its configuration
    error: str | None = None


def status(
    data_dir: DataDir = None, endpoint_url: EndpointUrl = None, agent: AgentName = None, as_json: Json = False
) -> None:
    """Show the ENIs of this host, their ledger, spool and deliveries. Works with the server or the agent down."""
    folders = folders_of(data_dir)
    agents = local_side(folders, agent)
    names = [agent] if agent else [item.name for item in agents]
    server = server_side(folders, endpoint_url, names)
    if server.error is not None and not agents:
        raise HostError(server.error, "start one with `vnotch up`, or name its data folder with --data-dir")
    document = combined(agents, server, time.time())
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        out.print(shown(document))


# Asking


def local_side(folders: Folders, name: str | None) -> list[AgentSide]:
    from vnotch.agent.asking import NotRunning, NotYours, ask
    from vnotch.cli.local_agents import local_agents, sudo

    try:
        found = local_agents(folders, name)
    except HostError as error:
        return [AgentSide(name, error=error.message)] if name else []
    sides = []
    for agent in found:
        side = AgentSide(agent.name)
        try:
            side.status = json.loads((agent.folder / "status.json").read_text())
            configuration = json.loads((agent.folder / "configuration.json").read_text())
            side.interfaces = {item["interface_id"]: item for item in configuration["interfaces"]}
        except FileNotFoundError:
            pass
        except PermissionError:
            side.error = f"its folder is readable by its owner alone: {sudo()}"
        except (ValueError, KeyError, TypeError) as error:
            side.error = f"{agent.folder}: {error}"
        try:
            ask(agent.folder, {"view": "alive"}, timeout_seconds=2)
            side.running = True
        except NotRunning:
            side.running = False
        except NotYours:
            side.running = None
        except VnotchError:
            side.running = True  # it answers, if not what was hoped for
        sides.append(side)
    return sides


def server_side(folders: Folders, url: str | None, agents: Iterable[str]) -> ServerSide:
    from botocore.exceptions import BotoCoreError, ClientError

    side = ServerSide()
    try:
        endpoint = Endpoint.find(folders, url)
        side.url = endpoint.url
        endpoint.require_up()
        side.names = endpoint.interface_names()
        pages = endpoint.client("ec2").get_paginator("describe_flow_logs").paginate()
        side.flow_logs = [row for page in pages for row in page["FlowLogs"]]
        for name in agents:
            found = endpoint.agent_status(name)
            if found is None:
                continue
            side.statuses[name] = found
            for item in found.get("interfaces", [])[:BINDINGS_MAX]:
                path = f"/vnotch/v1/network-interfaces/{item['interface_id']}/binding"
                side.bindings[item["interface_id"]] = endpoint.request("GET", path)
    except (VnotchError, BotoCoreError, ClientError) as error:
        side.error = error.message if isinstance(error, VnotchError) else str(error)
    return side


# Combining


def combined(agents: Iterable[AgentSide], server: ServerSide, now_s: float) -> dict[str, Any]:
    """Both sides as one document; the agent's own status before the one that it posted."""
    failing = {item["FlowLogId"] for item in server.flow_logs if item["DeliverLogsStatus"] != "SUCCESS"}
    return {
        "server": {"url": server.url, "answers": server.error is None, "error": server.error},
        "agents": [_agent(item, server, now_s) for item in agents],
        "flow_logs": [
            {
                "flow_log_id": item["FlowLogId"],
                "resource_id": item["ResourceId"],
                "log_group": item.get("LogGroupName"),
                "log_destination": item.get("LogDestination"),
                "status": item["DeliverLogsStatus"],
                "message": item.get("DeliverLogsErrorMessage"),
            }
            for item in server.flow_logs
        ],
        "failing_flow_logs": sorted(failing),
    }


def _agent(agent: AgentSide, server: ServerSide, now_s: float) -> dict[str, Any]:
    posted = server.statuses.get(agent.name)
    heard_s = posted["received_ms"] / 1000 if posted and posted.get("received_ms") else None
    status, source = (agent.status, "agent") if agent.status else (posted, "server" if posted else None)
    found: dict[str, Any] = {
        "name": agent.name,
        "running": agent.running,
        "source": source,
        "error": agent.error,
        "server_heard_seconds_ago": round(now_s - heard_s, 1) if heard_s else None,
        "age_seconds": None,
        "interfaces": [],
        "maps": {},
        "spool": {},
        "uploads": {},
        "capture": {},
        "host_firewall": {},
        "deliveries": [],
        "errors": {},
    }
    if not status or "agent" not in status:
        return found
    known = {**server.bindings, **agent.interfaces}
    from vnotch.cli.summary import accounts

    books = accounts(status["ledger"])
    found["age_seconds"] = round(now_s - status["agent"]["time_ns"] / 1e9, 1)
    found["interfaces"] = [
        _interface(item, known.get(item["interface_id"], {}), books, server.names) for item in status["interfaces"]
    ]
    spool = status["spool"]
    oldest_s = spool.get("oldest_s")
    found["spool"] = {**spool, "lag_seconds": round(now_s - oldest_s, 1) if oldest_s else None}
    found["uploads"] = status.get("uploads", {})
    found["maps"], found["capture"] = status.get("maps", {}), status["capture"]
    found["host_firewall"] = status.get("host_firewall", {})
    found["errors"] = {name: text for name, text in status["errors"].items() if text}
    statuses = {item["flow_log_id"]: item for item in status["flow_logs"]}
    found["deliveries"] = [
        {"flow_log_id": name, **delivery, **{k: v for k, v in statuses.get(name, {}).items() if k == "status"}}
        for name, delivery in sorted(status["deliveries"].items())
    ]
    return found


def _interface(
    item: Mapping[str, Any], known: Mapping[str, Any], books: Mapping[str, Account], names: Mapping[str, str]
) -> dict[str, Any]:
    interface_id = item["interface_id"]
    from vnotch.cli.summary import Account

    account = books.get(interface_id, Account())
    return {
        "interface_id": interface_id,
        "name": names.get(interface_id),
        "state": item["state"],
        "message": item.get("message"),
        "mode": item.get("mode"),
        "device": known.get("device"),
        "sense": known.get("sense"),
        "enforce": known.get("enforce"),
        "group_ids": known.get("group_ids"),
        "ledger": {
            "seen": account.seen,
            "accept": account.accept,
            "reject": account.reject,
            "excluded": dict(account.excluded),
            "lost": account.lost,
            # Seen by the kernel and in its map still: the next drain books it.
            "in_map": max(0, account.seen - account.booked),
            "exact": account.seen == account.booked,
            "wrong": account.seen < account.booked,
        },
    }


# Showing


def shown(document: Mapping[str, Any]) -> Group:
    server = document["server"]
    parts: list[Any] = []
    if server["answers"]:
        parts.append(Text(f"server answers at {server['url']}", style="green"))
    else:
        parts.append(Text(f"server: {server['error']}", style="yellow"))
    for agent in document["agents"]:
        parts += [Text(""), *_agent_parts(agent)]
    if not document["agents"]:
        parts.append(Text("no agent has a folder here; --agent NAME asks the server for one", style="yellow"))
    failing = [item for item in document["flow_logs"] if item["status"] != "SUCCESS"]
    if document["flow_logs"]:
        made = counted(len(document["flow_logs"]), "flow log")
        parts += [Text(""), Text(f"{made} at the server, {len(failing)} failing")]
    for item in failing:
        parts.append(Text(f"  {item['flow_log_id']} on {item['resource_id']}: {item['message']}", style="bold red"))
    return Group(*parts)


def _agent_parts(agent: Mapping[str, Any]) -> list[Any]:
    parts: list[Any] = [_headline(agent)]
    if agent["error"]:
        parts.append(Text(f"  {plain(agent['error'])}", style="yellow"))
    for name, text in agent["errors"].items():
        parts.append(Text(f"  {name}: {plain(str(text))}", style="bold red"))
    if agent["source"] is None:
        return parts
    if agent["interfaces"]:
        parts += [_interfaces_table(agent["interfaces"]), _ledger_table(agent["interfaces"])]
    else:
        parts.append(Text("nothing is captured: vnotch attach shows what could be"))
    parts += [Text(line) for line in (*_table_lines(agent["maps"]), *_spool_lines(agent["spool"], agent["uploads"]))]
    parts += [Text(f"  {line}", style="yellow") for line in refused_lines(agent)]
    parts += [_delivery_line(delivery) for delivery in agent["deliveries"]]
    return parts


def _headline(agent: Mapping[str, Any]) -> Text:
    running = {True: "runs", False: "does not run", None: "is somebody else's"}[agent["running"]]
    text = Text(f"agent {agent['name']} {running}", style="green" if agent["running"] else "yellow")
    if agent["source"]:
        said = "its own" if agent["source"] == "agent" else "what it told the server"
        text.append(f"; {said}, {duration(agent['age_seconds'])} ago", style="default")
    heard = agent["server_heard_seconds_ago"]
    if heard is not None and heard > SILENT_SECONDS:
        text.append(f"; the server has not heard from it for {duration(heard)}", style="bold red")
    return text


def _interfaces_table(interfaces: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("ENI", "name", "state", "device", "seen from", "verdicts", "groups"):
        table.add_column(column, overflow="fold")
    for item in interfaces:
        state = f"{item['state']} ({item['mode']})" if item["mode"] else item["state"]
        if item["message"]:
            state += f": {item['message']}"
        enforce = {True: "enforced", False: "observed", None: "-"}[item["enforce"]]
        table.add_row(
            item["interface_id"],
            literal(item["name"] or ""),
            Text(plain(state), style=STATE_STYLES.get(item["state"], "")),
            literal(item["device"] or "-"),
            item["sense"] or "-",
            Text(enforce, style="bold" if item["enforce"] else ""),
            ", ".join(item["group_ids"] or ()) or "-",
        )
    return table


def _ledger_table(interfaces: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(
        title="Ledger, packets: seen = accept + reject + excluded + lost + in the map now",
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("ENI", overflow="fold")
    for column in ("seen", "accept", "reject", "excluded", "lost", "in the map"):
        table.add_column(column, justify="right")
    table.add_column("")
    for item in interfaces:
        ledger = item["ledger"]
        excluded = sum(ledger["excluded"].values())
        counts = (ledger["seen"], ledger["accept"], ledger["reject"], excluded, ledger["lost"], ledger["in_map"])
        table.add_row(
            literal(item["name"] or item["interface_id"]),
            *(f"{count:,}" for count in counts),
            "[bold red]WRONG[/]" if ledger["wrong"] else "[green]exact[/]" if ledger["exact"] else "counting",
        )
    return table


def _table_lines(maps: Mapping[str, Any]) -> list[str]:
    if not maps.get("memory_bytes"):
        return []
    flows, flows_max = maps["flows_in_last_drain"], maps["flows_max"]
    connections, connections_max = maps["connections"], maps["connections_max"]
    return [
        f"kernel maps {maps['memory_bytes'] / 1e6:.1f} MB; flows in the last drain {flows:,} of {flows_max:,}"
        f" ({flows / flows_max:.0%}); connections {connections:,} of {connections_max:,}"
        f" ({connections / connections_max:.0%})"
    ]


def _spool_lines(spool: Mapping[str, Any], uploads: Mapping[str, Any]) -> list[str]:
    if not spool:
        return []
    gathering, files = spool.get("gathering", 0), uploads.get("files", 0)
    if not spool["batches"] and not files:
        return ["spool empty: everything is delivered"]
    lines = []
    if spool["batches"]:
        of_these = f"; gathering for the next files of buckets: {gathering:,}" if gathering else ""
        batches = counted(spool["batches"], "batch")
        lines.append(
            f"spool {batches}, {spool['bytes'] / 1e6:.1f} of {spool['bytes_max'] / 1e6:,.0f} MB, "
            f"the oldest {duration(spool['lag_seconds'])} old{of_these}"
        )
    if files:
        lines.append(f"{counted(files, 'file')} on the way to buckets, {uploads['bytes'] / 1e6:.1f} MB")
    return lines


COUNTERS = {
    "connections_full": ("packet", "judged while the table of connections was full"),
    "fragments_full": ("first fragment", "that found no room: their followers have no ports"),
    "spilled": ("packet", "that went through the ring buffer, since the flow map was full (none is lost by that)"),
    "unknown_interface": ("packet", "of interfaces without a slot, passed and not captured"),
}
"""`maps.counts` in words: what is counted, and what became of it."""


def refused_lines(agent: Mapping[str, Any]) -> list[str]:
    """What was turned away or went wrong, each with its reason; nothing where nothing was."""
    lines = []
    for item in agent["spool"].get("dropped", ()):
        where = f"{item['flow_log_id']} {item['stream']}"
        records, packets = counted(item["events"], "record"), counted(item["packets"], "packet")
        lines.append(f"dropped ({item['reason']}): {records}, {packets} of {where}")
    if agent["spool"].get("damaged_files"):
        lines.append(f"{counted(agent['spool']['damaged_files'], 'damaged file')} of the spool set aside")
    for name, count in agent["maps"].get("counts", {}).items():
        if count:
            noun, rest = COUNTERS.get(name, ("time", name.replace("_", " ")))
            lines.append(f"{counted(count, noun)} {rest}")
    capture = agent["capture"]
    for name, noun, rest in (
        ("journal_failures", "drain", "that the journal could not take"),
        ("journal_damaged", "damaged file", "of the journal set aside"),
        ("unclaimed_packets", "packet", "under a slot that stands for no interface"),
        ("peers_omitted", "interface", "of the VPC in no next-hop field"),
    ):
        if capture.get(name):
            lines.append(f"{counted(capture[name], noun)} {rest}")
    firewall = agent["host_firewall"]
    if firewall.get("message"):
        lines.append(f"the host firewall's verdict is not seen: {firewall['message']}")
    for name, text in (("untold", "in records as ACCEPT"), ("unmatched", "found in no flow")):
        if firewall.get(name):
            lines.append(f"{counted(firewall[name], 'packet')} that the host firewall dropped, {text}")
    for track, late in capture.get("late_packets", {}).items():
        lines.append(f"{counted(late, 'packet')} that came late, in the window after theirs (interval {track} s)")
    for delivery in agent["deliveries"]:
        events = delivery.get("events", {})
        for name in ("too_old", "too_new", "expired", "too_large"):
            if events.get(name):
                records, reason = counted(events[name], "record"), name.replace("_", " ")
                lines.append(f"{records} of {delivery['flow_log_id']} not taken: {reason}")
    return lines


def _delivery_line(delivery: Mapping[str, Any]) -> Text:
    name, batches = delivery["flow_log_id"], counted(delivery["batches"], "batch")
    if delivery["status"] == "SUCCESS":
        return Text(f"{name} delivers: {batches}", style="green")
    reason = f" ({plain(delivery['detail'])})" if delivery.get("detail") else ""
    failures: int = delivery["failures"]
    tries = f"{failures:,} failed {'try' if failures == 1 else 'tries in a row'}"
    return Text(f"{name} {delivery['status']}: {delivery['message']}{reason}; {tries}", style="bold red")


def duration(seconds: float | None) -> str:
    """For people: 5 s, 3 min, 2 h, 4 days."""
    if seconds is None:
        return "some time"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
