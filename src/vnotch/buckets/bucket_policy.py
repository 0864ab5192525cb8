"""What a bucket's policy says of the service that delivers logs on AWS, and what AWS adds to it.

There `delivery.logs.amazonaws.com` puts the objects. A policy that denies it this makes CreateFlowLogs fail, and one
that does not allow it gets the statements AWSLogDeliveryWrite and AWSLogDeliveryAclCheck (VPC user guide, bucket
permissions for flow logs; CloudWatch Logs user guide, which says that they are appended). Here the server's own
identity puts them, which the endpoint judges by itself; but an owner who has forbidden log delivery by name has
forbidden ours too, and whatever reads the policy of a bucket with flow logs finds in it what AWS writes. Denials of
everyone are the endpoint's to judge: only it knows where a request comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from vnotch.bucket_keys import Layout
from vnotch.buckets.upload import ACL, PolicyIsFull
from vnotch.iam.evaluation import Decision, evaluate
from vnotch.iam.grammar import PolicyError, parse_policy
from vnotch.iam.policy import Caller, Kind

PRINCIPAL = "delivery.logs.amazonaws.com"
POLICY_BYTES_MAX = 20 * 1024
"""Of a bucket's policy (VPC user guide, troubleshooting)."""

_WRITE, _ACL_CHECK = "AWSLogDeliveryWrite", "AWSLogDeliveryAclCheck"


class ClosedPolicy(PolicyError):
    """AWS adds nothing to such a policy, and makes no flow log."""


def forbids_delivery(document: str, bucket: str, layout: Layout) -> bool:
    """Whether a bucket's policy denies log delivery, by name, to put a flow log's files. Raises PolicyError for a
    policy that is not understood."""
    named = [item for item in _statements(_parsed(document)) if _names_delivery(item)]
    return bool(named) and _decided(named, _WRITE, bucket, layout).explicit


def with_delivery(document: str | None, bucket: str, layout: Layout) -> str | None:
    """A bucket's policy (None: it has none) with the statements by which AWS's log delivery may put the files of a flow
    log; its own stay as they are. None where nothing is missing.

    Raises ClosedPolicy for one that AWS does not add to, PolicyIsFull where it would be too long, PolicyError for one
    that is not understood.
    """
    policy = {"Version": "2012-10-17", "Statement": []} if document is None else _parsed(document)
    statements = _statements(policy)
    named = [item for item in statements if _names_delivery(item)]
    missing = [
        wanted
        for wanted in delivery_statements(bucket, layout)
        if not named or not _decided(named, wanted["Sid"], bucket, layout).allowed
    ]
    if not missing:
        return None
    if any(member in item for item in statements for member in ("NotAction", "NotPrincipal")):
        raise ClosedPolicy(f"the policy of {bucket} has NotAction or NotPrincipal")
    taken = {item.get("Sid") for item in statements if isinstance(item, dict)}
    for wanted in missing:
        sid, number = wanted["Sid"], 1
        while wanted["Sid"] in taken:
            wanted["Sid"], number = f"{sid}{number}", number + 1
    merged = json.dumps({**policy, "Statement": [*statements, *missing]})
    if len(merged.encode()) > POLICY_BYTES_MAX:
        raise PolicyIsFull(f"the policy of {bucket} would be longer than {POLICY_BYTES_MAX} bytes")
    return merged


def delivery_statements(bucket: str, layout: Layout) -> list[dict[str, Any]]:
    """What AWS adds, as its documentation shows it."""
    here = {
        "StringEquals": {"aws:SourceAccount": layout.account},
        "ArnLike": {"aws:SourceArn": f"arn:aws:logs:{layout.region}:{layout.account}:*"},
    }
    top = re.sub(r"[*?$]", lambda found: f"${{{found.group()}}}", layout.top)  # they mean more in a policy
    write = {**here, "StringEquals": {**here["StringEquals"], "s3:x-amz-acl": ACL}}
    return [
        _statement(_WRITE, "s3:PutObject", f"arn:aws:s3:::{bucket}/{top}*", write),
        _statement(_ACL_CHECK, "s3:GetBucketAcl", f"arn:aws:s3:::{bucket}", here),
    ]


def _statement(sid: str, action: str, resource: str, condition: Mapping[str, Any]) -> dict[str, Any]:
    principal = {"Service": PRINCIPAL}
    return {
        "Sid": sid, "Effect": "Allow", "Principal": principal, "Action": action, "Resource": resource,
        "Condition": condition,
    }  # fmt: skip


def _decided(named: list[Any], sid: str, bucket: str, layout: Layout) -> Decision:
    """What statements about log delivery say of one of its two actions."""
    policy = {"Version": "2012-10-17", "Statement": named}
    parsed = parse_policy(json.dumps(policy), Kind.RESOURCE, f"policy of {bucket}", any_key=True)
    context = {
        "aws:sourceaccount": layout.account,
        "aws:sourcearn": f"arn:aws:logs:{layout.region}:{layout.account}:*",
        "aws:principalisawsservice": "true",
        "aws:securetransport": "true",
        **({"s3:x-amz-acl": ACL} if sid == _WRITE else {}),
    }
    action, resource = "s3:GetBucketAcl", f"arn:aws:s3:::{bucket}"
    if sid == _WRITE:
        action, resource = "s3:PutObject", f"{resource}/{layout.key('fl-0', 0, '0' * 8)}"
    caller = Caller("Service", PRINCIPAL)
    return evaluate((), action, resource, context, resource_policies=(parsed,), caller=caller)


def _parsed(document: str) -> dict[str, Any]:
    try:
        policy = json.loads(document)
    except ValueError as error:
        raise PolicyError(f"no JSON: {error}") from None
    if not isinstance(policy, dict):
        raise PolicyError("not a JSON object")
    return policy


def _statements(policy: Mapping[str, Any]) -> list[Any]:
    statements = policy.get("Statement", [])
    return [statements] if isinstance(statements, dict) else list(statements)


def _names_delivery(statement: Any) -> bool:
    principal = statement.get("Principal") if isinstance(statement, dict) else None
    services = principal.get("Service", ()) if isinstance(principal, dict) else ()
    return PRINCIPAL in ([services] if isinstance(services, str) else services)
