"""What a client can do to the server below its protocols: heads and bodies that are wrong, slow, large or never end.

Each is answered in AWS's form, under a request id that is in the access log, within the limits, which are short here.
Rules of HTTP: RFC 9112.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from vnotch.api.exchange import Limits
from vnotch.iam import sigv4

HEAD_SECONDS, BODY_SECONDS, KEEP_ALIVE_SECONDS = 0.6, 0.6, 1.0
LIMITS = Limits(
    head_seconds=HEAD_SECONDS, body_seconds=BODY_SECONDS, keep_alive_seconds=KEEP_ALIVE_SECONDS, body_bytes=100_000
)
POST = b"POST / HTTP/1.1\r\nhost: h\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
WHO = b"Action=GetCallerIdentity&Version=2011-06-15"


@pytest.fixture(scope="module")
def server(shared_api: Any) -> Any:
    shared_api.limits = LIMITS
    assert shared_api.endpoint
    return shared_api


@pytest.fixture
def connection(server: Any) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=15) as opened:
        yield opened


def port_of(server: Any) -> int:
    return int(server.endpoint.rpartition(":")[2])


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    answer = b""
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except ConnectionResetError:
        pass  # it closed while there was more to read
    return answer


def refusal(server: Any, answer: bytes) -> tuple[int, str]:
    """Status and code of the one answer that is there, which is in the log too."""
    assert answer.count(b"HTTP/1.1 ") == 1, answer[:500]
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    request_id = headers[b"x-amzn-requestid"].decode()
    assert headers[b"x-amz-request-id"].decode() == request_id
    assert request_id.encode() in body
    assert int(headers[b"content-length"]) == len(body)
    found = re.search(rb"<Code>(.*?)</Code>", body)
    assert found, body
    status, code = int(head.split()[1]), found[1].decode()
    (entry,) = server.access_log.recent(request_id)
    assert (entry.status, entry.error_code, entry.remote) == (status, code, "127.0.0.1")
    return status, code


def signed(server: Any, body: bytes = WHO, target: str = "/", **more: str) -> bytes:
    """A whole request of GetCallerIdentity; `target` as it stands in the request line."""
    headers = {"host": f"127.0.0.1:{port_of(server)}", "content-type": "application/x-www-form-urlencoded"}
    covered = sigv4.Request("POST", "/", "", list(headers.items()), hashlib.sha256(body).hexdigest())
    headers |= sigv4.sign(covered, *server.administrator_key, now_s=time.time(), region="us-east-1", service="sts")
    headers |= {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in more.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode() + body


MALFORMED = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
    "no-version": b"GET /\r\n\r\n",
    "space-in-target": b"GET / / HTTP/1.1\r\nhost: h\r\n\r\n",
    "bytes-in-target": b"GET /\xff HTTP/1.1\r\nhost: h\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "no-colon": b"GET / HTTP/1.1\r\nhost: h\r\nx\r\n\r\n",
    "space-before-colon": b"GET / HTTP/1.1\r\nhost: h\r\nx : 1\r\n\r\n",
    "nul-in-header": b"GET / HTTP/1.1\r\nhost: h\r\nx: a\x00b\r\n\r\n",
    "two-lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "negative-length": POST + b"content-length: -1\r\n\r\n",
    "length-in-words": POST + b"content-length: many\r\n\r\n",
    "other-coding": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunk-of-no-size": CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk-of-negative-size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk-of-absurd-size": CHUNKED + b"f" * 30 + b"\r\nabc",
    "chunk-longer-than-it-says": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "garbage": bytes(range(256)) * 20 + b"\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_refused(server: Any, connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    assert refusal(server, rest(connection)) == (400, "MalformedHttpRequestException")


# What is refused before the signature is looked at.
UNREAD = {
    "101-headers": (POST + b"x: 1\r\n" * 101 + b"\r\n", 413, "RequestEntityTooLarge"),
    "head-of-40-KB": (POST + b"x: " + b"a" * 40_000 + b"\r\n\r\n", 413, "RequestEntityTooLarge"),
    "target-of-40-KB": (b"GET /?" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 413, "RequestEntityTooLarge"),
    "length-too-large": (POST + b"content-length: 100001\r\n\r\n", 413, "RequestEntityTooLarge"),
    "length-absurd": (POST + b"content-length: 99999999999999999999\r\n\r\n", 413, "RequestEntityTooLarge"),
    "length-too-large-but-asked-first": (
        POST + b"content-length: 100001\r\nexpect: 100-continue\r\n\r\n",
        413,
        "RequestEntityTooLarge",
    ),
    "length-and-chunks": (
        POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "MalformedQueryString",
    ),
    "chunks-without-end": (CHUNKED + (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 7, 413, "RequestEntityTooLarge"),
    "body-that-does-not-come": (POST + b"content-length: 10\r\n\r\nabc", 400, "RequestTimeout"),
    "chunk-that-does-not-come": (CHUNKED + b"fffff\r\nabc", 400, "RequestTimeout"),
    "compressed-otherwise": (POST + b"content-encoding: br\r\ncontent-length: 0\r\n\r\n", 400, "MalformedQueryString"),
}


@pytest.mark.parametrize(("sent", "status", "code"), UNREAD.values(), ids=UNREAD)
def test_a_request_that_is_too_much_or_too_slow_is_refused(
    server: Any, connection: socket.socket, sent: bytes, status: int, code: str
) -> None:
    connection.sendall(sent)
    assert refusal(server, rest(connection)) == (status, code)


def test_nothing_and_half_a_head_are_not_waited_for(server: Any, connection: socket.socket) -> None:
    assert refusal(server, rest(connection)) == (408, "RequestTimeout")
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=15) as another:
        another.sendall(POST + b"x: ")
        assert refusal(server, rest(another)) == (408, "RequestTimeout")


def drip(connection: socket.socket, piece: bytes) -> bytes:
    """Sends a piece now and then until the server has had enough."""
    answer = b""
    connection.settimeout(0.05)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            connection.sendall(piece)
            if not (chunk := connection.recv(65536)):
                return answer
            answer += chunk
        except TimeoutError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            return answer
    pytest.fail("the server goes on reading")


def test_a_head_that_comes_byte_by_byte_has_no_more_time(server: Any, connection: socket.socket) -> None:
    connection.sendall(POST)
    assert refusal(server, drip(connection, b"x: 1\r\n")) == (408, "RequestTimeout")


def test_a_body_that_comes_byte_by_byte_has_no_more_time(server: Any, connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    assert refusal(server, drip(connection, b"1\r\nx\r\n")) == (400, "RequestTimeout")


def test_blank_lines_before_a_request_are_no_way_to_stay(server: Any, connection: socket.socket) -> None:
    assert refusal(server, drip(connection, b"\r\n"))[0] in (400, 408)


def test_an_idle_connection_is_closed(server: Any, connection: socket.socket) -> None:
    connection.sendall(signed(server))
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_the_next_head_has_the_same_time(server: Any, connection: socket.socket) -> None:
    connection.sendall(signed(server) + b"POST / HT")
    first, second = rest(connection).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert refusal(server, b"HTTP/1.1 " + second) == (408, "RequestTimeout")


def test_what_is_left_of_a_refused_body_is_no_request(server: Any, connection: socket.socket) -> None:
    connection.sendall(POST + b"content-length: 5000000\r\n\r\n" + signed(server))
    assert refusal(server, rest(connection)) == (413, "RequestEntityTooLarge")


def test_a_client_that_goes_in_the_middle_is_in_the_log(server: Any, connection: socket.socket) -> None:
    connection.sendall(POST + b"content-length: 10\r\nuser-agent: x\r\n\r\nabc")
    before = len(server.access_log.recent())
    time.sleep(0.1)
    connection.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 10
    while len(server.access_log.recent()) == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert server.access_log.recent()[-1].error_code == "MalformedQueryString"


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "BREW", "CONNECT", "PATCH"])
@pytest.mark.parametrize("target", ["*", "/any/path", "/%00%ff", "//", "/vnotch/v1/agents/a/nothing"])
def test_whatever_is_asked_for_is_answered_in_awss_form(
    server: Any, connection: socket.socket, method: str, target: str
) -> None:
    connection.sendall(f"{method} {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".encode())
    assert refusal(server, rest(connection)) == (403, "MissingAuthenticationToken")


def test_another_version_is_answered_in_ours(server: Any, connection: socket.socket) -> None:
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert refusal(server, rest(connection)) == (403, "MissingAuthenticationToken")


def test_http_1_0(server: Any, connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert refusal(server, rest(connection)) == (403, "MissingAuthenticationToken")


def test_another_protocol_is_not_switched_to(server: Any, connection: socket.socket) -> None:
    connection.sendall(signed(server, connection="upgrade, close", upgrade="websocket"))
    assert rest(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}/", "HTTP://127.0.0.1:{}", "/"])
def test_a_target_in_absolute_form_is_its_path(server: Any, connection: socket.socket, form: str) -> None:
    connection.sendall(signed(server, target=form.format(port_of(server)), connection="close"))
    assert rest(connection).startswith(b"HTTP/1.1 200")


def test_requests_in_one_piece_are_answered_one_after_the_other(server: Any, connection: socket.socket) -> None:
    connection.sendall(signed(server) * 20 + signed(server, b"Action=X&Version=2011-06-15", connection="close"))
    answers = rest(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 20 + [b"400"]


def test_a_body_that_is_announced_is_asked_for(server: Any, connection: socket.socket) -> None:
    request = signed(server, expect="100-continue", connection="close")
    connection.sendall(request[: -len(WHO)])
    assert connection.recv(65536).startswith(b"HTTP/1.1 100")
    connection.sendall(WHO)
    assert rest(connection).startswith(b"HTTP/1.1 200")


def test_who_waits_keeps_nobody_from_being_answered(server: Any) -> None:
    waiting = [socket.create_connection(("127.0.0.1", port_of(server)), timeout=15) for _ in range(300)]
    try:
        for number, each in enumerate(waiting):
            each.sendall((POST + b"x: ", CHUNKED + b"1\r\nx", b"", POST + b"content-length: 9\r\n\r\n")[number % 4])
        assert server.send("sts", WHO).status_code == 200
        assert all(rest(each).count(b"RequestTimeout") == 1 for each in waiting)
    finally:
        for each in waiting:
            each.close()
