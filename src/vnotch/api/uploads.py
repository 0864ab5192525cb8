"""Uploads of flow log files: agents get requests that are signed for them, and put files into a folder's buckets.

    POST   /vnotch/v1/agents/{agent}/uploads      vnotch:PresignUpload      on the agent
    PUT    /vnotch/v1/objects?bucket=&key=&X-Amz-...                        by the signature in its query

An agent says which file it has; the key is made here, from the flow log's destination, so that an agent can write to no
other place than that of a flow log which covers one of its interfaces, or did so until shortly before.
"""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from xml.sax.saxutils import escape

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vnotch.api import bindings
from vnotch.api.agents import authorise
from vnotch.api.app import Api
from vnotch.api.exchange import Exchange
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.api.service import ApiError
from vnotch.api.wire import dialect
from vnotch.api.wire.protocol import WireAnswer
from vnotch.bucket_keys import HASH_DIGITS, SLOT_SECONDS, Layout, parse_bucket_arn
from vnotch.buckets.folder import ROUTE, Folder, Writing
from vnotch.buckets.upload import BucketStore, Upload
from vnotch.errors import AccessError, HostError, InputError
from vnotch.iam.sigv4 import SignatureError
from vnotch.store import agents, flow_log_files
from vnotch.store.accounts import Accounts
from vnotch.store.state import State

FILE_BYTES_MAX = 1 << 30
AHEAD_SECONDS = 86_400
"""How far an agent's clock may be before the server's."""

OBJECTS_AT_ONCE = 16
PIECE_BYTES = 1 << 20
OBJECT_SECONDS = 300.0
"""That one upload into a folder may take."""

_HASH = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}", re.ASCII)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileRequest:
    """What an agent says of a file."""

    flow_log_id: str
    slot_s: int
    name_hash: str
    length: int
    md5: str
    sha256: str

    @classmethod
    def of(cls, body: Mapping[str, Any], now_ms: int) -> FileRequest:
        """Raises ApiError, naming the member that is missing, unknown or wrong."""
        if set(body) != set(cls.__dataclass_fields__):
            raise bindings.invalid(f"the body has the members {', '.join(cls.__dataclass_fields__)}")
        slot_s, length = body["slot_s"], body["length"]
        if not isinstance(body["flow_log_id"], str):
            raise bindings.invalid("flow_log_id is a string")
        latest_s = now_ms // 1000 + AHEAD_SECONDS
        if type(slot_s) is not int or slot_s % SLOT_SECONDS or not 0 < slot_s <= latest_s:
            raise bindings.invalid(
                "slot_s is the beginning of five minutes, in Unix seconds, and not of a time to come"
            )
        if not isinstance(body["name_hash"], str) or not _HASH.fullmatch(body["name_hash"]):
            raise bindings.invalid(f"name_hash is {HASH_DIGITS} hexadecimal digits in small letters")
        if type(length) is not int or not 0 < length <= FILE_BYTES_MAX:
            raise bindings.invalid(f"length is a number from 1 to {FILE_BYTES_MAX}")
        for name, size in (("md5", 16), ("sha256", 32)):
            if not isinstance(body[name], str) or _bytes_in(body[name]) != size:
                raise bindings.invalid(f"{name} is {size} bytes in base64")
        return cls(**body)


def _bytes_in(text: str) -> int:
    try:
        return len(b64decode(text, validate=True))
    except (Base64Error, ValueError):
        return -1


class Uploads:
    """The endpoints' handlers. `routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, state: State, accounts: Accounts, buckets: BucketStore) -> None:
        self.state = state
        self.accounts = accounts
        self.buckets = buckets
        self._under_way = 0

    def routes(self) -> list[Route]:
        routes = [signed_route("/vnotch/v1/agents/{agent}/uploads", self.presign, ["POST"])]
        if isinstance(self.buckets, Folder):
            routes.append(Route(ROUTE, self.put_object, methods=["PUT"]))
        return routes

    async def presign(self, request: SignedRequest) -> dict[str, Any]:
        name = request.path_params["agent"]
        authorise(request, "PresignUpload", self.accounts.agent_arn(name))
        asked = FileRequest.of(request.json(), request.now_ms)
        signed: dict[str, Any] = await request.in_pool(self._presigned, name, asked, request.now_ms)
        return signed

    def _presigned(self, agent: str, asked: FileRequest, now_ms: int) -> dict[str, Any]:
        name = (asked.flow_log_id, asked.slot_s, asked.name_hash)
        with self.state.read() as session:
            flow_log = agents.bucket_flow_log(session, agent, asked.flow_log_id)
            is_given = flow_log_files.owner(session, *name) == (agent, asked.sha256)
        if flow_log is None:
            raise bindings.not_found(f"{agent} delivers no flow log {asked.flow_log_id} into a bucket")
        if not is_given:
            with self.state.write(notify=False) as session:
                is_given = flow_log_files.give(session, *name, agent, asked.sha256, now_ms)
        if not is_given:
            raise ApiError("ConflictException", f"another file of the slot has the hash {asked.name_hash}", 409)
        bucket, layout = place_of(flow_log, self.accounts)
        key = layout.key(asked.flow_log_id, asked.slot_s, asked.name_hash)
        return asdict(self.buckets.presign(Upload(bucket, key, asked.length, asked.md5, asked.sha256)))

    # A folder's buckets

    async def put_object(self, request: Request) -> Response:
        """Takes a file, piece by piece, and answers when it is on disk. Errors are S3's documents."""
        api: Api = request.app.state.api
        exchange = Exchange.begin(request, dialect.QUERY)
        exchange.entry.service, exchange.entry.action = "vnotch", "vnotch:PutObject"
        try:
            answer = await self._take(api, exchange)
        except (ApiError, SignatureError, AccessError, InputError, HostError) as error:
            answer = _refused(exchange, error)
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            answer = _s3_error(exchange, 500, "InternalError", "")
        return api.answers.finish(exchange, answer)

    async def _take(self, api: Api, exchange: Exchange) -> WireAnswer:
        assert isinstance(self.buckets, Folder)
        if self._under_way >= OBJECTS_AT_ONCE:
            raise ApiError("SlowDown", "Please reduce your request rate.", 503)
        self._under_way += 1
        try:
            writing = self.buckets.accept(exchange.headers, exchange.query, exchange.now_s)
            async with asyncio.timeout(OBJECT_SECONDS):
                await self._write(api, exchange, writing)
        except TimeoutError:
            raise ApiError("RequestTimeout", "The upload took too long.", 408) from None
        finally:
            self._under_way -= 1
        return WireAnswer(200, b"", {})

    async def _write(self, api: Api, exchange: Exchange, writing: Writing) -> None:
        gathered = bytearray()
        try:
            async for piece in exchange.request.stream():
                gathered += piece
                if len(gathered) >= PIECE_BYTES:
                    await api.in_pool(exchange, writing.write, bytes(gathered))
                    gathered.clear()
            await api.in_pool(exchange, writing.write, bytes(gathered))
            await api.in_pool(exchange, writing.finish)
        except ClientDisconnect:
            raise ApiError("IncompleteBody", "The client went away before the body was complete.", 400) from None
        finally:
            writing.abort()


def place_of(flow_log: agents.Delivered, accounts: Accounts) -> tuple[str, Layout]:
    """The bucket of a flow log, and where its files lie in it."""
    parsed = parse_bucket_arn(flow_log.log_destination or "")
    assert parsed is not None, "CreateFlowLogs takes nothing else"
    bucket, folder = parsed
    return bucket, Layout(
        folder=folder,
        account=accounts.account,
        region=accounts.region,
        file_format=flow_log.file_format or "plain-text",
        hive_compatible=bool(flow_log.hive_compatible_partitions),
        per_hour=bool(flow_log.per_hour_partition),
    )


def _refused(exchange: Exchange, error: Exception) -> WireAnswer:
    if isinstance(error, ApiError):
        return _s3_error(exchange, error.status, error.code, error.message)
    if isinstance(error, SignatureError):
        return _s3_error(exchange, 403, "AccessDenied", f"Request has expired or is not signed: {error.message}")
    if isinstance(error, AccessError):
        return _s3_error(exchange, 404, "NoSuchBucket", error.message)
    if isinstance(error, HostError):
        log.error("request %s: %s", exchange.request_id, error)
        return _s3_error(exchange, 503, "ServiceUnavailable", error.message)
    return _s3_error(exchange, 400, "BadDigest", str(error))


def _s3_error(exchange: Exchange, status: int, code: str, message: str) -> WireAnswer:
    exchange.entry.error_code = code
    text = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    return WireAnswer(status, text.encode(), {"content-type": "application/xml", "connection": "close"})
