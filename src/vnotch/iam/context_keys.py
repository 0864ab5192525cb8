"""The condition keys that policies may use (IAM user guide, "AWS global condition context keys"; service authorization
reference of EC2, IAM, STS and CloudWatch Logs). Names are in lower case: they are not case-sensitive.

A key of a service that is served here is supplied where AWS supplies it, or rightly absent, or refused when a policy is
made: a condition that could never be what it says must not be kept. A key of another service (s3:prefix) is absent from
every request, as it would be on AWS from calls of these services.
"""

from __future__ import annotations

SUPPLIED_KEYS = frozenset(
    {
        "aws:currenttime",
        "aws:epochtime",
        "aws:multifactorauthpresent",
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalisawsservice",
        "aws:principalservicename",
        "aws:principaltype",
        "aws:referer",
        "aws:requestedregion",
        "aws:resourceaccount",
        "aws:securetransport",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:sourceip",
        "aws:tagkeys",
        "aws:tokenissuetime",
        "aws:useragent",
        "aws:userid",
        "aws:username",
        "aws:viaawsservice",
        "ec2:allocationid",
        "ec2:availabilityzone",
        "ec2:availabilityzoneid",
        "ec2:createaction",
        "ec2:domain",
        "ec2:ebsoptimized",
        "ec2:imageid",
        "ec2:imagetype",
        "ec2:instanceid",
        "ec2:instancetype",
        "ec2:internetgatewayid",
        "ec2:networkaclid",
        "ec2:networkinterfaceid",
        "ec2:owner",
        "ec2:public",
        "ec2:publicipaddress",
        "ec2:region",
        "ec2:rootdevicetype",
        "ec2:routetableid",
        "ec2:securitygroupid",
        "ec2:subnet",
        "ec2:subnetid",
        "ec2:tenancy",
        "ec2:vpc",
        "ec2:vpcid",
        "iam:awsservicename",
        "iam:passedtoservice",
        "iam:permissionsboundary",
        "iam:policyarn",
        "sts:externalid",
        "sts:rolesessionname",
    }
)
"""The keys that the server fills in, where AWS would."""

SUPPLIED_PREFIXES = (
    "aws:principaltag/",
    "aws:requesttag/",
    "aws:resourcetag/",
    "ec2:resourcetag/",
    "iam:resourcetag/",
)
"""Keys with the name of a tag behind the slash."""

ABSENT_KEYS = frozenset(
    {
        "aws:calledvia",
        "aws:calledviafirst",
        "aws:calledvialast",
        "aws:ec2instancesourceprivateipv4",
        "aws:ec2instancesourcevpc",
        "aws:federatedprovider",
        "aws:multifactorauthage",
        "aws:principalorgid",
        "aws:principalorgpaths",
        "aws:principalservicenameslist",
        "aws:resourceorgid",
        "aws:resourceorgpaths",
        "aws:sourceidentity",
        "aws:sourceinstancearn",
        "aws:sourceorgid",
        "aws:sourceorgpaths",
        "aws:sourcevpc",
        "aws:sourcevpcarn",
        "aws:sourcevpce",
        "aws:vpcsourceip",
        "ec2:sourceinstancearn",
        "iam:associatedresourcearn",
        "sts:sourceidentity",
        "sts:transitivetagkeys",
    }
)
"""Keys that are rightly absent: there is no organisation, no MFA device, no VPC endpoint, no instance of EC2 that calls
and no federation here."""

_ABSENT_OF_EC2 = frozenset(
    {
        "ec2:acceptervpc",
        "ec2:associatepublicipaddress",
        "ec2:authorizedservice",
        "ec2:authorizeduser",
        "ec2:cpuoptionsamdsevsnp",
        "ec2:encrypted",
        "ec2:instanceautorecovery",
        "ec2:instancebandwidthweighting",
        "ec2:instancemarkettype",
        "ec2:instancemetadatatags",
        "ec2:instanceprofile",
        "ec2:ipamprefixlistresolvertargetid",
        "ec2:ipv4ipampoolid",
        "ec2:ipv6ipampoolid",
        "ec2:islaunchtemplateresource",
        "ec2:keypairname",
        "ec2:keypairtype",
        "ec2:launchtemplate",
        "ec2:managedresourceoperator",
        "ec2:metadatahttpendpoint",
        "ec2:metadatahttpputresponsehoplimit",
        "ec2:metadatahttptokens",
        "ec2:outpostarn",
        "ec2:parentsnapshot",
        "ec2:parentvolume",
        "ec2:permission",
        "ec2:placementgroup",
        "ec2:productcode",
        "ec2:requestervpc",
        "ec2:snapshotid",
        "ec2:snapshottime",
        "ec2:transitgatewayid",
        "ec2:volumeid",
        "ec2:volumeiops",
        "ec2:volumesize",
        "ec2:volumethroughput",
        "ec2:volumetype",
        "ec2:vpceservicename",
        "ec2:vpceserviceowner",
        "ec2:vpcpeeringconnectionid",
    }
)
"""What they tell of is not here: disks, key pairs, launch templates, placements, peerings, endpoints, address pools and
a metadata service."""

MULTIVALUED_KEYS = frozenset({"aws:tagkeys", "aws:calledvia", "aws:principalorgpaths", "sts:transitivetagkeys"})

SERVED = frozenset({"aws", "ec2", "iam", "sts", "logs", "vnotch"})
"""The services whose keys are named one by one above."""


def key_is_known(key: str) -> bool:
    """Whether a policy may use the key (in lower case)."""
    if key in SUPPLIED_KEYS or key in ABSENT_KEYS or key in _ABSENT_OF_EC2:
        return True
    if key.startswith(SUPPLIED_PREFIXES):
        return not key.endswith("/")
    service, colon, name = key.partition(":")
    return bool(colon and service and name) and service not in SERVED
