"""Managed prefix lists: create, describe, modify, restore, delete, their entries and who uses them.

Changes are done when the call answers. It shows the state that a client would see on AWS (`create-in-progress`), and
the next look shows the end of it (`create-complete`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.filters import TAG_KEY, column
from vnotch.api.ec2.paging import Page
from vnotch.api.ec2.part import (
    PREFIX_LIST,
    Describe,
    Ec2Part,
    arn,
    arns,
    ec2_operation,
    invalid_value,
    required,
    tag_set,
)
from vnotch.api.ec2.permissions import TEXT_CHARACTERS_MAX, cidr_block
from vnotch.api.ec2.room import refuse_without, room
from vnotch.api.ec2.security_group_rules import refuse_too_many_rules
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.service import ApiError, Call
from vnotch.store import agents, firewall
from vnotch.store.firewall import PrefixList, PrefixListEntry, SecurityGroupRule
from vnotch.store.rule_book import agents_with_prefix_list
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id

FAMILIES = {"IPv4": 4, "IPv6": 6}
CHANGES_MAX = 100
"""Entries that one call adds or removes (botocore's model of ModifyManagedPrefixList)."""
RESERVED_PREFIX = "com.amazonaws"
RESULTS = (1, 100)
ASSOCIATION_RESULTS = (5, 255)

DESCRIBE = Describe(
    PREFIX_LIST,
    "PrefixListIds",
    {**TAG_KEY, "prefix-list-id": column(PrefixList.prefix_list_id), "prefix-list-name": column(PrefixList.name)},
    ShownRows(PrefixList, "tags"),
    results=RESULTS,
)


class PrefixLists(Ec2Part):
    @ec2_operation(
        "CreateManagedPrefixList",
        "PrefixListName Entries MaxEntries AddressFamily TagSpecifications ClientToken",
        arns("prefix-list"),
    )
    def create_managed_prefix_list(self, call: Call) -> dict[str, Any]:
        name, family = _name(required(call, "PrefixListName")), _family(required(call, "AddressFamily"))
        max_entries = self._max_entries(required(call, "MaxEntries"))
        entries = _entries(call.params.get("Entries") or (), family)
        tags = tags_at_creation(call, PREFIX_LIST)
        with self.state.write() as session:
            if earlier := replay(session, call):
                return {"PrefixList": _describe(PREFIX_LIST.find(session, earlier["PrefixListId"]), call)}
            left = room(session, self.quotas.prefix_lists, PrefixList)
            refuse_without(left, "PrefixListLimitExceeded", "prefix lists")
            prefix_list = PrefixList(
                prefix_list_id=new_id("pl"),
                name=name,
                family=family,
                max_entries=max_entries,
                version=1,
                state="create-complete",
                created_ms=call.now_ms,
            )
            session.add(prefix_list)
            session.flush()
            _add(session, prefix_list, entries)
            put_tags(session, PREFIX_LIST, prefix_list.prefix_list_id, tags)
            remember(session, call, {"PrefixListId": prefix_list.prefix_list_id})
            session.refresh(prefix_list)
            return {"PrefixList": {**_describe(prefix_list, call), "State": "create-in-progress"}}

    @ec2_operation("DescribeManagedPrefixLists", "PrefixListIds Filters MaxResults NextToken", filters=DESCRIBE.names)
    def describe_managed_prefix_lists(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"PrefixLists": [_describe(row, call) for row in rows], **more}

    @ec2_operation(
        "GetManagedPrefixListEntries",
        "PrefixListId TargetVersion MaxResults NextToken",
        arns("prefix-list:PrefixListId"),
    )
    def get_managed_prefix_list_entries(self, call: Call) -> dict[str, Any]:
        page = Page.of(call.operation, call.params, results=RESULTS)
        with self.state.read() as session:
            prefix_list = _find(session, call)
            version = call.params.get("TargetVersion")
            if version is None:
                version = prefix_list.version
            _check_version(prefix_list, version)
            rows = _in_version(session, prefix_list.prefix_list_id, version, page.after, page.limit)
            more = {}
            if page.limit is not None and len(rows) > page.limit:
                rows = rows[: page.limit]
                more = {"NextToken": page.token(rows[-1].number)}
            return {"Entries": [_describe_entry(row) for row in rows], **more}

    @ec2_operation(
        "GetManagedPrefixListAssociations", "PrefixListId MaxResults NextToken", arns("prefix-list:PrefixListId")
    )
    def get_managed_prefix_list_associations(self, call: Call) -> dict[str, Any]:
        """The security groups with a rule that refers to the list."""
        page = Page.of(call.operation, call.params, results=ASSOCIATION_RESULTS)
        with self.state.read() as session:
            prefix_list = _find(session, call)
            group = firewall.SecurityGroup
            uses = exists().where(
                SecurityGroupRule.group_id == group.group_id,
                SecurityGroupRule.prefix_list_id == prefix_list.prefix_list_id,
            )
            found = select(group).where(uses, group.number > page.after).order_by(group.number)
            rows = list(session.scalars(found.limit(page.limit + 1) if page.limit else found))
            more = {}
            if page.limit is not None and len(rows) > page.limit:
                rows = rows[: page.limit]
                more = {"NextToken": page.token(rows[-1].number)}
            associations = [{"ResourceId": row.group_id, "ResourceOwner": call.account} for row in rows]
            return {"PrefixListAssociations": associations, **more}

    @ec2_operation(
        "ModifyManagedPrefixList",
        "PrefixListId CurrentVersion PrefixListName AddEntries RemoveEntries MaxEntries",
        arns("prefix-list:PrefixListId"),
    )
    def modify_managed_prefix_list(self, call: Call) -> dict[str, Any]:
        """Entries that change make the next version; a name or a size does not."""
        params = call.params
        added, removed, size = params.get("AddEntries"), params.get("RemoveEntries"), params.get("MaxEntries")
        if not (added or removed or size is not None or params.get("PrefixListName")):
            raise ApiError("InvalidRequest", "The request received was invalid.")  # seen
        if (added or removed) and size is not None:
            raise ApiError(  # seen
                "InvalidParameterCombination",
                "You cannot modify the entries and the maximum entries for the prefix list in the same request.",
            )
        with self.state.write() as session:
            prefix_list = _find(session, call, lock=True)
            _check_current(prefix_list, params.get("CurrentVersion"))
            if params.get("PrefixListName"):
                prefix_list.name = _name(params["PrefixListName"])
            if size is not None:
                self._resize(session, prefix_list, self._max_entries(size))
            if added or removed:
                _change(session, prefix_list, added or [], removed or [])
                agents.touch(session, agents_with_prefix_list(session, prefix_list.prefix_list_id))
            prefix_list.state = "modify-complete"
            session.flush()
            return {"PrefixList": {**_describe(prefix_list, call), "State": "modify-in-progress"}}

    def _resize(self, session: Session, prefix_list: PrefixList, max_entries: int) -> None:
        """A list stays at least as large as it is full, and groups that refer to it within their quota."""
        count = len(_in_version(session, prefix_list.prefix_list_id, prefix_list.version))
        if max_entries < count:
            raise ApiError(
                "InvalidParameterValue",
                f"Value ({max_entries}) for parameter maxEntries is invalid. The prefix list has {count} entries.",
            )
        prefix_list.max_entries = max_entries
        session.flush()
        referring = session.scalars(
            select(SecurityGroupRule.group_id).where(SecurityGroupRule.prefix_list_id == prefix_list.prefix_list_id)
        )
        refuse_too_many_rules(session, set(referring), self.quotas.rules_per_security_group)

    @ec2_operation(
        "RestoreManagedPrefixListVersion",
        "PrefixListId PreviousVersion CurrentVersion",
        arns("prefix-list:PrefixListId"),
    )
    def restore_managed_prefix_list_version(self, call: Call) -> dict[str, Any]:
        """The entries of an earlier version, as a new one."""
        with self.state.write() as session:
            prefix_list = _find(session, call, lock=True)
            _check_current(prefix_list, required(call, "CurrentVersion"))
            previous = required(call, "PreviousVersion")
            _check_version(prefix_list, previous)
            wanted = {row.cidr: row.description for row in _in_version(session, prefix_list.prefix_list_id, previous)}
            if len(wanted) > prefix_list.max_entries:
                raise _too_many_entries()
            _next_version(session, prefix_list)
            _remove(session, prefix_list, None)
            _add(session, prefix_list, wanted)
            prefix_list.state = "restore-complete"
            agents.touch(session, agents_with_prefix_list(session, prefix_list.prefix_list_id))
            session.flush()
            return {"PrefixList": {**_describe(prefix_list, call), "State": "restore-in-progress"}}

    @ec2_operation("DeleteManagedPrefixList", "PrefixListId", arns("prefix-list:PrefixListId"))
    def delete_managed_prefix_list(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            prefix_list = _find(session, call, lock=True)
            if session.scalar(select(exists().where(SecurityGroupRule.prefix_list_id == prefix_list.prefix_list_id))):
                # "You must first remove all references" (API DeleteManagedPrefixList). AWS leaves such a list behind in
                # the state delete-failed; here nothing is half deleted, and the code is that of other resources.
                raise ApiError(
                    "DependencyViolation",
                    f"The prefix list '{prefix_list.prefix_list_id}' has dependencies and cannot be deleted.",
                )
            answer = {"PrefixList": {**_describe(prefix_list, call), "State": "delete-in-progress"}}
            drop_tags(session, [prefix_list.prefix_list_id])
            session.execute(delete(PrefixList).where(PrefixList.prefix_list_id == prefix_list.prefix_list_id))
            return answer

    def _max_entries(self, number: int) -> int:
        most = self.quotas.entries_per_prefix_list
        if not 1 <= number <= most:
            raise invalid_value(number, "maxEntries", f"Must specify a max size between 1 and {most}")
        return number


# --- what a request says


def _find(session: Session, call: Call, lock: bool = False) -> PrefixList:
    found: PrefixList = PREFIX_LIST.find(session, required(call, "PrefixListId"), lock=lock)
    return found


def _name(name: str) -> str:
    if len(name) > TEXT_CHARACTERS_MAX or name.startswith(RESERVED_PREFIX):
        hint = f"It has at most {TEXT_CHARACTERS_MAX} characters and does not begin with {RESERVED_PREFIX}."
        raise invalid_value(name, "prefixListName", hint)  # API CreateManagedPrefixList
    return name


def _family(text: str) -> int:
    if text not in FAMILIES:
        raise invalid_value(text, "addressFamily", f"It is one of {', '.join(FAMILIES)}.")
    return FAMILIES[text]


def _entries(items: Iterable[dict[str, Any]], family: int) -> dict[str, str | None]:
    """Canonical CIDR -> description. Raises ApiError for other families, doubles and long descriptions."""
    found: dict[str, str | None] = {}
    for item in items:
        description = item.get("Description")
        if len(description or "") > TEXT_CHARACTERS_MAX:
            raise invalid_value(description, "description", f"It has at most {TEXT_CHARACTERS_MAX} characters.")
        cidr = _cidr(item.get("Cidr"), family)
        if cidr in found:
            raise ApiError("InvalidParameterValue", f"Request contains Cidr {cidr} more than once")
        found[cidr] = description or None
    if len(found) > CHANGES_MAX:
        raise ApiError(
            "InvalidRequest", f"The request cannot contain more than {CHANGES_MAX} entry additions or removals."
        )
    return found


def _cidr(text: str | None, family: int) -> str:
    try:
        return cidr_block(text, family)
    except ApiError:
        raise invalid_value(text or "", "cidr", f"It is no IPv{family} CIDR block.") from None


def _check_current(prefix_list: PrefixList, version: int | None) -> None:
    if version is not None and version != prefix_list.version:
        raise ApiError(  # seen
            "PrefixListVersionMismatch", "The prefix list has the incorrect version number."
        )


def _check_version(prefix_list: PrefixList, version: int) -> None:
    oldest = max(1, prefix_list.version - firewall.PREFIX_LIST_VERSIONS_MAX + 1)
    if not oldest <= version <= prefix_list.version:
        raise invalid_value(version, "version", f"The prefix list has the versions {oldest} to {prefix_list.version}.")


# --- entries and versions


def _in_version(
    session: Session, prefix_list_id: str, version: int, after: int = 0, limit: int | None = None
) -> list[PrefixListEntry]:
    """The entries of a version in the order they were made; one more than `limit`, where it is given."""
    found = (
        select(PrefixListEntry)
        .where(
            PrefixListEntry.prefix_list_id == prefix_list_id,
            PrefixListEntry.number > after,
            PrefixListEntry.added <= version,
            or_(PrefixListEntry.removed.is_(None), PrefixListEntry.removed > version),
        )
        .order_by(PrefixListEntry.number)
    )
    return list(session.scalars(found if limit is None else found.limit(limit + 1)))


def _change(
    session: Session, prefix_list: PrefixList, added: list[dict[str, Any]], removed: list[dict[str, Any]]
) -> None:
    add, remove = _entries(added, prefix_list.family), _entries(removed, prefix_list.family)
    for cidr in add.keys() & remove.keys():
        raise ApiError(  # seen
            "InvalidParameterValue",
            f"Request cannot contain Cidr {cidr} in both AddPrefixListEntries and RemovePrefixListEntries",
        )
    present = {row.cidr for row in _in_version(session, prefix_list.prefix_list_id, prefix_list.version)}
    for cidr in add:
        if cidr in present:
            raise ApiError("InvalidParameterValue", f"Cidr {cidr} is in the prefix list already")
    for cidr in remove:
        if cidr not in present:
            raise ApiError("InvalidParameterValue", f"Cidr {cidr} is not in the prefix list")
    if len(present) + len(add) - len(remove) > prefix_list.max_entries:
        raise _too_many_entries()
    _next_version(session, prefix_list)
    if remove:
        _remove(session, prefix_list, remove)
    _add(session, prefix_list, add)


def _too_many_entries() -> ApiError:
    return ApiError(  # memory
        "PrefixListMaxEntriesExceeded", "You've reached the maximum number of entries for the prefix list."
    )


def _next_version(session: Session, prefix_list: PrefixList) -> None:
    """Counts on, and forgets what only versions have that are no longer kept."""
    prefix_list.version += 1
    oldest = prefix_list.version - firewall.PREFIX_LIST_VERSIONS_MAX + 1
    mine = PrefixListEntry.prefix_list_id == prefix_list.prefix_list_id
    session.execute(delete(PrefixListEntry).where(mine, PrefixListEntry.removed <= oldest))


def _remove(session: Session, prefix_list: PrefixList, cidrs: Iterable[str] | None) -> None:
    """From the version that begins; None: all."""
    gone = update(PrefixListEntry).where(
        PrefixListEntry.prefix_list_id == prefix_list.prefix_list_id, PrefixListEntry.removed.is_(None)
    )
    if cidrs is not None:
        gone = gone.where(PrefixListEntry.cidr.in_(list(cidrs)))
    session.execute(gone.values(removed=prefix_list.version))


def _add(session: Session, prefix_list: PrefixList, entries: dict[str, str | None]) -> None:
    if len(entries) > prefix_list.max_entries:
        raise _too_many_entries()
    session.add_all(
        PrefixListEntry(
            prefix_list_id=prefix_list.prefix_list_id,
            cidr=cidr,
            description=description,
            added=prefix_list.version,
        )
        for cidr, description in entries.items()
    )
    session.flush()


def _describe(prefix_list: PrefixList, call: Call) -> dict[str, Any]:
    return {
        "PrefixListId": prefix_list.prefix_list_id,
        "PrefixListName": prefix_list.name,
        "PrefixListArn": arn(call, PREFIX_LIST.name, prefix_list.prefix_list_id),
        "AddressFamily": f"IPv{prefix_list.family}",
        "MaxEntries": prefix_list.max_entries,
        "Version": prefix_list.version,
        "State": prefix_list.state,
        "OwnerId": call.account,
        "Tags": tag_set(prefix_list.tags),
    }


def _describe_entry(row: PrefixListEntry) -> dict[str, str]:
    return {"Cidr": row.cidr} | ({"Description": row.description} if row.description else {})
