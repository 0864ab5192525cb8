"""Who decided a verdict: a layer and its entry, and the numbers that stand for them in flows.

Record fields x-rule-layer and x-rule-id print a decider; the flow key (bpf/vnotch.h: struct flow_key) has room for a
number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vnotch.errors import InputError, LimitError


class Layer(StrEnum):
    """Where a verdict was made, as the record field x-rule-layer prints it."""

    SECURITY_GROUP = "security-group"
    NETWORK_ACL = "network-acl"
    TRACKED = "tracked"
    HOST_FIREWALL = "host-firewall"
    DEFAULT = "default"


@dataclass(frozen=True)
class Decider:
    """The layer that decided and the id of its entry; None where it has none to name (printed `-`)."""

    layer: Layer
    rule_id: str | None = None


UNKNOWN_NUMBER = 0
"""Not judged by this version, or excluded: prints `-` in both fields."""
DEFAULT_NUMBER = 1
TABLE_FULL_NUMBER = 2
HOST_FIREWALL_NUMBER = 3
_FIRST_NUMBER = 16
TRACKED_BIT = 1 << 31
"""Set in the number of a security group rule, it says layer `tracked`: the datapath needs no second number for
replies."""


class RuleNumbers:
    """Deciders as the u32 `rule` of the flow key, and back. The agent keeps it as long as flows and connections refer
    to it.

    A number names one decider for ever: it is given out once and never again, also across restarts (`to_json`).
    """

    def __init__(self) -> None:
        self._numbers: dict[Decider, int] = {}
        self._deciders: dict[int, Decider] = {}
        self._next = _FIRST_NUMBER

    def number(self, decider: Decider) -> int:
        """The decider's number, a new one if it has none. Raises LimitError after two thousand million of them."""
        if decider == Decider(Layer.DEFAULT):
            return DEFAULT_NUMBER
        if decider == Decider(Layer.TRACKED):
            return TABLE_FULL_NUMBER
        if decider == Decider(Layer.HOST_FIREWALL):
            return HOST_FIREWALL_NUMBER
        if decider.layer is Layer.TRACKED:
            return self.number(Decider(Layer.SECURITY_GROUP, decider.rule_id)) | TRACKED_BIT
        known = self._numbers.get(decider)
        if known is not None:
            return known
        if self._next >= TRACKED_BIT:
            raise LimitError("the numbers of rules are used up")
        number, self._next = self._next, self._next + 1
        self._numbers[decider], self._deciders[number] = number, decider
        return number

    def decider(self, number: int) -> Decider | None:
        """What the number names; None for 0 and for one that was never given out or is no longer kept."""
        if number == DEFAULT_NUMBER:
            return Decider(Layer.DEFAULT)
        if number == TABLE_FULL_NUMBER:
            return Decider(Layer.TRACKED)
        if number == HOST_FIREWALL_NUMBER:
            return Decider(Layer.HOST_FIREWALL)
        known = self._deciders.get(number & ~TRACKED_BIT)
        if known is None or not number & TRACKED_BIT:
            return known
        return Decider(Layer.TRACKED, known.rule_id)

    def retain(self, numbers: Iterable[int]) -> None:
        """Forgets all but these: those of the rules in force, of live connections and of flows not yet delivered."""
        kept = {number & ~TRACKED_BIT for number in numbers}
        self._deciders = {number: decider for number, decider in self._deciders.items() if number in kept}
        self._numbers = {decider: number for number, decider in self._deciders.items()}

    def to_json(self) -> dict[str, Any]:
        rows = [[number, decider.layer.value, decider.rule_id] for number, decider in self._deciders.items()]
        return {"next": self._next, "numbers": rows}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RuleNumbers:
        """Raises InputError for a document that to_json did not make."""
        numbers = cls()
        try:
            numbers._next = int(document["next"])
            for number, layer, rule_id in document["numbers"]:
                decider = Decider(Layer(layer), rule_id)
                numbers._numbers[decider], numbers._deciders[int(number)] = int(number), decider
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"rule numbers: {error}") from error
        if any(not _FIRST_NUMBER <= number < numbers._next for number in numbers._deciders):
            raise InputError("rule numbers: a number is out of range")
        return numbers
