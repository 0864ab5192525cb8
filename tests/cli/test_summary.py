"""What a run came to: the tally of record lines, the ledger held against it, and what people are shown."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from vnotch.cli.alerts import counters_text
from vnotch.cli.summary import Tally, accounts, excluded_line, is_settled, ledger_table, talkers_table
from vnotch.cli.tail import seconds_of
from vnotch.cli.terminal import counted, plain, record_text
from vnotch.errors import InputError

ENI = "eni-0123456789abcdef0"
ACCEPT = f"2 123456789012 {ENI} 10.0.0.5 10.0.0.9 443 50000 6 7 700 1 2 ACCEPT OK"
REJECT = f"2 123456789012 {ENI} 198.51.100.66 10.0.0.5 50001 23 6 3 180 1 2 REJECT OK"
NODATA = f"2 123456789012 {ENI} - - - - - - - 1 2 - NODATA"
SKIPDATA = f"2 123456789012 {ENI} - - - - - - - 1 2 - SKIPDATA"


def tally_of(*lines: str) -> Tally:
    tally = Tally()
    for line in lines:
        tally.add(line)
    return tally


def ledger(seen: int, accept: int = 7, reject: int = 3, excluded: int = 2, lost: int = 0) -> dict[str, Any]:
    def row(direction: str, **counts: int) -> dict[str, Any]:
        count = {key: {"packets": counts.get(key, 0), "bytes": 0} for key in ("accept", "reject", "excluded", "lost")}
        return {
            "interface_id": ENI,
            "slot": 1,
            "direction": direction,
            "accept": count["accept"],
            "reject": count["reject"],
            "excluded": {"DNS": count["excluded"]},
            "lost": {"RING_FULL": count["lost"]},
        }

    rows = [row("ingress", accept=accept, reject=reject), row("egress", excluded=excluded, lost=lost)]
    return {
        "interfaces": rows,
        "seen": [
            {"interface_id": ENI, "slot": 1, "direction": "ingress", "packets": seen - 2},
            {"interface_id": ENI, "slot": 1, "direction": "egress", "packets": 2},
        ],
    }


def text_of(table: object) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_tally_counts_records_by_action_and_packets_by_interface() -> None:
    tally = tally_of(ACCEPT, REJECT, NODATA, SKIPDATA)
    assert tally.records == {"ACCEPT": 1, "REJECT": 1, "NODATA": 1, "SKIPDATA": 1}
    assert tally.packets == {ENI: 10}
    assert tally.bytes_by_source == {"10.0.0.5": 700, "198.51.100.66": 180}
    assert tally.rejects_by_source == {"198.51.100.66": 3}


def test_ledger_is_exact_when_seen_equals_records_excluded_and_lost() -> None:
    table, wrong = ledger_table(ledger(12), tally_of(ACCEPT, REJECT), {ENI: "web"})
    assert wrong == []
    shown = text_of(table)
    assert shown.count("exact") == 2
    assert "WRONG" not in shown


def test_a_packet_that_is_in_no_record_makes_the_ledger_wrong() -> None:
    table, wrong = ledger_table(ledger(13), tally_of(ACCEPT, REJECT), {ENI: "web"})
    assert wrong == [f"web {ENI}: 13 packets seen, but 10 in records + 2 excluded + 0 lost"]
    assert text_of(table).count("WRONG") == 2


def test_the_agents_own_booking_is_not_taken_for_what_was_read() -> None:
    """The agent books 10 packets, but the record of 3 of them never came back."""
    _, wrong = ledger_table(ledger(12), tally_of(ACCEPT), {})
    assert wrong == [f" {ENI}: 12 packets seen, but 7 in records + 2 excluded + 0 lost"]


def test_lost_packets_are_accounted_for() -> None:
    _, wrong = ledger_table(ledger(17, lost=5), tally_of(ACCEPT, REJECT), {})
    assert wrong == []
    assert accounts(ledger(17, lost=5))[ENI].lost == 5


def test_settled_only_when_all_that_was_seen_is_booked() -> None:
    assert is_settled(ledger(12))
    assert not is_settled(ledger(13))


def test_the_reasons_for_exclusion_are_named() -> None:
    assert excluded_line(ledger(12)) == "dns 2"
    assert excluded_line({"interfaces": [], "seen": []}) == "nothing"


def test_who_was_rejected_most_is_shown_also_when_it_sent_little() -> None:
    sources = [ACCEPT.replace("10.0.0.5", f"10.0.1.{number}") for number in range(1, 20)]
    shown = text_of(talkers_table(tally_of(*sources, REJECT), {"198.51.100.66": "mallory (outside)"}))
    assert "mallory (outside)" in shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1.5m", 90), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "10 minutes", "1w", "nan", "inf", "1e12", "0x10"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no duration"):
        seconds_of(text)


def test_control_characters_never_reach_the_terminal() -> None:
    assert plain("a\x1b[31mb\x07\x9b\r\x7f") == "a\\x1b[31mb\\x07\\x9b\\x0d\\x7f"
    assert record_text("evil \x1b]0;title\x07 ACCEPT").plain == "evil \\x1b]0;title\\x07 ACCEPT"


def test_rejected_records_stand_out() -> None:
    assert "red" in str(record_text(REJECT).spans[0].style)
    assert [str(span.style) for span in record_text(ACCEPT).spans if "green" in str(span.style)]
    assert "dim" in str(record_text(NODATA).spans[0].style)


def test_one_of_a_kind_is_no_plural() -> None:
    assert [counted(number, "flow log") for number in (0, 1, 2000)] == ["0 flow logs", "1 flow log", "2,000 flow logs"]
    assert [counted(number, "batch") for number in (1, 2)] == ["1 batch", "2 batches"]
    assert (
        counters_text({"findings": 1, "skipped": 0, "late": 2000, "failures": 2}) == "1 finding, 2,000 late, 2 failures"
    )
    assert counters_text({"findings": 0}) == "nothing"
