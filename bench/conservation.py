"""Whether all packets of a long flood are accounted for, across flips and with a flow map that is too small."""

from __future__ import annotations

import threading
import time

import pyarrow.compute as pc
from veth import Frames, Veth

from vnotch.capture.kernel import Datapath

FLIP_SECONDS = 1.0
SMALL_MAP = 4096


def flooded(veth: Veth, slot: int, frames: Frames, seconds: float, flows_per_map: int) -> tuple[int, int, int]:
    """-> packets that the device has seen; of these the ones that no drain told of; the ones that drains call lost."""
    with Datapath.open(netns=veth.host, flows_per_map=flows_per_map) as datapath:
        datapath.set_interface(slot)
        datapath.attach(veth.device, slot)
        before = veth.received()
        deadline = time.monotonic() + seconds

        def send() -> None:
            while time.monotonic() < deadline:
                veth.flood(frames, 20_000)

        sender = threading.Thread(target=send)
        sender.start()
        told = lost = 0
        while sender.is_alive():
            time.sleep(FLIP_SECONDS)
            told, lost = _add(datapath, told, lost)
        sender.join()
        for _ in range(2):
            told, lost = _add(datapath, told, lost)
        seen = veth.received() - before
    return seen, seen - told, lost


def _add(datapath: Datapath, told: int, lost: int) -> tuple[int, int]:
    drain = datapath.flip_and_drain()
    datapath.commit(drain.generation)
    losses = pc.sum(drain.losses["packets"]).as_py() or 0
    return told + (pc.sum(drain.flows["packets"]).as_py() or 0) + losses, lost + losses
