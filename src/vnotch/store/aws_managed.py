"""AWS's own managed policies, as far as networks with flow logs need them (AWS managed policy reference).

Each has the document and the number of AWS's default version of the time when it was taken over; older versions are not
kept. They cannot be changed, and those of services' own roles cannot be attached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from vnotch.store.principals import SERVICE_ROLE_PATH


@dataclass(frozen=True)
class AwsPolicy:
    name: str
    path: str
    version: int
    created_ms: int
    description: str
    document: str

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::aws:policy{self.path}{self.name}"

    @property
    def policy_id(self) -> str:
        """Of AWS's form, and the same for ever; AWS's own ids are not published as a list."""
        return "ANPA" + sha256(self.arn.encode()).hexdigest()[:16].upper()

    @property
    def attachable(self) -> bool:
        return self.path != SERVICE_ROLE_PATH


@lru_cache(maxsize=1)
def aws_policies() -> Mapping[str, AwsPolicy]:
    """ARN -> policy, in the order of the file."""
    listed = json.loads(files("vnotch.store").joinpath("aws_managed_policies.json").read_text())
    policies = [
        AwsPolicy(
            name=item["name"],
            path=item["path"],
            version=item["version"],
            created_ms=int(datetime.fromisoformat(item["created"]).timestamp() * 1000),
            description=item["description"],
            document=json.dumps(item["document"]),
        )
        for item in listed
    ]
    return {policy.arn: policy for policy in policies}
