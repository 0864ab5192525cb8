"""Writing capture files: pcapng with one interface per ENI, times in nanoseconds and the direction of each packet.

    with open("lab.pcapng", "wb") as stream:
        writer = CaptureWriter(stream)
        web = writer.write_interface("vn-web")
        writer.write_packet(web, time.time_ns(), frame, direction=PacketDirection.INBOUND)

The format is draft-ietf-opsawg-pcapng. The same calls write the same bytes: no host name and no clock go into the file.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import BinaryIO

from vnotch.errors import InputError

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 2, 9, 2
_NANOSECONDS = 9  # if_tsresol: 10 to the power of -9
_END_OF_OPTIONS = b"\0\0\0\0"

MAX_CAPTURED_BYTES = 256 * 1024


class PacketDirection(IntEnum):
    """Which way a packet went, seen from the captured Linux interface (epb_flags, bits 0 and 1).

    At the host's side of an ENI's interface INBOUND is what the ENI sent: its egress.
    """

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


class CaptureWriter:
    """Writes one section to a binary stream, which the caller opens, flushes and closes. Little endian."""

    def __init__(self, stream: BinaryIO, *, application: str = "vnotch") -> None:
        self._stream = stream
        self._interfaces = 0
        options = _option(4, application.encode()) + _END_OF_OPTIONS  # shb_userappl
        self._block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options)

    def write_interface(self, name: str, link_type: int = 1, snap_length: int = 0) -> int:
        """Describe an interface and return its index. `link_type` 1 is Ethernet; `snap_length` 0: packets are whole."""
        if not 0 <= link_type <= 0xFFFF or not 0 <= snap_length <= 0xFFFFFFFF:
            raise InputError(f"interface {name}: link type {link_type} or snap length {snap_length} is out of range")
        options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, bytes([_NANOSECONDS])) + _END_OF_OPTIONS
        self._block(_INTERFACE, struct.pack("<HHI", link_type, 0, snap_length) + options)
        self._interfaces += 1
        return self._interfaces - 1

    def write_packet(
        self,
        interface: int,
        time_ns: int,
        data: bytes,
        wire_length: int | None = None,
        direction: PacketDirection = PacketDirection.UNKNOWN,
    ) -> None:
        """Write one packet. `time_ns` is Unix time; `wire_length` its length in bytes as sent, by default len(data)."""
        if not 0 <= interface < self._interfaces:
            raise InputError(f"interface {interface} is not described, {self._interfaces} are")
        if len(data) > MAX_CAPTURED_BYTES:
            raise InputError(f"a packet of {len(data)} bytes, at most {MAX_CAPTURED_BYTES} are written")
        if not 0 <= time_ns < 1 << 63:
            raise InputError(f"a packet's time of {time_ns} ns is not between 1970 and 2262")
        length = len(data) if wire_length is None else wire_length
        if not len(data) <= length <= 0xFFFFFFFF:
            raise InputError(f"a packet of {len(data)} captured bytes cannot have been {length} bytes on the wire")
        head = struct.pack("<IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), length)
        options = b""
        if direction is not PacketDirection.UNKNOWN:
            options = _option(_EPB_FLAGS, struct.pack("<I", direction)) + _END_OF_OPTIONS
        self._block(_PACKET, head + _padded(data) + options)

    def _block(self, kind: int, body: bytes) -> None:
        length = 12 + len(body)
        self._stream.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
