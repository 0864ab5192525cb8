"""Policies of one statement, as tests give them to IAM."""

from __future__ import annotations

import json
from typing import Any


def trust_of(principal: Any) -> str:
    """Who may assume a role."""
    return _document(Effect="Allow", Principal=principal, Action="sts:AssumeRole")


def allow(action: Any, resource: Any = "*", **more: Any) -> str:
    return _document(Effect="Allow", Action=action, Resource=resource, **more)


def _document(**statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


FLOW_LOGS_TRUST = trust_of({"Service": "vpc-flow-logs.amazonaws.com"})
"""Of the role that a flow log delivers under (VPC user guide, "IAM role for publishing flow logs")."""
