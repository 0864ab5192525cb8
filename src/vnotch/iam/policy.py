"""A policy, parsed: its statements and what each of them covers. Pure; `vnotch.iam.grammar` makes them from JSON.

Sources: IAM user guide, "IAM JSON policy element reference".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from vnotch.iam.conditions import Condition
from vnotch.iam.variables import Context, Unresolved, glob_matches

ACTIONS_REMEMBERED = 1_000


class Kind(Enum):
    IDENTITY = "identity"  # inline, managed and session policies, boundaries: Resource, no Principal
    TRUST = "trust"  # of a role: Principal, no Resource
    RESOURCE = "resource"  # of any other resource: Principal and Resource


@dataclass(frozen=True)
class Caller:
    """The principal as a Principal element names it: `kind` is AWS or Service; `arns` are those of the role of a
    session."""

    kind: str
    name: str  # the ARN, or vpc-flow-logs.amazonaws.com
    account: str = ""
    arns: tuple[str, ...] = ()


class Named(Enum):
    """How a Principal element covers a caller."""

    ITSELF = "itself"  # by its own ARN, or as anyone
    ROLE = "role"  # a session by its role
    ACCOUNT = "account"  # through its account, which only delegates


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
    needle: str = ""  # a text that is in every resource that it covers
    keys: tuple[str, ...] = ()  # the context keys that it asks for, as they are written

    def __str__(self) -> str:
        return f"{self.policy or 'policy'}, statement {self.sid or self.number}"

    def covers_action(self, action: str) -> bool:
        return any(pattern.fullmatch(action) for pattern in self.actions) is not self.actions_negated

    def applies(self, resource: str, context: Context) -> bool:
        """Whether it speaks of this resource in this request. A variable without a value makes it invalid."""
        try:
            matched = self.resources is not None and self.resources.fullmatch(resource) is not None
            if not matched and self.resources_with_variables:
                matched = any(glob_matches(pattern, resource, context) for pattern in self.resources_with_variables)
            if matched is self.resources_negated:
                return False
            for condition in self.conditions:  # noqa: SIM110  a generator would cost more than the conditions do
                if not condition(context):
                    return False
            return True
        except Unresolved:
            return False

    def names(self, caller: Caller) -> Named | None:
        """How its Principal covers the caller, None where it does not."""
        found = None
        for kind, value in self.principals:
            if kind == "*" or (kind == caller.kind and value in ("*", caller.name)):
                found = Named.ITSELF
                break
            if kind == caller.kind and value in caller.arns:
                found = Named.ROLE
            elif kind == caller.kind == "AWS" and caller.account in (value, _account_of_root(value)):
                found = found or Named.ACCOUNT
        if self.principals_negated:
            # NotPrincipal names an account's principals one by one; what it does not name is covered as itself.
            return None if found else Named.ITSELF
        return found


def _account_of_root(value: str) -> str | None:
    match = re.fullmatch(r"arn:aws:iam::(\d{12}):root", value, re.ASCII)
    return match[1] if match else None


@dataclass(frozen=True, eq=False)
class Covering:
    """The statements of a policy that cover one action and have one effect."""

    statements: tuple[Statement, ...]

    def applying(self, resource: str, context: Context) -> Statement | None:
        """The first statement that applies."""
        for statement in self.statements:
            # Most statements speak of other resources than a request's: one look for a text that theirs must have.
            if statement.needle in resource and statement.applies(resource, context):
                return statement
        return None


@dataclass(frozen=True, eq=False)
class Policy:
    """A parsed policy. What covers an action is remembered: the actions of an API are few."""

    name: str
    statements: tuple[Statement, ...]
    _by_action: dict[str, tuple[Covering, Covering]] = field(default_factory=dict, repr=False)

    def covering(self, action: str) -> tuple[Covering, Covering]:
        """The statements that deny the action, and those that allow it."""
        found = self._by_action.get(action)
        if found is None:
            covering = [statement for statement in self.statements if statement.covers_action(action)]
            denies = tuple(statement for statement in covering if not statement.allows)
            allows = tuple(statement for statement in covering if statement.allows)
            found = (Covering(denies), Covering(allows))
            if len(self._by_action) < ACTIONS_REMEMBERED:
                self._by_action[action] = found
        return found

    def speaking_of(self, action: str) -> tuple[Statement, ...]:
        """All statements that cover the action, those that deny first."""
        denies, allows = self.covering(action)
        return denies.statements + allows.statements
