"""The HTTP server under the app: uvicorn with h11, bounded also where the app does not see a request yet.

uvicorn bounds the size of a request's head and the time between requests, but neither the time that a head may take nor
how many connections wait for one; a client that sends a byte now and then would hold its connection for ever, and a
thousand of them all of the process's descriptors. `BoundedProtocol` gives each head `HEAD_SECONDS`, and turns
connections beyond `connections_max` away at once. Bodies are bounded by the app (`api.exchange.Bodies`). A client that
does not read its answer is cut off `WRITE_SECONDS` after the buffer for it has filled.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vnotch.errors import HostError

HEAD_SECONDS = 10
WRITE_SECONDS = 60
"""A reader of less than about 1 KB/s does not empty the buffer in this time."""
HEAD_BYTES_MAX = 64 * 1024
KEEP_ALIVE_SECONDS = 75
"""Longer than SDKs keep idle connections in their pools without looking."""
CONNECTIONS_MAX = 2_000
DESCRIPTORS_OTHER = 200
"""File descriptors that the process needs beside those of its connections: databases, Parquet files, logs."""
SHUTDOWN_SECONDS = 5

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(H11Protocol):
    """H11Protocol with a deadline for each request's head, and one for a reader that does not read."""

    head_seconds: float = HEAD_SECONDS
    write_seconds: float = WRITE_SECONDS
    connections_max: int = CONNECTIONS_MAX
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.write(_FULL)
            transport.close()
            return
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._cancel_stalled()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_stalled()
        super().resume_writing()

    def _cancel_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._start_deadline()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel_deadline()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self._too_late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.write(_LATE)
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket for `http_server`; HostError with the remedy where the port is taken or not ours to take."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio sets TCP_NODELAY on sockets that say they are TCP, and without it an answer
    # written in two pieces waits 40 ms for a delayed ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        remedies = {
            errno.EADDRINUSE: "choose another port, or stop the other server",
            errno.EACCES: "choose a port from 1024 on",
        }
        reason = f"cannot listen on {host}:{port}: {error.strerror}"
        raise HostError(reason, remedies.get(error.errno or 0)) from None
    return bound


def connections_possible() -> int:
    """As many connections as the process may have descriptors for, at most CONNECTIONS_MAX; the soft limit is raised
    for them as far as the hard one lets it (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + DESCRIPTORS_OTHER
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return min(CONNECTIONS_MAX, max(16, soft - DESCRIPTORS_OTHER))


def http_server(app: Any, *, keep_alive_seconds: int = KEEP_ALIVE_SECONDS) -> uvicorn.Server:
    """A server for the app; run it with `server.run(sockets=[listen(host, port)])` or `server.serve(...)`."""
    BoundedProtocol.connections_max = connections_possible()
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
