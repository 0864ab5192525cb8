"""What the datapath knows of ENIs: each one's slot by the index of its interface, and its `struct eni` by its slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vnotch.capture import layout, libbpf
from vnotch.capture.layout import ENI, MAX_SLOTS
from vnotch.errors import InputError


def check_slot(slot: int) -> None:
    if not 0 <= slot < MAX_SLOTS:
        raise InputError(f"slot {slot}: not from 0 to {MAX_SLOTS - 1}")


def eni_of(
    *,
    enforce: bool,
    enforce_until_ns: int | None,
    adopt: bool,
    inside: bool,
    mac: bytes | None,
    dns_v4: bytes | None,
    routers_v4: Iterable[bytes],
    router_v6: bytes | None,
) -> Any:
    """An ENI array of one, as `Datapath.set_interface` describes it. Raises InputError."""
    routers = list(routers_v4)
    if (
        len(routers) > 2
        or any(len(address) != 4 for address in (*routers, dns_v4 or bytes(4)))
        or len(router_v6 or bytes(16)) != 16
        or len(mac or bytes(6)) != 6
    ):
        raise InputError("addresses are not packed MAC, IPv4 or IPv6 ones, or more than two routers")
    eni = np.zeros(1, ENI)
    eni["flags"] = layout.ENI_ENFORCE if enforce else 0
    eni["enforce_until"] = enforce_until_ns or 0
    eni["flags"] |= layout.ENI_ADOPT if adopt else 0
    eni["flags"] |= layout.ENI_INSIDE if inside else 0
    if mac is not None:
        eni["flags"] |= layout.ENI_MAC
        eni["mac"] = np.void(mac)
    eni["dns_v4"] = np.void(dns_v4 or bytes(4))
    for place, address in enumerate(routers):
        eni["router_v4"][0][place] = np.void(address)
    eni["router_v6"] = np.void(router_v6 or bytes(16))
    return eni


class Slots:
    """The maps `slots`, `near_slots` and `enis`. The caller's lock guards it."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self._slots, self._near, self._enis = (fds[name] for name in ("slots", "near_slots", "enis"))

    def indexes(self) -> dict[int, int]:
        """ifindex -> slot, from the kernel's map: after a takeover it knows more than this process."""
        keys, values = np.empty(MAX_SLOTS, np.uint32), np.empty(MAX_SLOTS, np.uint32)
        count = libbpf.lookup_batch(self._slots, keys, values)
        return dict(zip(keys[:count].tolist(), values[:count].tolist(), strict=True))

    def indexes_of(self, slot: int) -> list[int]:
        return those_of(slot, self.indexes())

    def assign(self, index: int, slot: int | None) -> None:
        """Which slot an ifindex has: in the hash of all and, where it is small, in the array of the small ones."""
        key = index.to_bytes(4, "little")
        if slot is not None:
            libbpf.map_update(self._slots, key, slot.to_bytes(4, "little"))
        if index < layout.NEAR_INDEXES:
            mark = 0 if slot is None else slot + 1
            libbpf.map_update(self._near, key, mark.to_bytes(4, "little"))
        if slot is None:
            libbpf.map_delete(self._slots, key)

    def eni(self, slot: int) -> Any:
        """A copy, as an ENI array of one."""
        raw = libbpf.map_lookup(self._enis, slot.to_bytes(4, "little"), ENI.itemsize)
        assert raw is not None, "an array has all its entries"
        return np.frombuffer(raw, ENI).copy()

    def is_inside(self, slot: int) -> bool:
        return bool(int(self.eni(slot)["flags"][0]) & layout.ENI_INSIDE)

    def put(self, slot: int, eni: Any) -> None:
        """Changes what is known of an ENI, but for what its device is like, as was found out when it was attached."""
        eni = eni.copy()
        eni["flags"] |= self.eni(slot)["flags"] & layout.ENI_NO_LINK_HEADER
        self._put(slot, eni)

    def set_link_header(self, slot: int, has_one: bool) -> None:
        eni = self.eni(slot)
        before = int(eni["flags"][0])
        eni["flags"] = before & ~layout.ENI_NO_LINK_HEADER | (0 if has_one else layout.ENI_NO_LINK_HEADER)
        if int(eni["flags"][0]) != before:
            self._put(slot, eni)

    def clear(self, slot: int) -> None:
        self._put(slot, np.zeros(1, ENI))

    def _put(self, slot: int, eni: Any) -> None:
        libbpf.map_update(self._enis, slot.to_bytes(4, "little"), eni.tobytes())


def those_of(slot: int, indexes: Mapping[int, int]) -> list[int]:
    """The indexes (ifindex -> slot) that have this slot."""
    return [index for index, owner in indexes.items() if owner == slot]
