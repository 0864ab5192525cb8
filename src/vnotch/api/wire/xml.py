"""Writes the XML answers of the `ec2` and `query` protocols, by the model.

Each output shape is compiled once. What a structure becomes follows from which of its members it has, and most have the
same ones as the one before: for each such set a format is kept with all tags in it, and a function for each member's
text. A page of a thousand network interfaces has some 60,000 elements, so an element may cost little more than its own
text.
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

Write = Callable[[Any], str]
"""A value's text."""
Member = tuple[str, Write]
"""A member's place in the format of its structure, `<tag>%s</tag>` or `%s`, and its text."""

FORMATS_MAX = 256
"""Formats that are kept of one structure. Handlers leave out few members, so there are never so many."""

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
        self._writers: dict[str, Write] = {}

    def prepare(self, shape: Shape) -> None:
        """Compiles `shape`. Not for two threads at once; a shape that has been compiled may be written by any."""
        self._structure(shape)

    def answer(self, operation: OperationModel, result: Mapping[str, Any], request_id: str) -> str:
        """The body of a successful answer."""
        out = [DECLARATION, f'<{operation.name}Response xmlns="{self._namespace}">']
        shape = operation.output_shape
        if self._ec2:
            out.append(f"<requestId>{request_id}</requestId>")
            if shape is None:
                out.append("<return>true</return>")  # as EC2 does for operations with nothing to say
            else:
                out.append(self._structure(shape)(result))
        else:
            if shape is not None:
                wrapper = shape.serialization.get("resultWrapper") or f"{operation.name}Result"
                out.append(f"<{wrapper}>")
                out.append(self._structure(shape)(result))
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

    def _structure(self, shape: Shape) -> Write:
        """What is inside a structure's own tags."""
        if shape.name not in self._writers:
            # A recursive shape finds this forwarding function while it is being compiled.
            self._writers[shape.name] = lambda value: self._writers[shape.name](value)
            self._writers[shape.name] = self._compile(shape)
        return self._writers[shape.name]

    def _compile(self, shape: Shape) -> Write:
        members = {name: self._member(own_name(name, member), member) for name, member in shape.members.items()}
        formats: dict[tuple[str, ...], tuple[str, list[Write]]] = {}

        def write(value: Mapping[str, Any]) -> str:
            if None in value.values():  # means absent
                value = {name: member for name, member in value.items() if member is not None}
            names = tuple(value)
            known = formats.get(names)
            if known is None:
                if len(formats) >= FORMATS_MAX:
                    formats.clear()
                known = formats[names] = _format(members, names, shape)
            text, writers = known
            return text % tuple([write(member) for write, member in zip(writers, value.values(), strict=True)])

        return write

    def _member(self, tag: str, shape: Shape) -> Member:
        if shape.type_name == "list":
            return "%s", self._list(tag, shape)
        if shape.type_name == "map":
            return "%s", self._map(tag, shape)
        return f"<{tag}>%s</{tag}>", self._text(shape)

    def _text(self, shape: Shape) -> Write:
        """What is inside the tags of a value that is no list and no map."""
        if shape.type_name == "structure":
            return self._structure(shape)
        if shape.type_name == "timestamp":
            return iso_ms if self._ec2 else iso_seconds
        return TEXTS[shape.type_name]

    def _element(self, tag: str, shape: Shape) -> Write:
        """A value with its tags, for the items of lists and maps."""
        form, write = self._member(tag, shape)
        return write if form == "%s" else lambda value: form % (write(value),)

    def _list(self, tag: str, shape: Shape) -> Write:
        item_name = shape.member.serialization.get("name")
        if shape.serialization.get("flattened"):
            item = self._element(str(item_name or tag), shape.member)
            return lambda value: "".join(map(item, value))
        item = self._element(str(item_name or ("item" if self._ec2 else "member")), shape.member)
        before, after, empty = f"<{tag}>", f"</{tag}>", f"<{tag}/>"
        return lambda value: f"{before}{''.join(map(item, value))}{after}" if value else empty

    def _map(self, tag: str, shape: Shape) -> Write:
        key = self._element(str(shape.key.serialization.get("name") or "key"), shape.key)
        value_writer = self._element(str(shape.value.serialization.get("name") or "value"), shape.value)
        flattened = bool(shape.serialization.get("flattened"))
        entry = tag if flattened else "entry"

        def write(value: Mapping[str, Any]) -> str:
            entries = "".join(f"<{entry}>{key(name)}{value_writer(member)}</{entry}>" for name, member in value.items())
            return entries if flattened else f"<{tag}>{entries}</{tag}>"

        return write


def _format(members: Mapping[str, Member], names: tuple[str, ...], shape: Shape) -> tuple[str, list[Write]]:
    for name in names:
        if name not in members:
            # A handler's mistake, which would otherwise only show as a member missing at the client.
            raise TypeError(f"the output shape {shape.name} has no member {name}")
    return "".join(members[name][0] for name in names), [members[name][1] for name in names]


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
