"""Signed calls: what is sent, and which error stands for which answer."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from vnotch.errors import HostError, InputError
from vnotch.signed_http import NoAnswer, Refused, SignedHttp


class Scripted(BaseHTTPRequestHandler):
    """Gives the next scripted answer and keeps what it was asked."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    asked: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, dict(self.headers), body))
        status, content = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[SignedHttp]:
    server = HTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    Scripted.answers.clear()
    Scripted.asked.clear()
    try:
        yield SignedHttp(f"http://127.0.0.1:{server.server_port}/", "eu-west-1", "AKIDEXAMPLE", "secret")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_behind_tls_is_believed_by_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server = HTTPServer(("127.0.0.1", 0), Scripted)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    Scripted.answers[:] = [(200, b"{}")]
    url = f"https://localhost:{server.server_port}"
    try:
        with pytest.raises(NoAnswer, match="certificate verify failed"):
            SignedHttp(url, "eu-west-1", "AKIDEXAMPLE", "secret").request("GET", "/x")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert SignedHttp(url, "eu-west-1", "AKIDEXAMPLE", "secret").request("GET", "/x") == {}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_call_is_signed_for_the_service_and_the_region(client: SignedHttp) -> None:
    Scripted.answers.append((200, b'{"a": 1}'))
    assert client.request("PUT", "/vnotch/v1/agents/x", {"b": 2}) == {"a": 1}
    method, path, headers, body = Scripted.asked[0]
    assert (method, path, json.loads(body)) == ("PUT", "/vnotch/v1/agents/x", {"b": 2})
    assert "Credential=AKIDEXAMPLE/" in headers["Authorization"]
    assert "/eu-west-1/vnotch/aws4_request" in headers["Authorization"]


def test_a_refusal_carries_status_code_and_words(client: SignedHttp) -> None:
    Scripted.answers.append((403, b'{"__type": "AccessDeniedException", "message": "not you"}'))
    with pytest.raises(Refused) as caught:
        client.request("GET", "/vnotch/v1/agents/x?wait=1")
    error = caught.value
    assert isinstance(error, InputError)
    assert (error.status, error.code, error.said) == (403, "AccessDeniedException", "not you")
    assert "refuses GET /vnotch/v1/agents/x: AccessDeniedException not you" in error.message


def test_a_refusal_by_something_else_shows_what_it_said(client: SignedHttp) -> None:
    Scripted.answers.append((502, b"<html>bad gateway</html>"))
    with pytest.raises(Refused, match="bad gateway") as caught:
        client.request("GET", "/x")
    assert (caught.value.status, caught.value.code) == (502, "")


@pytest.mark.parametrize("content", [b"<html>hello</html>", b"[1, 2]", b"\xff\xfe"])
def test_an_answer_that_is_no_object_comes_from_no_vnotch(client: SignedHttp, content: bytes) -> None:
    Scripted.answers.append((200, content))
    with pytest.raises(NoAnswer, match="no JSON object"):
        client.request("GET", "/x")


def test_nobody_there_is_an_error_with_a_remedy() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(NoAnswer, match="no answer from") as caught:
            SignedHttp(url, "us-east-1", "a", "b").request("GET", "/x")
    assert isinstance(caught.value, HostError)
    assert "vnotch server" in (caught.value.remedy or "")
