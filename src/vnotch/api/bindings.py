"""Bindings and statuses: what the administrator says an interface is, and what its agent says became of it.

A binding's state: `pending` when it is made or changed; `attached`, `absent` or `failed` once its agent has reported on
it. A report counts only for bindings of that agent and, where it names the revision it was made under, only for
bindings that are not newer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.interfaces import SERVICE_TYPES
from vnotch.api.service import ApiError
from vnotch.store import agents, firewall, instances, network
from vnotch.store.state import new_id

STATES = ("attached", "absent", "failed")
INTERFACE_TYPES = ("interface", *SERVICE_TYPES)
DELIVERY_STATUSES = ("SUCCESS", "FAILED")

REPORTS_MAX = 10_000
MESSAGE_CHARACTERS = 1000
DEVICE_BYTES = 15
"""IFNAMSIZ of linux/if.h is 16 with the closing zero."""

SENSES = ("outside", "inside")
ENFORCE_SECONDS_MAX = 86_400

AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_REQUESTER = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def not_found(message: str) -> ApiError:
    return ApiError("ResourceNotFoundException", message, 404)


@dataclass(frozen=True)
class BindingRequest:
    """`requester_id` is ours beside the contract's members: the service that a managed interface shows as requester.

    `sense`, `enforce_seconds` and `guest_mac`: see `network.Binding`.
    """

    agent: str
    device: str
    instance_id: str | None = None
    interface_type: str | None = None
    requester_id: str | None = None
    enforce: bool = False
    sense: str = "outside"
    enforce_seconds: int | None = None
    guest_mac: str | None = None

    @classmethod
    def of(cls, body: Any) -> BindingRequest:
        """Raises ApiError, naming the member that is missing, unknown or wrong."""
        if not isinstance(body, Mapping):
            raise invalid("the body is a JSON object with agent and device")
        if unknown := set(body) - set(cls.__dataclass_fields__):
            raise invalid(f"unknown members: {', '.join(sorted(unknown))}")
        for name in ("agent", "device"):
            if not isinstance(body.get(name), str):
                raise invalid(f"{name} is missing or no string")
        check_device(body["device"])
        _check_text(body, "instance_id", _INSTANCE_ID.fullmatch, "i- and 8 or 17 hexadecimal digits")
        _check_text(body, "interface_type", INTERFACE_TYPES.__contains__, f"one of {', '.join(INTERFACE_TYPES)}")
        _check_text(body, "requester_id", _REQUESTER.fullmatch, "1 to 128 of a-z A-Z 0-9 _ . -")
        if not isinstance(body.get("enforce", False), bool):
            raise invalid("enforce is true or false")
        if body.get("sense", "outside") not in SENSES:
            raise invalid(f"sense is one of {', '.join(SENSES)}")
        check_mac(body, "guest_mac")
        _check_trial(body)
        return cls(**body)


def check_device(device: Any) -> None:
    """Raises ApiError for what is no name of a Linux interface (dev_valid_name of the kernel)."""
    is_text = isinstance(device, str) and 1 <= len(device.encode(errors="replace")) <= DEVICE_BYTES
    if not is_text or re.search(r"[\s/:]", device) or device in (".", ".."):
        raise invalid(f"device {device!r} is no name of a Linux interface (up to {DEVICE_BYTES} bytes)")


def check_mac(body: Mapping[str, Any], name: str) -> None:
    """Raises ApiError."""
    _check_text(body, name, _MAC.fullmatch, "six pairs of hexadecimal digits in small letters, by colons")


def _check_text(body: Mapping[str, Any], name: str, fits: Any, form: str) -> None:
    value = body.get(name)
    if value is not None and not (isinstance(value, str) and fits(value)):
        raise invalid(f"{name} is null or {form}")


def _check_trial(body: Mapping[str, Any]) -> None:
    seconds = body.get("enforce_seconds")
    if seconds is None:
        return
    if type(seconds) is not int or not 1 <= seconds <= ENFORCE_SECONDS_MAX:
        raise invalid(f"enforce_seconds is null or a number from 1 to {ENFORCE_SECONDS_MAX}")
    if not body.get("enforce"):
        raise invalid("enforce_seconds goes with enforce")


def bind(session: Session, interface_id: str, request: BindingRequest, now_ms: int) -> network.Binding:
    """Makes or changes the binding; the same request again changes nothing. Raises ApiError."""
    if session.get(network.Agent, request.agent) is None:
        raise not_found(f"there is no agent {request.agent}")
    row = network.Binding
    other = session.scalar(
        select(row).where(row.agent == request.agent, row.device == request.device, row.interface_id != interface_id)
    )
    if other is not None:
        raise ApiError(
            "ConflictException", f"{request.device} on {request.agent} is bound to {other.interface_id} already", 409
        )
    interface = _existing(session, interface_id)
    if interface.created_type == network.NAT_GATEWAY and (
        request.instance_id or request.interface_type not in (None, network.NAT_GATEWAY)
    ):
        raise invalid(f"{interface_id} is the interface of a NAT gateway: it has no instance and no other type")
    binding = session.get(row, interface_id)
    if binding is not None and _request_of(binding) == request and binding.enforces(now_ms) == request.enforce:
        return binding
    left = binding.instance_id if binding else None
    earlier = binding.agent if binding else None
    if binding is None:
        binding = network.Binding(
            interface_id=interface_id, attachment_id=new_id("eni-attach"), attached_ms=now_ms, revision=0
        )
        session.add(binding)
    for name in BindingRequest.__dataclass_fields__:
        setattr(binding, name, getattr(request, name))
    binding.enforce_until_ms = now_ms + 1000 * request.enforce_seconds if request.enforce_seconds else None
    binding.state, binding.message, binding.mode = "pending", None, None
    session.flush()
    if request.instance_id:
        instances.bound_instance(session, request.instance_id, interface, now_ms)
    instances.unbound_instance(session, left)
    kind = request.interface_type or interface.created_type
    agents.touch_members(session, firewall.fit_groups(session, interface, kind))
    if earlier and earlier != request.agent:
        agents.forget_deliveries(session, earlier)
        agents.departed(session, earlier, interface)
    agents.touch_neighbours(session, interface)
    binding.revision = agents.touch(session, {request.agent, earlier or request.agent}) or 0
    return binding


def change_mac(session: Session, binding: network.Binding, mac: str | None) -> None:
    """Whoever is behind the device has another address now; all else of the binding stays."""
    if binding.guest_mac != mac:
        binding.guest_mac = mac
        binding.revision = agents.touch(session, [binding.agent]) or 0


def unbind(session: Session, interface_id: str) -> None:
    binding, interface = binding_of(session, interface_id), _existing(session, interface_id)
    agent, instance_id = binding.agent, binding.instance_id
    session.execute(delete(network.Binding).where(network.Binding.interface_id == interface_id))
    agents.touch_members(session, firewall.fit_groups(session, interface, interface.created_type))
    instances.unbound_instance(session, instance_id)
    agents.forget_deliveries(session, agent)
    agents.departed(session, agent, interface)
    agents.touch_neighbours(session, interface)
    agents.touch(session, [agent])


def binding_of(session: Session, interface_id: str) -> network.Binding:
    _existing(session, interface_id)
    binding = session.get(network.Binding, interface_id)
    if binding is None:
        raise not_found(f"{interface_id} is not bound to any agent")
    return binding


def describe(binding: network.Binding, now_ms: int) -> dict[str, Any]:
    """`enforce` as it is now: a trial that has ended is none any more."""
    request = _request_of(binding)
    members = {name: getattr(request, name) for name in BindingRequest.__dataclass_fields__}
    return {
        "interface_id": binding.interface_id,
        **members,
        "enforce": binding.enforces(now_ms),
        "enforce_until_ms": binding.enforce_until_ms,
        "state": binding.state,
        "message": binding.message,
        "mode": binding.mode,
    }


def _request_of(binding: network.Binding) -> BindingRequest:
    return BindingRequest(**{name: getattr(binding, name) for name in BindingRequest.__dataclass_fields__})


def _existing(session: Session, interface_id: str) -> network.NetworkInterface:
    row = network.NetworkInterface
    found = session.scalar(select(row).where(row.interface_id == interface_id))
    if found is None:
        raise not_found(f"The networkInterface ID '{interface_id}' does not exist")
    return found


def report(session: Session, agent: str, status: Any, now_ms: int) -> None:
    """Takes in an agent's status: its bindings' states, its deliveries, and the whole document to be shown.

    Entries about interfaces and flow logs that are not this agent's (any more) are passed over: the agent may report
    on what was just taken from it. Raises ApiError.
    """
    row = session.get(network.Agent, agent)
    if row is None:
        raise not_found(f"there is no agent {agent}")
    if not isinstance(status, Mapping):
        raise invalid("the body is a JSON object")
    revision = status.get("revision")
    if revision is not None and type(revision) is not int:
        raise invalid("revision is a number")
    interfaces = [_interface_report(item) for item in _entries(status, "interfaces")]
    deliveries = [_delivery_report(item) for item in _entries(status, "flow_logs")]
    bindings = {
        binding.interface_id: binding
        for binding in session.scalars(select(network.Binding).where(network.Binding.agent == agent))
    }
    for interface_id, state, message, mode in interfaces:
        binding = bindings.get(interface_id)
        if binding is not None and (revision is None or revision >= binding.revision):
            binding.state, binding.message, binding.mode = state, message, mode
    covered = {flow_log.flow_log_id for flow_log in agents.flow_logs_on(session, agent)}
    for flow_log_id, delivery_status, message in deliveries:
        if flow_log_id in covered:
            session.merge(
                network.FlowLogDelivery(flow_log_id=flow_log_id, agent=agent, status=delivery_status, message=message)
            )
    row.status, row.received_ms = dict(status), now_ms


def _entries(status: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    entries = status.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(item, Mapping) for item in entries):
        raise invalid(f"{name} is a list of objects")
    if len(entries) > REPORTS_MAX:
        raise invalid(f"{name} has at most {REPORTS_MAX} entries")
    return entries


def _interface_report(item: Mapping[str, Any]) -> tuple[str, str, str | None, str | None]:
    state = item.get("state")
    if state not in STATES:
        raise invalid(f"interfaces: state is one of {', '.join(STATES)}")
    return _text(item, "interface_id") or "", state, _text(item, "message"), _text(item, "mode")


def _delivery_report(item: Mapping[str, Any]) -> tuple[str, str, str | None]:
    status, message = item.get("status"), item.get("message")
    if status not in DELIVERY_STATUSES:
        raise invalid(f"flow_logs: status is one of {', '.join(DELIVERY_STATUSES)}")
    if status == "SUCCESS":
        return _text(item, "flow_log_id") or "", status, None
    if message not in network.DELIVERY_ERRORS:
        raise invalid(f"flow_logs: the message of FAILED is one of {', '.join(network.DELIVERY_ERRORS)}")
    return _text(item, "flow_log_id") or "", status, message


def _text(item: Mapping[str, Any], name: str) -> str | None:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{name} is null or a string")
    return value[:MESSAGE_CHARACTERS] if value else value
