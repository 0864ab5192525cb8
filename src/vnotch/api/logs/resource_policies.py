"""Resource policies of CloudWatch Logs: PutResourcePolicy, DescribeResourcePolicies, DeleteResourcePolicy.

On AWS they let services put events: they apply where service principals call, and are not enforced for users, roles and
other accounts (API reference, PutResourcePolicy, "Important"). No service writes to vnotch without a role: flow logs,
whose service principal is vpc-flow-logs.amazonaws.com, assume one, as they do on AWS. So here they are kept and shown,
and decide nothing for anyone.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vnotch.api.logs.part import (
    PAGE_MAX,
    LogsPart,
    existing_group,
    integer_between,
    invalid,
    limit_exceeded,
    name_from_identifier,
    page_token,
    token_position,
)
from vnotch.api.service import ANY_RESOURCE, ApiError, Call, operation
from vnotch.errors import InputError
from vnotch.iam.grammar import parse_policy
from vnotch.iam.policy import Kind
from vnotch.store.log_groups import LogResourcePolicy

POLICY_CHARACTERS_MAX = 5120
"""Of a policy of the account; the model's 51,200 are for policies of log groups."""

POLICY_NAME_CHARACTERS_MAX = 255


class ResourcePolicies(LogsPart):
    @operation("PutResourcePolicy", ANY_RESOURCE)
    def put_resource_policy(self, call: Call) -> dict[str, Any]:
        name, document, arn = (call.params.get(key) for key in ("policyName", "policyDocument", "resourceArn"))
        if document is None:
            raise invalid("policyDocument must be specified.")
        if arn is None and (not name or len(name) > POLICY_NAME_CHARACTERS_MAX):
            raise invalid("policyName must be specified.")
        if arn is None and len(document) > POLICY_CHARACTERS_MAX:
            raise limit_exceeded()
        _check_document(document)
        with self.state.write(notify=False) as session:
            group = _group_of(session, call, arn)
            # A policy of a log group has no name of its own where none is given.
            row = session.get(LogResourcePolicy, (group, "" if group else name))
            if group:
                _check_revision(call, row)
            elif row is None:
                count = select(func.count()).select_from(LogResourcePolicy).where(LogResourcePolicy.group_id == 0)
                if (session.scalar(count) or 0) >= self.quotas.log_resource_policies:
                    raise limit_exceeded()
            if row is None:
                row = LogResourcePolicy(group_id=group, key="" if group else name)
                session.add(row)
            row.name, row.document, row.updated_ms = name or "", document, call.now_ms
            row.revision = secrets.token_hex(16)
            session.flush()
            described = _describe(row, arn)
        answer = {"resourcePolicy": described}
        return answer | {"revisionId": described["revisionId"]} if arn else answer

    @operation("DescribeResourcePolicies", ANY_RESOURCE)
    def describe_resource_policies(self, call: Call) -> dict[str, Any]:
        scope, arn = call.params.get("policyScope"), call.params.get("resourceArn")
        if arn is not None and scope == "ACCOUNT":
            raise invalid("resourceArn cannot be specified with the policyScope ACCOUNT.")
        if scope == "RESOURCE" and arn is None:
            raise invalid("resourceArn must be specified with the policyScope RESOURCE.")
        asked = {"scope": scope, "arn": arn}
        limit = integer_between(call, "limit", 1, PAGE_MAX, PAGE_MAX)
        with self.state.read() as session:
            group = _group_of(session, call, arn)
            wanted = select(LogResourcePolicy).where(LogResourcePolicy.group_id == group)
            if (after := token_position(call, asked)) is not None:
                wanted = wanted.where(LogResourcePolicy.key > after)
            rows = list(session.scalars(wanted.order_by(LogResourcePolicy.key).limit(limit + 1)))
        answer: dict[str, Any] = {"resourcePolicies": [_describe(row, arn) for row in rows[:limit]]}
        if len(rows) > limit:
            answer["nextToken"] = page_token(call, asked, rows[limit - 1].key)
        return answer

    @operation("DeleteResourcePolicy", ANY_RESOURCE)
    def delete_resource_policy(self, call: Call) -> dict[str, Any]:
        name, arn = call.params.get("policyName"), call.params.get("resourceArn")
        if not name and arn is None:
            raise invalid("policyName must be specified.")
        with self.state.write(notify=False) as session:
            group = _group_of(session, call, arn)
            row = session.get(LogResourcePolicy, (group, "" if group else name))
            if row is None:
                raise ApiError("ResourceNotFoundException", f"Policy with name [{name or arn}] does not exist.")
            if group:
                _check_revision(call, row)
            session.delete(row)
        return {}


def _group_of(session: Session, call: Call, arn: str | None) -> int:
    """The id of the log group that a policy is of; 0 for policies of the account."""
    if arn is None:
        return 0
    if ":log-group:" not in arn:
        raise invalid(f"Invalid resourceArn: {arn!r}. Only log groups can have resource policies.")
    return existing_group(session, name_from_identifier(call, "resourceArn", arn)).id


def _check_revision(call: Call, row: LogResourcePolicy | None) -> None:
    """A policy of a log group is changed only by who knows its last revision (model: expectedRevisionId)."""
    expected = call.params.get("expectedRevisionId")
    if expected != (row.revision if row is not None else None):
        raise ApiError("OperationAbortedException", "The expected revision of the resource policy is not the last one.")


def _check_document(document: str) -> None:
    try:
        parse_policy(document, Kind.RESOURCE)
    except InputError as error:
        raise invalid(f"The policy document is not valid: {error}") from error


def _describe(row: LogResourcePolicy, arn: str | None) -> dict[str, Any]:
    described = {
        "policyName": row.name or None,
        "policyDocument": row.document,
        "lastUpdatedTime": row.updated_ms,
        "policyScope": "RESOURCE" if arn else "ACCOUNT",
    }
    if arn:
        described |= {"resourceArn": arn, "revisionId": row.revision}
    return {key: value for key, value in described.items() if value is not None}
