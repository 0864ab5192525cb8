"""SimulateCustomPolicy, SimulatePrincipalPolicy, and the context keys that policies ask for.

A simulation brings its own context: keys that it does not give are missing, and are named in MissingContextValues. One
result an action and resource; a page is evaluated when it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from vnotch.api.iam.part import ITEMS_DEFAULT, PRINCIPALS, IamPart, marker, read_marker
from vnotch.api.service import ApiError, Call, operation
from vnotch.iam.evaluation import Decision, Outcome, evaluate, matching
from vnotch.iam.grammar import PolicyError, parse_policy
from vnotch.iam.policy import Caller, Kind, Policy, Statement
from vnotch.iam.positions import statement_positions
from vnotch.iam.variables import Context
from vnotch.store.policies import PolicyText, managed_policy_text, policies_of
from vnotch.store.principals import Group, Principal, Role, User

RESULTS_MAX = 10_000
UNSUPPORTED = "ResourceHandlingOption OrderedOrganizationPolicyInputList"
BOUNDARY = "PermissionsBoundaryPolicyInputList"
_ACTION = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9]+")


@dataclass(frozen=True)
class Input:
    """A policy of a simulation: its id and source in the answer, and its text for positions."""

    id: str
    source: str
    document: str
    policy: Policy


@dataclass(frozen=True)
class Asked:
    """One simulation, ready to be asked action by action."""

    identity: list[Input]
    boundary: list[Input]
    resource: list[Input]
    caller: Caller
    context: Context

    def on(self, action: str, resource: str, owner: str) -> dict[str, Any]:
        resource_account = _account_of(resource) or owner
        decision = evaluate(
            [item.policy for item in self.identity],
            action,
            resource,
            self.context,
            boundary=self.boundary[0].policy if self.boundary else None,
            resource_policies=[item.policy for item in self.resource],
            caller=self.caller,
            other_account=bool(self.resource and resource_account and resource_account != self.caller.account),
        )
        answer: dict[str, Any] = {
            "EvalActionName": action,
            "EvalResourceName": resource,
            "EvalDecision": decision.outcome.value,
            "MatchedStatements": self._matched(decision, action, resource),
            "MissingContextValues": self._missing(action),
        }
        if self.boundary:
            limit = evaluate([self.boundary[0].policy], action, resource, self.context)
            answer["PermissionsBoundaryDecisionDetail"] = {"AllowedByPermissionsBoundary": limit.allowed}
        return answer

    def _matched(self, decision: Decision, action: str, resource: str) -> list[dict[str, Any]]:
        """The statements that decided: all allows of an allow, the denies of an explicit deny, none of an implicit one
        (IAM API Reference, EvaluationResult)."""
        if decision.outcome is Outcome.IMPLICIT_DENY:
            return []
        found = []
        for item in (*self.identity, *self.boundary, *self.resource):
            for statement in matching([item.policy], action, resource, self.context):
                named = item not in self.resource or statement.names(self.caller) is not None
                if named and statement.allows is decision.allowed:
                    found.append(_statement_members(item, statement))
        return found

    def _missing(self, action: str) -> list[str]:
        covering = [
            statement
            for item in (*self.identity, *self.boundary, *self.resource)
            for statement in item.policy.speaking_of(action)
        ]
        return _missing_keys(covering, self.context)


class Simulation(IamPart):
    @operation("SimulateCustomPolicy", unsupported=UNSUPPORTED)
    def simulate_custom_policy(self, call: Call) -> dict[str, Any]:
        inputs = _inputs(call.params["PolicyInputList"], "PolicyInputList")
        boundary = _inputs(
            call.params.get("PermissionsBoundaryPolicyInputList", ()), "PermissionsBoundaryPolicyInputList"
        )
        return self._simulate(call, inputs, boundary, call.params.get("CallerArn"))

    def simulated_resource(self, call: Call) -> list[str]:
        return [call.params["PolicySourceArn"]]

    @operation("SimulatePrincipalPolicy", "simulated_resource", unsupported=f"PolicyExclusionList {UNSUPPORTED}")
    def simulate_principal_policy(self, call: Call) -> dict[str, Any]:
        arn = call.params["PolicySourceArn"]
        more = _inputs(call.params.get("PolicyInputList", ()), "PolicyInputList")
        bounds = _inputs(
            call.params.get("PermissionsBoundaryPolicyInputList", ()), "PermissionsBoundaryPolicyInputList"
        )
        with self.accounts.state.read() as session:
            principal = self._principal(session, arn)
            own = [_stored_input(text) for text in policies_of(session, self.account, principal)]
            if not bounds and not isinstance(principal, Group) and principal.boundary_arn is not None:
                text = managed_policy_text(session, self.account, principal.boundary_arn)
                assert text is not None  # a policy that is a boundary cannot be deleted
                bounds = [_stored_input(text)]
        caller = call.params.get("CallerArn") or (None if isinstance(principal, Group) else arn)
        return self._simulate(call, [*own, *more], bounds, caller)

    def _simulate(
        self, call: Call, identity: list[Input], boundary: list[Input], caller_arn: str | None
    ) -> dict[str, Any]:
        params = call.params
        if len(boundary) > 1:
            raise ApiError("InvalidInput", "There can be one permissions boundary.")
        resource: list[Input] = []
        if "ResourcePolicy" in params:
            if caller_arn is None:
                raise ApiError("InvalidInput", "A simulation with a ResourcePolicy needs a CallerArn.")
            resource = _inputs([params["ResourcePolicy"]], "ResourcePolicy", Kind.RESOURCE)
        account = (_account_of(caller_arn) if caller_arn else None) or self.account
        caller = Caller("AWS", caller_arn or "", account)
        asked = Asked(identity, boundary, resource, caller, _context(params.get("ContextEntries", ())))
        owner = _owner(params.get("ResourceOwner"))
        pairs = [(action, arn) for action in _actions(params) for arn in params.get("ResourceArns") or ["*"]]
        if len(pairs) > RESULTS_MAX:
            raise ApiError("InvalidInput", f"A simulation has at most {RESULTS_MAX} results.")
        start = _start(params)
        shown = pairs[start : start + params.get("MaxItems", ITEMS_DEFAULT)]
        answer: dict[str, Any] = {"EvaluationResults": [asked.on(action, arn, owner) for action, arn in shown]}
        answer["IsTruncated"] = start + len(shown) < len(pairs)
        if answer["IsTruncated"]:
            answer["Marker"] = marker(str(start + len(shown)))
        return answer

    @operation("GetContextKeysForCustomPolicy")
    def get_context_keys_for_custom_policy(self, call: Call) -> dict[str, Any]:
        return _context_keys(_inputs(call.params["PolicyInputList"], "PolicyInputList"))

    @operation("GetContextKeysForPrincipalPolicy", "simulated_resource")
    def get_context_keys_for_principal_policy(self, call: Call) -> dict[str, Any]:
        more = _inputs(call.params.get("PolicyInputList", ()), "PolicyInputList")
        with self.accounts.state.read() as session:
            principal = self._principal(session, call.params["PolicySourceArn"])
            own = [_stored_input(text) for text in policies_of(session, self.account, principal)]
        return _context_keys([*own, *more])

    def _principal(self, session: Session, arn: str) -> Principal:
        kind = arn.rpartition(":")[2].partition("/")[0].capitalize()
        row = session.get(PRINCIPALS[kind], arn.rpartition("/")[2].lower()) if kind in PRINCIPALS else None
        if row is None or row.arn(self.account) != arn:
            raise ApiError("NoSuchEntity", f"The user, group or role {arn} cannot be found.")
        assert isinstance(row, User | Role | Group)
        return row


def _inputs(documents: Iterable[str], member: str, kind: Kind = Kind.IDENTITY) -> list[Input]:
    found = []
    for number, document in enumerate(documents, 1):
        name = member if kind is Kind.RESOURCE else f"{member}.{number}"
        try:
            policy = parse_policy(document, kind, name, any_key=True)
        except PolicyError as error:
            raise ApiError("InvalidInput", f"{name}: {error.message}") from None
        found.append(Input(name, "resource" if kind is Kind.RESOURCE else "none", document, policy))
    return found


def _stored_input(text: PolicyText) -> Input:
    """AWS's form of the ids of stored policies is not published; it is the policy's name here."""
    return Input(text.name, text.source, text.document, parse_policy(text.document, Kind.IDENTITY, text.name))


def _statement_members(item: Input, statement: Statement) -> dict[str, Any]:
    start, end = statement_positions(item.document)[statement.number - 1]
    return {
        "SourcePolicyId": item.id,
        "SourcePolicyType": item.source,
        "StartPosition": {"Line": start[0], "Column": start[1]},
        "EndPosition": {"Line": end[0], "Column": end[1]},
    }


def _context(entries: Iterable[dict[str, Any]]) -> Context:
    context: dict[str, str | tuple[str, ...]] = {}
    for entry in entries:
        name, values, kind = entry.get("ContextKeyName"), entry.get("ContextKeyValues"), entry.get("ContextKeyType")
        if not name or values is None or not kind:
            raise ApiError("InvalidInput", "A context entry has a name, a type and values.")
        if kind.endswith("List"):
            context[name.lower()] = tuple(values)
        elif len(values) == 1:
            context[name.lower()] = values[0]
        else:
            raise ApiError("InvalidInput", f"The context key {name} of type {kind} must have one value.")
    return context


def _actions(params: dict[str, Any]) -> list[str]:
    for action in params["ActionNames"]:
        if not _ACTION.fullmatch(action):
            raise ApiError("InvalidInput", f"The action {action} must be of the form service:Name, without wildcards.")
    found: list[str] = params["ActionNames"]
    return found


def _start(params: dict[str, Any]) -> int:
    if "Marker" not in params:
        return 0
    text = read_marker(params["Marker"])
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise ApiError("InvalidInput", "Invalid Marker.")
    return int(text)


def _account_of(arn: str) -> str | None:
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == 6 and re.fullmatch(r"[0-9]{12}", parts[4]) else None


def _owner(text: str | None) -> str:
    if text is None:
        return ""
    return _account_of(text) or text


def _missing_keys(statements: Iterable[Statement], context: Context) -> list[str]:
    keys = {key.lower(): key for statement in statements for key in statement.keys}
    return [keys[name] for name in sorted(keys) if name not in context]


def _context_keys(inputs: Iterable[Input]) -> dict[str, Any]:
    statements = [statement for item in inputs for statement in item.policy.statements]
    return {"ContextKeyNames": _missing_keys(statements, {})}
