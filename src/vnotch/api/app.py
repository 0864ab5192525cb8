"""The life of a request, as an ASGI application.

    on the event loop   check_head, find_service, read_body     bounded in size, time and number
    on a pool thread    authenticate, decode, find_operation, parse, authorise, run, write

Each step is a function of one `Exchange` and either adds to it or raises an ApiError, which the service's protocol
writes. Nothing else reaches the client: an exception that nobody meant is logged under the request id and answered as
an internal error without a word about it.

`answers` is the end of every request, `own_routes` the same life for routes that are not AWS's.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from vnotch.api.access_log import AccessEntry, AccessLog
from vnotch.api.answers import Answers
from vnotch.api.authorization_messages import AuthorizationMessages
from vnotch.api.exchange import Bodies, Exchange, Limits
from vnotch.api.gate import Gate, signature_of, signature_refused
from vnotch.api.request_context import tag_request_keys
from vnotch.api.service import ApiError, Call, Deferred, Handler, Service, Streamed
from vnotch.api.wire import dialect as dialects
from vnotch.api.wire.protocol import Protocol, WireAnswer, WireRequest, protocol_for, protocol_of
from vnotch.iam.evaluation import Decision
from vnotch.iam.sigv4 import Signature, SignatureError
from vnotch.iam.variables import Context
from vnotch.store.accounts import Accounts, Identity
from vnotch.store.state import State

log = logging.getLogger(__name__)


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
        self.answers = Answers(access_log, AuthorizationMessages(accounts.tokens))
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
                return self.answers.stream(exchange, answer)
        except Exception as error:
            answer = self.answers.error(exchange, error)
        finally:
            self.bodies.release(exchange)
        return self.answers.finish(exchange, answer)

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
        resource_keys = partial(service.resource_keys, call)
        self.require(exchange, exchange.entry.action, resources, resource_keys)
        for each in service.further(call, resources):
            context = {**exchange.context, **each.conditions}
            asked = (exchange.identity, each.actions, each.resources, context, exchange.dialect, resource_keys)
            action, decision = self.gate.authorise_one(*asked)
            exchange.entry.note_further(action, each.resources[-1], decision)
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

    # --- threads ---

    async def in_pool(self, exchange: Exchange, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs `function` on a pool thread; more than the bound of waiting requests are turned away."""
        if self.running >= self.limits.threads + self.limits.waiting:
            raise exchange.dialect.throttled()
        self.running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, partial(function, *arguments))
        finally:
            self.running -= 1

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


def _seen(future: asyncio.Future[Any]) -> None:
    """Takes note of an error that `Deferred.result` tells of, or that came too late for it."""
    if not future.cancelled():
        future.exception()


class Everything(BaseRoute):
    """The last route: whatever path and method a request has, it gets an answer of AWS's form."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL if scope["type"] == "http" else Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.api.answer(Request(scope, receive))
        await response(scope, receive, send)


class App(Starlette):
    """AWS's clients ask for the path /, which no route of ours has, so those requests go the short way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _take_origin_form(scope)
            if scope["path"] == "/":
                scope["app"] = self
                response = await self.state.api.answer(Request(scope, receive))
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


def _take_origin_form(scope: Scope) -> None:
    """A target in absolute form, as for a proxy, is taken as its path (RFC 9112, section 3.2.2: a server must). It is
    the path that a client signs."""
    raw: bytes = scope.get("raw_path") or b"/"
    if not raw.startswith(b"/") and (found := _AUTHORITY.match(raw)):
        scope["raw_path"] = raw[found.end() :] or b"/"
        scope["path"] = unquote(scope["raw_path"].decode("ascii", "replace"))


def build_app(
    state: State,
    services: Sequence[Service],
    accounts: Accounts,
    extra_routes: Iterable[BaseRoute] = (),
    access_log: AccessLog | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """The application. `extra_routes` come first (see `own_routes`); everything else is AWS's."""
    api = Api(services, accounts, access_log or AccessLog(), limits or Limits())

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        api.close()

    app = App(routes=[*extra_routes, Everything(api)], lifespan=lifespan)
    app.state.api = api
    app.state.control = state
    return app
