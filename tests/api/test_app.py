"""The life of a request: who is let in, what is bounded, what is logged, what is never told."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import event
from starlette.requests import Request

from vnotch.api.access_log import AccessEntry, AccessLog
from vnotch.api.exchange import Exchange, Limits
from vnotch.api.own_routes import SignedRequest, signed_route
from vnotch.api.service import ApiError, Call, Service, operation
from vnotch.api.wire import dialect as dialects
from vnotch.errors import HostError, InputError, LimitError
from vnotch.iam import sigv4
from vnotch.iam.chunked import SIGNED

WHO = b"Action=GetCallerIdentity&Version=2011-06-15"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
VPCS = b"Action=DescribeVpcs&Version=2016-11-15"


class Ec2Part(Service):
    """As much of EC2 as these tests need."""

    name = "ec2"
    model = "ec2"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.gate = threading.Event()
        self.gate.set()

    @operation("DescribeVpcs")
    def describe_vpcs(self, call: Call) -> dict[str, Any]:
        self.calls.append(call)
        assert self.gate.wait(20)
        return {"Vpcs": [{"VpcId": "vpc-1"}]}

    @operation("CreateVpc")
    def create_vpc(self, call: Call) -> dict[str, Any]:
        raise RuntimeError("the secret of the inside")

    @operation("DeleteVpc")
    def delete_vpc(self, call: Call) -> dict[str, Any]:
        errors = {
            "in": InputError("not so"),
            "limit": LimitError("too many"),
            "host": HostError("no room", "make some"),
        }
        raise errors[call.params["VpcId"]]

    @operation("CreateSubnet", lambda call: [f"arn:aws:ec2:{call.region}:{call.account}:vpc/{call.params['VpcId']}"])
    def create_subnet(self, call: Call) -> dict[str, Any]:
        return {}


class LogsPart(Service):
    name = "logs"
    model = "logs"

    @operation("DescribeLogGroups")
    def describe_log_groups(self, call: Call) -> dict[str, Any]:
        return {"logGroups": []}


@pytest.fixture
def ec2(api: Any) -> Ec2Part:
    part = Ec2Part()
    api.serve(part, LogsPart())
    return part


def code_of(answer: httpx.Response) -> str:
    if answer.text.startswith("{"):
        return answer.json()["__type"]
    found = re.search("<Code>(.*?)</Code>", answer.text)
    assert found, answer.text
    return found[1]


JSON = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "Logs_20140328.DescribeLogGroups"}


def test_each_service_words_bad_credentials_in_its_own_way(api: Any, ec2: Ec2Part) -> None:
    key_id, secret = api.administrator_key
    unknown, wrong = ("AKIAUNKNOWNUNKNOWN00", secret), (key_id, "x" * 40)
    old = time.time() - 3600
    table = [
        # service, body, headers, then (code, status) unsigned, of an unknown key, a wrong secret, an old signature
        ("ec2", VPCS, {}, ("AuthFailure", 401), ("AuthFailure", 401), ("AuthFailure", 401), ("RequestExpired", 400)),
        (
            "sts",
            WHO,
            {},
            ("MissingAuthenticationToken", 403),
            ("InvalidClientTokenId", 403),
            ("SignatureDoesNotMatch", 403),
            ("SignatureDoesNotMatch", 403),
        ),
        (
            "logs",
            b"{}",
            JSON,
            ("MissingAuthenticationTokenException", 400),
            ("UnrecognizedClientException", 400),
            ("InvalidSignatureException", 400),
            ("InvalidSignatureException", 400),
        ),
    ]
    for service, body, headers, *expected in table:
        answers = [
            api.send(service, body, (), headers=headers),
            api.send(service, body, unknown, headers=headers),
            api.send(service, body, wrong, headers=headers),
            api.send(service, body, headers=headers, now_s=old),
        ]
        assert [(code_of(answer), answer.status_code) for answer in answers] == expected
        assert api.send(service, body, headers=headers).status_code == 200
    assert len(ec2.calls) == 1


def test_iam_is_signed_for_one_region_of_the_world_and_others_for_ours(api: Any, ec2: Ec2Part) -> None:
    assert api.client("iam", region="us-east-1").list_roles()["Roles"] == []
    with pytest.raises(Exception, match="AuthFailure"):
        api.client("ec2", region="eu-west-1").describe_vpcs()


def test_presigned_queries_work(api: Any) -> None:
    url = api.client("sts").generate_presigned_url("get_caller_identity", ExpiresIn=60, HttpMethod="GET")
    assert "user/administrator" in httpx.get(url).text
    assert code_of(httpx.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"))) == "SignatureDoesNotMatch"
    assert code_of(httpx.get(url + "&Action=ListRoles")) == "SignatureDoesNotMatch"


def test_a_body_in_signed_chunks(api: Any) -> None:
    key_id, secret = api.administrator_key
    parts = api.endpoint.partition("//")[2]
    headers = {
        "host": parts,
        "content-type": "application/x-www-form-urlencoded",
        "content-encoding": "aws-chunked",
        "x-amz-content-sha256": SIGNED,
        "x-amz-decoded-content-length": str(len(WHO)),
    }
    request = sigv4.Request("POST", "/", "", list(headers.items()), SIGNED)
    headers |= sigv4.sign(request, key_id, secret, now_s=time.time(), region="us-east-1", service="sts")
    seed = sigv4.read_signature(list(headers.items()), "")
    key = sigv4.signing_key(secret, seed.date, "us-east-1", "sts")
    body, previous = b"", seed.signature
    for data in (WHO, b""):
        empty, digest = hashlib.sha256(b"").hexdigest(), hashlib.sha256(data).hexdigest()
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{seed.time}\n{seed.scope}\n{previous}\n{empty}\n{digest}"
        previous = hmac.new(key, text.encode(), "sha256").hexdigest()
        body += f"{len(data):x};chunk-signature={previous}\r\n".encode() + data + b"\r\n"
    assert "user/administrator" in httpx.post(api.endpoint, content=body, headers=headers).text
    changed = body.replace(b"GetCallerIdentity", b"GetSessionToken__")
    assert code_of(httpx.post(api.endpoint, content=changed, headers=headers)) == "SignatureDoesNotMatch"
    assert code_of(httpx.post(api.endpoint, content=body[:-20], headers=headers)) == "IncompleteSignature"
    plain = {**headers, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    assert code_of(httpx.post(api.endpoint, content=body, headers=plain)) == "MalformedQueryString"


def test_request_ids_are_in_header_body_and_log(api: Any, ec2: Ec2Part) -> None:
    for service, body, headers in (("ec2", VPCS, {}), ("sts", WHO, {}), ("logs", b"{}", JSON)):
        answer = api.send(service, body, headers=headers)
        request_id = answer.headers["x-amzn-requestid"]
        assert answer.headers["x-amz-request-id"] == request_id
        if service != "logs":
            assert request_id in answer.text
        entry = api.access_log.recent(request_id)[0]
        assert (entry.status, entry.service) == (200, service)
        assert entry.principal_arn.endswith("user/administrator")
    lines = [json.loads(line) for line in (api.folder / "access.log").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["ec2:DescribeVpcs", "sts:GetCallerIdentity", "logs:DescribeLogGroups"]


def test_the_access_log_tells_the_decision_and_no_secret(api: Any, ec2: Ec2Part) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="ana")
    key = iam.create_access_key(UserName="ana")["AccessKey"]
    pair = (key["AccessKeyId"], key["SecretAccessKey"])
    body = b"Action=CreateSubnet&Version=2016-11-15&VpcId=vpc-7&CidrBlock=10.0.0.0/24"
    assert code_of(api.send("ec2", body, pair)) == "UnauthorizedOperation"
    entry = api.access_log.recent()[-1]
    assert (entry.decision, entry.error_code, entry.status) == ("implicitDeny", "UnauthorizedOperation", 403)
    assert entry.resources == ("arn:aws:ec2:us-east-1:123456789012:vpc/vpc-7",)
    api.send("ec2", body)
    entry = api.access_log.recent()[-1]
    assert (entry.decision, entry.decided_by) == ("allowed", "AdministratorAccess, statement 1")
    text = (api.folder / "access.log").read_text()
    for secret in (pair[1], api.administrator_key[1]):
        assert secret not in text
    assert (api.folder / "access.log").stat().st_mode & 0o077 == 0


def test_dry_run_is_answered_after_authorisation(api: Any, ec2: Ec2Part) -> None:
    answer = api.send("ec2", VPCS + b"&DryRun=true")
    assert (code_of(answer), answer.status_code) == ("DryRunOperation", 412)
    assert "Request would have succeeded, but DryRun flag is set." in answer.text
    key = api.accounts.make_agent_key("a")
    assert code_of(api.send("ec2", VPCS + b"&DryRun=true", key)) == "UnauthorizedOperation"
    assert not ec2.calls


def test_what_nobody_meant_is_logged_and_not_told(api: Any, ec2: Ec2Part, caplog: pytest.LogCaptureFixture) -> None:
    answer = api.send("ec2", b"Action=CreateVpc&Version=2016-11-15&CidrBlock=10.0.0.0/16")
    assert (code_of(answer), answer.status_code) == ("InternalError", 500)
    assert "secret of the inside" not in answer.text
    assert "Traceback" not in answer.text
    record = next(record for record in caplog.records if record.exc_info)
    assert answer.headers["x-amzn-requestid"] in record.getMessage()
    assert code_of(api.send("ec2", b"Action=DeleteVpc&Version=2016-11-15&VpcId=in")) == "InvalidParameterValue"
    assert code_of(api.send("ec2", b"Action=DeleteVpc&Version=2016-11-15&VpcId=limit")) == "RequestLimitExceeded"


def test_a_host_that_is_in_the_way_is_said_in_one_line(
    api: Any, ec2: Ec2Part, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api.send("ec2", b"Action=DeleteVpc&Version=2016-11-15&VpcId=host")
    assert (code_of(answer), answer.status_code) == ("Unavailable", 503)
    assert "no room (make some)" in answer.text
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "no room" in record.getMessage()
    assert record.exc_info is None


def test_a_full_disk_is_no_mistake_of_the_server(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    def send(service: str, query: str) -> httpx.Response:
        return api.send(service, query.encode())

    def fill(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite takes its present size: SQLITE_FULL from here on

    role = "Action=CreateRole&Version=2010-05-08&AssumeRolePolicyDocument="
    role += quote(json.dumps(TRUST | {"Id": "x" * 1500}), safe="")
    assert send("iam", f"{role}&RoleName=before").status_code == 200
    event.listen(api.state.engine, "checkout", fill)
    try:
        answers = [send("iam", f"{role}&RoleName=full{number}") for number in range(20)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused, "the disk was not full"
        assert {(code_of(answer), answer.status_code) for answer in refused} == {("ServiceUnavailable", 503)}
        assert "make room" in refused[-1].text
        assert send("iam", "Action=ListRoles&Version=2010-05-08").status_code == 200
    finally:
        event.remove(api.state.engine, "checkout", fill)
    api.state.engine.dispose()
    assert send("iam", f"{role}&RoleName=after").status_code == 200
    assert not any(record.exc_info for record in caplog.records)


def test_an_access_log_that_cannot_be_written_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    log = AccessLog(path)
    for number in range(5):
        log.add(AccessEntry(number, f"r{number}", "", "GET"))
    path.unlink()
    log.add(AccessEntry(5, "r5", "", "GET"))
    log.add(AccessEntry(6, "r6", "", "GET"))
    log.close()
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["r5", "r6"]
    assert [record.getMessage() for record in caplog.records] == [
        "the access log cannot be written: [Errno 28] No space left on device",
        "the access log is written again; 5 lines are missing",
    ]
    assert "Traceback" not in capsys.readouterr().err


def test_services_that_are_not_here(api: Any) -> None:
    answer = api.send("s3", b"", method="GET", path="/bucket")
    assert (answer.status_code, code_of(answer)) == (400, "InvalidAction")
    assert "served here: iam, sts" in answer.text
    # Without a key not even that is told.
    assert "served here" not in api.send("s3", b"", ("AKIAUNKNOWN", "x"), method="GET", path="/bucket").text
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert httpx.request(method, api.endpoint + "/any").status_code == 403
    assert (
        httpx.post(api.endpoint, content=b"{}", headers=JSON).json()["__type"] == "MissingAuthenticationTokenException"
    )


# --- bounds ---


def raw(api: Any, data: bytes, wait_seconds: float = 15) -> bytes:
    """What the server says to bytes, until it closes or is silent."""
    host, port = api.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait_seconds) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


def test_a_body_that_says_it_is_too_large_is_not_read(api: Any) -> None:
    head = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999\r\n\r\n"
    answer = raw(api, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"RequestEntityTooLarge" in answer


def test_a_body_that_grows_too_large_is_cut(api: Any) -> None:
    api.limits = Limits(body_bytes=10_000)
    chunks = b"".join(b"1000\r\n" + b"x" * 0x1000 + b"\r\n" for _ in range(4))
    answer = raw(api, b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert api.send("sts", WHO).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(api: Any) -> None:
    api.limits = Limits(body_seconds=0.3)
    start = time.monotonic()
    answer = raw(api, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"RequestTimeout" in answer
    assert time.monotonic() - start < 5


def test_a_head_that_does_not_end_is_not_waited_for(api: Any) -> None:
    api.limits = Limits(head_seconds=0.3)
    assert raw(api, b"POST / HTTP/1.1\r\nhost: h\r\nx: ").startswith(b"HTTP/1.1 408")
    assert raw(api, b"").startswith(b"HTTP/1.1 408")
    # The second request of a connection has the same time.
    first = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    answer = raw(api, first + b"GET / HT")
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"408 Request Timeout" in answer or answer.count(b"HTTP/1.1") == 1


def test_connections_beyond_the_bound_are_turned_away_and_those_before_go_on(api: Any) -> None:
    api.limits = Limits(connections=40)
    assert api.send("sts", WHO).status_code == 200
    port = int(api.endpoint.rpartition(":")[2])
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(60)]
    try:
        waiting[-1].settimeout(10)
        assert waiting[-1].recv(100).startswith(b"HTTP/1.1 503")
        waiting[0].sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert waiting[0].recv(100).startswith(b"HTTP/1.1 403")
    finally:
        for connection in waiting:
            connection.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if api.send("sts", WHO).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    pytest.fail("the server does not come back")


def test_heads_that_are_too_large(api: Any) -> None:
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(200))
    assert raw(api, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n" + many + b"\r\n").startswith(b"HTTP/1.1 413")
    wide = b"x: " + b"a" * 40_000 + b"\r\n"
    assert raw(api, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n" + wide + b"\r\n").startswith(b"HTTP/1.1 413")
    endless = b"x: " + b"a" * 200_000
    # What is still on its way when the server closes may take the answer with it (a TCP reset).
    assert raw(api, b"GET / HTTP/1.1\r\nhost: h\r\n" + endless)[:10] in (b"HTTP/1.1 4", b"")
    assert raw(api, b"\x16\x03\x01garbage\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert api.send("sts", WHO).status_code == 200


def test_compressed_bodies_are_refused(api: Any) -> None:
    answer = api.send("sts", b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert 400 <= answer.status_code < 500


def test_more_requests_than_may_wait_are_turned_away_and_the_rest_are_answered(api: Any, ec2: Ec2Part) -> None:
    api.limits = Limits(threads=2, waiting=2)
    ec2.gate.clear()
    assert api.endpoint
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(api.send, "ec2", VPCS) for _ in range(6)]
        deadline = time.monotonic() + 10
        while sum(future.done() for future in answers) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ec2.gate.set()
    statuses = sorted(future.result().status_code for future in answers)
    assert statuses == [200, 200, 200, 200, 503, 503]
    assert api.send("ec2", VPCS).status_code == 200


# --- our own routes ---


async def greet(request: SignedRequest) -> dict[str, Any]:
    request.authorise(
        "vnotch:GetConfiguration", f"arn:aws:vnotch:us-east-1:123456789012:agent/{request.path_params['a']}"
    )
    if request.json().get("fail"):
        raise ApiError("NoSuchAgent", "there is none", 404)
    return {"hello": request.principal.name, "query": request.query_params}


async def forgetful(request: SignedRequest) -> dict[str, Any]:
    return {"secret": 1}


def test_a_signed_route(api: Any) -> None:
    api.serve(
        routes=[signed_route("/vnotch/v1/agents/{a}", greet, ["GET", "POST"]), signed_route("/forgetful", forgetful)]
    )
    mine, path = api.accounts.make_agent_key("host-1"), "/vnotch/v1/agents/host-1"
    answer = api.send("vnotch", b"", mine, method="GET", path=path, query="x=1")
    assert (answer.status_code, answer.json()) == (200, {"hello": "host-1", "query": {"x": "1"}})
    assert api.access_log.recent()[-1].action == "vnotch:GetConfiguration"
    cases = [
        (api.send("vnotch", b"", mine, method="GET", path=path + "0"), 400, "AccessDeniedException"),
        (api.send("vnotch", b"", (), method="GET", path=path), 400, "MissingAuthenticationTokenException"),
        (api.send("ec2", b"", mine, method="GET", path=path), 400, "InvalidSignatureException"),
        (api.send("vnotch", b'{"fail": 1}', mine, path=path), 404, "NoSuchAgent"),
        (api.send("vnotch", b"[", mine, path=path), 400, "SerializationException"),
        (api.send("vnotch", b"", method="GET", path="/forgetful"), 500, "InternalFailure"),
    ]
    for got, status, code in cases:
        assert (got.status_code, got.json()["__type"]) == (status, code)


# --- the aws CLI ---


def test_the_aws_cli(api: Any, tmp_path: Path) -> None:
    key_id, secret = api.administrator_key
    environment = {
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    aws = [str(Path(sys.executable).parent / "aws"), "--endpoint-url", api.endpoint, "--output", "json"]
    command = [sys.executable, *aws, "sts", "get-caller-identity"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["Arn"] == "arn:aws:iam::123456789012:user/administrator"


@pytest.mark.parametrize(
    ("peer", "remote"), [("::ffff:10.0.0.7", "10.0.0.7"), ("10.0.0.7", "10.0.0.7"), ("::1", "::1")]
)
def test_a_client_of_ipv4_has_its_plain_address_on_a_socket_of_both_families(peer: str, remote: str) -> None:
    """Policies say aws:SourceIp in it."""
    scope = {
        "type": "http", "method": "POST", "scheme": "http", "path": "/", "query_string": b"", "headers": [],
        "client": (peer, 1),
    }  # fmt: skip
    exchange = Exchange.begin(Request(scope), dialects.QUERY)
    assert exchange.circumstances().remote == exchange.entry.remote == remote
