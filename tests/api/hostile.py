"""Requests as a hostile or broken client makes them: right by the model at first, then spoilt on the wire, then signed.

Hostile(api, services).request(random.Random(7)) -> WireAttack   # send it with `send`
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote_plus

import cbor2
from botocore.serialize import create_serializer
from model_values import TEXTS, ModelValues

from vnotch.api.service import Service
from vnotch.api.wire.protocol import protocols_of
from vnotch.iam import sigv4

NASTY_TEXTS = [
    "", " ", "\x00", "a\x00b", "\ud7ff", "\uffff", "𝄞" * 10, "x" * 70_000, "%", "'", '"', "..", "/", "*", "\n",
    "\r\n\r\n",
    "0", "-1", "99999999999999999999", "1e309", "NaN", "true", "10.0.0.0/8", "10.0.0.0/33", "::/0", "[" * 2_000,
    '{"a":' * 2_000, "(" * 2_000, "-" * 2_000, "${aws:username}", "%d%s%n", "%(a+)+b%", "2021-01-01",
    "9999-12-31T23:59:59-14:00",
    '{"Version":"2012-10-17","Statement":[]}', '{"Version":"2012-10-17","Statement":[[[[]]]]}',
    "fields @message | limit 1",
    "arn:aws:iam::123456789012:role/x", "arn:aws:logs:us-east-1:123456789012:log-group:g",
    "<!DOCTYPE a [<!ENTITY b '&c;'>]>",
]  # fmt: skip
NASTY_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1, 1e308, [], {}, [[]], [None], {"": None}, {"a": {"b": []}},
    "x", "",
]  # fmt: skip


class NastyValues(ModelValues):
    """Few members beside those that must be there, ids of what is there where they are asked for, and now and then a
    text that hurts. `known` has ids by a part of a member's name."""

    def __init__(self, chance: random.Random, known: Mapping[str, str]) -> None:
        super().__init__(chance.randrange(1 << 30), seconds=True)
        self._known = known

    def _structure(self, shape: Any, depth: int) -> dict[str, Any]:
        members = {}
        for name, member in shape.members.items():
            wanted = 0.95 if name in shape.required_members else 0.15
            if depth < 8 and name != "DryRun" and self._random.random() < wanted:
                members[name] = self._member(name, member, depth + 1)
        return members

    def _member(self, name: str, shape: Any, depth: int) -> Any:
        words = (word for word in self._known if word in name.lower())
        if (word := next(words, None)) and self._random.random() < 0.8:
            if shape.type_name == "string":
                return self._known[word]
            if shape.type_name == "list" and shape.member.type_name == "string":
                return [self._known[word]]
        return self.value(shape, depth)

    def _list(self, shape: Any, depth: int) -> list[Any]:
        return [self.value(shape.member, depth + 1) for _ in range(self._random.choice((0, 1, 1, 1, 2)))]

    def _string(self, shape: Any, depth: int) -> str:
        if (choices := shape.metadata.get("enum")) and self._random.random() < 0.9:
            return str(self._random.choice(choices))
        return self._random.choice(NASTY_TEXTS if self._random.random() < 0.15 else [*self._known.values(), *TEXTS])

    def _integer(self, shape: Any, depth: int) -> int:
        return self._random.choice([0, 1, 5, 10, 60, 443, 1_000, -1, 2**31 - 1])


@dataclass
class WireAttack:
    service: str
    operation: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.service} {self.operation}: {self.method} {self.path} {self.headers} {self.body[:2_000]!r}"


class Hostile:
    def __init__(self, api: Any, services: Sequence[Service], known: Mapping[str, str]) -> None:
        self.api = api
        self.known = known
        self.operations = [
            (service.name, service.model or service.name, name)
            for service in services
            for name in sorted(service.handlers())
            if name != "StartLiveTail"  # its answer does not end
        ]

    def request(self, chance: random.Random) -> WireAttack:
        service, model, name = chance.choice(self.operations)
        protocol = chance.choice(list(protocols_of(model).values()))
        operation = protocol.model.operation_model(name)
        params = NastyValues(chance, self.known).value(operation.input_shape) if operation.input_shape else {}
        spoken = {"FormProtocol": self._form, "JsonProtocol": self._json, "CborProtocol": self._cbor}
        attack: WireAttack = spoken[type(protocol).__name__](chance, service, protocol, operation, params)
        if chance.random() < 0.1:
            chance.choice(SPOIL_HTTP)(attack, chance)
        return attack

    def _form(self, chance: random.Random, service: str, protocol: Any, operation: Any, params: Any) -> WireAttack:
        kind = "ec2" if protocol.model.metadata["protocol"] == "ec2" else "query"
        made = create_serializer(kind, include_validation=False).serialize_to_request(params, operation)["body"]
        pairs = [(name, value if isinstance(value, str) else str(value)) for name, value in made.items()]
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            chance.choice(SPOIL_FORM)(pairs, chance)
        body = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return WireAttack(service, operation.name, "POST", "/", "", headers, _spoilt(body, chance))

    def _json(self, chance: random.Random, service: str, protocol: Any, operation: Any, params: Any) -> WireAttack:
        document = _spoil_document(_plain(params), chance)
        headers = {"content-type": "application/x-amz-json-1.1"}
        headers["x-amz-target"] = f"{protocol.model.metadata['targetPrefix']}.{operation.name}"
        body = json.dumps(document).encode()
        return WireAttack(service, operation.name, "POST", "/", "", headers, _spoilt(body, chance))

    def _cbor(self, chance: random.Random, service: str, protocol: Any, operation: Any, params: Any) -> WireAttack:
        body = cbor2.dumps(_spoil_document(params, chance), datetime_as_timestamp=True)
        if chance.random() < 0.1:
            body = chance.choice(NASTY_CBOR)
        headers = {"content-type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}
        path = f"/service/{protocol.model.metadata['targetPrefix']}/operation/{operation.name}"
        return WireAttack(service, operation.name, "POST", path, "", headers, _spoilt(body, chance))

    def send(self, connection: http.client.HTTPConnection, attack: WireAttack) -> tuple[int, dict[str, str], bytes]:
        """Signed, as it is. Status, headers with names in lower case, body."""
        headers = {"host": f"127.0.0.1:{connection.port}", **attack.headers}
        covered = sigv4.Request(
            attack.method, attack.path, attack.query, list(headers.items()), hashlib.sha256(attack.body).hexdigest()
        )
        signed = sigv4.sign(
            covered, *self.api.administrator_key, now_s=time.time(), region="us-east-1", service=attack.service
        )
        target = attack.path + (f"?{attack.query}" if attack.query else "")
        connection.request(attack.method, target, attack.body, {**headers, **signed})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


# --- forms

Pairs = list[tuple[str, str]]


def _at(pairs: Pairs, chance: random.Random) -> int:
    """Action and Version, which come first, are spared mostly."""
    first = 2 if len(pairs) > 2 and chance.random() < 0.95 else 0
    return chance.randrange(first, len(pairs))


def _drop(pairs: Pairs, chance: random.Random) -> None:
    if len(pairs) > 1:
        pairs.pop(_at(pairs, chance))


def _repeat(pairs: Pairs, chance: random.Random) -> None:
    pairs.append(pairs[_at(pairs, chance)])


def _rename(pairs: Pairs, chance: random.Random) -> None:
    at = _at(pairs, chance)
    more = chance.choice([".1", ".x", ".0", ".999999", ".member.1", ".1.1.1", "..", ".-1", "\x00", ".1" * 40, ".٣"])
    pairs[at] = (pairs[at][0] + more, pairs[at][1])


def _shorten(pairs: Pairs, chance: random.Random) -> None:
    at = _at(pairs, chance)
    pairs[at] = (pairs[at][0].rpartition(".")[0] or pairs[at][0][:-1], pairs[at][1])


def _change(pairs: Pairs, chance: random.Random) -> None:
    at = _at(pairs, chance)
    pairs[at] = (pairs[at][0], chance.choice(NASTY_TEXTS))


def _many(pairs: Pairs, chance: random.Random) -> None:
    name = pairs[_at(pairs, chance)][0].rstrip("0123456789")
    pairs.extend((f"{name}{number}", "x") for number in range(2, chance.choice((300, 3_000, 25_000))))


SPOIL_FORM: list[Callable[[Pairs, random.Random], None]] = [_drop, _repeat, _rename, _shorten, _change, _change, _many]

# --- documents

NASTY_CBOR = [
    b"", b"\xff", b"\xf6", b"\xa1", b"\x9b" + b"\xff" * 8, b"\xbb\x7f" + b"\xff" * 7,
    b"\x5b\x00\x00\x01\x00\x00\x00\x00\x00x",
    b"\x7b\x3f" + b"\xff" * 7 + b"x", b"\x81" * 100_000, b"\x9f" * 100_000, b"\xc1" * 100_000, b"\xa1\x61a" * 50_000,
    b"\xc5\x82\x1a\x3b\x9a\xca\x00\x01", b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01", b"\xa1\x61a\xd8\x23\x66(a+)+b",
    b"\xd8\x1c\x81\xd8\x1d\x00", b"\xa1\x61a\xd8\x1c\xa1\x61b\xd8\x1d\x00", b"\xa2\x61a\x01\x61a\x02", b"\xa1\x01\x02",
    b"\xa1\xa0\x02", b"\xbf\x61a\xff", b"\xa1\x41a\x01", b"\xa1\x61\xff\x01", b"\xd9\xd9\xf7\xa0", b"\xa0\xa0",
    b"\xa1\x69Namespace\xf9\x7e\x00", b"\xa1\x69Namespace\x7f\x61a\x61b\xff",
    b"\xa1\x69Namespace\xc2\x5a\x00\x01\x00\x00" + b"\xff" * 65_536,
    b"\xa1\x69StartTime\xc1\x1b\x7f" + b"\xff" * 7, b"\xa1\x69StartTime\xc1\xf9\x7c\x00", b"\xa1\x69StartTime\xc0\x61x",
]  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, datetime):
        return value.timestamp()
    return value.hex() if isinstance(value, bytes) else value


def _spoil_document(document: Any, chance: random.Random) -> Any:
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        document = _spoil_somewhere(document, chance)
    return document


def _spoil_somewhere(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        return {**value, name: _spoil_somewhere(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], _spoil_somewhere(value[at], chance), *value[at + 1 :]]
    if chance.random() < 0.1:
        return [value if len(repr(value)) < 100 else 0] * 20_000
    if chance.random() < 0.1:
        return {**(value if isinstance(value, dict) else {}), chance.choice(NASTY_TEXTS)[:100]: 1}
    return chance.choice([*NASTY_VALUES[:6], *NASTY_VALUES[8:], *NASTY_TEXTS])


# --- all

NASTY_BYTES = [b"%", b"%zz", b"\xff\xfe", b"\x00", b"&&&=", b"[" * 1_200, b'{"":' * 1_200, b"\r\n"]


def _spoilt(body: bytes, chance: random.Random) -> bytes:
    what = chance.random()
    if not body or what > 0.12:
        return body
    at = chance.randrange(len(body))
    if what < 0.04:
        return body[:at]
    if what < 0.08:
        return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
    return (
        body[:at]
        + chance.choice([b"%", b"%zz", b"\xff\xfe", b"\x00", b"&&&=", b"[" * 1_200, b'{"":' * 1_200, b"\r\n"])
        + body[at:]
    )


def _as_get(attack: WireAttack, chance: random.Random) -> None:
    attack.method, attack.query, attack.body = "GET", attack.body.decode("latin-1")[:8_000], b""
    attack.query = "".join(c if 33 <= ord(c) < 127 and c != "#" else f"%{ord(c) % 256:02x}" for c in attack.query)


def _method(attack: WireAttack, chance: random.Random) -> None:
    attack.method = chance.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "post"])


def _path(attack: WireAttack, chance: random.Random) -> None:
    paths = [
        "//",
        "/./..",
        "/%00",
        "/%ff%fe",
        "/" + "a/" * 2_000,
        "/vnotch/v1/agents/x",
        "/service/x/operation/",
        "/%2e%2e/",
    ]
    attack.path = chance.choice(paths)


def _content_type(attack: WireAttack, chance: random.Random) -> None:
    kinds = [
        "text/xml",
        "application/json",
        "",
        ";",
        "application/x-www-form-urlencoded; charset=utf-16",
        "multipart/form-data",
    ]
    attack.headers["content-type"] = chance.choice(kinds)


def _encoding(attack: WireAttack, chance: random.Random) -> None:
    attack.headers["content-encoding"] = chance.choice(
        ["gzip", "deflate", "aws-chunked", "gzip, gzip", "identity", "br"]
    )


def _target(attack: WireAttack, chance: random.Random) -> None:
    targets = [
        "Logs_20140328.",
        "Logs_20140328.PutLogEvents",
        ".",
        "x" * 5_000,
        "GraniteServiceVersion20100801.PutMetricData",
    ]
    attack.headers["x-amz-target"] = chance.choice(targets)


def _smithy(attack: WireAttack, chance: random.Random) -> None:
    attack.headers["smithy-protocol"] = chance.choice(["rpc-v2-cbor", "rpc-v2-json", ""])


def _digest(attack: WireAttack, chance: random.Random) -> None:
    digests = ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "x", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"]
    attack.headers["x-amz-content-sha256"] = chance.choice(digests)


SPOIL_HTTP: list[Callable[[WireAttack, random.Random], None]] = [
    _as_get, _method, _path, _content_type, _encoding, _target, _smithy, _digest,
]  # fmt: skip
