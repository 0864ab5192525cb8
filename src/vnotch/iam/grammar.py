"""The grammar of policies: a JSON document becomes a `Policy`, or a `PolicyError` with the reason.

Source: IAM user guide, "Grammar of the IAM JSON policy language". What is not understood is refused when a policy is
made, never ignored.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from vnotch.errors import InputError
from vnotch.iam.conditions import compile_condition
from vnotch.iam.policy import Kind, Policy, Statement
from vnotch.iam.variables import (
    any_wildcard,
    check_variables,
    common_literal,
    has_variable,
    variable_names,
    wildcard,
)

VERSIONS = ("2012-10-17", "2008-10-17")
DOCUMENT_BYTES_MAX = 131_072  # the model's bound on policyDocument; quotas of each kind are lower
STATEMENTS_MAX = 1_000


class PolicyError(InputError):
    """A document that is no policy (AWS: MalformedPolicyDocument). The message is the reason."""


def parse_policy(document: str, kind: Kind = Kind.IDENTITY, name: str = "", *, any_key: bool = False) -> Policy:
    """The policy in a JSON document; PolicyError with the reason for anything that the grammar does not have.

    With `any_key` its conditions may ask for context keys that no request here has (simulations bring their own).
    """
    if len(document) > DOCUMENT_BYTES_MAX:
        raise PolicyError("the document is too long")
    try:
        content = json.loads(document, object_pairs_hook=_object)
    except RecursionError:
        raise PolicyError("Syntax errors in policy: nested too deeply.") from None
    except ValueError as error:
        raise PolicyError(f"Syntax errors in policy: {error}.") from None
    if not isinstance(content, dict):
        raise PolicyError("Syntax errors in policy: not a JSON object.")
    _refuse_others(content, {"Version", "Id", "Statement"}, "the policy")
    version = content.get("Version", "2008-10-17")
    if version not in VERSIONS:
        raise PolicyError("The policy must contain a valid version string")
    statements = content.get("Statement")
    if statements is None or statements == []:
        raise PolicyError("Syntax errors in policy: it has no Statement.")
    listed = statements if isinstance(statements, list) else [statements]
    if len(listed) > STATEMENTS_MAX:
        raise PolicyError(f"the policy has more than {STATEMENTS_MAX} statements")
    parsed = tuple(_statement(item, number, kind, name, version, any_key) for number, item in enumerate(listed, 1))
    sids = [statement.sid for statement in parsed if statement.sid]
    if len(set(sids)) != len(sids):
        raise PolicyError("Statement IDs (SID) in a single policy must be unique.")
    return Policy(name, parsed)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is given more than once")
    return content


_STATEMENT_KEYS = {
    Kind.IDENTITY: {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"},
    Kind.TRUST: {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Condition"},
}
_STATEMENT_KEYS[Kind.RESOURCE] = _STATEMENT_KEYS[Kind.IDENTITY] | _STATEMENT_KEYS[Kind.TRUST]


def _statement(content: Any, number: int, kind: Kind, policy: str, version: str, any_key: bool) -> Statement:
    where = f"statement {number}"
    _check_elements(content, kind, where)
    sid = content.get("Sid", "")
    if not isinstance(sid, str) or not re.fullmatch(r"[A-Za-z0-9]*", sid):
        raise PolicyError(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression "
            "[0-9A-Za-z]*"
        )
    variables = version == "2012-10-17"
    action_key, actions = _one_of(content, "Action", "NotAction", where)
    resources: tuple[str, ...] = ("*",)
    resource_key = "Resource"
    if kind is not Kind.TRUST:
        resource_key, resources = _one_of(content, "Resource", "NotResource", where)
        for resource in resources:
            _check_resource(resource, variables, any_key)
    try:
        element = content.get("Condition", {})
        allows = content["Effect"] == "Allow"
        conditions = compile_condition(element, variables=variables, any_key=any_key, allows=allows)
    except ValueError as error:
        raise PolicyError(f"Syntax errors in policy: {where}: {error}.") from None
    with_variables = tuple(resource for resource in resources if variables and has_variable(resource))
    return Statement(
        policy=policy,
        number=number,
        sid=sid,
        allows=allows,
        actions=tuple(_action(action, kind) for action in actions),
        actions_negated=action_key == "NotAction",
        resources=any_wildcard(tuple(resource for resource in resources if resource not in with_variables)),
        resources_with_variables=with_variables,
        resources_negated=resource_key == "NotResource",
        principals=() if kind is Kind.IDENTITY else _principals(content, kind, where),
        principals_negated="NotPrincipal" in content,
        conditions=conditions,
        needle="" if with_variables or resource_key == "NotResource" else common_literal(resources),
        keys=_keys(element, with_variables, variables),
    )


def _check_elements(content: Any, kind: Kind, where: str) -> None:
    if not isinstance(content, dict):
        raise PolicyError(f"Syntax errors in policy: {where} is not an object.")
    if kind is Kind.TRUST and ("Resource" in content or "NotResource" in content):
        raise PolicyError("Has prohibited field Resource")
    if kind is Kind.IDENTITY and ("Principal" in content or "NotPrincipal" in content):
        raise PolicyError("Policy document should not specify a principal.")
    _refuse_others(content, _STATEMENT_KEYS[kind], where)
    if content.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"Syntax errors in policy: the Effect of {where} must be Allow or Deny.")


def _keys(element: dict[str, dict[str, Any]], resources: tuple[str, ...], variables: bool) -> tuple[str, ...]:
    """The context keys of a Condition element that has been compiled, and of the variables."""
    keys = []
    for pairs in element.values():
        for key, values in pairs.items():
            keys.append(key)
            for value in values if isinstance(values, list) else [values]:
                keys += variable_names(value) if variables and isinstance(value, str) else []
    return tuple(dict.fromkeys([*keys, *(name for resource in resources for name in variable_names(resource))]))


def _refuse_others(content: dict[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise PolicyError(f"Syntax errors in policy: {where} has the unknown element {key}.")


def _one_of(content: dict[str, Any], plain: str, negated: str, where: str) -> tuple[str, tuple[str, ...]]:
    given = [key for key in (plain, negated) if key in content]
    if not given:
        raise PolicyError(f"Policy statement must contain {plain.lower()}s.")
    if len(given) == 2:
        raise PolicyError(f"Syntax errors in policy: {where} has both {plain} and {negated}.")
    return given[0], _texts(content[given[0]], f"the {given[0]} of {where}")


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str) and item for item in values):
        raise PolicyError(f"Syntax errors in policy: {where} must be a text or a list of texts.")
    return tuple(values)


def _action(action: str, kind: Kind) -> re.Pattern[str]:
    if action != "*":
        service, colon, name = action.partition(":")
        if not colon:
            raise PolicyError("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")
        if not re.fullmatch(r"[A-Za-z0-9-]+", service):
            raise PolicyError(f"Vendor {service} is not valid")
        if not re.fullmatch(r"[A-Za-z0-9*?]+", name):
            raise PolicyError(f"The action {action} is not valid.")
        if kind is Kind.TRUST and service.lower() != "sts":
            raise PolicyError("AssumeRole policy may only specify STS AssumeRole actions.")
    elif kind is Kind.TRUST:
        raise PolicyError("AssumeRole policy may only specify STS AssumeRole actions.")
    return wildcard(action, ignore_case=True)


def _check_resource(resource: str, variables: bool, any_key: bool) -> None:
    if resource == "*":
        return
    parts = resource.split(":", 5)
    if parts[0] != "arn" or len(parts) != 6:
        # AWS: `Resource foo must be in ARN format or "*".`
        raise PolicyError(f'Resource {resource} must be in ARN format or "*".')
    if "*" in parts[2] or "?" in parts[2]:
        raise PolicyError(f"Resource vendor must be fully qualified and cannot contain regexes: {resource}.")
    if variables:
        try:
            check_variables(resource, any_key)
        except ValueError as error:
            raise PolicyError(f"Syntax errors in policy: {error}.") from None


_PRINCIPAL_ARN = re.compile(
    r"arn:aws:(iam::\d{12}:(root|user/[^*?]+|role/[^*?]+)|sts::\d{12}:assumed-role/[^*?]+/[^*?]+)", re.ASCII
)
_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com", re.ASCII)


def _principals(content: dict[str, Any], kind_of_policy: Kind, where: str) -> tuple[tuple[str, str], ...]:
    given = [key for key in ("Principal", "NotPrincipal") if key in content]
    if len(given) != 1:
        raise PolicyError("Missing required field Principal" if not given else f"{where} has two principals")
    element = content[given[0]]
    if element == "*":
        return (("*", "*"),)
    if not isinstance(element, dict) or not element:
        raise PolicyError("Invalid principal in policy")
    principals = []
    for kind, values in element.items():
        for value in _texts(values, f"the {given[0]} of {where}"):
            principals.append((kind, _principal(kind, value, kind_of_policy)))
    return tuple(principals)


def _principal(kind: str, value: str, kind_of_policy: Kind) -> str:
    if kind == "Service" and _SERVICE.fullmatch(value):
        return value
    if kind == "AWS" and (value == "*" or re.fullmatch(r"\d{12}", value, re.ASCII) or _PRINCIPAL_ARN.fullmatch(value)):
        return value
    if kind in ("Federated", "CanonicalUser"):
        if kind_of_policy is Kind.RESOURCE:
            return value  # names nobody who calls here
        raise PolicyError(f"Invalid principal in policy: {kind} principals are not supported.")
    raise PolicyError(f'Invalid principal in policy: "{kind}":"{value}"')


@lru_cache(maxsize=2048)
def stored_policy(document: str, kind: Kind = Kind.IDENTITY, name: str = "") -> Policy:
    """`parse_policy` of a document that is kept and asked again; what is only being checked must not push it out."""
    return parse_policy(document, kind, name)
