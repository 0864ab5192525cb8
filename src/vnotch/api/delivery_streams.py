"""Where a flow log's delivery stream leads, for the agents that deliver it.

    POST /vnotch/v1/agents/{agent}/delivery-streams     vnotch:GetDeliveryStream     on the agent

An agent gets the endpoint and its access key for a flow log that covers one of its interfaces, or did so until shortly
before, and for no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from vnotch.api import bindings
from vnotch.api.agents import authorise
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.delivery_streams import DeliveryStream, stream_name
from vnotch.store import agents, network
from vnotch.store.accounts import Accounts
from vnotch.store.state import State


class StreamTargets:
    """The endpoint's handler. `routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, state: State, accounts: Accounts, streams: Mapping[str, DeliveryStream]) -> None:
        self.state = state
        self.accounts = accounts
        self.streams = streams

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/agents/{agent}/delivery-streams", self.get, ["POST"])]

    async def get(self, request: SignedRequest) -> dict[str, Any]:
        name = request.path_params["agent"]
        authorise(request, "GetDeliveryStream", self.accounts.agent_arn(name))
        body = request.json()
        if set(body) != {"flow_log_id"} or not isinstance(body["flow_log_id"], str):
            raise bindings.invalid("the body has the member flow_log_id, a string")
        found: dict[str, Any] = await request.in_pool(self._target, name, body["flow_log_id"])
        return found

    def _target(self, agent: str, flow_log_id: str) -> dict[str, Any]:
        with self.state.read() as session:
            flow_log = agents.delivered_flow_log(session, agent, flow_log_id, network.FIREHOSE)
            arn = flow_log.log_destination if flow_log is not None else None
        if arn is None:
            raise bindings.not_found(f"{agent} delivers no flow log {flow_log_id} into a delivery stream")
        stream = self.streams.get(stream_name(arn) or "")
        if stream is None:
            raise bindings.not_found(f"no endpoint is configured for {arn} (vnotch server --delivery-streams)")
        return {
            "arn": arn,
            "url": stream.url,
            "access_key": stream.access_key,
            "compress": stream.compress,
            "attributes": dict(stream.attributes),
        }
