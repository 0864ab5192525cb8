"""Where the statements of a policy stand in its text, as simulations tell it (IAM API Reference, Statement)."""

from __future__ import annotations

import json

Position = tuple[int, int]
"""Line and column, both from 1."""

_DECODER = json.JSONDecoder()
_BLANKS = " \t\r\n"


def statement_positions(document: str) -> list[tuple[Position, Position]]:
    """Start and end of each statement of a document that is a policy, the end behind its last character."""
    places = [(start, end) for key, start, end in _members(document) if key == "Statement"]
    start, end = places[0]
    spans = [(start, end)] if document[start] == "{" else _items(document, start)
    return [(_position(document, first), _position(document, last)) for first, last in spans]


def _members(document: str) -> list[tuple[str, int, int]]:
    """Key, start and end of the value of each member of the object that the document is."""
    found = []
    at = _skip(document, _skip(document, 0) + 1)
    while document[at] != "}":
        key, at = _DECODER.raw_decode(document, at)
        start = _skip(document, _skip(document, at) + 1)
        _, end = _DECODER.raw_decode(document, start)
        found.append((key, start, end))
        at = _next(document, end)
    return found


def _items(document: str, start: int) -> list[tuple[int, int]]:
    found = []
    at = _skip(document, start + 1)
    while document[at] != "]":
        _, end = _DECODER.raw_decode(document, at)
        found.append((at, end))
        at = _next(document, end)
    return found


def _next(document: str, end: int) -> int:
    """The next member or item, or the closing bracket."""
    at = _skip(document, end)
    return _skip(document, at + 1) if document[at] == "," else at


def _skip(document: str, at: int) -> int:
    while document[at] in _BLANKS:
        at += 1
    return at


def _position(document: str, at: int) -> Position:
    return document.count("\n", 0, at) + 1, at - document.rfind("\n", 0, at)
