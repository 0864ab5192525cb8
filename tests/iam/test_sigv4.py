"""Signatures: AWS's published examples, botocore as the independent signer, and a table of attacks."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.iam.sigv4 import (
    Fault,
    Request,
    SignatureError,
    canonical_request,
    read_signature,
    sign,
    signing_key,
    verify,
)

# The keys, date and scope of AWS's Signature Version 4 test suite (aws-sig-v4-test-suite).
KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SUITE_TIME = "20150830T123600Z"
SUITE_NOW_S = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()
EMPTY = hashlib.sha256(b"").hexdigest()


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def suite_request(
    method: str = "GET", path: str = "/", query: str = "", headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
) -> Request:
    fixed = (("host", "example.amazonaws.com"), ("x-amz-date", SUITE_TIME))
    return Request(method, path, query, [*fixed, *headers], sha(body))


# name in the suite, request, signature in the suite's .authz file
SUITE: list[tuple[str, Request, str]] = [
    ("get-vanilla", suite_request(), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("post-vanilla", suite_request("POST"), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "get-vanilla-query-order-key-case",
        suite_request(query="Param2=value2&Param1=value1"),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-unreserved",
        suite_request(path="/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    (
        "get-header-value-trim",
        suite_request(headers=(("my-header1", " value1"), ("my-header2", ' "a   b   c"'))),
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "get-header-key-duplicate",
        suite_request(headers=(("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1"))),
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "post-x-www-form-urlencoded",
        suite_request("POST", headers=(("content-type", "application/x-www-form-urlencoded"),), body=b"Param1=value1"),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
]


@pytest.mark.parametrize(("name", "request_", "expected"), SUITE, ids=[row[0] for row in SUITE])
def test_suite(name: str, request_: Request, expected: str) -> None:
    names = ";".join(sorted({header for header, _ in request_.headers}))
    scope = f"{KEY_ID}/20150830/us-east-1/service/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={expected}"
    signature = read_signature([*request_.headers, ("authorization", authorization)], request_.query)
    verify(signature, SECRET, request_, now_s=SUITE_NOW_S, regions=["us-east-1"], service="service")
    changed = replace(signature, signature=expected[:-1] + ("0" if expected[-1] != "0" else "1"))
    with pytest.raises(SignatureError):
        verify(changed, SECRET, request_, now_s=SUITE_NOW_S, regions=["us-east-1"], service="service")


def test_the_documented_signing_key_and_canonical_request() -> None:
    """AWS General Reference, "Examples of how to derive a signing key" and "Task 1: Create a canonical request"."""
    key = signing_key(SECRET, "20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    request = Request(
        "GET",
        "/",
        "Action=ListUsers&Version=2010-05-08",
        [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", SUITE_TIME),
        ],
        EMPTY,
    )
    canonical = canonical_request(request, ("content-type", "host", "x-amz-date"))
    assert sha(canonical.encode()) == "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
    headers = sign(request_without_date(request), KEY_ID, SECRET, now_s=SUITE_NOW_S, region="us-east-1", service="iam")
    assert headers["authorization"].endswith("5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")


def request_without_date(request: Request) -> Request:
    return replace(request, headers=[pair for pair in request.headers if pair[0] != "x-amz-date"])


# --- botocore signs, we verify ---


def signed_by_botocore(
    method: str, url: str, body: bytes, headers: dict[str, str], token: str | None = None, presign: bool = False
) -> tuple[Request, float]:
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    credentials = Credentials(KEY_ID, SECRET, token)
    auth = SigV4QueryAuth if presign else SigV4Auth
    auth(credentials, "sts", "us-east-1").add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    sent = [(name.lower(), value) for name, value in prepared.headers.items()]
    if not any(name == "host" for name, _ in sent):
        sent.append(("host", parts.netloc))
    return Request(method, parts.path, parts.query, sent, sha(body)), datetime.now(UTC).timestamp()


def check(request: Request, now_s: float, secret: str = SECRET, **other: Any) -> None:
    signature = read_signature(request.headers, request.query)
    asked = {"regions": ["us-east-1"], "service": "sts", **other}
    verify(signature, secret, request, now_s=now_s, **asked)


header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
query_texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    body=st.binary(max_size=200),
    header=header_values,
    query=st.lists(st.tuples(query_texts, query_texts), max_size=4, unique_by=lambda pair: pair[0]),
    segments=st.lists(query_texts.filter(lambda text: "/" not in text), max_size=3),
    presign=st.booleans(),
    token=st.sampled_from([None, "a+token/with=signs"]),
)
def test_what_botocore_signs_is_verified(
    body: bytes,
    header: str,
    query: list[tuple[str, str]],
    segments: list[str],
    presign: bool,
    token: str | None,
) -> None:
    from urllib.parse import quote

    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    # An SDK encodes a query with %20; the order is the client's.
    text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query)
    url = f"http://127.0.0.1:4480{path}" + (f"?{text}" if text else "")
    if presign:
        body = b""
    request, now_s = signed_by_botocore("POST", url, body, {"X-Custom": header}, token, presign)
    check(request, now_s)
    signature = read_signature(request.headers, request.query)
    assert signature.access_key_id == KEY_ID
    assert signature.session_token == (token or "")


def test_what_we_sign_is_what_botocore_signs() -> None:
    request, _ = signed_by_botocore("POST", "http://h:1/a%20b?x=1", b"body", {"content-type": "text/plain"}, "tok")
    theirs = dict(request.headers)["authorization"]
    at = datetime.strptime(dict(request.headers)["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    mine = Request("POST", "/a%20b", "x=1", [("host", "h:1"), ("content-type", "text/plain")], request.payload_sha256)
    headers = sign(mine, KEY_ID, SECRET, now_s=at, region="us-east-1", service="sts", session_token="tok")
    assert headers["authorization"] == theirs


# --- attacks ---


def good() -> tuple[Request, float]:
    headers = {"content-type": "application/x-www-form-urlencoded", "x-amz-target": "T.Op", "x-vnotch-batch-id": "b1"}
    return signed_by_botocore("POST", "http://127.0.0.1:4480/p?q=1", b"Action=GetCallerIdentity", headers)


def with_header(request: Request, name: str, value: str | None) -> Request:
    kept = [pair for pair in request.headers if pair[0] != name]
    return replace(request, headers=kept if value is None else [*kept, (name, value)])


def authorization(request: Request, old: str, new: str) -> Request:
    text = dict(request.headers)["authorization"]
    assert old in text
    return with_header(request, "authorization", text.replace(old, new))


ATTACKS: list[tuple[str, Any, Fault]] = [
    ("another body", lambda r: replace(r, payload_sha256=sha(b"Action=DeleteUser")), Fault.WRONG),
    ("another query", lambda r: replace(r, query="q=2"), Fault.WRONG),
    ("a further query parameter", lambda r: replace(r, query="q=1&r=2"), Fault.WRONG),
    ("another path", lambda r: replace(r, path="/other"), Fault.WRONG),
    ("another method", lambda r: replace(r, method="GET"), Fault.WRONG),
    ("another target", lambda r: with_header(r, "x-amz-target", "T.Other"), Fault.WRONG),
    ("a target added unsigned", lambda r: replace(r, headers=[*r.headers, ("x-amz-extra", "1")]), Fault.WRONG),
    ("another batch id", lambda r: with_header(r, "x-vnotch-batch-id", "b2"), Fault.WRONG),
    ("a signed header twice", lambda r: replace(r, headers=[*r.headers, ("x-amz-target", "T.Other")]), Fault.WRONG),
    ("a signed header missing", lambda r: with_header(r, "x-amz-target", None), Fault.WRONG),
    ("another host", lambda r: with_header(r, "host", "evil.example"), Fault.WRONG),
    ("host not covered", lambda r: authorization(r, "host;", ""), Fault.WRONG),
    ("target not covered", lambda r: authorization(r, ";x-amz-target", ""), Fault.WRONG),
    ("another date header", lambda r: with_header(r, "x-amz-date", "20200101T000000Z"), Fault.WRONG),
    ("date missing", lambda r: with_header(r, "x-amz-date", None), Fault.INCOMPLETE),
    ("date twice", lambda r: replace(r, headers=[*r.headers, ("x-amz-date", "20200101T000000Z")]), Fault.INCOMPLETE),
    ("scope of another region", lambda r: authorization(r, "/us-east-1/", "/eu-west-1/"), Fault.WRONG),
    ("scope of another service", lambda r: authorization(r, "/sts/", "/iam/"), Fault.WRONG),
    ("scope without its end", lambda r: authorization(r, "/aws4_request", "/aws4"), Fault.INCOMPLETE),
    ("a weaker algorithm", lambda r: authorization(r, "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), Fault.INCOMPLETE),
    ("no signature field", lambda r: authorization(r, "Signature=", "Sign="), Fault.INCOMPLETE),
    ("no signature", lambda r: with_header(r, "authorization", None), Fault.MISSING),
    ("an empty signature", lambda r: with_header(r, "authorization", ""), Fault.INCOMPLETE),
    ("basic authentication", lambda r: with_header(r, "authorization", "Basic YTpi"), Fault.INCOMPLETE),
    (
        "two authorizations",
        lambda r: replace(r, headers=[*r.headers, ("authorization", "AWS4-HMAC-SHA256 x")]),
        Fault.INCOMPLETE,
    ),
    ("header and query at once", lambda r: replace(r, query="X-Amz-Signature=00"), Fault.INCOMPLETE),
    (
        "an unsigned payload",
        lambda r: with_header(r, "x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        Fault.WRONG,
    ),
    ("a signature in capitals", lambda r: capital_signature(r), Fault.WRONG),
    (
        "signed headers out of order",
        lambda r: authorization(r, "content-type;host", "host;content-type"),
        Fault.INCOMPLETE,
    ),
]


def capital_signature(request: Request) -> Request:
    text = dict(request.headers)["authorization"]
    head, _, signature = text.rpartition("=")
    return with_header(request, "authorization", f"{head}={signature.upper()}Z"[:-1] + "A")


@pytest.mark.parametrize(("name", "attack", "fault"), ATTACKS, ids=[row[0] for row in ATTACKS])
def test_attack(name: str, attack: Any, fault: Fault) -> None:
    request, now_s = good()
    check(request, now_s)
    with pytest.raises(SignatureError) as caught:
        check(attack(request), now_s)
    assert caught.value.fault is fault
    assert SECRET not in str(caught.value)


def test_a_wrong_secret_region_service_or_replay_is_refused() -> None:
    request, now_s = good()
    for other, fault in (
        ({"secret": "another"}, Fault.WRONG),
        ({"regions": ["eu-west-1"]}, Fault.WRONG),
        ({"service": "iam"}, Fault.WRONG),
        ({"now_s": now_s + 902}, Fault.EXPIRED),
        ({"now_s": now_s - 902}, Fault.EXPIRED),
    ):
        with pytest.raises(SignatureError) as caught:
            check(**{"request": request, "now_s": now_s, **other})
        assert caught.value.fault is fault
    check(request, now_s + 890)
    check(request, now_s - 890)


@pytest.mark.parametrize("form", ["http", "basic"])
def test_a_date_header_stands_in_for_the_missing_one(form: str) -> None:
    """botocore signs with Date where the caller has set one (SigV4Auth._set_necessary_date_headers)."""
    at = datetime.now(UTC)
    date = at.strftime("%a, %d %b %Y %H:%M:%S GMT") if form == "http" else at.strftime("%Y%m%dT%H%M%SZ")
    body = b"Action=GetCallerIdentity"
    request, now_s = signed_by_botocore("POST", "http://127.0.0.1:4480/", body, {"Date": date})
    assert not any(name == "x-amz-date" for name, _ in request.headers)
    check(request, now_s)
    with pytest.raises(SignatureError):
        check(with_header(request, "date", "Sun, 06 Nov 1994 08:49:37 GMT"), now_s)
    with pytest.raises(SignatureError):
        check(authorization(request, "date;", ""), now_s)
    for wrong in ("yesterday", ""):
        with pytest.raises(SignatureError) as caught:
            check(with_header(request, "date", wrong), now_s)
        assert caught.value.fault is Fault.INCOMPLETE


def test_a_presigned_query_ends_when_it_says() -> None:
    request, now_s = signed_by_botocore(
        "GET", "http://h/?Action=GetCallerIdentity&Version=2011-06-15", b"", {}, presign=True
    )
    check(request, now_s + 3590)  # botocore's default is an hour
    with pytest.raises(SignatureError) as caught:
        check(request, now_s + 3602)
    assert caught.value.fault is Fault.EXPIRED
    longer = replace(request, query=request.query.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"))
    assert longer.query != request.query
    with pytest.raises(SignatureError) as caught:
        check(longer, now_s)
    assert caught.value.fault is Fault.WRONG
    forever = replace(request, query=request.query.replace("X-Amz-Expires=3600", "X-Amz-Expires=604801"))
    with pytest.raises(SignatureError) as caught:
        check(forever, now_s)
    assert caught.value.fault is Fault.INCOMPLETE


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200), query=st.text(max_size=100))
def test_garbage_never_breaks_the_reader(text: str, query: str) -> None:
    for value in (text, "AWS4-HMAC-SHA256 " + text):
        try:
            read_signature([("authorization", value), ("x-amz-date", SUITE_TIME)], query)
        except SignatureError:
            continue


any_bytes = st.binary(max_size=30).map(lambda data: data.decode("utf-8", "surrogateescape"))


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=any_bytes.map(lambda text: "/" + text),
    query=any_bytes,
    headers=st.dictionaries(st.sampled_from(["a", "b-c", "x-amz-target", "content-type"]), any_bytes, max_size=4),
)
def test_any_request_is_verified_as_it_was_signed_and_not_otherwise(
    method: str, path: str, query: str, headers: dict[str, str]
) -> None:
    if "X-Amz-" in query:
        return
    request = Request(method, path, query, [("host", "h"), *headers.items()], EMPTY)
    added = sign(request, KEY_ID, SECRET, now_s=SUITE_NOW_S, region="us-east-1", service="sts")
    sent = replace(request, headers=[*request.headers, *added.items()])
    check(sent, SUITE_NOW_S)
    for changed in (
        replace(sent, method="DELETE"),
        replace(sent, path=sent.path + "/x"),
        replace(sent, query=(sent.query + "&" if sent.query else "") + "zz=1"),
        replace(sent, payload_sha256="0" * 64),
        with_header(sent, "host", "other"),
    ):
        with pytest.raises(SignatureError):
            check(changed, SUITE_NOW_S)
