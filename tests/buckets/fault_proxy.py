"""A proxy before an S3 server that can be slow, throttle, break off or be away; it forwards everything else as it is.

`faults` are used up one a request: `slow-down` (S3's 503), `internal` (500), `reset` (before the server has it),
`taken-then-reset` (after it has it), `denied`, `no-bucket`, `html` (some other server's page).
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ANSWERS = {
    "slow-down": (503, "SlowDown", "Please reduce your request rate."),
    "internal": (500, "InternalError", "We encountered an internal error. Please try again."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "expired": (403, "AccessDenied", "Request has expired"),
    "no-bucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
    "digest": (400, "BadDigest", "The Content-MD5 you specified did not match what we received."),
    "other-region": (301, "PermanentRedirect", "The bucket you are attempting to access must be addressed elsewhere."),
}


class FaultProxy:
    def __init__(self, target: str) -> None:
        self.faults: list[str] = []
        self.always: str | None = None
        self.requests: Counter[str] = Counter()  # key -> PUTs that came
        self.largest = 0
        parts = urlsplit(target)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.requests[self.path.partition("?")[0]] += 1
                owner.largest = max(owner.largest, len(body))
                fault = owner.always or (owner.faults.pop(0) if owner.faults else None)
                if fault == "reset":
                    self.break_off()
                elif fault == "html":
                    self.reply(502, b"<html><body>Bad Gateway</body>")
                elif fault in _ANSWERS:
                    status, code, message = _ANSWERS[fault]
                    self.reply(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())
                else:
                    status, content = self.forward(body)
                    self.break_off() if fault == "taken-then-reset" else self.reply(status, content)

            def do_HEAD(self) -> None:
                self.reply(self.forward(b"")[0], b"")

            def forward(self, body: bytes) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                return answer.status, content

            def break_off(self) -> None:
                self.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset, not an end
                self.close_connection = True

            def reply(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
