"""Traffic between the two sides of a pair, from plain sockets and from child processes that send frames."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from links import Pair

FLOOD = """
import socket, struct, sys
device, count, flows, seed, mac = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((device, 0))
# The flow's number is in address and port.
head = bytes.fromhex(mac) + bytes.fromhex("020000000099") + b"\\x08\\x00"
frames = []
for flow in range(flows):
    number = seed * flows + flow
    source = bytes([10, 77, number >> 16 & 255 | 128, number >> 8 & 255])
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + flow % 7, 0, 0, 64, 17, 0, source, bytes([198, 51, 100, 1]))
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    frames.append(head + ip + struct.pack("!HHHH", number & 255 | 1024, 9, 8 + flow % 7, 0) + b"x" * (flow % 7))
for at in range(count):
    raw.send(frames[at % flows])
"""


def flood_bytes(count: int, flows: int) -> int:
    """IP bytes of a flood: packet `at` has 28 + (at % flows) % 7."""
    return sum(28 + (at % flows) % 7 for at in range(count))


def start_flood(
    pair: Pair, count: int, flows: int, seed: int = 0, mac: str = "020000007799"
) -> subprocess.Popen[bytes]:
    """A process that sends `count` frames of `flows` different flows from the instance, as fast as it can. `mac`: the
    receiver's; IP takes no notice of frames to another."""
    command = [sys.executable, "-c", FLOOD, pair.instance_device, str(count), str(flows), str(seed), mac]
    return pair.in_instance(lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL))


def bulk(pair: Pair, megabytes: int, *, ipv6: bool = False, upload: bool = True) -> int:
    """A TCP connection that carries a file from the instance to the host (`upload`) or the other way, by sendfile.

    Returns the payload bytes that the sender's TCP sent, retransmissions included (tcp_info: tcpi_bytes_sent).
    """
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    address = pair.host_v6 if ipv6 else pair.host_v4
    server = pair.in_host(socket.socket, family, socket.SOCK_STREAM)
    client = pair.in_instance(socket.socket, family, socket.SOCK_STREAM)
    with server, client, tempfile.TemporaryFile() as file:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 5001))
        server.listen()
        file.write(os.urandom(1 << 20) * megabytes)
        file.seek(0)
        client.connect((address, 5001))
        accepted, _ = server.accept()
        with accepted:
            source, sink = (client, accepted) if upload else (accepted, client)
            received = [0]

            def receive() -> None:
                while data := sink.recv(1 << 20):
                    received[0] += len(data)

            reader = threading.Thread(target=receive)
            reader.start()
            source.sendfile(file)
            source.shutdown(socket.SHUT_WR)
            reader.join(60)
            assert received[0] == megabytes << 20
            (sent,) = struct.unpack_from("=Q", source.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232), 200)
            assert sent >= megabytes << 20
            return int(sent)


def udp_gso(pair: Pair, datagrams: int, segment_bytes: int, segments: int) -> None:
    """Datagrams that the sender hands over as one buffer each, to be cut by the kernel (UDP_SEGMENT, udp(7))."""
    with pair.in_instance(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        control = [(socket.SOL_UDP if hasattr(socket, "SOL_UDP") else 17, 103, struct.pack("=H", segment_bytes))]
        for _ in range(datagrams):
            sender.sendmsg([b"x" * (segment_bytes * segments - 7)], control, 0, (pair.host_v4, 9))


def repository() -> Path:
    return Path(__file__).resolve().parents[2]
