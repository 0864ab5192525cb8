"""What people see: records in colour on a terminal, plain text elsewhere, one line for an error and its remedy.

Record lines come from packets and may hold nothing but what their grammar allows; other log events may hold anything,
so control characters are shown escaped and can never steer a terminal.
"""

from __future__ import annotations

import re
import sys

from rich.console import Console
from rich.text import Text

from vnotch.errors import VnotchError

PLAIN_WIDTH = 120
"""Columns of output that goes to no terminal."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

STYLES = {
    "ACCEPT": "green",
    "REJECT": "bold red",
    "NODATA": "dim",
    "SKIPDATA": "yellow",
}

LINE_STYLES = {"REJECT": "red", "SKIPDATA": "yellow", "NODATA": "dim"}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Besides ASCII's and ISO 6429's: what turns the direction of writing (Unicode, Bidi_Control) or ends a line, by which
a text can look like another one."""


def plain(text: str) -> str:
    """The text with control characters as visible escapes."""
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    number = ord(found.group())
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def record_text(message: str) -> Text:
    """A record line: its action in colour, a rejected line red as a whole, one without data dim."""
    text = Text(plain(message))
    words = message.split(" ")
    for word in ("REJECT", "SKIPDATA", "NODATA"):
        if word in words:
            text.stylize(LINE_STYLES[word])
            break
    text.highlight_words(list(STYLES), "bold")
    text.highlight_words(["ACCEPT"], STYLES["ACCEPT"])
    return text


def literal(text: str) -> Text:
    """The text as it is: in plain strings rich takes what is in square brackets for its markup, such as an IPv6
    address with its port, or a name."""
    return Text(plain(text))


def counted(count: int, noun: str) -> str:
    """`1 flow log`, `2,000 flow logs`: for nouns with a regular plural."""
    ending = "" if count == 1 else "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{count:,} {noun}{ending}"


def step(message: str) -> None:
    """A line of progress for people; it goes to standard error so that output stays clean for pipes."""
    err.print(Text("• ", style="cyan") + Text(message))


def fail(error: VnotchError) -> int:
    """Prints the error as one line with its remedy; returns the exit status."""
    line = Text("vnotch: ", style="bold red") + Text(plain(error.message))
    if error.remedy:
        line += Text(" — ") + Text(plain(error.remedy), style="bold")
    err.print(line)
    return 2


def is_terminal() -> bool:
    return sys.stdout.isatty()
