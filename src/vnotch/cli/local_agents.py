"""The agents of this host as vnotch's own commands see them: their folders below the data folder, and their sockets.

An agent runs as root as a rule, and its folder is its own; a person who is not root is told the command that works.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnotch.agent.asking import Answer, NotRunning, NotYours, ask
from vnotch.config import SYSTEM_DATA_DIR, Folders
from vnotch.errors import HostError


@dataclass(frozen=True)
class LocalAgent:
    name: str
    folder: Path

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """Raises HostError with the remedy, InputError where the agent refuses."""
        try:
            return ask(self.folder, question)
        except NotYours as error:
            owner = " as root" if _owner(self.folder) == 0 else ""
            raise HostError(f"agent {self.name} runs{owner}, and only its owner may look at it", sudo()) from error


def local_agents(folders: Folders, name: str | None = None) -> list[LocalAgent]:
    """All that have a folder here, or the one named. Raises HostError where there is none, or they are not to be
    seen."""
    place = folders.agent("x").parent
    try:
        found = [LocalAgent(path.name, path) for path in sorted(place.iterdir()) if path.is_dir()]
    except FileNotFoundError:
        found = []
    except PermissionError:
        raise HostError(f"{place} is readable by its owner alone", sudo()) from None
    if name is not None:
        found = [agent for agent in found if agent.name == name]
    if not found:
        which = f"agent {name} has" if name else "no agent has"
        lost = f"{which} a folder below {folders.root}" if not name else f"{which} no folder below {folders.root}"
        if os.geteuid() != 0 and folders.root != SYSTEM_DATA_DIR and SYSTEM_DATA_DIR.exists():
            raise HostError(lost, f"the system's agents: {sudo(SYSTEM_DATA_DIR)}")
        raise HostError(lost, "start one as root (vnotch agent), or name its data folder with --data-dir")
    return found


def ask_all(agents: list[LocalAgent], question: Mapping[str, Any]) -> list[tuple[LocalAgent, Answer]]:
    """The answers of those that run. Raises HostError where none of them does."""
    answers, silent = [], []
    for agent in agents:
        try:
            answers.append((agent, agent.ask(question)))
        except HostError as error:
            if len(agents) == 1 or not isinstance(error, NotRunning):
                raise
            silent.append(agent.name)
    if not answers:
        raise HostError(f"no agent runs here: {', '.join(silent)}", "start one as root: vnotch agent")
    return answers


def sudo(data_dir: Path | None = None) -> str:
    """This command line again, by sudo, which leaves the environment and so the data folder behind."""
    from vnotch.config import data_dir as default_data_dir

    program = Path(sys.argv[0])
    words = [str(program.resolve()) if program.name == "vnotch" else "vnotch", *sys.argv[1:]]
    if not any(word.split("=")[0] == "--data-dir" for word in words):
        words += ["--data-dir", str(data_dir or default_data_dir())]
    return shlex.join(["sudo", *words])


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None
