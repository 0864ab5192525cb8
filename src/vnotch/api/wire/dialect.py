"""How each kind of front end of AWS words its refusals: codes, HTTP statuses and texts.

    Dialect
    |- Ec2Dialect     ec2 protocol       MissingParameter, InvalidParameterValue, UnauthorizedOperation, AuthFailure
    |- QueryDialect   IAM, STS           ValidationError, AccessDenied, SignatureDoesNotMatch
    `- JsonDialect    CloudWatch Logs    InvalidParameterException, AccessDeniedException, InvalidSignatureException

Sources: EC2 API Reference, "Error codes"; IAM API Reference, "Common Errors"; CloudWatch Logs API Reference, "Common
Errors"; the texts are those that AWS's clients print. Every method returns an ApiError, it does not raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vnotch.api.service import ApiError
from vnotch.iam.evaluation import Decision

Path = tuple[str | int, ...]

MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True)
class Violation:
    """One constraint of the model that a parameter does not keep.

    `kind` is required, enum, pattern, length_min, length_max, value_min or value_max; `limit` what the model says. One
    is no model's: character, a text with U+0000.
    """

    kind: str
    path: Path
    value: Any
    limit: Any = None


class Dialect:
    """What the services with one protocol have in common when they refuse."""

    unknown_action_code = "InvalidAction"
    internal_code = "InternalFailure"
    throttled_code = "Throttling"
    throttled_status = 400
    patterns_enforced = True

    # The request as a whole.
    def unknown_action(self, action: str, version: str) -> ApiError:
        return ApiError(
            self.unknown_action_code, f"Could not find operation {_shown(action)} for version {_shown(version)}"
        )

    def missing_action(self) -> ApiError:
        return ApiError("MissingAction", "The request is missing an action or a required parameter.")

    def malformed(self, reason: str) -> ApiError:
        return ApiError("MalformedQueryString", reason)

    def too_large(self, reason: str) -> ApiError:
        return ApiError("RequestEntityTooLarge", reason, 413)

    def too_slow(self) -> ApiError:
        return ApiError("RequestTimeout", "The request body did not arrive in time.")

    def throttled(self, reason: str = "Rate exceeded") -> ApiError:
        return ApiError(self.throttled_code, reason, self.throttled_status)

    def internal(self) -> ApiError:
        return ApiError(
            self.internal_code, "The request processing has failed because of an unknown error.", status=500
        )

    unavailable_code = "ServiceUnavailable"

    def unavailable(self, reason: str) -> ApiError:
        """The host of the service is in the way, a full disk for instance: the same request may pass later."""
        return ApiError(self.unavailable_code, reason, status=503)

    # Parameters.
    def unknown_parameter(self, path: Path) -> ApiError:
        raise NotImplementedError

    def wrong_type(self, path: Path, value: Any, expected: str) -> ApiError:
        raise NotImplementedError

    def violations(self, operation: str, found: Sequence[Violation]) -> ApiError:
        """The answer to parameters that do not keep the model's constraints; `found` has at least one."""
        words = [_coral_words(violation) for violation in found[:10]]
        noun = "validation error" if len(words) == 1 else "validation errors"
        return ApiError(self.violation_code, f"{len(words)} {noun} detected: " + "; ".join(words))

    violation_code = "ValidationError"

    # Who asks.
    def signature_missing(self) -> ApiError:
        raise NotImplementedError

    def signature_incomplete(self, reason: str) -> ApiError:
        raise NotImplementedError

    def signature_wrong(self, reason: str = MISMATCH) -> ApiError:
        raise NotImplementedError

    def signature_expired(self, reason: str) -> ApiError:
        return self.signature_wrong(reason)

    def key_unknown(self) -> ApiError:
        raise NotImplementedError

    def session_expired(self) -> ApiError:
        raise NotImplementedError

    def denied(self, principal_arn: str, action: str, resource: str, decision: Decision) -> ApiError:
        raise NotImplementedError


def _coral_words(violation: Violation) -> str:
    """`Value 'x' at 'roleName' failed to satisfy constraint: ...`, as IAM, STS and CloudWatch Logs print it."""
    constraint = {
        "required": "Member must not be null",
        "enum": f"Member must satisfy enum value set: [{', '.join(violation.limit or ())}]"
        if violation.kind == "enum"
        else "",
        "character": "Member must not contain the character U+0000",
        "pattern": f"Member must satisfy regular expression pattern: {violation.limit}",
        "length_min": f"Member must have length greater than or equal to {violation.limit}",
        "length_max": f"Member must have length less than or equal to {violation.limit}",
        "value_min": f"Member must have value greater than or equal to {violation.limit}",
        "value_max": f"Member must have value less than or equal to {violation.limit}",
    }[violation.kind]
    value = "null" if violation.kind == "required" else f"'{_shown(violation.value)}'"
    return f"Value {value} at '{coral_path(violation.path)}' failed to satisfy constraint: {constraint}"


def coral_path(path: Path) -> str:
    """`logEvents.1.member.message`: members with a small first letter, list items as `N.member`."""
    parts = []
    for part in path:
        parts.append(f"{part}.member" if isinstance(part, int) else part[:1].lower() + part[1:])
    return _shown(".".join(parts))


def _shown(value: Any) -> str:
    text = str(value).replace("\0", "\ufffd")  # as the XML answers have it
    return text if len(text) <= 200 else text[:200] + "..."


class Ec2Dialect(Dialect):
    """The words of EC2. Patterns of the model are documentation there (some match nothing), so they do not count."""

    internal_code = "InternalError"
    unavailable_code = "Unavailable"
    throttled_code = "RequestLimitExceeded"
    throttled_status = 503
    patterns_enforced = False

    # The front end for flow logs says it in its own words (a real answer of 2021).
    newer_words = frozenset({"CreateFlowLogs", "DeleteFlowLogs", "GetFlowLogsIntegrationTemplate"})

    def unknown_action(self, action: str, version: str) -> ApiError:
        return ApiError("InvalidAction", f"The action {_shown(action)} is not valid for this web service.")

    def throttled(self, reason: str = "Request limit exceeded.") -> ApiError:
        return ApiError(self.throttled_code, reason, self.throttled_status)

    def internal(self) -> ApiError:
        return ApiError(self.internal_code, "An internal error has occurred", status=500)

    def unknown_parameter(self, path: Path) -> ApiError:
        return ApiError("UnknownParameter", f"The parameter {_wire_path(path)} is not recognized")

    def wrong_type(self, path: Path, value: Any, expected: str) -> ApiError:
        message = f"Value ({_shown(value)}) for parameter {_wire_path(path)} is invalid. Expected {expected}."
        return ApiError("InvalidParameterValue", message)

    def violations(self, operation: str, found: Sequence[Violation]) -> ApiError:
        violation = found[0]
        name, value, limit = _wire_path(violation.path), _shown(violation.value), violation.limit
        if violation.kind == "required" and operation in self.newer_words:
            text = f"The request must include the {name} parameter. Add the required parameter and retry the request."
            return ApiError("MissingParameter", text)
        if violation.kind == "required":
            return ApiError("MissingParameter", f"The request must contain the parameter {name}")
        if violation.kind == "enum":
            return ApiError("InvalidParameterValue", f"Value ({value}) for parameter {name} is invalid.")
        if violation.kind == "character":
            text = f"Value ({value}) for parameter {name} is invalid. It must not contain the character U+0000."
            return ApiError("InvalidCharacter", text)
        # "Value ( 3 ) for parameter maxResults is invalid. Expecting a value greater than or equal to 5."
        relation = "greater" if violation.kind.endswith("_min") else "less"
        what = "length" if violation.kind.startswith("length") else "value"
        head = f"Value ( {value} ) for parameter {name[:1].lower() + name[1:]} is invalid."
        return ApiError("InvalidParameterValue", f"{head} Expecting a {what} {relation} than or equal to {limit}.")

    def _auth_failure(self) -> ApiError:
        return ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)

    def signature_missing(self) -> ApiError:
        return self._auth_failure()

    def signature_incomplete(self, reason: str) -> ApiError:
        return ApiError("IncompleteSignature", reason)

    def signature_wrong(self, reason: str = MISMATCH) -> ApiError:
        return self._auth_failure()

    def signature_expired(self, reason: str) -> ApiError:
        return ApiError("RequestExpired", "Request has expired.")

    def key_unknown(self) -> ApiError:
        return self._auth_failure()

    def session_expired(self) -> ApiError:
        return ApiError("RequestExpired", "Request has expired.")

    def denied(self, principal_arn: str, action: str, resource: str, decision: Decision) -> ApiError:
        return ApiError("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)


def _wire_path(path: Path) -> str:
    """The name as it was sent, shortened: an answer does not repeat megabytes."""
    return _shown(".".join(str(part) for part in path))


class QueryDialect(Dialect):
    """The words of IAM and STS."""

    def unknown_parameter(self, path: Path) -> ApiError:
        # IAM's own front end ignores what it does not know; here that is an error, as everywhere in vnotch.
        return ApiError("ValidationError", f"The parameter {_wire_path(path)} is not recognized")

    def wrong_type(self, path: Path, value: Any, expected: str) -> ApiError:
        return ApiError("MalformedInput", f"Value '{_shown(value)}' at '{coral_path(path)}' is not {expected}")

    def signature_missing(self) -> ApiError:
        return ApiError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)

    def signature_incomplete(self, reason: str) -> ApiError:
        return ApiError("IncompleteSignature", reason, 400)

    def signature_wrong(self, reason: str = MISMATCH) -> ApiError:
        return ApiError("SignatureDoesNotMatch", reason, 403)

    def key_unknown(self) -> ApiError:
        return ApiError("InvalidClientTokenId", "The security token included in the request is invalid.", 403)

    def session_expired(self) -> ApiError:
        return ApiError("ExpiredToken", "The security token included in the request is expired", 403)

    def denied(self, principal_arn: str, action: str, resource: str, decision: Decision) -> ApiError:
        return ApiError("AccessDenied", denial_text(principal_arn, action, resource, decision), 403)


class JsonDialect(Dialect):
    """The words of CloudWatch Logs."""

    unknown_action_code = "UnknownOperationException"
    unavailable_code = "ServiceUnavailableException"
    throttled_code = "ThrottlingException"
    violation_code = "InvalidParameterException"

    def unknown_action(self, action: str, version: str) -> ApiError:
        return ApiError(
            "UnknownOperationException", f"The operation {_shown(action)} is not known here." if action else ""
        )

    def missing_action(self) -> ApiError:
        return self.unknown_action("", "")

    def malformed(self, reason: str) -> ApiError:
        return ApiError("SerializationException", reason)

    def too_large(self, reason: str) -> ApiError:
        return ApiError("RequestEntityTooLargeException", reason, 413)

    def unknown_parameter(self, path: Path) -> ApiError:
        # AWS's JSON front end ignores members that it does not know; here that is an error.
        return ApiError("InvalidParameterException", f"The parameter {_wire_path(path)} is not recognized")

    def wrong_type(self, path: Path, value: Any, expected: str) -> ApiError:
        return ApiError("SerializationException", f"{_json_kind(value)} at '{coral_path(path)}' is not {expected}")

    def signature_missing(self) -> ApiError:
        return ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")

    def signature_incomplete(self, reason: str) -> ApiError:
        return ApiError("IncompleteSignatureException", reason)

    def signature_wrong(self, reason: str = MISMATCH) -> ApiError:
        return ApiError("InvalidSignatureException", reason)

    def key_unknown(self) -> ApiError:
        return ApiError("UnrecognizedClientException", "The security token included in the request is invalid.")

    def session_expired(self) -> ApiError:
        return ApiError("ExpiredTokenException", "The security token included in the request is expired")

    def denied(self, principal_arn: str, action: str, resource: str, decision: Decision) -> ApiError:
        return ApiError("AccessDeniedException", denial_text(principal_arn, action, resource, decision))


def _json_kind(value: Any) -> str:
    for kind, name in ((bool, "A boolean"), (str, "A string"), (dict, "An object"), (list, "A list")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "A number"


# Layer of a decision -> how AWS names it, and with its article.
_LAYERS = {
    "identity": ("identity-based policy", "an identity-based policy"),
    "boundary": ("permissions boundary", "a permissions boundary"),
    "session": ("session policy", "a session policy"),
    "resource": ("resource-based policy", "a resource-based policy"),
    "trust": ("role trust policy", "the role trust policy"),
}


def denial_reason(action: str, decision: Decision) -> str:
    """AWS's words for what denied a call (IAM user guide, "Troubleshoot access denied error messages")."""
    if decision.layer == "session-token":  # in plain words, AWS says nothing of it
        return "because credentials of GetSessionToken without MFA may call nothing of IAM and little of STS"
    plain, with_article = _LAYERS[decision.layer]
    if decision.explicit:
        return f"with an explicit deny in {with_article}"
    return f"because no {plain} allows the {action} action"


def denial_text(principal_arn: str, action: str, resource: str, decision: Decision) -> str:
    on = f" on resource: {resource}" if resource and resource != "*" else ""
    return f"User: {principal_arn} is not authorized to perform: {action}{on} {denial_reason(action, decision)}"


EC2 = Ec2Dialect()
QUERY = QueryDialect()
JSON = JsonDialect()
