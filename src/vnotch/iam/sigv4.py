"""AWS Signature Version 4: reading, verifying and making signatures, in headers and in presigned queries. Pure.

The steps and their names are those of the IAM user guide, "Create a signed AWS API request":

    canonical request -> string to sign -> signing key (HMAC chain over date, region, service) -> signature

The payload's hash is always computed from the body that arrived. A client that also states it in
x-amz-content-sha256 must state the same; an unsigned payload is refused, and a chunked one is verified chunk by chunk
(`vnotch.iam.chunked`). The signature has to cover the host and every x-amz- and x-vnotch- header that came, else one of
them could be added on the way.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from vnotch.errors import InputError

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_SECONDS = 900
CREDENTIAL_CHARACTERS_MAX = 256  # key ids have 16 to 128 (IAM API Reference); what is longer must not fill logs
PRESIGNED_SECONDS_MAX = 604_800  # one week
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)

Headers = Sequence[tuple[str, str]]
"""Names in lower case, in the order in which they came, repeated ones included."""


class Fault(Enum):
    """What is wrong with a signature; each service has its own code for each."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    EXPIRED = "expired"
    WRONG = "wrong"


class SignatureError(InputError):
    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Request:
    """What a signature covers. `path` and `query` are as they stood on the wire, still percent-encoded."""

    method: str
    path: str
    query: str
    headers: Headers
    payload_sha256: str  # hexadecimal


@dataclass(frozen=True)
class Signature:
    """A signature as the client states it; nothing of it is verified yet."""

    access_key_id: str
    date: str  # 20150830
    region: str
    service: str
    time: str  # 20150830T123600Z
    signed_headers: tuple[str, ...]
    signature: str
    session_token: str = ""
    presigned_seconds: int | None = None

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


# --- reading ---

_FIELD = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^,\s]+)\s*")
_TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


def read_signature(headers: Headers, query: str) -> Signature:
    """The signature that a request carries; SignatureError MISSING or INCOMPLETE where there is no whole one."""
    authorizations = [value for name, value in headers if name == "authorization"]
    presigned = "X-Amz-Signature=" in query or "X-Amz-Credential=" in query or "X-Amz-Algorithm=" in query
    if len(authorizations) > 1 or (authorizations and presigned):
        raise SignatureError(Fault.INCOMPLETE, "The request carries more than one signature.")
    if authorizations:
        return _from_header(authorizations[0], headers)
    if presigned:
        return _from_query(query)
    raise SignatureError(Fault.MISSING, "Request is missing Authentication Token")


def _from_header(authorization: str, headers: Headers) -> Signature:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        # The header is not repeated: another scheme's value may hold a password.
        raise SignatureError(Fault.INCOMPLETE, f"Authorization header requires the algorithm {ALGORITHM}.")
    fields: dict[str, str] = {}
    for piece in rest.split(","):
        match = _FIELD.fullmatch(piece)
        if not match or match[1] in fields:
            raise SignatureError(Fault.INCOMPLETE, "Authorization header is not made of name=value pairs.")
        fields[match[1]] = match[2]
    lacking = [name for name in ("Credential", "Signature", "SignedHeaders") if name not in fields]
    if lacking:
        text = " ".join(f"Authorization header requires '{name}' parameter." for name in lacking)
        raise SignatureError(Fault.INCOMPLETE, text)
    time = _header_time(headers, fields["SignedHeaders"])
    tokens = [value for name, value in headers if name == "x-amz-security-token"]
    if len(tokens) > 1:
        raise SignatureError(Fault.INCOMPLETE, "The request carries more than one session token.")
    return _signature(fields["Credential"], time, fields["SignedHeaders"], fields["Signature"], "".join(tokens).strip())


def _header_time(headers: Headers, signed_headers: str) -> str:
    """The time that a request states: in X-Amz-Date, or where there is none in a Date that is signed (IAM user guide,
    "Elements of an AWS API request signature")."""
    for header in ("x-amz-date", "date"):
        dates = [value.strip() for name, value in headers if name == header]
        if len(dates) > 1:
            raise SignatureError(Fault.INCOMPLETE, f"The request has more than one {header} header.")
        if header == "x-amz-date" and dates:
            return dates[0]
        if dates and "date" in signed_headers.split(";"):
            return dates[0] if _TIME.fullmatch(dates[0]) else _basic_time(dates[0])
    text = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
    raise SignatureError(Fault.INCOMPLETE, text)


def _basic_time(date: str) -> str:
    """HTTP's form of a date as the string to sign has it."""
    try:
        return parsedate_to_datetime(date).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError):
        raise SignatureError(Fault.INCOMPLETE, f"{date[:64]!r} is not a date.") from None


def _from_query(query: str) -> Signature:
    fields: dict[str, str] = {}
    for name, value in query_pairs(query):
        if name.startswith("X-Amz-"):
            if name in fields:
                raise SignatureError(Fault.INCOMPLETE, f"The query parameter {name} is given more than once.")
            fields[name] = value
    for name in ("Algorithm", "Credential", "Signature", "SignedHeaders", "Date", "Expires"):
        if f"X-Amz-{name}" not in fields:
            raise SignatureError(Fault.INCOMPLETE, f"AWS query-string parameters must include 'X-Amz-{name}'.")
    if fields["X-Amz-Algorithm"] != ALGORITHM:
        raise SignatureError(Fault.INCOMPLETE, f"X-Amz-Algorithm must be {ALGORITHM}.")
    expires = fields["X-Amz-Expires"]
    if not re.fullmatch(r"[0-9]{1,7}", expires, re.ASCII) or not 0 < int(expires) <= PRESIGNED_SECONDS_MAX:
        raise SignatureError(Fault.INCOMPLETE, "X-Amz-Expires must be a number of seconds, at most a week.")
    return _signature(
        fields["X-Amz-Credential"],
        fields["X-Amz-Date"],
        fields["X-Amz-SignedHeaders"],
        fields["X-Amz-Signature"],
        fields.get("X-Amz-Security-Token", ""),
        int(expires),
    )


def _signature(
    credential: str, time: str, signed: str, signature: str, token: str, presigned_seconds: int | None = None
) -> Signature:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not all(parts) or len(credential) > CREDENTIAL_CHARACTERS_MAX:
        text = "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/aws4_request"
        raise SignatureError(Fault.INCOMPLETE, text)
    if not _TIME.fullmatch(time):
        raise SignatureError(
            Fault.INCOMPLETE, "Date must be in ISO-8601 'basic format', for instance 20150830T123600Z."
        )
    if not _HEX.fullmatch(signature):
        raise SignatureError(Fault.WRONG, MISMATCH)
    names = tuple(signed.split(";"))
    if list(names) != sorted({name.lower() for name in names}) or not all(names):
        raise SignatureError(Fault.INCOMPLETE, "SignedHeaders must be lower-case names, sorted, each once.")
    return Signature(parts[0], parts[1], parts[2], parts[3], time, names, signature, token, presigned_seconds)


# --- verifying ---


def verify(
    signature: Signature,
    secret_access_key: str,
    request: Request,
    *,
    now_s: float,
    regions: Iterable[str],
    service: str,
) -> None:
    """Returns when `signature` is `request`'s, made with the secret, in time and for this region and service."""
    if signature.service != service:
        raise SignatureError(Fault.WRONG, f"Credential should be scoped to correct service: '{service}'.")
    if signature.region not in regions:
        text = f"Credential should be scoped to a valid region, not '{signature.region}'."
        raise SignatureError(Fault.WRONG, text)
    if signature.date != signature.time[:8]:
        text = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
        raise SignatureError(Fault.WRONG, f"{text}'{signature.date}' != '{signature.time[:8]}'.")
    _check_coverage(signature, request)
    expected = calculate(signature, secret_access_key, request)
    if not hmac.compare_digest(expected, signature.signature):
        raise SignatureError(Fault.WRONG, MISMATCH)
    # Time last: only a holder of the key learns how far the clocks are apart.
    _check_time(signature, now_s)


def _check_coverage(signature: Signature, request: Request) -> None:
    present = {name for name, _ in request.headers}
    for name in signature.signed_headers:
        if name not in present:
            raise SignatureError(Fault.WRONG, f"The signed header {name} is not in the request.")
    needed = {name for name in present if name.startswith(("x-amz-", "x-vnotch-"))} | {"host"}
    uncovered = needed.difference(signature.signed_headers)
    if uncovered:
        text = "There were headers present in the request which were not signed: " + ", ".join(sorted(uncovered))
        raise SignatureError(Fault.WRONG, text)
    for name, value in request.headers:
        if name == "x-amz-content-sha256" and value.strip() != request.payload_sha256:
            raise SignatureError(Fault.WRONG, "The provided 'x-amz-content-sha256' header does not match the payload.")


def _check_time(signature: Signature, now_s: float) -> None:
    try:
        signed_s = datetime.fromisoformat(signature.time).timestamp()  # with its zone, Z
    except ValueError:
        raise SignatureError(Fault.INCOMPLETE, f"'{signature.time}' is not a date.") from None
    now = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    if signed_s > now_s + SKEW_SECONDS:
        raise SignatureError(
            Fault.EXPIRED, f"Signature not yet current: {signature.time} is still later than {now} + 15 min."
        )
    lifetime = SKEW_SECONDS if signature.presigned_seconds is None else signature.presigned_seconds
    if signed_s + lifetime < now_s:
        raise SignatureError(
            Fault.EXPIRED, f"Signature expired: {signature.time} is now earlier than {now} - {lifetime} s."
        )


# --- calculating ---


def calculate(signature: Signature, secret_access_key: str, request: Request) -> str:
    """The signature that `request` should carry, for the scope, time and headers that `signature` states."""
    text = string_to_sign(signature, canonical_request(request, signature.signed_headers))
    key = signing_key(secret_access_key, signature.date, signature.region, signature.service)
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def canonical_request(request: Request, signed_headers: Sequence[str]) -> str:
    values: dict[str, list[str]] = {name: [] for name in signed_headers}
    for name, value in request.headers:
        if name in values:
            values[name].append(" ".join(value.split()))
    headers = "".join(f"{name}:{','.join(values[name])}\n" for name in signed_headers)
    return "\n".join(
        (
            request.method,
            canonical_path(request.path),
            canonical_query(request.query),
            headers,
            ";".join(signed_headers),
            request.payload_sha256,
        )
    )


def string_to_sign(signature: Signature, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{ALGORITHM}\n{signature.time}\n{signature.scope}\n{digest}"


@lru_cache(maxsize=1024)
def signing_key(secret_access_key: str, date: str, region: str, service: str) -> bytes:
    """The key of one day, region and service. Four HMACs, so it is kept: most calls are with few keys."""
    key = b"AWS4" + secret_access_key.encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def canonical_path(path: str) -> str:
    """Dot segments removed, then every segment encoded once more (all services but S3)."""
    if path in ("", "/"):
        return "/"
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    slash = "/" if path.endswith("/") and kept else ""
    return quote(_bytes("/" + "/".join(kept) + slash), safe="/-_.~")


def query_pairs(query: str) -> list[tuple[str, str]]:
    """The decoded names and values of a query string, in order. A `+` is a plus sign here, not a space."""
    pairs = []
    for piece in query.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            pairs.append((_decoded(name), _decoded(value)))
    return pairs


def _decoded(text: str) -> str:
    return unquote_to_bytes(_bytes(text)).decode("utf-8", "surrogateescape")


def _encoded(text: str) -> str:
    return quote(_bytes(text), safe="-_.~")


def _bytes(text: str) -> bytes:
    """As it came: what is no UTF-8 is in the text as surrogates."""
    return text.encode("utf-8", "surrogateescape")


def canonical_query(query: str) -> str:
    """All parameters but the signature itself, encoded, sorted by encoded name and value."""
    if not query:
        return ""
    pairs = [(_encoded(name), _encoded(value)) for name, value in query_pairs(query) if name != "X-Amz-Signature"]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


# --- signing ---


def sign(
    request: Request,
    access_key_id: str,
    secret_access_key: str,
    *,
    now_s: float,
    region: str,
    service: str,
    session_token: str = "",
) -> Mapping[str, str]:
    """The headers to add to `request` (which has its host header) so that it is signed."""
    time = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-date": time}
    if session_token:
        added["x-amz-security-token"] = session_token
    headers = [*request.headers, *added.items()]
    covered = Request(request.method, request.path, request.query, headers, request.payload_sha256)
    names = tuple(sorted({name for name, _ in headers if name not in _UNSIGNED}))
    stated = Signature(access_key_id, time[:8], region, service, time, names, "", session_token)
    signature = calculate(stated, secret_access_key, covered)
    added["authorization"] = (
        f"{ALGORITHM} Credential={access_key_id}/{stated.scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return added


# What proxies and HTTP libraries change on the way.
_UNSIGNED = frozenset({"authorization", "user-agent", "connection", "expect", "transfer-encoding", "x-amzn-trace-id"})


def presign(
    request: Request,
    access_key_id: str,
    secret_access_key: str,
    *,
    now_s: float,
    region: str,
    service: str,
    seconds: int,
) -> str:
    """The query by which `request`, which has all headers that are to be signed, may be made for `seconds`."""
    time = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    names = tuple(sorted({name for name, _ in request.headers}))
    stated = Signature(access_key_id, time[:8], region, service, time, names, "", "", seconds)
    added = {
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{access_key_id}/{stated.scope}",
        "X-Amz-Date": time,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": ";".join(names),
    }
    query = "&".join([*([request.query] if request.query else []), *(f"{k}={_encoded(v)}" for k, v in added.items())])
    covered = Request(request.method, request.path, query, request.headers, request.payload_sha256)
    return f"{query}&X-Amz-Signature={calculate(stated, secret_access_key, covered)}"
