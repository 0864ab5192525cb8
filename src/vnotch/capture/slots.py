"""Slots: the numbers that stand for ENIs in the datapath.

A slot keeps its meaning for as long as a packet counted under it can still come out of the datapath. When an ENI goes,
flows of it may lie in the map in use and, through a program that was running at that moment, in the next one; the slot
is free for another ENI when both of these generations have been drained and committed.
"""

from __future__ import annotations

from collections.abc import Mapping

from vnotch.capture.layout import MAX_SLOTS
from vnotch.errors import LimitError


class Slots:
    """Gives out slots to owners (ENI ids). Plain state: the caller saves `used` and `retired` and hands them back."""

    def __init__(
        self, used: Mapping[str, int] | None = None, retired: Mapping[int, tuple[str, int]] | None = None
    ) -> None:
        """`used`: owner -> slot. `retired`: slot -> (its last owner, the generation that must be committed)."""
        self.used = dict(used or {})
        self.retired = dict(retired or {})
        taken = [*self.used.values(), *self.retired]
        assert len(set(taken)) == len(taken), "a slot has two owners"

    def take(self, owner: str) -> int:
        """The owner's slot, a free one if it has none. An owner that comes back before its slot is free gets it again.

        Raises LimitError where all MAX_SLOTS are in use.
        """
        if owner in self.used:
            return self.used[owner]
        for slot, (last, _) in self.retired.items():
            if last == owner:
                del self.retired[slot]
                self.used[owner] = slot
                return slot
        taken = {*self.used.values(), *self.retired}
        for slot in range(MAX_SLOTS):
            if slot not in taken:
                self.used[owner] = slot
                return slot
        raise LimitError(f"{MAX_SLOTS} interfaces are captured by this agent, there is no room for {owner}")

    def release(self, owner: str, generation: int) -> None:
        """The owner has been detached while `generation` was the one in use (`Datapath.generation`)."""
        slot = self.used.pop(owner)
        self.retired[slot] = (owner, generation + 1)

    def committed(self, generation: int) -> list[int]:
        """A drain is safe elsewhere. Returns the slots that became free: their records need no name any more."""
        free = [slot for slot, (_, needed) in self.retired.items() if generation >= needed]
        for slot in free:
            del self.retired[slot]
        return free

    def owner(self, slot: int) -> str | None:
        """Whose packets come under this slot, an owner that has gone included; None: nobody's."""
        for owner, used in self.used.items():
            if used == slot:
                return owner
        return self.retired[slot][0] if slot in self.retired else None
