"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vnotch.config import Folders
from vnotch.config import data_dir as default_data_dir

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of state, logs and keys.",
        envvar="VNOTCH_DATA_DIR",
        show_default="/var/lib/vnotch as root, else ~/.local/share/vnotch",
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option("--endpoint-url", help="The server's address.", show_default="the local server's")
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
AgentName = Annotated[str | None, typer.Option("--agent", help="Which agent.", show_default="all of this data folder")]


def folders_of(folder: Path | None) -> Folders:
    """The data folder's layout: of the folder given, or the default one."""
    return Folders((folder or default_data_dir()).absolute())
