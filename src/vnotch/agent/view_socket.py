"""The agent's side of its local socket (`asking` is the client's), by which its owner looks at what runs.

Clients are few, their time is short, and one too many is told so at once: whatever they do, the capture does not
notice.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from vnotch.agent.asking import NAME, Answer, Near, line_of
from vnotch.errors import DestinationUnavailable, InputError, VnotchError

CLIENTS_MAX = 4
QUESTION_BYTES_MAX = 65_536
CLIENT_SECONDS = 10.0
"""How long a client may take to ask, and to read its answer."""

log = logging.getLogger(__name__)


class ViewSocket:
    """Serves until `close`. `answer` is called by several threads at once. Where the socket cannot be made the agent
    goes on without it: `error` says why."""

    def __init__(self, folder: Path, answer: Callable[[Mapping[str, Any]], Answer]) -> None:
        self._path = folder / NAME
        self._answer = answer
        self._room = threading.BoundedSemaphore(CLIENTS_MAX)
        self._closed = False
        self.turned_away = 0
        self.error: str | None = None
        try:
            self._socket = _listen(self._path)
        except OSError as error:
            self.error = f"{self._path}: {error.strerror}"
            log.warning("nobody can look at what runs: %s", self.error)
            return
        self._thread = threading.Thread(target=self._serve, name="vnotch-views", daemon=True)

    def start(self) -> None:
        if self.error is None:
            self._thread.start()

    def close(self) -> None:
        self._closed = True
        if self.error is None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._socket.close()
            self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._closed:
            try:
                client, _ = self._socket.accept()
            except OSError as error:
                if not self._closed:
                    self.error = f"{self._path}: {error.strerror}"
                    log.warning("nobody can look at what runs any more: %s", self.error)
                return
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._attend, args=(client,), name="vnotch-view", daemon=True).start()
            else:
                self.turned_away += 1
                with client, suppress(OSError):
                    client.settimeout(0.1)
                    client.sendall(line_of({"error": f"{CLIENTS_MAX} others look at this agent already"}))

    def _attend(self, client: socket.socket) -> None:
        try:
            with client:
                deadline = time.monotonic() + CLIENT_SECONDS
                for part in self._parts(_question(client, deadline)):
                    _send(client, part, time.monotonic() + CLIENT_SECONDS)
        except (OSError, ValueError) as error:
            log.debug("a view's client: %s", error)  # it went away, or never spoke
        finally:
            self._room.release()

    def _parts(self, line: bytes) -> list[memoryview]:
        try:
            question = json.loads(line)
            if not isinstance(question, dict):
                raise InputError("a question is a JSON object")
            answer = self._answer(question)
        except ValueError:
            return [memoryview(line_of({"error": "a question is a line of JSON"}))]
        except VnotchError as error:
            return [memoryview(line_of({"error": str(error)}))]
        except Exception as error:
            # A mistake of ours in a view must not end the thread in silence.
            log.exception("a view")
            return [memoryview(line_of({"error": f"{type(error).__name__}: {error}"}))]
        streams = [_stream(table) for table in answer.tables]
        about = {**answer.about, "tables": [stream.size for stream in streams]}
        return [memoryview(line_of(about)), *(memoryview(stream) for stream in streams)]


def on_loop(put: Callable[[Callable[[], None]], None], function: Callable[[], Any], timeout_seconds: float) -> Any:
    """Has the loop call `function` between two steps, by its queue; -> its value. Raises DestinationUnavailable where
    it takes longer."""
    done = threading.Event()
    found: list[Any] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            found.append(function())
        except Exception as error:
            failed.append(error)
        done.set()

    put(call)
    if not done.wait(timeout_seconds):
        raise DestinationUnavailable("the agent is busy")
    if failed:
        raise failed[0]
    return found[0]


def _listen(path: Path) -> socket.socket:
    """Replaces what a killed process left; the agent's lock says that no other one listens there."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(made.fileno(), 0o600)  # before it has a name, so that it never has another mode
        with Near(path.parent) as near:
            made.bind(str(near / path.name))
        os.chmod(path, 0o600)
        made.listen(CLIENTS_MAX)
    except OSError:
        made.close()
        raise
    return made


def _question(client: socket.socket, deadline: float) -> bytes:
    """The line that the client sends. Raises OSError where it takes too long, ValueError where it is too long."""
    data = b""
    while b"\n" not in data:
        if len(data) > QUESTION_BYTES_MAX:
            raise ValueError("the question is too long")
        client.settimeout(max(0.001, deadline - time.monotonic()))
        more = client.recv(QUESTION_BYTES_MAX)
        if not more:
            raise ValueError("the client ended before its question did")
        data += more
    return data.partition(b"\n")[0]


def _send(client: socket.socket, data: memoryview, deadline: float) -> None:
    while data:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        data = data[client.send(data) :]


def _stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
