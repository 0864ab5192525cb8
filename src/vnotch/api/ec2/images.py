"""The one image there is: a network namespace of a host in lab mode. It is in no file and cannot be changed."""

from __future__ import annotations

from typing import Any

from vnotch.api.ec2.filters import Filter, parse
from vnotch.api.ec2.part import Ec2Part, ec2_operation, malformed
from vnotch.api.service import ApiError, Call

IMAGE_ID = "ami-0766e6f7463680000"
NAME = "vnotch-namespace"

_SHOWN: dict[str, Any] = {
    "ImageId": IMAGE_ID,
    "Name": NAME,
    "Description": "A network namespace of the host in lab mode",
    "State": "available",
    "ImageType": "machine",
    "Architecture": "x86_64",
    "Public": True,
    "Hypervisor": "xen",
    "VirtualizationType": "hvm",
    "RootDeviceType": "instance-store",
    "BlockDeviceMappings": [],
}
IMAGE_KEYS = {
    "ec2:imagetype": str(_SHOWN["ImageType"]),
    "ec2:public": str(_SHOWN["Public"]).lower(),
    "ec2:rootdevicetype": str(_SHOWN["RootDeviceType"]),
}
"""Its condition keys (service authorization reference, Amazon EC2), beside its id and owner."""

_FILTERS = {
    "architecture": Filter(lambda image: (image["Architecture"],)),
    "image-id": Filter(lambda image: (image["ImageId"],)),
    "image-type": Filter(lambda image: (image["ImageType"],)),
    "is-public": Filter(lambda image: (image["Public"],)),
    "name": Filter(lambda image: (image["Name"],)),
    "owner-id": Filter(lambda image: (image["OwnerId"],)),
    "state": Filter(lambda image: (image["State"],)),
    "virtualization-type": Filter(lambda image: (image["VirtualizationType"],)),
}


class Images(Ec2Part):
    @ec2_operation(
        "DescribeImages",
        "ImageIds Owners ExecutableUsers Filters MaxResults NextToken IncludeDeprecated",
        filters=_FILTERS,
    )
    def describe_images(self, call: Call) -> dict[str, Any]:
        for image_id in call.params.get("ImageIds") or ():
            check_image(image_id)
        image = {**_SHOWN, "OwnerId": call.account}
        conditions = parse(call.params.get("Filters"), _FILTERS)
        owners = call.params.get("Owners") or ["self"]
        # The image is public; nobody has a permission of his own on it.
        launched_by_all = "all" in (call.params.get("ExecutableUsers") or ["all"])
        is_meant = launched_by_all and any(owner in ("self", call.account) for owner in owners)
        return {"Images": [image] if is_meant and all(each.matches(image) for each in conditions) else []}


def check_image(image_id: str) -> None:
    if image_id != IMAGE_ID:
        unknown = ApiError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        raise malformed(image_id, "ami", "InvalidAMIID.Malformed") or unknown
