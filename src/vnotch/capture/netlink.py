"""Dumps of netlink tables as bytes: where a library that makes an object of each message costs too much.

A socket belongs to the namespace of the thread that makes it, and may be used from any.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from vnotch.errors import KernelError

NETLINK_SOCK_DIAG = 4
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 1, 0x10, 0x300

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 1 << 18
_ANSWER_SECONDS = 5.0


def open_netlink(protocol: int) -> socket.socket:
    """Raises KernelError where the kernel has no such netlink."""
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise KernelError(f"netlink {protocol}", error.errno or 0) from None
    made.settimeout(_ANSWER_SECONDS)
    return made


def dump(netlink: socket.socket, kind: int, body: bytes) -> Iterator[memoryview]:
    """The messages of one dump, each without its header. Raises KernelError.

    A table that changed while it was read (NLM_F_DUMP_INTR) is given as it was read: some may be missing or twice.
    """
    return ask(netlink, kind, body, NLM_F_DUMP)


def ask(netlink: socket.socket, kind: int, body: bytes, flags: int = 0) -> Iterator[memoryview]:
    """The answer to one request: a dump's messages, or without `flags` the one message. Raises KernelError."""
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body)
    while True:
        try:
            data = memoryview(netlink.recv(_BUFFER))
        except OSError as error:
            raise KernelError("reading a netlink answer", error.errno or errno.ETIMEDOUT) from None
        place = 0
        while place + _HEADER.size <= len(data):
            size, what, _, _, _ = _HEADER.unpack_from(data, place)
            if size < _HEADER.size:
                return
            message = data[place + _HEADER.size : place + size]
            if what == NLMSG_DONE:
                return
            if what == NLMSG_ERROR:
                number = -struct.unpack_from("=i", message)[0]
                if number:
                    raise KernelError(f"netlink request {kind}: {os.strerror(number)}", number)
                return
            yield message
            place += (size + 3) & ~3
        if not flags:
            return


def attributes(message: memoryview, place: int) -> Iterator[tuple[int, memoryview]]:
    """(type, value) of the attributes from `place` on."""
    while place + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, place)
        if size < _ATTRIBUTE.size:
            return
        yield kind, message[place + _ATTRIBUTE.size : place + size]
        place += (size + 3) & ~3
