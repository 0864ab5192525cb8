"""The condition keys of a request: what every call has, what its parameters say, and what is known of the resource.

Sources: IAM user guide, "AWS global condition context keys"; service authorization reference. What is known of a
resource is looked up when a policy asks for it, which few do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vnotch.iam.variables import Variants
from vnotch.store.accounts import Identity

Keys = dict[str, str | tuple[str, ...]]
LoadKeys = Callable[[], Mapping[str, str | tuple[str, ...]]]

_OF_RESOURCES = (
    "aws:resourcetag/", "aws:requesttag/", "aws:tagkeys", "iam:resourcetag/", "iam:permissionsboundary", "ec2:",
)  # fmt: skip


@dataclass(frozen=True)
class Circumstances:
    """What of a request the context keys are made from."""

    remote: str
    secure: bool
    user_agent: str
    now_s: float
    referer: str = ""


def tag_context(tags: Iterable[Mapping[str, Any]], *prefixes: str) -> Keys:
    """Tags as condition keys, in lower case behind each prefix; of keys that differ in case alone all values."""
    found: dict[str, list[str]] = {}
    for tag in tags:
        found.setdefault((tag.get("Key") or "").lower(), []).append(tag.get("Value") or "")
    return {
        prefix + name: values[0] if len(values) == 1 else Variants(values)
        for name, values in found.items()
        for prefix in prefixes
    }


class ResourceContext(Mapping[str, str | tuple[str, ...]]):
    """The keys of a request with those of one resource behind them, which are read when one is asked for."""

    def __init__(self, request: Mapping[str, str | tuple[str, ...]], load: LoadKeys) -> None:
        self._request = request
        self._load = load
        self._loaded: Mapping[str, str | tuple[str, ...]] | None = None

    def get(self, key: str, default: Any = None) -> Any:
        value = self._request.get(key)
        if value is None and key.startswith(_OF_RESOURCES):
            value = self._of_resource().get(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> str | tuple[str, ...]:
        value: str | tuple[str, ...] | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter({**self._of_resource(), **self._request})

    def __len__(self) -> int:
        return len({**self._of_resource(), **self._request})

    def _of_resource(self) -> Mapping[str, str | tuple[str, ...]]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def caller_keys(identity: Identity, circumstances: Circumstances, account: str, region: str) -> Keys:
    """The global condition keys of a request."""
    now = datetime.fromtimestamp(circumstances.now_s, UTC)
    keys: Keys = {
        "aws:currenttime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(int(circumstances.now_s)),
        "aws:principalaccount": account,
        # For a session the ARN is the role's, not the session's.
        "aws:principalarn": identity.role_arn or identity.arn,
        "aws:principaltype": {"user": "User", "assumed-role": "AssumedRole"}.get(identity.kind, "Service"),
        "aws:principalisawsservice": "false",
        "aws:viaawsservice": "false",
        "aws:userid": identity.unique_id,
        "aws:requestedregion": region,
        "aws:resourceaccount": account,
        "aws:securetransport": "true" if circumstances.secure else "false",
        "aws:sourceip": circumstances.remote,
        "aws:useragent": circumstances.user_agent,
        **identity.tags,
    }
    if circumstances.referer:
        keys["aws:referer"] = circumstances.referer
    if identity.kind == "user":
        keys["aws:username"] = identity.name
    if identity.expires_s is not None:
        issued = datetime.fromtimestamp(identity.issued_s, UTC)
        keys["aws:tokenissuetime"] = issued.strftime("%Y-%m-%dT%H:%M:%SZ")
        # Only temporary credentials have the key at all; there are no MFA devices here.
        keys["aws:multifactorauthpresent"] = "false"
    return keys


def tag_request_keys(params: Mapping[str, Any]) -> Keys:
    """aws:RequestTag and aws:TagKeys, from wherever the services have tags in their parameters. Those of EC2's
    TagSpecifications are keys of the resources that they are for, see `api.ec2.condition_keys`."""
    tags = list(params.get("Tags") or ())  # IAM, STS, and EC2's CreateTags
    if isinstance(params.get("tags"), dict):  # CloudWatch Logs
        tags += [{"Key": key, "Value": value} for key, value in params["tags"].items()]
    return request_tag_keys(tags, (*(params.get("TagKeys") or ()), *(params.get("tagKeys") or ())))


def request_tag_keys(tags: Sequence[Mapping[str, Any]], untagged: Sequence[str] = ()) -> Keys:
    """The keys of a request that asks for these tags, and for others to be taken away."""
    keys = tag_context(tags, "aws:requesttag/")
    if named := (*(tag.get("Key") or "" for tag in tags), *untagged):
        keys["aws:tagkeys"] = named
    return keys
