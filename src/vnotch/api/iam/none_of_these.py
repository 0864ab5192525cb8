"""What AWS has and vnotch has none of: passwords, MFA devices, certificates, identity providers, aliases.

There is no call to make any, so lists of them are empty, and one by name is not there. Tools ask before they delete a
user or report on an account; what would make one answers as an operation that is not known.
"""

from __future__ import annotations

from typing import Any

from vnotch.api.iam.part import IamPart, find_user
from vnotch.api.service import ApiError, Call, operation


class NoneOfThese(IamPart):
    def _none(self, call: Call, member: str) -> dict[str, Any]:
        """An empty list of what a user could have; NoSuchEntity for a user that is not there."""
        with self.accounts.state.read() as session:
            find_user(session, call)
        return {member: [], "IsTruncated": False}

    # --- of a user

    @operation("ListMFADevices", "user_resource")
    def list_mfa_devices(self, call: Call) -> dict[str, Any]:
        return self._none(call, "MFADevices")

    @operation("ListSSHPublicKeys", "user_resource")
    def list_ssh_public_keys(self, call: Call) -> dict[str, Any]:
        return self._none(call, "SSHPublicKeys")

    @operation("ListSigningCertificates", "user_resource")
    def list_signing_certificates(self, call: Call) -> dict[str, Any]:
        return self._none(call, "Certificates")

    @operation("ListServiceSpecificCredentials", "user_resource")
    def list_service_specific_credentials(self, call: Call) -> dict[str, Any]:
        if call.params.get("AllUsers"):
            return {"ServiceSpecificCredentials": [], "IsTruncated": False}
        return self._none(call, "ServiceSpecificCredentials")

    @operation("GetLoginProfile", "user_resource")
    def get_login_profile(self, call: Call) -> dict[str, Any]:
        raise self._no_login_profile(call)

    @operation("DeleteLoginProfile", "user_resource")
    def delete_login_profile(self, call: Call) -> dict[str, Any]:
        raise self._no_login_profile(call)

    def _no_login_profile(self, call: Call) -> ApiError:
        with self.accounts.state.read() as session:
            user = find_user(session, call)
        return ApiError("NoSuchEntity", f"Login Profile for User {user.name} cannot be found.")

    # --- of the account

    @operation("ListVirtualMFADevices")
    def list_virtual_mfa_devices(self, call: Call) -> dict[str, Any]:
        return {"VirtualMFADevices": [], "IsTruncated": False}

    @operation("ListAccountAliases")
    def list_account_aliases(self, call: Call) -> dict[str, Any]:
        return {"AccountAliases": [], "IsTruncated": False}

    @operation("ListServerCertificates")
    def list_server_certificates(self, call: Call) -> dict[str, Any]:
        return {"ServerCertificateMetadataList": [], "IsTruncated": False}

    @operation("ListSAMLProviders")
    def list_saml_providers(self, call: Call) -> dict[str, Any]:
        return {"SAMLProviderList": []}

    @operation("ListOpenIDConnectProviders")
    def list_open_id_connect_providers(self, call: Call) -> dict[str, Any]:
        return {"OpenIDConnectProviderList": []}

    @operation("GetAccountPasswordPolicy")
    def get_account_password_policy(self, call: Call) -> dict[str, Any]:
        text = f"The Password Policy with domain name {self.account} cannot be found."
        raise ApiError("NoSuchEntity", text)
