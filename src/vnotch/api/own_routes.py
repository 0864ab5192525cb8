"""Routes that are not AWS's, with the same bounds, authentication, authorisation and log: `signed_route`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vnotch.api.answers import json_error
from vnotch.api.app import Api
from vnotch.api.exchange import Exchange
from vnotch.api.gate import signature_of, signature_refused
from vnotch.api.service import ApiError, Call, Principal
from vnotch.api.wire import dialect as dialects
from vnotch.api.wire.constraints import nul_in
from vnotch.api.wire.protocol import WireAnswer
from vnotch.iam.sigv4 import SignatureError

VNOTCH = "vnotch"
"""The signing name of our own routes."""


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
        # What an AWS service's action decides by of a resource (tags of a log group), it decides by here too.
        prefix, _, name = action.partition(":")
        served = self.api.served.get(prefix)
        keys = None if served is None else partial(served.service.resource_keys, self._call(prefix, name))
        self.api.require(self.exchange, action, resources, keys)
        self.authorised = True

    def _call(self, service: str, operation: str) -> Call:
        return Call(service, operation, {}, self.principal, self.account, self.region, self.request_id, self.now_ms)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ApiError where it is none. An empty body is an empty object."""
        try:
            content = orjson.loads(self.exchange.body) if self.exchange.body else {}
        except orjson.JSONDecodeError:
            raise ApiError("SerializationException", "The body is not valid JSON in UTF-8.") from None
        if not isinstance(content, dict):
            raise ApiError("SerializationException", "The body must be a JSON object.")
        _refuse_nul(content)
        return content

    async def in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function that waits (the database) on a thread of the API's pool."""
        return await self.api.in_pool(self.exchange, function, *arguments)


def _refuse_nul(content: dict[str, Any]) -> None:
    if (violation := nul_in(content)) is not None:
        raise dialects.JSON.violations("", [violation])


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
            _refuse_nul(signed.path_params | signed.query_params)
            content = await endpoint(signed)
            if not signed.authorised:
                raise AssertionError(f"the endpoint of {path} did not authorise the request")
            result = WireAnswer(200, orjson.dumps(content), {"content-type": "application/json"})
        except Exception as error:
            told = api.answers.told(exchange, error)
            exchange.entry.error_code = told.code
            result = json_error(told)
        finally:
            api.bodies.release(exchange)
        return api.answers.finish(exchange, result)

    return Route(path, answer, methods=list(methods))
