"""What a lab says on the wire, against bytes and layouts of the protocols' own documents."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest

from vnotch.lab import protocols

DNS_QUERY = bytes.fromhex(  # RFC 1035, section 4.1: id 0x1234, recursion desired, one question, web.vpc.example A IN
    "1234 0100 0001 0000 0000 0000 03 776562 03 767063 07 6578616d706c65 00 0001 0001".replace(" ", "")
)


def test_a_dns_question_is_laid_out_as_rfc_1035_has_it() -> None:
    assert protocols.dns_question(0x1234, "web.vpc.example") == DNS_QUERY


def test_a_dns_answer_repeats_the_question_and_points_back_to_it() -> None:
    answer = protocols.dns_answer(DNS_QUERY, {"web.vpc.example": ["203.0.113.10", "2001:db8::1"]})
    assert answer is not None
    assert answer[:12] == bytes.fromhex("1234 8180 0001 0001 0000 0000".replace(" ", ""))
    assert answer[12 : len(DNS_QUERY)] == DNS_QUERY[12:]
    assert answer[len(DNS_QUERY) :] == bytes.fromhex("c00c 0001 0001 0000003c 0004 cb00710a".replace(" ", ""))
    assert protocols.dns_addresses(answer, 0x1234) == ["203.0.113.10"]


def test_dns_asks_for_ipv6_and_for_what_is_not_there() -> None:
    names = {"web.vpc.example": ["203.0.113.10", "2001:db8::1"]}
    both = protocols.dns_answer(protocols.dns_question(7, "WEB.vpc.example", protocols.DNS_AAAA), names)
    assert both is not None
    assert protocols.dns_addresses(both, 7) == ["2001:db8::1"]
    absent = protocols.dns_answer(protocols.dns_question(7, "other.example"), names)
    assert absent is not None
    assert absent[3] & 15 == 3, "RFC 1035: RCODE 3 is a name error"
    assert protocols.dns_addresses(absent, 7) == []


@pytest.mark.parametrize(
    "query", [b"", b"\0" * 11, DNS_QUERY[:-3], DNS_QUERY[:2] + b"\x81" + DNS_QUERY[3:], b"\xff" * 40]
)
def test_what_is_no_dns_query_gets_no_answer(query: bytes) -> None:
    assert protocols.dns_answer(query, {}) is None


def test_an_answer_to_another_question_is_refused() -> None:
    answer = protocols.dns_answer(DNS_QUERY, {"web.vpc.example": ["203.0.113.10"]})
    assert answer is not None
    with pytest.raises(ValueError, match="not the answer"):
        protocols.dns_addresses(answer, 1)
    with pytest.raises(ValueError, match="cut short"):
        protocols.dns_addresses(answer[:-6], 0x1234)


def test_the_mysql_greeting_has_the_fields_of_handshake_v10() -> None:
    scramble = bytes(range(1, 21))
    greeting = protocols.mysql_greeting(0x01020304, scramble)
    version_end = greeting.index(0, 1)
    assert greeting[0] == 10
    assert greeting[1:version_end].startswith(b"8.0.")
    rest = greeting[version_end + 1 :]
    assert rest[:4] == b"\x04\x03\x02\x01", "connection id, little-endian"
    assert rest[4:12] == scramble[:8]
    assert rest[12] == 0
    low, _, _, high, length = struct.unpack_from("<HBHHB", rest, 13)
    capabilities = low | high << 16
    assert capabilities & 0x00000200, "CLIENT_PROTOCOL_41"
    assert capabilities & 0x00080000, "CLIENT_PLUGIN_AUTH"
    assert length == 21
    assert rest[21:31] == bytes(10)
    assert rest[31:44] == scramble[8:] + b"\0"
    assert rest[44:] == b"mysql_native_password\0"


def test_a_mysql_visit_ends_with_the_servers_version() -> None:
    async def visit() -> str:
        server = await asyncio.start_server(_closing(protocols.mysql_session), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                return await protocols.mysql_visit(reader, writer)
            finally:
                writer.close()

    assert asyncio.run(visit()) == protocols.MYSQL_VERSION


def test_a_mysql_visit_to_something_else_is_a_wrong_answer() -> None:
    async def visit() -> None:
        server = await asyncio.start_server(_closing(protocols.ssh_session), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                await protocols.mysql_visit(reader, writer)
            finally:
                writer.close()

    with pytest.raises((ValueError, asyncio.IncompleteReadError)):
        asyncio.run(visit())


def _closing(session):  # type: ignore[no-untyped-def]
    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await session(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    return run


def test_time_is_now_and_answers_its_own_question() -> None:
    question = protocols.time_question()
    assert len(question) == 48
    assert question[0] == 0x23, "RFC 5905: no leap warning, version 4, mode 3"
    answer = protocols.time_answer(question)
    assert answer is not None
    assert answer[24:32] == question[40:48], "origin is the question's transmit timestamp"
    assert struct.unpack_from(">I", answer, 40)[0] - 2208988800 == pytest.approx(time.time(), abs=2)
    assert abs(protocols.time_offset_seconds(answer, question)) < 1
    with pytest.raises(ValueError, match="this question"):
        protocols.time_offset_seconds(answer, bytes(48))
    assert protocols.time_answer(b"\x24" + bytes(47)) is None, "a server's packet is no question"
    assert protocols.time_answer(question[:47]) is None


def test_an_echo_request_has_a_checksum_that_sums_to_nothing() -> None:
    packet = protocols.echo_request(0xABCD, 7, ipv6=False)
    assert packet[:2] == b"\x08\0"
    assert len(packet) == 8 + 56
    total = sum(struct.unpack(f">{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF, "RFC 1071"
    assert protocols.echo_request(1, 2, ipv6=True)[0] == 128


def test_only_the_reply_to_this_request_is_one() -> None:
    reply = bytes([0x45]) + bytes(19) + struct.pack(">BBHHH", 0, 0, 0, 5, 1)
    assert protocols.is_echo_reply(reply, 5, 1, ipv6=False)
    assert not protocols.is_echo_reply(reply, 5, 2, ipv6=False)
    assert not protocols.is_echo_reply(reply[:-1], 5, 1, ipv6=False)
    assert not protocols.is_echo_reply(b"", 5, 1, ipv6=False)
    assert protocols.is_echo_reply(struct.pack(">BBHHH", 129, 0, 0, 5, 1), 5, 1, ipv6=True)


@pytest.mark.parametrize("head", [b"GET /\r\n\r\n", b"\x16\x03\x01 hello\r\n\r\n", b"GET / SPDY/3\r\n\r\n"])
def test_what_is_no_http_is_refused(head: bytes) -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(head)
        reader.feed_eof()
        await protocols.read_request(reader)

    with pytest.raises(ValueError, match="no HTTP"):
        asyncio.run(read())
