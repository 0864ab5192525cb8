"""Reads and writes the bodies of the `rpcv2Cbor` protocol, by the model (Smithy specification, "Smithy RPC v2 CBOR").

The documents are those of JSON but for timestamps, which are tagged, and blobs, which are bytes.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import cbor2
from botocore.model import Shape

from vnotch.api.wire.dialect import Dialect
from vnotch.api.wire.json import SCALARS, JsonReader, JsonWriter, Write

CONTENT_TYPE = "application/cbor"


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
            document = cbor2.load(stream)
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
