"""TOML with the line of every key, so that a refusal can name the place.

`tomllib` gives values without positions. The index here is made from a text that tomllib has already accepted: it
only has to find where each statement begins, not to judge it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from vnotch.errors import InputError

Place = tuple[str | int, ...]
"""A path into the document: table names, keys and, for arrays of tables, the index from 0."""

_KEY_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.)?""")
_QUOTES = ('"""', "'''", '"', "'")


def key_lines(text: str) -> dict[Place, int]:
    """The line, from 1, of each table header, each key and each element of a key's array in a valid TOML text.

    What is deeper inside, or in an inline table, has no entry of its own; its nearest parent has.
    """
    lines: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
        elif text[at] == "#":
            at = _end_of_line(text, at)
        else:
            line = text.count("\n", 0, at) + 1
            if text[at] == "[":
                array = text.startswith("[[", at)
                parts, _ = _dotted_key(text, at + (2 if array else 1))
                table = _resolve(parts, counts)
                if array:
                    counts[table] = counts.get(table, 0) + 1
                    lines.setdefault(table, line)
                    table = (*table, counts[table] - 1)
                lines[table] = line
                at = _end_of_line(text, at)
            else:
                parts, at = _dotted_key(text, at)
                for length in range(1, len(parts) + 1):
                    lines.setdefault((*table, *parts[:length]), line)
                starts: list[int] = []
                at = _end_of_value(text, at, starts)
                for number, start in enumerate(starts):
                    lines[(*table, *parts, number)] = text.count("\n", 0, start) + 1
    return lines


def _resolve(parts: tuple[str, ...], counts: dict[Place, int]) -> Place:
    """The place a header names: below an array of tables it is in the array's last element."""
    place: Place = ()
    for number, part in enumerate(parts):
        place = (*place, part)
        if place in counts and number < len(parts) - 1:
            place = (*place, counts[place] - 1)
    return place


def _dotted_key(text: str, at: int) -> tuple[tuple[str, ...], int]:
    parts: list[str] = []
    while match := _KEY_PART.match(text, at):
        parts.append(next(group for group in match.groups()[:3] if group is not None))
        at = match.end()
        if not match.group(4):
            break
    return tuple(parts), at


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _end_of_value(text: str, at: int, starts: list[int]) -> int:
    """The end of the statement whose value begins at or after `at`: a line end outside strings and brackets. Where the
    value is an array, `starts` gets the places at which its elements begin."""
    depth = 0
    is_array = re.compile(r"[ \t=]*\[").match(text, at) is not None
    between = False  # before an element of the array
    while at < len(text):
        char = text[at]
        if between and char not in " \t\r\n#],":
            starts.append(at)
            between = False
        quote = next((quote for quote in _QUOTES if text.startswith(quote, at)), None)
        if quote:
            at = _end_of_string(text, at, quote)
            continue
        if char == "#":
            at = _end_of_line(text, at)
            continue
        if char == "\n" and depth == 0:
            return at
        depth += (char in "[{") - (char in "]}")
        between = between or (is_array and depth == 1 and char in "[,")
        at += 1
    return at


def _end_of_string(text: str, at: int, quote: str) -> int:
    at += len(quote)
    while at < len(text) and not text.startswith(quote, at):
        at += 2 if text[at] == "\\" and quote[0] == '"' else 1
    at += len(quote)
    if len(quote) == 3:  # a multi-line string may end in up to two more of its quotes
        while at < len(text) and text[at] == quote[0]:
            at += 1
    return at


@dataclass(frozen=True)
class Source:
    """A TOML document, its name for messages, and the lines of its keys."""

    name: str
    document: dict[str, Any]
    lines: dict[Place, int]
    text: str = ""

    @classmethod
    def read(cls, path: Path) -> Source:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}", "give the path of a topology file") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 at byte {error.start}", "a topology is a TOML file") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> Source:
        text = text.replace("\r\n", "\n")
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
            line = int(found.group(1)) if found else text.count("\n") + 1
            what = re.sub(r"\s*\(at .*\)$", "", str(error))
            raise InputError(f"{name}:{line}: not TOML: {what}", "see https://toml.io/en/v1.0.0") from error
        return cls(name, document, key_lines(text), text)

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest thing round it that has one."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)

    def refuse(self, place: Place, what: str, right: str) -> NoReturn:
        raise InputError(f"{self.name}:{self.line(place)}: {what}", right)


class Table:
    """One table of the document, read key by key with the type that is expected of each."""

    def __init__(self, source: Source, place: Place, values: Any, known: tuple[str, ...]) -> None:
        self.source = source
        self.place = place
        if not isinstance(values, dict):
            source.refuse(place, f"{self.title} is not a table", f"write it as [{place[-1]}]")
        self.values: dict[str, Any] = values
        for key in values:
            if key not in known:
                near = get_close_matches(key, known, 1, 0.6)
                right = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
                self.refuse(key, f"unknown key {key!r} in {self.title}", right)

    @property
    def title(self) -> str:
        names = [part for part in self.place if isinstance(part, str)]
        return f"[{names[-1]}]" if names else "the file"

    def refuse(self, key: str | None, what: str, right: str) -> NoReturn:
        self.source.refuse(self.place if key is None else (*self.place, key), what, right)

    def tables(self, key: str, known: tuple[str, ...]) -> list[Table]:
        """The elements of an array of tables; none where the key is absent."""
        items = self.values.get(key, [])
        if not isinstance(items, list):
            self.refuse(key, f"{key!r} is one table", f"write [[{key}]], once for each")
        return [Table(self.source, (*self.place, key, number), item, known) for number, item in enumerate(items)]

    def table(self, key: str, known: tuple[str, ...]) -> Table:
        if key not in self.values:
            self.refuse(None, f"[{key}] is missing", f"add a table [{key}] with {', '.join(known)}")
        return Table(self.source, (*self.place, key), self.values[key], known)

    def text(self, key: str, right: str) -> str:
        value = self.optional_text(key, right)
        if value is None:
            self.refuse(None, f"{self.title} has no {key!r}", right)
        return value

    def optional_text(self, key: str, right: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, f"{key} = {value!r} is not a text", right)
        return value

    def texts(self, key: str, right: str) -> tuple[str, ...] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.refuse(key, f"{key} is not a list of texts", right)
        return tuple(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f"{key} = {value!r} is neither true nor false", f"write {key} = true or {key} = false")
        return value
