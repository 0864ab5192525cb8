"""Writes the XML answers of the `ec2` and `query` protocols, by the model.

Each output shape is compiled once into functions that append pieces of text to a list: a page of a thousand network
interfaces has some 60,000 elements, so an element may cost little more than its own text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.model import OperationModel, ServiceModel, Shape

from vnotch.api.service import ApiError
from vnotch.api.wire.models import own_name

Write = Callable[[list[str], Any], None]

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'

# XML 1.0 has no way to write most control characters, lone surrogates and the two non-characters, and readers turn a
# bare carriage return into a line feed (XML 1.0, sections 2.2 and 2.11).
_SPECIAL = re.compile('[&<>"\\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
_REPLACEMENTS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#xD;"}


def escape(text: str) -> str:
    """`text` as XML character data; characters that XML cannot hold become U+FFFD."""
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda match: _REPLACEMENTS.get(match[0], "\ufffd"), text)


class XmlWriter:
    """Compiled writers of one service's output shapes."""

    def __init__(self, model: ServiceModel, ec2: bool) -> None:
        self._ec2 = ec2
        namespace = str(model.metadata["xmlNamespace"])
        self._namespace = namespace if namespace.endswith("/") else namespace + "/"
        self._members: dict[str, dict[str, Write]] = {}

    def prepare(self, shape: Shape) -> None:
        """Compiles `shape`. Not for two threads at once; a shape that has been compiled may be written by any."""
        self._structure_writers(shape)

    def answer(self, operation: OperationModel, result: Mapping[str, Any], request_id: str) -> str:
        """The body of a successful answer."""
        out = [DECLARATION, f'<{operation.name}Response xmlns="{self._namespace}">']
        shape = operation.output_shape
        if self._ec2:
            out.append(f"<requestId>{request_id}</requestId>")
            if shape is None:
                out.append("<return>true</return>")  # as EC2 does for operations with nothing to say
            else:
                self._write_members(shape, out, result)
        else:
            if shape is not None:
                wrapper = shape.serialization.get("resultWrapper") or f"{operation.name}Result"
                out.append(f"<{wrapper}>")
                self._write_members(shape, out, result)
                out.append(f"</{wrapper}>")
            out.append(f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>")
        out.append(f"</{operation.name}Response>")
        return "".join(out)

    def error(self, error: ApiError, request_id: str) -> str:
        """The body of an error, in the protocol's own shape."""
        code, message = escape(error.code), escape(error.message)
        if self._ec2:
            return (
                f"{DECLARATION}<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
                f"<RequestID>{request_id}</RequestID></Response>"
            )
        fault = "Receiver" if error.status >= 500 else "Sender"
        return (
            f'{DECLARATION}<ErrorResponse xmlns="{self._namespace}"><Error><Type>{fault}</Type><Code>{code}</Code>'
            f"<Message>{message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )

    def _write_members(self, shape: Shape, out: list[str], value: Mapping[str, Any]) -> None:
        writers = self._structure_writers(shape)
        for name, member in value.items():
            if member is not None:
                _writer(writers, name, shape)(out, member)

    def _structure_writers(self, shape: Shape) -> dict[str, Write]:
        if shape.name not in self._members:
            writers: dict[str, Write] = {}
            self._members[shape.name] = writers  # before it is filled: shapes may be recursive
            for name, member in shape.members.items():
                writers[name] = self._element(own_name(name, member), member)
        return self._members[shape.name]

    def _element(self, tag: str, shape: Shape) -> Write:
        if shape.type_name == "structure":
            return self._structure(tag, shape)
        if shape.type_name == "list":
            return self._list(tag, shape)
        if shape.type_name == "map":
            return self._map(tag, shape)
        if shape.type_name == "timestamp":
            return _text(tag, iso_ms if self._ec2 else iso_seconds)
        return _text(tag, TEXTS[shape.type_name])

    def _structure(self, tag: str, shape: Shape) -> Write:
        before, after = f"<{tag}>", f"</{tag}>"
        writers = self._structure_writers(shape)

        def write(out: list[str], value: Mapping[str, Any]) -> None:
            out.append(before)
            for name, member in value.items():
                if member is not None:
                    _writer(writers, name, shape)(out, member)
            out.append(after)

        return write

    def _list(self, tag: str, shape: Shape) -> Write:
        item_name = shape.member.serialization.get("name")
        if shape.serialization.get("flattened"):
            item = self._element(str(item_name or tag), shape.member)
            return lambda out, value: _each(out, value, item)
        item = self._element(str(item_name or ("item" if self._ec2 else "member")), shape.member)
        before, after, empty = f"<{tag}>", f"</{tag}>", f"<{tag}/>"

        def write(out: list[str], value: Any) -> None:
            if not value:
                out.append(empty)
                return
            out.append(before)
            for member in value:
                item(out, member)
            out.append(after)

        return write

    def _map(self, tag: str, shape: Shape) -> Write:
        key = self._element(str(shape.key.serialization.get("name") or "key"), shape.key)
        value_writer = self._element(str(shape.value.serialization.get("name") or "value"), shape.value)
        flattened = bool(shape.serialization.get("flattened"))
        entry = tag if flattened else "entry"

        def write(out: list[str], value: Mapping[str, Any]) -> None:
            if not flattened:
                out.append(f"<{tag}>")
            for name, member in value.items():
                out.append(f"<{entry}>")
                key(out, name)
                value_writer(out, member)
                out.append(f"</{entry}>")
            if not flattened:
                out.append(f"</{tag}>")

        return write


def _each(out: list[str], value: Any, item: Write) -> None:
    for member in value:
        item(out, member)


def _writer(writers: Mapping[str, Write], name: str, shape: Shape) -> Write:
    try:
        return writers[name]
    except KeyError:
        # A handler's mistake, which would otherwise only show as a member missing at the client.
        raise TypeError(f"the output shape {shape.name} has no member {name}") from None


def _text(tag: str, convert: Callable[[Any], str]) -> Write:
    before, after = f"<{tag}>", f"</{tag}>"

    def write(out: list[str], value: Any) -> None:
        out.append(before)
        out.append(convert(value))
        out.append(after)

    return write


def _utc(value: datetime | int | float) -> datetime:
    """Handlers give times as aware datetimes or as Unix seconds."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return datetime.fromtimestamp(value, UTC)


def iso_ms(value: datetime | int | float) -> str:
    """2021-01-01T00:00:00.000Z, as EC2 writes times."""
    return _utc(value).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def iso_seconds(value: datetime | int | float) -> str:
    """2021-01-01T00:00:00Z, as IAM and STS write times."""
    return _utc(value).strftime("%Y-%m-%dT%H:%M:%SZ")


TEXTS: dict[str, Callable[[Any], str]] = {
    "string": escape,
    "character": escape,
    "integer": int.__repr__,
    "long": int.__repr__,
    "float": lambda value: repr(float(value)),
    "double": lambda value: repr(float(value)),
    "boolean": lambda value: "true" if value else "false",
    "blob": lambda value: base64.b64encode(value).decode(),
}
