"""Instances: describe, terminate, status and attributes. RunInstances is in `run_instances`.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vnotch.api import bindings
from vnotch.api.ec2.filters import TAG_KEY, Filter, Table, column, constant, present
from vnotch.api.ec2.interfaces import DESCRIBE as INTERFACES
from vnotch.api.ec2.interfaces import delete_interface, describe_attachment, describe_members
from vnotch.api.ec2.part import (
    INSTANCE,
    Describe,
    Ec2Part,
    arns,
    ec2_operation,
    group_set,
    invalid_value,
    no_owner,
    only_attribute,
    required,
    tag_set,
    timestamp,
    zulu,
)
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, firewall, instances, network
from vnotch.store.instances import CODES, Instance
from vnotch.store.rule_book import groups_of
from vnotch.store.shown_rows import ShownRows

ARCHITECTURE, TENANCY = "x86_64", "default"
IDS_MAX = 1000
"""Instances that one call may name (API TerminateInstances)."""

ATTRIBUTES: dict[str, Callable[[Instance], tuple[str, Any]]] = {
    "blockDeviceMapping": lambda row: ("BlockDeviceMappings", []),
    "disableApiStop": lambda row: ("DisableApiStop", {"Value": False}),
    "disableApiTermination": lambda row: ("DisableApiTermination", {"Value": row.protected}),
    "ebsOptimized": lambda row: ("EbsOptimized", {"Value": False}),
    "groupSet": lambda row: ("Groups", group_set(_groups_of(row))),
    "instanceInitiatedShutdownBehavior": lambda row: ("InstanceInitiatedShutdownBehavior", {"Value": "terminate"}),
    "instanceType": lambda row: ("InstanceType", {"Value": row.instance_type} if row.instance_type else {}),
    "kernel": lambda row: ("KernelId", {}),
    "productCodes": lambda row: ("ProductCodes", []),
    "ramdisk": lambda row: ("RamdiskId", {}),
    "sourceDestCheck": lambda row: ("SourceDestCheck", {"Value": True}),
    "userData": lambda row: ("UserData", {}),
}
"""Of API DescribeInstanceAttribute, name -> member and value: a namespace has no disk, no kernel of its own and no user
data. Like an instance whose root is in an instance store it cannot be stopped, but ends."""


def _of_interfaces(table: Table) -> dict[str, Filter]:
    """The filters on an instance's interfaces, which are those of interfaces by another name."""

    def of_all(one: Filter) -> Filter:
        return Filter(lambda row: (value for interface in row.interfaces for value in one.values(interface)))

    return {f"network-interface.{name}": of_all(one) for name, one in table.items() if name not in TAG_KEY}


def _by_account(account: str, region: str) -> Table:
    return {"owner-id": constant(account), **_of_interfaces(INTERFACES.of_account(account, region))}


def _of_subnet(attribute: str) -> Filter:
    return Filter(lambda row: (getattr(interface.subnet, attribute) for interface in row.interfaces[:1]))


def _groups(attribute: str) -> Filter:
    return Filter(lambda row: (getattr(group, attribute) for group in _groups_of(row)))


SHOWN = ShownRows(
    Instance,
    " ".join(
        f"{interface}.{part}"
        for interface in ("attachments.interface", "bound")
        for part in ("subnet", "addresses", "binding", "groups", "attachment", "elastic_addresses")
    )
    + " tags",
)
DESCRIBE = Describe(
    INSTANCE,
    "InstanceIds",
    {
        **TAG_KEY,
        **_of_interfaces(INTERFACES.filters),
        "architecture": constant(ARCHITECTURE),
        "availability-zone": _of_subnet("zone"),
        "availability-zone-id": _of_subnet("zone_id"),
        "group-id": _groups("group_id"),
        "group-name": _groups("name"),
        "image-id": column(Instance.image_id),
        "instance-id": column(Instance.instance_id),
        "instance-state-code": Filter(lambda row: (CODES[row.state],)),
        "instance-state-name": column(Instance.state),
        "instance-type": column(Instance.instance_type),
        "instance.group-id": _groups("group_id"),
        "instance.group-name": _groups("name"),
        "ip-address": Filter(lambda row: present(_public_address(row))),
        "ipv6-address": Filter(
            lambda row: (address for interface in row.interfaces[:1] for address in interface.addresses_of(6))
        ),
        "launch-time": Filter(lambda row: (zulu(row.launched_ms),)),
        "operator.managed": constant(False),
        "launch-index": Filter(lambda row: (row.launch_index,)),
        "monitoring-state": constant("disabled"),
        "private-ip-address": Filter(lambda row: _addresses(row)[:1]),
        "reservation-id": column(Instance.reservation_id),
        "source-dest-check": Filter(lambda row: (True for _ in row.interfaces[:1])),
        "state-reason-message": Filter(lambda row: present(row.reason)),
        "tenancy": Filter(lambda row: (TENANCY for _ in row.interfaces[:1])),
        "state-reason-code": Filter(lambda row: present(row.reason and row.reason.partition(":")[0])),
        "subnet-id": column(Instance.subnet_id),
        "vpc-id": column(Instance.vpc_id),
    },
    SHOWN,
    of_account=_by_account,
)


def _checks(value: Callable[[dict[str, Any]], Iterable[str]]) -> dict[str, Filter]:
    """Both checks say the same."""
    found = Filter(lambda row: value(_status(row)["InstanceStatus"]))
    return {"instance-status": found, "system-status": found}


_SAID = _checks(lambda status: (status["Status"],))
_REACHED = _checks(lambda status: (detail["Status"] for detail in status.get("Details", ())))

STATUS = Describe(
    INSTANCE,
    "InstanceIds",
    {
        **{name: DESCRIBE.filters[name] for name in ("availability-zone", "availability-zone-id")},
        **{name: DESCRIBE.filters[name] for name in ("instance-state-code", "instance-state-name", *TAG_KEY)},
        **{f"{name}.status": found for name, found in _SAID.items()},
        **{f"{name}.reachability": found for name, found in _REACHED.items()},
    },
    SHOWN,
    of_account=no_owner,
)


class Instances(Ec2Part):
    @ec2_operation(
        "DescribeInstances", "InstanceIds Filters MaxResults NextToken IncludeManagedResources", filters=DESCRIBE.names
    )
    def describe_instances(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call, shown(call.now_ms))
            return {"Reservations": reservations(rows, call), **more}

    @ec2_operation(
        "DescribeInstanceStatus",
        "InstanceIds Filters MaxResults NextToken IncludeAllInstances IncludeManagedResources",
        filters=STATUS.names,
    )
    def describe_instance_status(self, call: Call) -> dict[str, Any]:
        """Of running instances, unless all are asked for. The checks tell whether its interfaces are captured."""
        within = [shown(call.now_ms)]
        if not call.params.get("IncludeAllInstances"):
            within.append(Instance.state == "running")
        with self.state.read() as session:
            rows, more = STATUS.rows(session, call, *within)
            return {"InstanceStatuses": [_status(row) for row in rows], **more}

    @ec2_operation("TerminateInstances", "InstanceIds", arns("instance:InstanceIds"))
    def terminate_instances(self, call: Call) -> dict[str, Any]:
        """All that are named or none. Where the host that runs one is not heard of, it is terminated at once; the host
        takes it down when it comes back."""
        ids = list(dict.fromkeys(required(call, "InstanceIds")))
        if len(ids) > IDS_MAX:
            raise invalid_value(len(ids), "InstanceIds", f"At most {IDS_MAX} instances can be named at once.")
        with self.state.write() as session:
            rows = [INSTANCE.find(session, instance_id, lock=True) for instance_id in ids]
            for row in rows:
                _check_terminable(row)
            answer = [_terminate(session, row, call.now_ms) for row in rows]
            forget_old(session, call.now_ms)
        return {"TerminatingInstances": answer}

    @ec2_operation(
        "DescribeInstanceAttribute",
        "InstanceId Attribute",
        arns("instance:InstanceId"),
        only={"Attribute": tuple(ATTRIBUTES)},
    )
    def describe_instance_attribute(self, call: Call) -> dict[str, Any]:
        name = required(call, "Attribute")
        with self.state.read() as session:
            row: Instance = INSTANCE.find(session, required(call, "InstanceId"))
            member, value = ATTRIBUTES[name](row)
            return {"InstanceId": row.instance_id, member: value}

    @ec2_operation(
        "ModifyInstanceAttribute",
        "InstanceId DisableApiTermination Groups",
        arns("instance:InstanceId", "security-group:Groups"),
    )
    def modify_instance_attribute(self, call: Call) -> dict[str, Any]:
        attribute = only_attribute(call, ("DisableApiTermination", "Groups"))
        with self.state.write() as session:
            row: Instance = INSTANCE.find(session, required(call, "InstanceId"), lock=True)
            if attribute == "DisableApiTermination":
                row.protected = bool(call.params["DisableApiTermination"].get("Value"))
            else:
                interface = only_interface(row)
                before = groups_of(session, interface.interface_id)
                after = self.checked_groups(session, interface.vpc_id, call.params["Groups"])
                firewall.set_groups(session, interface.interface_id, after)
                agents.touch_members(session, before.symmetric_difference(after), interface.interface_id)
        return {}


def only_interface(row: Instance) -> network.NetworkInterface:
    """The one interface of an instance, for calls that name the instance and mean its interface."""
    if len(row.interfaces) > 1:
        raise ApiError(
            "InvalidInstanceID",
            f"There are multiple interfaces attached to instance '{row.instance_id}'. Please specify an interface ID "
            "for the operation instead.",
        )
    if not row.interfaces:
        raise ApiError("IncorrectState", f"Instance '{row.instance_id}' has no interface: it is {row.state}")
    return row.interfaces[0]


def shown(now_ms: int) -> Any:
    """A terminated instance is shown for a while."""
    return Instance.ended_ms.is_(None) | (Instance.ended_ms >= now_ms - instances.TERMINATED_SHOWN_MS)


def forget_old(session: Session, now_ms: int) -> None:
    old = select(Instance).where(Instance.ended_ms < now_ms - instances.TERMINATED_SHOWN_MS)
    for row in list(session.scalars(old)):
        instances.forget(session, row)


def _check_terminable(row: Instance) -> None:
    if row.origin == instances.BOUND:
        raise ApiError(
            "OperationNotPermitted",
            f"The instance '{row.instance_id}' is a host that vnotch did not launch. vnotch detach takes its "
            "interfaces away, and the instance with them.",
        )
    if row.protected and row.state in ("pending", "running"):
        raise ApiError(
            "OperationNotPermitted",
            f"The instance '{row.instance_id}' may not be terminated. Modify its 'disableApiTermination' instance "
            "attribute and try again.",
        )


def _terminate(session: Session, row: Instance, now_ms: int) -> dict[str, Any]:
    before = row.state
    if row.state in ("pending", "running"):
        row.state, row.reason = "shutting-down", "Client.UserInitiatedShutdown: User initiated shutdown"
        host = session.get(instances.LabHost, row.host) if row.host else None
        if host is None or host.seen_ms < now_ms - instances.HOST_ALIVE_MS:
            end(session, row, now_ms)
    return {"InstanceId": row.instance_id, "PreviousState": state(before), "CurrentState": state(row.state)}


def end(session: Session, row: Instance, now_ms: int) -> None:
    """The instance is terminated: interfaces that go with it are deleted, others are free again."""
    for attachment in list(row.attachments):
        release(session, attachment)
    row.state, row.ended_ms = "terminated", now_ms
    session.flush()


def release(session: Session, attachment: instances.Attachment, *, keep: bool = False) -> None:
    """Takes the interface from its instance and its device; deletes it where that was asked for, unless `keep`."""
    interface = attachment.interface
    interface.public_ip = None
    gone = attachment.delete_on_termination and not keep
    session.execute(delete(instances.Attachment).where(instances.Attachment.number == attachment.number))
    if interface.binding is not None:
        bindings.unbind(session, interface.interface_id)
    session.expire_all()
    if gone:
        delete_interface(session, interface)


def state(name: str) -> dict[str, Any]:
    return {"Code": CODES[name], "Name": name}


def _addresses(row: Instance) -> list[str]:
    return [address for interface in row.interfaces[:1] for address in interface.addresses_of(4)]


def _public_address(row: Instance) -> str | None:
    """Of the primary private address."""
    found = [
        interface.public_addresses.get(address) for interface in row.interfaces[:1] for address in _addresses(row)[:1]
    ]
    return found[0] if found else None


def _groups_of(row: Instance) -> list[firewall.SecurityGroup]:
    return [group for interface in row.interfaces[:1] for group in interface.groups]


def _status(row: Instance) -> dict[str, Any]:
    captured = {interface.binding.state if interface.binding else "pending" for interface in row.interfaces}
    checks = {"attached": "ok", "pending": "initializing"}
    found = {checks.get(each, "impaired") for each in captured}
    summary = "not-applicable"
    if row.state == "running":
        summary = next((word for word in ("impaired", "initializing") if word in found), "ok")
    status = {"Status": summary}
    if summary in ("ok", "impaired", "initializing"):
        words = {"ok": "passed", "impaired": "failed", "initializing": "initializing"}
        status |= {"Details": [{"Name": "reachability", "Status": words[summary]}]}  # type: ignore[dict-item]
    shown_as: dict[str, Any] = {"InstanceId": row.instance_id, "InstanceState": state(row.state)}
    if row.interfaces:
        shown_as["AvailabilityZone"] = row.interfaces[0].subnet.zone
    return shown_as | {"InstanceStatus": status, "SystemStatus": status}


def reservations(rows: Sequence[Instance], call: Call) -> list[dict[str, Any]]:
    """Instances by the call that launched them, in the order of launching."""
    return [
        {
            "ReservationId": reservation_id,
            "OwnerId": call.account,
            "Groups": [],
            "Instances": [describe_instance(row, call) for row in launched],
        }
        for reservation_id, launched in groupby(rows, lambda row: row.reservation_id)
    ]


def describe_instance(row: Instance, call: Call) -> dict[str, Any]:
    """An instance that somebody only bound has no image and no type: what it is, nobody has said."""
    addresses, primary = _addresses(row), row.interfaces[:1]
    answer: dict[str, Any] = {
        "InstanceId": row.instance_id,
        "AmiLaunchIndex": row.launch_index,
        "State": state(row.state),
        "LaunchTime": timestamp(row.launched_ms),
        "Architecture": ARCHITECTURE,
        "Monitoring": {"State": "disabled"},
        "PrivateDnsName": "",
        "PublicDnsName": "",
        "SecurityGroups": group_set(_groups_of(row)),
        "NetworkInterfaces": list(_shown_interfaces(row.interfaces, call)),
        "StateTransitionReason": "",
        "Tags": tag_set(row.tags),
    }
    optional = {
        "ImageId": row.image_id,
        "InstanceType": row.instance_type,
        "PrivateIpAddress": addresses[0] if addresses else None,
        "PublicIpAddress": _public_address(row),
    }
    answer |= {name: value for name, value in optional.items() if value is not None}
    if primary:
        zone = primary[0].subnet
        answer |= {
            "VpcId": primary[0].vpc_id,
            "SubnetId": primary[0].subnet_id,
            "SourceDestCheck": True,
            "Placement": {"AvailabilityZone": zone.zone, "AvailabilityZoneId": zone.zone_id, "Tenancy": TENANCY},
        }
    if row.reason:
        code, _, _ = row.reason.partition(":")
        answer["StateReason"] = {"Code": code, "Message": row.reason}
    return answer


def _shown_interfaces(interfaces: Iterable[network.NetworkInterface], call: Call) -> Iterable[dict[str, Any]]:
    for interface in interfaces:
        attachment = describe_attachment(interface, call) or {}
        of_instance = ("InstanceId", "InstanceOwnerId")
        yield {
            **describe_members(interface, call, of_instance=True),
            "Attachment": {name: value for name, value in attachment.items() if name not in of_instance},
        }
