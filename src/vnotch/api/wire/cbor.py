"""Reads and writes the bodies of the `rpcv2Cbor` protocol, by the model (Smithy specification, "Smithy RPC v2 CBOR").

The documents are those of JSON but for timestamps, which are tagged, and blobs, which are bytes. CBOR knows much more:
tags for regular expressions, mail, numbers of any size, references into the document. None of it is in the protocol,
and some of it costs its reader dear, so that every other tag is refused.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any, NoReturn

import cbor2
from botocore.model import Shape

from vnotch.api.wire.dialect import Dialect
from vnotch.api.wire.json import SCALARS, JsonReader, JsonWriter, Write

CONTENT_TYPE = "application/cbor"
DEPTH_MAX = 64
"""No input shape of CloudWatch is deeper than half of this."""


def _refuse_tag(*_: Any) -> NoReturn:
    raise ValueError("this tag is not in the protocol")


_TAGS = (0, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""All that cbor2 decodes by itself (its documentation, "Tag support"), but 1, the timestamp."""
_BOUNDS: dict[str, Any] = {
    "tag_hook": _refuse_tag,
    "semantic_decoders": dict.fromkeys(_TAGS, _refuse_tag),
    "max_depth": DEPTH_MAX,
    "allow_duplicate_keys": False,
    "strict_hashable_types": True,
}


def _timestamp(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    raise TypeError


def _blob(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise TypeError


class CborReader(JsonReader):
    """Compiled readers of one service's input shapes."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect)
        self._scalars = {**SCALARS, "timestamp": (_timestamp, "a timestamp"), "blob": (_blob, "a byte string")}

    def _document(self, body: bytes) -> Any:
        stream = io.BytesIO(body)
        try:
            document = cbor2.CBORDecoder(stream, **_BOUNDS).decode()
        except (cbor2.CBORError, RecursionError, ValueError, OverflowError):
            raise self._dialect.malformed("The body is not valid CBOR.") from None
        if stream.read(1):
            raise self._dialect.malformed("The body goes on after its document.")
        return document


class CborWriter(JsonWriter):
    """Compiled writers of one service's output shapes."""

    def _bytes(self, document: Any) -> bytes:
        return cbor2.dumps(document, datetime_as_timestamp=True, timezone=UTC)

    def _compile(self, shape: Shape) -> Write:
        if shape.type_name in ("timestamp", "blob"):
            return None
        if shape.type_name in ("float", "double"):
            return float
        return super()._compile(shape)
