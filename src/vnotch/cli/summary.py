"""What a run came to: records by action, top talkers, and the ledger held against the records that were really read.

The ledger's line for an interface is true only if two sides that know nothing of each other agree: the kernel's own
count of packets seen, and the packets in record lines that came back from the log group plus those excluded and lost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from vnotch.cli.terminal import STYLES
from vnotch.fields import DEFAULT_FORMAT

_NAMES = DEFAULT_FORMAT.replace("${", "").replace("}", "").split(" ")
_INTERFACE, _SOURCE, _DESTINATION, _PROTOCOL, _PACKETS, _BYTES, _ACTION, _STATUS = (
    _NAMES.index(name)
    for name in ("interface-id", "srcaddr", "dstaddr", "protocol", "packets", "bytes", "action", "log-status")
)

ICMP = "1"
PINGS_MAX = 1000


@dataclass
class Tally:
    """Adds up record lines in the default format as they are read."""

    records: Counter[str] = field(default_factory=Counter)  # by action, or by log status where there is none
    packets: Counter[str] = field(default_factory=Counter)  # by interface
    bytes_by_source: Counter[str] = field(default_factory=Counter)
    packets_by_source: Counter[str] = field(default_factory=Counter)
    rejects_by_source: Counter[str] = field(default_factory=Counter)
    pings: list[str] = field(default_factory=list)  # the first PINGS_MAX lines of ICMP

    def add(self, line: str) -> None:
        words = line.split(" ")
        if words[_STATUS] != "OK":
            self.records[words[_STATUS]] += 1
            return
        packets, source = int(words[_PACKETS]), words[_SOURCE]
        if words[_PROTOCOL] == ICMP and len(self.pings) < PINGS_MAX:
            self.pings.append(line)
        self.records[words[_ACTION]] += 1
        self.packets[words[_INTERFACE]] += packets
        self.bytes_by_source[source] += int(words[_BYTES])
        self.packets_by_source[source] += packets
        if words[_ACTION] == "REJECT":
            self.rejects_by_source[source] += packets

    def rejected_reply(self) -> tuple[str, str] | None:
        """Two records: an accepted ping and the rejected reply to it, as the same interface saw them."""
        for reply in self.pings:
            words = reply.split(" ")
            for request in self.pings if words[_ACTION] == "REJECT" else ():
                asked = request.split(" ")
                ends = asked[_DESTINATION], asked[_SOURCE], asked[_INTERFACE]
                if asked[_ACTION] == "ACCEPT" and ends == (words[_SOURCE], words[_DESTINATION], words[_INTERFACE]):
                    return request, reply
        return None


@dataclass
class Account:
    """One interface's side of the ledger, both directions added, packets."""

    seen: int = 0
    accept: int = 0
    reject: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    @property
    def booked(self) -> int:
        return self.accept + self.reject + sum(self.excluded.values()) + self.lost


def accounts(ledger: Mapping[str, Any]) -> dict[str, Account]:
    """The agent's ledger (status.json) by interface id."""
    found: dict[str, Account] = defaultdict(Account)
    for row in ledger["interfaces"]:
        account = found[row["interface_id"] or f"slot {row['slot']}"]
        account.accept += row["accept"]["packets"]
        account.reject += row["reject"]["packets"]
        account.lost += sum(count["packets"] for count in row["lost"].values())
        for reason, count in row["excluded"].items():
            account.excluded[reason] += count["packets"]
    for row in ledger["seen"]:
        found[row["interface_id"] or f"slot {row['slot']}"].seen += row["packets"]
    return dict(found)


def is_settled(ledger: Mapping[str, Any]) -> bool:
    """Whether every packet that the kernel has seen is booked: nothing is left in a map."""
    return all(account.seen == account.booked for account in accounts(ledger).values())


def records_table(tally: Tally) -> Table:
    table = Table(
        title="Records by action", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False
    )
    table.add_column("action")
    table.add_column("records", justify="right")
    for action in ("ACCEPT", "REJECT", "NODATA", "SKIPDATA"):
        if tally.records[action]:
            table.add_row(action, f"{tally.records[action]:,}", style=STYLES[action])
    return table


def talkers_table(tally: Tally, names: Mapping[str, str], count: int = 5, rejected_count: int = 2) -> Table:
    """The sources with the most bytes, and those with the most rejected packets where they are not among them."""
    sources = [source for source, _ in tally.bytes_by_source.most_common(count)]
    sources += [source for source, _ in tally.rejects_by_source.most_common(rejected_count) if source not in sources]
    table = Table(title="Top talkers", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("source")
    table.add_column("who")
    for column in ("packets", "bytes", "packets rejected"):
        table.add_column(column, justify="right")
    for source in sources:
        rejects = tally.rejects_by_source[source]
        table.add_row(
            source,
            names.get(source, ""),
            f"{tally.packets_by_source[source]:,}",
            f"{tally.bytes_by_source[source]:,}",
            f"[bold red]{rejects:,}[/]" if rejects else "0",
        )
    return table


def ledger_table(ledger: Mapping[str, Any], tally: Tally, names: Mapping[str, str]) -> tuple[Table, list[str]]:
    """The table, and a sentence for each interface whose sides do not agree."""
    table = Table(
        title="Ledger: packets seen = in records + excluded + lost",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("interface")
    table.add_column("who")
    for column in ("seen", "in records", "excluded", "lost"):
        table.add_column(column, justify="right")
    table.add_column("")
    total: Counter[str] = Counter()
    wrong = []
    for interface_id, account in sorted(accounts(ledger).items(), key=lambda item: names.get(item[0], item[0])):
        recorded, excluded = tally.packets[interface_id], sum(account.excluded.values())
        exact = account.seen == recorded + excluded + account.lost
        if not exact:
            wrong.append(
                f"{names.get(interface_id, '')} {interface_id}: {account.seen} packets seen, but {recorded} in records"
                f" + {excluded} excluded + {account.lost} lost"
            )
        total.update(seen=account.seen, recorded=recorded, excluded=excluded, lost=account.lost)
        table.add_row(
            interface_id,
            names.get(interface_id, ""),
            *(f"{value:,}" for value in (account.seen, recorded, excluded, account.lost)),
            "[green]exact[/]" if exact else "[bold red]WRONG[/]",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        *(f"{total[key]:,}" for key in ("seen", "recorded", "excluded", "lost")),
        "[bold green]exact[/]" if not wrong else "[bold red]WRONG[/]",
        style="bold",
    )
    return table, wrong


def excluded_line(ledger: Mapping[str, Any]) -> str:
    """The reasons for exclusion with their packets, most first."""
    reasons: Counter[str] = Counter()
    for account in accounts(ledger).values():
        reasons.update(account.excluded)
    return (
        ", ".join(f"{name.lower().replace('_', ' ')} {count:,}" for name, count in reasons.most_common()) or "nothing"
    )
