"""What all parts of the EC2 service share: how an operation is declared, kinds of resources, finding, describing.

Every operation names the parameters that it honours. Another parameter of AWS's model that asks for anything but its
default is refused with UnsupportedOperation: what is not understood is an error, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial, wraps
from typing import Any, TypeVar

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import InstrumentedAttribute, Session, lazyload

from vnotch.api.accepts import Accepts
from vnotch.api.ec2.filters import Table, constant, parse, tag_value
from vnotch.api.ec2.paging import RESULTS, Page
from vnotch.api.ec2.room import room
from vnotch.api.gate import Gate
from vnotch.api.quotas import Quotas
from vnotch.api.service import ANY_RESOURCE, ApiError, Call, Handler, Resources, Result, Service, operation
from vnotch.api.wire.dialect import EC2
from vnotch.buckets.upload import BucketStore
from vnotch.delivery_streams import DeliveryStream
from vnotch.store import elastic_addresses, firewall, instances, network, routing
from vnotch.store.accounts import Accounts
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import State


class Ec2Part(Service):
    """Base of the parts of EC2. `any_interval` allows aggregation intervals that AWS has not; `quotas` are AWS's
    defaults; `buckets` are those that flow logs are delivered to, None where there is none, `streams` the
    delivery streams by name."""

    name = "ec2"
    model = "ec2"
    unsupported_code = "UnsupportedOperation"

    def __init__(
        self,
        state: State,
        accounts: Accounts,
        *,
        any_interval: bool = False,
        quotas: Quotas | None = None,
        buckets: BucketStore | None = None,
        streams: Mapping[str, DeliveryStream] | None = None,
    ) -> None:
        self.state = state
        self.region = accounts.region
        self.any_interval = any_interval
        self.quotas = quotas or Quotas()
        self.buckets = buckets
        self.streams = streams or {}
        self._gate = Gate(accounts)

    def require(self, call: Call, action: str, resource: str, conditions: Mapping[str, str]) -> None:
        """Asks for a permission that the operation needs beside its own (iam:PassRole).

        `conditions` are the condition keys of that action, in lower case. Raises UnauthorizedOperation.
        """
        assert call.identity is not None  # the app gives every call its identity
        context = {**call.context, **conditions}
        keys = partial(self.resource_keys, call)
        decision = self._gate.authorise(call.identity, action, [resource], context, EC2, keys)
        call.note(action, resource, decision)

    def may(self, call: Call, action: str, resource: str) -> bool:
        """Whether the caller has a permission that is a matter of choice to the operation."""
        assert call.identity is not None
        return self._gate.decide(call.identity, action, resource, call.context).allowed

    def arns_of(self, call: Call, *named: tuple[Kind, Any]) -> list[str]:
        """The ARNs of what a request names by another id, an association's say: `named` are the kind and a SELECT of
        its id. `*` stands for what is not there: the handler says so then."""
        with self.state.read() as session:
            found = [(kind, session.scalar(statement.limit(1))) for kind, statement in named]
        return [arn(call, kind.name, resource_id or "*") for kind, resource_id in found]

    def group_arns(self, call: Call, subnet_id: str, group_ids: Sequence[str]) -> list[str]:
        """The ARNs of the groups of an interface in that subnet: without any it is in the VPC's default one."""
        if group_ids:
            return [arn(call, SECURITY_GROUP.name, group_id) for group_id in group_ids]
        row = firewall.SecurityGroup
        default = (
            select(row.group_id)
            .join(network.Subnet, network.Subnet.vpc_id == row.vpc_id)
            .where(network.Subnet.subnet_id == subnet_id, row.is_default)
        )
        return self.arns_of(call, (SECURITY_GROUP, default))

    def room_for_interfaces(self, session: Session) -> int:
        return room(session, self.quotas.network_interfaces, network.NetworkInterface)

    def checked_groups(self, session: Session, vpc_id: str, group_ids: Sequence[str]) -> list[str]:
        """Groups for an interface in the VPC: those given, each once, all of the VPC; without any, its default one."""
        found = list(dict.fromkeys(group_ids))
        if not found:
            return [firewall.default_group_id(session, vpc_id)]
        for group_id in found:
            if SECURITY_GROUP.find(session, group_id).vpc_id != vpc_id:
                raise ApiError(  # memory
                    "InvalidParameterValue", f"Security group {group_id} and VPC {vpc_id} belong to different networks."
                )
        if len(found) > self.quotas.security_groups_per_interface:
            raise ApiError(  # memory
                "SecurityGroupsPerInterfaceLimitExceeded",
                "The maximum number of security groups per interface has been reached.",
            )
        return found


F = TypeVar("F", bound=Handler)


def ec2_operation(
    name: str,
    honours: str,
    resources: Resources = ANY_RESOURCE,
    *,
    dry_run: bool = True,
    unsupported: str = "",
    only: Mapping[str, tuple[Any, ...]] | None = None,
    filters: Container[str] | None = None,
    note: str = "",
) -> Callable[[F], Handler]:
    """Marks the handler of an operation that honours the parameters in `honours` (names, separated by spaces);
    `unsupported`, `only`, `filters` and `note` are those of `Accepts`.

    With `dry_run` the wrapper answers DryRun; without it the handler calls `refuse_dry_run` itself, after checks of its
    own that belong to authorisation.
    """
    honoured = frozenset({*honours.split(), "DryRun"})
    accepts = Accepts(honoured, tuple(unsupported.split()), only or {}, filters, note)

    def mark(handler: F) -> Handler:
        @operation(name, resources, accepts=accepts)
        @wraps(handler)
        def handle(part: Any, call: Call) -> Result:
            if dry_run:
                refuse_dry_run(call)
            return handler(part, call)

        handle.operation_answers_dry_run = True  # type: ignore[attr-defined]
        return handle

    return mark


def refuse_dry_run(call: Call) -> None:
    """The caller is authorised when this is reached (EC2 API reference, DryRun)."""
    if call.params.get("DryRun"):
        raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


_ID = re.compile(r"[0-9a-f]{8}(?:[0-9a-f]{9})?")
"""What follows the prefix: 17 digits, or 8 in ids of before 2018."""


def malformed(resource_id: str, prefix: str, code: str) -> ApiError | None:
    """The error for a text that has not the form of an id (texts as users have seen them)."""
    found, _, number = resource_id.rpartition("-")
    if found == prefix and _ID.fullmatch(number):
        return None
    expected = "" if resource_id.startswith(f"{prefix}-") else f' (expecting "{prefix}-...")'
    return ApiError(code, f'Invalid id: "{resource_id}"{expected}')


@dataclass(frozen=True)
class Kind:
    """A kind of resource: the prefix of its ids, its name in ARNs and tags, its rows, the error for an unknown id, and
    the code for what is no id, where users have seen one beside it: instances and security groups."""

    prefix: str
    name: str
    entity: Any
    id_column: InstrumentedAttribute[Any]
    missing_code: str
    missing_text: str
    malformed_code: str = ""

    def missing(self, resource_id: str) -> ApiError:
        unknown = ApiError(self.missing_code, self.missing_text.format(resource_id))
        return (malformed(resource_id, self.prefix, self.malformed_code) if self.malformed_code else None) or unknown

    def find(self, session: Session, resource_id: str, lock: bool = False) -> Any:
        """The row. `lock` holds it against other writers till the transaction ends (a no-op on SQLite, where there is
        one writer)."""
        row = session.scalar(self._locking if lock else self._finding, {"resource_id": resource_id})
        if row is None:
            raise self.missing(resource_id)
        return row

    @cached_property
    def _finding(self) -> Select[Any]:
        """Relations are loaded where they are used: most callers want to know that the row is there."""
        return select(self.entity).where(self.id_column == bindparam("resource_id")).options(lazyload("*"))

    @cached_property
    def _locking(self) -> Select[Any]:
        return self._finding.with_for_update()


VPC = Kind("vpc", "vpc", network.Vpc, network.Vpc.vpc_id, "InvalidVpcID.NotFound", "The vpc ID '{}' does not exist")
SUBNET = Kind(
    "subnet",
    "subnet",
    network.Subnet,
    network.Subnet.subnet_id,
    "InvalidSubnetID.NotFound",
    "The subnet ID '{}' does not exist",
)
INTERFACE = Kind(
    "eni",
    "network-interface",
    network.NetworkInterface,
    network.NetworkInterface.interface_id,
    "InvalidNetworkInterfaceID.NotFound",
    "The networkInterface ID '{}' does not exist",
)
FLOW_LOG = Kind(
    "fl",
    "vpc-flow-log",
    network.FlowLog,
    network.FlowLog.flow_log_id,
    "InvalidFlowLogId.NotFound",
    "These flow log ids in the input list are not found: [TotalCount: 1] {}",
)
SECURITY_GROUP = Kind(
    "sg",
    "security-group",
    firewall.SecurityGroup,
    firewall.SecurityGroup.group_id,
    "InvalidGroup.NotFound",
    "The security group '{}' does not exist",
    "InvalidGroupId.Malformed",
)
SECURITY_GROUP_RULE = Kind(
    "sgr",
    "security-group-rule",
    firewall.SecurityGroupRule,
    firewall.SecurityGroupRule.rule_id,
    "InvalidSecurityGroupRuleId.NotFound",
    "The security group rule ID '{}' does not exist",
)
NETWORK_ACL = Kind(
    "acl",
    "network-acl",
    firewall.NetworkAcl,
    firewall.NetworkAcl.acl_id,
    "InvalidNetworkAclID.NotFound",
    "The networkAcl ID '{}' does not exist",
)
PREFIX_LIST = Kind(
    "pl",
    "prefix-list",
    firewall.PrefixList,
    firewall.PrefixList.prefix_list_id,
    "InvalidPrefixListID.NotFound",
    "The prefix list ID '{}' does not exist",
)
INTERNET_GATEWAY = Kind(
    "igw",
    "internet-gateway",
    routing.InternetGateway,
    routing.InternetGateway.gateway_id,
    "InvalidInternetGatewayID.NotFound",
    "The internetGateway ID '{}' does not exist",
)
NAT_GATEWAY = Kind(
    "nat",
    "natgateway",
    routing.NatGateway,
    routing.NatGateway.nat_gateway_id,
    "NatGatewayNotFound",
    "NAT gateway {} was not found",
)
ROUTE_TABLE = Kind(
    "rtb",
    "route-table",
    routing.RouteTable,
    routing.RouteTable.route_table_id,
    "InvalidRouteTableID.NotFound",
    "The routeTable ID '{}' does not exist",
)
ELASTIC_ADDRESS = Kind(
    "eipalloc",
    "elastic-ip",
    elastic_addresses.ElasticAddress,
    elastic_addresses.ElasticAddress.allocation_id,
    "InvalidAllocationID.NotFound",
    "The allocation ID '{}' does not exist",
)
INSTANCE = Kind(
    "i",
    "instance",
    instances.Instance,
    instances.Instance.instance_id,
    "InvalidInstanceID.NotFound",
    "The instance ID '{}' does not exist",
    "InvalidInstanceID.Malformed",
)
KINDS = {
    kind.prefix: kind
    for kind in (
        VPC,
        SUBNET,
        INTERFACE,
        FLOW_LOG,
        SECURITY_GROUP,
        SECURITY_GROUP_RULE,
        NETWORK_ACL,
        PREFIX_LIST,
        INTERNET_GATEWAY,
        NAT_GATEWAY,
        ROUTE_TABLE,
        ELASTIC_ADDRESS,
        INSTANCE,
    )
}


def kind_of(resource_id: str) -> Kind | None:
    """By the prefix of an id; None where there is no such kind."""
    return KINDS.get(resource_id.rpartition("-")[0])


def arn(call: Call, kind: str, resource_id: str = "*") -> str:
    return f"arn:aws:ec2:{call.region}:{call.account}:{kind}/{resource_id}"


def arns(*parts: str) -> Resources:
    """The resources of an operation: `vpc` is any VPC (one to be made), `vpc:VpcId` the one or those in that member."""

    def resources(call: Call) -> list[str]:
        found = []
        for part in parts:
            kind, _, member = part.partition(":")
            value = call.params.get(member) if member else "*"
            values = value if isinstance(value, list) else [value or "*"]
            found += [arn(call, kind, resource_id) for resource_id in values]
        return found

    return resources


def required(call: Call, member: str) -> Any:
    """A parameter that must be there (EC2 error list, MissingParameter)."""
    value = call.params.get(member)
    if value in (None, "", []):
        raise ApiError(
            "MissingParameter",
            f"The request must include the {member} parameter. Add the required parameter and retry the request.",
        )
    return value


def invalid_value(value: object, parameter: str, hint: str) -> ApiError:
    return ApiError("InvalidParameterValue", f"Value ({value}) for parameter {parameter} is invalid. {hint}")


def only_attribute(call: Call, members: Iterable[str]) -> str:
    """The one attribute that a Modify operation changes: its API takes one a call (memory, both texts)."""
    given = [member for member in members if call.params.get(member)]
    if not given:
        raise ApiError("InvalidParameterCombination", "No attributes specified.")
    if len(given) > 1:
        raise ApiError(
            "InvalidParameterCombination", f"Fields for multiple attribute types specified: {', '.join(given)}"
        )
    return given[0]


def group_set(groups: Iterable[firewall.SecurityGroup]) -> list[dict[str, str]]:
    return [{"GroupId": group.group_id, "GroupName": group.name} for group in groups]


def timestamp(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def zulu(ms: int) -> str:
    """As filters on times are written (API DescribeInstances, launch-time): 2021-09-29T11:04:43.305Z."""
    return timestamp(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tag_set(tags: Iterable[network.Tag]) -> list[dict[str, str]]:
    return [{"Key": tag.key, "Value": tag.value} for tag in tags]


def _by_owner(account: str, region: str) -> Table:
    return {"owner-id": constant(account)}


def no_owner(account: str, region: str) -> Table:
    """For kinds whose rows have no owner to filter by."""
    return {}


@dataclass(frozen=True)
class Describe:
    """How one kind is described: the members of its ids and filters, its filter table.

    `lenient` is for flow logs, where an unknown id is no error and a page that is too large is cut.
    """

    kind: Kind
    ids_member: str
    filters: Table
    shown: ShownRows  # with all that the description and the filters read
    filters_member: str = "Filters"
    unknown_filter: str = "InvalidParameterValue"
    lenient: bool = False
    results: tuple[int, int] = RESULTS  # the least and the greatest MaxResults
    of_account: Callable[[str, str], Table] = _by_owner  # filters whose values follow from account and region

    @property
    def names(self) -> frozenset[str]:
        """Of all filters."""
        return frozenset({**self.filters, **self.of_account("", "")})

    def rows(self, session: Session, call: Call, *within: Any) -> tuple[list[Any], dict[str, str]]:
        """The rows of one page in the order of their making, and the answer's NextToken member, if there is more.
        `within`: clauses that hold for all rows, whatever the call filters by."""
        exclusive = None if self.lenient else self.ids_member
        page = Page.of(call.operation, call.params, exclusive, clamp=self.lenient, results=self.results)
        given = call.params.get(self.filters_member)
        table = {**self.filters, **self.of_account(call.account, call.region)}
        conditions = parse(given, table, unknown_code=self.unknown_filter, by_tag=tag_value)
        checks = [condition for condition in conditions if condition.among is None]
        among = [condition.among for condition in conditions if condition.among is not None]
        if ids := call.params.get(self.ids_member):
            among.append((self.kind.id_column, ids))
        limit = None if page.limit is None or checks else page.limit + 1
        found = self.shown.page(session.connection(), page.after, among, limit, within)
        rows, more = _cut(found, checks, page)
        if ids and not self.lenient:
            self._refuse_missing(session, ids, rows)
        return rows, more

    def _refuse_missing(self, session: Session, ids: list[str], rows: list[Any]) -> None:
        known = {getattr(row, self.kind.id_column.key) for row in rows}
        if not known.issuperset(ids):  # a filter may have left some out, or the caller may not see them
            known = set(session.scalars(select(self.kind.id_column).where(self.kind.id_column.in_(ids))))
        for resource_id in ids:
            if resource_id not in known:
                raise self.kind.missing(resource_id)


def _cut(rows: Iterable[Any], checks: list[Any], page: Page) -> tuple[list[Any], dict[str, str]]:
    chosen: list[Any] = []
    for row in rows:
        if all(check.matches(row) for check in checks):
            if len(chosen) == page.limit:
                return chosen, {"NextToken": page.token(chosen[-1].number)}
            chosen.append(row)
    return chosen, {}
