"""The two flow maps that take turns, and what must survive the process that drains them.

One map is in use, its `generation` counts up from 1. A flip puts the other one into the kernel's slot for the map in
use; it returns after an RCU grace period, when no program writes to the old map any more: what is read from it then is
exact. (Emptying a live map loses packets, since programs go on adding through pointers they hold.)

All state is in maps, so that with pins a process that is killed at any point is succeeded by one that carries on:

    killed                            the successor finds                  and
    before the flip                   the maps as they were                carries on
    after the flip, before `meta`     another map in use than meta says    completes the flip
    before the drops' flip is noted   PENDING_DROPS                        flips the drops
    after `meta`, before the commit   PENDING_DRAIN                        drains the same generation again
    while the old map is emptied      PENDING_EMPTY                        empties the rest, tells nobody of it

What the host firewall dropped (capture/drops.py) has two maps of its own, which flip after those of flows: when a flip
of flows returns, the kernel has also passed on the packets that were counted last in the old map, and dropped them or
not, since it does both in one softirq. So the old map of drops has all that concerns the old map of flows, and perhaps
something of the new one. That is the drain's rest, kept at the commit in `rest_0` or `rest_1` by the parity of the next
generation, which takes it up.

Where a drain ends in the ring buffer, and the loss counters' state at the flip (in `losses_0` and `losses_1`, by the
parity of the generation), are part of that state: a repeated drain is the same drain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vnotch.capture import layout, libbpf
from vnotch.capture.drops import Drops, Settled, settle, without
from vnotch.capture.layout import COUNTER, FLOW_KEY, FLOW_VALUE, MAX_SLOTS, META
from vnotch.capture.ring import Ring
from vnotch.flow import Loss

ZERO = (0).to_bytes(4, "little")


@dataclass(frozen=True)
class Drain:
    """What one generation of the datapath saw."""

    generation: int
    """Of the map that was drained; strictly increasing, also across restarts with pins (a reboot begins at 1 again)."""
    flipped_ns: int
    """Unix time in ns at which the map was taken out of use."""
    flows: pa.Table
    """FLOW_SCHEMA, with EXCLUDED rows. What went through the ring buffer is in rows of its own, a packet (or GSO frame)
    a row: keys may repeat."""
    losses: pa.Table
    """LOSS_SCHEMA: what was lost since the drain before."""


@dataclass(frozen=True)
class FlowMaps:
    """File descriptors of the maps that flips concern."""

    active: int
    flows: tuple[int, int]
    meta: int
    losses: tuple[int, int]
    lost: int


@dataclass(frozen=True)
class DropMaps:
    """File descriptors of the maps of what the host firewall drops."""

    active: int
    drops: tuple[int, int]
    rest: tuple[int, int]
    untold: int


class Generations:
    """Flips, drains and commits. Not safe for several threads; `Datapath` holds a lock."""

    unmatched_drops: tuple[int, int] = (0, 0)
    """Packets and bytes that the host firewall dropped and of which there was no flow, since this was made."""

    def __init__(self, maps: FlowMaps, ring: Ring, drop_maps: DropMaps | None = None) -> None:
        """`drop_maps`: None where drops of the host firewall are not seen."""
        self._maps = maps
        self._drop_maps = drop_maps
        self._drained = 0  # the generation that `_settled` belongs to
        self._settled: Settled | None = None
        self._ring = ring
        self._capacity = libbpf.map_info(maps.flows[0]).max_entries
        self._cpus = libbpf.possible_cpus()
        self._slot_keys = np.arange(MAX_SLOTS * 2, dtype=np.uint32)
        self._meta = np.zeros(1, META)
        self._losses: list[npt.NDArray[Any]] = []
        self._keys = np.empty(self._capacity, FLOW_KEY)
        self._values = np.empty(self._capacity, FLOW_VALUE)

    @property
    def generation(self) -> int:
        """Of the map in use."""
        return int(self._meta["generation"][0])

    def in_use(self) -> tuple[int, npt.NDArray[Any]]:
        """For a view: the file descriptor of the map in use, and a copy of what has gone through the ring buffer since
        the last flip. Nothing is consumed."""
        spilled = self._ring.read(self._ring.end(), int(self._meta["ring_end"][0]))
        return self._maps.flows[int(self._meta["active"][0])], spilled

    # ---- Beginning -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """New maps: the first goes into use."""
        libbpf.map_update(self._maps.active, ZERO, self._maps.flows[0].to_bytes(4, "little"))
        self._meta["layout"] = layout.LAYOUT_VERSION
        self._meta["generation"] = 1
        self._use_drops(0)
        self._save()
        self._losses = [np.zeros(MAX_SLOTS * 2, COUNTER) for _ in range(2)]

    def resume(self) -> None:
        """Maps of a predecessor, which may have died anywhere."""
        raw = libbpf.map_lookup(self._maps.meta, ZERO, META.itemsize)
        assert raw is not None
        self._meta = np.frombuffer(raw, META).copy()
        self._losses = [self._read_counters(fd) for fd in self._maps.losses]
        in_use = libbpf.map_lookup(self._maps.active, ZERO, 4)
        assert in_use is not None
        ids = [libbpf.map_info(fd).id for fd in self._maps.flows]
        active = ids.index(int.from_bytes(in_use, "little"))
        # Putting the same map in again waits for programs that still run with the one before.
        libbpf.map_update(self._maps.active, ZERO, self._maps.flows[active].to_bytes(4, "little"))
        if active != self._meta["active"][0]:
            self._flipped(active, time.time_ns())
        if self._meta["pending"][0] == layout.PENDING_DROPS:
            self._flip_drops()
        else:
            self._use_drops(active)  # new ones, where the predecessor had none
        if self._meta["pending"][0] == layout.PENDING_EMPTY:
            self._empty()

    def origin(self) -> tuple[int, int]:
        """(inode of the network namespace, MODE_* of attaching) of the last process that used these maps."""
        return int(self._meta["netns"][0]), int(self._meta["mode"][0])

    def set_origin(self, netns: int, mode: int) -> None:
        self._meta["netns"], self._meta["mode"] = netns, mode
        self._save()

    def use_slots(self, count: int) -> None:
        """Slots below `count` are in use: counters are read that far."""
        if count > self._meta["slots"][0]:
            self._meta["slots"] = count
            self._save()

    def wait(self) -> None:
        """Returns when every program that is running now has ended: putting the map in use in again waits for that."""
        fd = self._maps.flows[int(self._meta["active"][0])]
        libbpf.map_update(self._maps.active, ZERO, fd.to_bytes(4, "little"))

    # ---- Drain and commit ------------------------------------------------------------------------------------------

    def drain(self) -> Drain:
        """Flips and reads the old map. Until that drain is committed, a further call reads the same one again."""
        if self._meta["pending"][0] == layout.PENDING_NONE:
            other = 1 - int(self._meta["active"][0])
            at_ns = time.time_ns()
            libbpf.map_update(self._maps.active, ZERO, self._maps.flows[other].to_bytes(4, "little"))
            self._flipped(other, at_ns)
        if self._meta["pending"][0] == layout.PENDING_DROPS:
            self._flip_drops()
        generation = self.generation - 1
        to_unix_ns = layout.monotonic_to_unix_ns()
        count = libbpf.lookup_batch(self._old_map(), self._keys, self._values)
        now_ns = time.monotonic_ns()
        flows = layout.flow_table(self._keys[:count], self._values[:count], now_ns, to_unix_ns)
        spilled = self._ring.read(int(self._meta["ring_end"][0]))
        if len(spilled):
            flows = pa.concat_tables([flows, layout.spill_table(spilled, to_unix_ns)])
        settled = self._settle(count, spilled)
        if settled is not None:
            rejected = layout.flow_table(settled.rejected.keys, settled.rejected.values, now_ns, to_unix_ns)
            flows = pa.concat_tables([without(flows, settled), rejected])
        now, before = self._losses[generation % 2], self._losses[(generation - 1) % 2]
        losses = layout.loss_table(now, before, Loss.RING_FULL)
        return Drain(generation, int(self._meta["flipped_ns"][0]), flows, losses)

    def commit(self, generation: int) -> None:
        """The drain of this generation is safe elsewhere: its map is emptied for the next flip. A second call does
        nothing."""
        if self._meta["pending"][0] == layout.PENDING_NONE and generation < self.generation:
            return
        assert generation == self.generation - 1, f"generation {generation} is not the one that was drained"
        self._keep_rest(generation)
        self._meta["pending"] = layout.PENDING_EMPTY
        self._save()
        self._empty()

    def _old_map(self) -> int:
        return self._maps.flows[1 - int(self._meta["active"][0])]

    def _flipped(self, active: int, at_ns: int) -> None:
        """Records a flip that has happened. Losses and the ring's end come first: `meta` says that they are right."""
        lost = self.read_lost()
        parity = self.generation % 2
        if not np.array_equal(lost, self._losses[parity]):
            self._losses[parity] = lost
            libbpf.update_batch(self._maps.losses[parity], self._slot_keys, lost)
        self._meta["active"] = active
        self._meta["generation"] += 1
        self._meta["pending"] = layout.PENDING_DROPS if self._drop_maps else layout.PENDING_DRAIN
        self._meta["flipped_ns"] = at_ns
        self._meta["ring_end"] = self._ring.end()
        self._save()

    def _empty(self) -> None:
        libbpf.take_batch(self._old_map(), self._keys, self._values)
        if self._drop_maps:
            _take(self._old_drops())
        self._ring.consume(int(self._meta["ring_end"][0]))
        self._meta["pending"] = layout.PENDING_NONE
        self._save()

    def _save(self) -> None:
        libbpf.map_update(self._maps.meta, ZERO, self._meta.tobytes())

    # ---- Drops of the host firewall --------------------------------------------------------------------------------

    def forgo_drops(self) -> None:
        """Drops will not be seen, after all."""
        self._drop_maps = None

    def _old_drops(self) -> int:
        assert self._drop_maps
        return self._drop_maps.drops[1 - int(self._meta["active"][0])]

    def _use_drops(self, which: int) -> None:
        """Returns when no program writes to the other map of drops any more."""
        if self._drop_maps:
            fd = self._drop_maps.drops[which]
            libbpf.map_update(self._drop_maps.active, ZERO, fd.to_bytes(4, "little"))

    def _flip_drops(self) -> None:
        """The second half of a flip."""
        if len(self._ring.read(int(self._meta["ring_end"][0]))):
            # The packets that were last in the ring's part of this drain are passed on or dropped first.
            self.wait()
        self._use_drops(int(self._meta["active"][0]))
        self._meta["pending"] = layout.PENDING_DRAIN
        self._save()

    def _settle(self, count: int, spilled: npt.NDArray[Any]) -> Settled | None:
        """Holds the drops of this drain against its rows: those in `_keys` and what was spilled. None: no drops."""
        if not self._drop_maps:
            return None
        generation = self.generation - 1
        drops, rest = _read(self._old_drops()), _read(self._drop_maps.rest[generation % 2])
        self._drained, self._settled = generation, None
        if not len(drops) and not len(rest):
            return None
        columns = ((self._keys[:count], self._values[:count]), (spilled["key"], spilled))
        keys = np.concatenate([column_keys for column_keys, _ in columns])
        packets, bytes_ = (np.concatenate([values[name] for _, values in columns]) for name in ("packets", "bytes"))
        self._settled = settle(keys, packets, bytes_, drops, rest)
        return self._settled

    def _keep_rest(self, generation: int) -> None:
        """Makes what the drain has too much known to the next one, before the map that it came from is emptied."""
        if not self._drop_maps:
            return
        if self._drained != generation:
            self.drain()  # after a takeover
        settled = self._settled
        fd = self._drop_maps.rest[(generation + 1) % 2]
        _take(fd)
        if settled is not None:
            if len(settled.rest):
                libbpf.update_batch(fd, settled.rest.keys, settled.rest.values)
            self.unmatched_drops = (
                self.unmatched_drops[0] + settled.unmatched[0],
                self.unmatched_drops[1] + settled.unmatched[1],
            )

    # ---- Counters by slot and direction ----------------------------------------------------------------------------

    def read_lost(self) -> npt.NDArray[Any]:
        """COUNTER by slot * 2 + direction, all MAX_SLOTS of them: lost since the maps were made."""
        return self.sum_cpus(self._maps.lost)

    def sum_cpus(self, fd: int) -> npt.NDArray[Any]:
        """A per-CPU counter map, summed; slots that were never in use are zero."""
        used = int(self._meta["slots"][0]) * 2
        total = np.zeros(MAX_SLOTS * 2, COUNTER)
        if used:
            keys = np.empty(used, np.uint32)
            values = np.empty((used, self._cpus), COUNTER)
            count = libbpf.lookup_batch(fd, keys, values)
            assert count == used
            for name in ("packets", "bytes"):
                total[name][:used] = values[name].sum(axis=1)
        return total

    def _read_counters(self, fd: int) -> npt.NDArray[Any]:
        values = np.empty(MAX_SLOTS * 2, COUNTER)
        count = libbpf.lookup_batch(fd, np.empty(MAX_SLOTS * 2, np.uint32), values)
        assert count == MAX_SLOTS * 2
        return values


def _read(fd: int) -> Drops:
    """A map of drops that nobody writes to."""
    keys, values = _room(fd)
    count = libbpf.lookup_batch(fd, keys, values)
    return Drops(keys[:count], values[:count])


def _take(fd: int) -> None:
    libbpf.take_batch(fd, *_room(fd))


def _room(fd: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    entries = libbpf.map_info(fd).max_entries
    return np.empty(entries, FLOW_KEY), np.empty(entries, FLOW_VALUE)
