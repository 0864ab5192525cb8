"""Payloads in signed chunks: `Content-Encoding: aws-chunked` (S3 API Reference, "Signature calculations for the
Authorization header: transferring payload in multiple chunks" and "... for trailing headers"). Pure.

    x-amz-content-sha256                         chunks     trailer
    STREAMING-AWS4-HMAC-SHA256-PAYLOAD           signed     none
    STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER   signed     signed
    STREAMING-UNSIGNED-PAYLOAD-TRAILER           unsigned   a checksum; over TLS alone, as clients send it

The request's signature is the seed; each chunk's covers the one before it, so that chunks can be neither changed nor
moved, left out or repeated. The last one has no data and ends the chain.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vnotch.iam.sigv4 import MISMATCH, Fault, Signature, SignatureError, signing_key

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
MODES = frozenset({SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER})

CHUNK_BYTES_MIN = 8192
"""Of every chunk but the last with data (S3 API Reference); it bounds how many there are."""
TRAILER_BYTES_MAX = 16_384

_EMPTY = hashlib.sha256(b"").hexdigest()
_SIGNED_HEAD = re.compile(rb"([0-9a-fA-F]{1,8});chunk-signature=([0-9a-f]{64})")
_PLAIN_HEAD = re.compile(rb"([0-9a-fA-F]{1,8})")
_CHECKSUMS: Mapping[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
}


@dataclass(frozen=True)
class Chunked:
    """What the headers of a chunked request say."""

    mode: str
    decoded_bytes: int
    trailers: tuple[str, ...]

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Chunked | None:
        """From headers by their lower-case names; None for a request whose payload is not chunked."""
        mode = headers.get("x-amz-content-sha256", "").strip()
        if mode not in MODES:
            return None
        length = headers.get("x-amz-decoded-content-length", "").strip()
        if not re.fullmatch(r"[0-9]{1,12}", length, re.ASCII):
            raise _malformed("a chunked payload needs the header x-amz-decoded-content-length")
        names = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",")]
        trailers = tuple(name for name in names if name)
        if (mode == SIGNED) is bool(trailers):
            raise _malformed("x-amz-trailer must name the trailing headers of a payload that has some, and of no other")
        return cls(mode, int(length), trailers)


def decoded(body: bytes, chunked: Chunked, signature: Signature, secret_access_key: str, *, secure: bool) -> bytes:
    """The payload, once every signature and checksum in it has been found right. Raises SignatureError.

    `signature` is the request's, already verified. `secure`: the request came over TLS, which is what protects chunks
    without signatures.
    """
    signed = chunked.mode != UNSIGNED_TRAILER
    if not signed and not secure:
        raise SignatureError(Fault.WRONG, "A payload without signatures is taken over TLS alone.")
    chain = _Chain(signature, secret_access_key) if signed else None
    data, end = _chunks(body, chain)
    if len(data) != chunked.decoded_bytes:
        raise _malformed("the payload is not as long as x-amz-decoded-content-length says")
    trailer = body[end:]
    if chunked.mode == SIGNED:
        if trailer not in (b"\r\n", b""):
            raise _malformed("something follows the last chunk")
    else:
        _check_trailer(trailer, chunked, data, chain)
    return data


class _Chain:
    """The signatures of chunks, each over the one before."""

    def __init__(self, signature: Signature, secret_access_key: str) -> None:
        self._head = f"{signature.time}\n{signature.scope}\n"
        self._key = signing_key(secret_access_key, signature.date, signature.region, signature.service)
        self._previous = signature.signature

    def check_chunk(self, data: bytes, given: str) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self._check(f"AWS4-HMAC-SHA256-PAYLOAD\n{self._head}{self._previous}\n{_EMPTY}\n{digest}", given)

    def check_trailer(self, canonical: bytes, given: str) -> None:
        digest = hashlib.sha256(canonical).hexdigest()
        self._check(f"AWS4-HMAC-SHA256-TRAILER\n{self._head}{self._previous}\n{digest}", given)

    def _check(self, text: str, given: str) -> None:
        expected = hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, given):
            raise SignatureError(Fault.WRONG, MISMATCH)
        self._previous = expected


def _chunks(body: bytes, chain: _Chain | None) -> tuple[bytes, int]:
    """The data of all chunks, and where the line of the last one ends."""
    pieces: list[bytes] = []
    at, small = 0, False
    while True:
        line_end = body.find(b"\r\n", at, at + 128)
        head = (_SIGNED_HEAD if chain else _PLAIN_HEAD).fullmatch(body[at:line_end]) if line_end >= 0 else None
        if head is None:
            raise _malformed("a chunk does not begin with its size" + (" and signature" if chain else ""))
        size, start = int(head[1], 16), line_end + 2
        piece = body[start : start + size]
        if len(piece) != size or (size and small):
            raise _malformed("a chunk is shorter than it must be")
        if chain:
            chain.check_chunk(piece, head[2].decode())
        if not size:
            return b"".join(pieces), start
        if body[start + size : start + size + 2] != b"\r\n":
            raise _malformed("a chunk is longer than it says")
        small = size < CHUNK_BYTES_MIN
        pieces.append(piece)
        at = start + size + 2


def _check_trailer(trailer: bytes, chunked: Chunked, data: bytes, chain: _Chain | None) -> None:
    fields = _trailer_fields(trailer)
    given = fields.pop("x-amz-trailer-signature", None)
    if tuple(sorted(fields)) != tuple(sorted(chunked.trailers)):
        raise _malformed("the trailing headers are not those that x-amz-trailer names")
    if chain is not None:
        canonical = "".join(f"{name}:{fields[name]}\n" for name in sorted(fields)).encode()
        chain.check_trailer(canonical, given or "")
    for name, value in fields.items():
        _check_checksum(name, value, data, signed=chain is not None)


def _trailer_fields(trailer: bytes) -> dict[str, str]:
    if len(trailer) > TRAILER_BYTES_MAX:
        raise _malformed("the trailing headers are too large")
    fields: dict[str, str] = {}
    for line in trailer.decode("latin-1").split("\r\n"):
        name, colon, value = line.rstrip("\n").partition(":")
        name = name.strip().lower()
        if not line:
            continue
        if not colon or not name or name in fields:
            raise _malformed("a trailing header is not name:value, or is there twice")
        fields[name] = value.strip()
    return fields


def _check_checksum(name: str, value: str, data: bytes, *, signed: bool) -> None:
    compute = _CHECKSUMS.get(name)
    if compute is None:
        # Of signed chunks every byte is proven already; a checksum that cannot be computed here adds nothing.
        if not signed:
            known = ", ".join(_CHECKSUMS)
            raise SignatureError(Fault.INCOMPLETE, f"The checksum {name} is not supported; supported are {known}.")
        return
    if not hmac.compare_digest(base64.b64encode(compute(data)).decode(), value):
        raise SignatureError(Fault.WRONG, f"The checksum {name} is not that of the payload.")


def _malformed(reason: str) -> SignatureError:
    return SignatureError(Fault.INCOMPLETE, f"The chunked payload is malformed: {reason}.")
