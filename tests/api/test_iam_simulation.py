"""Simulations: what would be decided, by which statements, and what they would have to know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from policies import allow, trust_of
from test_iam import error_of

ACCOUNT = "123456789012"
GROUP = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:FlowLogs:*"


@pytest.fixture
def iam(shared_api: Any) -> Any:
    return shared_api.client("iam")


def simulate(iam: Any, *policies: str, actions: list[str], **params: Any) -> list[dict[str, Any]]:
    answer = iam.simulate_custom_policy(PolicyInputList=list(policies), ActionNames=actions, **params)
    results: list[dict[str, Any]] = answer["EvaluationResults"]
    return results


def entry(name: str, *values: str, kind: str = "string") -> dict[str, Any]:
    return {"ContextKeyName": name, "ContextKeyValues": list(values), "ContextKeyType": kind}


def test_a_custom_policy(iam: Any) -> None:
    policy = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "logs:*", "Resource": GROUP},
                {"Effect": "Deny", "Action": "logs:Delete*", "Resource": "*"},
            ],
        },
        indent=2,
    )
    actions = ["logs:PutLogEvents", "logs:DeleteLogGroup", "ec2:CreateVpc"]
    results = simulate(iam, policy, actions=actions, ResourceArns=[GROUP])
    assert [(r["EvalActionName"], r["EvalDecision"]) for r in results] == [
        ("logs:PutLogEvents", "allowed"),
        ("logs:DeleteLogGroup", "explicitDeny"),
        ("ec2:CreateVpc", "implicitDeny"),
    ]
    [allowed] = results[0]["MatchedStatements"]
    assert (allowed["SourcePolicyId"], allowed["SourcePolicyType"]) == ("PolicyInputList.1", "none")
    # Where json.dumps has put the statements.
    lines = policy.splitlines()
    start, end = allowed["StartPosition"], allowed["EndPosition"]
    assert lines[start["Line"] - 1][start["Column"] - 1] == "{"
    assert lines[end["Line"] - 1][end["Column"] - 2] == "}"
    assert (start["Line"], end["Line"]) == (4, 8)
    [denied] = results[1]["MatchedStatements"]
    assert denied["StartPosition"]["Line"] == 9
    assert results[2]["MatchedStatements"] == []


def test_context_decides_and_what_is_missing_is_named(iam: Any) -> None:
    policy = allow(
        "s3:GetObject",
        "arn:aws:s3:::home/${aws:username}/*",
        Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "StringLike": {"s3:prefix": "a*"}},
    )
    asked = {"actions": ["s3:GetObject"], "ResourceArns": ["arn:aws:s3:::home/ana/x"]}
    [result] = simulate(iam, policy, **asked)
    assert result["EvalDecision"] == "implicitDeny"
    assert sorted(result["MissingContextValues"]) == ["aws:SourceIp", "aws:username", "s3:prefix"]
    context = [entry("AWS:username", "ana"), entry("aws:SourceIp", "10.1.1.1", kind="ip"), entry("s3:prefix", "ab")]
    [result] = simulate(iam, policy, **asked, ContextEntries=context)
    assert (result["EvalDecision"], result["MissingContextValues"]) == ("allowed", [])
    many = allow("ec2:*", Condition={"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}})
    for keys, decision in ((("a",), "allowed"), (("a", "c"), "implicitDeny")):
        given = [entry("aws:TagKeys", *keys, kind="stringList")]
        assert simulate(iam, many, actions=["ec2:CreateTags"], ContextEntries=given)[0]["EvalDecision"] == decision
    keys = iam.get_context_keys_for_custom_policy(PolicyInputList=[policy, many])["ContextKeyNames"]
    assert sorted(keys) == ["aws:SourceIp", "aws:TagKeys", "aws:username", "s3:prefix"]
    user = iam.create_user(UserName="keys")["User"]["Arn"]
    iam.put_user_policy(UserName="keys", PolicyName="many", PolicyDocument=many)
    keys = iam.get_context_keys_for_principal_policy(PolicySourceArn=user)["ContextKeyNames"]
    assert sorted(keys) == ["aws:TagKeys"]
    keys = iam.get_context_keys_for_principal_policy(PolicySourceArn=user, PolicyInputList=[policy])["ContextKeyNames"]
    assert sorted(keys) == ["aws:SourceIp", "aws:TagKeys", "aws:username", "s3:prefix"]


def test_a_boundary_and_a_resource_policy(iam: Any) -> None:
    [result] = simulate(iam, allow("*"), actions=["iam:GetUser"], PermissionsBoundaryPolicyInputList=[allow("ec2:*")])
    assert result["EvalDecision"] == "implicitDeny"
    assert result["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}
    user = f"arn:aws:iam::{ACCOUNT}:user/ana"
    statement = {"Effect": "Allow", "Principal": {"AWS": user}, "Action": "s3:GetObject", "Resource": "*"}
    resource_policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
    asked = {"actions": ["s3:GetObject"], "ResourceArns": ["arn:aws:s3:::b/a"], "ResourcePolicy": resource_policy}
    [result] = simulate(iam, allow("ec2:*"), **asked, CallerArn=user)
    assert result["EvalDecision"] == "allowed"
    assert result["MatchedStatements"][0]["SourcePolicyType"] == "resource"
    [result] = simulate(iam, allow("ec2:*"), **asked, CallerArn=user.replace("ana", "bob"))
    assert result["EvalDecision"] == "implicitDeny"
    other = "arn:aws:iam::222222222222:root"
    [result] = simulate(iam, allow("ec2:*"), **asked, CallerArn=user, ResourceOwner=other)
    assert result["EvalDecision"] == "implicitDeny"  # across accounts the user's own policies must allow too
    assert error_of(
        iam.simulate_custom_policy, PolicyInputList=[allow("a:b")], ActionNames=["a:b"], ResourcePolicy=resource_policy
    )[0] == ("InvalidInput")


def test_a_principals_policies(iam: Any) -> None:
    iam.create_user(UserName="sim")
    iam.create_group(GroupName="sims")
    iam.add_user_to_group(GroupName="sims", UserName="sim")
    iam.put_user_policy(UserName="sim", PolicyName="own", PolicyDocument=allow("ec2:Describe*"))
    iam.put_group_policy(GroupName="sims", PolicyName="shared", PolicyDocument=allow("logs:*"))
    iam.attach_user_policy(UserName="sim", PolicyArn="arn:aws:iam::aws:policy/IAMReadOnlyAccess")
    arn = f"arn:aws:iam::{ACCOUNT}:user/sim"
    actions = ["ec2:DescribeVpcs", "logs:PutLogEvents", "iam:ListRoles", "sts:AssumeRole"]

    def decisions(source: str, **params: Any) -> dict[str, tuple[str, list[str]]]:
        answer = iam.simulate_principal_policy(PolicySourceArn=source, ActionNames=actions, **params)
        return {
            result["EvalActionName"]: (
                result["EvalDecision"],
                [s["SourcePolicyType"] for s in result["MatchedStatements"]],
            )
            for result in answer["EvaluationResults"]
        }

    assert decisions(arn) == {
        "ec2:DescribeVpcs": ("allowed", ["user"]),
        "logs:PutLogEvents": ("allowed", ["group"]),
        "iam:ListRoles": ("allowed", ["aws-managed"]),
        "sts:AssumeRole": ("implicitDeny", []),
    }
    assert decisions(arn, PolicyInputList=[allow("sts:*")])["sts:AssumeRole"][0] == "allowed"
    assert decisions(f"arn:aws:iam::{ACCOUNT}:group/sims")["ec2:DescribeVpcs"][0] == "implicitDeny"
    edge = iam.create_policy(PolicyName="sim-edge", PolicyDocument=allow("logs:*"))["Policy"]["Arn"]
    iam.put_user_permissions_boundary(UserName="sim", PermissionsBoundary=edge)
    assert decisions(arn)["ec2:DescribeVpcs"] == ("implicitDeny", [])
    iam.create_role(RoleName="sim", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))
    assert decisions(f"arn:aws:iam::{ACCOUNT}:role/sim")["logs:PutLogEvents"][0] == "implicitDeny"
    unknown = f"arn:aws:iam::{ACCOUNT}:user/nobody"
    assert error_of(iam.simulate_principal_policy, PolicySourceArn=unknown, ActionNames=actions)[:2] == (
        "NoSuchEntity",
        404,
    )


def test_results_come_in_pages(iam: Any) -> None:
    arns = [f"arn:aws:s3:::b/{n}" for n in range(5)]
    pages = list(
        iam.get_paginator("simulate_custom_policy").paginate(
            PolicyInputList=[allow("s3:*")],
            ActionNames=["s3:GetObject", "s3:PutObject"],
            ResourceArns=arns,
            PaginationConfig={"PageSize": 4},
        )
    )
    assert [len(page["EvaluationResults"]) for page in pages] == [4, 4, 2]
    names = [(r["EvalActionName"], r["EvalResourceName"]) for page in pages for r in page["EvaluationResults"]]
    assert names == [(action, arn) for action in ("s3:GetObject", "s3:PutObject") for arn in arns]


@pytest.mark.parametrize(
    "params",
    [
        {"PolicyInputList": ["{"], "ActionNames": ["a:b"]},
        {"PolicyInputList": [allow("a:b")], "ActionNames": ["a:*"]},
        {"PolicyInputList": [allow("a:b")], "ActionNames": ["nothing"]},
        {"PolicyInputList": [allow("a:b")], "ActionNames": ["a:b"], "Marker": "%"},
        {"PolicyInputList": [allow("a:b")], "ActionNames": ["a:b"], "ResourceHandlingOption": "EC2-VPC-Subnet"},
        {"PolicyInputList": [allow("a:b")], "ActionNames": ["a:b"], "ContextEntries": [entry("aws:k", "a", "b")]},
        {"PolicyInputList": [allow("a:b")], "ActionNames": ["a:b"] * 200, "ResourceArns": ["*"] * 200},
    ],
    ids=str,
)
def test_what_a_simulation_refuses(iam: Any, params: dict[str, Any]) -> None:
    code, status, _ = error_of(iam.simulate_custom_policy, **params)
    assert (code, status) in (("InvalidInput", 400), ("ValidationError", 400))
