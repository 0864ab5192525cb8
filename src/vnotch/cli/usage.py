"""`vnotch usage`: what log groups took in, kept and answered in a month, and what AWS would have asked for it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import typer

from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import literal, out
from vnotch.errors import InputError

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


def usage(
    month: Annotated[str | None, typer.Option(help="Which month, in UTC: 2026-01.", show_default="this one")] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
) -> None:
    """Say what the log groups would have cost at CloudWatch Logs this month."""
    if month is not None and not _MONTH.fullmatch(month):
        raise InputError(f"{month} is no month", "such as 2026-01")
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    found = endpoint.request("GET", "/vnotch/v1/usage" + (f"?month={month}" if month else ""))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for part in shown(found):
        out.print(part)


def shown(found: Mapping[str, Any]) -> list[Any]:
    """A table of the groups, one of the bill, and what the numbers are worth."""
    from rich import box
    from rich.table import Table

    groups = Table(title=f"Log groups in {found['month']}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    groups.add_column("log group", overflow="fold")
    for name in ("events", "custom", "vended", "stored", "scanned", "requests"):
        groups.add_column(name, justify="right")
    for row in found["groups"]:
        sizes = (size_text(row[f"{name}_bytes"]) for name in ("custom", "vended", "stored", "scanned"))
        group = literal(row["group"] or "(no group)")
        groups.add_row(group, f"{row['events']:,}", *sizes, f"{row['requests']:,}")
    bill = Table(title="At AWS", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    bill.add_column("dimension")
    for name in ("quantity", "free"):
        bill.add_column(name, justify="right")
    bill.add_column("unit")
    bill.add_column(found["prices"]["currency"], justify="right")
    for line in found["bill"]:
        if Decimal(line["quantity"]):
            quantity, free = number_text(line["quantity"]), number_text(line["free"])
            bill.add_row(line["dimension"].replace("_", " "), quantity, free, line["unit"], money(line["cost"]))
    bill.add_row("total", "", "", "", money(found["total"]), style="bold")
    return [groups, bill, caveat(found)]


def caveat(found: Mapping[str, Any]) -> str:
    prices = found["prices"]
    other = f"; this account is in {found['region']}" if found["region"] != prices["region"] else ""
    return (
        f"{prices['currency']}, before tax, by the prices of {prices['region']} on {prices['as_of']}{other}. "
        "Storage is priced uncompressed and for the whole month; AWS compresses it."
    )


def size_text(size: int) -> str:
    """1 GB is 2^30 bytes, as in AWS's bills."""
    for unit, power in (("GB", 30), ("MB", 20), ("KB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):,.1f} {unit}"
    return f"{size} B"


def number_text(quantity: str) -> str:
    number = Decimal(quantity)
    return f"{number:,.0f}" if number == number.to_integral_value() else f"{number:,.6f}"


def money(amount: str) -> str:
    return f"{Decimal(amount):,.2f}"
