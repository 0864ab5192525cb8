"""Policies: parsed once, then evaluated as AWS evaluates them. Pure.

    explicit Deny in any policy  ->  denied, final
    an Allow that applies        ->  allowed, if every further layer (session policy) allows too
    otherwise                    ->  denied (implicit)

Sources: IAM user guide, "Policy evaluation logic", "IAM JSON policy element reference" and "grammar of the IAM JSON
policy language". What is not understood is refused when a policy is made (`PolicyError`), never ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

from vnotch.errors import InputError
from vnotch.iam.conditions import (
    Condition,
    Context,
    any_wildcard,
    check_variables,
    compile_condition,
    glob_matches,
    has_variable,
    wildcard,
)

VERSIONS = ("2012-10-17", "2008-10-17")
DOCUMENT_BYTES_MAX = 131_072  # the model's bound on policyDocument; quotas of each kind are lower
STATEMENTS_MAX = 1_000


class PolicyError(InputError):
    """A document that is no policy (AWS: MalformedPolicyDocument). The message is the reason."""


class Kind(Enum):
    IDENTITY = "identity"  # inline and session policies: Resource, no Principal
    TRUST = "trust"  # of a role: Principal, no Resource


class Outcome(Enum):
    """As SimulatePrincipalPolicy names them."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


@dataclass(frozen=True)
class Caller:
    """The principal of a trust decision: `kind` is AWS or Service; `arns` are all that name an AWS principal."""

    kind: str
    name: str  # the ARN, or vpc-flow-logs.amazonaws.com
    account: str = ""
    arns: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Statement:
    """One statement, ready to be asked. `number` counts from 1; `policy` is the name of the policy that it is in."""

    policy: str
    number: int
    sid: str
    allows: bool
    actions: tuple[re.Pattern[str], ...]
    actions_negated: bool
    resources: re.Pattern[str] | None  # all patterns without variables as one
    resources_with_variables: tuple[str, ...]
    resources_negated: bool
    principals: tuple[tuple[str, str], ...]
    principals_negated: bool
    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return f"{self.policy or 'policy'}, statement {self.sid or self.number}"

    def covers_action(self, action: str) -> bool:
        return any(pattern.fullmatch(action) for pattern in self.actions) is not self.actions_negated

    def covers_resource(self, resource: str, context: Context) -> bool:
        matched = self.resources is not None and self.resources.fullmatch(resource) is not None
        if not matched and self.resources_with_variables:
            matched = any(glob_matches(pattern, resource, context) for pattern in self.resources_with_variables)
        return matched is not self.resources_negated

    def holds(self, context: Context) -> bool:
        return all(condition(context) for condition in self.conditions)


@dataclass(frozen=True, eq=False)
class Policy:
    """A parsed policy. Statements that cover an action are remembered: the actions of an API are few."""

    name: str
    statements: tuple[Statement, ...]
    _by_action: dict[str, tuple[Statement, ...]] = field(default_factory=dict, repr=False)

    def covering(self, action: str) -> tuple[Statement, ...]:
        found = self._by_action.get(action)
        if found is None:
            found = tuple(statement for statement in self.statements if statement.covers_action(action))
            if len(self._by_action) < 1_000:
                self._by_action[action] = found
        return found


@dataclass(frozen=True)
class Decision:
    """What was decided and by which statement (None for an implicit deny)."""

    outcome: Outcome
    statement: Statement | None = None
    layer: str = "identity"  # the layer that decided: identity, session, trust

    @property
    def allowed(self) -> bool:
        return self.outcome is Outcome.ALLOWED


# --- evaluating ---


def evaluate(
    policies: Iterable[Policy], action: str, resource: str, context: Context, *, session: Policy | None = None
) -> Decision:
    """Whether identity policies, and the session policy where there is one, let `action` be done on `resource`.

    `action` is `service:Name` in any case; `resource` an ARN, or `*` for operations without one.
    """
    decision = _one_layer(policies, action, resource, context, "identity")
    if session is None or decision.outcome is Outcome.EXPLICIT_DENY:
        return decision
    limit = _one_layer((session,), action, resource, context, "session")
    # The first layer that does not allow decides, but an explicit deny of any layer is final.
    return decision if limit.allowed or (not decision.allowed and limit.outcome is Outcome.IMPLICIT_DENY) else limit


def _one_layer(policies: Iterable[Policy], action: str, resource: str, context: Context, layer: str) -> Decision:
    allow: Statement | None = None
    for policy in policies:
        for statement in policy.covering(action):
            if allow is not None and statement.allows:
                continue  # only a deny can still change anything
            if statement.covers_resource(resource, context) and statement.holds(context):
                if not statement.allows:
                    return Decision(Outcome.EXPLICIT_DENY, statement, layer)
                allow = statement
    return Decision(Outcome.IMPLICIT_DENY, None, layer) if allow is None else Decision(Outcome.ALLOWED, allow, layer)


@dataclass(frozen=True)
class TrustDecision(Decision):
    """`delegated`: only the account as a whole is trusted, so the caller's own policies must allow the call too."""

    delegated: bool = False


def evaluate_trust(policy: Policy, action: str, caller: Caller, context: Context) -> TrustDecision:
    """Whether a role's trust policy lets `caller` do `action` (sts:AssumeRole)."""
    allow: Statement | None = None
    delegated = True
    for statement in policy.covering(action):
        named = _names(statement, caller)
        if named is None or not statement.holds(context):
            continue
        if not statement.allows:
            return TrustDecision(Outcome.EXPLICIT_DENY, statement, "trust")
        if allow is None or delegated:
            allow, delegated = statement, named == "account"
    if allow is None:
        return TrustDecision(Outcome.IMPLICIT_DENY, None, "trust")
    return TrustDecision(Outcome.ALLOWED, allow, "trust", delegated)


def _names(statement: Statement, caller: Caller) -> str | None:
    """How the statement's Principal covers the caller: `itself`, through its `account`, or not at all (None)."""
    found = None
    for kind, value in statement.principals:
        same_kind = kind == caller.kind
        if kind == "*" or (same_kind and (value == "*" or value == caller.name or value in caller.arns)):
            found = "itself"
        elif kind == caller.kind == "AWS" and caller.account in (value, _account_of_root(value)):
            found = found or "account"
    if statement.principals_negated:
        # NotPrincipal names an account's principals one by one; what it does not name is covered as itself.
        return None if found else "itself"
    return found


def _account_of_root(value: str) -> str | None:
    match = re.fullmatch(r"arn:aws:iam::(\d{12}):root", value, re.ASCII)
    return match[1] if match else None


# --- parsing ---


def parse_policy(document: str, kind: Kind = Kind.IDENTITY, name: str = "") -> Policy:
    """The policy in a JSON document; PolicyError with the reason for anything that the grammar does not have."""
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
    parsed = tuple(_statement(item, number, kind, name, version) for number, item in enumerate(listed, 1))
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


def _statement(content: Any, number: int, kind: Kind, policy: str, version: str) -> Statement:
    where = f"statement {number}"
    if not isinstance(content, dict):
        raise PolicyError(f"Syntax errors in policy: {where} is not an object.")
    if kind is Kind.TRUST and ("Resource" in content or "NotResource" in content):
        raise PolicyError("Has prohibited field Resource")
    if kind is Kind.IDENTITY and ("Principal" in content or "NotPrincipal" in content):
        raise PolicyError("Policy document should not specify a principal.")
    _refuse_others(content, _STATEMENT_KEYS[kind], where)
    if content.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"Syntax errors in policy: the Effect of {where} must be Allow or Deny.")
    sid = content.get("Sid", "")
    if not isinstance(sid, str) or not re.fullmatch(r"[A-Za-z0-9]*", sid):
        raise PolicyError(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression "
            "[0-9A-Za-z]*"
        )
    action_key, actions = _one_of(content, "Action", "NotAction", where)
    resources: tuple[str, ...] = ("*",)
    resource_key = "Resource"
    if kind is Kind.IDENTITY:
        resource_key, resources = _one_of(content, "Resource", "NotResource", where)
        for resource in resources:
            _check_resource(resource, version)
    principals: tuple[tuple[str, str], ...] = ()
    if kind is Kind.TRUST:
        principals = _principals(content, where)
    if version != "2012-10-17" and has_variable(json.dumps(content.get("Condition", ""))):
        raise PolicyError("Policy variables need the Version 2012-10-17.")
    try:
        conditions = compile_condition(content["Condition"]) if "Condition" in content else ()
    except ValueError as error:
        raise PolicyError(f"Syntax errors in policy: {where}: {error}.") from None
    return Statement(
        policy=policy,
        number=number,
        sid=sid,
        allows=content["Effect"] == "Allow",
        actions=tuple(_action(action, kind) for action in actions),
        actions_negated=action_key == "NotAction",
        resources=any_wildcard(tuple(resource for resource in resources if not has_variable(resource))),
        resources_with_variables=tuple(filter(has_variable, resources)),
        resources_negated=resource_key == "NotResource",
        principals=principals,
        principals_negated="NotPrincipal" in content,
        conditions=conditions,
    )


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


def _check_resource(resource: str, version: str) -> None:
    if resource == "*":
        return
    parts = resource.split(":", 5)
    if parts[0] != "arn" or len(parts) != 6:
        # AWS: `Resource foo must be in ARN format or "*".`
        raise PolicyError(f'Resource {resource} must be in ARN format or "*".')
    if "*" in parts[2] or "?" in parts[2]:
        raise PolicyError(f"Resource vendor must be fully qualified and cannot contain regexes: {resource}.")
    if version == "2012-10-17" and has_variable(resource):
        try:
            check_variables(resource)
        except ValueError as error:
            raise PolicyError(f"Syntax errors in policy: {error}.") from None
    elif has_variable(resource):
        raise PolicyError("Policy variables need the Version 2012-10-17.")


_PRINCIPAL_ARN = re.compile(r"arn:aws:(iam::\d{12}:(root|user/.+|role/.+)|sts::\d{12}:assumed-role/.+/.+)", re.ASCII)
_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com", re.ASCII)


def _principals(content: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
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
            principals.append((kind, _principal(kind, value)))
    return tuple(principals)


def _principal(kind: str, value: str) -> str:
    if kind == "Service" and _SERVICE.fullmatch(value):
        return value
    if kind == "AWS" and (value == "*" or re.fullmatch(r"\d{12}", value, re.ASCII) or _PRINCIPAL_ARN.fullmatch(value)):
        return value
    if kind in ("Federated", "CanonicalUser"):
        raise PolicyError(f"Invalid principal in policy: {kind} principals are not supported.")
    raise PolicyError(f'Invalid principal in policy: "{kind}":"{value}"')


@lru_cache(maxsize=2048)
def stored_policy(document: str, kind: Kind = Kind.IDENTITY, name: str = "") -> Policy:
    """`parse_policy` of a document that is kept and asked again; what is only being checked must not push it out."""
    return parse_policy(document, kind, name)
