"""`vnotch ask`: the library of named questions."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vnotch.cli import query as asking
from vnotch.cli.options import DataDir, EndpointUrl
from vnotch.cli.terminal import out, plain
from vnotch.errors import InputError

if TYPE_CHECKING:
    from vnotch.query.questions import Question


TAKES_PARAMETERS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command: what it does not know is for the question."""


def questions_folder() -> Path:
    """Where users keep questions of their own: VNOTCH_QUESTIONS, else the XDG configuration folder."""
    if override := os.environ.get("VNOTCH_QUESTIONS"):
        return Path(override)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vnotch" / "questions"


def ask(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The question.", show_default="lists them")] = None,
    sources: asking.From = None,
    since: asking.Since = None,
    until: asking.Until = None,
    format: asking.Format = None,
    output: asking.OutputOption = "table",
    as_json: asking.Json = False,
    chart: asking.ChartOption = False,
    labels: asking.LabelsOption = None,
    memory: asking.Memory = asking.MEMORY,
    timeout: asking.Timeout = None,
    threads: asking.Threads = None,
    skip_bad: asking.SkipBad = False,
    profile: asking.Profile = None,
    s3_endpoint_url: asking.S3Endpoint = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    folder: Annotated[
        Path | None,
        typer.Option("--questions", help="Folder of questions of your own.", show_default="~/.config/vnotch/questions"),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the question: its SQL and its parameters.")] = False,
) -> None:
    """Ask a named question; without a name they are listed.

    vnotch ask top-talkers --from s3://my-flow-logs --since 1d --limit 5

    A question's parameters are values behind its name, or options. --show prints them, the SQL, and what it means.

    Exit status 3: the answer misses data, which standard error names.
    """
    from vnotch.query.questions import find_question, questions

    place = folder or questions_folder()
    if name is None:
        if context.args:
            raise InputError(f"which question is {context.args[0]} for?", "vnotch ask NAME ...")
        _list(list(questions(place).values()))
        return
    question = find_question(name, place)
    if show:
        sys.stdout.write(plain(question.sql) + "\n" + plain(question.usage) + "\n")
        return
    values, named = _parameters(context.args)
    bound = question.bind(values, named)
    how = asking.Asking(
        sources or [], since, until, format, "json" if as_json else output, chart, labels, memory, timeout, threads,
        skip_bad, profile, s3_endpoint_url, data_dir, endpoint_url,
    )  # fmt: skip
    status = how.answer(
        question.sql, bound, question.optional, question.check_columns, question.drawn(bound), question.addresses
    )
    raise typer.Exit(status)


def _parameters(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What the command line leaves to the question -> (values, values by name). Raises InputError."""
    values: list[str] = []
    named: dict[str, str] = {}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith("--"):
            values.append(argument)
            continue
        name, equals, text = argument.removeprefix("--").partition("=")
        if not equals:
            if not left:
                raise InputError(f"{argument} has no value")
            text = left.pop(0)
        named[name.replace("-", "_")] = text
    return values, named


def _list(found: Sequence[Question]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for question in found:
        settable = [
            item.name.upper() if item.default is None else f"{item.option} {item.default}"
            for item in question.parameters
        ]
        table.add_row(question.name, Text(plain(question.answers or question.title)))
        table.add_row("", Text(plain("  ".join(settable)), style="dim"))
    out.print(table)
