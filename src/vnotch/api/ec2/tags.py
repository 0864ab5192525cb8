"""Tags: what a request may tag with, and CreateTags, DeleteTags, DescribeTags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.filters import Filter, column, parse
from vnotch.api.ec2.paging import Page
from vnotch.api.ec2.part import KINDS, Ec2Part, Kind, arn, ec2_operation, invalid_value, kind_of, required
from vnotch.api.service import ApiError, Call
from vnotch.inventory import RESERVED_TAG
from vnotch.store import agents, network

TAGS_MAX = 50
KEY_CHARACTERS = 127
VALUE_CHARACTERS = 256
RESOURCES_MAX = 1000
"""Bounds of the EC2 API reference (CreateTags, Tag)."""


def tags_at_creation(
    call: Call, kind: Kind, specifications: Iterable[Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """The tags of `TagSpecifications` for the resource that the call makes; `specifications`: some of them. The caller
    was asked for ec2:CreateTags before (`Ec2.further`)."""
    tags: dict[str, str] = {}
    given = call.params.get("TagSpecifications") if specifications is None else specifications
    for specification in given or ():
        if specification.get("ResourceType") != kind.name:
            raise ApiError(
                "InvalidParameterValue",
                f"'{specification.get('ResourceType')}' is not a valid taggable resource type for this operation.",
            )
        for key, value in checked(specification.get("Tags") or ()).items():
            if key in tags:
                raise ApiError("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
            tags[key] = value
    if len(tags) > TAGS_MAX:
        raise _too_many()
    return tags


def checked(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Key -> value. Raises ApiError for keys and values out of bounds, reserved or given twice."""
    found: dict[str, str] = {}
    for tag in tags:
        key, value = tag.get("Key") or "", tag.get("Value") or ""
        if not 1 <= len(key) <= KEY_CHARACTERS:
            raise invalid_value(key, "tag key", f"Tag keys have 1 to {KEY_CHARACTERS} characters.")
        if len(value) > VALUE_CHARACTERS:
            raise invalid_value(value, "tag value", f"Tag values have at most {VALUE_CHARACTERS} characters.")
        if key.lower().startswith("aws:"):
            raise ApiError("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if key in found:
            raise ApiError("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        found[key] = value
    return found


def put_tags(session: Session, kind: Kind, resource_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags; those with the same key are overwritten. Raises TagLimitExceeded."""
    if not tags:
        return
    row = network.Tag
    mine = row.resource_id == resource_id
    session.execute(delete(row).where(mine, row.key.in_(tags)))
    session.add_all(
        network.Tag(resource_id=resource_id, resource_type=kind.name, key=key, value=value)
        for key, value in tags.items()
    )
    session.flush()
    if (session.scalar(select(func.count()).select_from(row).where(mine)) or 0) > TAGS_MAX:
        raise _too_many()


def drop_tags(session: Session, resource_ids: Iterable[str]) -> None:
    """Forgets the tags of resources that are deleted."""
    session.execute(_DROP, {"resource_ids": list(resource_ids)})


_DROP = (
    delete(network.Tag)
    .where(network.Tag.resource_id.in_(bindparam("resource_ids", expanding=True)))
    .execution_options(synchronize_session=False)  # no caller reads the tags of what it deletes
)


def _touch(session: Session, resource_ids: list[str], keys: set[str] | None) -> None:
    """`keys`: the tags that came or went; None for any."""
    agents.touch_tagged(session, resource_ids, keys)
    if keys is None or RESERVED_TAG in keys:
        agents.touch(session, agents.agents_on(session, resource_ids))


def _too_many() -> ApiError:
    return ApiError("TagLimitExceeded", f"The maximum number of Tags for a resource has been reached: {TAGS_MAX}")


def _tagged(call: Call) -> list[str]:
    """The ARNs that CreateTags and DeleteTags touch; an id of no kind falls to the handler's error."""
    ids = call.params.get("Resources") or []
    return [arn(call, kind.name if (kind := kind_of(resource_id)) else "*", resource_id) for resource_id in ids]


FILTERS = {
    "key": column(network.Tag.key),
    "value": column(network.Tag.value),
    "resource-id": column(network.Tag.resource_id),
    "resource-type": column(network.Tag.resource_type),
}


class Tags(Ec2Part):
    @ec2_operation("CreateTags", "Resources Tags", _tagged)
    def create_tags(self, call: Call) -> dict[str, Any]:
        tags = checked(required(call, "Tags"))
        with self.state.write() as session:
            resources = self._resources(session, call)
            for kind, resource_id in resources:
                put_tags(session, kind, resource_id, tags)
            _touch(session, [resource_id for _, resource_id in resources], set(tags))
        return {}

    @ec2_operation("DeleteTags", "Resources Tags", _tagged)
    def delete_tags(self, call: Call) -> dict[str, Any]:
        """Without Tags all go; a tag without Value goes whatever its value, with one only if it is the same (API
        DeleteTags)."""
        row = network.Tag
        with self.state.write() as session:
            resources = self._resources(session, call)
            for _, resource_id in resources:
                gone = delete(row).where(row.resource_id == resource_id)
                if not call.params.get("Tags"):
                    session.execute(gone)
                for tag in call.params.get("Tags") or ():
                    same_value = [row.value == tag["Value"]] if tag.get("Value") is not None else []
                    session.execute(gone.where(row.key == (tag.get("Key") or ""), *same_value))
            gone_keys = {tag.get("Key") or "" for tag in call.params.get("Tags") or ()} or None
            _touch(session, [resource_id for _, resource_id in resources], gone_keys)
        return {}

    @ec2_operation("DescribeTags", "Filters MaxResults NextToken", filters=FILTERS)
    def describe_tags(self, call: Call) -> dict[str, Any]:
        page = Page.of(call.operation, call.params)
        conditions = parse(call.params.get("Filters"), FILTERS, by_tag=_by_key)
        found: list[dict[str, str]] = []
        last = 0
        with self.state.read() as session:
            rows = session.scalars(
                select(network.Tag).where(network.Tag.number > page.after).order_by(network.Tag.number)
            )
            for row in rows:
                if not all(condition.matches(row) for condition in conditions):
                    continue
                if len(found) == page.limit:
                    return {"Tags": found, "NextToken": page.token(last)}
                last = row.number
                found.append(
                    {
                        "Key": row.key,
                        "ResourceId": row.resource_id,
                        "ResourceType": row.resource_type,
                        "Value": row.value,
                    }
                )
        return {"Tags": found}

    def _resources(self, session: Session, call: Call) -> list[tuple[Kind, str]]:
        ids = required(call, "Resources")
        if len(ids) > RESOURCES_MAX:
            raise invalid_value(len(ids), "Resources", f"At most {RESOURCES_MAX} resources can be named at once.")
        found = []
        for resource_id in ids:
            kind = kind_of(resource_id)
            if kind is None:
                known = ", ".join(f"{prefix}-" for prefix in KINDS)
                raise ApiError("InvalidID", f"The ID '{resource_id}' is not valid: ids begin with one of {known}")
            kind.find(session, resource_id)
            found.append((kind, resource_id))
        return found


def _by_key(key: str) -> Filter:
    """`tag:Owner` finds the tag Owner with one of the values."""
    return Filter(lambda row: (row.value,) if row.key == key else ())
