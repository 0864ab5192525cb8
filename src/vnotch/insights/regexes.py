"""Regular expressions and globs of a query, checked before they run.

They run in RE2, whose time is linear in the text, so that none can run for ever. It has no look-around and no
backreferences: they are refused here, with the place, by the engine itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.nodes import Place, Regex, String

GROUPS_MAX = 50
_OPENING = re.compile(r"\\.|\[(?:\\.|\[:\w+:\]|[^\]\\])(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(\?P?<([^>=!]+)>|\(\?<", re.DOTALL)
_GROUP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Extraction:
    """A pattern of RE2 whose first groups give `names` their values, in order."""

    pattern: str
    names: tuple[str, ...]


def checked(pattern: str, place: Place) -> str:
    """The pattern in RE2's syntax. Raises MalformedQuery."""
    return _checked(*_renamed(pattern, place), place)


def regex_extraction(regex: Regex) -> Extraction:
    """Named groups -> fields."""
    pattern, names = _renamed(regex.pattern, regex.place)
    if not names:
        raise MalformedQuery("the regular expression of parse has no named group", regex.place, "(?<name>...)")
    return Extraction(_checked(pattern, names, regex.place), tuple(names))


def glob_extraction(glob: String, names: list[str], place: Place) -> Extraction:
    """Each `*` stands for the shortest text that lets the rest match, the last one at the end for all that is left."""
    parts = glob.value.split("*")
    if len(parts) - 1 != len(names):
        raise MalformedQuery(
            f"the pattern of parse has {len(parts) - 1} wildcards for {len(names)} names", glob.place,
            "as many names after `as` as there are * in the pattern",
        )  # fmt: skip
    if len(names) > GROUPS_MAX:
        raise MalformedQuery(f"parse makes at most {GROUPS_MAX} fields", place)
    pattern = "(?s)" + "(.*?)".join(re.escape(part) for part in parts) + ("$" if parts[-1] == "" else "")
    return Extraction(_checked(pattern, names, glob.place), tuple(names))


def _renamed(pattern: str, place: Place) -> tuple[str, list[str]]:
    """`(?<name>` -> `(?P<name>`, which every RE2 knows; and the names in order."""
    names: list[str] = []

    def opening(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        if not _GROUP_NAME.fullmatch(match[1]):
            raise MalformedQuery(f"{match[1]} is no name for a group", place, "letters, digits and _")
        names.append(match[1])
        return f"(?P<{match[1]}>"

    renamed = _OPENING.sub(opening, pattern)
    if len(names) > GROUPS_MAX:
        raise MalformedQuery(f"parse makes at most {GROUPS_MAX} fields", place)
    return renamed, names


def _checked(pattern: str, names: list[str], place: Place) -> str:
    if "\0" in pattern:
        raise MalformedQuery("a regular expression has no character NUL", place)
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except (pa.ArrowInvalid, UnicodeError) as error:
        reason = str(error).rpartition("Invalid regular expression: ")[2] or str(error)
        raise MalformedQuery(f"the regular expression is not valid: {reason}", place) from None
    return pattern
