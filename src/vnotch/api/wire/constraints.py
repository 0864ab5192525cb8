"""Checks typed parameters against the constraints of the model: required, enum, length, range, pattern.

A shape is compiled once into a `Check`: `explain(value, link, found)` appends a `Violation` for each constraint that is
not kept, and `keeps(value)`, where there is one, says quickly that all are, which is what nearly every value does. A
shape below which nothing is constrained has no check and costs nothing. Paths are linked pairs (`(parent, part)`),
which are made into tuples only where there is something to report.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from botocore.model import Shape

from vnotch.api.wire.dialect import Path, Violation

EVENT_TEXT = "EventMessage"
"""The shape of a log event's text in the model of CloudWatch Logs: the only text that goes past the state."""

Link = tuple[Any, Any] | None
Explain = Callable[[Any, Link, list[Violation]], None]
Keeps = Callable[[Any], bool]

VIOLATIONS_MAX = 20
"""Enough to tell the caller; a million bad list items must not make a million objects."""


@dataclass
class Check:
    explain: Explain
    keeps: Keeps | None = None


def path_of(link: Link) -> Path:
    parts: list[str | int] = []
    while link is not None:
        link, part = link
        parts.append(part)
    return tuple(reversed(parts))


def nul_in(value: Any, shape: Shape | None = None) -> Violation | None:
    """A text or a name in `value` with the character U+0000, if there is one.

    No text of a request may have it: PostgreSQL cannot hold it and XML cannot say it, so a name with it could be given
    and never be read back. AWS says the same of IAM's texts by their patterns and is silent on the others. A log
    event's message may: it is the user's data, kept in the lake and answered in JSON.
    """
    left: list[tuple[Any, Link, Shape | None]] = [(value, None, shape)]
    while left:  # no recursion: a document of our own routes may be as deep as its reader allows
        value, link, shape = left.pop()
        if shape is not None and shape.name == EVENT_TEXT:
            continue
        if isinstance(value, str):
            if "\0" in value:
                return Violation("character", path_of(link), value)
        elif isinstance(value, dict):
            for name, member in value.items():
                if "\0" in name:
                    return Violation("character", path_of((link, name)), name)
                left.append((member, (link, name), _below(shape, name)))
        elif isinstance(value, list):
            below = _below(shape)
            left.extend((member, (link, index), below) for index, member in enumerate(value, 1))
    return None


def _below(shape: Shape | None, name: str = "") -> Shape | None:
    """The shape of a structure's member, a map's value or a list's item."""
    if shape is None or shape.type_name == "structure":
        return shape and shape.members[name]
    return shape.value if shape.type_name == "map" else shape.member


class Constraints:
    """Compiled checks of one service. `names` gives a structure member the name by which it is reported."""

    def __init__(self, patterns: bool, names: Callable[[str, Shape], str]) -> None:
        self._patterns = patterns
        self._names = names
        self._checks: dict[str, Check | None] = {}

    def prepare(self, shape: Shape) -> None:
        """Compiles `shape`. Not for two threads at once; a shape that has been compiled may be checked by any."""
        self._compiled(shape)

    def check(self, shape: Shape, value: Any) -> list[Violation]:
        """What `value` (typed as `shape`) does not keep; empty where all is well."""
        found: list[Violation] = []
        check = self._compiled(shape)
        if check is not None:
            check.explain(value, None, found)
        return found

    def _compiled(self, shape: Shape) -> Check | None:
        # botocore gives a member's own traits (its name) to a copy of the shape; constraints are the shape's.
        name = shape.name
        if name not in self._checks:
            # A recursive shape finds this forwarding check while it is being compiled. (Another thread must not, since
            # it would forward to itself: Protocol.prepare.)
            self._checks[name] = Check(lambda value, link, found: self._forward(name, value, link, found))
            self._checks[name] = self._compile(shape)
        return self._checks[name]

    def _forward(self, name: str, value: Any, link: Link, found: list[Violation]) -> None:
        check = self._checks[name]
        if check is not None:
            check.explain(value, link, found)

    def _compile(self, shape: Shape) -> Check | None:
        if shape.type_name == "structure":
            return self._structure(shape)
        if shape.type_name == "list":
            return self._list(shape)
        if shape.type_name == "map":
            return self._map(shape)
        return self._scalar(shape)

    def _structure(self, shape: Shape) -> Check | None:
        reported = {name: self._names(name, member) for name, member in shape.members.items()}
        required = tuple(shape.required_members)
        compiled = {name: self._compiled(member) for name, member in shape.members.items()}
        checks = {name: check for name, check in compiled.items() if check is not None}
        if not required and not checks:
            return None

        def explain(value: Any, link: Link, found: list[Violation]) -> None:
            for name in required:
                if name not in value:
                    found.append(Violation("required", path_of((link, reported[name])), None))
            for name, member in value.items():
                if name in checks:
                    checks[name].explain(member, (link, reported[name]), found)

        quick = {name: check.keeps for name, check in checks.items()}

        def keeps(value: Any) -> bool:
            for name in required:
                if name not in value:
                    return False
            for name, member in value.items():
                if name in quick:
                    member_keeps = quick[name]
                    if member_keeps is None or not member_keeps(member):
                        return False
            return True

        return Check(explain, keeps)

    def _list(self, shape: Shape) -> Check | None:
        size = _bounds(shape, "length")
        item = self._compiled(shape.member)
        if size is None and item is None:
            return None

        def explain(value: Any, link: Link, found: list[Violation]) -> None:
            if size is not None:
                size(value, len(value), link, found)
            if item is None:
                return
            keeps = item.keeps
            for index, member in enumerate(value, 1):
                if keeps is None or not keeps(member):
                    item.explain(member, (link, index), found)
                    if len(found) > VIOLATIONS_MAX:
                        return

        return Check(explain)

    def _map(self, shape: Shape) -> Check | None:
        size = _bounds(shape, "length")
        key_check, value_check = self._compiled(shape.key), self._compiled(shape.value)
        if size is None and key_check is None and value_check is None:
            return None

        def explain(value: Any, link: Link, found: list[Violation]) -> None:
            if size is not None:
                size(value, len(value), link, found)
            for key, member in value.items():
                if key_check is not None:
                    key_check.explain(key, link, found)
                if value_check is not None:
                    value_check.explain(member, (link, key), found)
                if len(found) > VIOLATIONS_MAX:
                    return

        return Check(explain)

    def _scalar(self, shape: Shape) -> Check | None:
        if shape.type_name in ("integer", "long", "float", "double"):
            return _number(shape)
        if shape.type_name in ("string", "blob"):
            return self._text(shape)
        return None

    def _text(self, shape: Shape) -> Check | None:
        size = _bounds(shape, "length")
        choices = tuple(shape.metadata.get("enum") or ())
        allowed = frozenset(choices)
        source = shape.metadata.get("pattern") if self._patterns and shape.type_name == "string" else None
        pattern = java_pattern(source) if source else None
        if size is None and not choices and pattern is None:
            return None

        def explain(value: Any, link: Link, found: list[Violation]) -> None:
            before = len(found)
            if size is not None:
                size(value, len(value), link, found)
            if choices and value not in allowed:
                found.append(Violation("enum", path_of(link), value, choices))
            # A value that is too long is not matched at all: the length bounds what the pattern may cost.
            if pattern is not None and len(found) == before and not pattern.fullmatch(value):
                found.append(Violation("pattern", path_of(link), value, source))

        if choices or pattern is not None:
            return Check(explain)
        low, high = _limits(shape)
        return Check(explain, lambda value: low <= len(value) <= high)


def _number(shape: Shape) -> Check | None:
    span = _bounds(shape, "value")
    if span is None:
        return None
    low, high = _limits(shape)
    return Check(lambda value, link, found: span(value, value, link, found), lambda value: low <= value <= high)


def _limits(shape: Shape) -> tuple[float, float]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    return float("-inf") if low is None else low, float("inf") if high is None else high


def _bounds(shape: Shape, kind: str) -> Callable[[Any, Any, Link, list[Violation]], None] | None:
    """A check of `measure` (the value, or its length) against the shape's min and max."""
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if high is None and (low is None or (low == 0 and kind == "length")):
        return None

    def check(value: Any, measure: Any, link: Link, found: list[Violation]) -> None:
        if low is not None and measure < low:
            found.append(Violation(f"{kind}_min", path_of(link), value, low))
        elif high is not None and measure > high:
            found.append(Violation(f"{kind}_max", path_of(link), value, high))

    return check


@lru_cache(maxsize=1024)
def java_pattern(source: str) -> re.Pattern[str]:
    r"""A pattern of the models, which are in Java's dialect, for Python's `re`: `\w` is ASCII, `\p{L}` a category."""
    # The STS model writes the astral planes with \u escapes of five and six digits, which no dialect reads as meant.
    translated = source.replace(r"\u10000-\u10FFFF", r"\U00010000-\U0010FFFF")
    # A hyphen after a class such as \w cannot begin a range; Java takes it as it is, Python wants it escaped.
    translated = re.sub(r"(\\[wds])-", r"\1\\-", translated)
    translated = re.sub(r"\\p\{(\w+)\}", lambda match: _category_ranges(match[1]), translated)
    return re.compile(translated, re.ASCII)


@lru_cache(maxsize=16)
def _category_ranges(category: str) -> str:
    """The inside of a character class: all code points whose Unicode category begins with `category`."""
    members = [point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)).startswith(category)]
    ranges: list[list[int]] = []
    for point in members:
        if ranges and point == ranges[-1][1] + 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
