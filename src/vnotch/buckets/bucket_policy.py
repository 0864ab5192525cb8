"""What the owner of a bucket says, in its policy, of the service that delivers logs on AWS.

There `delivery.logs.amazonaws.com` puts the objects, and a policy that denies it this makes CreateFlowLogs fail (VPC
user guide, bucket permissions for flow logs). Here the server's own identity does, which the endpoint judges by itself;
but an owner who has forbidden log delivery by name has forbidden ours too. Statements about everyone are the endpoint's
to judge: only it knows where a request comes from.
"""

from __future__ import annotations

import json
from typing import Any

from vnotch.bucket_keys import Layout
from vnotch.buckets.upload import ACL
from vnotch.iam.evaluation import evaluate
from vnotch.iam.grammar import parse_policy
from vnotch.iam.policy import Caller, Kind

PRINCIPAL = "delivery.logs.amazonaws.com"


def forbids_delivery(document: str, bucket: str, layout: Layout) -> bool:
    """Whether a bucket's policy denies log delivery, by name, to put a flow log's files. Raises PolicyError for a
    policy that is not understood."""
    policy = json.loads(document)
    statements = policy.get("Statement", [])
    named = [item for item in ([statements] if isinstance(statements, dict) else statements) if _names_delivery(item)]
    if not named:
        return False
    parsed = parse_policy(
        json.dumps({**policy, "Statement": named}), Kind.RESOURCE, f"policy of {bucket}", any_key=True
    )
    context = {
        "aws:sourceaccount": layout.account,
        "aws:sourcearn": f"arn:aws:logs:{layout.region}:{layout.account}:*",
        "aws:principalisawsservice": "true",
        "aws:securetransport": "true",
        "s3:x-amz-acl": ACL,
    }
    resource = f"arn:aws:s3:::{bucket}/{layout.key('fl-0', 0, '0' * 8)}"
    caller = Caller("Service", PRINCIPAL)
    return evaluate((), "s3:PutObject", resource, context, resource_policies=(parsed,), caller=caller).explicit


def _names_delivery(statement: Any) -> bool:
    principal = statement.get("Principal") if isinstance(statement, dict) else None
    services = principal.get("Service", ()) if isinstance(principal, dict) else ()
    return PRINCIPAL in ([services] if isinstance(services, str) else services)
