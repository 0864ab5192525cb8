"""Event streams: the frames of `application/vnd.amazon.eventstream`.

    total length, headers length, CRC | headers | payload | CRC      big-endian 32 bits, CRC-32 of all before

Source: Smithy specification, "Amazon Event Stream". Of the types of headers only strings are written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import orjson
from botocore.model import Shape

from vnotch.api.service import ApiError
from vnotch.api.wire.json import JsonWriter

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    body = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return body + struct.pack("!I", crc32(body))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text


class EventStreamWriter:
    """Writes the events of one operation whose output has a stream, by its model, with payloads in JSON."""

    def __init__(self, output: Shape, writer: JsonWriter) -> None:
        (stream,) = (member for member in output.members.values() if member.serialization.get("eventstream"))
        self._members = stream.members
        self._writer = writer
        for member in self._members.values():
            writer.prepare(member)

    def initial(self) -> bytes:
        """What protocols without a body of their own begin with."""
        return _event("initial-response", b"{}")

    def event(self, name: str, value: Mapping[str, Any]) -> bytes:
        return _event(name, self._writer.answer(self._members[name], value))

    def exception(self, error: ApiError) -> bytes:
        """The end of a stream that fails."""
        headers = {":exception-type": error.code, ":content-type": "application/json", ":message-type": "exception"}
        return frame(headers, orjson.dumps({"message": error.message}))


def _event(name: str, payload: bytes) -> bytes:
    return frame({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, payload)


def has_stream(output: Shape | None) -> bool:
    return output is not None and any(m.serialization.get("eventstream") for m in output.members.values())
