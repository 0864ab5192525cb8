"""IAM: its parts, one noun a file, put together (IAM API Reference, 2010-05-08).

Policies are checked when they are put: one that is not understood is refused as MalformedPolicyDocument with the
reason. Answers carry policy documents percent-encoded, as IAM's do (RFC 3986); SDKs decode them.
"""

from __future__ import annotations

from vnotch.api.iam.access_keys import AccessKeys
from vnotch.api.iam.account_details import AccountDetails
from vnotch.api.iam.attachments import Attachments
from vnotch.api.iam.boundaries import Boundaries
from vnotch.api.iam.groups import Groups
from vnotch.api.iam.inline_policies import InlinePolicies
from vnotch.api.iam.instance_profiles import InstanceProfiles
from vnotch.api.iam.managed_policies import ManagedPolicies
from vnotch.api.iam.none_of_these import NoneOfThese
from vnotch.api.iam.roles import Roles
from vnotch.api.iam.service_linked_roles import ServiceLinkedRoles
from vnotch.api.iam.simulation import Simulation
from vnotch.api.iam.tags import Tags
from vnotch.api.iam.users import Users


class Iam(
    Users,
    AccessKeys,
    Groups,
    Roles,
    ServiceLinkedRoles,
    InlinePolicies,
    AccountDetails,
    ManagedPolicies,
    Attachments,
    Boundaries,
    InstanceProfiles,
    Tags,
    Simulation,
    NoneOfThese,
):
    """`Iam(accounts)`."""
