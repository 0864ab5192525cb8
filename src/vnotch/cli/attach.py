"""`vnotch attach` and `vnotch detach`: an interface that is there already becomes an ENI, and is one no more.

What they work with is imported when they work, so that every other command starts without it.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from vnotch.cli.destination import BucketFiles, FileFormat, Hive, PerHour, To, destination_words
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import out, plain, step
from vnotch.errors import HostError, InputError

if TYPE_CHECKING:
    from vnotch.cli.enrolment import Enrolled, Enrolment
    from vnotch.cli.site import Site
    from vnotch.links import Addresses, Host, Link, Sense

TRIAL_SECONDS = 60
"""How long enforcement lasts where it may cut off who asked for it, unless it is confirmed."""

AgentName = Annotated[
    str | None,
    typer.Option("--agent", help="The agent of this host.", show_default="this host's name, or the only one"),
]


@dataclass(frozen=True)
class Choice:
    """An interface of the host as it could be attached. `why_not`: why its address is not known."""

    link: Link
    sense: Sense
    addresses: Addresses | None
    why_not: str | None
    interface_id: str | None  # where it is attached already


def attach(
    interface: Annotated[
        str | None, typer.Argument(metavar="IFACE", help="Its name; without one what could be attached is listed.")
    ] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    agent: AgentName = None,
    subnet: Annotated[str | None, typer.Option(help="Join this subnet.", show_default="one of its network")] = None,
    security_group: Annotated[
        list[str] | None,
        typer.Option(
            help="Its security group; may be repeated.",
            show_default="one that lets everything through; in a --subnet of yours its VPC's default group",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its Name tag.", show_default="that of the interface")] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="A/B", help="Address and prefix of the ENI.", show_default="found on this host"),
    ] = None,
    sense: Annotated[
        str | None,
        typer.Option(help="inside: it is the ENI; outside: it leads to it.", show_default="by its kind and use"),
    ] = None,
    new_vpc: Annotated[bool, typer.Option("--new-vpc", help="Make a VPC also where another one overlaps it.")] = False,
    traffic_type: Annotated[str, typer.Option(help="ALL, ACCEPT or REJECT.")] = "ALL",
    interval: Annotated[int, typer.Option(help="Aggregation interval in seconds, 60 or 600.")] = 60,
    log_group: Annotated[
        str | None, typer.Option(help="Where its records go.", show_default="/vnotch/ and the agent's name")
    ] = None,
    to: To = None,
    file_format: FileFormat = None,
    hive: Hive = False,
    per_hour: PerHour = False,
    no_flow_log: Annotated[bool, typer.Option("--no-flow-log", help="Make no flow log.")] = False,
    enforce: Annotated[
        bool | None,
        typer.Option("--enforce/--observe", help="Drop what its groups and ACL reject.", show_default="--observe"),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help=f"Enforce also where it may cut you off: for {TRIAL_SECONDS} s, unless confirmed."
        ),
    ] = False,
    confirm: Annotated[bool, typer.Option("--confirm", help="Keep the enforcement that was begun with --yes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make an interface of this host an ENI: its traffic is recorded from now on. Nothing is dropped."""
    from vnotch.cli.enrolment import Enrolment, Wanted
    from vnotch.cli.site import Site, dangers
    from vnotch.links import Host

    folders = folders_of(data_dir)
    endpoint = Endpoint.await_up(folders, endpoint_url)
    site = Site.await_running(folders, endpoint, agent)
    enrolment = Enrolment(endpoint, site.agent)
    place = "" if folders.root == folders_of(None).root else f" --data-dir {shlex.quote(str(folders.root))}"
    files = BucketFiles.of(to, file_format, hive, per_hour, {"--log-group": log_group, "--no-flow-log": no_flow_log})
    if sense not in (None, "inside", "outside"):
        raise InputError(f"--sense {sense}", "inside or outside")
    with site.namespace() as namespace:
        host, bound = Host.read(namespace), _by_name_now(site, enrolment.bound())
        link = _link(host, bound, interface, as_json)
        if link is None:
            return
        device = interface or link.name
        how = _How(sense, given_address(address) if address else None)
        risks = dangers(host, link, namespace, endpoint.url) if enforce else []
    if risks and not yes:
        raise InputError(
            f"{device} carries {' and '.join(risks)}: enforcement may cut you off",
            f"with --yes it is enforced for {TRIAL_SECONDS} s, and longer once you give --confirm",
        )
    if device in bound:
        given: dict[str, object] = {"--subnet": subnet, "--security-group": security_group, "--name": name}
        given |= {"--address": address, "--sense": sense, "--log-group": log_group}
        given |= {"--to": to, "--new-vpc": new_vpc, "--no-flow-log": no_flow_log}
        _refuse_other(device, bound[device], [option for option, value in given.items() if value])
        changed = _change(enrolment, bound[device], device, enforce, bool(risks), confirm)
        _show(enrolment, enrolment.read(bound[device]), device, None, place, as_json, changed=changed)
        return
    if confirm:
        raise InputError(f"{device} is not attached", f"vnotch attach {device} --enforce --yes")
    choice = _choice(host, link, how, bound)
    if choice.addresses is None:
        raise InputError(*_parts(choice.why_not))
    wanted = Wanted(
        name=name or device,
        subnet_id=subnet,
        group_ids=tuple(security_group or ()),
        new_vpc=new_vpc,
        flow_log=not no_flow_log,
        traffic_type=traffic_type,
        interval_seconds=interval,
        log_group=log_group,
        files=files,
    )
    members = {
        "device": device,
        "sense": choice.sense.sense,
        "guest_mac": choice.addresses.mac,
        **_enforcement(bool(enforce), bool(risks)),
    }
    enrolled = enrolment.enrol(wanted, choice.addresses, members)
    _show(enrolment, enrolled, device, choice, place, as_json)


def detach(
    interfaces: Annotated[list[str] | None, typer.Argument(metavar="IFACE|ENI|NAME", help="What was attached.")] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    agent: AgentName = None,
    everything: Annotated[bool, typer.Option("--all", help="All that `vnotch attach` has attached here.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """End the capture of interfaces, and remove what `vnotch attach` made for them. Their records stay."""
    from vnotch.cli.enrolment import Enrolment
    from vnotch.cli.site import Site

    folders = folders_of(data_dir)
    endpoint = Endpoint.find(folders, endpoint_url).require_up()
    site = Site.find(folders, endpoint, agent)
    enrolment = Enrolment(endpoint, site.agent)
    bound = _by_name_now(site, enrolment.bound())
    if bool(interfaces) == everything:
        there = ", ".join(sorted(bound)) or "nothing is attached"
        raise InputError("name what to detach, or give --all", f"attached here: {there}")
    if everything:
        targets = {device: found for device, found in sorted(bound.items()) if enrolment.read(found).ours}
    else:
        targets = dict(_target(enrolment, bound, given) for given in dict.fromkeys(interfaces or ()))
    if not site.runs:
        step(
            f"agent {site.agent} does not run: its programs at the interface go when it starts again, and what it has "
            "not delivered is dropped"
        )
    report: list[dict[str, Any]] = []
    for device, interface_id in targets.items():
        groups = sorted({destination_words(row) for row in enrolment.read(interface_id).flow_logs})
        step(f"detaching {device} ({interface_id}); its last records are delivered first")
        removed = enrolment.remove(interface_id, site.runs)
        report.append({"device": device, "interface_id": interface_id, "removed": removed, "log_groups": groups})
    if everything and (swept := enrolment.sweep()):
        report.append({"device": None, "interface_id": None, "removed": swept, "log_groups": []})
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    if not report:
        out.print("Nothing is attached here.")
    for item in report:
        what = (
            f"{item['device']} is attached no more." if item["device"] else "An attach that was killed had left more."
        )
        out.print(f"{what} Removed:")
        for line in item["removed"]:
            out.print(f"  {line}")
        if item["log_groups"]:
            out.print(f"Records stay in {', '.join(item['log_groups'])}.")


# ---- Which -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _How:
    """What the caller says of the interface himself."""

    sense: str | None = None
    address: IPv4Interface | None = None


def given_address(text: str) -> IPv4Interface:
    """`A/B`. Raises InputError."""
    try:
        address = IPv4Interface(text)
    except ValueError:
        raise InputError(f"--address {text}", "an IPv4 address with its prefix length, such as 192.0.2.10/24") from None
    if "/" not in text:
        raise InputError(f"--address {text} has no prefix length", f"such as {text}/24")
    return address


def _choice(host: Host, link: Link, how: _How, bound: dict[str, str]) -> Choice:
    from vnotch.links import Addresses, Sense

    sense = host.sense_of(link)
    if how.sense and how.sense != sense.sense:
        sense = Sense(how.sense, "as you say")
    addresses, why_not = None, None
    try:
        if how.address and link.kind != "loopback":
            addresses = Addresses(how.address, source="as you say")
        else:
            addresses = host.addresses_of(link, sense.sense)
    except InputError as error:
        why_not = f"{error.message}\n{error.remedy or ''}"
    return Choice(link, sense, addresses, why_not, bound.get(link.name))


def _parts(text: str | None) -> tuple[str, str | None]:
    message, _, remedy = (text or "").partition("\n")
    return message, remedy or None


def _link(host: Host, bound: dict[str, str], name: str | None, as_json: bool) -> Link | None:
    """The interface that is named; without a name the only one that makes sense, else what there is is shown. One that
    is attached and not there (any more) stands as it was named."""
    from vnotch.links import Link

    if name is not None:
        if name in bound and all(link.name != name for link in host.links):
            return Link(0, name, "absent", False)
        return host.link(name)
    choices = [_choice(host, link, _How(), bound) for link in host.links if link.kind != "loopback"]
    up = [choice for choice in choices if choice.link.is_up]
    if len(up) == 1 and up[0].addresses:
        if up[0].interface_id is None:
            step(f"{up[0].link.name} is the only interface here that is up")
        return up[0].link
    if as_json:
        sys.stdout.write(json.dumps([_choice_json(choice) for choice in choices], indent=2) + "\n")
        return None
    if not choices:
        raise InputError("this namespace has no interface but the loopback", None)
    _show_choices(choices)
    return None


def _choice_json(choice: Choice) -> dict[str, Any]:
    return {
        "device": choice.link.name,
        "kind": choice.link.kind,
        "up": choice.link.is_up,
        "address": str(choice.addresses.primary) if choice.addresses else None,
        "why_not": _parts(choice.why_not)[0] or None,
        **asdict(choice.sense),
        "interface_id": choice.interface_id,
    }


def _show_choices(choices: Sequence[Choice]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("interface", "kind", "state", "address", "sense", "attached as"):
        table.add_column(column)
    for choice in choices:
        known = str(choice.addresses.primary) if choice.addresses else "give --address"
        state = "up" if choice.link.is_up else "down"
        table.add_row(choice.link.name, choice.link.kind, state, known, choice.sense.sense, choice.interface_id or "")
    out.print(table)
    out.print("Attach one with: vnotch attach IFACE")


def _by_name_now(site: Site, bound: dict[str, str]) -> dict[str, str]:
    """Device -> interface id, by the names that the devices have now, where the agent knows them."""
    return {site.devices.get(interface_id, device): interface_id for device, interface_id in bound.items()}


def _target(enrolment: Enrolment, bound: dict[str, str], given: str) -> tuple[str, str]:
    """(device, interface id) of what the caller names. Raises InputError."""
    interface_id = bound.get(given) or enrolment.named(given)
    if interface_id is None:
        there = ", ".join(sorted(bound)) or "nothing"
        raise InputError(f"{given} is not attached by agent {enrolment.agent}", f"attached here: {there}")
    return next(device for device, found in bound.items() if found == interface_id), interface_id


def _refuse_other(device: str, interface_id: str, given: Sequence[str]) -> None:
    if given:
        raise InputError(
            f"{device} is attached already, as {interface_id}: {', '.join(given)} would change it",
            f"first: vnotch detach {device}",
        )


# ---- Enforcement -----------------------------------------------------------------------------------------------------


def _enforcement(enforce: bool, on_trial: bool) -> dict[str, Any]:
    return {"enforce": enforce, "enforce_seconds": TRIAL_SECONDS if enforce and on_trial else None}


def _change(
    enrolment: Enrolment, interface_id: str, device: str, enforce: bool | None, on_trial: bool, confirm: bool
) -> bool:
    """Begins, keeps or ends the enforcement of an interface that is attached; -> whether something changed."""
    binding = enrolment.binding(interface_id)
    if confirm:
        if not binding["enforce"]:
            ended = "its trial has ended, so " if binding["enforce_until_ms"] else ""
            raise HostError(f"{ended}{device} only observes", f"begin: vnotch attach {device} --enforce --yes")
        if binding["enforce_until_ms"] is None:
            return False
        members = _enforcement(True, on_trial=False)
    elif enforce is None or (enforce == binding["enforce"] and not (enforce and binding["enforce_until_ms"])):
        return False
    else:
        members = _enforcement(enforce, on_trial)
    told = ("interface_id", "agent", "state", "message", "mode", "enforce_until_ms")
    kept = {member: value for member, value in binding.items() if member not in told}
    enrolment.bind(interface_id, {**kept, **members})
    enrolment.wait_attached(interface_id, device)
    return True


# ---- Showing ---------------------------------------------------------------------------------------------------------


def _show(
    enrolment: Enrolment,
    enrolled: Enrolled,
    device: str,
    choice: Choice | None,
    place: str,
    as_json: bool,
    changed: bool = True,
) -> None:
    """`place`: the option that the commands shown need beside, to find the server."""
    binding = enrolment.binding(enrolled.interface_id)
    flow_log = next(iter(enrolled.flow_logs), None)
    group = flow_log.get("LogGroupName") if flow_log else None
    tail = f"vnotch tail {group} --stream-prefix {enrolled.interface_id}{place}" if group else None
    if as_json:
        document = {
            **{
                name: binding[name] for name in ("interface_id", "agent", "device", "sense", "state", "message", "mode")
            },
            **{name: binding[name] for name in ("enforce", "enforce_until_ms")},
            "name": enrolled.name,
            "addresses": enrolled.addresses,
            "subnet_id": enrolled.subnet_id,
            "vpc_id": enrolled.vpc_id,
            "security_group_ids": enrolled.group_ids,
            "flow_log_ids": [row["FlowLogId"] for row in enrolled.flow_logs],
            "log_group_name": group,
            "log_destination": flow_log.get("LogDestination") if flow_log else None,
            "made": enrolled.made,
            "changed": changed,
            "tail": tail,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    if choice is not None:
        out.print(f"{device} is {enrolled.interface_id} now, seen from {choice.sense.sense}: {choice.sense.reason}.")
        source = choice.addresses.source if choice.addresses else ""
        out.print(f"Its address is {', '.join(enrolled.addresses)} ({source}). Made for it:")
        for line in enrolled.made:
            out.print(f"  {line}")
    else:
        already = "" if changed else ", attached already; nothing was changed"
        known = ", ".join(enrolled.addresses)
        out.print(f"{device} is {enrolled.interface_id}, {known}, seen from {binding['sense']}{already}.")
        for row in enrolled.flow_logs:
            every = f"{row['MaxAggregationInterval']} s"
            words = (row["FlowLogId"], row["TrafficType"], every, destination_words(row))
            out.print(f"  flow log {plain(' '.join(words))}")
    if binding["state"] != "attached" or binding["message"]:
        out.print(plain(f"It is {binding['state']}: {binding['message'] or 'the agent has not said more yet'}"))
    out.print(_enforces(binding, device, place))
    if tail:
        out.print(f"Records: {tail}")
    out.print(f"The end: vnotch detach {device}{place}")


def _enforces(binding: dict[str, Any], device: str, place: str) -> str:
    if not binding["enforce"]:
        return "It observes: nothing is dropped."
    if binding["enforce_until_ms"] is None:
        return "It enforces: what its security groups and network ACL reject is dropped."
    left = max(0, round(binding["enforce_until_ms"] / 1000 - time.time()))
    return f"It enforces for {left} s more, unless you keep it so: vnotch attach {device} --confirm{place}"
