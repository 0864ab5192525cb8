"""Who is behind the flows of a drain, and what was found kept beside the open windows.

Only for flow logs whose format asks for it. Sockets are looked up right after the flip, in the namespace at the
interface's own end: that of the capture where the device is the ENI itself, else the one behind its veth. Where that
cannot be entered (CAP_SYS_ADMIN), or there is none, as behind a tap, the owner is not known.

What was found for a drain is in the journal with it. All bounds are counted and shown in the status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vnotch.agent.tracks import interval_of
from vnotch.capture.cgroups import CgroupPaths, cgroup2_mount, container_of, unit_of
from vnotch.capture.ends import Ends, own_ends
from vnotch.capture.guests import Guest, Guests
from vnotch.capture.interfaces import Namespace
from vnotch.capture.processes import Process, SocketHolders
from vnotch.capture.sockets import NamespaceSockets, OpenSocket, namespace_sockets
from vnotch.errors import HostError, KernelError
from vnotch.flow import Outcome
from vnotch.inventory import FlowLog, Interface
from vnotch.owner import NO_OWNERS, OWNER_FIELDS, OWNER_SCHEMA, PARTS, Owners, flow_keys, merge_observations
from vnotch.record import flow_log_format

SOCKETS_MAX = 200_000
"""Looked at in one drain, over all namespaces."""
GUESTS_MAX = 256
"""Namespaces entered in one drain."""
KEPT_MAX = 200_000
"""Observations kept, over all open windows; 100 bytes each."""
FORGET_SECONDS = 60.0
"""After so long all holders and namespaces are looked for again."""
RETRY_SECONDS = 5.0

_PROTOCOLS = (6, 17)
_INIT_SCOPE = "init.scope"

log = logging.getLogger(__name__)


def asks(flow_log: FlowLog) -> bool:
    """Whether the flow log's format has a field that names an owner."""
    names = flow_log_format(flow_log.log_format, flow_log.tag_keys).names
    return any(name in names for name in OWNER_FIELDS)


@dataclass
class Counters:
    """Since the agent's start; `sockets` and `milliseconds` are those of the last drain."""

    flows: int = 0
    found: int = 0
    sockets: int = 0
    milliseconds: float = 0.0
    sockets_omitted: int = 0
    namespaces_omitted: int = 0
    namespaces_unreadable: int = 0
    searches: int = 0
    searches_cut: int = 0
    searches_deferred: int = 0


class OwnerObserver:
    """Finds the owners of a drain's flows. One thread uses it: the loop's."""

    def __init__(
        self,
        netns: str | None,
        *,
        sockets_max: int = SOCKETS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._netns = netns
        self._sockets_max = sockets_max
        self._clock = clock
        self._here: Namespace | None = None
        self._guests: dict[str, Guest | None] = {}  # device -> the namespace behind it, None for the capture's own
        self._retry_at = 0.0
        self._forget_at = 0.0
        self._holders = SocketHolders()
        self._cgroups = CgroupPaths(cgroup2_mount())
        self.counters = Counters()

    def observe(self, flows: pa.Table, interfaces: Mapping[int, Interface]) -> pa.Table:
        """-> OWNER_SCHEMA rows of those flows of these slots whose owner is known. Never raises for what the host does
        not let us see: it is counted."""
        begun = self._clock()
        self.counters.sockets = 0
        rows = _asked(flows, interfaces)
        found = OWNER_SCHEMA.empty_table()
        if len(rows):
            self._freshen(begun)
            found = self._observe(flows, rows, interfaces)
        self.counters.flows += len(rows)
        self.counters.found += found.num_rows
        for name in ("searches", "searches_cut", "searches_deferred"):
            setattr(self.counters, name, getattr(self._holders, name))
        self.counters.milliseconds = round((self._clock() - begun) * 1000, 1)
        return found

    def close(self) -> None:
        if self._here is not None:
            self._here.close()

    def _observe(self, flows: pa.Table, rows: npt.NDArray[np.int64], interfaces: Mapping[int, Interface]) -> pa.Table:
        slots = flows["slot"].to_numpy()[rows]
        parts: list[tuple[npt.NDArray[np.int64], Ends]] = []
        for namespace, members in self._namespaces(set(slots.tolist()), interfaces).items():
            mine = rows[np.isin(slots, members)]
            if (sockets := self._sockets(namespace)) is not None:
                ends = own_ends(flows, mine, sockets)
                # Of sockets that were left out, one may be the connection's own: what takes any is no proof then.
                here = (ends.group >= 0) & (ends.exact | (sockets.omitted == 0))
                parts.append((mine[here], Ends(ends.groups, ends.group[here], ends.exact[here])))
        wanted = [ends.groups[place] for _, ends in parts for place in np.unique(ends.group).tolist()]
        cgroups = {item.inode: item.cgroup for group in wanted for item in group}
        holders = self._holders.holders(cgroups, lambda inodes: self._near({cgroups[inode] for inode in inodes}))
        return pa.concat_tables(
            [OWNER_SCHEMA.empty_table(), *(self._table(flows, mine, ends, holders) for mine, ends in parts)]
        )

    def _near(self, cgroups: Iterable[int]) -> list[int]:
        return [pid for number in cgroups if number for pid in self._cgroups.processes_of(number)]

    def _table(
        self, flows: pa.Table, rows: npt.NDArray[np.int64], ends: Ends, holders: Mapping[int, list[Process]]
    ) -> pa.Table:
        places, codes = np.unique(ends.group, return_inverse=True)
        owners = [self._owner(ends.groups[place], holders) for place in places.tolist()]
        names = [pa.array([owner[number] for owner in owners], pa.string()) for number in range(len(PARTS))]
        columns = [values.take(pa.array(codes.reshape(-1))) for values in names]
        return pa.table([flow_keys(flows, rows), pa.array(ends.exact), *columns], schema=OWNER_SCHEMA)

    def _owner(
        self, group: Iterable[OpenSocket], holders: Mapping[int, list[Process]]
    ) -> tuple[str | None, str | None, str | None]:
        """(process, unit, container); None for what is not known of every one of the sockets, or not the same."""
        processes: set[str | None] = set()
        units: set[str | None] = set()
        containers: set[str | None] = set()
        for item in group:
            held = holders.get(item.inode, [])
            processes.update(process.text for process in held)
            units.update(_unit(process.cgroups) for process in held)
            containers.update(_container(process.cgroups) for process in held)
            if not held:
                path = self._cgroups.path_of(item.cgroup) if item.cgroup else None
                unit = unit_of(path) if path else None
                processes.add(None)
                # A socket of init's was made for a service, which is not told.
                units.add(None if unit == _INIT_SCOPE else unit)
                containers.add(container_of(path) if path else None)
        return _only(processes), _only(units), _only(containers)

    # Namespaces

    def _freshen(self, now: float) -> None:
        self._cgroups.refresh()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_SECONDS
            self._holders.forget()
            self._guests.clear()
            self._retry_at = 0.0
        self._guests = {name: guest for name, guest in self._guests.items() if guest is None or guest.is_there}

    def _namespaces(self, slots: Collection[int], interfaces: Mapping[int, Interface]) -> dict[Guest | None, list[int]]:
        """The namespace at the own end of the flows of these slots (None: the capture's) -> its slots."""
        behind = [interfaces[slot].device for slot in slots if not _is_inside(interfaces[slot])]
        missing = [device for device in behind if device not in self._guests]
        if missing and self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY_SECONDS
            try:
                peers = Guests(self._own_namespace()).behind(missing)
                self._guests |= {device: peer.guest for device, peer in peers.items()}
            except (KernelError, HostError) as error:
                self._unreadable("the namespaces behind veths", error)
        found: dict[Guest | None, list[int]] = {}
        for slot in slots:
            interface = interfaces[slot]
            if _is_inside(interface):
                found.setdefault(None, []).append(slot)
            elif interface.device in self._guests:
                found.setdefault(self._guests[interface.device], []).append(slot)
        if len(found) > GUESTS_MAX:
            self.counters.namespaces_omitted += len(found) - GUESTS_MAX
            found = dict(list(found.items())[:GUESTS_MAX])
        return found

    def _sockets(self, guest: Guest | None) -> NamespaceSockets | None:
        left = self._sockets_max - self.counters.sockets
        try:
            if guest is None:
                sockets = namespace_sockets(self._own_namespace(), left)
            else:
                namespace = Namespace(guest.path)
                try:
                    if namespace.inode != guest.inode:
                        return None  # the process ended, and its number is another's
                    sockets = namespace_sockets(namespace, left)
                finally:
                    namespace.close()
        except (KernelError, HostError) as error:
            self._unreadable(guest.path if guest else "the capture's namespace", error)
            return None
        self.counters.sockets += len(sockets.sockets)
        self.counters.sockets_omitted += sockets.omitted
        return sockets

    def _own_namespace(self) -> Namespace:
        if self._here is None:
            self._here = Namespace(self._netns)
        return self._here

    def _unreadable(self, what: str, error: Exception) -> None:
        self.counters.namespaces_unreadable += 1
        log.debug("sockets of %s: %s", what, error)


class WindowOwners:
    """Observations beside the open windows: track and beginning of the window -> what was seen in its drains.

    `turned_away` counts those that the bound left no room for: their flows have no owner, or the one seen before.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._windows: dict[tuple[str, int], list[pa.Table]] = {}
        self.turned_away = 0

    @property
    def kept(self) -> int:
        return sum(table.num_rows for tables in self._windows.values() for table in tables)

    def add(self, starts: Mapping[str, int], observations: pa.Table) -> None:
        if observations.num_rows == 0:
            return
        for window in starts.items():
            tables = self._windows.setdefault(window, [])
            tables.append(observations)
            if self.kept > self._kept_max:
                tables[:] = [merge_observations(tables)]
                over = min(self.kept - self._kept_max, tables[0].num_rows)
                if over > 0:
                    self.turned_away += over
                    tables[:] = [tables[0].slice(0, tables[0].num_rows - over)]

    def of(self, track: str, start_s: int) -> Owners:
        """The owners in a window, or in a part of one that was cut: `start_s` lies in it."""
        interval = interval_of(track)
        tables = self._windows.get((track, start_s // interval * interval))
        return NO_OWNERS if tables is None else Owners(merge_observations(tables))

    def keep(self, open_windows: Collection[tuple[str, int]]) -> None:
        """Forgets all windows that have closed."""
        self._windows = {window: tables for window, tables in self._windows.items() if window in open_windows}


def _asked(flows: pa.Table, interfaces: Mapping[int, Interface]) -> npt.NDArray[np.int64]:
    """Rows of TCP and UDP flows of these slots."""
    if not interfaces or flows.num_rows == 0:
        return np.zeros(0, np.int64)
    chosen = np.isin(flows["slot"].to_numpy(), list(interfaces))
    chosen &= np.isin(flows["protocol"].to_numpy(), _PROTOCOLS)
    chosen &= flows["outcome"].to_numpy() != Outcome.EXCLUDED
    return np.flatnonzero(chosen)


def _is_inside(interface: Interface) -> bool:
    return interface.sense == "inside"


def _unit(cgroups: tuple[str, ...]) -> str | None:
    return unit_of(cgroups[0]) if cgroups else None


def _container(cgroups: tuple[str, ...]) -> str | None:
    return next(filter(None, map(container_of, cgroups)), None)


def _only(values: set[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
