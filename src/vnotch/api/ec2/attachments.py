"""Attachments: an interface given to an instance that was launched, and taken from it.

An interface that somebody bound to a device (`vnotch attach`) is attached by that and is detached by `vnotch detach`:
there is no instance of ours that could be given another.

Texts are those that users have published, unless a comment says otherwise.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vnotch.api.ec2.instances import release
from vnotch.api.ec2.part import INSTANCE, INTERFACE, Ec2Part, arns, ec2_operation, invalid_value, required
from vnotch.api.service import ApiError, Call
from vnotch.store import instances, network
from vnotch.store.instances import Attachment, Instance
from vnotch.store.state import new_id

DEVICE_INDEX_MAX = 14
"""Interfaces of an instance (EC2 user guide: the largest have 15 on a card)."""


class Attachments(Ec2Part):
    @ec2_operation(
        "AttachNetworkInterface",
        "NetworkInterfaceId InstanceId DeviceIndex",
        arns("network-interface:NetworkInterfaceId", "instance:InstanceId"),
    )
    def attach_network_interface(self, call: Call) -> dict[str, Any]:
        index: int = required(call, "DeviceIndex")
        if not 1 <= index <= DEVICE_INDEX_MAX:
            raise invalid_value(index, "deviceIndex", f"It is a number from 1 to {DEVICE_INDEX_MAX}.")
        with self.state.write() as session:
            interface = INTERFACE.find(session, required(call, "NetworkInterfaceId"), lock=True)
            instance: Instance = INSTANCE.find(session, required(call, "InstanceId"), lock=True)
            _check(interface, instance, index)
            attachment = attach(session, interface, instance, index, False, call.now_ms)
            return {"AttachmentId": attachment.attachment_id, "NetworkCardIndex": 0}

    @ec2_operation("DetachNetworkInterface", "AttachmentId Force", "ends_of_attachment")
    def detach_network_interface(self, call: Call) -> dict[str, Any]:
        attachment_id = required(call, "AttachmentId")
        with self.state.write() as session:
            attachment = session.scalar(
                select(Attachment).where(Attachment.attachment_id == attachment_id).with_for_update()
            )
            if attachment is None:
                raise _missing(session, attachment_id)
            if attachment.device_index == 0:
                raise ApiError(
                    "OperationNotPermitted",
                    "The network interface at device index 0 and networkCard index 0 cannot be detached.",
                )
            release(session, attachment, keep=True)
        return {}

    def ends_of_attachment(self, call: Call) -> list[str]:
        """DetachNetworkInterface is authorised on the interface and the instance, which its request does not name."""
        mine = Attachment.attachment_id == (call.params.get("AttachmentId") or "")
        return self.arns_of(
            call,
            (INTERFACE, select(Attachment.interface_id).where(mine)),
            (INSTANCE, select(Attachment.instance_id).where(mine)),
        )


def attach(
    session: Session,
    interface: network.NetworkInterface,
    instance: Instance,
    device_index: int,
    delete_on_termination: bool,
    now_ms: int,
) -> Attachment:
    attachment = Attachment(
        attachment_id=new_id("eni-attach"),
        interface_id=interface.interface_id,
        instance_id=instance.instance_id,
        device_index=device_index,
        delete_on_termination=delete_on_termination,
        attached_ms=now_ms,
    )
    session.add(attachment)
    session.flush()
    session.refresh(interface)
    session.refresh(instance)
    return attachment


def _check(interface: network.NetworkInterface, instance: Instance, index: int) -> None:
    if instance.origin == instances.BOUND:
        raise ApiError(
            "OperationNotPermitted",
            f"The instance '{instance.instance_id}' is a host that vnotch did not launch. vnotch attach binds an "
            "interface of it.",
        )
    if instance.state not in ("pending", "running"):
        raise ApiError(
            "IncorrectState", f"Instance '{instance.instance_id}' is not in a state that allows this: {instance.state}"
        )
    if interface.status == "in-use":
        raise ApiError("InvalidNetworkInterface.InUse", f"Interface: [{interface.interface_id}] in use.")
    if any(attachment.device_index == index for attachment in instance.attachments):
        raise ApiError(
            "InvalidParameterValue",
            f"Instance '{instance.instance_id}' already has an interface attached at device index '{index}'.",
        )
    if interface.vpc_id != instance.vpc_id:
        raise ApiError(  # memory
            "InvalidParameterCombination",
            f"Interface {interface.interface_id} and instance {instance.instance_id} belong to different networks.",
        )
    zones = {own.subnet.zone for own in instance.interfaces}
    if zones and interface.subnet.zone not in zones:
        raise ApiError(
            "InvalidParameterCombination",
            "You may not attach a network interface to an instance if they are not in the same availability zone",
        )


def _missing(session: Session, attachment_id: str) -> ApiError:
    bound = session.scalar(select(network.Binding).where(network.Binding.attachment_id == attachment_id))
    if bound is not None:
        return ApiError(
            "OperationNotPermitted",
            f"The attachment '{attachment_id}' is the binding of {bound.interface_id} to {bound.device} on "
            f"{bound.agent}. vnotch detach takes it away.",
        )
    return ApiError("InvalidAttachmentID.NotFound", f"The attachment '{attachment_id}' does not exist")
