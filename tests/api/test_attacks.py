"""A table of attacks on who may do what, each against a running server with agents, flow logs and log groups; each is
refused, and leaves its line in the access log.

Two agents, `a` and `b`, have an interface each; a flow log on each interface delivers to its own group under its own
role. Eve is a user with no policies, and Ana one who may look at flow logs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from lakes import new_lake
from policies import allow
from shared_clients import PLAIN_HTTP
from test_agents import Client
from test_iam import session_key, user_key

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.logs import Logs
from vnotch.iam import sigv4
from vnotch.iam.delivery_role import ensure_delivery_role

ACCOUNT = "123456789012"


@dataclass
class World:
    api: Any
    keys: dict[str, tuple[str, ...]]  # agents a and b, users ana and eve, and the session of a's delivery
    flow_logs: dict[str, str]
    roles: dict[str, str]
    interfaces: dict[str, str]

    def client(self, service: str, who: str) -> Any:
        return self.api.client(service, self.keys[who])


@pytest.fixture(scope="module")
def world(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    api = shared_api
    lake = new_lake(tmp_path_factory.mktemp("lake") / "lake")
    agents = Agents(api.state, api.accounts)
    api.flow_log_for = agents.flow_log_for
    api.serve(Ec2(api.state, api.accounts), Logs(api.state, lake), routes=agents.routes())
    ec2, admin, iam = api.client("ec2"), Client(api), api.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    keys: dict[str, tuple[str, ...]] = {}
    interfaces, flow_logs, roles = {}, {}, {}
    for name in "ab":
        made = admin.ok("PUT", f"/agents/{name}")
        keys[name] = (made["access_key_id"], made["secret_access_key"])
        interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
        admin.ok("PUT", f"/network-interfaces/{interface}/binding", {"agent": name, "device": f"vn-{name}"})
        asked = {"account": ACCOUNT, "region": "us-east-1", "name": f"deliver-{name}"}
        roles[name] = ensure_delivery_role(iam, [f"/{name}"], **asked)
        flow_logs[name] = ec2.create_flow_logs(
            ResourceIds=[interface],
            ResourceType="NetworkInterface",
            TrafficType="ALL",
            LogGroupName=f"/{name}",
            DeliverLogsPermissionArn=roles[name],
        )["FlowLogIds"][0]
        interfaces[name] = interface
    keys["eve"] = user_key(api, "eve")
    keys["ana"] = user_key(api, "ana", allow("ec2:DescribeFlowLogs"))
    keys["passer"] = user_key(api, "passer", allow("ec2:*"))  # all of EC2 and nothing of IAM
    inside = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    keys["inner"] = user_key(api, "inner", allow("ec2:*", Condition=inside))
    keys["secure"] = user_key(api, "secure", allow("ec2:*", Condition={"Bool": {"aws:SecureTransport": "true"}}))
    session = api.client("sts", keys["a"]).assume_role(RoleArn=roles["a"], RoleSessionName=flow_logs["a"])
    keys["delivery"] = session_key(session["Credentials"])
    logs = api.client("logs", keys["delivery"])
    logs.create_log_group(logGroupName="/a")
    logs.create_log_stream(logGroupName="/a", logStreamName="s")
    api.client("logs").create_log_group(logGroupName="/b")
    api.client("logs").create_log_stream(logGroupName="/b", logStreamName="s")
    yield World(api, keys, flow_logs, roles, interfaces)
    api.stop()
    lake.close()


def put(world: World, who: str, group: str) -> None:
    event = {"timestamp": int(time.time() * 1000), "message": "x"}
    world.client("logs", who).put_log_events(logGroupName=group, logStreamName="s", logEvents=[event])


def assume(world: World, who: str, role: str, session: str, **params: Any) -> None:
    world.client("sts", who).assume_role(RoleArn=role, RoleSessionName=session, **params)


def test_what_the_attacks_imitate_is_allowed(world: World) -> None:
    put(world, "delivery", "/a")
    assume(world, "b", world.roles["b"], world.flow_logs["b"])
    assert world.client("ec2", "ana").describe_flow_logs()["FlowLogs"]
    presigned(world)
    resigned(world)


Attack = Callable[[World], None]
ATTACKS: list[tuple[str, str, Attack]] = [
    # The confused deputy: the service made to act for who has no right to.
    (
        "a deputy: an agent asks for another agent's role",
        "AccessDenied",
        lambda w: assume(w, "a", w.roles["b"], w.flow_logs["b"]),
    ),
    (
        "a deputy: an agent asks for its role in the name of another flow log",
        "AccessDenied",
        lambda w: assume(w, "a", w.roles["a"], w.flow_logs["b"]),
    ),
    (
        "a deputy: an agent asks for another's role in the name of its own flow log",
        "AccessDenied",
        lambda w: assume(w, "a", w.roles["b"], w.flow_logs["a"]),
    ),
    (
        "a deputy: a flow log that is not there",
        "AccessDenied",
        lambda w: assume(w, "a", w.roles["a"], "fl-0123456789abcdef0"),
    ),
    (
        "a deputy: a user asks for the service's role",
        "AccessDenied",
        lambda w: assume(w, "ana", w.roles["a"], w.flow_logs["a"]),
    ),
    (
        "a deputy: even the administrator is not the service",
        "AccessDenied",
        lambda w: w.api.client("sts").assume_role(RoleArn=w.roles["a"], RoleSessionName=w.flow_logs["a"]),
    ),
    (
        "a deputy: the source account in a tag",
        "AccessDenied",
        lambda w: assume(
            w, "ana", w.roles["a"], "fl-1", Tags=[{"Key": "aws:SourceAccount", "Value": ACCOUNT}], ExternalId="fl-1"
        ),
    ),
    # Another agent's interface.
    (
        "another's ENI: an agent reads another's configuration",
        "AccessDeniedException",
        lambda w: own(w, "a", "GET", "/agents/b/configuration"),
    ),
    (
        "another's ENI: an agent reports for another",
        "AccessDeniedException",
        lambda w: own(w, "a", "POST", "/agents/b/status", {}),
    ),
    (
        "another's ENI: an agent binds another's interface to itself",
        "AccessDeniedException",
        lambda w: own(w, "a", "PUT", f"/network-interfaces/{w.interfaces['b']}/binding", {"agent": "a", "device": "x"}),
    ),
    (
        "another's ENI: an agent makes itself a key",
        "AccessDeniedException",
        lambda w: own(w, "a", "PUT", "/agents/b"),
    ),
    (
        "another's ENI: an agent makes a flow log on it",
        "UnauthorizedOperation",
        lambda w: w.client("ec2", "a").create_flow_logs(
            ResourceIds=[w.interfaces["b"]],
            ResourceType="NetworkInterface",
            TrafficType="ALL",
            LogGroupName="/a",
            DeliverLogsPermissionArn=w.roles["a"],
        ),
    ),
    # Another principal's group.
    (
        "another's group: the session of a delivery writes to it",
        "AccessDeniedException",
        lambda w: put(w, "delivery", "/b"),
    ),
    ("another's group: an agent's own key writes", "AccessDeniedException", lambda w: put(w, "a", "/a")),
    (
        "another's group: the session reads its own group",
        "AccessDeniedException",
        lambda w: w.client("logs", "delivery").filter_log_events(logGroupName="/a"),
    ),
    (
        "another's group: the session deletes its own group",
        "AccessDeniedException",
        lambda w: w.client("logs", "delivery").delete_log_group(logGroupName="/a"),
    ),
    (
        "another's group: a name that begins like its own",
        "AccessDeniedException",
        lambda w: w.client("logs", "delivery").create_log_group(logGroupName="/a2"),
    ),
    ("another's group: a user without policies", "AccessDeniedException", lambda w: put(w, "eve", "/a")),
    # Gaining more than one has.
    (
        "more: a user gives itself a policy",
        "AccessDenied",
        lambda w: w.client("iam", "ana").put_user_policy(UserName="ana", PolicyName="p", PolicyDocument=allow("*")),
    ),
    (
        "more: a user attaches itself a policy of AWS's",
        "AccessDenied",
        lambda w: w.client("iam", "ana").attach_user_policy(
            UserName="ana", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
        ),
    ),
    (
        "more: a user makes a key of the administrator",
        "AccessDenied",
        lambda w: w.client("iam", "ana").create_access_key(UserName="administrator"),
    ),
    (
        "more: a session takes its limits off by assuming its role again",
        "AccessDenied",
        lambda w: assume(w, "delivery", w.roles["a"], w.flow_logs["a"]),
    ),
    (
        "more: a role is passed without iam:PassRole",
        "UnauthorizedOperation",
        lambda w: w.client("ec2", "passer").create_flow_logs(
            ResourceIds=[w.interfaces["a"]],
            ResourceType="NetworkInterface",
            TrafficType="ALL",
            LogGroupName="/b",
            DeliverLogsPermissionArn=w.roles["b"],
        ),
    ),
    (
        "more: a denial is decoded by who was denied",
        "AccessDenied",
        lambda w: w.client("sts", "eve").decode_authorization_message(EncodedMessage="x"),
    ),
    (
        "more: an agent looks who has keys",
        "AccessDenied",
        lambda w: w.client("iam", "a").list_users(),
    ),
    # Tokens and keys.
    (
        "tokens: another's token with one's own key",
        "InvalidClientTokenId",
        lambda w: w.api.client("sts", (*w.keys["ana"], w.keys["delivery"][2])).get_caller_identity(),
    ),
    (
        "tokens: a session's key without its token",
        "InvalidClientTokenId",
        lambda w: w.api.client("sts", w.keys["delivery"][:2]).get_caller_identity(),
    ),
    (
        "tokens: a token with a bit changed",
        "InvalidClientTokenId",
        lambda w: w.api.client("sts", (*w.keys["delivery"][:2], flipped(w.keys["delivery"][2]))).get_caller_identity(),
    ),
    (
        "tokens: another's key id with one's own secret",
        "SignatureDoesNotMatch",
        lambda w: w.api.client("sts", (w.keys["ana"][0], w.keys["eve"][1])).get_caller_identity(),
    ),
    # Downgrades.
    ("downgrade: no signature at all", "AuthFailure", lambda w: unsigned(w)),
    ("downgrade: signature version 2", "AuthFailure", lambda w: version_2(w)),
    ("downgrade: an unsigned payload", "AuthFailure", lambda w: resigned(w, payload="UNSIGNED-PAYLOAD")),
    (
        "downgrade: chunks without signatures, outside of TLS",
        "AuthFailure",
        lambda w: resigned(w, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
    ),
    (
        "downgrade: a signature for another service, which gets the request",
        "InvalidAction",
        lambda w: resigned(w, service="iam"),
    ),
    ("downgrade: a signature for another region", "AuthFailure", lambda w: resigned(w, region="eu-west-1")),
    # Replays.
    ("replay: a request of an hour ago", "RequestExpired", lambda w: resigned(w, age_s=3600)),
    ("replay: a request of the future", "RequestExpired", lambda w: resigned(w, age_s=-3600)),
    ("replay: with the time put forward", "AuthFailure", lambda w: resigned(w, age_s=3600, date_forward=True)),
    ("replay: on another path", "AuthFailure", lambda w: resigned(w, path="/other")),
    ("replay: with another body", "AuthFailure", lambda w: resigned(w, other_body=b"Action=DeleteVpc&VpcId=vpc-1")),
    ("replay: a session that has ended", "RequestExpired", lambda w: ended_session(w).describe_vpcs()),
    ("replay: a URL that has ended", "RequestExpired", lambda w: presigned(w, age_s=120)),
    ("replay: a URL for another hour than it was signed for", "AuthFailure", lambda w: presigned(w, put_on="3600")),
    ("replay: a URL with a further parameter", "AuthFailure", lambda w: presigned(w, added="&VpcId.1=vpc-1")),
    ("replay: a URL with the action exchanged", "AuthFailure", lambda w: presigned(w, action="DeleteVpc")),
    ("replay: a URL for another method", "AuthFailure", lambda w: presigned(w, method="POST")),
    ("replay: a URL at another service", "SignatureDoesNotMatch", lambda w: presigned(w, scope="/iam/")),
    # Smuggling: what one reader of a request sees and another does not.
    (
        "smuggling: the action twice in the body",
        "MalformedQueryString",
        lambda w: refuse(w.api.send("ec2", VPCS + b"&Action=DeleteVpc")),
    ),
    (
        "smuggling: the action once more, percent-encoded",
        "MalformedQueryString",
        lambda w: refuse(w.api.send("ec2", VPCS + b"&%41ction=DeleteVpc")),
    ),
    (
        "smuggling: another action in the query than in the body",
        "MalformedQueryString",
        lambda w: refuse(w.api.send("ec2", VPCS, query="Action=DeleteVpc&VpcId=vpc-1")),
    ),
    (
        "smuggling: an item of a list numbered twice",
        "MalformedQueryString",
        lambda w: refuse(w.api.send("ec2", VPCS + b"&VpcId.1=vpc-1&VpcId.01=vpc-2")),
    ),
    ("smuggling: a header of AWS's added on the way", "AuthFailure", lambda w: resigned(w, more={"x-amz-target": "x"})),
    ("smuggling: another host", "AuthFailure", lambda w: resigned(w, more={"host": "evil.example"})),
    ("smuggling: a compression added on the way", "MalformedQueryString", lambda w: resigned(w, more=GZIP)),
    (
        "smuggling: an address that a proxy would tell",
        "UnauthorizedOperation",
        lambda w: resigned(w, who="inner", more={"x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}),
    ),
    (
        "smuggling: TLS that a proxy would tell of",
        "UnauthorizedOperation",
        lambda w: resigned(w, who="secure", more={"x-forwarded-proto": "https", "front-end-https": "on"}),
    ),
    # Names that would be patterns.
    ("names: a user called *", "ValidationError", lambda w: unchecked(w, "iam").create_user(UserName="*")),
    (
        "names: a session called *",
        "ValidationError",
        lambda w: unchecked(w, "sts").assume_role(RoleArn=w.roles["a"], RoleSessionName="fl-*"),
    ),
    (
        "names: a tag that is worth *",
        "ValidationError",
        lambda w: unchecked(w, "iam").create_user(UserName="x", Tags=[{"Key": "team", "Value": "*"}]),
    ),
    (
        "names: all roles by a pattern",
        "AccessDenied",
        lambda w: assume(w, "ana", f"arn:aws:iam::{ACCOUNT}:role/*", "fl-1"),
    ),
    (
        "names: a role in digits of another script",
        "AccessDenied",
        lambda w: assume(w, "ana", w.roles["a"].replace("1", "\uff11"), "fl-1"),
    ),
    (
        "names: a group with its slash encoded",
        "InvalidParameterException",
        lambda w: unchecked(w, "logs").filter_log_events(logGroupName="%2Fa"),
    ),
]


def own(world: World, who: str, method: str, path: str, body: Any = None) -> None:
    status, content = Client(world.api, world.keys[who]).send(method, path, body)
    if status >= 400:
        raise Refused(content["__type"])


def flipped(token: str) -> str:
    return token[:60] + ("A" if token[60] != "A" else "B") + token[61:]


class Refused(Exception):
    pass


def refuse(answer: httpx.Response) -> None:
    if answer.status_code >= 400:
        raise Refused(answer.text)


VPCS = b"Action=DescribeVpcs&Version=2016-11-15"
GZIP = {"content-encoding": "gzip"}


def unsigned(world: World) -> None:
    refuse(world.api.send("ec2", VPCS, ()))


def version_2(world: World) -> None:
    key_id, secret = world.api.administrator_key
    client = boto3.client(
        "ec2",
        endpoint_url=world.api.endpoint,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(signature_version="v2", retries={"total_max_attempts": 1}),
    )
    client.describe_vpcs()


def resigned(
    world: World,
    *,
    payload: str = "",
    service: str = "ec2",
    region: str = "us-east-1",
    age_s: float = 0,
    date_forward: bool = False,
    path: str = "/",
    other_body: bytes = VPCS,
    who: str = "",
    more: dict[str, str] | None = None,
) -> None:
    """A request that was rightly signed, by the administrator or `who`, and then was not sent as it was: `more` headers
    came on the way."""
    headers = {"host": world.api.endpoint.split("/")[2], "content-type": "application/x-www-form-urlencoded"}
    digest = payload or hashlib.sha256(VPCS).hexdigest()
    if payload:
        headers["x-amz-content-sha256"] = payload
    if payload.startswith("STREAMING"):
        headers |= {
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(VPCS)),
            "x-amz-trailer": "x-amz-checksum-crc32",
        }
        other_body = f"{len(VPCS):x}\r\n".encode() + VPCS + b"\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    request = sigv4.Request("POST", "/", "", list(headers.items()), digest)
    now_s = time.time() - age_s
    key = world.keys[who] if who else world.api.administrator_key
    headers |= sigv4.sign(request, *key[:2], now_s=now_s, region=region, service=service)
    if date_forward:
        headers["x-amz-date"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers |= more or {}
    refuse(httpx.post(world.api.endpoint + path, content=other_body, headers=headers, verify=PLAIN_HTTP))


def presigned(
    world: World,
    *,
    age_s: float = 0,
    put_on: str = "",
    added: str = "",
    action: str = "",
    method: str = "GET",
    scope: str = "/ec2/",
) -> None:
    """A URL of the administrator's for DescribeVpcs, good for a minute, as it was got hold of and changed."""
    host = world.api.endpoint.split("/")[2]
    digest = hashlib.sha256(b"").hexdigest()
    request = sigv4.Request("GET", "/", VPCS.decode(), [("host", host)], digest)
    key, now_s = world.api.administrator_key, time.time() - age_s
    url = sigv4.presign(request, *key, now_s=now_s, region="us-east-1", service="ec2", seconds=60)
    if put_on:
        url = url.replace("X-Amz-Expires=60", f"X-Amz-Expires={put_on}")
    if action:
        url = url.replace("DescribeVpcs", action)
    url = url.replace("%2Fec2%2F", scope.replace("/", "%2F")) + added
    refuse(httpx.request(method, f"{world.api.endpoint}/?{url}", verify=PLAIN_HTTP))


def ended_session(world: World) -> Any:
    with world.api.state.read() as session:
        role = world.api.accounts.role_by_arn(session, world.roles["a"])
    made = world.api.accounts.make_session(role, world.flow_logs["a"], int(time.time()) - 3601, 3600)
    key = (made.access_key_id, made.secret_access_key, made.session_token)
    return world.api.client("ec2", key)


def unchecked(world: World, service: str) -> Any:
    """The administrator's client, which sends what botocore would not."""
    return world.api.client(service, parameter_validation=False)


@pytest.mark.parametrize(("name", "code", "attack"), ATTACKS, ids=[row[0] for row in ATTACKS])
def test_an_attack_is_refused_and_noted(world: World, name: str, code: str, attack: Attack) -> None:
    before = len(world.api.access_log.recent())
    with pytest.raises((ClientError, Refused)) as caught:
        attack(world)
    assert code in str(caught.value)
    entry = world.api.access_log.recent()[-1]
    assert len(world.api.access_log.recent()) > before
    assert entry.error_code == code or entry.error_code in str(caught.value)
    assert entry.status >= 400
    assert entry.decision != "allowed"


def test_no_secret_and_no_token_is_in_the_access_log(world: World) -> None:
    text = (world.api.folder / "access.log").read_text()
    assert len(text.splitlines()) > 20
    for line in text.splitlines():
        entry = json.loads(line)
        assert {"principal_arn", "action", "resources", "decision"} <= entry.keys()
    secrets = [part for key in world.keys.values() for part in key[1:]] + [world.api.administrator_key[1]]
    assert not [secret for secret in secrets if secret in text]
