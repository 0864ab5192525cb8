"""`vnotch env` and `vnotch aws`: other AWS clients, pointed at this endpoint."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from vnotch.cli.endpoint import ENVIRONMENT_NAMES, Endpoint, aws_command
from vnotch.cli.options import DataDir, EndpointUrl, folders_of

PASSES_ALL = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose words are another command's."""


def env(
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    unset: Annotated[
        bool, typer.Option("--unset", help="Print the commands that take the variables away again.")
    ] = False,
) -> None:
    """Print shell commands that point AWS clients here: eval "$(vnotch env)"."""
    if unset:
        sys.stdout.write("".join(f"unset {name}\n" for name in ENVIRONMENT_NAMES))
        return
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url)
    sys.stdout.write("".join(f"export {name}={shlex.quote(value)}\n" for name, value in endpoint.environment().items()))
    sys.stdout.write(
        "# aws CLI before 2.13 or 1.29 (Debian 12) ignores AWS_ENDPOINT_URL: give it --endpoint-url as well\n"
    )


def aws(context: typer.Context) -> None:
    """Run the aws CLI against this endpoint: vnotch aws logs describe-log-groups."""
    endpoint = Endpoint.find(folders_of(None)).require_up()
    command, environment = aws_command(endpoint, context.args)
    os.execve(command[0], command, environment)
