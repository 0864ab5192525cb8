"""Conservation: every packet is in exactly one flow, or excluded, or lost with a reason. Held against counters that are
not ours, exactly: the device's own where every packet is a frame, the tap's where the kernel cuts frames (GSO)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from drains import Flow, Sum, drain_all, flipping, flows, totals
from links import SLOT, Pair
from oracle.tap import EGRESS, Tap
from traffic import bulk, flood_bytes, start_flood, udp_gso

from vnotch.capture.kernel import Datapath
from vnotch.flow import Direction, Loss

pytestmark = pytest.mark.root

IN, OUT = int(Direction.INGRESS), int(Direction.EGRESS)
ETHERNET = 14


def seen(datapath: Datapath, direction: int) -> Sum:
    return Sum(*datapath.seen()[SLOT, direction])


def test_offloads_off_equals_the_devices_counters(pair: Pair, datapath: Datapath) -> None:
    pair.offloads_off()
    pair.settle()
    before = pair.host_counters()
    with flipping(datapath) as drains:
        bulk(pair, 8)
        bulk(pair, 8, upload=False)
        start_flood(pair, 100_000, 3000).wait()
        pair.settle()
    after = pair.host_counters()
    rx, tx = after.rx_packets - before.rx_packets, after.tx_packets - before.tx_packets
    egress = Sum(rx, after.rx_bytes - before.rx_bytes - ETHERNET * rx)
    ingress = Sum(tx, after.tx_bytes - before.tx_bytes - ETHERNET * tx)
    assert rx > 105_000
    assert tx > 5_000
    assert totals(drains, SLOT, OUT) == egress == seen(datapath, OUT)
    assert totals(drains, SLOT, IN) == ingress == seen(datapath, IN)
    assert len(drains) > 5


def test_offloads_on_equals_the_taps_count(pair: Pair, datapath: Datapath, tap_folder: Path) -> None:
    """Each direction is counted by the tap where it is sent: there the kernel knows the segments' lengths."""
    pair.enable_ipv6()
    with Tap(tap_folder, pair.instance) as at_instance, Tap(tap_folder, pair.host) as at_host:
        at_instance.attach(pair.instance_device)
        at_host.attach(pair.host_device)

        def tapped() -> dict[int, Sum]:
            told = {
                OUT: at_instance.totals(pair.instance_device, EGRESS),
                IN: at_host.totals(pair.host_device, EGRESS),
            }
            return {way: Sum(t.packets, t.bytes - ETHERNET * t.packets) for way, t in told.items()}

        while True:  # until no late multicast report falls between the counts
            base = tapped()
            drain_all(datapath)
            start = {way: seen(datapath, way) for way in (IN, OUT)}
            pair.settle()
            if tapped() == base:
                break
        with flipping(datapath) as drains:
            bulk(pair, 32)
            bulk(pair, 32, upload=False)
            bulk(pair, 32, ipv6=True)
            bulk(pair, 32, ipv6=True, upload=False)
            udp_gso(pair, 200, 1200, 20)
            pair.settle()
        while True:  # the same at the end
            now = tapped()
            drains.append(drain_all(datapath))
            end = {way: seen(datapath, way) for way in (IN, OUT)}
            if tapped() == now:
                break
        for way in (IN, OUT):
            expected = Sum(now[way].packets - base[way].packets, now[way].bytes - base[way].bytes)
            assert totals(drains, SLOT, way) == expected
            assert Sum(end[way].packets - start[way].packets, end[way].bytes - start[way].bytes) == expected
        told = at_instance.totals(pair.instance_device, EGRESS)
        assert told.packets > 4 * told.frames, "there was no GSO"


@pytest.mark.parametrize("ipv6", [False, True])
def test_big_tcp(pair: Pair, datapath: Datapath, tap_folder: Path, ipv6: bool) -> None:
    """Frames longer than IP can say. The kernel's wire_len counts IPv6's jumbo option for each segment, which the
    segments leave without (net/core/gso.c); so bytes are held against what TCP must have sent: headers of 20 or 40,
    20 and 12 for timestamps; the SYN has 8 more of options."""
    pair.allow_big_tcp()
    if ipv6:
        pair.enable_ipv6()
    with Tap(tap_folder, pair.instance) as tap:
        index = tap.attach(pair.instance_device)
        tap.copy_headers(True)
        payload = bulk(pair, 64, ipv6=ipv6)
        pair.settle()
        longest = max(header.wire_len for header in tap.headers() if (header.ifindex, header.hook) == (index, EGRESS))
        assert longest > 65536 + ETHERNET, "no frame was longer than 64 kB"
    header = (40 if ipv6 else 20) + 32
    (sent,) = [total for flow, total in flows(drain_all(datapath)).items() if flow.destination_port == 5001]
    assert sent.bytes == payload + header * sent.packets + 8
    assert sent.packets > (64 << 20) // (1500 - header)


def test_udp_gso_is_counted_in_datagrams(pair: Pair, datapath: Datapath) -> None:
    udp_gso(pair, 100, 1000, 10)
    pair.settle()
    (found,) = [total for flow, total in flows(drain_all(datapath)).items() if flow.destination_port == 9]
    # RFC 768 and RFC 791: nine datagrams of 1028 bytes and one of 1021, each time.
    assert found == Sum(1000, 100 * (9 * 1028 + 1021))


def test_flips_under_load_lose_nothing(pair: Pair, datapath: Datapath) -> None:
    count, kinds = 100_000, 2000
    with flipping(datapath) as drains:
        senders = [start_flood(pair, count, kinds, seed) for seed in (0, 1)]
        for sender in senders:
            assert sender.wait() == 0
        pair.settle()
    assert totals(drains, SLOT, OUT) == Sum(2 * count, 2 * flood_bytes(count, kinds))
    by_flow = flows(*drains)
    assert len(by_flow) == 2 * kinds
    assert {total.packets for total in by_flow.values()} == {count // kinds}
    assert len(drains) > 10


def test_a_flood_on_a_tiny_map(pair: Pair, mode: str) -> None:
    """64 flows have room, then some records in the ring buffer; the rest is lost, by number and by bytes."""
    with Datapath.open(netns=pair.host, attach_mode=mode, flows_per_map=64, ring_bytes=4096) as datapath:
        datapath.attach(pair.host_device, SLOT)
        count, kinds = 20_000, 5000
        assert start_flood(pair, count, kinds).wait() == 0
        pair.settle()
        drain = drain_all(datapath)
        lost = drain.losses.to_pylist()
        assert [(row["slot"], row["direction"], row["loss"]) for row in lost] == [(SLOT, OUT, Loss.RING_FULL)]
        assert totals([drain], SLOT, OUT) == Sum(count, flood_bytes(count, kinds)) == seen(datapath, OUT)
        # 80 bytes a record in a ring of 4096 leave 51.
        assert drain.flows.num_rows == 64 + 51
        assert datapath.counts()["spilled"] == 51
        assert drain_all(datapath).losses.num_rows == 0, "a loss is told once"
        # The room came back with the commit.
        assert start_flood(pair, 50, 50, seed=3).wait() == 0
        pair.settle()
        drain = drain_all(datapath)
        assert (drain.flows.num_rows, drain.losses.num_rows) == (50, 0)


def test_a_tiny_map_under_flips(pair: Pair, mode: str) -> None:
    with Datapath.open(netns=pair.host, attach_mode=mode, flows_per_map=64, ring_bytes=1 << 16) as datapath:
        datapath.attach(pair.host_device, SLOT)
        count, kinds = 50_000, 5000
        with flipping(datapath) as drains:
            senders = [start_flood(pair, count, kinds, seed) for seed in (0, 1)]
            assert [sender.wait() for sender in senders] == [0, 0]
            pair.settle()
        expected = Sum(2 * count, 2 * flood_bytes(count, kinds))
        assert totals(drains, SLOT, OUT) == expected == seen(datapath, OUT)
        assert datapath.counts()["spilled"] > 1000, "the ring buffer was hardly used"


def test_a_drain_without_commit_is_repeated(pair: Pair, datapath: Datapath) -> None:
    assert start_flood(pair, 100, 10).wait() == 0
    first = datapath.flip_and_drain()
    assert start_flood(pair, 100, 10, seed=1).wait() == 0
    again = datapath.flip_and_drain()
    assert (again.generation, again.flipped_ns) == (first.generation, first.flipped_ns)
    assert flows(again) == flows(first)
    assert totals([first], SLOT, OUT).packets == 100
    datapath.commit(first.generation)
    datapath.commit(first.generation)
    second = drain_all(datapath)
    assert second.generation == first.generation + 1
    assert totals([second], SLOT, OUT).packets == 100
    assert not set(flows(first)) & set(flows(second))


def test_an_interface_without_a_slot_passes_uncounted(pair: Pair, datapath: Datapath) -> None:
    index = pair.in_host(lambda: __import__("socket").if_nametoindex(pair.host_device))
    datapath._slots.assign(index, None)
    assert start_flood(pair, 100, 10).wait() == 0
    pair.settle()
    assert drain_all(datapath).flows.num_rows == 0
    assert datapath.counts()["unknown_interface"] == 100
    datapath._slots.assign(index, SLOT)


def test_old_fragments_are_swept(pair: Pair, datapath: Datapath) -> None:
    import numpy as np
    import packets as pk

    from vnotch.capture import layout, libbpf

    def inject(part: bytes) -> None:
        pair.inject_from_instance([pk.ethernet(part)])

    def age(seconds: float) -> None:
        """Makes all entries older, instead of waiting."""
        fd = datapath._fds["fragments"]
        keys, values = np.empty(64, layout.FRAGMENT_KEY), np.empty(64, layout.FRAGMENT_VALUE)
        count = libbpf.lookup_batch(fd, keys, values)
        values["ns"] = (values["ns"].astype(np.int64) - int(seconds * 1e9)).astype(np.uint64)
        for key, value in zip(keys[:count], values[:count], strict=True):
            libbpf.map_update(fd, key.tobytes(), value.tobytes())

    parts = [
        pk.ipv4_fragments("10.77.0.2", "198.51.100.7", pk.udp(7, 8, b"x" * 1600), identification=i, fragment_bytes=1024)
        for i in (1, 2)
    ]
    known, unknown = (Flow(OUT, "10.77.0.2", a, "198.51.100.7", b, 17) for a, b in ((7, 8), (0, 0)))
    inject(parts[0][0])
    age(25)
    drain_all(datapath)
    inject(parts[0][1])
    assert set(flows(drain_all(datapath))) == {known}, "25 s are not too long"
    age(6)
    inject(parts[0][1])
    assert set(flows(drain_all(datapath))) == {unknown}, "31 s are"
    inject(parts[1][0])
    age(31)
    drain_all(datapath)
    age(-31)
    inject(parts[1][1])
    assert set(flows(drain_all(datapath))) == {unknown}, "the sweep removes, it does not only pass over"


def test_a_full_fragment_table_is_counted(pair: Pair, datapath: Datapath) -> None:
    import packets as pk

    room = 16384
    frames = [
        pk.ethernet(
            pk.ipv4(f"10.77.{i >> 14}.9", "198.51.100.7", pk.udp(7, 8), identification=i & 0x3FFF, more_fragments=True)
        )
        for i in range(room + 100)
    ]
    pair.inject_from_instance(frames)
    pair.settle()
    assert datapath.counts()["fragments_full"] == 100
    assert totals([drain_all(datapath)], SLOT, OUT).packets == room + 100


def test_the_flip_is_short(pair: Pair, datapath: Datapath) -> None:
    """A bound far above the 11 ms median and 44 ms maximum that were measured, for a busy machine."""
    began = time.monotonic()
    for _ in range(10):
        drain_all(datapath)
    assert (time.monotonic() - began) / 10 < 1.0
