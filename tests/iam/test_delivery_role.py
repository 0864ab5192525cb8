"""The narrowest delivery role: what it may and may not, by the policy evaluator (which cases.toml holds to AWS's)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from vnotch.iam.delivery_role import permissions, role_name_for, trust_policy
from vnotch.iam.evaluation import evaluate, evaluate_trust
from vnotch.iam.grammar import parse_policy
from vnotch.iam.policy import Caller, Kind

ACCOUNT, REGION, GROUP = "123456789012", "eu-west-1", "/flows/web"
LOGS = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:"
FLOW_LOG = f"arn:aws:ec2:{REGION}:{ACCOUNT}:vpc-flow-log/fl-0123456789abcdef0"


def may(action: str, resource: str) -> bool:
    policy = parse_policy(json.dumps(permissions(ACCOUNT, REGION, [GROUP, "/flows/db"])))
    return evaluate([policy], action, resource, {}).allowed


@pytest.mark.parametrize("group", [GROUP, "/flows/db"])
def test_it_delivers_to_its_groups(group: str) -> None:
    # The resource of CreateLogGroup is the group's ARN, on AWS seen with `:log-stream:` behind it.
    assert may("logs:CreateLogGroup", f"{LOGS}{group}")
    assert may("logs:CreateLogGroup", f"{LOGS}{group}:log-stream:")
    assert may("logs:CreateLogStream", f"{LOGS}{group}:log-stream:eni-1-all")
    assert may("logs:PutLogEvents", f"{LOGS}{group}:log-stream:eni-1-all")


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("logs:PutLogEvents", f"{LOGS}{GROUP}2:log-stream:eni-1-all"),
        ("logs:PutLogEvents", f"{LOGS}other:log-stream:eni-1-all"),
        ("logs:PutLogEvents", f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{GROUP}:log-stream:eni-1-all"),
        ("logs:DeleteLogGroup", f"{LOGS}{GROUP}:log-stream:"),
        ("logs:FilterLogEvents", f"{LOGS}{GROUP}:log-stream:"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/any"),
    ],
)
def test_it_may_nothing_else(action: str, resource: str) -> None:
    assert not may(action, resource)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"aws:sourceaccount": "210987654321"}, False),
        ({"aws:sourcearn": FLOW_LOG.replace("eu-west-1", "us-east-1")}, False),
        ({"aws:sourcearn": FLOW_LOG.replace("vpc-flow-log", "vpc")}, False),
        ({"aws:sourcearn": None}, False),
    ],
)
def test_the_service_may_assume_it_for_flow_logs_of_this_account_alone(changes: dict[str, Any], allowed: bool) -> None:
    context = {"aws:sourceaccount": ACCOUNT, "aws:sourcearn": FLOW_LOG} | changes
    context = {key: value for key, value in context.items() if value is not None}
    trust = parse_policy(json.dumps(trust_policy(ACCOUNT, REGION)), Kind.TRUST)
    service = Caller("Service", "vpc-flow-logs.amazonaws.com")
    assert evaluate_trust(trust, "sts:AssumeRole", service, context).allowed is allowed
    other = Caller("Service", "ec2.amazonaws.com")
    assert not evaluate_trust(trust, "sts:AssumeRole", other, context).allowed


def test_names_of_roles_fit_iam_and_are_told_apart() -> None:
    groups = ["a", "/a", "/a/b", "/a-b", "a" * 512, "a" * 511 + "b", "#.-_/"]
    names = [role_name_for(group) for group in groups]
    assert len(set(names)) == len(groups)
    for name in names:  # IAM API reference, CreateRole: RoleName
        assert re.fullmatch(r"[\w+=,.@-]{1,64}", name, re.ASCII)
    assert role_name_for("/flows/web") == role_name_for("/flows/web")
