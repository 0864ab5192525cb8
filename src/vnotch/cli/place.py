"""A demo's place on this host: its folder, its lab's name, its port. Several demos may run at once, each in its own.

The name is claimed by an abstract Unix socket: the kernel lets it go when the demo ends, however it ends. A name that
is free but has a lab under it is therefore what a killed demo has left, and is removed first.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from vnotch.cli.children import run_to_end, vnotch
from vnotch.cli.lab import prefix_of
from vnotch.cli.root import as_root
from vnotch.cli.terminal import step
from vnotch.config import ENDPOINT_HOST, ENDPOINT_PORT
from vnotch.errors import HostError

FOLDER_PREFIX = "vnotch-demo-"
NAMES = ("demo", *(f"demo{number}" for number in range(2, 10)))


class Place:
    """Made for one demo; `remove` takes the folder away."""

    def __init__(self, port: int | None) -> None:
        """`port` is the one wanted; None takes the usual one, or any that is free. Raises HostError."""
        self._claim: socket.socket | None = None
        self.name = self._claim_name()
        self.port = _free_port(port)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        except OSError as error:
            raise HostError(f"no folder for the demo: {error.strerror}", "make room, or set TMPDIR") from None

    def _claim_name(self) -> str:
        for name in NAMES:
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0{FOLDER_PREFIX}{name}")
            except OSError:
                claim.close()
                continue
            self._claim = claim
            return name
        raise HostError(f"{len(NAMES)} demos run on this host already", "end one of them with Ctrl-C")

    def remove_leftover(self) -> None:
        """Takes down the lab that a killed demo has left under this name, with its folder. Needs root."""
        from vnotch.lab.journal import owner

        folder = owner(prefix_of(self.name))
        if folder is None:
            return
        step("removing what a demo that was killed has left")
        data = folder.parent
        run_to_end(as_root([*vnotch("lab", "down"), "--name", self.name, "--data-dir", str(data)]), lambda line: None)
        if data.parent.name.startswith(FOLDER_PREFIX):
            self._remove_folder(data.parent, written_by_root=True)

    def remove(self, *, written_by_root: bool) -> None:
        self._remove_folder(self.folder, written_by_root)
        if self._claim is not None:
            self._claim.close()

    @staticmethod
    def _remove_folder(folder: Path, written_by_root: bool) -> None:
        if written_by_root:
            subprocess.run(as_root(["rm", "-rf", "--", str(folder)]), check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port(wanted: int | None) -> int:
    """The port wanted, whatever uses it (the server will say so); else the usual one or one that is free."""
    if wanted is not None:
        return wanted
    for port in (ENDPOINT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ENDPOINT_HOST, port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
        if port == 0:
            step(f"port {ENDPOINT_PORT} is in use, so this takes {found}")
        return found
    raise HostError("no port is free", "name one with --port")
