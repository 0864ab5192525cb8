"""What lies above captured interfaces, for drops of the host firewall: bridges whose ports they are, VLANs, bonds.

A packet that a bridge's port took in, and that goes on to IP, names the bridge and no longer the port. For each such
upper interface a map says which ENI a drop there concerns, by what the packet still has:

- the sender's MAC address, for what came in, where the MAC address behind a port is known;
- the ENI's address: the source of what came in, the destination of what was to go out. Another sender's MAC address
  under it is somebody else;
- nothing, where there is one interface below alone. A bridge with one port may still have to go out to nobody.

Where several may be meant (two ENIs with one address; a bond's slaves), the drop is `untold` at the first of them. A
bridge's port that is an ENI seen from inside, an uplink, has no address by which it is told from the others.

The map follows the links: it is written anew where an interface came, went or has another master.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vnotch.capture import libbpf
from vnotch.capture.interfaces import Namespace, link_socket
from vnotch.capture.layout import (
    UPPER_IN,
    UPPER_ITSELF,
    UPPER_KEY,
    UPPER_MAC,
    UPPER_OUT,
    UPPER_SLOT,
    UPPER_UNSURE,
    UPPER_V4,
    UPPER_V6,
)
from vnotch.errors import KernelError

Place = tuple[int, int, bytes]
"""(ifindex of the upper interface, UPPER_* kind, address of up to 16 bytes)"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A link. `master`: the bridge or bond that it belongs to; `lower`: a VLAN's device."""

    index: int
    kind: str = ""
    master: int | None = None
    lower: int | None = None


@dataclass(frozen=True)
class Identity:
    """How packets of an ENI are known: its own addresses, packed, and the MAC address of whoever is behind a port."""

    inside: bool = False
    mac: bytes | None = None
    addresses: tuple[bytes, ...] = ()


class _Below:
    """The links by what is below them. `captured`: ifindex -> slot."""

    def __init__(self, devices: Iterable[Device], captured: Mapping[int, int]) -> None:
        self.devices = {device.index: device for device in devices}
        self.captured = captured
        self.lowers: dict[int, list[int]] = {}
        for device in self.devices.values():
            if device.master is not None:
                self.lowers.setdefault(device.master, []).append(device.index)
            if device.lower is not None:
                self.lowers.setdefault(device.index, []).append(device.lower)

    def is_bridge(self, index: int) -> bool:
        return index in self.devices and self.devices[index].kind == "bridge"

    def leaves(self, index: int, above: frozenset[int] = frozenset()) -> Iterator[tuple[int | None, bool]]:
        """(slot or None, whether a bridge is on the way) of each interface at which what passes `index` came in: the
        nearest captured ones, and those below which there is none."""
        bridged = self.is_bridge(index)
        for lower in self.lowers.get(index, ()):
            if lower in self.captured:
                yield self.captured[lower], bridged
            elif lower in self.lowers and lower not in above:
                yield from ((slot, bridged or more) for slot, more in self.leaves(lower, above | {index}))
            else:
                yield None, bridged


def places(
    devices: Iterable[Device], captured: Mapping[int, int], identities: Mapping[int, Identity]
) -> dict[Place, int]:
    """The whole map. `captured`: ifindex -> slot; `identities` by slot."""
    below = _Below(devices, captured)
    found: dict[Place, int] = {}
    for upper in below.lowers:
        if upper in captured:
            continue
        leaves = list(below.leaves(upper))
        slots = sorted({slot for slot, _ in leaves if slot is not None})
        if not slots:
            continue
        inside = slots[0] in identities and identities[slots[0]].inside
        found[upper, UPPER_ITSELF, b""] = _itself(leaves, slots[0], inside)
        for slot in slots:
            for kind, address in _known_by(identities.get(slot, Identity())):
                place = upper, kind, address
                found[place] = found[place] | UPPER_UNSURE if place in found else slot
    return found


def _itself(leaves: list[tuple[int | None, bool]], slot: int, inside: bool) -> int:
    bridged = any(more for _, more in leaves)
    if len(leaves) == 1:
        return slot | UPPER_IN | (UPPER_OUT if inside or not bridged else 0)
    if not bridged:
        return slot | UPPER_IN | UPPER_OUT | UPPER_UNSURE
    if all(other is not None for other, _ in leaves):
        return slot | UPPER_IN | UPPER_UNSURE
    return slot


def _known_by(identity: Identity) -> Iterator[tuple[int, bytes]]:
    if identity.inside:
        return
    if identity.mac is not None:
        yield UPPER_MAC, identity.mac
    for address in dict.fromkeys(identity.addresses):
        yield (UPPER_V4 if len(address) == 4 else UPPER_V6), address


class Uppers:
    """The map in the kernel. One thread at a time uses it."""

    def __init__(self, fd: int, namespace: Namespace) -> None:
        """`fd`: the map, which stays the caller's."""
        self._fd = fd
        self._namespace = namespace
        self._room = libbpf.map_info(fd).max_entries
        self._identities: dict[int, Identity] = {}
        self._socket = namespace.run(link_socket)
        self._stale = True

    def close(self) -> None:
        self._socket.close()

    def know(self, slot: int, identity: Identity) -> None:
        if self._identities.get(slot) != identity:
            self._identities[slot] = identity
            self._stale = True

    def forget(self, slot: int) -> None:
        self._identities.pop(slot, None)
        self._stale = True

    def attached_otherwise(self) -> None:
        """Another set of interfaces is captured from now on."""
        self._stale = True

    def follow(self, captured: Mapping[int, int]) -> None:
        """Brings the map up to date where something has changed. `captured`: ifindex -> slot."""
        self._stale |= self._links_changed()
        if not self._stale:
            return
        try:
            wanted = places(self._namespace.run(_devices), captured, self._identities)
        except OSError as error:  # pyroute2's errors are such
            log.warning("the interfaces above captured ones are not known: %s", error)
            return
        self._write(wanted, {slot for slot in captured.values() if slot not in self._identities})
        self._stale = False

    def _links_changed(self) -> bool:
        changed = False
        while True:
            try:
                changed |= bool(self._socket.recv(1 << 16))
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # more messages than there was room for

    def _write(self, wanted: Mapping[Place, int], inherited: set[int]) -> None:
        """`inherited`: slots of a process before, of which this one has not been told yet; what that knew stays."""
        keys, values = np.empty(self._room, UPPER_KEY), np.empty(self._room, np.uint32)
        count = libbpf.lookup_batch(self._fd, keys, values)
        there = dict(zip(map(bytes, keys[:count]), values[:count].tolist(), strict=True))
        entries = {_key(place): value for place, value in wanted.items()}
        for key, value in there.items():
            if key not in entries and not (value & UPPER_SLOT in inherited and _kind(key) != UPPER_ITSELF):
                libbpf.map_delete(self._fd, key)
        refused = 0
        for key, value in entries.items():
            if there.get(key) != value:
                try:
                    libbpf.map_update(self._fd, key, value.to_bytes(4, "little"))
                except KernelError as error:
                    if error.errno != errno.E2BIG:
                        raise
                    refused += 1
        if refused:
            log.warning(
                "%d of %d addresses found no room: what the host firewall drops of them behind a bridge is not told",
                refused,
                len(entries),
            )


def _key(place: Place) -> bytes:
    index, kind, address = place
    return index.to_bytes(4, "little") + kind.to_bytes(4, "little") + address.ljust(16, b"\0")


def _kind(key: bytes) -> int:
    return int.from_bytes(key[4:8], "little")


def _devices() -> list[Device]:
    """To be run inside the namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        return [_device(item) for item in netlink.get_links()]


def _device(item: Any) -> Device:
    info = item.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    # Of other kinds with a lower device, not all that passes them comes from it.
    has_lower = kind == "vlan" and item.get_attr("IFLA_LINK_NETNSID") is None
    return Device(item["index"], kind, item.get_attr("IFLA_MASTER"), item.get_attr("IFLA_LINK") if has_lower else None)
