"""STS: who am I, and sessions of roles (STS API Reference: GetCallerIdentity, AssumeRole).

AssumeRole is decided by the role's trust policy. A user or role that the trust names needs nothing more; where the
trust is given to the account, the caller's own policies must allow sts:AssumeRole too; an explicit deny is final.

An agent's key stands for the service principal `vpc-flow-logs.amazonaws.com`, but only for a flow log on one of its own
interfaces that names that very role. `flow_log_for` answers that question, and the server, not the agent, fills in
aws:SourceAccount and aws:SourceArn (IAM user guide, "The confused deputy problem").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vnotch.api.gate import Gate
from vnotch.api.service import ApiError, Call, Service, operation
from vnotch.api.wire.dialect import QUERY
from vnotch.iam.evaluation import TrustDecision, evaluate_trust
from vnotch.iam.grammar import PolicyError, parse_policy, stored_policy
from vnotch.iam.policy import Caller, Kind
from vnotch.iam.variables import Context
from vnotch.store.accounts import Accounts, Identity, Role

FLOW_LOGS_PRINCIPAL = "vpc-flow-logs.amazonaws.com"
CHAINED_SECONDS_MAX = 3600
"""A session made from a session lasts at most an hour (STS API Reference, AssumeRole, DurationSeconds)."""

FlowLogFor = Callable[[str, str, str], tuple[str, str] | None]
"""(agent, role ARN, session name) -> (flow log id, its ARN), or None where that agent delivers no such flow log."""


class Sts(Service):
    name = "sts"
    model = "sts"

    def __init__(self, accounts: Accounts, flow_log_for: FlowLogFor | None = None) -> None:
        self._accounts = accounts
        self._gate = Gate(accounts)
        self._flow_log_for = flow_log_for

    @operation("GetCallerIdentity", unauthorised=True)
    def get_caller_identity(self, call: Call) -> dict[str, Any]:
        """Every signed caller may ask (STS API Reference: no permissions are required)."""
        return {"UserId": call.principal.user_id, "Account": call.account, "Arn": call.principal.arn}

    @operation("AssumeRole", unauthorised=True)
    def assume_role(self, call: Call) -> dict[str, Any]:
        """Credentials of a session of a role, when the role's trust policy allows it."""
        supported = {"RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId", "Policy"}
        for name in call.params:
            if name not in supported:
                raise ApiError("ValidationError", f"The parameter {name} is not supported.")
        role_arn, session_name = call.params["RoleArn"], call.params["RoleSessionName"]
        identity = call.identity
        assert identity is not None  # the app gives it with every call
        with self._accounts.state.read() as session:
            role = self._accounts.role_by_arn(session, role_arn)
            if role is not None:
                session.expunge(role)
        # A role that is not there and a role that does not trust are told apart by nothing.
        if role is None or not self._trusted(call, identity, role, session_name):
            raise QUERY.denied(call.principal.arn, "sts:AssumeRole", role_arn, explicit=False)
        seconds = _duration(call, identity, role)
        policy = _session_policy(call)
        made = self._accounts.make_session(role, session_name, call.now_ms // 1000, seconds, policy)
        return {
            "Credentials": {
                "AccessKeyId": made.access_key_id,
                "SecretAccessKey": made.secret_access_key,
                "SessionToken": made.session_token,
                "Expiration": made.expires_s,
            },
            "AssumedRoleUser": {
                "AssumedRoleId": f"{role.role_id}:{session_name}",
                "Arn": f"arn:aws:sts::{call.account}:assumed-role/{role.name}/{session_name}",
            },
        }

    def _trusted(self, call: Call, identity: Identity, role: Role, session_name: str) -> bool:
        context = dict(call.context)
        context["sts:rolesessionname"] = session_name
        if "ExternalId" in call.params:
            context["sts:externalid"] = call.params["ExternalId"]
        if identity.kind == "agent":
            return self._trusted_for_flow_log(identity, role, session_name, context)
        arns = tuple(arn for arn in (identity.arn, identity.role_arn) if arn)
        decision = self._ask(role, Caller("AWS", identity.arn, call.account, arns), context)
        own = self._gate.decide(identity, "sts:AssumeRole", self._accounts.role_arn(role), context)
        if own.statement is not None and not own.allowed:
            return False  # an explicit deny of the caller's own
        return decision.allowed and (own.allowed or not decision.delegated)

    def _trusted_for_flow_log(self, identity: Identity, role: Role, session_name: str, context: Context) -> bool:
        role_arn = self._accounts.role_arn(role)
        found = self._flow_log_for(identity.name, role_arn, session_name) if self._flow_log_for else None
        if found is None:
            return False
        service_context = {
            **context,
            "aws:sourceaccount": self._accounts.account,
            "aws:sourcearn": found[1],
            "aws:principalservicename": FLOW_LOGS_PRINCIPAL,
        }
        return self._ask(role, Caller("Service", FLOW_LOGS_PRINCIPAL), service_context).allowed

    def _ask(self, role: Role, caller: Caller, context: Context) -> TrustDecision:
        trust = stored_policy(role.trust_policy, Kind.TRUST, f"trust policy of {role.name}")
        return evaluate_trust(trust, "sts:AssumeRole", caller, context)


def _duration(call: Call, identity: Identity, role: Role) -> int:
    seconds = int(call.params.get("DurationSeconds", 3600))
    if seconds > role.max_session_seconds:
        text = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        raise ApiError("ValidationError", text)
    if identity.kind == "assumed-role" and seconds > CHAINED_SECONDS_MAX:
        text = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."
        raise ApiError("ValidationError", text)
    return seconds


def _session_policy(call: Call) -> str | None:
    policy: str | None = call.params.get("Policy")
    if policy is not None:
        try:
            parse_policy(policy, Kind.IDENTITY, "session policy")
        except PolicyError as error:
            raise ApiError("MalformedPolicyDocument", error.message) from None
    return policy
