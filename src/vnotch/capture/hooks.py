"""Our programs at the hooks of devices: tcx links, or filters of a clsact qdisc, and the pins by which the next process
knows them. Which device has which slot is known to capture/captured.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vnotch.capture import layout, libbpf
from vnotch.capture.interfaces import Namespace, attach_clsact, detach_clsact, has_our_filter
from vnotch.capture.pins import PinFolder
from vnotch.capture.predecessor import ATTACHMENT
from vnotch.errors import HostError

MODES = {"tcx": layout.MODE_TCX, "clsact": layout.MODE_CLSACT}

HOOKS = (
    # pin suffix and attach type, as the host names them
    ("ingress", libbpf.ATTACH_TCX_INGRESS),
    ("egress", libbpf.ATTACH_TCX_EGRESS),
)


@dataclass
class Attachment:
    """What this process has attached to a device."""

    device: str
    index: int
    links: list[int] = field(default_factory=list)  # tcx
    made_qdisc: bool = False  # clsact


class Hooks:
    """The hooks of one network namespace. The caller's lock guards it."""

    def __init__(self, namespace: Namespace, pins: PinFolder | None, programs: Sequence[int]) -> None:
        """`programs`: two, in the order of HOOKS for an ENI that is seen from outside."""
        self._namespace = namespace
        self._pins = pins
        self._programs = tuple(programs)
        self.mode = ""

    def choose(self, wanted: str, before: str | None) -> None:
        """Settles `mode`: `auto` is the one `before`, or tcx where there is one. Raises HostError where tcx is not."""
        if wanted == "auto":
            wanted = before or ("tcx" if libbpf.has_tcx(self._programs[0]) else "clsact")
        elif wanted == "tcx" and not libbpf.has_tcx(self._programs[0]):
            raise HostError(f"Linux {os.uname().release} has no tcx, which needs 6.6", "use the attach mode clsact")
        self.mode = wanted

    def attach(self, attachment: Attachment, slot: int, inside: bool) -> None:
        """At both hooks, before all others. Links that a process before has pinned are taken over without a gap. After
        an error the attachment has what was attached so far."""
        device, index, programs = attachment.device, attachment.index, self._in_order(inside)
        if self.mode == "clsact":
            made = self._namespace.run(attach_clsact, index, *programs)
            attachment.made_qdisc = self._keep_mark(slot, made)
            return
        # Filters that a process left behind when it was killed would count into maps that nobody reads, or drop.
        self._namespace.run(detach_clsact, index, False)
        for (name, attach_type), program in zip(HOOKS, programs, strict=True):
            pin = f"link_{slot}_{name}"
            fd = self._pins.get(pin) if self._pins else None
            if fd is not None:
                if libbpf.link_info(fd).ifindex == index and libbpf.link_update(fd, program) == 0:
                    attachment.links.append(fd)
                    continue
                os.close(fd)
                self._pins.remove(pin)  # type: ignore[union-attr]
            fd = self._namespace.run(
                libbpf.link_create, program, index, attach_type, f"attaching to {device} ({name}, tcx)"
            )
            attachment.links.append(fd)
            if self._pins:
                self._pins.pin(pin, fd)

    def turn(self, attachment: Attachment, inside: bool) -> None:
        """The sense of an interface under capture has changed: each hook gets the other program, without a gap."""
        if self.mode == "clsact":
            self._namespace.run(attach_clsact, attachment.index, *self._in_order(inside))
            return
        for fd, program in zip(attachment.links, self._in_order(inside), strict=True):
            libbpf.check(-libbpf.link_update(fd, program), f"turning {attachment.device} round")

    def detach(self, slot: int, attachment: Attachment | None, indexes: Iterable[int], mode: str | None = None) -> None:
        """Takes away what this process, or one before, attached for a slot, whose devices have these indexes; in the
        mode in use unless another is given. A device that is gone is no error."""
        if (mode or self.mode) == "tcx":
            for name, _ in HOOKS:
                if self._pins:
                    self._pins.remove(f"link_{slot}_{name}")
            for fd in attachment.links if attachment else []:
                os.close(fd)
            if attachment:
                attachment.links = []
            return
        links, made = self._namespace.links(), attachment is not None and attachment.made_qdisc
        if self._pins:
            made = self._keep_mark(slot, made)
            self._pins.remove(f"qdisc_{slot}")
        for index in indexes:
            if index in links:
                self._namespace.run(detach_clsact, index, made)

    def is_alive(self, attachment: Attachment) -> bool:
        """A tcx link outlives its device, with the ifindex 0. A clsact filter goes with it, and so does the index."""
        return all(libbpf.link_info(fd).ifindex == attachment.index for fd in attachment.links)

    def has(self, slot: int, index: int, attachment: Attachment | None) -> bool:
        """Whether the device of this index is hooked for a slot; without an attachment, by a process before."""
        if attachment is not None:
            return attachment.index == index and self.is_alive(attachment)
        if self.mode == "clsact":
            return self._namespace.run(has_our_filter, index)
        pins = [self._pins.get(f"link_{slot}_{name}") for name, _ in HOOKS] if self._pins else []
        try:
            return bool(pins) and all(fd is not None and libbpf.link_info(fd).ifindex == index for fd in pins)
        finally:
            for fd in pins:
                if fd is not None:
                    os.close(fd)

    def drop_pins(self) -> None:
        """Ends what a process before attached in another namespace."""
        assert self._pins
        for name in self._pins.names():
            if ATTACHMENT.fullmatch(name):
                self._pins.remove(name)

    def _in_order(self, inside: bool) -> tuple[int, ...]:
        """The programs, in the order of HOOKS."""
        return self._programs[::-1] if inside else self._programs

    def _keep_mark(self, slot: int, made: bool) -> bool:
        """Whether we made the qdisc of a slot, now or in a process before, which left a pin that says so."""
        if self._pins is None:
            return made
        pin = f"qdisc_{slot}"
        if (fd := self._pins.get(pin)) is not None:
            os.close(fd)
            return True
        if made:
            self._pins.pin(pin, self._programs[0])
        return made
