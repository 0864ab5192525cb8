"""Which devices are captured, under which slots: attached, found again after a takeover, handed over by a release.

What is at a device's hooks is capture/hooks.py's part; which slot programs take a packet for is capture/slots.py's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from vnotch.capture.hooks import MODES, Attachment, Hooks
from vnotch.capture.interfaces import Namespace
from vnotch.capture.pins import PinFolder
from vnotch.capture.predecessor import ATTACHMENT, Predecessor
from vnotch.capture.slots import Slots, those_of
from vnotch.errors import InputError

log = logging.getLogger(__name__)


class Captured:
    """The captured devices of one network namespace. The caller's lock guards it."""

    def __init__(
        self,
        namespace: Namespace,
        pins: PinFolder | None,
        hooks: Hooks,
        slots: Slots,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called before another set of interfaces is captured."""
        self._namespace = namespace
        self._pins = pins
        self._hooks = hooks
        self._slots = slots
        self._changed = changed
        self._attached: dict[int, Attachment] = {}

    def choose_mode(self, wanted: str, origin: tuple[int, int] | None, predecessor: Predecessor | None) -> None:
        """Settles how programs are attached from now on: `hooks.mode`. What a process before attached otherwise, or
        elsewhere, is taken away first. `origin`: (network namespace, MODE_*) of the maps that were taken over."""
        netns, mode = self._namespace.inode, 0
        names = {number: name for name, number in MODES.items()}
        indexes = self._slots.indexes()
        if origin is None and predecessor is not None:
            origin = predecessor.origin
        if origin is not None:
            old_netns, mode = origin
            if predecessor is not None:
                indexes = predecessor.slot_indexes() | indexes
                mode = mode if mode in names else 0
            if old_netns != netns:
                log.warning("the pinned maps served another network namespace; its attachments end now")
                self._hooks.drop_pins()
                for index in self._slots.indexes():
                    self._assign(index, None)
                mode = 0
        self._hooks.choose(wanted, names.get(mode))
        if mode and names[mode] != self._hooks.mode:
            for slot in set(indexes.values()):
                self._hooks.detach(slot, None, those_of(slot, indexes), names[mode])

    # ---- One device ------------------------------------------------------------------------------------------------

    def attach(self, device: str, slot: int, use_slot: Callable[[int], None]) -> None:
        """As `Datapath.attach`. `use_slot` is told of a slot before it is first used."""
        index, has_link_header = self._namespace.link(device)
        here = self._attached.get(slot)
        if here is not None and here.index == index and self._hooks.is_alive(here):
            here.device = device
            return
        other = self._slots.indexes().get(index)
        if other not in (None, slot) and other in self._attached:
            raise InputError(f"{device} is captured under slot {other} already")
        if here is not None or any(i != index and s == slot for i, s in self._slots.indexes().items()):
            self.detach(slot)
        use_slot(slot)
        self._slots.set_link_header(slot, has_link_header)
        self._assign(index, slot)
        attachment = Attachment(device, index)
        try:
            self._hooks.attach(attachment, slot, self._slots.is_inside(slot))
        except BaseException:
            self._attached[slot] = attachment
            self.detach(slot)
            raise
        self._attached[slot] = attachment

    def detach(self, slot: int) -> None:
        indexes = self._slots.indexes_of(slot)
        self._hooks.detach(slot, self._attached.get(slot), indexes)
        self._attached.pop(slot, None)
        for index in indexes:
            self._assign(index, None)

    def turn(self, slot: int, inside: bool) -> None:
        """The sense of an ENI has changed; if this process has attached it, its hooks get the other programs."""
        if slot in self.devices():
            self._hooks.turn(self._attached[slot], inside)

    def _assign(self, index: int, slot: int | None) -> None:
        self._changed()
        self._slots.assign(index, slot)

    # ---- All of them -----------------------------------------------------------------------------------------------

    def attached(self) -> dict[int, Attachment]:
        """By slot: what this process has attached, whether its device is still there or not."""
        return dict(self._attached)

    def devices(self) -> dict[int, str]:
        """Slot -> device of what this process has attached and what is still there."""
        links = self._namespace.links()
        return {s: a.device for s, a in self._attached.items() if a.index in links and self._hooks.is_alive(a)}

    def device_of(self, slot: int) -> str | None:
        here = self._attached.get(slot)
        known = [here.index] if here else self._slots.indexes_of(slot)
        for index in known:
            name = self._namespace.name_of(index)
            if name is not None and self._hooks.has(slot, index, here):
                return name
        return None

    def end_predecessor(self, predecessor: Predecessor) -> None:
        """Takes away what it captures and this process has not attached."""
        ours = {attachment.index for attachment in self._attached.values()}
        theirs = {i: s for i, s in predecessor.slot_indexes().items() if i not in ours}
        for slot in {*theirs.values(), *self._linked_slots()} - self._attached.keys():
            for mode in MODES:
                self._hooks.detach(slot, None, those_of(slot, theirs), mode)

    def _linked_slots(self) -> set[int]:
        names = self._pins.names() if self._pins else []
        found = (ATTACHMENT.fullmatch(name) for name in names)
        return {int(match[1]) for match in found if match and match[1]}

    def end(self) -> None:
        """Ends the capture of all, whoever attached them."""
        for slot in {*self._attached, *self._slots.indexes().values()}:
            self.detach(slot)

    def close(self) -> None:
        """Ends this process's part; what is pinned goes on."""
        for attachment in self._attached.values():
            for fd in attachment.links:
                os.close(fd)
        self._attached = {}
