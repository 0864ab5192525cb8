"""SimulatePrincipalPolicy says what the server then does: any policies, asked both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_iam import user_key

from vnotch.api.ec2 import Ec2

ACCOUNT = "123456789012"
USER = f"arn:aws:iam::{ACCOUNT}:user/ana"
VPCS = {name: f"arn:aws:ec2:us-east-1:{ACCOUNT}:vpc/{name}" for name in ("vpc-aaaaaaaa", "vpc-bbbbbbbb")}

Ask = Callable[[Any, Any], Any]
CALLS: dict[tuple[str, str], Ask] = {
    ("ec2:DescribeVpcs", "*"): lambda ec2, iam: ec2.describe_vpcs(DryRun=True),
    **{("ec2:DeleteVpc", arn): (lambda ec2, iam, name=name: ec2.delete_vpc(VpcId=name, DryRun=True))
       for name, arn in VPCS.items()},
    ("iam:GetUser", USER): lambda ec2, iam: iam.get_user(UserName="ana"),
    ("iam:ListUsers", "*"): lambda ec2, iam: iam.list_users(),
}  # fmt: skip
"""What a user may ask for that touches one resource, and changes nothing."""

CONTEXT = {
    "aws:SourceIp": ("ip", "127.0.0.1"),
    "aws:username": ("string", "ana"),
    "aws:SecureTransport": ("boolean", "false"),
}

actions = st.sampled_from(["*", "ec2:*", "EC2:describe*", "ec2:Delete?pc", "ec2:DeleteVpc", "iam:Get*", "iam:*User*"])
resources = st.sampled_from(
    [
        "*",
        *VPCS.values(),
        "arn:aws:ec2:*:*:vpc/*",
        "arn:aws:ec2:*:*:vpc/vpc-b*",
        USER,
        "arn:aws:iam::*:user/${aws:username}",
    ]
)
conditions = st.sampled_from(
    [
        {},
        {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}},
        {"NotIpAddress": {"aws:SourceIp": ["127.0.0.1", "10.0.0.0/8"]}},
        {"Bool": {"aws:SecureTransport": "true"}},
        {"StringLike": {"aws:username": ["b*", "a?a"]}},
        {"StringNotEquals": {"aws:username": "ana"}},
        {"Null": {"aws:MultiFactorAuthAge": "true"}},
        {"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}},
    ]
)
statements = st.builds(
    lambda effect, action_key, action, resource_key, resource, condition: {
        "Effect": effect, action_key: action, resource_key: resource, **({"Condition": condition} if condition else {})
    },
    st.sampled_from(["Allow", "Allow", "Deny"]),
    st.sampled_from(["Action", "Action", "Action", "NotAction"]),
    st.lists(actions, min_size=1, max_size=2),
    st.sampled_from(["Resource", "Resource", "Resource", "NotResource"]),
    st.lists(resources, min_size=1, max_size=2),
    conditions,
)  # fmt: skip
policies = st.lists(statements, min_size=1, max_size=3).map(
    lambda listed: json.dumps({"Version": "2012-10-17", "Statement": listed})
)


@pytest.fixture(scope="module")
def world(shared_api: Any) -> Any:
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts))
    key, iam = user_key(shared_api, "ana"), shared_api.client("iam")
    iam.create_group(GroupName="all")
    iam.add_user_to_group(GroupName="all", UserName="ana")
    yield iam, shared_api.client("ec2", key), shared_api.client("iam", key)
    shared_api.stop()


def done(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"] not in ("UnauthorizedOperation", "AccessDenied")
    return True


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(own=policies, group=policies, boundary=st.none() | policies)
def test_a_simulation_says_what_is_then_done(world: Any, own: str, group: str, boundary: str | None) -> None:
    admin, ec2, iam = world
    admin.put_user_policy(UserName="ana", PolicyName="own", PolicyDocument=own)
    admin.put_group_policy(GroupName="all", PolicyName="shared", PolicyDocument=group)
    policy_arn = None
    if boundary is not None:
        policy_arn = admin.create_policy(PolicyName="limit", PolicyDocument=boundary)["Policy"]["Arn"]
        admin.put_user_permissions_boundary(UserName="ana", PermissionsBoundary=policy_arn)
    entries = [
        {"ContextKeyName": key, "ContextKeyType": kind, "ContextKeyValues": [value]}
        for key, (kind, value) in CONTEXT.items()
    ]
    answer = admin.simulate_principal_policy(
        PolicySourceArn=USER,
        ActionNames=sorted({action for action, _ in CALLS}),
        ResourceArns=sorted({resource for _, resource in CALLS}),
        ContextEntries=entries,
    )
    said = {(item["EvalActionName"], item["EvalResourceName"]): item for item in answer["EvaluationResults"]}
    try:
        for (action, resource), call in CALLS.items():
            allowed = said[action, resource]["EvalDecision"] == "allowed"
            assert done(lambda: call(ec2, iam)) is allowed, (action, resource, said[action, resource])  # noqa: B023
    finally:
        if policy_arn is not None:
            admin.delete_user_permissions_boundary(UserName="ana")
            admin.delete_policy(PolicyArn=policy_arn)
