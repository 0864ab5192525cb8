"""`vnotch doctor`: what this host has and lacks for capturing, and the remedy of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from vnotch.cli.options import DataDir, Json, folders_of
from vnotch.cli.terminal import out, plain
from vnotch.config import ENDPOINT_PORT

if TYPE_CHECKING:
    from vnotch.doctor.checks import Finding

MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


def doctor(
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(help="Port of the endpoint.", min=1, max=65535)] = ENDPOINT_PORT,
    as_json: Json = False,
) -> None:
    """Say what this host has and lacks for capturing, each with its remedy. Exit status 1: something cannot work."""
    from vnotch.doctor.checks import examine, exit_status
    from vnotch.doctor.reading import read_facts

    findings = examine(read_facts(folders_of(data_dir), port))
    if as_json:
        document = {"fails": bool(exit_status(findings)), "findings": [finding.to_json() for finding in findings]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        out.print(shown(findings))
    raise typer.Exit(exit_status(findings))


def shown(findings: Iterable[Finding]) -> Group:
    """A line for each, and one with its remedy where there is one."""
    lines = []
    for finding in findings:
        mark, style = MARKS[finding.verdict]
        line = Text(f"{mark}  ", style=style) + Text(f"{finding.name}: ", style="bold") + Text(plain(finding.found))
        if finding.means:
            line.append(f"; {plain(finding.means)}", style="dim")
        lines.append(line)
        if finding.remedy and finding.verdict != "ok":
            lines.append(Text("      -> ", style=style) + Text(plain(finding.remedy), style="bold"))
    return Group(*lines)
