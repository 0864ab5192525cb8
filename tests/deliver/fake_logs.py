"""An HTTP server that answers like STS and CloudWatch Logs, as strict as AWS's documentation of PutLogEvents.

Faults are put into `faults`: operation -> list of what the next calls get instead of an answer (`throttle`, `deny`,
`expired`, `error`, `reset`, `hang`, `taken-then-reset`). Signatures are not checked here.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


class FakeLogs:
    def __init__(self, session_seconds: float = 3600.0) -> None:
        self.session_seconds = session_seconds
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.calls: list[tuple[str, dict, dict]] = []  # operation, parameters, headers
        self.groups: dict[str, dict[str, list[dict]]] = {}
        self.batch_ids: set[str] = set()
        self.denied: set[str] = set()  # operations, for good
        self.denied_groups: set[str] = set()  # PutLogEvents to these
        self.unhang = threading.Event()
        self.sessions = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    owner.answer(self, body)
                except ConnectionResetError:
                    self.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset, not an end
                    self.close_connection = True

            def reply(self, status: int, body: bytes, kind: str = "application/x-amz-json-1.1") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.unhang.set()
        self.server.shutdown()
        self.server.server_close()

    def operations(self) -> list[str]:
        return [operation for operation, _, _ in self.calls]

    def events(self, group: str, stream: str) -> list[tuple[int, str]]:
        return [(event["timestamp"], event["message"]) for event in self.groups.get(group, {}).get(stream, [])]

    # Answers

    def answer(self, handler, body: bytes) -> None:
        target = handler.headers.get("X-Amz-Target")
        if target:
            operation, params = target.partition(".")[2], json.loads(body)
        else:
            params = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            operation = params["Action"]
        with self._lock:
            self.calls.append((operation, params, dict(handler.headers)))
            fault = self.faults[operation].pop(0) if self.faults[operation] else None
        if operation in self.denied or params.get("logGroupName") in self.denied_groups:
            fault = "deny"
        if fault == "reset":
            raise ConnectionResetError
        if fault == "hang":
            self.unhang.wait(30)
            raise ConnectionResetError
        if fault in STRANGERS:
            return handler.reply(*STRANGERS[fault])
        if fault in ERRORS:
            status, code = ERRORS[fault]
            return handler.reply(status, *error_body(code, bool(target)))
        if operation == "AssumeRole":
            return handler.reply(200, self._assume_role(), "text/xml")
        with self._lock:
            status, answer = getattr(self, f"_{operation}")(params, handler.headers)
        if fault == "taken-then-reset":
            raise ConnectionResetError
        return handler.reply(status, json.dumps(answer).encode())

    def _assume_role(self) -> bytes:
        self.sessions += 1
        until = (datetime.now(UTC) + timedelta(seconds=self.session_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
            <AssumedRoleUser><AssumedRoleId>AROA:s</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></AssumedRoleUser>
            <Credentials><AccessKeyId>ASIA{self.sessions:016d}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
            <SessionToken>token{self.sessions}</SessionToken><Expiration>{until}</Expiration></Credentials>
            </AssumeRoleResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></AssumeRoleResponse>""".encode()

    def _CreateLogGroup(self, params: dict, _headers) -> tuple[int, dict]:
        if params["logGroupName"] in self.groups:
            return 400, {
                "__type": "ResourceAlreadyExistsException",
                "message": "The specified log group already exists",
            }
        self.groups[params["logGroupName"]] = {}
        return 200, {}

    def _CreateLogStream(self, params: dict, _headers) -> tuple[int, dict]:
        group = self.groups.get(params["logGroupName"])
        if group is None:
            return 400, {"__type": "ResourceNotFoundException", "message": "The specified log group does not exist."}
        if params["logStreamName"] in group:
            return 400, {
                "__type": "ResourceAlreadyExistsException",
                "message": "The specified log stream already exists",
            }
        group[params["logStreamName"]] = []
        return 200, {}

    def _PutLogEvents(self, params: dict, headers) -> tuple[int, dict]:
        stream = self.groups.get(params["logGroupName"], {}).get(params["logStreamName"])
        if stream is None:
            return 400, {"__type": "ResourceNotFoundException", "message": "The specified log stream does not exist."}
        events = params["logEvents"]
        times = [event["timestamp"] for event in events]
        wrong = (
            not 1 <= len(events) <= 10_000
            or sum(len(event["message"].encode()) + 26 for event in events) > 1_048_576
            or times != sorted(times)
            or times[-1] - times[0] > 24 * 3600 * 1000
            or any(not event["message"] for event in events)
        )
        if wrong:
            return 400, {"__type": "InvalidParameterException", "message": "Log events are not in order or too many."}
        if (batch_id := headers.get("x-vnotch-batch-id")) is not None:
            counts = headers.get("x-vnotch-batch-events")
            several = [(batch_id, len(events))]
            if counts is not None:
                several = list(zip(batch_id.split(","), map(int, counts.split(",")), strict=True))
            assert sum(count for _, count in several) == len(events)
            events = self._not_yet_taken(events, several)
            times = [event["timestamp"] for event in events]
        now = time.time() * 1000
        old = sum(when < now - 14 * 24 * 3600 * 1000 for when in times)
        new = next((i for i, when in enumerate(times) if when > now + 2 * 3600 * 1000), len(times))
        stream += events[old:new]
        rejected = {}
        if old:
            rejected["tooOldLogEventEndIndex"] = old
        if new < len(times):
            rejected["tooNewLogEventStartIndex"] = new
        return 200, {"nextSequenceToken": "1"} | ({"rejectedLogEventsInfo": rejected} if rejected else {})

    def _not_yet_taken(self, events: list[dict], several: list[tuple[str, int]]) -> list[dict]:
        fresh: list[dict] = []
        for batch_id, count in several:
            fresh += [] if batch_id in self.batch_ids else events[:count]
            events = events[count:]
            self.batch_ids.add(batch_id)
        return fresh


STRANGERS = {
    "not-found": (404, b"<html><body><h1>Not Found</h1></body></html>", "text/html"),
    "not-allowed": (405, b"Method Not Allowed", "text/plain"),
    "no-code": (400, b"{}", "application/json"),
}
"""What servers answer that are no service of AWS's."""

ERRORS = {
    "throttle": (400, "ThrottlingException"),
    "deny": (400, "AccessDeniedException"),
    "expired": (400, "ExpiredTokenException"),
    "unknown": (400, "UnrecognizedClientException"),
    "invalid": (400, "InvalidParameterException"),
    "limit": (400, "LimitExceededException"),
    "error": (500, "InternalFailure"),
}


def error_body(code: str, is_json: bool) -> tuple[bytes, str]:
    if is_json:
        return json.dumps({"__type": code, "message": f"{code} it is"}).encode(), "application/x-amz-json-1.1"
    if code == "AccessDeniedException":
        code = "AccessDenied"
    text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    return text.encode(), "text/xml"
