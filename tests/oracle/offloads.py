"""Segmentation offloads of an interface, by ioctl: an `ethtool` program may not be there."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

# include/uapi/linux/sockios.h and ethtool.h
SIOCETHTOOL = 0x8946
ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO = 0x1F, 0x24, 0x2C


def offloads_off(device: str) -> None:
    """Every packet on the wire is a frame of its own. In the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in (ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO):
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)
