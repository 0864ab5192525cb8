"""`vnotch explain`: the question is put to the server, which knows the rules."""

from __future__ import annotations

import json
import sys
from typing import Annotated
from urllib.parse import urlencode

import typer

from vnotch.cli.completion import interface_ids
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import plain


def explain(
    source: Annotated[
        str,
        typer.Argument(help="Address, interface, instance, or the Name tag of one.", autocompletion=interface_ids),
    ],
    destination: Annotated[str, typer.Argument(help="The same.", autocompletion=interface_ids)],
    port: Annotated[int | None, typer.Argument(help="Destination port of TCP or UDP.", min=0, max=65535)] = None,
    protocol: Annotated[str, typer.Option(help="tcp, udp, icmp, icmpv6 or an IANA number.")] = "tcp",
    icmp_type: Annotated[int | None, typer.Option(help="ICMP type; echo request if not given.", min=0, max=255)] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say whether a packet would be accepted, layer by layer, and which rule decides. Exit status 1: rejected."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    asked: dict[str, str | int | None] = {
        "source": endpoint.interface_named(source),
        "destination": endpoint.interface_named(destination),
        "port": port,
        "protocol": protocol,
        "icmp_type": icmp_type,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    found = endpoint.request("GET", f"/vnotch/v1/explanation?{query}")
    text = found.pop("text")
    sys.stdout.write((json.dumps(found, indent=2) if as_json else plain(text)) + "\n")
    accepted = found["outcome"] == "ACCEPT" and found["reply_outcome"] in ("ACCEPT", None)
    raise typer.Exit(0 if accepted else 1)
