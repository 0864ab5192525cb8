"""Reads and writes the bodies of the `json` protocols (1.0 and 1.1), by the model.

JSON is almost typed already, so a shape below which nothing needs converting (no timestamp, no blob) is checked and
handed on as it is; a batch of 10,000 log events is not built anew.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from botocore.model import Shape

from vnotch.api.service import ApiError
from vnotch.api.wire.constraints import Link, path_of
from vnotch.api.wire.dialect import Dialect
from vnotch.api.wire.models import own_name

Read = Callable[[Any, Link], Any]
Write = Callable[[Any], Any] | None


class JsonReader:
    """Compiled readers of one service's input shapes."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._readers: dict[str, Read] = {}
        self._scalars = SCALARS

    def _document(self, body: bytes) -> Any:
        try:
            return orjson.loads(body)  # refuses NaN, bad UTF-8, lone surrogates and depth beyond 1024
        except orjson.JSONDecodeError:
            raise self._dialect.malformed("The body is not valid JSON in UTF-8.") from None

    def prepare(self, shape: Shape) -> None:
        """Compiles `shape`. Not for two threads at once; a shape that has been compiled may be read by any."""
        self._reader(shape)

    def read(self, shape: Shape | None, body: bytes) -> dict[str, Any]:
        """The typed parameters of a body; an empty body has none. Raises ApiError for what is not the model's."""
        document = self._document(body) if body else {}
        if not isinstance(document, dict):
            raise self._dialect.wrong_type((), document, "an object")
        if shape is None:
            if document:
                raise self._dialect.unknown_parameter((next(iter(document)),))
            return {}
        parameters: dict[str, Any] = self._reader(shape)(document, None)
        return parameters

    def _reader(self, shape: Shape) -> Read:
        if shape.name not in self._readers:
            # A recursive shape finds this forwarding function while it is being compiled.
            self._readers[shape.name] = lambda value, link: self._readers[shape.name](value, link)
            self._readers[shape.name] = self._compile(shape)
        return self._readers[shape.name]

    def _compile(self, shape: Shape) -> Read:
        if shape.type_name == "structure":
            return self._structure(shape)
        if shape.type_name == "list":
            return self._list(self._reader(shape.member), _plain_types(shape.member))
        if shape.type_name == "map":
            return self._map(self._reader(shape.value))
        return self._scalar(shape.type_name)

    def _structure(self, shape: Shape) -> Read:
        if shape.metadata.get("document"):
            raise NotImplementedError("document types are not read by this release")
        members = {own_name(name, member): (name, self._reader(member)) for name, member in shape.members.items()}
        dialect = self._dialect

        def read(value: Any, link: Link) -> dict[str, Any]:
            if type(value) is not dict:
                raise dialect.wrong_type(path_of(link), value, "an object")
            values = {}
            for wire, child in value.items():
                if wire not in members:
                    raise dialect.unknown_parameter(path_of((link, wire)))
                if child is not None:  # null means absent
                    name, reader = members[wire]
                    values[name] = reader(child, (link, wire))
            return values

        return read

    def _list(self, item: Read, plain: dict[str, type]) -> Read:
        """`plain`: the members of an item that need no conversion, by type. A batch of log events is made of these
        alone, and its items are handed on as they are."""
        dialect = self._dialect

        def read(value: Any, link: Link) -> list[Any]:
            if type(value) is not list:
                raise dialect.wrong_type(path_of(link), value, "a list")
            items = []
            for index, child in enumerate(value, 1):
                if plain and type(child) is dict:
                    for name, member in child.items():
                        if type(member) is not plain.get(name) or (type(member) is int and member > LONG_MAX):
                            break
                    else:
                        items.append(child)
                        continue
                items.append(item(child, (link, index)))
            return items

        return read

    def _map(self, item: Read) -> Read:
        dialect = self._dialect

        def read(value: Any, link: Link) -> dict[str, Any]:
            if type(value) is not dict or not all(type(key) is str for key in value):
                raise dialect.wrong_type(path_of(link), value, "an object")
            return {key: item(child, (link, key)) for key, child in value.items()}

        return read

    def _scalar(self, type_name: str) -> Read:
        accept, expected = self._scalars[type_name]
        dialect = self._dialect

        def read(value: Any, link: Link) -> Any:
            try:
                return accept(value)
            except (TypeError, ValueError, OverflowError, binascii.Error):
                raise dialect.wrong_type(path_of(link), value, expected) from None

        return read


LONG_MAX = 2**63 - 1  # orjson reads up to 2**64 - 1


def _plain_types(shape: Shape) -> dict[str, type]:
    if shape.type_name != "structure":
        return {}
    kinds = {"string": str, "long": int, "boolean": bool}
    return {
        name: kinds[member.type_name]
        for name, member in shape.members.items()
        if member.type_name in kinds and own_name(name, member) == name
    }


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise TypeError


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def accept(value: Any) -> int:
        if type(value) is int and low <= value <= high:
            return value
        if type(value) is float and value.is_integer() and low <= value <= high:
            return int(value)  # 5.0 is what some languages write for 5
        raise TypeError

    return accept


def _number(value: Any) -> float:
    if type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise TypeError


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise TypeError


def _timestamp(value: Any) -> datetime:
    if type(value) in (int, float):
        return datetime.fromtimestamp(value, UTC)
    raise TypeError


def _blob(value: Any) -> bytes:
    return base64.b64decode(_string(value), validate=True)


SCALARS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "string": (_string, "a string"),
    "character": (_string, "a string"),
    "integer": (_integer(-(2**31), 2**31 - 1), "an integer"),
    "long": (_integer(-(2**63), 2**63 - 1), "an integer"),
    "float": (_number, "a number"),
    "double": (_number, "a number"),
    "boolean": (_boolean, "a boolean"),
    "timestamp": (_timestamp, "a timestamp in seconds"),
    "blob": (_blob, "base64"),
}


def _list_writer(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: [item(child) for child in value]


def _map_writer(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: {key: item(child) for key, child in value.items()}


class JsonWriter:
    """Compiled writers of one service's output shapes. A writer of None means: the value goes out as it is."""

    def __init__(self) -> None:
        self._writers: dict[str, Write] = {}

    def prepare(self, shape: Shape) -> None:
        """Compiles `shape`. Not for two threads at once; a shape that has been compiled may be written by any."""
        self._writer(shape)

    def answer(self, shape: Shape | None, result: Mapping[str, Any]) -> bytes:
        """The body of a successful answer. Operations without an output answer with an empty body, as AWS does."""
        if shape is None:
            return b""
        unknown = set(result) - set(shape.members)
        if unknown:
            # A handler's mistake, which would otherwise only show as a member missing at the client.
            raise TypeError(f"the output shape {shape.name} has no member {', '.join(sorted(unknown))}")
        present = {name: value for name, value in result.items() if value is not None}
        writer = self._writer(shape)
        return self._bytes(present if writer is None else writer(present))

    def _bytes(self, document: Any) -> bytes:
        return orjson.dumps(document)

    def error(self, error: ApiError) -> bytes:
        """`{"__type": code, "message": text}` and the further members of the error's shape."""
        return self._bytes({"__type": error.code, "message": error.message, **error.members})

    def _writer(self, shape: Shape) -> Write:
        if shape.name not in self._writers:
            # Recursive shapes of the services so far hold no timestamps; one that did would be found by its test.
            self._writers[shape.name] = None
            self._writers[shape.name] = self._compile(shape)
        return self._writers[shape.name]

    def _compile(self, shape: Shape) -> Write:
        if shape.type_name == "timestamp":
            return lambda value: value.timestamp() if isinstance(value, datetime) else value
        if shape.type_name == "blob":
            return lambda value: base64.b64encode(value).decode()
        if shape.type_name == "list":
            item = self._writer(shape.member)
            return None if item is None else _list_writer(item)
        if shape.type_name == "map":
            item = self._writer(shape.value)
            return None if item is None else _map_writer(item)
        if shape.type_name == "structure":
            return self._structure(shape)
        return None

    def _structure(self, shape: Shape) -> Write:
        names = {name: own_name(name, member) for name, member in shape.members.items()}
        writers = {name: self._writer(member) for name, member in shape.members.items()}
        if all(name == wire for name, wire in names.items()) and not any(writers.values()):
            return None

        def write(value: Mapping[str, Any]) -> dict[str, Any]:
            written = {}
            for name, child in value.items():
                writer = writers[name]
                if child is not None:
                    written[names[name]] = child if writer is None else writer(child)
            return written

        return write
