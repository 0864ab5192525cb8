"""The life of a request, as an ASGI application.

    on the event loop   check_head, find_service, read_body     bounded in size, time and number
    on a pool thread    authenticate, decode, find_operation, parse, authorise, run, write

Each step is a function of one `Exchange` and either adds to it or raises an ApiError, which the service's protocol
writes. Nothing else reaches the client: an exception that nobody meant is logged under the request id and answered as
an internal error without a word about it.

`signed_route` gives routes that are not AWS's the same bounds, authentication, authorisation and log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from vnotch.api.access_log import AccessEntry, AccessLog
from vnotch.api.authorization_messages import AuthorizationMessages
from vnotch.api.exchange import Bodies, Exchange, Limits
from vnotch.api.gate import Denied, Gate, signature_of, signature_refused
from vnotch.api.request_context import tag_request_keys
from vnotch.api.service import ApiError, Call, Deferred, Handler, Principal, Service, Streamed
from vnotch.api.wire import dialect as dialects
from vnotch.api.wire import event_stream
from vnotch.api.wire.protocol import Protocol, WireAnswer, WireRequest, protocol_for, protocol_of
from vnotch.errors import HostError, InputError, LimitError
from vnotch.iam.evaluation import Decision
from vnotch.iam.sigv4 import Signature, SignatureError
from vnotch.iam.variables import Context
from vnotch.store.accounts import Accounts, Identity
from vnotch.store.state import State

log = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
VNOTCH = "vnotch"
"""The signing name of our own routes."""


@dataclass(frozen=True)
class Served:
    """One service of this server: its handlers and the protocol that it speaks."""

    service: Service
    protocol: Protocol
    handlers: dict[str, Handler]


class Api:
    """All that the steps share. One for each app; `app.state.api` holds it."""

    def __init__(self, services: Sequence[Service], accounts: Accounts, access_log: AccessLog, limits: Limits) -> None:
        self.accounts = accounts
        self.gate = Gate(accounts)
        self.messages = AuthorizationMessages(accounts.tokens)
        self.access_log = access_log
        self.bodies = Bodies(limits)
        self.limits = limits
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="api")
        self.running = 0
        self.served = {s.name: Served(s, protocol_of(s.model or s.name), s.handlers()) for s in services}
        self._by_target = {
            str(served.protocol.model.metadata["targetPrefix"]): name
            for name, served in self.served.items()
            if "targetPrefix" in served.protocol.model.metadata
        }

    # --- AWS's requests ---

    async def answer(self, request: Request) -> Response:
        """The endpoint of every request that no other route has taken."""
        exchange = Exchange.begin(request, dialects.QUERY)
        try:
            self.find_service(exchange)
            await self.receive(exchange)
            answer = await self.in_pool(exchange, self.answer_sync, exchange)
            if isinstance(answer, Deferred):
                answer = await self.wait(exchange, answer)
            if isinstance(answer, Streamed):
                return self.stream(exchange, answer)
        except Exception as error:
            answer = self.write_error(exchange, error)
        finally:
            self.bodies.release(exchange)
        return self.finish(exchange, answer)

    def answer_sync(self, exchange: Exchange) -> WireAnswer | Deferred | Streamed:
        """The steps that compute and wait for the database; on a thread of the pool."""
        for step in (self.authenticate, self.decode, self.find_operation, self.parse, self.authorise):
            step(exchange)
        return self.run(exchange)

    async def receive(self, exchange: Exchange) -> None:
        self.bodies.check_head(exchange)
        await self.bodies.read(exchange)

    def find_service(self, exchange: Exchange) -> None:
        """By the credential scope; for unsigned requests by the target, only to word the refusal."""
        exchange.signature = signature_of(exchange.headers, exchange.query)
        if isinstance(exchange.signature, Signature):
            name = exchange.signature.service
        else:
            name = self._by_target.get(exchange.header.get("x-amz-target", "").partition(".")[0], "")
        if "json" in exchange.header.get("content-type", ""):
            exchange.dialect = dialects.JSON
        if name in self.served:
            served = self.served[name]
            spoken = protocol_for(served.service.model or name, exchange.header)
            exchange.served = served if spoken is served.protocol else replace(served, protocol=spoken)
            exchange.dialect = exchange.served.protocol.dialect
            exchange.entry.service = name

    def authenticate(self, exchange: Exchange) -> None:
        if isinstance(exchange.signature, SignatureError):
            if exchange.served is None:
                self._find_service_by_version(exchange)
            raise signature_refused(exchange.signature, exchange.dialect)
        assert exchange.signature is not None
        exchange.entry.access_key_id = exchange.signature.access_key_id
        if exchange.served is None:
            # The signature is verified first: what is served here is nobody's business without a key.
            service = exchange.signature.service
            self._verified(exchange, service)
            names = ", ".join(sorted(self.served))
            raise exchange.dialect.unknown_action(f"of the service {service} (served here: {names})", "")
        self.identify(exchange, exchange.served.service.name)

    def _find_service_by_version(self, exchange: Exchange) -> None:
        """An unsigned form names its service by the Version alone; it only changes the words of the refusal."""
        text = exchange.query.encode("utf-8", "surrogateescape") + b"&" + exchange.body[:4096]
        for served in self.served.values():
            version = str(served.protocol.model.metadata["apiVersion"]).encode()
            if b"Version=" + version in text:
                exchange.served, exchange.dialect = served, served.protocol.dialect

    def identify(self, exchange: Exchange, service: str) -> None:
        assert isinstance(exchange.signature, Signature)
        exchange.identity = self._verified(exchange, service)
        exchange.principal = self.gate.principal(exchange.identity)
        exchange.entry.principal_arn = exchange.identity.arn

    def _verified(self, exchange: Exchange, service: str) -> Identity:
        """Whose signature it is, with the payload verified too."""
        assert isinstance(exchange.signature, Signature)
        try:
            identity = self.gate.authenticate(exchange.signature, exchange.signed(), service, exchange.dialect)
            exchange.unchunk(identity.secret_access_key)
        except SignatureError as error:
            raise signature_refused(error, exchange.dialect) from None
        return identity

    def decode(self, exchange: Exchange) -> None:
        """The content of a body that was compressed; the signature covers it as it was sent."""
        exchange.content = self.bodies.decoded(exchange)

    def find_operation(self, exchange: Exchange) -> None:
        query = exchange.query.encode("utf-8", "surrogateescape")
        exchange.wire = WireRequest(exchange.request.method, query, exchange.header, exchange.content, exchange.path)
        operation = exchange.served.protocol.operation(exchange.wire)
        if operation.name not in exchange.served.handlers:
            raise exchange.dialect.unknown_action(operation.name, exchange.served.protocol.model.metadata["apiVersion"])
        exchange.operation = operation
        service = exchange.served.service
        exchange.entry.action = f"{service.policy_prefix or service.name}:{operation.name}"

    def parse(self, exchange: Exchange) -> None:
        exchange.params = exchange.served.protocol.parameters(exchange.operation, exchange.wire)

    def authorise(self, exchange: Exchange) -> None:
        assert exchange.identity is not None
        exchange.context = self.gate.context(exchange.identity, exchange.circumstances())
        exchange.context |= tag_request_keys(exchange.params)
        handler = exchange.served.handlers[exchange.operation.name]
        if getattr(handler, "operation_unauthorised", False):
            return
        service, call = exchange.served.service, self.call(exchange)
        exchange.context |= service.request_keys(call)
        resources = service.resources(handler, call)
        self.require(exchange, exchange.entry.action, resources, partial(service.resource_keys, call))
        # An operation that needs more permissions than its own (iam:PassRole) answers DryRun after asking for them.
        by_itself = getattr(handler, "operation_answers_dry_run", False)
        if exchange.dialect is dialects.EC2 and exchange.params.get("DryRun") and not by_itself:
            raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)

    def require(
        self,
        exchange: Exchange,
        action: str,
        resources: Iterable[str],
        resource_keys: Callable[[str], Context] | None = None,
    ) -> None:
        """Authorises `action` on every resource and notes the decision; ApiError where one is denied."""
        identity, context = exchange.identity, exchange.context
        assert identity is not None
        exchange.entry.resources = tuple(resources)
        named = exchange.entry.resources
        decision = self.gate.authorise(identity, action, named, context, exchange.dialect, resource_keys)
        exchange.entry.note(decision)

    def call(self, exchange: Exchange) -> Call:
        assert exchange.principal is not None
        assert isinstance(exchange.signature, Signature)
        return Call(
            service=exchange.served.service.name,
            operation=exchange.operation.name,
            params=exchange.params,
            principal=exchange.principal,
            account=self.accounts.account,
            region=self.accounts.region,
            request_id=exchange.request_id,
            now_ms=int(exchange.now_s * 1000),
            headers=exchange.header,
            identity=exchange.identity,
            context=exchange.context,
            note=partial(_note, exchange.entry),
        )

    def run(self, exchange: Exchange) -> WireAnswer | Deferred | Streamed:
        result = exchange.served.handlers[exchange.operation.name](self.call(exchange))
        return result if isinstance(result, Deferred | Streamed) else self.write(exchange, result)

    async def wait(self, exchange: Exchange, deferred: Deferred) -> WireAnswer:
        """On the event loop: the requests that wait are bounded by the connections and by what they wait for."""
        waiting = [asyncio.wrap_future(future) for future in deferred.futures]
        for future in waiting:
            future.add_done_callback(_seen)
        await asyncio.wait(waiting, timeout=deferred.seconds)
        return self.write(exchange, deferred.result())

    def write(self, exchange: Exchange, result: dict[str, Any]) -> WireAnswer:
        answer: WireAnswer = exchange.served.protocol.answer(exchange.operation, result or {}, exchange.request_id)
        return answer

    # --- the end of every request ---

    async def in_pool(self, exchange: Exchange, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs `function` on a pool thread; more than the bound of waiting requests are turned away."""
        if self.running >= self.limits.threads + self.limits.waiting:
            raise exchange.dialect.throttled()
        self.running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, partial(function, *arguments))
        finally:
            self.running -= 1

    def api_error(self, exchange: Exchange, error: Exception) -> ApiError:
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

    def write_error(self, exchange: Exchange, error: Exception) -> WireAnswer:
        told = self.api_error(exchange, error)
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
        headers = {**answer.headers, **_request_ids(exchange)}
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
                told = self.api_error(exchange, error)
                entry.error_code = told.code
                yield writer.exception(told)

        def ended() -> None:
            streamed.close()
            entry.duration_ms = round((time.perf_counter() - exchange.started_s) * 1000, 3)
            self.access_log.add(entry)

        return Stream(frames(), ended, {"content-type": event_stream.CONTENT_TYPE, **_request_ids(exchange)})

    def end(self) -> None:
        """See Service.end."""
        for served in self.served.values():
            served.service.end()

    def close(self) -> None:
        for served in self.served.values():
            served.service.close()
        self.pool.shutdown(wait=True, cancel_futures=True)


def _note(entry: AccessEntry, action: str, resource: str, decision: Decision) -> None:
    """What an operation has decided by itself, or asked for beside its own permission."""
    if entry.decision:
        entry.note_further(action, resource, decision)
    else:
        entry.resources = (resource,)
        entry.note(decision)


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


def _request_ids(exchange: Exchange) -> dict[str, str]:
    return {"x-amzn-requestid": exchange.request_id, "x-amz-request-id": exchange.request_id}


def _seen(future: asyncio.Future[Any]) -> None:
    """Takes note of an error that `Deferred.result` tells of, or that came too late for it."""
    if not future.cancelled():
        future.exception()


def json_error(error: ApiError) -> WireAnswer:
    body = orjson.dumps({"__type": error.code, "message": error.message, **error.members})
    return WireAnswer(error.status, body, {"content-type": "application/x-amz-json-1.1"})


# --- routes of our own ---


@dataclass
class SignedRequest:
    """A request to one of our own routes whose signature has been verified. The endpoint must call `authorise`."""

    api: Api
    exchange: Exchange
    principal: Principal
    path_params: dict[str, str]
    query_params: dict[str, str]
    authorised: bool = field(default=False)

    @property
    def request_id(self) -> str:
        return self.exchange.request_id

    @property
    def now_ms(self) -> int:
        return int(self.exchange.now_s * 1000)

    @property
    def account(self) -> str:
        return self.api.accounts.account

    @property
    def region(self) -> str:
        return self.api.accounts.region

    def authorise(self, action: str, *resources: str) -> None:
        """Raises ApiError (AccessDeniedException) unless the principal may do `action` (vnotch:PutStatus) on all."""
        self.exchange.entry.action = action
        assert self.exchange.identity is not None
        gate, circumstances = self.api.gate, self.exchange.circumstances()
        self.exchange.context = gate.context(self.exchange.identity, circumstances)
        self.api.require(self.exchange, action, resources)
        self.authorised = True

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ApiError where it is none. An empty body is an empty object."""
        try:
            content = orjson.loads(self.exchange.body) if self.exchange.body else {}
        except orjson.JSONDecodeError:
            raise ApiError("SerializationException", "The body is not valid JSON in UTF-8.") from None
        if not isinstance(content, dict):
            raise ApiError("SerializationException", "The body must be a JSON object.")
        return content

    async def in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function that waits (the database) on a thread of the API's pool."""
        return await self.api.in_pool(self.exchange, function, *arguments)


Endpoint = Callable[[SignedRequest], Awaitable[dict[str, Any]]]


def signed_route(path: str, endpoint: Endpoint, methods: Sequence[str] = ("GET",)) -> Route:
    """A route for `extra_routes`, signed with the service name `vnotch`.

    `endpoint` is a coroutine function: it gets a `SignedRequest`, calls its `authorise` before it does anything, and
    returns the JSON object of a 200 answer. An ApiError becomes its status and `{"__type": code, "message": text}`.
    """

    async def answer(request: Request) -> Response:
        api: Api = request.app.state.api
        exchange = Exchange.begin(request, dialects.JSON)
        exchange.entry.service = VNOTCH
        try:
            await api.receive(exchange)
            exchange.signature = signature_of(exchange.headers, exchange.query)
            if isinstance(exchange.signature, SignatureError):
                raise signature_refused(exchange.signature, exchange.dialect)
            exchange.entry.access_key_id = exchange.signature.access_key_id
            await api.in_pool(exchange, api.identify, exchange, VNOTCH)
            assert exchange.principal is not None
            signed = SignedRequest(
                api, exchange, exchange.principal, dict(request.path_params), dict(request.query_params)
            )
            content = await endpoint(signed)
            if not signed.authorised:
                raise AssertionError(f"the endpoint of {path} did not authorise the request")
            result = WireAnswer(200, orjson.dumps(content), {"content-type": "application/json"})
        except Exception as error:
            told = api.api_error(exchange, error)
            exchange.entry.error_code = told.code
            result = json_error(told)
        finally:
            api.bodies.release(exchange)
        return api.finish(exchange, result)

    return Route(path, answer, methods=list(methods))


def build_app(
    state: State,
    services: Sequence[Service],
    accounts: Accounts,
    extra_routes: Iterable[BaseRoute] = (),
    access_log: AccessLog | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """The application. `extra_routes` come first (see `signed_route`); every other path is AWS's."""
    api = Api(services, accounts, access_log or AccessLog(), limits or Limits())

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        api.close()

    routes = [*extra_routes, Route("/{path:path}", api.answer, methods=METHODS)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.api = api
    app.state.control = state
    return app


__all__ = ["Api", "Limits", "SignedRequest", "build_app", "signed_route"]
