"""What a service of the API is made of: a call, an operation, an error with an AWS code.

A service is a class with one method an operation. The method gets a `Call` whose parameters are already parsed and
validated by the service model (botocore's), and returns a dict with the members of the model's output shape. It knows
nothing of HTTP, of protocols or of signatures. Handlers are plain functions; the app runs them on a thread of a bounded
pool. One that waits for a commit returns a `Deferred`, so that callers who wait hold no threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from vnotch.api.accepts import Accepts
from vnotch.iam.evaluation import Decision
from vnotch.store.accounts import Identity

MESSAGE_MAX = 1_500
"""Characters of an error's text. Texts name what was sent, and an answer does not repeat kilobytes of it."""
_HEAD, _TAIL = 1_200, 200


class ApiError(Exception):
    """An answer of the API that is an error, with AWS's code and text (reference: the service's error page)."""

    def __init__(self, code: str, message: str, status: int = 400, members: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message if len(message) <= MESSAGE_MAX else f"{message[:_HEAD]}...{message[-_TAIL:]}"
        self.status = status
        self.members = dict(members or {})  # further members of a modelled error shape


@dataclass(frozen=True)
class Principal:
    """Who signed a call.

    `kind` is `user`, `assumed-role` or `agent`; `name` the user's, role's or agent's name. An agent's key stands for
    the service principal `vpc-flow-logs.amazonaws.com` for the flow logs on that agent's interfaces, and for nothing
    else. `session` is the role session name, which for a delivery is the flow log's id.
    """

    kind: str
    name: str
    arn: str
    account: str
    access_key_id: str
    user_id: str = ""
    session: str = ""


@dataclass(frozen=True)
class Call:
    """One authenticated, authorised request."""

    service: str  # ec2, iam, sts, logs, vnotch
    operation: str  # CreateFlowLogs
    params: dict[str, Any]  # by the model's member names, typed
    principal: Principal
    account: str
    region: str
    request_id: str
    now_ms: int
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names
    identity: Identity | None = None  # the principal with its policies, for operations that decide by themselves
    context: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)  # condition keys of the request
    note: Callable[[str, str, Decision], None] = lambda *_: None  # (action, resource, decision) for the access log


Resources = Callable[[Call], list[str]] | str
"""The ARNs that an operation touches, for the authorisation step; every one of them must be allowed.

A function of the call, or the name of a method of the service where the answer is in its state.
"""

ANY_RESOURCE: Callable[[Call], list[str]] = lambda call: ["*"]  # noqa: E731


@dataclass(frozen=True)
class Deferred:
    """A handler's result that depends on what others do: the app waits for the futures without a thread of the pool,
    for at most `seconds`, and then calls `result`, which must not wait any more."""

    futures: Sequence[Future[Any]]
    seconds: float
    result: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Streamed:
    """A handler's result that goes on: `events` gives (member of the output's event stream, its value) until it ends
    or raises an ApiError, which ends the stream with that exception. `close` is called once, also where the client
    went away before the first event."""

    events: AsyncIterator[tuple[str, dict[str, Any]]]
    close: Callable[[], None]


@dataclass(frozen=True)
class Further:
    """A permission that a call needs beside its own (ec2:CreateTags for a VPC that is made with tags). One of `actions`
    is enough, on all of `resources`; `conditions` are condition keys of it alone, in lower case."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, str] = field(default_factory=dict)


Result = dict[str, Any] | Deferred | Streamed
Handler = Callable[[Any, Call], Result]
F = TypeVar("F", bound=Handler)


def operation(
    name: str,
    resources: Resources = ANY_RESOURCE,
    *,
    unauthorised: bool = False,
    honours: str | None = None,
    unsupported: str = "",
    only: Mapping[str, tuple[Any, ...]] | None = None,
    note: str = "",
    accepts: Accepts | None = None,
) -> Callable[[F], F]:
    """Marks a method as the handler of an operation.

    `resources` gives the ARNs to authorise `service:Name` on. `unauthorised` is for the few operations that every
    authenticated principal may call (sts GetCallerIdentity) and for those that decide by themselves (sts AssumeRole,
    where the trust policy decides). `honours` or `unsupported` (names, separated by spaces), `only` and `note`, or
    `accepts` as a whole, say which parameters and values are refused before the handler is called: see `Accepts`.
    """
    honoured = None if honours is None else frozenset(honours.split())
    declared = accepts or Accepts(honoured, tuple(unsupported.split()), only or {}, note=note)

    def mark(handler: F) -> F:
        marked: Any = handler if declared.refuses_nothing else _refusing(handler, declared)
        marked.operation_name = name
        marked.operation_resources = resources
        marked.operation_unauthorised = unauthorised
        marked.operation_accepts = declared
        return marked  # type: ignore[no-any-return]

    return mark


def _refusing(handler: Handler, accepts: Accepts) -> Handler:
    @wraps(handler)
    def handle(service: Any, call: Call) -> Result:
        if (text := accepts.refusal(call.params)) is not None:
            raise ApiError(service.unsupported_code, text)
        return handler(service, call)

    return handle


class Service:
    """Base of the services. `name` is the signing name, `model` botocore's name of the service model."""

    name = ""
    model = ""
    policy_prefix = ""
    """Of its actions in policies, where it is another one than the signing name."""

    unsupported_code = "InvalidParameterValue"
    """The code of the error for what an operation does not honour."""

    def handlers(self) -> dict[str, Handler]:
        """Operation name -> bound handler, for each method marked with `operation`."""
        found = {}
        for attribute in dir(type(self)):
            handler = getattr(type(self), attribute)
            name = getattr(handler, "operation_name", None)
            if name:
                found[name] = getattr(self, attribute)
        return found

    def request_keys(self, call: Call) -> dict[str, str | tuple[str, ...]]:
        """Condition keys of the service's own that the parameters of a call give, in lower case."""
        return {}

    def resource_keys(self, call: Call, resource: str) -> Mapping[str, str | tuple[str, ...]]:
        """Condition keys of a resource, by its ARN. Asked for only where a policy has such a key."""
        return {}

    def further(self, call: Call, resources: Sequence[str]) -> Sequence[Further]:
        """The permissions that a call needs beside its own, which is on `resources`."""
        return ()

    def end(self) -> None:
        """The server is ending: lets answers that go on end soon. Called from a signal handler, so it must not wait."""

    def resources(self, handler: Handler, call: Call) -> list[str]:
        """The ARNs to authorise a call of `handler` on."""
        resources: Resources = handler.operation_resources  # type: ignore[attr-defined]
        if isinstance(resources, str):
            named: Callable[[Call], list[str]] = getattr(self, resources)
            return named(call)
        return resources(call)

    def close(self) -> None:
        """Ends what runs beside requests: called once, when no more of them come."""
