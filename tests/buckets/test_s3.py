"""Buckets at an S3 endpoint: a real server (SeaweedFS) with real authentication, and what goes wrong on the way there.

What a refusal means is S3's API reference, error responses; the words of a status are AWS's (API DescribeFlowLogs).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from fault_proxy import FaultProxy
from seaweed import OWNER, READER, Seaweed, seaweed
from shared_clients import PLAIN_HTTP

from vnotch.bucket_keys import Layout
from vnotch.buckets import open_buckets
from vnotch.buckets.bucket_policy import ClosedPolicy, delivery_statements, forbids_delivery, with_delivery
from vnotch.buckets.folder import Folder
from vnotch.buckets.s3 import S3, S3Settings, leads_out
from vnotch.buckets.upload import PolicyIsFull, Presence, PresignedRequest, Upload
from vnotch.deliver.bucket import Buckets, upload_error
from vnotch.deliver.courier import Courier
from vnotch.deliver.dropped import DroppedCounts, Share
from vnotch.deliver.endpoint import BatchRefused
from vnotch.deliver.outbox import Outbox, SlotFile
from vnotch.errors import (
    AccessError,
    DeliveryError,
    DestinationUnavailable,
    HostError,
    InputError,
    RateLimitedError,
)
from vnotch.iam.grammar import PolicyError

BUCKET = "flow-logs"
SLOT_S = 1_529_511_600
LAYOUT = Layout("net/", "123456789012", "us-east-1")
BODY = b"the contents of a file" * 1000


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed"), BUCKET, ["Read:flow-logs", "List:flow-logs"]) as server:
        yield server


@pytest.fixture
def proxy(weed: Seaweed) -> Iterator[FaultProxy]:
    server = FaultProxy(weed.url)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def settings(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.become_owner(monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")


def s3(url: str, **more: Any) -> S3:
    return S3(S3Settings(url, "eu-west-1", **more))


def upload(key: str, body: bytes = BODY) -> Upload:
    md5, sha256 = hashlib.md5(body).digest(), hashlib.sha256(body).digest()
    return Upload(BUCKET, key, len(body), b64encode(md5).decode(), b64encode(sha256).decode())


def put(signed: PresignedRequest, body: bytes = BODY, **headers: str) -> tuple[int, str]:
    answer = httpx.request(
        signed.method, signed.url, content=body, headers={**signed.headers, **headers}, verify=PLAIN_HTTP
    )
    return answer.status_code, answer.text


def stored(weed: Seaweed, prefix: str) -> dict[str, bytes]:
    client = weed.client(OWNER)
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ())
    return {item["Key"]: client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in found}


# --- the server's side ---


def test_a_bucket_is_there_or_not_or_not_ours(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3(weed.url).presence(BUCKET, "") is Presence.THERE
    assert s3(weed.url).presence("nowhere", "") is Presence.MISSING
    assert s3(weed.url).presence(BUCKET, "../out") is Presence.UNKNOWN
    for name, value in weed.environment(READER).items():
        monkeypatch.setenv(name, value)
    assert s3(weed.url).presence("ready", "") is Presence.DENIED


DELIVERY = {"Service": "delivery.logs.amazonaws.com"}
GRANTED = {
    "StringEquals": {"aws:SourceAccount": "123456789012", "s3:x-amz-acl": "bucket-owner-full-control"},
    "ArnLike": {"aws:SourceArn": "arn:aws:logs:us-east-1:123456789012:*"},
}
"""Of the statement AWSLogDeliveryWrite, which AWS adds to its buckets."""


def bucket_policy(**members: Any) -> str:
    statement = {
        "Sid": "x",
        "Effect": "Deny",
        "Principal": DELIVERY,
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{BUCKET}/*",
        **members,
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.mark.parametrize(
    ("members", "forbidden"),
    [
        ({}, True),
        ({"Condition": GRANTED}, True),
        ({"Resource": f"arn:aws:s3:::{BUCKET}/net/AWSLogs/123456789012/*"}, True),
        ({"Effect": "Allow", "Condition": GRANTED}, False),
        ({"Resource": f"arn:aws:s3:::{BUCKET}/other/*"}, False),
        ({"Action": "s3:GetBucketAcl"}, False),
        ({"Condition": {"StringNotEquals": {"aws:SourceAccount": "123456789012"}}}, False),
        ({"Condition": {"StringNotEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}}}, False),
        # Who everyone is, only the endpoint knows.
        ({"Principal": "*"}, False),
        ({"Principal": {"Service": "cloudtrail.amazonaws.com"}}, False),
    ],
)
def test_what_a_buckets_policy_says_of_log_delivery(members: dict[str, Any], forbidden: bool) -> None:
    assert forbids_delivery(bucket_policy(**members), BUCKET, LAYOUT) is forbidden


def test_a_policy_that_forbids_log_delivery_is_kept(weed: Seaweed) -> None:
    client = weed.client(OWNER)
    client.create_bucket(Bucket="forbidden")
    document = bucket_policy(Resource="arn:aws:s3:::forbidden/*")
    client.put_bucket_policy(Bucket="forbidden", Policy=document)
    assert not s3(weed.url).admits_delivery("forbidden", LAYOUT, lambda: True)
    assert not s3(weed.url, bucket_policies=False).admits_delivery("forbidden", LAYOUT, lambda: True)
    assert policy_of(client, "forbidden") == json.loads(document)


def policy_of(client: Any, bucket: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])
    return found


def aws_statements(bucket: str, top: str) -> list[dict[str, Any]]:
    """VPC user guide, "Amazon S3 bucket permissions for flow logs", without what it leaves open."""
    where = {"aws:SourceArn": "arn:aws:logs:us-east-1:123456789012:*"}
    whose = {"aws:SourceAccount": "123456789012"}
    return [
        {
            "Sid": "AWSLogDeliveryWrite", "Effect": "Allow", "Principal": DELIVERY, "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{bucket}/{top}/*",
            "Condition": {
                "StringEquals": {**whose, "s3:x-amz-acl": "bucket-owner-full-control"}, "ArnLike": where,
            },
        },
        {
            "Sid": "AWSLogDeliveryAclCheck", "Effect": "Allow", "Principal": DELIVERY, "Action": "s3:GetBucketAcl",
            "Resource": f"arn:aws:s3:::{bucket}", "Condition": {"StringEquals": whose, "ArnLike": where},
        },
    ]  # fmt: skip


def test_a_bucket_gets_the_policy_that_aws_gives_it_beside_its_owners_statements(weed: Seaweed) -> None:
    client = weed.client(OWNER)
    client.create_bucket(Bucket="kept")
    store = s3(weed.url)
    assert store.admits_delivery("kept", LAYOUT, lambda: True)
    first = aws_statements("kept", "net/AWSLogs/123456789012")
    assert policy_of(client, "kept") == {"Version": "2012-10-17", "Statement": first}
    assert store.admits_delivery("kept", LAYOUT, lambda: False), "nothing is missing"
    own = {
        "Sid": "Ours", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject",
        "Resource": "arn:aws:s3:::kept/*", "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }  # fmt: skip
    client.put_bucket_policy(Bucket="kept", Policy=json.dumps({"Version": "2012-10-17", "Statement": [own, *first]}))
    hive = Layout("a*b", "123456789012", "us-east-1", hive_compatible=True)
    assert not store.admits_delivery("kept", hive, lambda: False), "the caller may not change the policy"
    assert policy_of(client, "kept")["Statement"] == [own, *first]
    assert store.admits_delivery("kept", hive, lambda: True)
    [write, _] = aws_statements("kept", "a${*}b/AWSLogs/aws-account-id=123456789012")
    assert policy_of(client, "kept")["Statement"] == [own, *first, {**write, "Sid": "AWSLogDeliveryWrite1"}]
    assert store.admits_delivery("kept", hive, lambda: False)
    assert put(store.presign(replace(upload("net/AWSLogs/a"), bucket="kept")))[0] == 200, "our own uploads go on"


@pytest.mark.parametrize("more", [{"bucket_policies": False}, {"reader": True}])
def test_a_policy_that_we_may_not_or_shall_not_change_stays(
    weed: Seaweed, monkeypatch: pytest.MonkeyPatch, more: dict[str, bool]
) -> None:
    client = weed.client(OWNER)
    with contextlib.suppress(ClientError):
        client.delete_bucket_policy(Bucket=BUCKET)
    if more.pop("reader", False):
        for name, value in weed.environment(READER).items():
            monkeypatch.setenv(name, value)
    assert s3(weed.url, **more).admits_delivery(BUCKET, LAYOUT, lambda: True)
    with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
        client.get_bucket_policy(Bucket=BUCKET)


def test_aws_itself_is_let_in_only_where_that_is_asked_for() -> None:
    """The statements would admit the real service, for the real account of that number."""
    assert not S3(S3Settings())._adds_to_policies
    assert S3(S3Settings(bucket_policies=True))._adds_to_policies


def test_a_policy_that_aws_does_not_add_to_refuses_the_flow_log() -> None:
    """VPC user guide: NotPrincipal and NotAction; and a policy has at most 20 KB."""
    closed = {"Effect": "Deny", "NotPrincipal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "s3:*"}
    closed["Resource"] = f"arn:aws:s3:::{BUCKET}/*"
    document = json.dumps({"Version": "2012-10-17", "Statement": closed})
    with pytest.raises(ClosedPolicy):
        with_delivery(document, BUCKET, LAYOUT)
    right = json.dumps({"Version": "2012-10-17", "Statement": [closed, *delivery_statements(BUCKET, LAYOUT)]})
    assert with_delivery(right, BUCKET, LAYOUT) is None
    with pytest.raises(PolicyIsFull):
        with_delivery(bucket_policy(Resource=["arn:aws:s3:::other/" + "x" * 200] * 100), BUCKET, LAYOUT)
    with pytest.raises(PolicyError):
        with_delivery("nonsense", BUCKET, LAYOUT)


def test_an_endpoint_that_does_not_answer_is_no_bucket_that_is_missing() -> None:
    assert s3("http://127.0.0.1:9").presence(BUCKET, "") is Presence.UNKNOWN


@pytest.mark.parametrize(
    "key", ["plain/a", "100%/a", "%2e%2e/a", "ü ñ/日本/a", "a b+c=d&e/a", "q?[1]*#/a", "x/AWSLogs/a"]
)
def test_a_signed_request_puts_the_object_at_its_key(weed: Seaweed, key: str) -> None:
    assert put(s3(weed.url).presign(upload(f"signed/{key}")))[0] == 200
    assert stored(weed, f"signed/{key}") == {f"signed/{key}": BODY}


def test_a_signed_request_is_for_one_key_one_length_and_one_content(weed: Seaweed) -> None:
    signed = s3(weed.url).presign(upload("bound/a"))
    other = BODY[::-1]
    for status, text in (
        put(signed, other),
        put(signed, BODY + b"x", **{"content-length": str(len(BODY) + 1)}),
        put(signed, other, **{"content-md5": upload("x", other).md5}),
        put(signed, **{"x-amz-acl": "public-read"}),
        put(PresignedRequest("PUT", signed.url.replace("bound/a", "bound/b"), signed.headers)),
    ):
        assert status in (400, 403), text
    assert stored(weed, "bound/") == {}
    assert put(signed)[0] == 200


def test_the_key_of_the_bucket_is_in_no_request(weed: Seaweed) -> None:
    signed = s3(weed.url).presign(upload("secret/a"))
    assert OWNER[1] not in signed.url + str(signed.headers)


def test_without_credentials_nothing_is_signed_and_the_reason_is_said(
    weed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(HostError, match="credentials"):
        s3(weed.url).presign(upload("a"))
    assert s3(weed.url).presence(BUCKET, "") is Presence.UNKNOWN


def test_a_profile_of_a_credentials_file(weed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "keys"
    file.write_text(f"[logs]\naws_access_key_id = {OWNER[0]}\naws_secret_access_key = {OWNER[1]}\n")
    buckets = s3(weed.url, profile="logs", credentials_file=str(file))
    assert put(buckets.presign(upload("profile/a")))[0] == 200
    with pytest.raises(HostError, match="other"):
        s3(weed.url, profile="other", credentials_file=str(file))


def test_amazons_own_buckets_are_addressed_by_their_names() -> None:
    """S3 user guide, virtual hosting of buckets; no request is made for a region that is known."""
    buckets = S3(S3Settings(None, "eu-central-1"))
    buckets._regions[BUCKET] = "ap-southeast-2"
    assert buckets.presign(upload("a/b")).url.startswith(f"https://{BUCKET}.s3.ap-southeast-2.amazonaws.com/a/b?")


def test_which_endpoint_an_option_means(tmp_path: Path) -> None:
    def opened(endpoint: str | None, **settings: str) -> Any:
        return open_buckets(
            endpoint, S3Settings(**settings), folder=tmp_path / "own", url="http://here", region="us-east-1"
        )

    assert opened(None).root == tmp_path / "own"
    assert opened(f"file:{tmp_path}").root == opened(f"file://{tmp_path}").root == tmp_path
    assert isinstance(opened(f"file:{tmp_path}"), Folder)
    assert isinstance(opened("aws"), S3)
    assert opened("https://s3.example:9000")._settings.endpoint_url == "https://s3.example:9000"
    for endpoint in ("s3.example", "ftp://x", "file:relative", f"file:{tmp_path}/nowhere"):
        with pytest.raises(InputError, match="--s3-endpoint"):
            opened(endpoint)
    with pytest.raises(InputError, match="region"):
        opened(None, region="us-east-1")


@pytest.mark.parametrize(
    ("folder", "out"),
    [
        ("", False),
        ("a/..", False),
        ("a/../b/", False),
        ("..a/", False),
        ("..", True),
        ("a/../..", True),
        ("./..", True),
    ],
)
def test_dots_that_lead_out_of_a_bucket(folder: str, out: bool) -> None:
    """S3 user guide, object key names: valid where, from left to right, there are never more `..` than other parts."""
    assert leads_out(folder) is out


# --- from the outbox, through a network that fails ---


class Uploading:
    """An outbox, a courier and a signer, as in an agent and its server."""

    def __init__(self, folder: Path, url: str, prefix: str) -> None:
        self.folder, self.prefix, self.signer = folder, prefix, s3(url)
        self.statuses: list[tuple[str, str | None]] = []
        self.open()

    def open(self) -> None:
        self.outbox = Outbox(self.folder / "uploads")
        self.dropped = DroppedCounts(self.folder / "dropped.json")
        self.outbox.count_in(self.dropped)
        self.courier: Courier[SlotFile, SlotFile] = Courier(
            self.outbox, Buckets(self.presign).deliver, workers=4, backoff_seconds=0.02, backoff_seconds_max=0.1,
            on_status=lambda: self.statuses.append(self.courier.statuses().get("fl-1", ("", None))),
        )  # fmt: skip
        self.courier.start()

    def presign(self, asked: Any) -> dict[str, Any]:
        key = f"{self.prefix}/{asked['slot_s']}_{asked['name_hash']}"
        return vars(self.signer.presign(Upload(BUCKET, key, asked["length"], asked["md5"], asked["sha256"])))

    def add(self, number: int, body: bytes = BODY) -> str:
        name_hash = f"{number:08x}"

        def write(file: Any) -> Any:
            file.write(body)
            return 10, 1_000 + number, {"eni-1-all": Share(1, 10, 100, 1000)}, [f"batch-{number}"]

        made = self.outbox.add("fl-1", SLOT_S, name_hash, "plain-text", write)
        assert made is not None
        self.outbox.show(made)
        self.courier.wake()
        return f"{self.prefix}/{SLOT_S}_{name_hash}"

    def close(self) -> None:
        self.courier.stop(5)


@pytest.fixture
def start(tmp_path: Path, proxy: FaultProxy) -> Iterator[Callable[[str], Uploading]]:
    running: list[Uploading] = []

    def make(prefix: str) -> Uploading:
        running.append(Uploading(tmp_path, proxy.url, prefix))
        return running[-1]

    yield make
    for one in running:
        one.close()


def until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["slow-down"] * 3, "Rate limited"),
        (["internal", "reset", "html"], "Unknown error"),
        (["taken-then-reset", "taken-then-reset"], "Unknown error"),
        (["denied"] * 2, "Access error"),
        (["no-bucket"] * 2, "Access error"),
        (["expired"], "Unknown error"),
        (["other-region"], "Unknown error"),
    ],
)
def test_a_file_arrives_once_whatever_fails_before(
    start: Callable[[str], Uploading], proxy: FaultProxy, weed: Seaweed, faults: list[str], message: str
) -> None:
    uploading = start(f"faults-{'-'.join(faults)}")
    proxy.faults = list(faults)
    key = uploading.add(1)
    assert uploading.courier.wait_until_empty(20)
    assert stored(weed, uploading.prefix) == {key: BODY}
    assert proxy.requests[f"/{BUCKET}/{key}"] == len(faults) + 1, "the same key each time"
    assert ("FAILED", message) in uploading.statuses
    until(lambda: uploading.courier.statuses()["fl-1"] == ("SUCCESS", None))
    assert list((uploading.folder / "uploads").iterdir()) == []
    assert uploading.dropped.to_json() == []
    counters = uploading.courier.counters()["fl-1"]
    assert (counters["batches"], counters["events"]["accepted"]) == (1, 10)


def test_what_is_not_what_was_written_is_dropped_and_counted(
    start: Callable[[str], Uploading], proxy: FaultProxy, weed: Seaweed
) -> None:
    uploading = start("digest")
    proxy.faults = ["digest"]
    uploading.add(1)
    until(lambda: uploading.dropped.to_json())
    [lost] = uploading.dropped.to_json()
    assert (lost["stream"], lost["reason"], lost["packets"], lost["untold_packets"]) == (
        "eni-1-all",
        "refused",
        100,
        100,
    )
    assert stored(weed, uploading.prefix) == {}


def test_an_outage_is_outlived_and_a_restart_in_it(
    start: Callable[[str], Uploading], proxy: FaultProxy, weed: Seaweed, tmp_path: Path
) -> None:
    proxy.always = "slow-down"
    first = start("outage")
    keys = {first.add(number, b"%d" % number + BODY) for number in range(6)}
    until(lambda: proxy.requests.total() >= 3)
    first.close()
    again = start("outage")
    assert again.outbox.counters()["files"] == 6
    assert again.outbox.taken == {f"batch-{number}" for number in range(6)}
    proxy.always = None
    again.courier.wake()
    assert again.courier.wait_until_empty(20)
    assert set(stored(weed, "outage")) == keys


def test_a_failing_destination_is_tried_by_one_call_at_a_time(
    start: Callable[[str], Uploading], proxy: FaultProxy
) -> None:
    proxy.always = "slow-down"
    uploading = start("throttled")
    for number in range(20):
        uploading.add(number)
    until(lambda: uploading.courier.counters().get("fl-1", {}).get("failures", 0) >= 2)
    before = proxy.requests.total()
    time.sleep(0.5)
    assert proxy.requests.total() - before < 30, "waits between the tries, and no crowd"


# --- what a refusal means ---


def xml(code: str, message: str = "") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "said", "meaning"),
    [
        (503, xml("SlowDown"), RateLimitedError),
        (503, xml("ServiceUnavailable"), DestinationUnavailable),
        (429, b"", RateLimitedError),
        (500, xml("InternalError"), DestinationUnavailable),
        (403, xml("AccessDenied", "Access Denied"), AccessError),
        (403, xml("AccessDenied", "Request has expired"), DestinationUnavailable),
        (403, xml("RequestTimeTooSkewed"), DestinationUnavailable),
        (403, xml("SignatureDoesNotMatch"), AccessError),
        (403, xml("InvalidAccessKeyId"), AccessError),
        (404, xml("NoSuchBucket"), AccessError),
        (404, b"<html>not found</html>", DestinationUnavailable),
        (301, xml("PermanentRedirect"), DestinationUnavailable),
        (307, xml("TemporaryRedirect"), DestinationUnavailable),
        (400, xml("BadDigest"), BatchRefused),
        (400, xml("XAmzContentSHA256Mismatch"), BatchRefused),
        (400, xml("EntityTooLarge"), BatchRefused),
        (400, xml("InvalidRequest"), DeliveryError),
        (400, xml("KMS.DisabledException"), DeliveryError),
        (400, b"\xff\xfe garbage", DestinationUnavailable),
        (409, xml("OperationAborted"), DestinationUnavailable),
    ],
)
def test_refusals(status: int, said: bytes, meaning: type[DeliveryError]) -> None:
    error = upload_error("http://s3/b/k", status, said)
    assert type(error) is meaning
    assert "http://s3/b/k" in error.message


def test_an_answer_of_the_server_that_is_no_request_is_no_end(tmp_path: Path) -> None:
    file = SlotFile(0, "fl-1", SLOT_S, "00000000", "plain-text", 1, 1, "00", "00", tmp_path / "x", {})
    for answer in ({}, {"method": "PUT", "url": "http://x", "headers": None}):
        with pytest.raises(DestinationUnavailable, match="no request"):
            Buckets(lambda _, answer=answer: answer).deliver(file)  # type: ignore[misc]
    assert threading.active_count() < 100
