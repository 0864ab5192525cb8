"""One request on its way through the app: what came, what is known of it so far, and the bounds on what may come."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.requests import ClientDisconnect, Request

from vnotch.api.access_log import AccessEntry
from vnotch.api.request_context import Circumstances, Keys
from vnotch.api.service import Principal
from vnotch.api.wire.dialect import Dialect
from vnotch.iam import sigv4
from vnotch.iam.chunked import MODES, Chunked, decoded
from vnotch.store.accounts import Identity

_ids = random.Random()
"""Of requests: they need to differ, not to be secret. uuid4 asks the kernel, and lets other threads go first for it."""


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server. All of it is refused with a 4xx or, where we are full, a 503."""

    body_bytes: int = 16 * 1024 * 1024
    body_seconds: float = 30.0
    bodies_bytes: int = 256 * 1024 * 1024  # of all requests at once
    headers: int = 100
    header_bytes: int = 32 * 1024  # names and values together, with the request line
    threads: int = 16
    waiting: int = 512  # requests that wait for a thread
    # Of connections, see `api.http`.
    connections: int = 2_000
    head_seconds: float = 10.0
    keep_alive_seconds: float = 75.0  # longer than SDKs keep idle connections in their pools without looking
    write_seconds: float = 60.0  # for a reader that does not read: less than about 1 KB/s does not empty the buffer


@dataclass
class Exchange:
    """Filled in step by step; see `app.STEPS`."""

    request: Request
    dialect: Dialect
    headers: list[tuple[str, str]]
    query: str
    path: str
    entry: AccessEntry
    request_id: str = ""
    body: bytes = b""  # as it came
    content: bytes = b""  # without its Content-Encoding
    payload_sha256: str = ""  # as the signature covers it, hexadecimal; of a chunked payload its mode
    started_s: float = field(default_factory=time.perf_counter)
    now_s: float = field(default_factory=time.time)
    signature: sigv4.Signature | sigv4.SignatureError | None = None
    served: Any = None  # app.Served, once the service is known
    identity: Identity | None = None
    principal: Principal | None = None
    context: Keys = field(default_factory=dict)  # condition keys
    wire: Any = None  # WireRequest
    operation: Any = None  # botocore's OperationModel
    params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, request: Request, dialect: Dialect) -> Exchange:
        scope = request.scope
        request_id = str(uuid.UUID(int=_ids.getrandbits(128), version=4))
        now_s = time.time()
        # Of a socket that takes both families, clients of IPv4 come with mapped addresses; policies name them plainly.
        remote = (scope["client"][0] if scope.get("client") else "").removeprefix("::ffff:")
        return cls(
            request=request,
            dialect=dialect,
            # A signature covers bytes: what is no UTF-8 must come out again as it came.
            headers=[(n.decode("ascii", "replace"), v.decode("utf-8", "surrogateescape")) for n, v in scope["headers"]],
            query=scope["query_string"].decode("utf-8", "surrogateescape"),
            path=(scope.get("raw_path") or scope["path"].encode()).decode("utf-8", "surrogateescape"),
            entry=AccessEntry(int(now_s * 1000), request_id, remote, scope["method"]),
            request_id=request_id,
            now_s=now_s,
        )

    @cached_property
    def header(self) -> Mapping[str, str]:
        """Headers by name; of a repeated one the last, which no step relies on without a check."""
        return dict(self.headers)

    def circumstances(self) -> Circumstances:
        header, secure = self.header, self.request.scope["scheme"] == "https"
        return Circumstances(
            self.entry.remote, secure, header.get("user-agent", ""), self.now_s, header.get("referer", "")
        )

    def signed(self) -> sigv4.Request:
        """What the signature has to cover. Of a chunked payload it is the mode; the chunks have signatures of their
        own, see `unchunk`."""
        chunked = Chunked.of(self.header)
        digest = chunked.mode if chunked else hashlib.sha256(self.body).hexdigest()
        self.payload_sha256 = digest
        return sigv4.Request(self.request.method, self.path, self.query, self.headers, digest)

    def unchunk(self, secret_access_key: str) -> None:
        """Puts the payload of a chunked request in the place of its body. The request's signature is verified.

        Raises SignatureError.
        """
        chunked = Chunked.of(self.header)
        if chunked is not None:
            assert isinstance(self.signature, sigv4.Signature)
            secure = self.circumstances().secure
            self.body = decoded(self.body, chunked, self.signature, secret_access_key, secure=secure)


class Bodies:
    """Reads bodies within `Limits`; one counter for all requests, used on the event loop's thread alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held_bytes = 0

    def check_head(self, exchange: Exchange) -> None:
        """Refuses headers that are too many or too large, and a body that says itself that it is."""
        size = (
            len(exchange.path) + len(exchange.query) + sum(len(name) + len(value) for name, value in exchange.headers)
        )
        if len(exchange.headers) > self.limits.headers or size > self.limits.header_bytes:
            raise exchange.dialect.too_large("The request line and headers are too large.")
        if {"content-length", "transfer-encoding"} <= exchange.header.keys():
            # What stands before the server may have gone by the other one (RFC 9112, section 6.1).
            raise exchange.dialect.malformed("The request has both a Content-Length and a Transfer-Encoding.")
        lengths = [value for name, value in exchange.headers if name == "content-length"]
        if lengths and lengths[0].isdecimal() and int(lengths[0]) > self.limits.body_bytes:
            raise exchange.dialect.too_large(f"The body is larger than {self.limits.body_bytes} bytes.")
        encoding = exchange.header.get("content-encoding", "identity")
        if encoding == "aws-chunked" and exchange.header.get("x-amz-content-sha256", "").strip() in MODES:
            return
        if encoding not in ("identity", "", "gzip"):
            raise exchange.dialect.malformed("This Content-Encoding is not supported.")

    async def read(self, exchange: Exchange) -> None:
        """Reads the body into the exchange; give its bytes back with `release` when the request is over."""
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                await self._read(exchange)
        except TimeoutError:
            raise exchange.dialect.too_slow() from None
        except ClientDisconnect:
            raise exchange.dialect.malformed("The client went away before the body was complete.") from None

    async def _read(self, exchange: Exchange) -> None:
        chunks: list[bytes] = []
        async for chunk in exchange.request.stream():
            exchange.entry.request_bytes += len(chunk)
            self.held_bytes += len(chunk)
            if exchange.entry.request_bytes > self.limits.body_bytes:
                raise exchange.dialect.too_large(f"The body is larger than {self.limits.body_bytes} bytes.")
            if self.held_bytes > self.limits.bodies_bytes:
                raise exchange.dialect.throttled("Too many large requests at once.")
            chunks.append(chunk)
        exchange.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def decoded(self, exchange: Exchange) -> bytes:
        """The body without its Content-Encoding: SDKs compress that of PutMetricData. It is bounded like the body."""
        if exchange.header.get("content-encoding", "identity") != "gzip":
            return exchange.body
        inflater = zlib.decompressobj(wbits=31)
        try:
            content = inflater.decompress(exchange.body, self.limits.body_bytes)
        except zlib.error:
            raise exchange.dialect.malformed("The body is not valid gzip.") from None
        if inflater.unconsumed_tail:
            raise exchange.dialect.too_large(f"The body is larger than {self.limits.body_bytes} bytes.")
        if not inflater.eof or inflater.unused_data:
            raise exchange.dialect.malformed("The body is not valid gzip.")
        return content

    def release(self, exchange: Exchange) -> None:
        self.held_bytes -= exchange.entry.request_bytes
