"""vnotch's own endpoints: agents, their configuration and status, and the bindings of interfaces.

    PUT    /vnotch/v1/agents/{agent}                              vnotch:PutAgent           on the agent
    GET    /vnotch/v1/agents/{agent}/configuration                vnotch:GetConfiguration   on the agent
    POST   /vnotch/v1/agents/{agent}/status                       vnotch:PutStatus          on the agent
    GET    /vnotch/v1/agents/{agent}/status                       vnotch:GetStatus          on the agent
    PUT    /vnotch/v1/agents/{agent}/candidates                   vnotch:PutCandidates      on the agent
    PUT    /vnotch/v1/network-interfaces/{eni}/binding            vnotch:PutBinding         on the network interface
    GET    /vnotch/v1/network-interfaces/{eni}/binding            vnotch:GetBinding
    DELETE /vnotch/v1/network-interfaces/{eni}/binding            vnotch:DeleteBinding

Requests are signed with the service name `vnotch`. An agent's key may do GetConfiguration, PutStatus and PutCandidates
on its own agent and nothing else here (see `vnotch.api.gate`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.routing import Route

from vnotch.api import bindings, enrolment
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.api.service import ApiError
from vnotch.api.watch import WAITERS_MAX, ConfigurationWatch, TooManyWaiters, Waiter
from vnotch.store import agents, network
from vnotch.store.accounts import Accounts
from vnotch.store.state import State

WAIT_SECONDS_MAX = 60
STATUS_BYTES_MAX = 4 << 20
CANDIDATES_BYTES_MAX = 1 << 20
REPORT_SECONDS_MIN = 0.5
"""Between two reports of candidates of one agent."""


class Agents:
    """The endpoints' handlers. `routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, state: State, accounts: Accounts, waiters_max: int = WAITERS_MAX) -> None:
        self.state = state
        self.accounts = accounts
        self.watch = ConfigurationWatch(state, waiters_max)
        self._reported: dict[str, float] = {}  # agent -> when it reported candidates last

    def routes(self) -> list[Route]:
        agent, interface = "/vnotch/v1/agents/{agent}", "/vnotch/v1/network-interfaces/{interface}/binding"
        return [
            signed_route(agent, self.put_agent, ["PUT"]),
            signed_route(f"{agent}/configuration", self.get_configuration, ["GET"]),
            signed_route(f"{agent}/status", self.status, ["GET", "POST"]),
            signed_route(f"{agent}/candidates", self.put_candidates, ["PUT"]),
            signed_route(interface, self.binding, ["GET", "PUT", "DELETE"]),
        ]

    def flow_log_for(self, agent: str, role_arn: str, session_name: str) -> tuple[str, str] | None:
        """For STS: the flow log for which `agent` may assume the role under that session name, as (id, ARN)."""
        with self.state.read() as session:
            found = agents.flow_log_for(session, agent, role_arn, session_name)
            if found is None:
                return None
            arn = f"arn:aws:ec2:{self.accounts.region}:{self.accounts.account}:vpc-flow-log/{found.flow_log_id}"
            return found.flow_log_id, arn

    async def put_agent(self, request: SignedRequest) -> dict[str, Any]:
        """Makes the agent where there is none, and gives it a new key in place of the one it had."""
        name = self._agent(request, "PutAgent")
        if not bindings.AGENT_NAME.fullmatch(name):
            raise bindings.invalid("an agent's name has 1 to 64 of a-z A-Z 0-9 _ . - and begins with a letter or digit")

        def put() -> dict[str, Any]:
            with self.state.write() as session:
                if session.get(network.Agent, name) is None:
                    revision = agents.next_revision(session)
                    session.add(network.Agent(name=name, revision=revision, created_ms=request.now_ms))
            access_key_id, secret_access_key = self.accounts.make_agent_key(name)
            return {"agent": name, "access_key_id": access_key_id, "secret_access_key": secret_access_key}

        return await _in_pool(request, put)

    async def get_configuration(self, request: SignedRequest) -> dict[str, Any]:
        """The configuration at once where its revision is not the one given, else when it changes or the wait ends."""
        name = self._agent(request, "GetConfiguration")
        known = _number(request, "revision", -1)
        deadline = time.monotonic() + min(max(_number(request, "wait_seconds", 0), 0), WAIT_SECONDS_MAX)
        try:
            with self.watch.waiter(name, known) as waiter:
                await self._wait(request, name, waiter, deadline)
        except TooManyWaiters:
            raise ApiError("LimitExceededException", "Too many agents wait for their configuration.", 503) from None
        return await _in_pool(request, lambda: self._configuration(name))

    async def _wait(self, request: SignedRequest, name: str, waiter: Waiter, deadline: float) -> None:
        """Returns when the agent's revision is another one, when the time is over or when the client has gone."""
        if await _in_pool(request, lambda: self._revision(name)) != waiter.known:
            return
        gone = asyncio.create_task(_disconnected(request.exchange.request))
        woken = asyncio.create_task(waiter.woken.wait())
        try:
            remaining = max(0.0, deadline - time.monotonic())
            await asyncio.wait({woken, gone}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            gone.cancel()

    async def status(self, request: SignedRequest) -> dict[str, Any]:
        if request.exchange.request.method == "POST":
            return await self._post_status(request)
        name = self._agent(request, "GetStatus")

        def get() -> dict[str, Any]:
            with self.state.read() as session:
                row = session.get(network.Agent, name)
                if row is None:
                    raise bindings.not_found(f"there is no agent {name}")
                return {**(row.status or {}), "received_ms": row.received_ms}

        return await _in_pool(request, get)

    async def _post_status(self, request: SignedRequest) -> dict[str, Any]:
        name = self._agent(request, "PutStatus")
        if len(request.exchange.body) > STATUS_BYTES_MAX:
            raise ApiError("RequestEntityTooLargeException", f"A status has at most {STATUS_BYTES_MAX} bytes.", 413)
        document = request.json()

        def post() -> dict[str, Any]:
            with self.state.write(notify=False) as session:
                bindings.report(session, name, document, request.now_ms)
            return {}

        return await _in_pool(request, post)

    async def put_candidates(self, request: SignedRequest) -> dict[str, Any]:
        name = self._agent(request, "PutCandidates")
        if len(request.exchange.body) > CANDIDATES_BYTES_MAX:
            raise ApiError("RequestEntityTooLargeException", f"A report has at most {CANDIDATES_BYTES_MAX} bytes.", 413)
        if time.monotonic() < self._reported.get(name, float("-inf")) + REPORT_SECONDS_MIN:
            raise ApiError("ThrottlingException", "Candidates are reported more often than they are taken.", 429)
        candidates = enrolment.candidates_of(request.json())

        def put() -> dict[str, Any]:
            with self.state.write() as session:
                answer = enrolment.enrol(session, name, candidates, request.now_ms)
            self._reported[name] = time.monotonic()  # of agents that there are, so the table is bounded
            return answer

        return await _in_pool(request, put)

    async def binding(self, request: SignedRequest) -> dict[str, Any]:
        method, interface_id = request.exchange.request.method, request.path_params["interface"]
        method = "GET" if method == "HEAD" else method
        verb = {"GET": "GetBinding", "PUT": "PutBinding", "DELETE": "DeleteBinding"}[method]
        authorise(request, verb, f"arn:aws:ec2:{request.region}:{request.account}:network-interface/{interface_id}")

        def get() -> dict[str, Any]:
            with self.state.read() as session:
                return bindings.describe(bindings.binding_of(session, interface_id), request.now_ms)

        def put() -> dict[str, Any]:
            asked = bindings.BindingRequest.of(request.json())
            with self.state.write() as session:
                bound = bindings.bind(session, interface_id, asked, request.now_ms)
                return bindings.describe(bound, request.now_ms)

        def delete() -> dict[str, Any]:
            with self.state.write() as session:
                bindings.unbind(session, interface_id)
            return {}

        return await _in_pool(request, {"GET": get, "PUT": put, "DELETE": delete}[method])

    def _agent(self, request: SignedRequest, verb: str) -> str:
        """The agent that the path names, once the caller is authorised for `verb` on it."""
        name = request.path_params["agent"]
        authorise(request, verb, self.accounts.agent_arn(name))
        return name

    def _revision(self, name: str) -> int:
        with self.state.read() as session:
            revision = agents.revision_of(session, name)
        if revision is None:
            raise bindings.not_found(f"there is no agent {name}")
        return revision

    def _configuration(self, name: str) -> dict[str, Any]:
        with self.state.read() as session:
            found = agents.configuration(session, name, self.accounts.account, self.accounts.region)
        if found is None:
            raise bindings.not_found(f"there is no agent {name}")
        return found.to_json()


def authorise(request: SignedRequest, verb: str, resource: str) -> None:
    """Raises ApiError (403) unless the caller may do `verb` of vnotch's own on the resource."""
    try:
        request.authorise(f"vnotch:{verb}", resource)
    except ApiError as error:
        error.status = 403  # AWS's JSON services say 400, where these endpoints say what HTTP says
        raise


T = TypeVar("T")


async def _in_pool(request: SignedRequest, function: Callable[[], T]) -> T:
    result: T = await request.in_pool(function)
    return result


async def _disconnected(request: Request) -> None:
    """Returns once the client has gone; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _number(request: SignedRequest, name: str, default: int) -> int:
    text = request.query_params.get(name)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise bindings.invalid(f"{name} is a whole number, not {text!r}") from None
