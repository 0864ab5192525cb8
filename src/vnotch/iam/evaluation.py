"""May this principal do this? Decided as AWS decides it. Pure.

    explicit Deny in any policy                          ->  denied, final
    a resource policy that names the principal itself    ->  allowed, whatever else allows
    identity policies, or the role in a resource policy  ->  or denied
    permissions boundary, session policies, if there     ->  each must allow as well, or denied

Across accounts the resource policy and the identity policies must both allow. Sources: IAM user guide, "Policy
evaluation logic", "Cross-account policy evaluation logic", "Permissions boundaries for IAM entities".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from vnotch.iam.policy import Caller, Named, Policy, Statement
from vnotch.iam.variables import Context


class Outcome(Enum):
    """As SimulatePrincipalPolicy names them."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


@dataclass(frozen=True)
class Decision:
    """What was decided and by which statement (None for an implicit deny)."""

    outcome: Outcome
    statement: Statement | None = None
    layer: str = "identity"  # the layer that decided: identity, boundary, session, resource, trust

    @property
    def allowed(self) -> bool:
        return self.outcome is Outcome.ALLOWED

    @property
    def explicit(self) -> bool:
        return self.outcome is Outcome.EXPLICIT_DENY


def evaluate(
    policies: Iterable[Policy],
    action: str,
    resource: str,
    context: Context,
    *,
    session: Sequence[Policy] | None = None,
    boundary: Policy | None = None,
    resource_policies: Sequence[Policy] = (),
    caller: Caller | None = None,
    other_account: bool = False,
) -> Decision:
    """Whether a principal may do `action` on `resource`.

    `action` is `service:Name` in any case; `resource` an ARN, or `*` for operations without one. `session` are the
    session policies, None where none was given (an empty list allows nothing). Resource policies need the `caller`;
    `other_account` says that the resource is not of the caller's account.
    """
    identity = _one_layer(policies, action, resource, context, "identity")
    if identity.explicit:
        return identity
    limits = []
    if boundary is not None:
        limits.append(_one_layer((boundary,), action, resource, context, "boundary"))
    if session is not None:
        limits.append(_one_layer(session, action, resource, context, "session"))
    granted: Decision | None = None
    named: Named | None = None
    if resource_policies or other_account:
        assert caller is not None
        granted, named = _resource_layer(resource_policies, action, resource, context, caller)
        limits.append(granted)
    for limit in limits:
        if limit.explicit:
            return limit
    return _allowed(identity, [limit for limit in limits if limit is not granted], granted, named, other_account)


def _allowed(
    identity: Decision, limits: list[Decision], granted: Decision | None, named: Named | None, other_account: bool
) -> Decision:
    """The decision where nothing denies explicitly; `limits` are those of boundary and session."""
    if other_account:
        steps = [identity, *limits]
        if granted is not None:
            steps.append(granted)
        return next((step for step in steps if not step.allowed), identity)
    if granted is not None and granted.allowed and named is Named.ITSELF:
        return granted
    if not identity.allowed:
        if granted is None or not granted.allowed or named is not Named.ROLE:
            return identity
        identity = granted
    return next((limit for limit in limits if not limit.allowed), identity)


def _one_layer(policies: Iterable[Policy], action: str, resource: str, context: Context, layer: str) -> Decision:
    covering = [policy.covering(action) for policy in policies]
    for denies, _ in covering:
        if denies.statements and (deny := denies.applying(resource, context)) is not None:
            return Decision(Outcome.EXPLICIT_DENY, deny, layer)
    for _, allows in covering:
        if (allow := allows.applying(resource, context)) is not None:
            return Decision(Outcome.ALLOWED, allow, layer)
    return Decision(Outcome.IMPLICIT_DENY, None, layer)


_RANK = {Named.ACCOUNT: 0, Named.ROLE: 1, Named.ITSELF: 2}


def _resource_layer(
    policies: Iterable[Policy], action: str, resource: str, context: Context, caller: Caller, layer: str = "resource"
) -> tuple[Decision, Named | None]:
    """What policies with principals say, and how the strongest of their allows names the caller."""
    allow: Statement | None = None
    strongest: Named | None = None
    for policy in policies:
        for statement in policy.speaking_of(action):
            named = statement.names(caller)
            if named is None or not statement.applies(resource, context):
                continue
            if not statement.allows:
                return Decision(Outcome.EXPLICIT_DENY, statement, layer), None
            if strongest is None or _RANK[named] > _RANK[strongest]:
                allow, strongest = statement, named
    if allow is None:
        return Decision(Outcome.IMPLICIT_DENY, None, layer), None
    return Decision(Outcome.ALLOWED, allow, layer), strongest


@dataclass(frozen=True)
class TrustDecision(Decision):
    """`delegated`: only the account as a whole is trusted, so the caller's own policies must allow the call too."""

    delegated: bool = False


def evaluate_trust(policy: Policy, action: str, caller: Caller, context: Context) -> TrustDecision:
    """Whether a role's trust policy lets `caller` do `action` (sts:AssumeRole)."""
    decision, named = _resource_layer((policy,), action, "*", context, caller, "trust")
    return TrustDecision(decision.outcome, decision.statement, "trust", named is Named.ACCOUNT)


def matching(policies: Iterable[Policy], action: str, resource: str, context: Context) -> Iterator[Statement]:
    """All statements that apply, those that did not decide included (SimulateCustomPolicy, MatchedStatements)."""
    for policy in policies:
        for statement in policy.speaking_of(action):
            if statement.applies(resource, context):
                yield statement
