"""The tables of docs/insights.md, from the tables of the code.

`python -m vnotch.insights.document FILE` puts them into the page, behind its mark.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vnotch.fields import FIELDS
from vnotch.insights import aggregates, functions
from vnotch.insights.events import RECORD_FIELDS
from vnotch.insights.grammar import COMMANDS, NOT_UNDERSTOOD
from vnotch.insights.times import UNITS

MARK = "<!-- tables -->"

COMMAND_MEANINGS = {
    "fields": ("fields x, expression as y", "Shows fields and computed values; `y` is a field from then on."),
    "display": ("display x, y", "Shows these alone; of several, the last."),
    "filter": ("filter condition", "Keeps what the condition holds for."),
    "stats": ("stats count(*) as n by x, bin(5m) as t", "Aggregates, by groups. At most two in a query."),
    "sort": ("sort x desc, y", "Orders by fields: missing, then texts, then numbers; `desc` the other way round."),
    "limit": (
        "limit 20",
        "Keeps so many, at most 100,000. Without it the call's limit holds, 10,000 where it has none.",
    ),
    "dedup": (
        "dedup x, y",
        "Keeps the first of each combination of values, and all that miss one. Only limit may follow.",
    ),
    "parse": (
        'parse x "user=*, id=*" as user, id',
        "Makes fields from a text, by a pattern with `*`, or by named groups: `parse x /(?<user>\\w+)/`. "
        "Without `x` from `@message`.",
    ),
}


def tables() -> str:
    """Commands, functions, aggregates, fields, periods."""
    lines = ["### Commands", "", "| command | meaning |", "| --- | --- |"]
    for command in COMMANDS:
        form, meaning = COMMAND_MEANINGS[command]
        lines.append(f"| `{form}` | {meaning} |")
    refused = ", ".join(f"`{name}`" for name in NOT_UNDERSTOOD)
    lines += ["", f"Refused by name, since vnotch does not understand them: {refused}."]
    lines += ["", "### Aggregates, in `stats`", "", "| function | gives | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{item.signature}` | {item.gives} | {item.meaning} |" for item in aggregates.TABLE]
    for area in functions.AREAS:
        title = area[0].upper() + area[1:]
        lines += ["", f"### {title} functions", "", "| function | gives | meaning |", "| --- | --- | --- |"]
        for function in functions.TABLE:
            if function.area == area:
                lines.append(f"| `{function.signature}` | {function.gives} | {function.meaning} |")
    lines += ["", "### Periods", "", "| unit | written | at most |", "| --- | --- | --- |"]
    for unit in UNITS.values():
        written = ", ".join(f"`{name}`" for name in unit.names)
        lines.append(f"| {unit.names[-1]} | {written} | {unit.cap or '-'} |")
    lines += ["", "### Fields of records", "", "| field of the format | in queries |", "| --- | --- |"]
    for item in FIELDS:
        names = ", ".join(f"`{name}`" for name, other in RECORD_FIELDS.items() if other is item)
        lines.append(f"| `{item.name}` | {names} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the tables as they are now behind the mark."""
    return text.partition(MARK)[0] + MARK + "\n\n" + tables()


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(page(file.read_text()))
