"""The agent's local socket as its clients see it: `view.sock` in the agent's folder, mode 0600.

A connection is one question and one answer. The question is a line of JSON; the answer is a line of JSON (`{"error":
...}`, or the answer's own members and `tables`, the sizes of the Arrow IPC streams that follow). Whoever asks for no
table loads no Arrow, and nothing else of the agent.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnotch.errors import HostError, InputError

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "view.sock"
HEADER_BYTES_MAX = 16 << 20
ANSWER_BYTES_MAX = 256 << 20


@dataclass(frozen=True)
class Answer:
    """A JSON object and tables beside it."""

    about: dict[str, Any]
    tables: tuple[pa.Table, ...] = ()


class NotYours(HostError):
    """The agent runs as somebody else, root as a rule."""


class NotRunning(HostError):
    """No agent listens there."""


def ask(folder: Path, question: Mapping[str, Any], timeout_seconds: float = 15.0) -> Answer:
    """The agent's answer, for a client. Raises NotYours, NotRunning; HostError where no answer comes; InputError with
    the agent's words where it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_seconds)
        try:
            with Near(folder) as near:
                client.connect(str(near / NAME))
            with suppress(BrokenPipeError):  # who is one too many is told so before the question is read
                client.sendall(line_of(question))
            with client.makefile("rb") as source:
                about = json.loads(source.readline(HEADER_BYTES_MAX) or b"{}")
                sizes = about.pop("tables", [])
                if sum(sizes) > ANSWER_BYTES_MAX:
                    raise HostError(f"the agent's answer has {sum(sizes)} bytes")
                tables = tuple(_table(source.read(size)) for size in sizes)
        except PermissionError:
            raise NotYours(f"the agent in {folder} runs as somebody else", "do this with sudo") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"no agent runs with the folder {folder}", "start one as root: vnotch agent") from None
        except (OSError, ValueError) as error:
            raise HostError(f"the agent in {folder} does not answer: {error}") from error
    if not about:
        raise HostError(f"the agent in {folder} ended while it was asked")
    if "error" in about:
        raise InputError(f"the agent in {folder}: {about['error']}")
    return Answer(about, tables)


def _table(stream: bytes) -> pa.Table:
    """Raises ValueError where it is no Arrow IPC stream."""
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(stream).read_all()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


class Near:
    """A path to a folder that is short, whatever its own is: a socket's address has room for 107 characters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._descriptor = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return Path(f"/proc/self/fd/{self._descriptor}")

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def line_of(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"
