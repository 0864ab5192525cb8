"""`vnotch alerts`: the alerts of a running server (`vnotch server --alert`), how they stand and what they counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from rich import box
from rich.table import Table

from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import counted, literal, out, plain, step

COUNTERS = {"findings": "finding", "failures": "failure"}
"""Counters that are nouns, in the singular; the others say what became of what is counted."""
SHOWN = ("findings", "dropped", "skipped", "late", "learned", "unlearned", "failures")


def alerts(data_dir: DataDir = None, endpoint_url: EndpointUrl = None, as_json: Json = False) -> None:
    """Show the server's alerts: whether they watch, what they found, and what they had to pass over."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    answer = endpoint.request("GET", "/vnotch/v1/alerts")
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return
    if not answer["alerts"]:
        step("there are none: vnotch server --alert sets them")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("alert", "state", "counted"):
        table.add_column(column, overflow="fold")
    for row in answer["alerts"]:
        table.add_row(literal(row["alert"]), row["state"], counters_text(row["counters"]))
    out.print(table)
    for row in answer["alerts"]:
        if row["error"] is not None:
            out.print(plain(f"{row['alert']}: {row['error']}"), markup=False, style="red")
    calls = ", ".join(f"{count} {name}" for name, count in answer["webhooks"].items())
    out.print(f"webhooks: {calls}")


def counters_text(counters: Mapping[str, int]) -> str:
    """What an alert has counted, for people; what is zero is left out."""
    found = [(name, counters[name]) for name in SHOWN if counters.get(name)]
    words = [counted(count, COUNTERS[name]) if name in COUNTERS else f"{count:,} {name}" for name, count in found]
    return ", ".join(words) or "nothing"
