"""A release whose maps have another layout takes over: what the one before counted and did not drain is lost, exactly.

The interfaces have been taken over one by one, and nothing was drained meanwhile. The difference between what the
release before has seen in all and what the ledger has of it goes into the ledger and into records as lost by the
upgrade, by way of a drain that has nothing but losses. Killed at any point, it is done again at the next start with the
same result: nothing is drained before the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from vnotch.agent.datapath import Datapath, Predecessor
from vnotch.agent.intake import Intake
from vnotch.agent.progress import Progress
from vnotch.capture.generations import Drain
from vnotch.flow import FLOW_SCHEMA, LOSS_SCHEMA, Loss
from vnotch.ledger import Difference

log = logging.getLogger(__name__)


def succeed(datapath: Datapath, predecessor: Predecessor, intake: Intake, progress: Progress, now_ns: int) -> None:
    """Ends the predecessor and books what it leaves. It may be forgotten when the progress has been saved."""
    seen = datapath.end_predecessor()
    if seen is None or not intake.is_whole:
        log.warning("what the other release counted since its last drain is lost; how much that is cannot be told")
    else:
        _inherit(seen, predecessor.identity, intake, progress, now_ns)


def _inherit(
    seen: Mapping[tuple[int, int], tuple[int, int]], identity: int, intake: Intake, progress: Progress, now_ns: int
) -> None:
    if progress.inherited_from != identity:
        progress.inherited, progress.inherited_from = progress.seen_in_all(seen), identity
    gaps = [gap for gap in intake.ledger.compare(progress.inherited) if gap.packets > 0]
    if not gaps:
        log.info("the other release had drained all that it counted: nothing is lost")
        return
    last_ns = intake.last_ns
    log.warning(
        "%d packets that the other release counted since its last drain (%s) and until now cannot be read and are "
        "lost; they are in the ledger and in x-lost-packets",
        sum(gap.packets for gap in gaps),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last_ns / 1_000_000_000)) if last_ns else "time unknown",
    )
    intake.take(Drain(0, now_ns, FLOW_SCHEMA.empty_table(), _losses(gaps)), now_ns)


def _losses(gaps: Sequence[Difference]) -> pa.Table:
    rows = [
        {
            "slot": gap.slot,
            "direction": int(gap.direction),
            "loss": int(Loss.UPGRADE),
            "packets": gap.packets,
            "bytes": max(gap.bytes, 0),
        }
        for gap in gaps
    ]
    return pa.Table.from_pylist(rows, schema=LOSS_SCHEMA)
