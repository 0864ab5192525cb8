"""Hosts in lab mode: they say that they are there, learn which instances to build, and say what became of each.

    PUT    /vnotch/v1/lab-hosts/{name}    vnotch:PutLabHost    on the lab host

One call does it all, a few times a minute: the host sends what it knows of its instances and gets what it is to have,
whole; a call that is lost or repeated changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.routing import Route

from vnotch.api import bindings
from vnotch.api.ec2.instances import end, forget_old
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.store import instances, network
from vnotch.store.accounts import Accounts
from vnotch.store.instances import Instance, LabHost
from vnotch.store.state import State

REPORTS_MAX = 1000
REASON_CHARACTERS = 200
_NAME = re.compile(r"[a-z][a-z0-9]{0,13}")
_VPC_ID = re.compile(r"vpc-[0-9a-f]{8,17}")
STATES = ("running", "terminated", "failed")


@dataclass(frozen=True)
class Report:
    """What became of an instance; `reason` is for people, of one that failed."""

    instance_id: str
    state: str  # one of STATES
    reason: str


class LabHosts:
    """The endpoint's handler. `routes()` goes into `build_app(extra_routes=...)`."""

    def __init__(self, state: State, accounts: Accounts) -> None:
        self.state = state
        self.accounts = accounts

    def routes(self) -> list[Route]:
        return [signed_route("/vnotch/v1/lab-hosts/{name}", self.put, ["PUT"])]

    async def put(self, request: SignedRequest) -> dict[str, Any]:
        name = request.path_params["name"]
        arn = f"arn:aws:vnotch:{self.accounts.region}:{self.accounts.account}:lab-host/{name}"
        request.authorise("vnotch:PutLabHost", arn)
        if not _NAME.fullmatch(name):
            raise bindings.invalid("a lab host's name has 1 to 14 of a-z and 0-9, a letter first")
        vpc_id, reports = _checked(request.json())

        def put() -> dict[str, Any]:
            return self._put(name, vpc_id, reports, request.now_ms)

        answer: dict[str, Any] = await request.in_pool(put)
        return answer

    def _put(self, name: str, vpc_id: str | None, reports: list[Report], now_ms: int) -> dict[str, Any]:
        with self.state.write(notify=False) as session:
            host = session.get(LabHost, name)
            if host is None:
                host = LabHost(name=name, vpc_id=vpc_id, seen_ms=now_ms)
                session.add(host)
            elif vpc_id is not None:
                host.vpc_id = vpc_id
            host.seen_ms = now_ms
            for report in reports:
                _take_in(session, name, report, now_ms)
            forget_old(session, now_ms)
            session.flush()
            rows = session.scalars(
                select(Instance)
                .where(Instance.host == name, Instance.state.in_(instances.ALIVE))
                .order_by(Instance.number)
            )
            return {"vpc_id": host.vpc_id, "instances": [_wanted(row) for row in rows]}


def _checked(body: Any) -> tuple[str | None, list[Report]]:
    if not isinstance(body, Mapping) or set(body) - {"vpc_id", "reports"}:
        raise bindings.invalid("the body is a JSON object with vpc_id and reports")
    vpc_id, reports = body.get("vpc_id"), body.get("reports", [])
    if vpc_id is not None and not (isinstance(vpc_id, str) and _VPC_ID.fullmatch(vpc_id)):
        raise bindings.invalid("vpc_id is null or the id of a VPC")
    if not isinstance(reports, list) or len(reports) > REPORTS_MAX:
        raise bindings.invalid(f"reports is a list of at most {REPORTS_MAX}")
    return vpc_id, [_report(item) for item in reports]


def _report(item: Any) -> Report:
    if not isinstance(item, Mapping) or set(item) - {"instance_id", "state", "reason"}:
        raise bindings.invalid("reports: each is a JSON object with instance_id, state and reason")
    instance_id, state, reason = item.get("instance_id"), item.get("state"), item.get("reason") or ""
    if not isinstance(instance_id, str) or not isinstance(reason, str):
        raise bindings.invalid("reports: instance_id and reason are strings")
    if state not in STATES:
        raise bindings.invalid(f"reports: state is one of {', '.join(STATES)}")
    return Report(instance_id, state, reason[:REASON_CHARACTERS])


def _take_in(session: Session, host: str, report: Report, now_ms: int) -> None:
    """A report on an instance that is another host's, or forgotten, is passed over: the host learns what it is to have
    from the answer."""
    row = session.scalar(select(Instance).where(Instance.instance_id == report.instance_id, Instance.host == host))
    if row is None or row.state not in instances.ALIVE:
        return
    if report.state == "running":
        row.state = "running" if row.state == "pending" else row.state
        return
    if report.state == "failed":
        row.reason = f"Server.InternalError: {report.reason}"
    elif row.state != "shutting-down":
        row.reason = "Server.ScheduledStop: the lab host has taken it down"
    end(session, row, now_ms)


def _public_address(interface: network.NetworkInterface) -> str | None:
    """Of the primary private one."""
    return interface.public_addresses.get(interface.addresses_of(4)[0])


def _wanted(row: Instance) -> dict[str, Any]:
    """`interfaces` by device index; `tags` may name services that the lab runs in the instance."""
    return {
        "instance_id": row.instance_id,
        "state": row.state,
        "tags": {tag.key: tag.value for tag in row.tags},
        "interfaces": [
            {
                "interface_id": attachment.interface_id,
                "device_index": attachment.device_index,
                "subnet_id": attachment.interface.subnet_id,
                "mac": attachment.interface.mac,
                "ipv4": attachment.interface.addresses_of(4),
                "ipv6": attachment.interface.addresses_of(6),
                "public_ipv4": _public_address(attachment.interface),
                "bound": attachment.interface.binding is not None,
            }
            for attachment in row.attachments
        ],
    }
