"""Temporary credentials beyond the plain AssumeRole, and denials decoded."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from policies import allow, trust_of
from test_iam import error_of, session_key, user_key

from vnotch.api.ec2 import Ec2

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/r"


def make_role(api: Any, policy: str, trust: str | None = None, **params: Any) -> None:
    iam = api.client("iam")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust or trust_of({"AWS": ACCOUNT}), **params)
    iam.put_role_policy(RoleName="r", PolicyName="p", PolicyDocument=policy)


def test_managed_session_policies_limit_a_session(api: Any) -> None:
    make_role(api, allow("iam:*"))
    iam, sts = api.client("iam"), api.client("sts")
    look = iam.create_policy(PolicyName="look", PolicyDocument=allow("iam:ListRoles"))["Policy"]["Arn"]
    ask = {"RoleArn": ROLE, "RoleSessionName": "s1"}
    made = sts.assume_role(**ask, PolicyArns=[{"arn": look}])
    session = api.client("iam", session_key(made["Credentials"]))
    assert session.list_roles()["Roles"]
    code, _, text = error_of(session.list_users)
    assert code == "AccessDenied"
    assert text.endswith("because no session policy allows the iam:ListUsers action")
    # With an inline one beside it either may allow.
    made = sts.assume_role(**ask, PolicyArns=[{"arn": look}], Policy=allow("iam:ListUsers"))
    session = api.client("iam", session_key(made["Credentials"]))
    assert session.list_users()["Users"]
    assert session.list_roles()["Roles"]
    assert error_of(sts.assume_role, **ask, PolicyArns=[{"arn": look + "x"}])[0] == "ValidationError"
    assert error_of(sts.assume_role, **ask, PolicyArns=[{"arn": look}] * 11)[0] == "ValidationError"
    # A policy that is gone leaves a session that may do nothing.
    made = sts.assume_role(**ask, PolicyArns=[{"arn": look}])
    iam.delete_policy(PolicyArn=look)
    assert error_of(api.client("iam", session_key(made["Credentials"])).list_roles)[0] == "AccessDenied"


def test_session_tags_need_tag_session_and_decide(api: Any) -> None:
    same = {"StringEquals": {"aws:PrincipalTag/team": "net"}}
    make_role(api, allow("iam:ListRoles", Condition=same))
    iam, sts = api.client("iam"), api.client("sts")
    ask = {"RoleArn": ROLE, "RoleSessionName": "s1", "Tags": [{"Key": "Team", "Value": "net"}]}
    assert error_of(sts.assume_role, **ask)[2].endswith("because no role trust policy allows the sts:TagSession action")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ACCOUNT},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
    }
    trust = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.update_assume_role_policy(RoleName="r", PolicyDocument=trust)
    made = sts.assume_role(**ask)
    assert api.client("iam", session_key(made["Credentials"])).list_roles()["Roles"]
    other = sts.assume_role(**{**ask, "Tags": [{"Key": "team", "Value": "ops"}]})
    assert error_of(api.client("iam", session_key(other["Credentials"])).list_roles)[0] == "AccessDenied"
    # The session's tag goes before the role's own.
    iam.tag_role(RoleName="r", Tags=[{"Key": "team", "Value": "ops"}])
    assert api.client("iam", session_key(made["Credentials"])).list_roles()["Roles"]


def test_get_session_token(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.serve(Ec2(api.state, api.accounts))
    key = user_key(api, "ana", allow(["iam:*", "ec2:Describe*", "sts:*"]))
    sts = api.client("sts", key)
    made = sts.get_session_token(DurationSeconds=900)["Credentials"]
    ends_in = made["Expiration"] - datetime.now(UTC)
    assert timedelta(seconds=890) < ends_in <= timedelta(seconds=901)
    session = session_key(made)
    assert api.client("sts", session).get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/ana"
    assert api.client("ec2", session).describe_vpcs()["Vpcs"] == []
    # STS API reference, GetSessionToken: nothing of IAM, of STS only AssumeRole and GetCallerIdentity.
    assert error_of(api.client("iam", session).list_roles)[0] == "AccessDenied"
    assert error_of(api.client("sts", session).get_session_token) == (
        "AccessDenied",
        403,
        "Cannot call GetSessionToken with session credentials",
    )
    assert error_of(sts.get_session_token, DurationSeconds=900, SerialNumber="arn:aws:iam::1:mfa/x")[0] == (
        "ValidationError"
    )
    assert error_of(api.client("sts", parameter_validation=False).get_session_token, DurationSeconds=899)[0] == (
        "ValidationError"
    )
    # The policies are the user's of now, and the user's end ends it.
    iam = api.client("iam")
    iam.delete_user_policy(UserName="ana", PolicyName="p")
    assert error_of(api.client("ec2", session).describe_vpcs)[0] == "UnauthorizedOperation"
    iam.delete_access_key(UserName="ana", AccessKeyId=key[0])
    iam.delete_user(UserName="ana")
    assert error_of(api.client("sts", session).get_caller_identity)[:2] == ("InvalidClientTokenId", 403)


def test_token_issue_time_tells_temporary_credentials(api: Any) -> None:
    api.serve(Ec2(api.state, api.accounts))
    lasting = allow("ec2:DescribeVpcs", Condition={"Null": {"aws:TokenIssueTime": "true"}})
    key = user_key(api, "ana", lasting)
    assert api.client("ec2", key).describe_vpcs()["Vpcs"] == []
    made = api.client("sts", key).get_session_token()["Credentials"]
    assert error_of(api.client("ec2", session_key(made)).describe_vpcs)[0] == "UnauthorizedOperation"


def test_a_denial_is_decoded_by_who_may(api: Any) -> None:
    api.serve(Ec2(api.state, api.accounts))
    deny = {"Sid": "NoVpcs", "Effect": "Deny", "Action": "ec2:DeleteVpc", "Resource": "*"}
    grant = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}
    key = user_key(api, "ana", json.dumps({"Version": "2012-10-17", "Statement": [grant, deny]}))
    code, status, text = error_of(api.client("ec2", key).delete_vpc, VpcId="vpc-1")
    assert (code, status) == ("UnauthorizedOperation", 403)
    found = re.fullmatch(
        r"You are not authorized to perform this operation\. Encoded authorization failure message: (\S+)", text
    )
    assert found
    assert error_of(api.client("sts", key).decode_authorization_message, EncodedMessage=found[1])[0] == "AccessDenied"
    sts = api.client("sts")
    decoded = json.loads(sts.decode_authorization_message(EncodedMessage=found[1])["DecodedMessage"])
    assert (decoded["allowed"], decoded["explicitDeny"]) == (False, True)
    assert decoded["matchedStatements"]["items"][0]["statementId"] == "NoVpcs"
    context = decoded["context"]
    assert context["principal"]["arn"] == f"arn:aws:iam::{ACCOUNT}:user/ana"
    assert (context["action"], context["resource"]) == (
        "ec2:DeleteVpc",
        f"arn:aws:ec2:us-east-1:{ACCOUNT}:vpc/vpc-1",
    )
    keys = {item["key"]: item["values"]["items"] for item in context["conditions"]["items"]}
    assert keys["aws:username"] == [{"value": "ana"}]
    for wrong in ("x", found[1][:-4] + "AAAA", "A" * 43):
        assert error_of(sts.decode_authorization_message, EncodedMessage=wrong)[:2] == (
            "InvalidAuthorizationMessageException",
            400,
        )
    # It is found in the file too, after a start.
    api.access_log._ring.clear()
    assert sts.decode_authorization_message(EncodedMessage=found[1])["DecodedMessage"]


def test_a_user_made_again_under_an_old_name_is_not_trusted(api: Any) -> None:
    """IAM user guide, "AWS JSON policy elements: Principal", IAM user principals."""
    iam, ana = api.client("iam"), f"arn:aws:iam::{ACCOUNT}:user/ana"
    refused = error_of(iam.create_role, RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": ana}))
    assert refused == ("MalformedPolicyDocument", 400, f'Invalid principal in policy: "AWS":"{ana}"')
    key = user_key(api, "ana")
    make_role(api, allow("iam:*"), trust_of({"AWS": ana}))
    ask = {"RoleArn": ROLE, "RoleSessionName": "s1"}
    assert api.client("sts", key).assume_role(**ask)
    iam.delete_access_key(UserName="ana", AccessKeyId=key[0])
    iam.delete_user(UserName="ana")
    again = api.client("sts", user_key(api, "ana"))
    assert error_of(again.assume_role, **ask)[0] == "AccessDenied"
    iam.update_assume_role_policy(RoleName="r", PolicyDocument=trust_of({"AWS": ana}))
    assert again.assume_role(**ask)


def test_a_role_made_again_under_an_old_name_is_not_trusted(api: Any) -> None:
    iam, middle = api.client("iam"), f"arn:aws:iam::{ACCOUNT}:role/middle"

    def make_middle() -> Any:
        iam.create_role(RoleName="middle", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))
        made = api.client("sts").assume_role(RoleArn=middle, RoleSessionName="m1")
        return api.client("sts", session_key(made["Credentials"]))

    session = make_middle()
    make_role(api, allow("iam:*"), trust_of({"AWS": middle}))
    ask = {"RoleArn": ROLE, "RoleSessionName": "s1"}
    assert session.assume_role(**ask)
    iam.delete_role(RoleName="middle")
    assert error_of(make_middle().assume_role, **ask)[0] == "AccessDenied"


def test_a_chain_of_roles_ends_in_an_hour(api: Any) -> None:
    make_role(api, allow("sts:AssumeRole"), MaxSessionDuration=43_200)
    made = api.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="s1", DurationSeconds=43_200)
    chained = api.client("sts", session_key(made["Credentials"]))
    ask = {"RoleArn": ROLE, "RoleSessionName": "t1"}
    assert error_of(chained.assume_role, **ask, DurationSeconds=3_601)[0] == "ValidationError"
    assert chained.assume_role(**ask, DurationSeconds=3_600)
