"""The command line: one command, `vnotch`, with a sub-command for each thing a person wants.

An error of ours is one line with its remedy and exit status 2; Ctrl-C is exit status 130 without a traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from vnotch import __version__
from vnotch.cli.alerts import alerts
from vnotch.cli.ask import TAKES_PARAMETERS, ask
from vnotch.cli.attach import attach, detach
from vnotch.cli.backup import backup, restore
from vnotch.cli.clients import PASSES_ALL, aws, env
from vnotch.cli.compact import compact
from vnotch.cli.doctor import doctor
from vnotch.cli.enrol import enrol
from vnotch.cli.explain import explain
from vnotch.cli.flow_logs import flow_logs
from vnotch.cli.imports import import_
from vnotch.cli.insights import insights
from vnotch.cli.keys import keys
from vnotch.cli.lab import lab
from vnotch.cli.prepare import prepare
from vnotch.cli.processes import agent, demo, server, up
from vnotch.cli.query import query
from vnotch.cli.role import role
from vnotch.cli.status import status
from vnotch.cli.tail import tail
from vnotch.cli.terminal import fail, out
from vnotch.cli.top import top
from vnotch.cli.usage import usage
from vnotch.cli.why_denied import why_denied
from vnotch.cli.wipe import wipe
from vnotch.errors import VnotchError

TRY, RUN, SET_UP, LOOK, CLIENTS = PANELS = ("Try it", "Run it", "Set up", "Look", "Other AWS clients")
"""Panels of the help, in the order in which a person meets them."""


class _InPanels(TyperGroup):
    def list_commands(self, context: typer.Context) -> list[str]:  # type: ignore[override]
        """By panel; typer would put groups of commands behind single commands."""

        def place(name: str) -> int:
            panel = getattr(self.commands[name], "rich_help_panel", None)
            return PANELS.index(panel) if panel in PANELS else len(PANELS)

        return sorted(super().list_commands(context), key=place)


app = typer.Typer(
    name="vnotch",
    cls=_InPanels,
    help="VPC Flow Logs for networks you run yourself.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        out.print(f"vnotch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command(rich_help_panel=TRY)(demo)
app.add_typer(lab, name="lab", rich_help_panel=TRY)
app.command(rich_help_panel=RUN)(up)
app.command(rich_help_panel=RUN)(server)
app.command(rich_help_panel=RUN)(agent)
app.command(rich_help_panel=RUN)(doctor)
app.command(hidden=True)(prepare)
app.command(rich_help_panel=SET_UP)(attach)
app.command(rich_help_panel=SET_UP)(detach)
app.command(rich_help_panel=SET_UP)(enrol)
app.add_typer(flow_logs, name="flow-logs", rich_help_panel=SET_UP)
app.add_typer(role, name="role", rich_help_panel=SET_UP)
app.add_typer(keys, name="keys", rich_help_panel=SET_UP)
app.command(rich_help_panel=SET_UP)(compact)
app.command(rich_help_panel=SET_UP)(backup)
app.command(rich_help_panel=SET_UP)(restore)
app.command(rich_help_panel=SET_UP)(wipe)
app.command("import", rich_help_panel=SET_UP)(import_)
app.command(rich_help_panel=LOOK)(status)
app.command(rich_help_panel=LOOK)(tail)
app.command(rich_help_panel=LOOK)(top)
app.command(rich_help_panel=LOOK)(explain)
app.command(rich_help_panel=LOOK)(alerts)
app.command("why-denied", rich_help_panel=LOOK)(why_denied)
app.command(rich_help_panel=LOOK)(query)
app.command(rich_help_panel=LOOK)(insights)
app.command(rich_help_panel=LOOK)(usage)
app.command(rich_help_panel=LOOK, context_settings=TAKES_PARAMETERS)(ask)
app.command(rich_help_panel=CLIENTS)(env)
app.command(rich_help_panel=CLIENTS, context_settings=PASSES_ALL)(aws)


def main() -> None:
    """Entry point of the `vnotch` command."""
    try:
        # Without standalone mode an exit status comes back as a value.
        left = app(standalone_mode=False, prog_name="vnotch")
        sys.exit(left if isinstance(left, int) else 0)
    except VnotchError as error:
        sys.exit(fail(error))
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sys.exit(_other(error))


def _other(error: Exception) -> int:
    """Errors of the libraries that a person can cause: wrong usage, and what the endpoint refuses. Raises the rest."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, BotoCoreError | ClientError):
        return fail(VnotchError(f"the endpoint: {error}"))
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own, wherever typer keeps click
        error.show()
        return int(error.exit_code)
    raise error


if __name__ == "__main__":
    main()
