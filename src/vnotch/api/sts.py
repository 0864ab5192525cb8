"""STS: who am I, and temporary credentials (STS API Reference).

AssumeRole is decided by the role's trust policy. A user, or one session of a role, that the trust names needs nothing
more; the sessions of a role that it names are held within their session policies and boundary; where the trust is given
to the account, the caller's own policies must allow sts:AssumeRole too; an explicit deny is final.

An agent's key stands for the service principal `vpc-flow-logs.amazonaws.com`, but only for a flow log on one of its own
interfaces that names that very role. `flow_log_for` answers that question, and the server, not the agent, fills in
aws:SourceAccount and aws:SourceArn (IAM user guide, "The confused deputy problem").
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from vnotch.api.access_log import AccessLog
from vnotch.api.authorization_messages import AuthorizationMessages, decoded
from vnotch.api.gate import Denied, Gate
from vnotch.api.request_context import ResourceContext
from vnotch.api.service import ApiError, Call, Service, operation
from vnotch.api.wire.dialect import QUERY
from vnotch.iam.delivery_role import SERVICE_PRINCIPAL
from vnotch.iam.evaluation import Decision, Outcome, evaluate_trust
from vnotch.iam.grammar import PolicyError, parse_policy, stored_policy
from vnotch.iam.policy import Caller, Kind, Policy
from vnotch.iam.variables import Context
from vnotch.store.accounts import Accounts, Identity
from vnotch.store.policies import managed_policy_text
from vnotch.store.principals import Role
from vnotch.store.session_tokens import SessionCredentials

CHAINED_SECONDS_MAX = 3600
"""A session made from a session lasts at most an hour (STS API Reference, AssumeRole, DurationSeconds)."""
USER_SESSION_SECONDS = 43_200
POLICY_ARNS_MAX = 10
TAGS_MAX = 50

FlowLogFor = Callable[[str, str, str], tuple[str, str] | None]
"""(agent, role ARN, session name) -> (flow log id, its ARN), or None where that agent delivers no such flow log."""


class Sts(Service):
    name = "sts"
    model = "sts"
    unsupported_code = "ValidationError"

    def __init__(
        self, accounts: Accounts, flow_log_for: FlowLogFor | None = None, access_log: AccessLog | None = None
    ) -> None:
        self._accounts = accounts
        self._gate = Gate(accounts)
        self._flow_log_for = flow_log_for
        self._access_log = access_log
        self._messages = AuthorizationMessages(accounts.tokens)

    @operation("GetCallerIdentity", unauthorised=True)
    def get_caller_identity(self, call: Call) -> dict[str, Any]:
        """Every signed caller may ask (STS API Reference: no permissions are required)."""
        return {"UserId": call.principal.user_id, "Account": call.account, "Arn": call.principal.arn}

    # --- roles ---

    @operation(
        "AssumeRole",
        unauthorised=True,
        honours="RoleArn RoleSessionName DurationSeconds ExternalId Policy PolicyArns Tags",
    )
    def assume_role(self, call: Call) -> dict[str, Any]:
        """Credentials of a session of a role, when the role's trust policy allows it."""
        role_arn, session_name = call.params["RoleArn"], call.params["RoleSessionName"]
        identity = call.identity
        assert identity is not None  # the app gives it with every call
        with self._accounts.state.read() as session:
            role = self._accounts.role_by_arn(session, role_arn)
            if role is not None:
                session.expunge(role)
        actions = ["sts:AssumeRole", "sts:TagSession"] if call.params.get("Tags") else ["sts:AssumeRole"]
        for action in actions:
            # A role that is not there and a role that does not trust are told apart by nothing.
            context = self._assume_context(call, role_arn, session_name)
            decision = self._trusted(action, identity, role, session_name, context)
            call.note(action, role_arn, decision)
            if not decision.allowed:
                raise Denied.of(identity, action, role_arn, decision, context, QUERY)
        assert role is not None
        seconds = _duration(call, identity, role)
        made = self._accounts.make_session(
            role,
            session_name,
            call.now_ms // 1000,
            seconds,
            _session_policy(call),
            self._session_policy_arns(call),
            _session_tags(call),
        )
        return {
            "Credentials": _credentials(made),
            "AssumedRoleUser": {
                "AssumedRoleId": f"{role.role_id}:{session_name}",
                "Arn": f"arn:aws:sts::{call.account}:assumed-role/{role.name}/{session_name}",
            },
        }

    def _trusted(
        self, action: str, identity: Identity, role: Role | None, session_name: str, context: Context
    ) -> Decision:
        if role is None:
            return Decision(Outcome.IMPLICIT_DENY, None, "trust")
        if identity.kind == "agent":
            return self._trusted_for_flow_log(action, identity, role, session_name, context)
        caller, trust = _caller(identity, role, self._accounts.account), _trust(role)
        decision = evaluate_trust(trust, action, caller, context)
        own = self._gate.decide(
            identity, action, role.arn(self._accounts.account), context, () if decision.delegated else (trust,), caller
        )
        return own if own.explicit or (decision.allowed and not own.allowed) else decision

    def _trusted_for_flow_log(
        self, action: str, identity: Identity, role: Role, session_name: str, context: Context
    ) -> Decision:
        role_arn = role.arn(self._accounts.account)
        found = self._flow_log_for(identity.name, role_arn, session_name) if self._flow_log_for else None
        if found is None:
            return Decision(Outcome.IMPLICIT_DENY, None, "trust")
        service_context = {
            **context,
            "aws:sourceaccount": self._accounts.account,
            "aws:sourcearn": found[1],
            "aws:principalservicename": SERVICE_PRINCIPAL,
            "aws:principalisawsservice": "true",
        }
        return evaluate_trust(_trust(role), action, Caller("Service", SERVICE_PRINCIPAL), service_context)

    def _assume_context(self, call: Call, role_arn: str, session_name: str) -> ResourceContext:
        """The keys of the request, and the tags of the role (service authorization reference, STS)."""
        context = {**call.context, "sts:rolesessionname": session_name}
        if "ExternalId" in call.params:
            context["sts:externalid"] = call.params["ExternalId"]
        return ResourceContext(context, partial(self._accounts.resource_keys, role_arn))

    def _session_policy_arns(self, call: Call) -> tuple[str, ...]:
        arns = tuple(item.get("arn") or "" for item in call.params.get("PolicyArns") or ())
        if len(arns) > POLICY_ARNS_MAX:
            raise ApiError("ValidationError", f"A session has at most {POLICY_ARNS_MAX} managed policies.")
        with self._accounts.state.read() as session:
            for arn in arns:
                if managed_policy_text(session, call.account, arn) is None:
                    raise ApiError("ValidationError", f"The policy {arn} does not exist.")
        return arns

    # --- users ---

    @operation("GetSessionToken", unauthorised=True, honours="DurationSeconds")
    def get_session_token(self, call: Call) -> dict[str, Any]:
        """Needs no permission (STS API Reference: policies do not apply to it), but long-term keys of a user."""
        identity = call.identity
        assert identity is not None
        if identity.kind != "user" or identity.expires_s is not None:
            raise ApiError("AccessDenied", "Cannot call GetSessionToken with session credentials", 403)
        seconds = call.params.get("DurationSeconds", USER_SESSION_SECONDS)
        made = self._accounts.make_user_session(identity.unique_id, call.now_ms // 1000, seconds)
        return {"Credentials": _credentials(made)}

    # --- denials ---

    @operation("DecodeAuthorizationMessage")
    def decode_authorization_message(self, call: Call) -> dict[str, Any]:
        request_id = self._messages.request_id(call.params["EncodedMessage"])
        line = self._access_log.find(request_id) if request_id and self._access_log else None
        if line is None or not line.get("denied"):
            # One text for a message that is not ours and for one that the log does not go back to.
            raise ApiError("InvalidAuthorizationMessageException", "The message cannot be decoded.")
        return {"DecodedMessage": decoded(line)}


def _caller(identity: Identity, role: Role, account: str) -> Caller:
    """The principal as a trust policy may name it: not by an ARN that was another's when the trust was written."""
    unique_id = identity.unique_id.partition(":")[0]
    known = [arn for arn in (identity.arn, identity.role_arn) if arn and role.trusts_id(arn, unique_id)]
    name = identity.arn if identity.arn in known else ""
    return Caller("AWS", name, account, tuple(arn for arn in known if arn != name))


def _trust(role: Role) -> Policy:
    return stored_policy(role.trust_policy, Kind.TRUST, f"trust policy of {role.name}")


def _credentials(made: SessionCredentials) -> dict[str, Any]:
    return {
        "AccessKeyId": made.access_key_id,
        "SecretAccessKey": made.secret_access_key,
        "SessionToken": made.session_token,
        "Expiration": made.expires_s,
    }


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


def _session_tags(call: Call) -> list[dict[str, str]]:
    tags = [{"Key": tag["Key"], "Value": tag["Value"]} for tag in call.params.get("Tags") or ()]
    if len({tag["Key"].lower() for tag in tags}) != len(tags) or len(tags) > TAGS_MAX:
        raise ApiError("InvalidParameterValue", f"Session tags have different keys, and there are at most {TAGS_MAX}.")
    return tags
