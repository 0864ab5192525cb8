"""Words for shell completion: ids and names that the server knows now.

A shell waits for these while a person types. So the server is asked once, shortly; and where there is none, or it is
slow, or refuses, there is nothing to complete and nothing is said: an error message would land in the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from vnotch.cli.endpoint import Endpoint, instance_names
from vnotch.cli.options import folders_of

SECONDS = 1.0
WORDS_MAX = 500


def _words(context: typer.Context, incomplete: str, ask: Callable[[Endpoint], Iterable[str]]) -> list[str]:
    """What begins with `incomplete`, at most WORDS_MAX of it. Raises nothing."""
    try:
        # Callbacks of options do not run while a line is completed: their raw values are here.
        given = context.params.get("data_dir") or os.environ.get("VNOTCH_DATA_DIR")
        endpoint = Endpoint.find(folders_of(Path(given) if given else None), context.params.get("endpoint_url"))
        if not endpoint.is_up():
            return []
        return [word for word in ask(endpoint) if word.startswith(incomplete)][:WORDS_MAX]
    except Exception:  # whatever it is: a shell's line is no place to say it
        return []


def log_groups(context: typer.Context, incomplete: str) -> list[str]:
    def ask(endpoint: Endpoint) -> Iterable[str]:
        found = _client(endpoint, "logs").describe_log_groups(
            **({"logGroupNamePrefix": incomplete} if incomplete else {})
        )
        return [group["logGroupName"] for group in found["logGroups"]]

    return _words(context, incomplete, ask)


def interface_ids(context: typer.Context, incomplete: str) -> list[str]:
    """And the names by which `Endpoint.interface_named` knows them: their own, and those of their instances."""

    def ask(endpoint: Endpoint) -> Iterable[str]:
        ec2 = _client(endpoint, "ec2")
        return dict.fromkeys([*_interfaces(ec2), *instance_names(ec2).values()])

    return _words(context, incomplete, ask)


def resource_ids(context: typer.Context, incomplete: str) -> list[str]:
    def ask(endpoint: Endpoint) -> Iterable[str]:
        ec2 = _client(endpoint, "ec2")
        vpcs = [row["VpcId"] for row in ec2.describe_vpcs()["Vpcs"]]
        subnets = [row["SubnetId"] for row in ec2.describe_subnets()["Subnets"]]
        return [*vpcs, *subnets, *_interfaces(ec2)]

    return _words(context, incomplete, ask)


def flow_log_ids(context: typer.Context, incomplete: str) -> list[str]:
    def ask(endpoint: Endpoint) -> Iterable[str]:
        return [row["FlowLogId"] for row in _client(endpoint, "ec2").describe_flow_logs()["FlowLogs"]]

    return _words(context, incomplete, ask)


def role_arns(context: typer.Context, incomplete: str) -> list[str]:
    def ask(endpoint: Endpoint) -> Iterable[str]:
        return [row["Arn"] for row in _client(endpoint, "iam").list_roles()["Roles"]]

    return _words(context, incomplete, ask)


def _interfaces(ec2: Any) -> list[str]:
    rows = ec2.describe_network_interfaces()["NetworkInterfaces"]
    names = [tag["Value"] for row in rows for tag in row.get("TagSet", []) if tag["Key"] == "Name"]
    return [*(row["NetworkInterfaceId"] for row in rows), *dict.fromkeys(names)]


def _client(endpoint: Endpoint, service: str) -> Any:
    return endpoint.client(service, timeout_seconds=SECONDS, attempts=1)
