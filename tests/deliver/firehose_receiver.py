"""An HTTPS endpoint that holds every request to the Firehose delivery specification, and answers as it is told to."""

from __future__ import annotations

import base64
import gzip
import json
import ssl
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Receiver:
    """`answers` are (status, body), taken one a request: None is the right body, bytes are HTML, and a function makes
    another of the right one; without any all is acknowledged."""

    def __init__(self, folder: Path, key: str = "secret-key") -> None:
        self.key = key
        self.answers: list[tuple[int, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.certificate = folder / "cert.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, folder / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}/v1/input"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def messages(self) -> list[str]:
        """Of acknowledged requests, each request id once."""
        found = {item["id"]: item["messages"] for item in self.requests if item["status"] == 200}
        return [message for messages in found.values() for message in messages]

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        given = {name.lower(): value for name, value in handler.headers.items()}
        status, said = self.answers.pop(0) if self.answers else (200, None)
        try:
            request_id, messages = self.check(given, body)
        except Exception as fault:
            self.faults.append(f"{type(fault).__name__}: {fault}")
            status, request_id, messages = 400, "", []
        self.requests.append({"id": request_id, "status": status, "messages": messages, "headers": given})
        right = {"requestId": request_id, "timestamp": int(time.time() * 1000)}
        is_json = not isinstance(said, bytes)
        document = right if said is None else said(right) if callable(said) else said
        content = json.dumps(document).encode() if is_json else said
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json" if is_json else "text/html")
        handler.send_header("Content-Length", str(len(content)))
        if 300 <= status < 400:
            handler.send_header("Location", self.url)
        handler.end_headers()
        handler.wfile.write(content)

    def check(self, given: dict[str, str], body: bytes) -> tuple[str, list[str]]:
        assert given["x-amz-firehose-protocol-version"] == "1.0"
        assert given["content-type"] == "application/json"
        assert given["x-amz-firehose-access-key"] == self.key
        assert given["x-amz-firehose-source-arn"].startswith("arn:aws:firehose:")
        if "x-amz-firehose-common-attributes" in given:
            attributes = json.loads(given["x-amz-firehose-common-attributes"])["commonAttributes"]
            assert all(isinstance(value, str) for value in attributes.values())
        if given.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert len(body) <= 64 << 20
        document = json.loads(body)
        assert set(document) == {"requestId", "timestamp", "records"}
        assert document["requestId"] == given["x-amz-firehose-request-id"]
        uuid.UUID(document["requestId"])
        assert abs(document["timestamp"] / 1000 - time.time()) < 300
        records = [json.loads(base64.b64decode(item["data"], validate=True)) for item in document["records"]]
        assert records
        assert all(set(item) == {"message"} for item in records)
        return document["requestId"], [item["message"] for item in records]
