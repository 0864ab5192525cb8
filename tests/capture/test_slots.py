"""Slots: a number is not given to another ENI while packets can come out of the datapath under it."""

from __future__ import annotations

import pytest

from vnotch.capture.layout import MAX_SLOTS
from vnotch.capture.slots import Slots
from vnotch.errors import LimitError


def test_an_owner_keeps_its_slot() -> None:
    slots = Slots()
    assert [slots.take(owner) for owner in ("eni-a", "eni-b", "eni-a")] == [0, 1, 0]
    assert slots.owner(1) == "eni-b"
    assert slots.owner(2) is None


def test_a_slot_is_free_when_both_maps_were_drained() -> None:
    slots = Slots()
    slots.take("eni-a")
    slots.release("eni-a", generation=7)
    assert slots.owner(0) == "eni-a", "its last flows are still its own"
    assert slots.take("eni-b") == 1
    assert slots.committed(7) == []
    assert slots.take("eni-c") == 2
    assert slots.committed(8) == [0]
    assert slots.owner(0) is None
    assert slots.take("eni-d") == 0


def test_an_owner_that_comes_back_in_time_gets_its_slot_again() -> None:
    slots = Slots()
    slots.take("eni-a")
    slots.release("eni-a", generation=1)
    assert slots.take("eni-a") == 0
    assert slots.committed(2) == []
    assert slots.take("eni-b") == 1


def test_state_is_handed_on() -> None:
    slots = Slots()
    slots.take("eni-a")
    slots.take("eni-b")
    slots.release("eni-a", generation=3)
    again = Slots(slots.used, slots.retired)
    assert again.take("eni-c") == 2
    assert again.committed(4) == [0]
    assert again.take("eni-b") == 1


def test_there_is_a_bound() -> None:
    slots = Slots({f"eni-{number}": number for number in range(MAX_SLOTS - 1)})
    assert slots.take("eni-last") == MAX_SLOTS - 1
    with pytest.raises(LimitError, match="4096 interfaces"):
        slots.take("eni-one-more")
