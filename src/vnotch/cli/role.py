"""`vnotch role create`: the narrowest role by which flow logs deliver to a log group, shown and made."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from vnotch.cli.completion import log_groups
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import out, plain, step

role = typer.Typer(no_args_is_help=True, help="IAM roles for flow logs.")


@role.callback()
def _roles() -> None:
    pass


@role.command()
def create(
    log_group: Annotated[
        list[str],
        typer.Option("--log-group", help="Where it may deliver to; several may be given.", autocompletion=log_groups),
    ],
    name: Annotated[
        str | None, typer.Option(help="The role's name.", show_default="follows from the first log group")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the policies and make nothing.")] = False,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
) -> None:
    """Make the role with the narrowest policies for flow logs that deliver to these log groups, and show them.

    Flow logs of this account and region alone may assume it; it may make the log groups and their streams and write to
    them, and nothing else. A role of that name that is there is brought to exactly this.
    """
    from vnotch.iam.delivery_role import ensure_delivery_role, permissions, role_name_for, trust_policy

    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url)
    account, region = endpoint.account, endpoint.region
    name = name or role_name_for(log_group[0])
    trust, policy = trust_policy(account, region), permissions(account, region, log_group)
    arn = f"arn:aws:iam::{account}:role/{name}"
    if not dry_run:
        iam = endpoint.require_up().client("iam")
        arn = ensure_delivery_role(iam, log_group, account=account, region=region, name=name)
    if as_json:
        document = {"role_arn": arn, "created": not dry_run, "trust_policy": trust, "permissions": policy}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    out.print("[bold]who may assume it[/]")
    out.print(plain(json.dumps(trust, indent=2)), markup=False)
    out.print("[bold]what it may do[/]")
    out.print(plain(json.dumps(policy, indent=2)), markup=False)
    out.print(f"{arn} {'would be made' if dry_run else 'is there'}", markup=False)
    if not dry_run:
        step(f"use it: vnotch flow-logs create RESOURCE --log-group {log_group[0]} --role {arn}")
