"""`vnotch keys`, `vnotch role` and `vnotch why-denied` against a real server; boto3 says what came of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

from tests.cli.running import RunningServer, run
from vnotch.cli.endpoint import Endpoint


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of this module's own: its keys change."""
    running = RunningServer(tmp_path_factory.mktemp("access"))
    yield running
    running.stop()


def vnotch(server: RunningServer, *arguments: str) -> Any:
    return run(*arguments, "--data-dir", server.data_dir)


def iam_of(server: RunningServer) -> Any:
    return Endpoint.find(server.folders).client("iam")


def client(server: RunningServer, service: str, key: dict[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.endpoint.url,
        region_name="us-east-1",
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        aws_session_token=key.get("SessionToken"),
    )


def test_the_administrators_key_is_rotated(own: RunningServer) -> None:
    file = own.folders.credentials
    old = json.loads(file.read_text())
    done = vnotch(own, "keys", "rotate")
    assert done.returncode == 0, done.stderr
    new = json.loads(file.read_text())
    assert new["access_key_id"] in done.stdout
    assert f"{old['access_key_id']} is deleted" in done.stdout
    for secret in (old["secret_access_key"], new["secret_access_key"]):
        assert secret not in done.stdout + done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        client(
            own, "sts", {"AccessKeyId": old["access_key_id"], "SecretAccessKey": old["secret_access_key"]}
        ).get_caller_identity()
    listed = json.loads(vnotch(own, "keys", "list", "--json").stdout)
    assert [(row["user"], row["access_key_id"]) for row in listed] == [("administrator", new["access_key_id"])]
    # What an interrupted rotation has left behind is in nobody's way.
    iam_of(own).create_access_key(UserName="administrator")
    assert vnotch(own, "keys", "rotate").returncode == 0
    assert len(iam_of(own).list_access_keys()["AccessKeyMetadata"]) == 1


def test_another_users_key_is_rotated_and_shown_once(own: RunningServer) -> None:
    iam = iam_of(own)
    iam.create_user(UserName="ana")
    old = iam.create_access_key(UserName="ana")["AccessKey"]
    shown = json.loads(vnotch(own, "keys", "rotate", "ana", "--json").stdout)
    assert shown["deleted"] == [old["AccessKeyId"]]
    key = {"AccessKeyId": shown["access_key_id"], "SecretAccessKey": shown["secret_access_key"]}
    assert client(own, "sts", key).get_caller_identity()["Arn"].endswith(":user/ana")
    text = vnotch(own, "keys", "list").stdout
    assert "user ana" in text
    assert "(of this folder)" in text
    assert shown["secret_access_key"] not in text
    iam.create_access_key(UserName="ana")
    done = vnotch(own, "keys", "rotate", "ana")
    assert done.returncode == 2
    assert "no room for another" in done.stderr
    [row] = [
        row
        for row in json.loads(vnotch(own, "keys", "list", "--json").stdout)
        if row["access_key_id"] == key["AccessKeyId"]
    ]
    assert row["used_ms"] >= row["created_ms"]


def test_a_user_that_is_not_there_is_named_and_makes_nothing(own: RunningServer) -> None:
    answer = vnotch(own, "keys", "rotate", "nobody")
    assert answer.returncode == 2
    assert "there is no user nobody" in answer.stderr
    assert "vnotch keys list" in answer.stderr


@pytest.mark.parametrize("name", ["Flow*", "a b", "x:y", ""])
def test_a_role_for_what_is_no_log_group_is_refused(own: RunningServer, name: str) -> None:
    """With a wildcard in it the policy would be wider than it looks."""
    before = iam_of(own).list_roles()["Roles"]
    for more in ([], ["--dry-run"]):
        answer = vnotch(own, "role", "create", "--log-group", name, *more)
        assert answer.returncode == 2
        assert "is no name of a log group" in answer.stderr
    assert iam_of(own).list_roles()["Roles"] == before


def test_a_role_is_shown_and_made(own: RunningServer) -> None:
    shown = vnotch(own, "role", "create", "--log-group", "FlowLogs", "--name", "r", "--dry-run")
    assert "r would be made" in shown.stdout
    with pytest.raises(ClientError, match="NoSuchEntity"):
        iam_of(own).get_role(RoleName="r")
    done = vnotch(own, "role", "create", "--log-group", "FlowLogs", "--log-group", "/b", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    name = made["role_arn"].rpartition("/")[2]
    found = iam_of(own).get_role(RoleName=name)["Role"]
    assert found["AssumeRolePolicyDocument"] == made["trust_policy"]
    policy = iam_of(own).get_role_policy(RoleName=name, PolicyName="deliver")["PolicyDocument"]
    assert policy == made["permissions"]
    groups = [
        "arn:aws:logs:us-east-1:123456789012:log-group:FlowLogs",
        "arn:aws:logs:us-east-1:123456789012:log-group:/b",
    ]
    assert policy["Statement"][0]["Resource"] == [form for arn in groups for form in (arn, f"{arn}:*")]
    again = vnotch(own, "role", "create", "--log-group", "FlowLogs")
    assert again.returncode == 0
    assert "is there" in again.stdout
    assert "vpc-flow-logs.amazonaws.com" in again.stdout


def denied_id(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["ResponseMetadata"]["RequestId"])


def test_why_a_request_was_denied(own: RunningServer) -> None:
    iam = iam_of(own)
    iam.create_user(UserName="eve")
    deny = {"Sid": "NoDeletes", "Effect": "Deny", "Action": "ec2:Delete*", "Resource": "*"}
    grant = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [grant, deny]})
    iam.put_user_policy(UserName="eve", PolicyName="narrow", PolicyDocument=document)
    key = iam.create_access_key(UserName="eve")["AccessKey"]
    ec2 = client(own, "ec2", key)
    text = vnotch(own, "why-denied", denied_id(ec2.delete_vpc, VpcId="vpc-0123456789abcdef0")).stdout
    assert "arn:aws:iam::123456789012:user/eve" in text
    assert "asked for ec2:DeleteVpc on arn:aws:ec2:us-east-1:123456789012:vpc/vpc-0123456789abcdef0" in text
    assert "with an explicit deny in an identity-based policy" in text
    assert "NoDeletes of the policy narrow" in text
    assert "aws:username = eve" in text

    logs = client(own, "logs", key)
    text = vnotch(own, "why-denied", denied_id(logs.describe_log_groups)).stdout
    assert "because no identity-based policy allows the logs:DescribeLogGroups action" in text
    assert "no statement decided" in text

    answer = ec2.describe_vpcs()
    text = vnotch(own, "why-denied", answer["ResponseMetadata"]["RequestId"]).stdout
    assert "and was allowed, by narrow, statement 1" in text

    wrong = client(own, "ec2", {**key, "SecretAccessKey": "x" * 40})
    text = vnotch(own, "why-denied", denied_id(wrong.describe_vpcs)).stdout
    assert "refused before any policy was asked: AuthFailure" in text
    assert (
        json.loads(vnotch(own, "why-denied", answer["ResponseMetadata"]["RequestId"], "--json").stdout)["status"] == 200
    )

    assert "is no request id" in vnotch(own, "why-denied", "x").stderr
    unknown = vnotch(own, "why-denied", "00000000-0000-0000-0000-000000000000")
    assert unknown.returncode == 2
    assert "the access log has no request 00000000-" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_no_secret_is_in_any_file_of_the_server_but_its_state(own: RunningServer) -> None:
    """The state has the secrets of keys, since signatures are checked with them, and the administrator's file has one.
    Secrets and tokens of sessions are nowhere, nor is what a caller put where it does not belong."""
    iam = iam_of(own)
    iam.create_user(UserName="sam")
    key = iam.create_access_key(UserName="sam")["AccessKey"]
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    trust = {"Effect": "Allow", "Principal": {"AWS": own.endpoint.account}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="sams", AssumeRolePolicyDocument=document)
    iam.put_user_policy(UserName="sam", PolicyName="all", PolicyDocument=json.dumps(everything))
    agent = Endpoint.find(own.folders).request("PUT", "/vnotch/v1/agents/of-this-test")
    kept = [key["SecretAccessKey"], json.loads(own.folders.credentials.read_text())["secret_access_key"]]
    kept.append(agent["secret_access_key"])

    sts = client(own, "sts", key)
    role = f"arn:aws:iam::{own.endpoint.account}:role/sams"
    sessions = [
        sts.get_session_token()["Credentials"],
        sts.assume_role(RoleArn=role, RoleSessionName="sam", ExternalId="an-external-id")["Credentials"],
    ]
    passing = ["an-external-id", "a-password-of-sams", *wrong_calls(own, key)]
    for session in sessions:
        temporary = {**key, **session}
        assert denied_id(client(own, "ec2", {**temporary, "SessionToken": "x"}).describe_vpcs)
        client(own, "sts", temporary).get_caller_identity()
        passing += [session["SecretAccessKey"], session["SessionToken"]]

    looked = 0
    for path in [*own.folders.root.rglob("*"), Path(own.log)]:
        if path.is_file():
            looked += 1
            content = path.read_bytes()
            hidden = passing if path.parent == own.folders.state else passing + kept
            found = [secret for secret in hidden if secret.encode() in content]
            assert not found or (path == own.folders.credentials and found == kept[1:2]), path
    assert looked > 5
    assert (own.folders.root / "access.log").read_text().count("\n") > 15


def wrong_calls(own: RunningServer, key: dict[str, str]) -> list[str]:
    """Calls that fail in every step, with secrets where no one looks for them; what must not be seen again."""
    url, password = own.endpoint.url, "cGFzc3dvcmQtb2Ytc2Ft"
    form = {"content-type": "application/x-www-form-urlencoded"}
    httpx.post(url, headers={**form, "authorization": f"Basic {password}"}, content=b"Action=ListUsers")
    httpx.post(f"{url}/?Action=CreateLoginProfile&Password=a-password-of-sams", headers=form)
    signed = client(own, "sts", key).generate_presigned_url("get_caller_identity", HttpMethod="GET")
    assert httpx.get(signed).status_code == 200
    signature = signed.rpartition("X-Amz-Signature=")[2]
    assert httpx.get(signed + "&Password=a-password-of-sams").status_code == 403
    logs = client(own, "logs", key)
    with pytest.raises(ClientError):
        logs.put_resource_policy(policyName="p", policyDocument="a-password-of-sams")
    with pytest.raises(ClientError):
        client(own, "iam", key).create_user(UserName="a-password-of-sams" * 4)
    return [password, signature]
