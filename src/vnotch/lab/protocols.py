"""The few protocols that a lab speaks, both sides, as far as a record of them looks real: HTTP/1.1, the MySQL client
protocol, SSH's banner, DNS, NTP, ICMP echo."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import TypeAlias

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter

# --- HTTP (RFC 9112), one request a connection


@dataclass(frozen=True)
class Request:
    method: str
    path: str


async def read_request(reader: Reader) -> Request:
    """The head of a request; a body is not read. Raises ValueError where it is no HTTP."""
    head = await reader.readuntil(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ValueError("no HTTP request")
    return Request(words[0], words[1])


def respond(writer: Writer, status: int, body: str) -> None:
    content = body.encode()
    reason = HTTPStatus(status).phrase
    head = f"HTTP/1.1 {status} {reason}\r\nServer: vnotch-lab\r\nContent-Type: text/html\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)


async def fetch(reader: Reader, writer: Writer, host: str, path: str, method: str = "GET") -> str:
    """One request; the body of the answer. Raises ValueError where the status is not 200."""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: vnotch-lab\r\n\r\n".encode())
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    body = (await reader.read(-1)).decode()
    if status != 200:
        raise ValueError(f"HTTP status {status}")
    return body


def metadata_token(peer: str) -> str:
    """A session token of instance metadata version 2: opaque, 56 characters on AWS."""
    return hashlib.sha256(peer.encode() + secrets.token_bytes(16)).hexdigest()[:54] + "=="


# --- MySQL client/server protocol (MySQL internals manual: Protocol::HandshakeV10, HandshakeResponse41)

MYSQL_VERSION = "8.0.36"
_MYSQL_CAPABILITIES = 0x00000200 | 0x00008000 | 0x00080000 | 0x00000001  # 4.1, secure connection, plugin auth, password
_MYSQL_PLUGIN = b"mysql_native_password\0"
_MYSQL_OK = b"\x00\x00\x00\x02\x00\x00\x00"  # no rows, no insert id, autocommit, no warnings
_COM_QUIT, _COM_PING = 0x01, 0x0E


def mysql_greeting(connection_id: int, scramble: bytes) -> bytes:
    """The payload with which a server begins, protocol version 10; `scramble` is 20 bytes without a zero."""
    low, high = _MYSQL_CAPABILITIES & 0xFFFF, _MYSQL_CAPABILITIES >> 16
    first = struct.pack("<B", 10) + MYSQL_VERSION.encode() + b"\0" + struct.pack("<I", connection_id)
    middle = scramble[:8] + b"\0" + struct.pack("<HBHH", low, 255, 2, high) + struct.pack("<B", 21) + bytes(10)
    return first + middle + scramble[8:] + b"\0" + _MYSQL_PLUGIN


async def _mysql_read(reader: Reader) -> tuple[int, bytes]:
    head = await reader.readexactly(4)
    length = int.from_bytes(head[:3], "little")
    if length > 65536:
        raise ValueError("MySQL packet too long")
    return head[3], await reader.readexactly(length)


def _mysql_packet(sequence: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


async def mysql_session(reader: Reader, writer: Writer) -> None:
    """The server: greets, lets everybody in, answers pings, knows no statement."""
    scramble = bytes(byte or 1 for byte in secrets.token_bytes(20))
    writer.write(_mysql_packet(0, mysql_greeting(secrets.randbelow(1 << 31), scramble)))
    sequence, _ = await _mysql_read(reader)
    writer.write(_mysql_packet(sequence + 1 & 0xFF, _MYSQL_OK))
    while True:
        sequence, command = await _mysql_read(reader)
        if not command or command[0] == _COM_QUIT:
            return
        answer = _MYSQL_OK
        if command[0] != _COM_PING:
            answer = b"\xff" + struct.pack("<H", 1047) + b"#08S01Unknown command"
        writer.write(_mysql_packet(sequence + 1 & 0xFF, answer))
        await writer.drain()


async def mysql_visit(reader: Reader, writer: Writer) -> str:
    """The client: logs in, pings, quits; the server's version. Raises ValueError where that is no MySQL."""
    sequence, greeting = await _mysql_read(reader)
    if not greeting or greeting[0] != 10:
        raise ValueError("no MySQL greeting of protocol version 10")
    version = greeting[1 : greeting.index(0, 1)].decode()
    login = struct.pack("<IIB", _MYSQL_CAPABILITIES, 1 << 24, 255) + bytes(23) + b"app\0"
    login += bytes([20]) + secrets.token_bytes(20) + _MYSQL_PLUGIN
    writer.write(_mysql_packet(sequence + 1, login))
    _, answer = await _mysql_read(reader)
    if answer[:1] != b"\0":
        raise ValueError("MySQL login refused")
    writer.write(_mysql_packet(0, bytes([_COM_PING])))
    _, answer = await _mysql_read(reader)
    if answer[:1] != b"\0":
        raise ValueError("MySQL ping refused")
    writer.write(_mysql_packet(0, bytes([_COM_QUIT])))
    await writer.drain()
    return version


# --- SSH (RFC 4253, section 4.2): the exchange of versions, as far as an attempt is seen in the clear

SSH_SERVER, SSH_CLIENT = b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-libssh_0.10.6\r\n"


async def ssh_session(reader: Reader, writer: Writer) -> None:
    writer.write(SSH_SERVER)
    await reader.readline()


async def ssh_visit(reader: Reader, writer: Writer) -> str:
    banner = await reader.readline()
    if not banner.startswith(b"SSH-2.0-"):
        raise ValueError("no SSH banner")
    writer.write(SSH_CLIENT)
    await writer.drain()
    return banner.decode().strip()


# --- DNS (RFC 1035), questions for A and AAAA of class IN

_DNS_TYPES = {1: 4, 28: 6}
DNS_A, DNS_AAAA = 1, 28


def dns_question(identity: int, name: str, kind: int = DNS_A) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def _dns_name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        if length > 63:
            raise ValueError("compressed name in a question")
        labels.append(message[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def dns_answer(query: bytes, names: Mapping[str, list[str]]) -> bytes | None:
    """The answer of a server that knows `names`; None for what is no query."""
    try:
        identity, flags, questions, _, _, _ = struct.unpack_from(">HHHHHH", query)
        if flags & 0x8000 or questions != 1:
            return None
        name, end = _dns_name(query, 12)
        kind, group = struct.unpack_from(">HH", query, end)
    except (struct.error, IndexError, ValueError):
        return None
    known = names.get(name)
    addresses = [ip_address(text) for text in known or ()]
    found = [address for address in addresses if address.version == _DNS_TYPES.get(kind) and group == 1]
    flags = 0x8180 if known is not None else 0x8183  # recursion desired and available; 3: no such name
    records = b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(a.packed)) + a.packed for a in found)
    return struct.pack(">HHHHHH", identity, flags, 1, len(found), 0, 0) + query[12 : end + 4] + records


def dns_addresses(answer: bytes, identity: int) -> list[str]:
    """The addresses in an answer as `dns_answer` makes it. Raises ValueError where it is another's."""
    try:
        got, flags, questions, count, _, _ = struct.unpack_from(">HHHHHH", answer)
        if got != identity or not flags & 0x8000 or questions != 1:
            raise ValueError("not the answer to this question")
        _, at = _dns_name(answer, 12)
        at += 4
        addresses = []
        for _ in range(count):
            length = struct.unpack_from(">HHHIH", answer, at)[4]
            addresses.append(str(ip_address(answer[at + 12 : at + 12 + length])))
            at += 12 + length
    except (struct.error, IndexError) as error:
        raise ValueError("a DNS answer that is cut short") from error
    return addresses


def dns_session(answer: Callable[[bytes], bytes | None]) -> Callable[[Reader, Writer], Awaitable[None]]:
    """DNS over TCP: each message has its length before it (RFC 1035, section 4.2.2)."""

    async def session(reader: Reader, writer: Writer) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        said = answer(query)
        if said is not None:
            writer.write(len(said).to_bytes(2, "big") + said)

    return session


# --- NTP (RFC 5905, section 7.3)

_NTP_EPOCH = 2_208_988_800  # 1900 to 1970, in seconds


def _ntp_now() -> bytes:
    now = time.time()
    return struct.pack(">II", (int(now) + _NTP_EPOCH) & 0xFFFFFFFF, int(now % 1 * (1 << 32)))


def time_question() -> bytes:
    return b"\x23" + bytes(39) + _ntp_now()  # version 4, client; transmit timestamp last


def time_answer(query: bytes) -> bytes | None:
    if len(query) < 48 or query[0] & 7 != 3:
        return None
    head = struct.pack(">BBbb", 0x24, 3, 4, -20) + struct.pack(">II", 0, 16) + b"\xa9\xfe\xa9\x7b"
    now = _ntp_now()
    return head + now + query[40:48] + now + now


def time_offset_seconds(answer: bytes, question: bytes) -> float:
    """How far the server's clock is from ours. Raises ValueError where it is no answer to this question."""
    if len(answer) < 48 or answer[0] & 7 != 4 or answer[24:32] != question[40:48]:
        raise ValueError("no NTP answer to this question")
    seconds, fraction = struct.unpack_from(">II", answer, 40)
    return float(seconds - _NTP_EPOCH + fraction / (1 << 32) - time.time())


# --- ICMP echo (RFC 792, RFC 4443)

ECHO_BYTES = 56  # of data, as ping sends


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identity: int, sequence: int, ipv6: bool) -> bytes:
    """An echo request. For IPv6 the kernel computes the checksum on a raw socket (RFC 3542)."""
    data = bytes(range(ECHO_BYTES))
    kind = 128 if ipv6 else 8
    blank = struct.pack(">BBHHH", kind, 0, 0, identity, sequence) + data
    return blank if ipv6 else struct.pack(">BBHHH", kind, 0, _checksum(blank), identity, sequence) + data


def is_echo_reply(packet: bytes, identity: int, sequence: int, ipv6: bool) -> bool:
    """Whether what a raw socket received is the reply; over IPv4 it comes with its IP header (raw(7))."""
    at = 0 if ipv6 else (packet[0] & 15) * 4 if packet else 0
    if len(packet) < at + 8:
        return False
    kind, _, _, got_identity, got_sequence = struct.unpack_from(">BBHHH", packet, at)
    return (kind, got_identity, got_sequence) == (129 if ipv6 else 0, identity, sequence)
