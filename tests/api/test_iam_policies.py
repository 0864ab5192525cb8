"""Groups, managed policies, boundaries, instance profiles, tags and the service-linked role, as boto3 sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from policies import allow, trust_of
from test_iam import error_of, session_key, user_key

ACCOUNT = "123456789012"
POLICY = f"arn:aws:iam::{ACCOUNT}:policy"
DENY_ALL = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}})


def statement_of(document: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(document)
    return content


# --- groups ---


def test_the_life_of_a_group(api: Any) -> None:
    iam = api.client("iam")
    made = iam.create_group(GroupName="Net", Path="/ops/")["Group"]
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:group/ops/Net"
    assert made["GroupId"].startswith("AGPA")
    assert error_of(iam.create_group, GroupName="NET")[:2] == ("EntityAlreadyExists", 409)
    assert iam.list_groups(PathPrefix="/ops/")["Groups"] == [made]
    assert iam.list_groups(PathPrefix="/dev/")["Groups"] == []
    for name in ("bob", "ana"):
        iam.create_user(UserName=name)
        iam.add_user_to_group(GroupName="Net", UserName=name)
        iam.add_user_to_group(GroupName="Net", UserName=name)  # already in it: no error
    found = iam.get_group(GroupName="Net")
    assert found["Group"] == made
    assert [user["UserName"] for user in found["Users"]] == ["ana", "bob"]
    page = iam.get_group(GroupName="Net", MaxItems=1)
    assert page["IsTruncated"]
    assert [u["UserName"] for u in iam.get_group(GroupName="Net", Marker=page["Marker"])["Users"]] == ["bob"]
    assert iam.list_groups_for_user(UserName="ana")["Groups"] == [made]
    iam.update_group(GroupName="Net", NewGroupName="Network", NewPath="/")
    assert iam.list_groups_for_user(UserName="ana")["Groups"][0]["Arn"] == f"arn:aws:iam::{ACCOUNT}:group/Network"
    assert error_of(iam.get_group, GroupName="Net") == (
        "NoSuchEntity",
        404,
        "The group with name Net cannot be found.",
    )
    assert error_of(iam.delete_group, GroupName="Network")[:2] == ("DeleteConflict", 409)
    assert error_of(iam.delete_user, UserName="ana")[:2] == ("DeleteConflict", 409)
    for name in ("ana", "bob"):
        iam.remove_user_from_group(GroupName="Network", UserName=name)
    assert error_of(iam.remove_user_from_group, GroupName="Network", UserName="ana")[0] == "NoSuchEntity"
    iam.put_group_policy(GroupName="Network", PolicyName="p", PolicyDocument=allow("ec2:*"))
    assert error_of(iam.delete_group, GroupName="Network")[0] == "DeleteConflict"
    assert iam.list_group_policies(GroupName="Network")["PolicyNames"] == ["p"]
    document = iam.get_group_policy(GroupName="Network", PolicyName="p")["PolicyDocument"]
    assert document == statement_of(allow("ec2:*"))
    iam.delete_group_policy(GroupName="Network", PolicyName="p")
    iam.delete_group(GroupName="Network")
    iam.delete_user(UserName="ana")


def test_a_user_has_what_its_groups_have(api: Any) -> None:
    iam = api.client("iam")
    key = user_key(api, "ana")
    iam.create_group(GroupName="readers")
    assert error_of(api.client("iam", key).list_roles)[0] == "AccessDenied"
    iam.add_user_to_group(GroupName="readers", UserName="ana")
    iam.put_group_policy(GroupName="readers", PolicyName="p", PolicyDocument=allow("iam:ListRoles"))
    assert api.client("iam", key).list_roles()["Roles"] == []
    iam.attach_group_policy(GroupName="readers", PolicyArn="arn:aws:iam::aws:policy/IAMReadOnlyAccess")
    assert api.client("iam", key).list_users()["Users"]
    iam.put_group_policy(GroupName="readers", PolicyName="no", PolicyDocument=DENY_ALL)
    assert error_of(api.client("iam", key).list_users)[0] == "AccessDenied"
    iam.remove_user_from_group(GroupName="readers", UserName="ana")
    assert error_of(api.client("iam", key).list_roles)[0] == "AccessDenied"


# --- managed policies ---


def test_the_life_of_a_managed_policy(api: Any) -> None:
    iam = api.client("iam")
    made = iam.create_policy(
        PolicyName="deliver",
        Path="/flow/",
        PolicyDocument=allow("logs:PutLogEvents"),
        Description="to log groups",
        Tags=[{"Key": "team", "Value": "net"}],
    )["Policy"]
    arn = made["Arn"]
    assert arn == f"{POLICY}/flow/deliver"
    assert (made["DefaultVersionId"], made["AttachmentCount"], made["IsAttachable"]) == ("v1", 0, True)
    got = iam.get_policy(PolicyArn=arn)["Policy"]
    assert (got["Description"], got["Tags"]) == ("to log groups", [{"Key": "team", "Value": "net"}])
    assert error_of(iam.create_policy, PolicyName="DELIVER", PolicyDocument=allow("logs:*"))[0] == "EntityAlreadyExists"
    for number in range(2, 6):
        version = iam.create_policy_version(
            PolicyArn=arn, PolicyDocument=allow(f"logs:Get{number}"), SetAsDefault=number == 3
        )["PolicyVersion"]
        assert (version["VersionId"], version["IsDefaultVersion"]) == (f"v{number}", number == 3)
    assert error_of(iam.create_policy_version, PolicyArn=arn, PolicyDocument=allow("a:b"))[:2] == ("LimitExceeded", 409)
    listed = iam.list_policy_versions(PolicyArn=arn)["Versions"]
    assert [version["VersionId"] for version in listed] == ["v5", "v4", "v3", "v2", "v1"]
    assert [version["VersionId"] for version in listed if version["IsDefaultVersion"]] == ["v3"]
    got = iam.get_policy_version(PolicyArn=arn, VersionId="v2")["PolicyVersion"]
    assert got["Document"] == statement_of(allow("logs:Get2"))
    assert error_of(iam.delete_policy_version, PolicyArn=arn, VersionId="v3")[0] == "DeleteConflict"
    iam.set_default_policy_version(PolicyArn=arn, VersionId="v5")
    assert error_of(iam.delete_policy, PolicyArn=arn)[0] == "DeleteConflict"
    for number in range(1, 5):
        iam.delete_policy_version(PolicyArn=arn, VersionId=f"v{number}")
    version = iam.create_policy_version(PolicyArn=arn, PolicyDocument=allow("a:b"))["PolicyVersion"]
    assert version["VersionId"] == "v6"  # numbers are not given twice
    iam.delete_policy_version(PolicyArn=arn, VersionId="v6")
    assert error_of(iam.get_policy_version, PolicyArn=arn, VersionId="v1")[:2] == ("NoSuchEntity", 404)
    iam.delete_policy(PolicyArn=arn)
    assert error_of(iam.get_policy, PolicyArn=arn)[:2] == ("NoSuchEntity", 404)


def test_what_is_attached_applies_and_cannot_be_deleted(api: Any) -> None:
    iam = api.client("iam")
    key = user_key(api, "ana")
    arn = iam.create_policy(PolicyName="look", PolicyDocument=allow("iam:ListRoles"))["Policy"]["Arn"]
    iam.attach_user_policy(UserName="ana", PolicyArn=arn)
    iam.attach_user_policy(UserName="ana", PolicyArn=arn)
    mine = api.client("iam", key)
    assert mine.list_roles()["Roles"] == []
    assert iam.list_attached_user_policies(UserName="ana")["AttachedPolicies"] == [
        {"PolicyName": "look", "PolicyArn": arn}
    ]
    entities = iam.list_entities_for_policy(PolicyArn=arn)
    assert [user["UserName"] for user in entities["PolicyUsers"]] == ["ana"]
    assert iam.list_entities_for_policy(PolicyArn=arn, EntityFilter="Role")["PolicyUsers"] == []
    assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 1
    assert [p["PolicyName"] for p in iam.list_policies(OnlyAttached=True)["Policies"]] == ["look"]
    assert error_of(iam.delete_policy, PolicyArn=arn)[0] == "DeleteConflict"
    assert error_of(iam.delete_user, UserName="ana")[0] == "DeleteConflict"
    # A new default version is in force at once.
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=allow("iam:ListUsers"), SetAsDefault=True)
    assert error_of(mine.list_roles)[0] == "AccessDenied"
    assert mine.list_users()
    iam.detach_user_policy(UserName="ana", PolicyArn=arn)
    assert error_of(mine.list_users)[0] == "AccessDenied"
    assert error_of(iam.detach_user_policy, UserName="ana", PolicyArn=arn)[0] == "NoSuchEntity"


def test_ten_managed_policies_are_the_most(api: Any) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="ana")
    arns = [iam.create_policy(PolicyName=f"p{n}", PolicyDocument=allow("a:b"))["Policy"]["Arn"] for n in range(11)]
    for arn in arns[:10]:
        iam.attach_user_policy(UserName="ana", PolicyArn=arn)
    assert error_of(iam.attach_user_policy, UserName="ana", PolicyArn=arns[10])[:2] == ("LimitExceeded", 409)
    pages = list(
        iam.get_paginator("list_attached_user_policies").paginate(UserName="ana", PaginationConfig={"PageSize": 4})
    )
    assert [len(page["AttachedPolicies"]) for page in pages] == [4, 4, 2]
    big = allow(["logs:" + "a" * 100 + str(n) for n in range(60)])
    assert error_of(iam.create_policy, PolicyName="big", PolicyDocument=big)[:2] == ("LimitExceeded", 409)
    assert error_of(iam.create_policy, PolicyName="bad", PolicyDocument="{}")[:2] == ("MalformedPolicyDocument", 400)


def test_aws_own_policies(api: Any) -> None:
    iam = api.client("iam")
    listed = {policy["PolicyName"]: policy for policy in iam.list_policies(Scope="AWS")["Policies"]}
    assert {"AdministratorAccess", "AmazonVPCReadOnlyAccess", "CloudWatchLogsReadOnlyAccess"} <= listed.keys()
    assert iam.list_policies(Scope="Local")["Policies"] == []
    arn = "arn:aws:iam::aws:policy/CloudWatchLogsReadOnlyAccess"
    policy = iam.get_policy(PolicyArn=arn)["Policy"]
    version = iam.get_policy_version(PolicyArn=arn, VersionId=policy["DefaultVersionId"])["PolicyVersion"]
    assert "logs:FilterLogEvents" in version["Document"]["Statement"][0]["Action"]
    assert error_of(iam.delete_policy, PolicyArn=arn)[:2] == ("AccessDenied", 403)
    service = "arn:aws:iam::aws:policy/aws-service-role/AWSVPCFlowLogsServiceRolePolicy"
    iam.create_user(UserName="ana")
    assert error_of(iam.attach_user_policy, UserName="ana", PolicyArn=service)[0] == "PolicyNotAttachable"
    assert error_of(iam.attach_user_policy, UserName="ana", PolicyArn=arn + "x")[0] == "NoSuchEntity"


# --- boundaries ---


def test_what_is_detached_allows_nothing_more(api: Any) -> None:
    """IAM API Reference, DetachRolePolicy and DetachGroupPolicy: NoSuchEntity where nothing is attached."""
    iam = api.client("iam")
    arn = "arn:aws:iam::aws:policy/IAMReadOnlyAccess"
    attached = [{"PolicyName": "IAMReadOnlyAccess", "PolicyArn": arn}]
    member = api.client("iam", user_key(api, "ana"))
    iam.create_group(GroupName="readers")
    iam.add_user_to_group(GroupName="readers", UserName="ana")
    iam.attach_group_policy(GroupName="readers", PolicyArn=arn)
    assert iam.list_attached_group_policies(GroupName="readers")["AttachedPolicies"] == attached
    assert member.list_users()["Users"]
    iam.detach_group_policy(GroupName="readers", PolicyArn=arn)
    assert error_of(member.list_users)[0] == "AccessDenied"
    assert iam.list_attached_group_policies(GroupName="readers")["AttachedPolicies"] == []
    assert error_of(iam.detach_group_policy, GroupName="readers", PolicyArn=arn)[0] == "NoSuchEntity"
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))
    iam.attach_role_policy(RoleName="r", PolicyArn=arn)
    assert iam.list_attached_role_policies(RoleName="r")["AttachedPolicies"] == attached
    iam.detach_role_policy(RoleName="r", PolicyArn=arn)
    assert error_of(iam.detach_role_policy, RoleName="r", PolicyArn=arn)[0] == "NoSuchEntity"
    iam.delete_role(RoleName="r")


def test_a_boundary_limits_a_user(api: Any) -> None:
    iam = api.client("iam")
    arn = iam.create_policy(PolicyName="edge", PolicyDocument=allow("iam:ListRoles"))["Policy"]["Arn"]
    made = iam.create_user(UserName="ana", PermissionsBoundary=arn)["User"]
    assert made["PermissionsBoundary"]["PermissionsBoundaryArn"] == arn
    iam.put_user_policy(UserName="ana", PolicyName="p", PolicyDocument=allow("iam:*"))
    key = iam.create_access_key(UserName="ana")["AccessKey"]
    mine = api.client("iam", (key["AccessKeyId"], key["SecretAccessKey"]))
    assert mine.list_roles()["Roles"] == []
    code, _, text = error_of(mine.list_users)
    assert code == "AccessDenied"
    assert text.endswith("because no permissions boundary allows the iam:ListUsers action")
    assert error_of(iam.delete_policy, PolicyArn=arn)[0] == "DeleteConflict"
    assert iam.get_policy(PolicyArn=arn)["Policy"]["PermissionsBoundaryUsageCount"] == 1
    used = iam.list_entities_for_policy(PolicyArn=arn, PolicyUsageFilter="PermissionsBoundary")
    assert [user["UserName"] for user in used["PolicyUsers"]] == ["ana"]
    iam.delete_user_permissions_boundary(UserName="ana")
    assert mine.list_users()["Users"]
    assert error_of(iam.delete_user_permissions_boundary, UserName="ana")[0] == "NoSuchEntity"
    iam.put_user_permissions_boundary(UserName="ana", PermissionsBoundary=arn)
    assert error_of(mine.list_users)[0] == "AccessDenied"


def test_users_may_be_made_with_a_boundary_only(api: Any) -> None:
    """IAM user guide, "Delegating responsibility to others using permissions boundaries"."""
    iam = api.client("iam")
    edge = iam.create_policy(PolicyName="edge", PolicyDocument=allow("ec2:*"))["Policy"]["Arn"]
    only = {"StringEquals": {"iam:PermissionsBoundary": edge}}
    zhang = api.client("iam", user_key(api, "zhang", allow(["iam:CreateUser", "iam:PutUserPolicy"], Condition=only)))
    assert error_of(zhang.create_user, UserName="new")[0] == "AccessDenied"
    admin = "arn:aws:iam::aws:policy/AdministratorAccess"
    assert error_of(zhang.create_user, UserName="new", PermissionsBoundary=admin)[0] == "AccessDenied"
    zhang.create_user(UserName="new", PermissionsBoundary=edge)
    # Permissions may be given to users who have the boundary, and to no others.
    zhang.put_user_policy(UserName="new", PolicyName="p", PolicyDocument=allow("*"))
    for other in ("zhang", "administrator"):
        refused = error_of(zhang.put_user_policy, UserName=other, PolicyName="q", PolicyDocument=allow("*"))
        assert refused[0] == "AccessDenied"


def test_a_boundary_limits_a_role_and_its_sessions(api: Any) -> None:
    iam = api.client("iam")
    edge = iam.create_policy(PolicyName="edge", PolicyDocument=allow("iam:ListRoles"))["Policy"]["Arn"]
    trust = trust_of({"AWS": ACCOUNT})
    made = iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust, PermissionsBoundary=edge)["Role"]
    assert made["PermissionsBoundary"]["PermissionsBoundaryArn"] == edge
    iam.attach_role_policy(RoleName="r", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    credentials = api.client("sts").assume_role(RoleArn=made["Arn"], RoleSessionName="s1")["Credentials"]
    session = api.client("iam", session_key(credentials))
    assert session.list_roles()["Roles"]
    assert error_of(session.list_users)[0] == "AccessDenied"
    iam.delete_role_permissions_boundary(RoleName="r")
    assert session.list_users()["Users"]
    iam.put_role_permissions_boundary(RoleName="r", PermissionsBoundary=edge)
    assert error_of(session.list_users)[0] == "AccessDenied"
    assert error_of(iam.delete_role, RoleName="r")[2] == "Cannot delete entity, must detach all policies first."


# --- instance profiles ---


def test_the_life_of_an_instance_profile(api: Any) -> None:
    iam = api.client("iam")
    made = iam.create_instance_profile(InstanceProfileName="web", Tags=[{"Key": "a", "Value": "b"}])["InstanceProfile"]
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:instance-profile/web"
    assert made["Roles"] == []
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"Service": "ec2.amazonaws.com"}))
    iam.add_role_to_instance_profile(InstanceProfileName="web", RoleName="r")
    assert error_of(iam.add_role_to_instance_profile, InstanceProfileName="web", RoleName="r")[0] == "LimitExceeded"
    found = iam.get_instance_profile(InstanceProfileName="web")["InstanceProfile"]
    assert [role["RoleName"] for role in found["Roles"]] == ["r"]
    listed = iam.list_instance_profiles_for_role(RoleName="r")["InstanceProfiles"]
    assert [profile["InstanceProfileName"] for profile in listed] == ["web"]
    assert len(iam.list_instance_profiles()["InstanceProfiles"]) == 1
    assert error_of(iam.delete_role, RoleName="r")[0] == "DeleteConflict"
    assert error_of(iam.delete_instance_profile, InstanceProfileName="web")[0] == "DeleteConflict"
    iam.remove_role_from_instance_profile(InstanceProfileName="web", RoleName="r")
    iam.delete_role(RoleName="r")
    iam.delete_instance_profile(InstanceProfileName="web")
    assert error_of(iam.get_instance_profile, InstanceProfileName="web") == (
        "NoSuchEntity",
        404,
        "The Instance Profile with name web cannot be found.",
    )


def test_a_role_must_be_passed_to_an_instance_profile(api: Any) -> None:
    iam = api.client("iam")
    iam.create_instance_profile(InstanceProfileName="web")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"Service": "ec2.amazonaws.com"}))
    mine = api.client("iam", user_key(api, "ana", allow("iam:AddRoleToInstanceProfile")))
    code, _, text = error_of(mine.add_role_to_instance_profile, InstanceProfileName="web", RoleName="r")
    assert code == "AccessDenied"
    assert "iam:PassRole" in text


# --- the service-linked role ---


def test_the_service_linked_role_of_flow_logs(api: Any) -> None:
    iam = api.client("iam")
    service = "vpc-flow-logs.amazonaws.com"
    role = iam.create_service_linked_role(AWSServiceName=service)["Role"]
    assert role["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}/AWSServiceRoleForVPCFlowLogs"
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": service}
    attached = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    assert [policy["PolicyName"] for policy in attached] == ["AWSVPCFlowLogsServiceRolePolicy"]
    assert error_of(iam.create_service_linked_role, AWSServiceName=service)[0] == "InvalidInput"
    assert error_of(iam.create_service_linked_role, AWSServiceName="ecs.amazonaws.com")[0] == "InvalidInput"
    for call, params in (
        (iam.delete_role, {}),
        (iam.put_role_policy, {"PolicyName": "p", "PolicyDocument": allow("*")}),
        (iam.attach_role_policy, {"PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}),
        (iam.update_assume_role_policy, {"PolicyDocument": trust_of({"AWS": ACCOUNT})}),
        (iam.tag_role, {"Tags": [{"Key": "a", "Value": "b"}]}),
    ):
        assert error_of(call, RoleName=role["RoleName"], **params)[:2] == ("UnmodifiableEntity", 400)
    path = f"/aws-service-role/{service}/"
    assert error_of(iam.create_role, RoleName="x", Path=path, AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))[
        0
    ] == ("InvalidInput")
    task = iam.delete_service_linked_role(RoleName=role["RoleName"])["DeletionTaskId"]
    assert iam.get_service_linked_role_deletion_status(DeletionTaskId=task)["Status"] == "SUCCEEDED"
    assert error_of(iam.get_role, RoleName=role["RoleName"])[0] == "NoSuchEntity"
    iam.create_service_linked_role(AWSServiceName=service)  # nothing of the old one is in its way


# --- tags, names, paging ---


@pytest.mark.parametrize("kind", ["user", "role", "policy", "instance_profile"])
def test_tags(api: Any, kind: str) -> None:
    iam = api.client("iam")
    if kind == "user":
        iam.create_user(UserName="x")
        named = {"UserName": "x"}
    elif kind == "role":
        iam.create_role(RoleName="x", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))
        named = {"RoleName": "x"}
    elif kind == "policy":
        iam.create_policy(PolicyName="x", PolicyDocument=allow("a:b"))
        named = {"PolicyArn": f"{POLICY}/x"}
    else:
        iam.create_instance_profile(InstanceProfileName="x")
        named = {"InstanceProfileName": "x"}
    tag, untag = getattr(iam, f"tag_{kind}"), getattr(iam, f"untag_{kind}")
    listed = getattr(iam, f"list_{kind}_tags")
    tag(**named, Tags=[{"Key": "Team", "Value": "net"}, {"Key": "b", "Value": ""}])
    tag(**named, Tags=[{"Key": "team", "Value": "ops"}])  # keys differ by more than case
    assert listed(**named)["Tags"] == [{"Key": "b", "Value": ""}, {"Key": "team", "Value": "ops"}]
    page = listed(**named, MaxItems=1)
    assert page["IsTruncated"]
    assert listed(**named, Marker=page["Marker"])["Tags"] == [{"Key": "team", "Value": "ops"}]
    untag(**named, TagKeys=["TEAM", "never"])
    assert listed(**named)["Tags"] == [{"Key": "b", "Value": ""}]
    twice = [{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}]
    assert error_of(tag, **named, Tags=twice)[0] == "InvalidInput"
    assert error_of(tag, **named, Tags=[{"Key": "aws:x", "Value": "1"}])[0] == "InvalidInput"
    many = [{"Key": f"k{n}", "Value": ""} for n in range(50)]
    assert error_of(tag, **named, Tags=many)[0] == "LimitExceeded"


def test_tags_decide(api: Any) -> None:
    iam = api.client("iam")
    iam.create_user(UserName="ours", Tags=[{"Key": "team", "Value": "net"}])
    iam.create_user(UserName="theirs", Tags=[{"Key": "team", "Value": "ops"}])
    same = {"StringEquals": {"iam:ResourceTag/team": "${aws:PrincipalTag/team}"}}
    mine = api.client("iam", user_key(api, "ana", allow("iam:GetUser", Condition=same)))
    assert error_of(mine.get_user, UserName="ours")[0] == "AccessDenied"
    iam.tag_user(UserName="ana", Tags=[{"Key": "team", "Value": "net"}])
    assert mine.get_user(UserName="ours")
    assert error_of(mine.get_user, UserName="theirs")[0] == "AccessDenied"
    only = {"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}, "StringEquals": {"aws:RequestTag/team": "net"}}
    tagger = api.client("iam", user_key(api, "bob", allow("iam:TagUser", Condition=only)))
    tagger.tag_user(UserName="theirs", Tags=[{"Key": "team", "Value": "net"}])
    for tags in ([{"Key": "team", "Value": "ops"}], [{"Key": "team", "Value": "net"}, {"Key": "b", "Value": "c"}]):
        assert error_of(tagger.tag_user, UserName="theirs", Tags=tags)[0] == "AccessDenied"


def test_a_renamed_user_keeps_its_keys_and_policies(api: Any) -> None:
    iam = api.client("iam")
    key = user_key(api, "ana", allow("iam:ListRoles"))
    before = iam.get_user(UserName="ana")["User"]
    iam.update_user(UserName="ana", NewUserName="Anna", NewPath="/ops/")
    after = iam.get_user(UserName="anna")["User"]
    assert (after["UserId"], after["Arn"]) == (before["UserId"], f"arn:aws:iam::{ACCOUNT}:user/ops/Anna")
    assert api.client("iam", key).list_roles()["Roles"] == []
    assert [k["AccessKeyId"] for k in iam.list_access_keys(UserName="Anna")["AccessKeyMetadata"]] == [key[0]]
    assert error_of(iam.get_user, UserName="ana")[0] == "NoSuchEntity"
    assert error_of(iam.update_user, UserName="Anna", NewUserName="Administrator")[0] == "EntityAlreadyExists"
    iam.update_user(UserName="Anna", NewUserName="ANNA")  # the same user in other letters
    assert [u["UserName"] for u in iam.list_users()["Users"]] == ["administrator", "ANNA"]


def test_updates_of_a_role(api: Any) -> None:
    iam = api.client("iam")
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}), MaxSessionDuration=7200)
    iam.update_role(RoleName="r", Description="new", MaxSessionDuration=10_000)
    role = iam.get_role(RoleName="r")["Role"]
    assert (role["Description"], role["MaxSessionDuration"]) == ("new", 10_000)
    assert iam.update_role_description(RoleName="r", Description="newer")["Role"]["Description"] == "newer"


# --- the whole account ---


def test_account_authorization_details(api: Any) -> None:
    iam = api.client("iam")
    edge = iam.create_policy(PolicyName="edge", PolicyDocument=allow("ec2:*"))["Policy"]["Arn"]
    iam.create_user(UserName="ana", PermissionsBoundary=edge)
    iam.create_group(GroupName="g")
    iam.add_user_to_group(GroupName="g", UserName="ana")
    iam.put_user_policy(UserName="ana", PolicyName="p", PolicyDocument=allow("ec2:*"))
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust_of({"AWS": ACCOUNT}))
    iam.attach_role_policy(RoleName="r", PolicyArn="arn:aws:iam::aws:policy/PowerUserAccess")
    whole = iam.get_account_authorization_details()
    users = {user["UserName"]: user for user in whole["UserDetailList"]}
    assert users.keys() == {"administrator", "ana"}
    assert users["ana"]["GroupList"] == ["g"]
    assert users["ana"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == edge
    assert users["ana"]["UserPolicyList"] == [{"PolicyName": "p", "PolicyDocument": statement_of(allow("ec2:*"))}]
    [role] = whole["RoleDetailList"]
    assert role["AttachedManagedPolicies"][0]["PolicyName"] == "PowerUserAccess"
    assert [group["GroupName"] for group in whole["GroupDetailList"]] == ["g"]
    policies = {policy["PolicyName"]: policy for policy in whole["Policies"]}
    assert policies.keys() == {"edge", "PowerUserAccess"}  # of AWS's own those that are in use
    assert policies["edge"]["PolicyVersionList"][0]["Document"] == statement_of(allow("ec2:*"))
    pages = list(iam.get_paginator("get_account_authorization_details").paginate(PaginationConfig={"PageSize": 2}))
    members = ("UserDetailList", "GroupDetailList", "RoleDetailList", "Policies")
    assert [sum(len(page[member]) for member in members) for page in pages] == [2, 2, 2]
    local = iam.get_account_authorization_details(Filter=["LocalManagedPolicy"])
    assert [policy["PolicyName"] for policy in local["Policies"]] == ["edge"]
    assert local["UserDetailList"] == []
    summary = iam.get_account_summary()["SummaryMap"]
    assert (summary["Users"], summary["Groups"], summary["Roles"], summary["Policies"]) == (2, 1, 1, 1)
