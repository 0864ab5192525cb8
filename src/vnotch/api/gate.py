"""Who asks, and may they: the authentication and authorisation steps of every request.

`Gate.authenticate` turns a signed request into an `Identity`, `Gate.decide` asks the policies, `Gate.authorise` raises
what AWS would answer. Users and roles have the policies that they were given; an agent's key has the fixed policy below
and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from vnotch.api.request_context import Circumstances, Keys, ResourceContext, caller_keys
from vnotch.api.service import ApiError, Principal
from vnotch.api.wire.dialect import Dialect, denial_reason
from vnotch.iam.evaluation import Decision, Outcome, evaluate
from vnotch.iam.grammar import stored_policy
from vnotch.iam.policy import Caller, Kind, Policy
from vnotch.iam.sigv4 import Fault, Request, Signature, SignatureError, read_signature, verify
from vnotch.iam.variables import Context
from vnotch.store.accounts import Accounts, Identity
from vnotch.store.last_used import Use
from vnotch.store.policies import PolicyText

CONTEXT_KEYS, CONTEXT_CHARACTERS = 100, 256
"""How much of a denied request's context is kept in the access log."""

GLOBAL_REGION = "us-east-1"
GLOBAL_SERVICES = frozenset({"iam", "sts"})
"""IAM has one endpoint in the world and STS had; their clients sign for us-east-1 wherever they are."""


AGENT_ACTIONS = [
    "vnotch:GetConfiguration", "vnotch:PutStatus", "vnotch:PutCandidates", "vnotch:PresignUpload",
    "vnotch:GetDeliveryStream",
]  # fmt: skip
"""What an agent's key may do on its own agent."""


@lru_cache(maxsize=1024)
def agent_policy(agent_arn: str) -> Policy:
    """What an agent's key may do: assume the roles that trust flow logs, and speak for itself."""
    own = [{"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:GetCallerIdentity"], "Resource": "*"}]
    own.append({"Effect": "Allow", "Action": AGENT_ACTIONS, "Resource": agent_arn})
    return stored_policy(json.dumps({"Version": "2012-10-17", "Statement": own}), Kind.IDENTITY, "agent")


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
        used = identity.access_key_id if identity.expires_s is None else identity.unique_id.partition(":")[0]
        if identity.expires_s is None or identity.kind == "assumed-role":
            self.accounts.last_uses.note(used, Use(int(now_s * 1000), service, signature.region))
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

    def context(self, identity: Identity, circumstances: Circumstances) -> Keys:
        return caller_keys(identity, circumstances, self.accounts.account, self.accounts.region)

    def decide(
        self,
        identity: Identity,
        action: str,
        resource: str,
        context: Context,
        granting: Sequence[Policy] = (),
        caller: Caller | None = None,
    ) -> Decision:
        """What the principal's own policies say of one action on one resource; `granting`: policies of the resource,
        which name the `caller`."""
        if identity.kind == "agent":
            return evaluate((agent_policy(identity.arn),), action, resource, context)
        if identity.kind == "user" and identity.expires_s is not None and not session_token_may(action):
            return Decision(Outcome.IMPLICIT_DENY, None, "session-token")
        session = identity.session_policies
        return evaluate(
            list(map(_parsed, identity.policies)),
            action,
            resource,
            context,
            session=None if session is None else list(map(_parsed, session)),
            boundary=None if identity.boundary is None else _parsed(identity.boundary),
            resource_policies=granting,
            caller=caller,
        )

    def authorise(
        self,
        identity: Identity,
        action: str,
        resources: Iterable[str],
        context: Context,
        dialect: Dialect,
        resource_keys: Callable[[str], Context] | None = None,
    ) -> Decision:
        """The decision for the last resource where every one is allowed; Denied for the first that is not.

        `resource_keys` gives the condition keys of one resource; those of IAM's own are known here.
        """
        decision = Decision(Outcome.IMPLICIT_DENY)
        for resource in resources:
            known = self.accounts.resource_keys if resource.startswith("arn:aws:iam:") else resource_keys
            asked = context if known is None else ResourceContext(context, partial(known, resource))
            decision = self.decide(identity, action, resource, asked)
            if not decision.allowed:
                raise Denied.of(identity, action, resource, decision, asked, dialect)
        if not decision.allowed:
            raise AssertionError(f"{action} names no resource to authorise")
        return decision

    def authorise_one(
        self,
        identity: Identity,
        actions: Iterable[str],
        resources: Sequence[str],
        context: Context,
        dialect: Dialect,
        resource_keys: Callable[[str], Context] | None = None,
    ) -> tuple[str, Decision]:
        """The first of the actions that is allowed on every resource; where none is, the refusal is the first one's."""
        refused: Denied | None = None
        for action in actions:
            try:
                return action, self.authorise(identity, action, resources, context, dialect, resource_keys)
            except Denied as denied:
                refused = refused or denied
        assert refused is not None
        raise refused


def _parsed(policy: PolicyText) -> Policy:
    return stored_policy(policy.document, Kind.IDENTITY, policy.name)


def session_token_may(action: str) -> bool:
    """What GetSessionToken's credentials may do without MFA: nothing of IAM, of STS only these two (STS API reference,
    GetSessionToken)."""
    service, _, name = action.lower().partition(":")
    return service != "iam" and (service != "sts" or name in ("assumerole", "getcalleridentity"))


class Denied(ApiError):
    """A refusal by policy: who was refused what on what, and what decided it."""

    def __init__(
        self, error: ApiError, identity: Identity, action: str, resource: str, decision: Decision, context: Context
    ) -> None:
        super().__init__(error.code, error.message, error.status, error.members)
        self.identity = identity
        self.action = action
        self.resource = resource
        self.decision = decision
        self.context = context

    def detail(self) -> dict[str, Any]:
        """For the access log. The external id is left out: some take it for a secret."""
        statement = self.decision.statement
        named = statement and {"policy": statement.policy, "number": statement.number, "sid": statement.sid}
        return {
            "action": self.action,
            "resource": self.resource,
            "outcome": self.decision.outcome.value,
            "layer": self.decision.layer,
            "reason": denial_reason(self.action, self.decision),
            "statement": named,
            "principal_id": self.identity.unique_id,
            "context": {
                key: [value[:CONTEXT_CHARACTERS] for value in ((given,) if isinstance(given, str) else given)]
                for key, given in list(self.context.items())[:CONTEXT_KEYS]
                if key != "sts:externalid"
            },
        }

    @classmethod
    def of(
        cls,
        identity: Identity,
        action: str,
        resource: str,
        decision: Decision,
        context: Context,
        dialect: Dialect,
    ) -> Denied:
        error = dialect.denied(identity.arn, action, resource, decision)
        return cls(error, identity, action, resource, decision, context)


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
