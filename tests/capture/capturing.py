"""A process that captures with pins and keeps a journal, to be killed at any moment.

    python capturing.py NETNS PIN_DIR MODE DEVICE SLOT JOURNAL

Each drain is a line `generation packets bytes losses rejected`, written to the disk before it is committed. A
generation that is in the journal already is not written again, which is what the agent does. It says `ready` on
standard output when it has attached.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow.compute as pc

from vnotch.capture.kernel import Datapath, Drain
from vnotch.flow import Outcome


def line(drain: Drain) -> str:
    sums = [pc.sum(drain.flows[name]).as_py() or 0 for name in ("packets", "bytes")]
    lost = pc.sum(drain.losses["packets"]).as_py() or 0
    rejected = drain.flows.filter(pc.equal(drain.flows["outcome"], int(Outcome.REJECT)))
    return f"{drain.generation} {sums[0]} {sums[1]} {lost} {pc.sum(rejected['packets']).as_py() or 0}\n"


def main() -> None:
    netns, pin_dir, mode, device, slot, journal = sys.argv[1:]
    known = {int(text.split()[0]) for text in Path(journal).read_text().splitlines()}
    with open(journal, "a") as file:
        datapath = Datapath.open(
            netns=netns, pin_dir=Path(pin_dir), attach_mode=mode, flows_per_map=512, ring_bytes=65536
        )
        datapath.set_interface(int(slot))
        datapath.attach(device, int(slot))
        print("ready", flush=True)
        while True:
            drain = datapath.flip_and_drain()
            if drain.generation not in known:
                file.write(line(drain))
                file.flush()
                os.fsync(file.fileno())
                known.add(drain.generation)
            datapath.commit(drain.generation)


if __name__ == "__main__":
    main()
