"""Who asks, and may they: the authentication and authorisation steps of every request.

`Gate.authenticate` turns a signed request into an `Identity`, `Gate.decide` asks the policies, `Gate.authorise` raises
what AWS would answer. Users and roles have the policies that they were given; an agent's key has the fixed policy below
and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from vnotch.api.service import ApiError, Principal
from vnotch.api.wire.dialect import Dialect
from vnotch.iam.evaluation import Decision, Outcome, evaluate
from vnotch.iam.grammar import stored_policy
from vnotch.iam.policy import Kind, Policy
from vnotch.iam.sigv4 import Fault, Request, Signature, SignatureError, read_signature, verify
from vnotch.iam.variables import Context
from vnotch.store.accounts import Accounts, Identity

GLOBAL_REGION = "us-east-1"
GLOBAL_SERVICES = frozenset({"iam", "sts"})
"""IAM has one endpoint in the world and STS had; their clients sign for us-east-1 wherever they are."""


AGENT_ACTIONS = ["vnotch:GetConfiguration", "vnotch:PutStatus", "vnotch:PutCandidates"]
"""What an agent's key may do on its own agent."""


def agent_policy(agent_arn: str) -> Policy:
    """What an agent's key may do: assume the roles that trust flow logs, and speak for itself."""
    own = [{"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:GetCallerIdentity"], "Resource": "*"}]
    own.append({"Effect": "Allow", "Action": AGENT_ACTIONS, "Resource": agent_arn})
    return stored_policy(json.dumps({"Version": "2012-10-17", "Statement": own}), Kind.IDENTITY, "agent")


@dataclass(frozen=True)
class Circumstances:
    """What of a request the context keys are made from."""

    remote: str
    secure: bool
    user_agent: str
    now_s: float


class Gate:
    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts

    # --- authentication ---

    def authenticate(self, signature: Signature, request: Request, service: str, dialect: Dialect) -> Identity:
        """Whose signature this is. Raises ApiError in the service's words; nothing is told of the secret."""
        identity = self.accounts.identity(signature.access_key_id, signature.session_token)
        if identity is None or not identity.active:
            raise dialect.key_unknown()
        now_s = time.time()
        regions = {self.accounts.region, GLOBAL_REGION} if service in GLOBAL_SERVICES else {self.accounts.region}
        try:
            verify(signature, identity.secret_access_key, request, now_s=now_s, regions=regions, service=service)
        except SignatureError as error:
            raise signature_refused(error, dialect) from None
        if identity.expires_s is not None and identity.expires_s <= now_s:
            raise dialect.session_expired()
        return identity

    def principal(self, identity: Identity) -> Principal:
        return Principal(
            kind=identity.kind,
            name=identity.name,
            arn=identity.arn,
            account=self.accounts.account,
            access_key_id=identity.access_key_id,
            user_id=identity.unique_id,
            session=identity.session,
        )

    # --- authorisation ---

    def context(self, identity: Identity, circumstances: Circumstances, region: str) -> dict[str, str]:
        """The global condition keys of a request (IAM user guide, "AWS global condition context keys")."""
        now = datetime.fromtimestamp(circumstances.now_s, UTC)
        context = {
            "aws:currenttime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "aws:epochtime": str(int(circumstances.now_s)),
            "aws:principalaccount": self.accounts.account,
            # For a session the ARN is the role's, not the session's.
            "aws:principalarn": identity.role_arn or identity.arn,
            "aws:principaltype": {"user": "User", "assumed-role": "AssumedRole"}.get(identity.kind, "Service"),
            "aws:userid": identity.unique_id,
            "aws:requestedregion": region,
            "aws:securetransport": "true" if circumstances.secure else "false",
            "aws:sourceip": circumstances.remote,
            "aws:useragent": circumstances.user_agent,
        }
        if identity.kind == "user":
            context["aws:username"] = identity.name
        if identity.expires_s is not None:
            context["aws:tokenissuetime"] = datetime.fromtimestamp(identity.issued_s, UTC).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            )
        return context

    def decide(self, identity: Identity, action: str, resource: str, context: Context) -> Decision:
        """What the principal's own policies say of one action on one resource."""
        if identity.kind == "agent":
            return evaluate((agent_policy(identity.arn),), action, resource, context)
        policies = [stored_policy(policy.document, Kind.IDENTITY, policy.name) for policy in identity.policies]
        session = None
        if identity.session_policy is not None:
            session = [stored_policy(identity.session_policy, Kind.IDENTITY, "session policy")]
        return evaluate(policies, action, resource, context, session=session)

    def authorise(
        self, identity: Identity, action: str, resources: Iterable[str], context: Context, dialect: Dialect
    ) -> Decision:
        """The decision for the last resource where every one is allowed; ApiError for the first that is not."""
        decision = Decision(Outcome.IMPLICIT_DENY)
        for resource in resources:
            decision = self.decide(identity, action, resource, context)
            if not decision.allowed:
                raise Denied(dialect.denied(identity.arn, action, resource, decision.statement is not None), decision)
        if not decision.allowed:
            raise AssertionError(f"{action} names no resource to authorise")
        return decision


class Denied(ApiError):
    """A refusal by policy, with the decision for the access log."""

    def __init__(self, error: ApiError, decision: Decision) -> None:
        super().__init__(error.code, error.message, error.status, error.members)
        self.decision = decision


def signature_refused(error: SignatureError, dialect: Dialect) -> ApiError:
    """The service's own answer to a signature that is not right."""
    if error.fault is Fault.MISSING:
        return dialect.signature_missing()
    if error.fault is Fault.INCOMPLETE:
        return dialect.signature_incomplete(error.message)
    if error.fault is Fault.EXPIRED:
        return dialect.signature_expired(error.message)
    return dialect.signature_wrong(error.message)


def signature_of(headers: list[tuple[str, str]], query: str) -> Signature | SignatureError:
    """The signature that a request states, or what is wrong with it; the service is not known before it is read."""
    try:
        return read_signature(headers, query)
    except SignatureError as error:
        return error
