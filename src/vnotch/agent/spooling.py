"""Closed windows -> the batches that the spool takes: one for each flow log and interface that has a record, and for a
bucket one for each slot that its records end in.

Made for all flow logs of a window together, since they share columns and lines (`record.WindowRecords`); no loop here
runs over records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from vnotch.agent.interfaces import Interfaces
from vnotch.agent.progress import Progress
from vnotch.agent.tracks import Closed
from vnotch.deliver.batch import Batch
from vnotch.deliver.spool import Spool
from vnotch.errors import InputError
from vnotch.flow import LOSS_SCHEMA, Direction, Loss, Outcome
from vnotch.inventory import FlowLog, Interface
from vnotch.owner import NO_OWNERS, Owners
from vnotch.paths import NO_PEERS, Peers
from vnotch.record import Records, SlotRecords, WindowRecords
from vnotch.service_ranges import NO_RANGES, ServiceRanges
from vnotch.window import Window

log = logging.getLogger(__name__)

_OUTCOMES = {"ALL": (Outcome.ACCEPT, Outcome.REJECT), "ACCEPT": (Outcome.ACCEPT,), "REJECT": (Outcome.REJECT,)}


@dataclass
class Spooling:
    """The batches of one commit, and what making them found out."""

    batches: list[Batch] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    """(flow log, stream) whose dropped batches are now in a SKIPDATA record."""
    refused: dict[str, str] = field(default_factory=dict)
    """Flow log -> why no record of it can be made."""
    unclaimed_packets: int = 0
    """Packets under a slot that stands for no interface. Always 0 unless slots.json was lost."""


def spooling_of(
    closed: Iterable[Closed],
    progress: Progress,
    interfaces: Interfaces,
    spool: Spool,
    *,
    peers: Peers = NO_PEERS,
    ranges: ServiceRanges = NO_RANGES,
    owners: Callable[[str, int], Owners] = lambda track, start_s: NO_OWNERS,
) -> Spooling:
    """Makes the batches of closed windows and notes in `progress.recorded` which interfaces have had a record.

    `peers` and `ranges`: see `record.WindowRecords`; `owners` gives those of a window by track and beginning.
    """
    result = Spooling()
    by_slot = interfaces.by_slot
    for item in closed:
        records = WindowRecords(
            item.window,
            by_slot,
            interfaces.rule_names,
            peers=peers,
            ranges=ranges,
            owners=owners(item.track, item.window.start_s),
        )
        sums = _Sums(item.window, by_slot)
        result.unclaimed_packets += records.unclaimed[0]
        for flow_log_id in item.flow_log_ids:
            try:
                _add(result, progress.flow_logs[flow_log_id], records, sums, progress, interfaces, spool)
            except InputError as error:
                result.refused[flow_log_id] = str(error)
                log.error("flow log %s: %s", flow_log_id, error)
    return result


def _add(
    result: Spooling,
    flow_log: FlowLog,
    records: WindowRecords,
    sums: _Sums,
    progress: Progress,
    interfaces: Interfaces,
    spool: Spool,
) -> None:
    retired = interfaces.retired_of(flow_log.flow_log_id)
    covering = replace(flow_log, interface_ids=(*flow_log.interface_ids, *retired))
    recorded = progress.recorded.setdefault(flow_log.flow_log_id, set())
    untold = _untold(covering, spool)
    if untold:
        records = records.of_window(_with_losses(records.window, untold, interfaces.by_slot))
        result.told += [(flow_log.flow_log_id, flow_log.stream_name(interface_id)) for interface_id in untold]
    # An interface that is gone has no more windows without traffic, only its last flows.
    if flow_log.log_destination_type == "s3":
        for part in records.slot_records(covering, recorded.difference(retired)):
            recorded.add(part.interface_id)
            result.batches.append(_slot_batch(flow_log, part, records.window, progress))
        return
    for found in records.records(covering, recorded.difference(retired)):
        recorded.add(found.interface_id)
        result.batches.append(_batch(flow_log, found, records.window, sums, progress))


def _batch(flow_log: FlowLog, records: Records, window: Window, sums: _Sums, progress: Progress) -> Batch:
    stream = flow_log.stream_name(records.interface_id)
    packets, bytes_ = sums.of(records.interface_id, flow_log.traffic_type)
    return Batch(
        batch_id=_batch_id(flow_log, stream, window, progress),
        flow_log_id=flow_log.flow_log_id,
        group=flow_log.log_group_name,
        stream=stream,
        role_arn=flow_log.deliver_logs_permission_arn,
        events=records.table,
        packets=packets,
        bytes=bytes_,
        log_format=flow_log.log_format,
    )


def _slot_batch(flow_log: FlowLog, part: SlotRecords, window: Window, progress: Progress) -> Batch:
    stream = flow_log.stream_name(part.interface_id)
    return Batch(
        batch_id=f"{_batch_id(flow_log, stream, window, progress)}/{part.slot_s}",
        flow_log_id=flow_log.flow_log_id,
        group="",
        stream=stream,
        role_arn="",
        events=part.table,
        packets=part.packets,
        bytes=part.bytes,
        slot_s=part.slot_s,
        file_format=flow_log.file_format or "plain-text",
        log_format=flow_log.log_format,
    )


def _batch_id(flow_log: FlowLog, stream: str, window: Window, progress: Progress) -> str:
    return f"{flow_log.flow_log_id}/{stream}/{window.end_s}/{progress.incarnation}.{progress.commit}"


def _untold(flow_log: FlowLog, spool: Spool) -> dict[str, tuple[int, int]]:
    """Interface -> packets and bytes of its batches that the spool dropped, where no record has told of them yet."""
    found = {
        interface_id: spool.dropped.untold(flow_log.flow_log_id, flow_log.stream_name(interface_id))
        for interface_id in dict.fromkeys(flow_log.interface_ids)
    }
    return {interface_id: lost for interface_id, lost in found.items() if lost[0]}


def _with_losses(window: Window, lost: Mapping[str, tuple[int, int]], by_slot: Mapping[int, Interface]) -> Window:
    slots = {interface.interface_id: slot for slot, interface in by_slot.items()}
    rows = [
        {
            "slot": slots[interface_id],
            "direction": Direction.INGRESS,
            "loss": Loss.AGENT,
            "packets": packets,
            "bytes": bytes_,
        }
        for interface_id, (packets, bytes_) in lost.items()
        if interface_id in slots
    ]
    return replace(window, losses=pa.concat_tables([window.losses, pa.Table.from_pylist(rows, schema=LOSS_SCHEMA)]))


class _Sums:
    """Packets and bytes of a window by interface and outcome: what is lost if a batch of it has to be dropped."""

    def __init__(self, window: Window, by_slot: Mapping[int, Interface]) -> None:
        self._sums: dict[tuple[str, int], tuple[int, int]] = {}
        flows = window.flows.select(["slot", "outcome", "packets", "bytes"])
        grouped = flows.group_by(["slot", "outcome"], use_threads=False)
        for row in grouped.aggregate([("packets", "sum"), ("bytes", "sum")]).to_pylist():
            if (interface := by_slot.get(row["slot"])) is None:
                continue
            key = (interface.interface_id, row["outcome"])
            packets, bytes_ = self._sums.get(key, (0, 0))
            self._sums[key] = (packets + row["packets_sum"], bytes_ + row["bytes_sum"])

    def of(self, interface_id: str, traffic_type: str) -> tuple[int, int]:
        found = [self._sums.get((interface_id, outcome), (0, 0)) for outcome in _OUTCOMES[traffic_type]]
        return sum(packets for packets, _ in found), sum(bytes_ for _, bytes_ in found)
