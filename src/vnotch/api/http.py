"""The HTTP server under the app: uvicorn with h11, bounded also where the app does not see a request yet.

uvicorn bounds the size of a request's head and the time between requests, but neither the time that a head may take nor
how many connections wait for one; a client that sends a byte now and then would hold its connection for ever, and a
thousand of them all of the process's descriptors. `BoundedProtocol` gives each head `Limits.head_seconds`, and turns
connections beyond `Limits.connections` away at once. Bodies are bounded by the app (`api.exchange.Bodies`). A client
that does not read its answer is cut off `Limits.write_seconds` after the buffer for it has filled.

What is refused here never reaches the app; it is answered in AWS's form all the same, with a request id that is in the
access log (`api.answers.Answers.refuse`).
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from vnotch.api.exchange import Limits
from vnotch.api.service import ApiError
from vnotch.errors import HostError

HEAD_BYTES_MAX = 64 * 1024
DESCRIPTORS_OTHER = 200
"""File descriptors that the process needs beside those of its connections: databases, Parquet files, logs."""
SHUTDOWN_SECONDS = 5

# Codes: EC2 API reference, "Common client errors" and "Server errors"; the second is that of all newer services.
LATE = ApiError("RequestTimeout", "The request did not arrive in time.", 408)
MALFORMED = ApiError("MalformedHttpRequestException", "The request is not valid HTTP/1.1.", 400)
FULL = ApiError("ServiceUnavailable", "The server has as many connections as it takes. Try again later.", 503)


class BoundedProtocol(H11Protocol):
    """H11Protocol with a deadline for each request's head, and one for a reader that does not read. `refuse` makes the
    answer to a client address that gets none of the app's."""

    def __init__(self, *args: Any, limits: Limits, refuse: Callable[[str, ApiError], bytes], **more: Any) -> None:
        super().__init__(*args, **more)
        self.limits = limits
        self._refused = refuse
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.refuse(FULL)
            return
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._cancel_stalled()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_stalled()
        super().resume_writing()

    def _cancel_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # what comes after a refusal
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._start_deadline()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The beginning of another head may have come with the request before it.
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and self._deadline is None:
            self._start_deadline()

    def send_400_response(self, msg: str) -> None:
        """In the middle of a body the app hears that the client is gone, and its answer goes nowhere."""
        self.refuse(MALFORMED)

    def refuse(self, error: ApiError) -> None:
        self._cancel_deadline()
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else half of an answer is under way
            self.transport.write(self._refused(self.client[0] if self.client else "", error))
        self.transport.close()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.limits.head_seconds, self._too_late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        self.refuse(LATE)


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


def connections_possible(wanted: int) -> int:
    """As many connections as the process may have descriptors for, at most those wanted; the soft limit is raised for
    them as far as the hard one lets it (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS_OTHER
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(16, soft - DESCRIPTORS_OTHER))


def http_server(app: Starlette) -> uvicorn.Server:
    """A server for an app of `build_app`, within its limits; run it with `server.run(sockets=[listen(host, port)])` or
    `server.serve(...)`."""
    api = app.state.api
    limits = replace(api.limits, connections=connections_possible(api.limits.connections))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(BoundedProtocol, limits=limits, refuse=api.answers.refuse),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
