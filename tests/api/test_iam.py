"""IAM and STS as boto3 sees them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from policies import allow, trust_of

NARROW_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": "123456789012"},
                "ArnLike": {"aws:SourceArn": "arn:aws:ec2:us-east-1:123456789012:vpc-flow-log/fl-1*"},
            },
        }
    ],
}
ROLE_ARN = "arn:aws:iam::123456789012:role/flow-logs"


def error_of(call: Any, **params: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def user_key(api: Any, name: str, policy: str | None = None) -> tuple[str, str]:
    iam = api.client("iam")
    iam.create_user(UserName=name)
    if policy:
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def session_key(credentials: dict[str, Any]) -> tuple[str, str, str]:
    return credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"]


def test_the_life_of_a_role(api: Any) -> None:
    iam = api.client("iam")
    made = iam.create_role(
        RoleName="flow-logs",
        Path="/service/",
        AssumeRolePolicyDocument=json.dumps(NARROW_TRUST),
        Description="delivery",
        MaxSessionDuration=7200,
        Tags=[{"Key": "team", "Value": "net"}],
    )["Role"]
    assert made["Arn"] == "arn:aws:iam::123456789012:role/service/flow-logs"
    assert made["RoleId"].startswith("AROA")
    assert made["AssumeRolePolicyDocument"] == NARROW_TRUST
    assert abs(made["CreateDate"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert iam.get_role(RoleName="flow-logs")["Role"] == {**made, "RoleLastUsed": {}}
    listed = iam.list_roles()["Roles"]
    assert [role["RoleName"] for role in listed] == ["flow-logs"]
    assert iam.list_roles(PathPrefix="/other/")["Roles"] == []

    policy = json.loads(allow(["logs:PutLogEvents"], "*"))
    iam.put_role_policy(RoleName="flow-logs", PolicyName="deliver", PolicyDocument=json.dumps(policy))
    got = iam.get_role_policy(RoleName="flow-logs", PolicyName="deliver")
    assert (got["RoleName"], got["PolicyName"], got["PolicyDocument"]) == ("flow-logs", "deliver", policy)
    assert iam.list_role_policies(RoleName="flow-logs")["PolicyNames"] == ["deliver"]
    assert error_of(iam.delete_role, RoleName="flow-logs")[:2] == ("DeleteConflict", 409)
    iam.delete_role_policy(RoleName="flow-logs", PolicyName="deliver")
    assert error_of(iam.get_role_policy, RoleName="flow-logs", PolicyName="deliver")[:2] == ("NoSuchEntity", 404)

    new = trust_of({"AWS": "123456789012"})
    iam.update_assume_role_policy(RoleName="flow-logs", PolicyDocument=new)
    assert iam.get_role(RoleName="flow-logs")["Role"]["AssumeRolePolicyDocument"] == json.loads(new)
    iam.delete_role(RoleName="flow-logs")
    code, status, text = error_of(iam.get_role, RoleName="flow-logs")
    assert (code, status, text) == ("NoSuchEntity", 404, "The role with name flow-logs cannot be found.")


def test_what_iam_refuses(api: Any) -> None:
    iam = api.client("iam", parameter_validation=False)
    good = json.dumps(NARROW_TRUST)
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=good)
    code, status, text = error_of(iam.create_role, RoleName="R", AssumeRolePolicyDocument=good)
    assert (code, status, text) == ("EntityAlreadyExists", 409, "Role with name R already exists.")
    assert error_of(iam.create_role, RoleName="q", AssumeRolePolicyDocument="{")[:2] == ("MalformedPolicyDocument", 400)
    code, _, text = error_of(
        iam.put_role_policy, RoleName="r", PolicyName="p", PolicyDocument=allow("logs:*", Conditions={})
    )
    assert code == "MalformedPolicyDocument"
    assert "Conditions" in text
    assert error_of(iam.put_role_policy, RoleName="r", PolicyName="p", PolicyDocument=allow("x:" + "a" * 11_000))[
        :2
    ] == (
        "LimitExceeded",
        409,
    )
    code, status, text = error_of(iam.create_role, RoleName="a" * 65, AssumeRolePolicyDocument=good)
    assert (code, status) == ("ValidationError", 400)
    assert text == (
        f"1 validation error detected: Value '{'a' * 65}' at 'roleName' failed to satisfy constraint: "
        "Member must have length less than or equal to 64"
    )
    assert "regular expression pattern" in error_of(iam.create_role, RoleName="a b", AssumeRolePolicyDocument=good)[2]
    assert error_of(iam.create_role, RoleName="x")[2].endswith(
        "Value null at 'assumeRolePolicyDocument' failed to satisfy constraint: Member must not be null"
    )
    boundary = "arn:aws:iam::123456789012:policy/b"
    assert (
        error_of(iam.create_role, RoleName="x", AssumeRolePolicyDocument=good, PermissionsBoundary=boundary)[0]
        == "NoSuchEntity"
    )
    unknown = {"Arn": ROLE_ARN, "ServiceNamespaces": ["ec2"]}
    assert error_of(iam.list_policies_granting_service_access, **unknown)[:2] == ("InvalidAction", 400)


def test_lists_come_in_pages(api: Any) -> None:
    iam = api.client("iam")
    for number in range(7):
        iam.create_role(RoleName=f"role-{number}", AssumeRolePolicyDocument=json.dumps(NARROW_TRUST))
    pages = list(iam.get_paginator("list_roles").paginate(PaginationConfig={"PageSize": 3}))
    assert [len(page["Roles"]) for page in pages] == [3, 3, 1]
    assert [role["RoleName"] for page in pages for role in page["Roles"]] == [f"role-{n}" for n in range(7)]
    assert error_of(iam.list_roles, Marker="%%")[0] == "ValidationError"


def test_users_and_their_keys(api: Any) -> None:
    iam = api.client("iam")
    made = iam.create_user(UserName="ana")["User"]
    assert made["Arn"] == "arn:aws:iam::123456789012:user/ana"
    assert iam.get_user(UserName="ana")["User"] == made
    assert iam.get_user()["User"]["UserName"] == "administrator"
    key = iam.create_access_key(UserName="ana")["AccessKey"]
    assert (key["UserName"], key["Status"], len(key["SecretAccessKey"])) == ("ana", "Active", 40)
    second = iam.create_access_key(UserName="ana")["AccessKey"]
    assert error_of(iam.create_access_key, UserName="ana")[:2] == ("LimitExceeded", 409)
    listed = iam.list_access_keys(UserName="ana")["AccessKeyMetadata"]
    assert {item["AccessKeyId"] for item in listed} == {key["AccessKeyId"], second["AccessKeyId"]}
    assert not any("SecretAccessKey" in item for item in listed)

    pair = (key["AccessKeyId"], key["SecretAccessKey"])
    identity = api.client("sts", pair).get_caller_identity()
    assert (identity["Arn"], identity["UserId"]) == (made["Arn"], made["UserId"])
    iam.update_access_key(UserName="ana", AccessKeyId=pair[0], Status="Inactive")
    assert error_of(api.client("sts", pair).get_caller_identity)[:2] == ("InvalidClientTokenId", 403)
    iam.update_access_key(UserName="ana", AccessKeyId=pair[0], Status="Active")
    api.client("sts", pair).get_caller_identity()
    assert error_of(iam.delete_user, UserName="ana")[0] == "DeleteConflict"
    for item in listed:
        iam.delete_access_key(UserName="ana", AccessKeyId=item["AccessKeyId"])
    assert error_of(api.client("sts", pair).get_caller_identity)[:2] == ("InvalidClientTokenId", 403)
    iam.delete_user(UserName="ana")
    assert error_of(iam.get_user, UserName="ana")[:2] == ("NoSuchEntity", 404)


def test_a_policy_decides_at_once_and_resource_by_resource(api: Any) -> None:
    iam = api.client("iam")
    for name in ("a", "b"):
        iam.create_role(RoleName=name, Path="/team/", AssumeRolePolicyDocument=json.dumps(NARROW_TRUST))
    ana = api.client("iam", user_key(api, "ana"))
    code, status, text = error_of(ana.get_role, RoleName="a")
    assert (code, status) == ("AccessDenied", 403)
    assert text == (
        "User: arn:aws:iam::123456789012:user/ana is not authorized to perform: iam:GetRole on resource: "
        "arn:aws:iam::123456789012:role/team/a because no identity-based policy allows the iam:GetRole action"
    )
    narrow = allow("iam:GetRole", "arn:aws:iam::123456789012:role/team/a")
    iam.put_user_policy(UserName="ana", PolicyName="p", PolicyDocument=narrow)
    assert ana.get_role(RoleName="a")["Role"]["RoleName"] == "a"
    assert error_of(ana.get_role, RoleName="b")[0] == "AccessDenied"
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}
    iam.put_user_policy(UserName="ana", PolicyName="stop", PolicyDocument=json.dumps(deny))
    assert "with an explicit deny" in error_of(ana.get_role, RoleName="a")[2]
    iam.delete_user_policy(UserName="ana", PolicyName="stop")
    assert ana.get_role(RoleName="a")
    assert iam.list_user_policies(UserName="ana")["PolicyNames"] == ["p"]
    assert iam.get_user_policy(UserName="ana", PolicyName="p")["PolicyDocument"] == json.loads(narrow)


# --- AssumeRole ---


def test_a_user_whom_the_trust_names_needs_no_policy(api: Any) -> None:
    key = user_key(api, "ana")
    trust = trust_of({"AWS": "arn:aws:iam::123456789012:user/ana"})
    role_id = api.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust)["Role"]["RoleId"]
    answer = api.client("sts", key).assume_role(
        RoleArn="arn:aws:iam::123456789012:role/r", RoleSessionName="s1", DurationSeconds=900
    )
    assert answer["AssumedRoleUser"] == {
        "AssumedRoleId": f"{role_id}:s1",
        "Arn": "arn:aws:sts::123456789012:assumed-role/r/s1",
    }
    ends_in = answer["Credentials"]["Expiration"] - datetime.now(UTC)
    assert timedelta(seconds=890) < ends_in <= timedelta(seconds=901)
    who = api.client("sts", session_key(answer["Credentials"])).get_caller_identity()
    assert who["Arn"] == "arn:aws:sts::123456789012:assumed-role/r/s1"
    assert who["UserId"] == f"{role_id}:s1"


def test_trust_in_the_account_needs_a_policy_of_the_caller(api: Any) -> None:
    role = "arn:aws:iam::123456789012:role/r"
    api.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": "123456789012"}))
    without = api.client("sts", user_key(api, "ana"))
    code, status, text = error_of(without.assume_role, RoleArn=role, RoleSessionName="s1")
    assert (code, status) == ("AccessDenied", 403)
    assert f"is not authorized to perform: sts:AssumeRole on resource: {role}" in text
    with_policy = api.client("sts", user_key(api, "bob", allow("sts:AssumeRole", role)))
    assert with_policy.assume_role(RoleArn=role, RoleSessionName="s1")
    # A role that is not there is told apart from one that does not trust by nothing.
    missing = error_of(with_policy.assume_role, RoleArn=role + "x", RoleSessionName="s1")
    assert missing[:2] == ("AccessDenied", 403)


def test_a_role_that_trusts_another_trusts_no_user(api: Any) -> None:
    api.client("iam").create_role(RoleName="flow-logs", AssumeRolePolicyDocument=json.dumps(NARROW_TRUST))
    administrator = api.client("sts")
    assert error_of(administrator.assume_role, RoleArn=ROLE_ARN, RoleSessionName="fl-1")[0] == "AccessDenied"


def test_the_external_id_counts(api: Any) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::123456789012:user/administrator"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": "12345"}},
    }
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    api.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust)
    ask = {"RoleArn": "arn:aws:iam::123456789012:role/r", "RoleSessionName": "s1"}
    sts = api.client("sts")
    assert error_of(sts.assume_role, **ask)[0] == "AccessDenied"
    assert error_of(sts.assume_role, **ask, ExternalId="54321")[0] == "AccessDenied"
    assert sts.assume_role(**ask, ExternalId="12345")


def test_duration_and_what_is_not_supported(api: Any) -> None:
    api.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": "123456789012"}))
    sts = api.client("sts", parameter_validation=False)
    ask = {"RoleArn": "arn:aws:iam::123456789012:role/r", "RoleSessionName": "s1"}
    assert error_of(sts.assume_role, **ask, DurationSeconds=3601)[0] == "ValidationError"
    assert "greater than or equal to 900" in error_of(sts.assume_role, **ask, DurationSeconds=899)[2]
    assert error_of(sts.assume_role, **ask, SourceIdentity="ana")[0] == "ValidationError"
    assert error_of(sts.assume_role, RoleArn=ask["RoleArn"], RoleSessionName="x y")[0] == "ValidationError"


def test_a_session_policy_limits_the_session(api: Any) -> None:
    iam = api.client("iam")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": "123456789012"}))
    iam.put_role_policy(RoleName="r", PolicyName="all", PolicyDocument=allow("iam:*"))
    made = api.client("sts").assume_role(
        RoleArn="arn:aws:iam::123456789012:role/r", RoleSessionName="s1", Policy=allow("iam:GetRole")
    )
    limited = api.client("iam", session_key(made["Credentials"]))
    assert limited.get_role(RoleName="r")
    assert error_of(limited.list_roles)[0] == "AccessDenied"


def test_sessions_survive_a_restart_and_expire(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": "123456789012"}))
    made = api.client("sts").assume_role(RoleArn="arn:aws:iam::123456789012:role/r", RoleSessionName="s1")
    key = session_key(made["Credentials"])
    api.restart()
    sts = api.client("sts", key)
    assert sts.get_caller_identity()
    # An hour later, by the clocks of both.
    later = time.time() + 3_601
    monkeypatch.setattr("vnotch.api.gate.time.time", lambda: later)
    answer = api.send("sts", b"Action=GetCallerIdentity&Version=2011-06-15", key, now_s=later)
    assert answer.status_code == 403
    assert "<Code>ExpiredToken</Code>" in answer.text


# --- agents ---


def test_an_agent_assumes_the_role_of_its_own_flow_log_alone(api: Any) -> None:
    iam = api.client("iam")
    iam.create_role(RoleName="flow-logs", AssumeRolePolicyDocument=json.dumps(NARROW_TRUST))
    iam.create_role(RoleName="other", AssumeRolePolicyDocument=json.dumps(NARROW_TRUST))
    asked = []

    def flow_log_for(agent: str, role_arn: str, session_name: str) -> tuple[str, str] | None:
        asked.append((agent, role_arn, session_name))
        if (agent, role_arn) == ("host-1", ROLE_ARN) and session_name in ("fl-1a", "fl-2"):
            return session_name, f"arn:aws:ec2:us-east-1:123456789012:vpc-flow-log/{session_name}"
        return None

    api.flow_log_for = flow_log_for
    mine = api.client("sts", api.accounts.make_agent_key("host-1"))
    theirs = api.client("sts", api.accounts.make_agent_key("host-2"))
    made = mine.assume_role(RoleArn=ROLE_ARN, RoleSessionName="fl-1a")
    assert asked == [("host-1", ROLE_ARN, "fl-1a")]
    assert made["AssumedRoleUser"]["Arn"].endswith(":assumed-role/flow-logs/fl-1a")
    # Another flow log's name, one that the condition on aws:SourceArn does not cover, another role, another agent.
    for client, role, session in (
        (mine, ROLE_ARN, "fl-9"),
        (mine, ROLE_ARN, "fl-2"),
        (mine, ROLE_ARN.replace("flow-logs", "other"), "fl-1a"),
        (theirs, ROLE_ARN, "fl-1a"),
    ):
        assert error_of(client.assume_role, RoleArn=role, RoleSessionName=session)[:2] == ("AccessDenied", 403)
    # A role that trusts agents by the account's name trusts none: an agent is no AWS principal.
    iam.update_assume_role_policy(RoleName="flow-logs", PolicyDocument=trust_of({"AWS": "123456789012"}))
    assert error_of(mine.assume_role, RoleArn=ROLE_ARN, RoleSessionName="fl-1a")[0] == "AccessDenied"


def test_an_agents_key_may_do_nothing_else(api: Any) -> None:
    key = api.accounts.make_agent_key("host-1")
    assert api.client("sts", key).get_caller_identity()["Arn"] == "arn:aws:vnotch:us-east-1:123456789012:agent/host-1"
    iam = api.client("iam", key)
    for call, params in (
        (iam.list_roles, {}),
        (iam.get_user, {"UserName": "administrator"}),
        (iam.create_access_key, {"UserName": "administrator"}),
    ):
        assert error_of(call, **params)[0] == "AccessDenied"


def test_the_last_use_of_a_key(api: Any) -> None:
    iam = api.client("iam")
    key = user_key(api, "ana", allow("ec2:*"))
    never = iam.get_access_key_last_used(AccessKeyId=key[0])
    assert never["UserName"] == "ana"
    assert never["AccessKeyLastUsed"] == {"ServiceName": "N/A", "Region": "N/A"}
    before = datetime.now(UTC).replace(microsecond=0)
    api.client("sts", key).get_caller_identity()
    used = iam.get_access_key_last_used(AccessKeyId=key[0])["AccessKeyLastUsed"]
    assert (used["ServiceName"], used["Region"]) == ("sts", "us-east-1")
    assert before <= used["LastUsedDate"] <= datetime.now(UTC)
    # A signature that is not right is no use of the key that it names.
    error_of(api.client("iam", (key[0], "x" * 40)).list_users)
    assert iam.get_access_key_last_used(AccessKeyId=key[0])["AccessKeyLastUsed"] == used
    # One that is right is, also where policies then deny the call.
    assert error_of(api.client("iam", key).list_users)[0] == "AccessDenied"
    assert iam.get_access_key_last_used(AccessKeyId=key[0])["AccessKeyLastUsed"]["ServiceName"] == "iam"
    assert error_of(iam.get_access_key_last_used, AccessKeyId="AKIA" + "A" * 16)[:2] == ("NoSuchEntity", 404)


def test_a_key_is_asked_for_its_last_use_on_its_user(api: Any) -> None:
    user_key(api, "bob")
    [theirs] = api.client("iam").list_access_keys(UserName="bob")["AccessKeyMetadata"]
    own = allow("iam:GetAccessKeyLastUsed", "arn:aws:iam::123456789012:user/${aws:username}")
    key = user_key(api, "ana", own)
    iam = api.client("iam", key)
    assert iam.get_access_key_last_used(AccessKeyId=key[0])["UserName"] == "ana"
    assert error_of(iam.get_access_key_last_used, AccessKeyId=theirs["AccessKeyId"])[0] == "AccessDenied"


def test_the_last_use_of_a_role(api: Any) -> None:
    iam = api.client("iam")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": "123456789012"}))
    assert iam.get_role(RoleName="r")["Role"]["RoleLastUsed"] == {}
    arn = "arn:aws:iam::123456789012:role/r"
    credentials = api.client("sts").assume_role(RoleArn=arn, RoleSessionName="first")["Credentials"]
    assert iam.get_role(RoleName="r")["Role"]["RoleLastUsed"] == {}  # it was assumed, and not used yet
    api.client("sts", session_key(credentials)).get_caller_identity()
    used = iam.get_role(RoleName="r")["Role"]["RoleLastUsed"]
    assert used["Region"] == "us-east-1"
    assert used["LastUsedDate"] <= datetime.now(UTC)
    [detail] = iam.get_account_authorization_details(Filter=["Role"])["RoleDetailList"]
    assert detail["RoleLastUsed"] == used
    assert "RoleLastUsed" not in iam.list_roles()["Roles"][0]


def test_what_there_is_none_of_is_said_to_be_none(api: Any) -> None:
    """As tools ask before they delete a user (Terraform's force_destroy) or report on an account."""
    iam = api.client("iam")
    iam.create_user(UserName="ana")
    of_user = {
        "list_mfa_devices": "MFADevices",
        "list_ssh_public_keys": "SSHPublicKeys",
        "list_signing_certificates": "Certificates",
        "list_service_specific_credentials": "ServiceSpecificCredentials",
    }
    for name, member in of_user.items():
        assert getattr(iam, name)(UserName="ana")[member] == []
        assert error_of(getattr(iam, name), UserName="nobody")[:2] == ("NoSuchEntity", 404)
    of_account = {
        "list_virtual_mfa_devices": "VirtualMFADevices",
        "list_account_aliases": "AccountAliases",
        "list_server_certificates": "ServerCertificateMetadataList",
        "list_saml_providers": "SAMLProviderList",
        "list_open_id_connect_providers": "OpenIDConnectProviderList",
    }
    for name, member in of_account.items():
        assert getattr(iam, name)()[member] == []
    for call, params in (
        (iam.get_login_profile, {"UserName": "ana"}),
        (iam.delete_login_profile, {"UserName": "ana"}),
        (iam.get_account_password_policy, {}),
    ):
        code, status, text = error_of(call, **params)
        assert (code, status) == ("NoSuchEntity", 404)
        assert text.endswith("cannot be found.")
    # What would make one is not known.
    assert error_of(iam.create_login_profile, UserName="ana", Password="x")[0] == "InvalidAction"
    assert error_of(iam.create_virtual_mfa_device, VirtualMFADeviceName="x")[0] == "InvalidAction"
