"""The interfaces under capture: which slot each one has, and whether it is attached.

A slot is the number by which the kernel's maps name an interface. Which interface a slot stands for is saved before the
first packet can be counted under it and outlives the interface: flows of an interface that is gone may still be in a
map, in the journal or in an open window. So a slot is given out again only when two drains have followed the detaching
(no map can hold it then) and the journal holds none of the drains up to the second (no window can hold it either).
"""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

from vnotch.agent.rule_numbers import SavedNumbers
from vnotch.agent.trials import UNCONFIRMED, Trials
from vnotch.capture.policy import JudgedBy
from vnotch.deciders import RuleNumbers
from vnotch.durable import replace_file, set_aside
from vnotch.errors import KernelError, LimitError, VnotchError
from vnotch.inventory import Interface
from vnotch.rules import RuleBook
from vnotch.verdict import ADOPTION_SECONDS, ALWAYS_TRACKED_TYPES

SLOTS_MAX = 4096
"""MAX_SLOTS of bpf/vnotch.h."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """`retired_number`: the number of the first drain after the detaching; None while the interface is captured.

    `flow_log_ids` are the flow logs that covered it then: its last windows are theirs still.
    `observe_from_ms`: when the enforcement that is on trial ends, by this host's clock; None where there is no trial.
    """

    interface: Interface
    retired_number: int | None = None
    flow_log_ids: tuple[str, ...] = ()
    observe_from_ms: int | None = None


@dataclass(frozen=True)
class State:
    """How an interface is attached: `attached`, `absent` (no such device) or `failed`; `message` says why. `device` is
    its name now."""

    interface_id: str
    state: str
    message: str | None = None
    mode: str | None = None
    device: str | None = None


class Attaching(Protocol):
    """What is needed of the datapath here (capture.kernel.Datapath)."""

    attach_mode: str
    taken_over: bool

    def set_interface(self, slot: int, **values: Any) -> None: ...
    def set_rules(self, book: RuleBook, judged: Mapping[int, JudgedBy], numbers: RuleNumbers) -> set[int]: ...
    def attach(self, device: str, slot: int) -> None: ...
    def detach(self, slot: int) -> None: ...
    def device_of(self, slot: int) -> str | None: ...
    def follow_links(self) -> None: ...
    def clear(self, slot: int) -> None: ...


class Interfaces:
    """Slots and attachments. One thread uses it: the one that uses the datapath."""

    def __init__(
        self,
        path: Path,
        datapath: Attaching,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._clock = clock
        self._trials = Trials(clock, now_ns)
        self.rule_names = SavedNumbers(path.with_name("rule-numbers.json"))
        self._adopting: dict[int, float] = {}  # slot -> until when
        self._devices: dict[int, str] = {}  # slot -> the name under which it was attached last
        self._book = RuleBook()
        self._judged: set[int] = set()  # slots whose rules are in force
        self._datapath = datapath
        self._slots: dict[int, Slot] = _load(path)
        self._states: dict[str, State] = {}
        if not datapath.taken_over:  # the table of connections is empty
            until = clock() + ADOPTION_SECONDS
            self._adopting = {number: until for number, slot in self._slots.items() if slot.retired_number is None}
        # The process before may have died between saying that these are retired and detaching them.
        self._unsure = {number for number, slot in self._slots.items() if slot.retired_number is not None}

    # Reading

    @property
    def by_slot(self) -> dict[int, Interface]:
        """Slot -> interface, those that are gone but may still be in a window included."""
        return {number: slot.interface for number, slot in self._slots.items()}

    def retired_of(self, flow_log_id: str) -> tuple[str, ...]:
        """Interfaces that are gone and that the flow log covered."""
        return tuple(
            slot.interface.interface_id
            for slot in self._slots.values()
            if slot.retired_number is not None and flow_log_id in slot.flow_log_ids
        )

    def states(self) -> list[dict[str, Any]]:
        return [asdict(state) for _, state in sorted(self._states.items())]

    @property
    def has_unattached(self) -> bool:
        return any(state.state != "attached" for state in self._states.values())

    # Changing

    def apply(
        self,
        wanted: Iterable[Interface],
        covering: Mapping[str, Iterable[str]],
        next_number: int,
        book: RuleBook | None = None,
    ) -> None:
        """Brings slots and attachments to what the configuration wants.

        `covering`: interface -> flow logs that covered it before; `next_number`: the number of the next drain; `book`:
        the rules by which interfaces are judged (None: none).
        Failures are in `states`, never raised. Raises OSError where slots cannot be saved; nothing was attached then.
        """
        by_id = {interface.interface_id: interface for interface in wanted}
        slots = {number: self._retired_again(number, slot, next_number) for number, slot in self._slots.items()}
        leaving = [
            number
            for number, slot in slots.items()
            if slot.retired_number is None and slot.interface.interface_id not in by_id
        ]
        for number in leaving:
            covered = tuple(covering.get(slots[number].interface.interface_id, ()))
            slots[number] = Slot(slots[number].interface, next_number, covered)
        numbers = {slot.interface.interface_id: number for number, slot in slots.items()}
        moved: list[int] = []
        refused: list[str] = []
        for interface_id, interface in by_id.items():
            slot_number = numbers.get(interface_id, _free_slot(slots))
            if slot_number is None:
                refused.append(interface_id)
                continue
            if slot_number in slots and slots[slot_number].interface.device != interface.device:
                moved.append(slot_number)
            if slot_number not in slots or slots[slot_number].retired_number is not None:
                # It had traffic before: connections are taken over for a while.
                self._adopting[slot_number] = self._clock() + ADOPTION_SECONDS
            before = slots.get(slot_number)
            slots[slot_number] = Slot(interface, observe_from_ms=self._trials.end_of(slot_number, interface, before))
        self._save(slots)
        in_use = {number for number, slot in slots.items() if slot.retired_number is None}
        for number in (*leaving, *moved, *(self._unsure - in_use)):
            self._detach(number)
        self._unsure.clear()
        self._states = {name: state for name, state in self._states.items() if name in by_id}
        for interface_id in refused:
            self._states[interface_id] = State(interface_id, "failed", f"all {SLOTS_MAX} slots are in use")
        self._book = book or RuleBook()
        self.rule_names.take_in(self._book)
        failed = self._set_rules()
        for number, slot in slots.items():
            if slot.retired_number is None:
                self._attach(number, slot.interface, failed.get(number))
        self._datapath.follow_links()

    @property
    def trial_seconds(self) -> float | None:
        """How long until the next enforcement on trial ends; None where there is none."""
        return self._trials.seconds_left()

    def end_trials(self) -> bool:
        """Interfaces whose enforcement nobody has confirmed in time only observe from now on; -> whether there was
        one. Raises KernelError where the datapath fails; the next call tries again."""
        over = self._trials.over()
        for number in over:
            slot = self._slots.get(number)
            if slot is not None and slot.retired_number is None:
                log.warning("%s: %s", slot.interface.interface_id, UNCONFIRMED)
                self._attach(number, slot.interface, None)
            self._trials.done(number)
        return bool(over)

    def end_adoptions(self) -> None:
        """Interfaces that took over connections from before their capture do so no longer when their time is over."""
        over = {number for number, until in self._adopting.items() if until <= self._clock()}
        if over:
            self._end_adoption(over)

    def _end_adoption(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._adopting.pop(number, None) is not None and number in self._slots:
                self._configure(number, self._slots[number].interface)

    def _set_rules(self) -> dict[int, str]:
        """Puts the book in force for all slots in use; -> slot -> why not. Those keep the rules that they had."""
        judged = {
            number: judged_by(slot.interface) for number, slot in self._slots.items() if slot.retired_number is None
        }
        numbers = self.rule_names.numbers
        try:
            changed = self._datapath.set_rules(self._book, judged, numbers)
        except VnotchError:  # one of them; the others shall not wait for it
            changed, failed = set(), {}
            for number, by in judged.items():
                try:
                    changed |= self._datapath.set_rules(self._book, {number: by}, numbers)
                except VnotchError as error:
                    failed[number] = str(error)
                    log.error("the rules of %s: %s", self._slots[number].interface.interface_id, error)
            self._settle_adoptions(changed)
            return failed
        self._settle_adoptions(changed)
        return {}

    def _settle_adoptions(self, changed: set[int]) -> None:
        """A change of rules ends adoption, but the first one, with which it began."""
        begun = {number for number in self._adopting if number not in self._judged}
        self._judged |= changed
        self._end_adoption(changed - begun)

    def retry(self) -> bool:
        """Tries again what is absent or failed; -> whether a state changed."""
        before = dict(self._states)
        failed = self._set_rules()
        for number, slot in self._slots.items():
            state = self._states.get(slot.interface.interface_id)
            if slot.retired_number is None and (state is None or state.state != "attached"):
                self._attach(number, slot.interface, failed.get(number))
        self._datapath.follow_links()
        return self._states != before

    def gone(self, device: str) -> None:
        """The device went away, or to another namespace: its attachment ends, which goes with some devices by itself
        and with others only so."""
        for number, slot in self._slots.items():
            if slot.retired_number is None and self._devices.get(number, slot.interface.device) == device:
                self._detach(number)
                self._attach(number, slot.interface, None)

    def renamed(self, old: str, new: str) -> None:
        """The device has another name; it is the same one, and its capture goes on under the same interface."""
        for number, slot in self._slots.items():
            if slot.retired_number is None and self._devices.get(number) == old:
                log.info("%s: %s is named %s now", slot.interface.interface_id, old, new)
                self._attach(number, slot.interface, None)

    def reclaimable(self, first_number: int) -> list[int]:
        """Slots that no map, no drain from `first_number` on and no window can hold any more."""
        return [
            number
            for number, slot in self._slots.items()
            if slot.retired_number is not None and slot.retired_number + 1 < first_number and number not in self._unsure
        ]

    def free(self, numbers: Iterable[int]) -> None:
        """Gives slots back, which the datapath has cleared."""
        gone = set(numbers)
        self._judged -= gone
        for number in gone:
            self._adopting.pop(number, None)
        if gone:
            self._save({number: slot for number, slot in self._slots.items() if number not in gone})

    # One interface

    def _retired_again(self, number: int, slot: Slot, next_number: int) -> Slot:
        return replace(slot, retired_number=next_number) if number in self._unsure else slot

    def _configure(self, number: int, interface: Interface) -> None:
        values = kernel_values(interface)
        values["enforce"] = values["enforce"] and not self._trials.is_over(number)
        values["enforce_until_ns"] = self._trials.end_ns(number) if values["enforce"] else None
        self._datapath.set_interface(number, adopt=number in self._adopting, **values)

    def _attach(self, number: int, interface: Interface, no_rules: str | None) -> None:
        """`no_rules`: why its rules are not in force; it is not attached without any.

        A device that is captured already is followed by its index: it may have got another name since.
        """
        interface_id = interface.interface_id
        try:
            if no_rules is not None and number not in self._judged:
                raise LimitError(no_rules)
            self._configure(number, interface)
            device = self._datapath.device_of(number) or interface.device
            self._datapath.attach(device, number)
            self._devices[number] = device
            said = [no_rules] if no_rules else []
            said += [f"{interface.device} is named {device} now"] if device != interface.device else []
            said += [UNCONFIRMED] if self._trials.is_over(number) else []
            state = State(interface_id, "attached", "; ".join(said) or None, self._datapath.attach_mode, device)
        except KernelError as error:
            state = State(interface_id, "absent" if error.errno == errno.ENODEV else "failed", str(error))
        except (VnotchError, ValueError) as error:
            state = State(interface_id, "failed", str(error))
        if self._states.get(interface_id) != state:
            log.info("%s on %s: %s %s", interface_id, interface.device, state.state, state.message or "")
        self._states[interface_id] = state

    def _detach(self, number: int) -> None:
        self._devices.pop(number, None)
        try:
            self._datapath.detach(number)
        except VnotchError as error:
            log.warning("detaching slot %d: %s", number, error)

    def _save(self, slots: Mapping[int, Slot]) -> None:
        document = {str(number): asdict(slot) for number, slot in sorted(slots.items())}
        replace_file(self._path, json.dumps(document).encode())
        self._slots = dict(slots)


def _free_slot(slots: Mapping[int, Slot]) -> int | None:
    return next((number for number in range(SLOTS_MAX) if number not in slots), None)


def kernel_values(interface: Interface) -> dict[str, Any]:
    """What the datapath must know of an interface (struct eni of bpf/vnotch.h), as plain values.

    The DNS server is the VPC's base plus two, the router's addresses are base plus one of VPC and subnet and ::1 of the
    subnet (VPC user guide: Amazon DNS server, reserved addresses of a subnet), where there are any. Raises ValueError
    for a bad CIDR.
    """
    vpc_v4, _ = _networks(interface.vpc_cidrs if interface.reserved_addresses else ())
    subnet_v4, subnet_v6 = _networks(interface.subnet_cidrs if interface.reserved_addresses else ())
    return {
        "enforce": interface.enforce,
        "inside": interface.sense == "inside",
        "mac": bytes.fromhex(interface.guest_mac.replace(":", "")) if interface.guest_mac else None,
        "dns_v4": (vpc_v4[0].network_address + 2).packed if vpc_v4 else None,
        "routers_v4": tuple((network.network_address + 1).packed for network in (*vpc_v4[:1], *subnet_v4[:1])),
        "router_v6": (subnet_v6[0].network_address + 1).packed if subnet_v6 else None,
        "addresses": tuple(ip_address(address).packed for address in (*interface.private_ipv4, *interface.ipv6)),
    }


def judged_by(interface: Interface) -> JudgedBy:
    """What decides about its packets."""
    return JudgedBy(
        interface.group_ids,
        interface.network_acl_id,
        interface.subnet_cidrs,
        interface.interface_type in ALWAYS_TRACKED_TYPES,
    )


def _networks(cidrs: Iterable[str]) -> tuple[list[IPv4Network], list[IPv6Network]]:
    networks = [ip_network(cidr) for cidr in cidrs]
    return (
        [network for network in networks if isinstance(network, IPv4Network)],
        [network for network in networks if isinstance(network, IPv6Network)],
    )


def _load(path: Path) -> dict[int, Slot]:
    try:
        document = json.loads(path.read_bytes())
        return {int(number): _slot(item) for number, item in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("%s is set aside: %s", set_aside(path), error)
        return {}


def _slot(item: Mapping[str, Any]) -> Slot:
    return Slot(
        Interface.from_json(item["interface"]),
        item["retired_number"],
        tuple(item["flow_log_ids"]),
        item.get("observe_from_ms"),
    )
