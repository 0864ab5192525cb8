"""The end of every request: what is told of an error, the answer with its request ids, the line in the access log.

Requests that never become one (`api.http`: a head that is no HTTP, that does not end, a connection too many) end here
too, so that each has a request id and a line like the others.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from vnotch.api.access_log import AccessEntry, AccessLog
from vnotch.api.authorization_messages import AuthorizationMessages
from vnotch.api.exchange import Exchange
from vnotch.api.gate import Denied
from vnotch.api.service import ApiError, Streamed
from vnotch.api.wire import dialect as dialects
from vnotch.api.wire import event_stream
from vnotch.api.wire.protocol import WireAnswer, protocol_of
from vnotch.errors import HostError, InputError, LimitError

log = logging.getLogger(__name__)


class Answers:
    """One for each app. On the event loop."""

    def __init__(self, access_log: AccessLog, messages: AuthorizationMessages) -> None:
        self.access_log = access_log
        self.messages = messages

    def told(self, exchange: Exchange, error: Exception) -> ApiError:
        """What the client is told of an exception."""
        if isinstance(error, Denied):
            exchange.entry.note(error.decision)
            exchange.entry.denied = error.detail()
            if exchange.dialect is dialects.EC2:
                encoded = self.messages.encode(exchange.request_id)
                text = f"{error.message} Encoded authorization failure message: {encoded}"
                return ApiError(error.code, text, error.status)
        if isinstance(error, ApiError):
            return error
        if isinstance(error, InputError):
            return ApiError("InvalidParameterValue", error.message)
        if isinstance(error, LimitError):
            return exchange.dialect.throttled(error.message)
        if isinstance(error, HostError):
            log.error("request %s %s: %s", exchange.request_id, exchange.entry.action, error)
            return exchange.dialect.unavailable(str(error))
        log.error("request %s %s failed", exchange.request_id, exchange.entry.action, exc_info=error)
        return exchange.dialect.internal()

    def error(self, exchange: Exchange, error: Exception) -> WireAnswer:
        told = self.told(exchange, error)
        exchange.entry.error_code = told.code
        if exchange.served is not None:
            answer: WireAnswer = exchange.served.protocol.error(told, exchange.request_id)
            return answer
        if exchange.dialect is dialects.JSON:
            return json_error(told)
        return protocol_of("iam").error(told, exchange.request_id)

    def finish(self, exchange: Exchange, answer: WireAnswer) -> Response:
        entry = exchange.entry
        entry.status, entry.response_bytes = answer.status, len(answer.body)
        entry.duration_ms = round((time.perf_counter() - exchange.started_s) * 1000, 3)
        self.access_log.add(entry)
        headers = {**answer.headers, **_request_ids(exchange.request_id)}
        if entry.status in (408, 413) or (entry.status >= 400 and not exchange.body):
            headers["connection"] = "close"  # what is left of a refused body must not be read as the next request
        return Response(answer.body, answer.status, headers)

    def stream(self, exchange: Exchange, streamed: Streamed) -> Response:
        """The answer that goes on. Its entry in the access log is written at its end."""
        writer = exchange.served.protocol.stream(exchange.operation)
        entry = exchange.entry
        entry.status = 200

        async def frames() -> AsyncIterator[bytes]:
            yield writer.initial()
            try:
                async for name, value in streamed.events:
                    written = writer.event(name, value)
                    entry.response_bytes += len(written)
                    yield written
            except Exception as error:
                told = self.told(exchange, error)
                entry.error_code = told.code
                yield writer.exception(told)

        def ended() -> None:
            streamed.close()
            entry.duration_ms = round((time.perf_counter() - exchange.started_s) * 1000, 3)
            self.access_log.add(entry)

        return Stream(frames(), ended, {"content-type": event_stream.CONTENT_TYPE, **_request_ids(exchange.request_id)})

    def refuse(self, remote: str, error: ApiError) -> bytes:
        """The whole answer to what never became a request; the connection ends with it."""
        entry = AccessEntry(int(time.time() * 1000), str(uuid.uuid4()), remote, "", error_code=error.code)
        answer = protocol_of("iam").error(error, entry.request_id)
        entry.status, entry.response_bytes = answer.status, len(answer.body)
        self.access_log.add(entry)
        headers = {**answer.headers, **_request_ids(entry.request_id), "connection": "close"}
        headers["content-length"] = str(len(answer.body))
        head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{head}{lines}\r\n".encode() + answer.body


class Stream(StreamingResponse):
    """An answer of many pieces; `ended` is called when it is over, however it ends."""

    def __init__(self, pieces: AsyncIterator[bytes], ended: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(pieces, headers=headers)
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ended()


def _request_ids(request_id: str) -> dict[str, str]:
    return {"x-amzn-requestid": request_id, "x-amz-request-id": request_id}


def json_error(error: ApiError) -> WireAnswer:
    body = orjson.dumps({"__type": error.code, "message": error.message, **error.members})
    return WireAnswer(error.status, body, {"content-type": "application/x-amz-json-1.1"})
