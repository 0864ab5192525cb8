"""Charts of block characters for the terminal: bars, and values over time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

BARS_SHOWN = 50
HEIGHT = 12
LABEL_WIDTH_MAX = 48
_EIGHTHS_RIGHT = " ▏▎▍▌▋▊▉"
_EIGHTHS_UP = " ▁▂▃▄▅▆▇"
_FULL = "█"
_UNITS = ("", "k", "M", "G", "T", "P", "E")


def short_number(value: float) -> str:
    """Three digits and a decimal unit: 1.23M."""
    size = abs(value)
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            digits = 0 if size == int(size) and not unit else max(0, 2 - (len(str(int(size))) - 1))
            return f"{'-' if value < 0 else ''}{size:.{digits}f}{unit}"
        size /= 1000
    raise AssertionError


def bars(labels: Sequence[str], values: Sequence[float], width: int) -> list[str]:
    """A line each: label, bar, number. Bars are as long as their part of the greatest value; none is below zero."""
    shown = min(len(values), BARS_SHOWN)
    left = min(LABEL_WIDTH_MAX, max((len(label) for label in labels[:shown]), default=0))
    texts = [short_number(value) for value in values[:shown]]
    right = max((len(text) for text in texts), default=0)
    room = max(10, width - left - right - 4)
    top = max([0.0, *values[:shown]])
    lines = []
    for label, value, text in zip(labels, values[:shown], texts, strict=False):
        name = label if len(label) <= left else label[: left - 1] + "…"
        lines.append(f"{name:<{left}}  {_bar(value / top if top else 0, room):<{room}}  {text:>{right}}")
    if len(values) > shown:
        lines.append(f"{len(values) - shown:,} more")
    return lines


def _bar(part: float, room: int) -> str:
    eighths = max(0, round(part * room * 8))
    if not eighths and part > 0:
        eighths = 1
    full, rest = divmod(eighths, 8)
    return _FULL * full + (_EIGHTHS_RIGHT[rest] if rest else "")


def over_time(times_s: Sequence[float], values: Sequence[float], width: int, height: int = HEIGHT) -> list[str]:
    """Columns over time, with the greatest value of the times that fall in each, and a scale beside them.

    Times without a value are gaps, not neighbours. The line below has the first and the last time, UTC.
    """
    if not values:
        return []
    top = max(0.0, *values)
    scale = max(len(short_number(top)), 1)
    begin, end = min(times_s), max(times_s)
    ordered = sorted(set(times_s))
    step = min((later - earlier for earlier, later in pairwise(ordered)), default=1) or 1
    columns = max(1, min(width - scale - 3, round((end - begin) / step) + 1))
    span = (end - begin + step) / columns
    greatest = [0.0] * columns
    for time_s, value in zip(times_s, values, strict=True):
        column = min(columns - 1, int((time_s - begin) / span))
        greatest[column] = max(greatest[column], value)
    lines = []
    for row in range(height - 1, -1, -1):
        mark = short_number(top) if row == height - 1 else "0" if row == 0 else ""
        lines.append(f"{mark:>{scale}} ┤" + "".join(_cell(value, top, row, height) for value in greatest).rstrip())
    first, last = _time_text(begin), _time_text(end)
    gap = max(1, columns - len(first) - len(last))
    lines.append(" " * (scale + 2) + (first if begin == end else first + " " * gap + last))
    return lines


def _cell(value: float, top: float, row: int, height: int) -> str:
    eighths = round(value / top * height * 8) if top else 0
    if value > 0:
        eighths = max(1, eighths)
    here = eighths - row * 8
    return _FULL if here >= 8 else _EIGHTHS_UP[here] if here > 0 else " "


def _time_text(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
