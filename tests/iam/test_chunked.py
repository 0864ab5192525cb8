"""Chunked payloads: AWS's published examples, and what may not be done to chunks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.iam.chunked import SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER, Chunked, decoded
from vnotch.iam.sigv4 import Fault, Request, Signature, SignatureError, read_signature, signing_key, verify

# S3 API Reference, "Signature calculations for the Authorization header: transferring payload in multiple chunks".
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TIME = "20130524T000000Z"
NOW_S = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
CHUNKS = [
    (b"a" * 65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (b"a" * 1_024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
]


def headers_of(mode: str, length: int, *trailers: str) -> dict[str, str]:
    headers = {"x-amz-content-sha256": mode, "x-amz-decoded-content-length": str(length)}
    return headers | ({"x-amz-trailer": ",".join(trailers)} if trailers else {})


def chunk(data: bytes, signature: str | None) -> bytes:
    head = f"{len(data):x}" + (f";chunk-signature={signature}" if signature else "")
    return head.encode() + b"\r\n" + data + (b"\r\n" if data else b"")


def body_of(chunks: Sequence[tuple[bytes, str | None]]) -> bytes:
    return b"".join(chunk(data, signature) for data, signature in chunks) + b"\r\n"


def signature_with(seed: str) -> Signature:
    return Signature(KEY_ID, "20130524", "us-east-1", "s3", TIME, ("host",), seed)


def test_the_documented_example() -> None:
    length = str(66_560)
    headers = [
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", TIME),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", SIGNED),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", length),
        ("content-length", "66824"),
    ]
    names = ";".join(sorted(name for name, _ in headers))
    scope = f"{KEY_ID}/20130524/us-east-1/s3/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={scope},SignedHeaders={names},Signature={SEED}"
    request = Request("PUT", "/examplebucket/chunkObject.txt", "", headers, SIGNED)
    signature = read_signature([*headers, ("authorization", authorization)], "")
    verify(signature, SECRET, request, now_s=NOW_S, regions=["us-east-1"], service="s3")
    chunked = Chunked.of(dict(headers))
    assert chunked is not None
    body = body_of(CHUNKS)
    assert len(body) == 66_824
    assert decoded(body, chunked, signature, SECRET, secure=False) == b"a" * 66_560


def test_the_documented_example_with_a_trailer() -> None:
    """S3 API Reference, "Signature calculations for trailing headers (chunked uploads)"."""
    signatures = [
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ]
    body = b"".join(chunk(data, signature) for (data, _), signature in zip(CHUNKS, signatures, strict=True))
    body += b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    body += b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    chunked = Chunked.of(headers_of(SIGNED_TRAILER, 66_560, "x-amz-checksum-crc32c"))
    assert chunked is not None
    seed = signature_with("106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e")
    assert decoded(body, chunked, seed, SECRET, secure=False) == b"a" * 66_560
    with pytest.raises(SignatureError):
        decoded(body.replace(b"sOO8/Q==", b"sOO8/Q=="[::-1]), chunked, seed, SECRET, secure=False)


# --- our own signer, by the same documentation, for other shapes ---


def signed_chunks(pieces: Sequence[bytes], seed: str = SEED) -> tuple[list[tuple[bytes, str | None]], str]:
    """The pieces and the empty one behind them with their signatures, and the last signature."""
    key = signing_key(SECRET, "20130524", "us-east-1", "s3")
    scope, previous = "20130524/us-east-1/s3/aws4_request", seed
    found: list[tuple[bytes, str | None]] = []
    for data in (*pieces, b""):
        empty, digest = hashlib.sha256(b"").hexdigest(), hashlib.sha256(data).hexdigest()
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{TIME}\n{scope}\n{previous}\n{empty}\n{digest}"
        previous = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        found.append((data, previous))
    return found, previous


def with_trailer(pieces: Sequence[bytes], fields: dict[str, str]) -> bytes:
    chunks, last = signed_chunks(pieces)
    canonical = "".join(f"{name}:{fields[name]}\n" for name in sorted(fields))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256-TRAILER\n{TIME}\n20130524/us-east-1/s3/aws4_request\n{last}\n{digest}"
    key = signing_key(SECRET, "20130524", "us-east-1", "s3")
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    lines = [f"{name}:{value}" for name, value in fields.items()] + [f"x-amz-trailer-signature:{signature}"]
    return body_of(chunks)[:-2] + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def read(body: bytes, mode: str, length: int, *trailers: str, secure: bool = False) -> bytes:
    chunked = Chunked.of(headers_of(mode, length, *trailers))
    assert chunked is not None
    return decoded(body, chunked, signature_with(SEED), SECRET, secure=secure)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(8192, 9000), max_size=3), st.binary(min_size=1, max_size=900))
def test_what_is_signed_in_chunks_is_read(sizes: list[int], last: bytes) -> None:
    pieces = [(last * size)[:size] for size in sizes]
    whole = b"".join([*pieces, last])
    chunks, _ = signed_chunks([*pieces, last])
    assert read(body_of(chunks), SIGNED, len(whole)) == whole
    body = with_trailer([*pieces, last], {"x-amz-checksum-crc32": crc32(whole)})
    assert read(body, SIGNED_TRAILER, len(whole), "x-amz-checksum-crc32") == whole


def test_an_empty_payload_is_one_chunk() -> None:
    chunks, _ = signed_chunks([])
    assert read(body_of(chunks), SIGNED, 0) == b""


A, B, C = b"a" * 8192, b"b" * 8192, b"c" * 100


def attacks() -> list[tuple[str, bytes, Fault]]:
    chunks, _ = signed_chunks([A, B, C])
    one, two, three, end = chunks
    other, _ = signed_chunks([A, B, C], seed="0" * 64)
    return [
        ("a byte changed", body_of([(A[:-1] + b"x", one[1]), two, three, end]), Fault.WRONG),
        ("two chunks swapped", body_of([two, one, three, end]), Fault.WRONG),
        ("a chunk left out", body_of([one, three, end]), Fault.WRONG),
        ("a chunk repeated", body_of([one, one, two, three, end]), Fault.WRONG),
        ("chunks of another request", body_of(other), Fault.WRONG),
        ("the end left out", body_of([one, two, three]), Fault.INCOMPLETE),
        ("an end too early", body_of([one, end]), Fault.WRONG),
        ("cut in a chunk", body_of(chunks)[:9000], Fault.INCOMPLETE),
        ("no signatures", body_of([(data, None) for data, _ in chunks]), Fault.INCOMPLETE),
        ("a signature of nothing", body_of([(A, "0" * 64), two, three, end]), Fault.WRONG),
        ("more behind the end", body_of(chunks) + b"x", Fault.INCOMPLETE),
        ("a size that is no number", b"zz;chunk-signature=" + b"0" * 64 + b"\r\n", Fault.INCOMPLETE),
        ("a size larger than the body", b"ffffffff;chunk-signature=" + b"0" * 64 + b"\r\nabc", Fault.INCOMPLETE),
        ("nothing at all", b"", Fault.INCOMPLETE),
    ]


@pytest.mark.parametrize(("name", "body", "fault"), attacks(), ids=[row[0] for row in attacks()])
def test_an_attack_on_chunks(name: str, body: bytes, fault: Fault) -> None:
    with pytest.raises(SignatureError) as caught:
        read(body, SIGNED, len(A + B + C))
    assert caught.value.fault is fault
    assert SECRET not in str(caught.value)


def test_another_length_than_stated() -> None:
    chunks, _ = signed_chunks([A, C])
    for length in (len(A), len(A + C) + 1):
        with pytest.raises(SignatureError) as caught:
            read(body_of(chunks), SIGNED, length)
        assert caught.value.fault is Fault.INCOMPLETE


def test_many_small_chunks_are_refused() -> None:
    chunks, _ = signed_chunks([b"a"] * 3)
    with pytest.raises(SignatureError, match="shorter than it must be"):
        read(body_of(chunks), SIGNED, 3)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda body: body.replace(b"x-amz-checksum-crc32:", b"x-amz-checksum-crc32:A"), Fault.WRONG),
        (lambda body: body.replace(b"x-amz-checksum-crc32:", b"x-amz-checksum-sha1:"), Fault.INCOMPLETE),
        (lambda body: body[: body.index(b"x-amz-trailer-signature")] + b"\r\n", Fault.WRONG),
        (lambda body: body[: body.index(b"x-amz-checksum")] + b"\r\n", Fault.INCOMPLETE),
        (lambda body: body.replace(b"x-amz-check", b"x-amz-checksum-crc32:x\r\nx-amz-check"), Fault.INCOMPLETE),
        (lambda body: body + b"x-amz-extra:1\r\n", Fault.INCOMPLETE),
    ],
)  # fmt: skip
def test_an_attack_on_a_trailer(change: Any, fault: Fault) -> None:
    body = with_trailer([A, C], {"x-amz-checksum-crc32": crc32(A + C)})
    assert read(body, SIGNED_TRAILER, len(A + C), "x-amz-checksum-crc32") == A + C
    with pytest.raises(SignatureError) as caught:
        read(change(body), SIGNED_TRAILER, len(A + C), "x-amz-checksum-crc32")
    assert caught.value.fault is fault


def test_unsigned_chunks_are_taken_over_tls_alone_and_their_checksum_must_be_right() -> None:
    name = "x-amz-checksum-crc32"
    body = body_of([(A, None), (C, None), (b"", None)])[:-2] + f"{name}:{crc32(A + C)}\r\n\r\n".encode()
    assert read(body, UNSIGNED_TRAILER, len(A + C), name, secure=True) == A + C
    with pytest.raises(SignatureError, match="TLS"):
        read(body, UNSIGNED_TRAILER, len(A + C), name)
    with pytest.raises(SignatureError, match="checksum"):
        read(body.replace(C, C[::-1][:-1] + b"x"), UNSIGNED_TRAILER, len(A + C), name, secure=True)
    other = "x-amz-checksum-crc64nvme"
    with pytest.raises(SignatureError, match="not supported"):
        read(body.replace(name.encode(), other.encode()), UNSIGNED_TRAILER, len(A + C), other, secure=True)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-content-sha256": SIGNED},
        {"x-amz-content-sha256": SIGNED, "x-amz-decoded-content-length": "-1"},
        headers_of(SIGNED, 1, "x-amz-checksum-crc32"),
        headers_of(SIGNED_TRAILER, 1),
        headers_of(UNSIGNED_TRAILER, 1),
    ],
    ids=str,
)
def test_headers_that_do_not_fit_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureError):
        Chunked.of(headers)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER]))
def test_garbage_is_refused(body: bytes, mode: str) -> None:
    trailers = () if mode == SIGNED else ("x-amz-checksum-crc32",)
    with pytest.raises(SignatureError):
        read(body, mode, 5, *trailers, secure=True)
