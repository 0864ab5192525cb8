"""Reads the form encoding of the `ec2` and `query` protocols into typed parameters, by the model.

`TagSpecification.1.Tag.2.Key=Name` is first put into a tree ({"TagSpecification": {"1": {"Tag": {"2": {"Key": ..}}}}})
and the tree is read by a function compiled from the operation's input shape. The two protocols differ only in names:

              structure member                      list item                       map
    ec2       queryName, else LocationName          NAME.N (always flattened)       -
    query     locationName, else the member's own   NAME.member.N, or NAME.N when   NAME.entry.N.key / .value
                                                    the shape is flattened

Sources: botocore's serialiser (the other end of the same wire) and the Smithy pages "AWS EC2 query protocol" and "AWS
query protocol". What the model does not know is refused with the parameter's full name.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from botocore.model import Shape

from vnotch.api.wire.dialect import Dialect, Path

PARAMETERS_MAX = 20_000
DEPTH_MAX = 32
"""No input shape of EC2, IAM or STS is deeper than half of this."""

Node = str | dict[str, Any]
Read = Callable[[Node, Path], Any]

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)
_INDEX = re.compile(r"[0-9]{1,6}", re.ASCII)


def form_pairs(data: bytes, dialect: Dialect) -> dict[str, str]:
    """The names and values of a form body or query string. Bad escapes, bad UTF-8 and repeated names are refused."""
    pairs: dict[str, str] = {}
    if data.count(b"&") >= PARAMETERS_MAX:
        raise dialect.malformed(f"The request has more than {PARAMETERS_MAX} parameters.")
    for piece in data.split(b"&"):
        if not piece:
            continue
        name, _, value = piece.partition(b"=")
        try:
            key, text = _unquoted(name), _unquoted(value)
        except (UnicodeDecodeError, ValueError):
            raise dialect.malformed("The query string is not percent-encoded UTF-8.") from None
        if key in pairs:
            raise dialect.malformed(f"The parameter {key[:200]} is given more than once.")
        pairs[key] = text
    return pairs


_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def _unquoted(data: bytes) -> str:
    if b"+" in data:
        data = data.replace(b"+", b" ")
    if b"%" in data:
        if _BAD_ESCAPE.search(data):
            raise ValueError("bad percent escape")
        data = unquote_to_bytes(data)
    return data.decode("utf-8", "strict")


def parameter_tree(pairs: dict[str, str], dialect: Dialect) -> dict[str, Any]:
    """The pairs with dotted names as a tree whose leaves are texts."""
    root: dict[str, Any] = {}
    for name, value in pairs.items():
        if "." not in name:
            node, leaf = root, name
        else:
            parts = name.split(".")
            if len(parts) > DEPTH_MAX:
                raise dialect.unknown_parameter((name[:200],))
            node, leaf = root, parts.pop()
            for part in parts:
                child = node.setdefault(part, {})
                if not isinstance(child, dict):
                    raise dialect.malformed(f"The parameter {name[:200]} is both a value and a structure.")
                node = child
        if leaf in node:
            raise dialect.malformed(f"The parameter {name[:200]} is both a value and a structure.")
        node[leaf] = value
    return root


class FormReader:
    """Compiled readers of one service's input shapes. `ec2` chooses between the two protocols' names."""

    def __init__(self, dialect: Dialect, ec2: bool) -> None:
        self._dialect = dialect
        self._ec2 = ec2
        self._readers: dict[tuple[str, bool], Read] = {}

    def prepare(self, shape: Shape) -> None:
        """Compiles `shape`. Not for two threads at once; a shape that has been compiled may be read by any."""
        self._reader(shape)

    def read(self, shape: Shape | None, tree: dict[str, Any]) -> dict[str, Any]:
        """The typed parameters of `tree`; raises ApiError for what the model does not know or cannot type."""
        if shape is None:
            if tree:
                raise self._dialect.unknown_parameter((_first_name(tree),))
            return {}
        parameters: dict[str, Any] = self._reader(shape)(tree, ())
        return parameters

    def member_name(self, name: str, shape: Shape) -> str:
        """The name of a structure member in a form."""
        if self._ec2:
            if query_name := shape.serialization.get("queryName"):
                return str(query_name)
            location_name = str(shape.serialization.get("name") or name)
            return location_name[:1].upper() + location_name[1:]
        if shape.type_name == "list" and shape.serialization.get("flattened"):
            # A flattened list goes by the name of its items, where they have one.
            name = str(shape.serialization.get("name") or name)
            return str(shape.member.serialization.get("name") or name)
        return str(shape.serialization.get("name") or name)

    def _reader(self, shape: Shape) -> Read:
        flattened = bool(shape.serialization.get("flattened"))
        key = (shape.name, flattened)
        if key not in self._readers:
            # A recursive shape finds this forwarding function while it is being compiled.
            self._readers[key] = lambda node, path: self._readers[key](node, path)
            self._readers[key] = self._compile(shape, flattened)
        return self._readers[key]

    def _compile(self, shape: Shape, flattened: bool) -> Read:
        if shape.type_name == "structure":
            return self._structure(shape)
        if shape.type_name == "list":
            if self._ec2 or flattened:
                return self._indexed(self._reader(shape.member))
            return self._wrapped(str(shape.member.serialization.get("name") or "member"), self._reader(shape.member))
        if shape.type_name == "map":
            return self._map(shape, flattened)
        return self._scalar(shape.type_name)

    def _structure(self, shape: Shape) -> Read:
        members = {self.member_name(name, member): (name, member) for name, member in shape.members.items()}
        readers = {wire: (name, self._reader(member)) for wire, (name, member) in members.items()}
        dialect = self._dialect

        def read(node: Node, path: Path) -> dict[str, Any]:
            if not isinstance(node, dict):
                raise dialect.wrong_type(path, node, "a structure")
            values = {}
            for wire, child in node.items():
                if wire not in readers:
                    below = (_first_name(child),) if isinstance(child, dict) else ()
                    raise dialect.unknown_parameter((*path, wire, *below))
                name, reader = readers[wire]
                values[name] = reader(child, (*path, wire))
            return values

        return read

    def _indexed(self, item: Read) -> Read:
        dialect, ec2 = self._dialect, self._ec2

        def read(node: Node, path: Path) -> list[Any]:
            if not isinstance(node, dict):
                if node == "" and not ec2:
                    return []  # botocore writes an empty list of the query protocol as `Name=`.
                raise dialect.wrong_type(path, node, "a list")
            for index in node:
                if not _INDEX.fullmatch(index) or int(index) < 1:
                    raise dialect.unknown_parameter((*path, index))
            if len({int(index) for index in node}) != len(node):
                raise dialect.malformed(f"The items of {'.'.join(map(str, path))} are numbered twice.")
            return [item(node[index], (*path, int(index))) for index in sorted(node, key=int)]

        return read

    def _wrapped(self, wrapper: str, item: Read) -> Read:
        indexed = self._indexed(item)
        dialect = self._dialect

        def read(node: Node, path: Path) -> list[Any]:
            if node == "":
                return []
            if not isinstance(node, dict):
                raise dialect.wrong_type(path, node, "a list")
            for name in node:
                if name != wrapper:
                    raise dialect.unknown_parameter((*path, name))
            items: list[Any] = indexed(node[wrapper], path)
            return items

        return read

    def _map(self, shape: Shape, flattened: bool) -> Read:
        key_name = str(shape.key.serialization.get("name") or "key")
        value_name = str(shape.value.serialization.get("name") or "value")
        value_reader = self._reader(shape.value)
        dialect = self._dialect

        def read_entry(node: Node, path: Path) -> tuple[str, Any]:
            if not isinstance(node, dict) or not isinstance(node.get(key_name), str):
                raise dialect.wrong_type(path, node, "an entry of a map")
            for name in node:
                if name not in (key_name, value_name):
                    raise dialect.unknown_parameter((*path, name))
            return node[key_name], value_reader(node.get(value_name, ""), (*path, value_name))

        entries = self._indexed(read_entry) if flattened else self._wrapped("entry", read_entry)

        def read(node: Node, path: Path) -> dict[str, Any]:
            return dict(entries(node, path))

        return read

    def _scalar(self, type_name: str) -> Read:
        convert, expected = SCALARS[type_name]
        dialect = self._dialect

        def read(node: Node, path: Path) -> Any:
            if not isinstance(node, str):
                raise dialect.unknown_parameter((*path, _first_name(node)))
            try:
                return convert(node)
            except (ValueError, OverflowError, binascii.Error):
                raise dialect.wrong_type(path, node, expected) from None

        return read


def _first_name(node: Node) -> str:
    """The dotted name of the first leaf below `node`, for messages."""
    parts = []
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        parts.append(name[:200])
    return ".".join(parts)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return convert


def _number(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    if math.isinf(number := float(text)):
        raise ValueError(text)
    return number


def _boolean(text: str) -> bool:
    # EC2 takes any case, and some old clients write True.
    return {"true": True, "false": False}[lowered] if (lowered := text.lower()) in ("true", "false") else _refuse(text)


def _refuse(text: str) -> bool:
    raise ValueError(text)


def timestamp(text: str) -> datetime:
    """ISO 8601 with a zone, or Unix seconds, as a time in UTC; ValueError for anything else."""
    if _FLOAT.fullmatch(text):
        return datetime.fromtimestamp(float(text), UTC)
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


SCALARS: dict[str, tuple[Callable[[str], Any], str]] = {
    "string": (str, "a string"),
    "character": (str, "a character"),
    "integer": (_integer(-(2**31), 2**31 - 1), "an integer"),
    "long": (_integer(-(2**63), 2**63 - 1), "an integer"),
    "float": (_number, "a number"),
    "double": (_number, "a number"),
    "boolean": (_boolean, "true or false"),
    "timestamp": (timestamp, "a timestamp of ISO 8601"),
    "blob": (lambda text: base64.b64decode(text, validate=True), "base64"),
}
