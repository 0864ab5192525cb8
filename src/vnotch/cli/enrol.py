"""`vnotch enrol`: marks a subnet so that interfaces with an address in it become ENIs by themselves."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import literal, out, step
from vnotch.errors import InputError

MARK, EVERY_AGENT, GROUPS = "vnotch:enrol", "true", "vnotch:enrol-groups"
"""As vnotch.store.enrolment has them; the server's own modules are not loaded for them."""


def enrol(
    subnet: Annotated[
        str | None,
        typer.Argument(metavar="[SUBNET]", help="Its id or Name tag; without one the marked ones are listed."),
    ] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    agent: Annotated[
        str | None, typer.Option("--agent", help="Only this agent may enrol.", show_default="every agent")
    ] = None,
    security_group: Annotated[
        list[str] | None,
        typer.Option(help="Group of what is enrolled; may be repeated.", show_default="the VPC's default group"),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Take the mark away; what was enrolled stays.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Let interfaces with an address in a subnet become ENIs by themselves: new containers and VMs, without a call."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    ec2 = endpoint.client("ec2")
    if subnet is None:
        if agent or security_group or off:
            raise InputError("no subnet is named", "vnotch enrol SUBNET")
        _list(ec2, as_json)
        return
    found = _subnet(ec2, subnet)
    subnet_id = str(found["SubnetId"])
    if off and (agent or security_group):
        raise InputError("--off takes the mark away, whosever it is", "leave --agent and --security-group out")
    if off:
        ec2.delete_tags(Resources=[subnet_id], Tags=[{"Key": MARK}, {"Key": GROUPS}])
    else:
        tags = {MARK: agent or EVERY_AGENT}
        if security_group:
            _check_groups(ec2, security_group, found)
            tags[GROUPS] = " ".join(security_group)
        else:
            ec2.delete_tags(Resources=[subnet_id], Tags=[{"Key": GROUPS}])
        ec2.create_tags(Resources=[subnet_id], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    if as_json:
        sys.stdout.write(json.dumps(_row(_subnet(ec2, subnet_id)), indent=2) + "\n")
    elif off:
        step(f"{subnet_id} is not marked any more; what was enrolled stays, and is yours to detach")
    else:
        step(f"interfaces with an address in {found['CidrBlock']} become ENIs of {subnet_id}, observed only")
        step(f"which: vnotch aws ec2 describe-network-interfaces --filters Name=subnet-id,Values={subnet_id}")


def _subnet(ec2: Any, name: str) -> dict[str, Any]:
    """Raises InputError where there is none, or several of that name."""
    kind = "subnet-id" if name.startswith("subnet-") else "tag:Name"
    rows = ec2.describe_subnets(Filters=[{"Name": kind, "Values": [name]}])["Subnets"]
    if len(rows) != 1:
        what = "there is no subnet" if not rows else f"{len(rows)} subnets are named"
        raise InputError(f"{what} {name}", "vnotch aws ec2 describe-subnets lists them")
    return dict(rows[0])


def _check_groups(ec2: Any, group_ids: list[str], subnet: dict[str, Any]) -> None:
    wanted = [{"Name": "group-id", "Values": group_ids}, {"Name": "vpc-id", "Values": [subnet["VpcId"]]}]
    known = {row["GroupId"] for row in ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]}
    if missing := [group_id for group_id in group_ids if group_id not in known]:
        raise InputError(f"{subnet['VpcId']} has no security group {', '.join(missing)}", "name one by its id, sg-...")


def _row(subnet: dict[str, Any]) -> dict[str, Any]:
    tags = {tag["Key"]: tag["Value"] for tag in subnet.get("Tags", [])}
    value = tags.get(MARK)
    return {
        "subnet_id": subnet["SubnetId"],
        "cidr": subnet["CidrBlock"],
        "name": tags.get("Name"),
        "enrols": value is not None,
        "agent": None if value in (None, EVERY_AGENT) else value,
        "security_groups": tags.get(GROUPS, "").split(),
    }


def _list(ec2: Any, as_json: bool) -> None:
    pages = ec2.get_paginator("describe_subnets").paginate(Filters=[{"Name": "tag-key", "Values": [MARK]}])
    rows = [_row(subnet) for page in pages for subnet in page["Subnets"]]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    if not rows:
        step("no subnet is marked; vnotch enrol SUBNET marks one")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("subnet", "block", "name", "agents", "security groups"):
        table.add_column(title)
    for row in rows:
        groups = " ".join(row["security_groups"]) or "default"
        table.add_row(
            row["subnet_id"], row["cidr"], literal(row["name"] or ""), literal(row["agent"] or "every"), groups
        )
    out.print(table)
