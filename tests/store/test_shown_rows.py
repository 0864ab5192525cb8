"""Rows read to be shown, held against the ORM: the same values, in the same order, by a fixed number of statements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, insert, inspect, select
from state_database import open_state

from vnotch.store import firewall, instances, network
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import State

INTERFACES = 1_100
"""More than are read at once, and than one IN may have."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    opened = open_state(tmp_path_factory.mktemp("shown") / "state")
    opened.create_tables()
    with opened.write() as session:
        for vpc in ("vpc-1", "vpc-2"):
            row = network.Vpc(vpc_id=vpc, created_ms=1, is_default=vpc == "vpc-1")
            row.cidrs = [network.VpcCidr(association_id=f"a-{vpc}", family=4, cidr="10.0.0.0/16")]
            session.add(row)
            session.flush()
            firewall.make_defaults(session, row, 1)
        subnets = [
            {"subnet_id": f"subnet-{n}", "vpc_id": "vpc-1", "cidr": f"10.0.{16 * n}.0/20", "zone": "a", "zone_id": "z"}
            | {"created_ms": 1}
            for n in (1, 2)
        ]
        session.execute(insert(network.Subnet), subnets)
        ids = [f"eni-{n:05d}" for n in range(INTERFACES)]
        session.execute(insert(network.NetworkInterface), [_interface(n, eni) for n, eni in enumerate(ids)])
        session.execute(insert(network.Address), [_address(n, eni, True) for n, eni in enumerate(ids)])
        session.execute(insert(network.Address), [_address(n, eni, False) for n, eni in enumerate(ids) if n % 3 == 0])
        for n in (7, 8, 1_050):
            firewall.set_groups(session, ids[n], [firewall.default_group_id(session, "vpc-1")])
            session.add(network.Tag(resource_id=ids[n], resource_type="network-interface", key="b", value="1"))
            session.add(network.Tag(resource_id=ids[n], resource_type="network-interface", key="a", value="2"))
        session.add(network.Agent(name="h", revision=1, created_ms=1))
        session.flush()
        session.add(_binding(ids[7]))
        launched = {"origin": "launched", "state": "running", "reservation_id": "r-1", "launch_index": 0}
        session.add(instances.Instance(instance_id="i-1", launched_ms=1, **launched))
        session.flush()
        session.add(
            instances.Attachment(
                attachment_id="at-1", interface_id=ids[8], instance_id="i-1", device_index=0, attached_ms=1,
                delete_on_termination=True,
            )
        )  # fmt: skip
    yield opened
    opened.close()


def _interface(n: int, interface_id: str) -> dict[str, Any]:
    made = {"description": f"interface {n}", "created_type": "interface", "created_ms": 1, "mac": f"02:{n:010x}"}
    return {"interface_id": interface_id, "subnet_id": f"subnet-{1 + n % 2}", "vpc_id": "vpc-1"} | made


def _address(n: int, interface_id: str, primary: bool) -> dict[str, Any]:
    value = n + (0 if primary else 5_000)
    where = {"interface_id": interface_id, "subnet_id": f"subnet-{1 + n % 2}", "family": 4, "primary": primary}
    return where | {"address": f"10.{value // 256 // 256}.{value // 256}.{value % 256}", "value": value}


def _binding(interface_id: str) -> network.Binding:
    how = {"device": "veth0", "enforce": False, "attachment_id": "eni-attach-1", "attached_ms": 1, "revision": 1}
    return network.Binding(interface_id=interface_id, agent="h", instance_id="i-1", **how)


CASES = [
    (network.Vpc, "cidrs tags", ""),
    (network.Subnet, "tags", "used_ipv4"),
    (network.NetworkInterface, "subnet.tags addresses binding tags groups.rules attachment", ""),
    (instances.Instance, "attachments.interface.addresses bound.binding bound.addresses tags", ""),
    (firewall.SecurityGroup, "rules.tags tags", ""),
    (firewall.NetworkAcl, "entries associations vpc.cidrs tags", ""),
]


def same(shown: Any, entity: Any, paths: list[str]) -> None:
    """All columns of both, and below each path all columns again."""
    assert shown is not entity
    mapper = inspect(type(entity))
    for attribute in mapper.column_attrs:
        if not attribute.deferred:
            value = getattr(shown, attribute.key)
            assert (value, type(value)) == (getattr(entity, attribute.key), type(getattr(entity, attribute.key)))
    below: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        below.setdefault(name, []).extend([rest] if rest else [])
    for name, rest in below.items():
        mine, others = getattr(shown, name), getattr(entity, name)
        if isinstance(others, list):
            assert len(mine) == len(others)
            for pair in zip(mine, others, strict=True):
                same(*pair, rest)
        elif others is None:
            assert mine is None
        else:
            same(mine, others, rest)


@pytest.mark.parametrize(("entity", "relations", "columns"), CASES, ids=[case[0].__name__ for case in CASES])
def test_they_are_what_the_orm_reads(state: State, entity: Any, relations: str, columns: str) -> None:
    shown = ShownRows(entity, relations, columns)
    with state.read() as session:
        rows = list(shown.page(session.connection(), 0))
        entities = list(session.scalars(select(entity).order_by(entity.number)))
        assert len(rows) == len(entities) > 0
        for row, expected in zip(rows, entities, strict=True):
            same(row, expected, relations.split())
            for name in columns.split():
                assert getattr(row, name) == getattr(expected, name)


def test_methods_and_properties_of_the_entity_work_on_them(state: State) -> None:
    shown = ShownRows(network.NetworkInterface, "addresses binding attachment")
    with state.read() as session:
        rows = {row.interface_id: row for row in shown.page(session.connection(), 0)}
    assert rows["eni-00009"].addresses_of(4) == ["10.0.0.9", "10.0.19.145"]
    assert [rows[f"eni-0000{n}"].status for n in (6, 7, 8)] == ["available", "in-use", "in-use"]
    assert [rows[f"eni-0000{n}"].instance_id for n in (6, 7, 8)] == [None, "i-1", "i-1"]


def test_what_was_not_asked_for_is_not_there_instead_of_being_loaded(state: State) -> None:
    with state.read() as session:
        row = next(ShownRows(network.NetworkInterface, "addresses").page(session.connection(), 0, limit=1))
    with pytest.raises(AttributeError):
        _ = row.groups


def test_a_page_is_chosen_by_place_values_and_limit(state: State) -> None:
    shown, entity = ShownRows(network.NetworkInterface), network.NetworkInterface
    with state.read() as session:

        def ids(*asked: Any, **more: Any) -> list[str]:
            return [row.interface_id for row in shown.page(session.connection(), *asked, **more)]

        first = ids(0, limit=3)
        assert first == ["eni-00000", "eni-00001", "eni-00002"]
        after = session.scalar(select(entity.number).where(entity.interface_id == first[-1]))
        assert ids(after, [(entity.subnet_id, ["subnet-1"])], 2) == ["eni-00004", "eni-00006"]
        both = [(entity.interface_id, ["eni-00004", "eni-00005", "eni-nowhere"]), (entity.subnet_id, ["subnet-1"])]
        assert ids(0, both) == ["eni-00004"]
        assert ids(0, [(entity.interface_id, [])]) == []
        assert ids(0, both[:1], within=[entity.description == "interface 5"]) == ["eni-00005"]


def test_the_number_of_statements_does_not_grow_with_the_rows(state: State) -> None:
    statements = []
    shown = ShownRows(network.NetworkInterface, "subnet addresses binding tags groups attachment")

    def noted(*event_of: Any) -> None:
        statements.append(event_of[2])

    event.listen(state.engine, "before_cursor_execute", noted)
    try:
        with state.read() as session:
            assert len(list(shown.page(session.connection(), 0, limit=400))) == 400
    finally:
        event.remove(state.engine, "before_cursor_execute", noted)
    assert len(statements) == 7
