"""The narrowest role by which a flow log can deliver to its log groups, made where there is none.

VPC user guide, "IAM role for publishing flow logs to CloudWatch Logs": the service principal assumes the role, for this
account and its flow logs alone (aws:SourceAccount, aws:SourceArn). AWS's example permits five calls on all log groups;
what a delivery really calls are three (`vnotch.deliver.logs`), and they are permitted on the flow log's own groups.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from botocore.exceptions import ClientError

from vnotch.errors import InputError

SERVICE_PRINCIPAL = "vpc-flow-logs.amazonaws.com"
POLICY = "deliver"
ACTIONS = ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents")
ROLE_PREFIX = "vnotch-flow-logs"
ROLE_CHARACTERS_MAX = 64
LOG_GROUP_NAME = re.compile(r"[A-Za-z0-9_./#-]{1,512}")
LOG_GROUP_NAME_RIGHT = "A log group's name has 1 to 512 of a-z A-Z 0-9 _ - / . #"
"""CloudWatch Logs API reference, CreateLogGroup."""


def trust_policy(account: str, region: str) -> dict[str, Any]:
    """Who may assume the role: the service, for a flow log of this account and region."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": SERVICE_PRINCIPAL},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": account},
            "ArnLike": {"aws:SourceArn": f"arn:aws:ec2:{region}:{account}:vpc-flow-log/*"},
        },
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def permissions(account: str, region: str, groups: Iterable[str]) -> dict[str, Any]:
    """What the role may do: make these log groups and their streams, and write to them.

    Raises InputError for what is no name: with a wildcard in it the role could do more than it says.
    """
    groups = tuple(groups)
    for group in groups:
        if not LOG_GROUP_NAME.fullmatch(group):
            raise InputError(f"{group!r} is no name of a log group", LOG_GROUP_NAME_RIGHT)
    arns = [f"arn:aws:logs:{region}:{account}:log-group:{group}" for group in groups]
    statement = {
        "Effect": "Allow",
        "Action": list(ACTIONS),
        # A group's own ARN, and with `:*` those of its streams.
        "Resource": [form for arn in arns for form in (arn, f"{arn}:*")],
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def role_name_for(group: str) -> str:
    """The name of the role for one log group: told apart by a digest, since a role's name has no `/` (IAM API
    reference, CreateRole)."""
    digest = hashlib.sha256(group.encode()).hexdigest()[:8]
    words = re.sub(r"[^\w+=,.@-]+", "-", group, flags=re.ASCII).strip("-")
    room = ROLE_CHARACTERS_MAX - len(ROLE_PREFIX) - len(digest) - 2
    return "-".join((ROLE_PREFIX, words[:room], digest))


def ensure_delivery_role(iam: Any, groups: Iterable[str], *, account: str, region: str, name: str) -> str:
    """The ARN of the role of that name, which may deliver to these groups; made, or brought to that. `iam` is a boto3
    client, whose errors are raised."""
    document = json.dumps(permissions(account, region, groups))  # before anything is made
    trust = json.dumps(trust_policy(account, region))
    try:
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "EntityAlreadyExists":
            raise
        role = iam.get_role(RoleName=name)["Role"]
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=trust)
    iam.put_role_policy(RoleName=name, PolicyName=POLICY, PolicyDocument=document)
    return str(role["Arn"])
