"""The AWS SDK for JavaScript signs and reads, the server verifies and answers; botocore has no part in it.

`make setup` puts the SDK under tests/oracle/javascript where npm is installed (sudo apt install nodejs npm).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from lakes import new_lake
from policies import allow, trust_of
from test_iam import session_key, user_key

from vnotch.api.ec2 import Ec2
from vnotch.api.logs import Logs

FOLDER = Path(__file__).parents[1] / "oracle" / "javascript"
ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None or not (FOLDER / "node_modules").is_dir():
        reason = "the JavaScript SDK is not here: sudo apt install nodejs npm && make setup"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def world(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    lake = new_lake(tmp_path_factory.mktemp("lake") / "lake")
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts), Logs(shared_api.state, lake))
    yield shared_api
    shared_api.stop()
    lake.close()


def javascript(node: str, api: Any, *calls: dict[str, Any], key: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    key_id, secret, *token = key or api.administrator_key
    credentials = {"accessKeyId": key_id, "secretAccessKey": secret} | ({"sessionToken": token[0]} if token else {})
    asked = {"endpoint": api.endpoint, "region": "us-east-1", "credentials": credentials, "calls": calls}
    done = subprocess.run(
        [node, "call.mjs"],
        cwd=FOLDER,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def call(service: str, command: str, **members: Any) -> dict[str, Any]:
    return {"service": service, "command": command, "input": members}


def test_every_protocol_is_signed_and_understood(world: Any, node: str) -> None:
    odd = "résumé & = + / ? % *\n\t'\"~"
    who, role, roles, vpc, vpcs, group, groups = javascript(
        node,
        world,
        call("sts", "GetCallerIdentity"),
        call(
            "iam",
            "CreateRole",
            RoleName="js",
            AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}),
            Tags=[{"Key": "a b", "Value": "x + y = z"}],
        ),
        call("iam", "ListRoles"),
        call(
            "ec2",
            "CreateVpc",
            CidrBlock="10.3.0.0/16",
            TagSpecifications=[{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": odd}]}],
        ),
        call("ec2", "DescribeVpcs", Filters=[{"Name": "tag:Name", "Values": [odd]}]),
        call("logs", "CreateLogGroup", logGroupName="/js", tags={"a": "b"}),
        call("logs", "DescribeLogGroups", logGroupNamePrefix="/js"),
    )
    assert who["answer"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/administrator"
    assert role["answer"]["Role"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/js"
    assert [item["RoleName"] for item in roles["answer"]["Roles"]] == ["js"]
    assert vpcs["answer"]["Vpcs"][0]["VpcId"] == vpc["answer"]["Vpc"]["VpcId"]
    assert vpcs["answer"]["Vpcs"][0]["Tags"] == [{"Key": "Name", "Value": odd}]
    assert group["answer"] == {}
    assert [item["logGroupName"] for item in groups["answer"]["logGroups"]] == ["/js"]


def test_wrong_keys_and_denials_have_the_names_that_it_knows(world: Any, node: str) -> None:
    key_id, secret = world.administrator_key
    calls = (call("sts", "GetCallerIdentity"), call("ec2", "DescribeVpcs"), call("logs", "DescribeLogGroups"))
    wrong = javascript(node, world, *calls, key=(key_id, secret[:-1] + ("A" if secret[-1] != "A" else "B")))
    assert [(item["error"]["name"], item["error"]["status"]) for item in wrong] == [
        ("SignatureDoesNotMatch", 403),
        ("AuthFailure", 401),
        ("InvalidSignatureException", 400),
    ]
    unknown = javascript(node, world, *calls, key=("AKIAUNKNOWNUNKNOWN00", secret))
    assert [item["error"]["name"] for item in unknown] == [
        "InvalidClientTokenId",
        "AuthFailure",
        "UnrecognizedClientException",
    ]
    denied = javascript(node, world, *calls[1:], key=user_key(world, "js-nobody"))
    assert [(item["error"]["name"], item["error"]["status"]) for item in denied] == [
        ("UnauthorizedOperation", 403),
        ("AccessDeniedException", 400),
    ]


def test_sessions(world: Any, node: str) -> None:
    iam = world.client("iam")
    iam.create_role(RoleName="js-session", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))
    iam.put_role_policy(RoleName="js-session", PolicyName="p", PolicyDocument=allow("iam:ListUsers"))
    arn = f"arn:aws:iam::{ACCOUNT}:role/js-session"
    [made] = javascript(node, world, call("sts", "AssumeRole", RoleArn=arn, RoleSessionName="from-js"))
    key = session_key(made["answer"]["Credentials"])
    who, users, roles = javascript(
        node, world, call("sts", "GetCallerIdentity"), call("iam", "ListUsers"), call("iam", "ListRoles"), key=key
    )
    assert who["answer"]["Arn"].endswith(":assumed-role/js-session/from-js")
    assert users["answer"]["Users"]
    assert roles["error"]["name"] == "AccessDenied"


def test_what_it_presigns(world: Any, node: str) -> None:
    query = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    [made] = javascript(node, world, {"presign": "sts", "query": query})
    answer = httpx.get(made["url"])
    assert (answer.status_code, "user/administrator" in answer.text) == (200, True)
    assert "SignatureDoesNotMatch" in httpx.get(made["url"].replace("GetCallerIdentity", "GetSessionToken")).text
