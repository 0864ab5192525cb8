"""Rows to be shown: the columns and chosen relations of an entity as plain values, without the ORM behind them.

What describes resources changes nothing. A row of the ORM costs ten times its values (a state for each instance, the
identity map, a loader for each relation), and of a page of a thousand network interfaces that was most of the time. So
a page is read as tuples: one SELECT for its rows and one for each relation, however many rows there are. What comes out
has the attributes, methods and properties of the entity, so that filters and descriptions read either kind.

A relation that was not asked for is no attribute: reading it raises AttributeError, and nothing is loaded in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, make_dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

from sqlalchemy import Connection, Select, bindparam, inspect, select
from sqlalchemy.orm import RelationshipProperty

ROWS_AT_ONCE = 1_001
"""One page of EC2's greatest size, and the row that tells that there are more."""
KEYS_AT_ONCE = 500
"""As many values as the ORM's own loaders put into one IN."""


class ShownRows:
    """How rows of `entity` are read, in the order of `number`. `relations` names them by path: with "tags
    interface.addresses" a NAT gateway comes with its tags, its interface and that one's addresses. `columns` names
    deferred ones that are read too."""

    def __init__(self, entity: Any, relations: str = "", columns: str = "") -> None:
        self.entity = entity
        self._paths = relations.split()
        self._columns = columns.split()
        self._pages: dict[tuple[tuple[str, ...], bool], Select[Any]] = {}

    # Compiled at first use: mappers are complete only when all modules with tables are imported.

    @cached_property
    def _names(self) -> list[str]:
        attributes = inspect(self.entity).column_attrs
        return [each.key for each in attributes if not each.deferred or each.key in self._columns]

    @cached_property
    def _selected(self) -> list[Any]:
        attributes = inspect(self.entity).column_attrs
        return [attributes[name].expression.label(name) for name in self._names]

    @cached_property
    def _made(self) -> Any:
        """The class of the rows: a slot for each column and relation, and what the entity's own class can do."""
        mapper = inspect(self.entity)
        own = {
            name: value
            for name, value in vars(self.entity).items()
            if isinstance(value, FunctionType | property) and name not in mapper.attrs and not name.startswith("__")
        }
        base = type(self.entity.__name__, (), {"__slots__": (), **own})
        fields: list[Any] = [*self._names, *((each.name, Any, None) for each in self._related)]
        return make_dataclass(self.entity.__name__, fields, bases=(base,), slots=True, eq=False)

    @cached_property
    def _related(self) -> list[_Related]:
        below: dict[str, list[str]] = {}
        for path in self._paths:
            name, _, rest = path.partition(".")
            below.setdefault(name, []).extend([rest] if rest else [])
        relations = inspect(self.entity).relationships
        return [
            _related(relations[name], ShownRows(relations[name].entity.class_, " ".join(paths)))
            for name, paths in below.items()
        ]

    def select(self) -> Select[Any]:
        return select(*self._selected)

    def page(
        self,
        connection: Connection,
        after: int,
        among: Sequence[tuple[Any, Sequence[str]]] = (),
        limit: int | None = None,
        within: Sequence[Any] = (),
    ) -> Iterator[Any]:
        """The rows behind the number `after`, each with its relations: those whose columns have one of the values in
        `among`, and for which the clauses in `within` hold."""
        statement = self._page(tuple(column.key for column, _ in among), limit is not None)
        values: dict[str, Any] = {f"among_{place}": list(given) for place, (_, given) in enumerate(among)}
        values |= {"after": after} | ({} if limit is None else {"limit": limit})
        result = connection.execute(statement.where(*within) if within else statement, values)
        for part in result.partitions(ROWS_AT_ONCE):
            yield from self.made(connection, part)

    def _page(self, among: tuple[str, ...], limited: bool) -> Select[Any]:
        """Kept, because to build a statement takes as long as to run it."""
        key = (among, limited)
        if key not in self._pages:
            columns, number = inspect(self.entity).columns, inspect(self.entity).columns["number"]
            clauses = [
                columns[name].in_(bindparam(f"among_{place}", expanding=True)) for place, name in enumerate(among)
            ]
            statement = self.select().where(number > bindparam("after"), *clauses).order_by(number)
            self._pages[key] = statement.limit(bindparam("limit")) if limited else statement
        return self._pages[key]

    def made(self, connection: Connection, tuples: Iterable[Sequence[Any]]) -> list[Any]:
        rows = [self._made(*values) for values in tuples]
        for related in self._related:
            related.give(connection, rows)
        return rows


@dataclass(frozen=True)
class _Related:
    """A relation: `statement` selects the related rows whose owner's `key` is in `keys`, and that key after them."""

    name: str
    key: str
    many: bool
    rows: ShownRows
    statement: Select[Any]

    def give(self, connection: Connection, owners: list[Any]) -> None:
        wanted = list({getattr(owner, self.key) for owner in owners} - {None})
        found: dict[Any, list[Any]] = defaultdict(list)
        for start in range(0, len(wanted), KEYS_AT_ONCE):
            chunk = {"keys": wanted[start : start + KEYS_AT_ONCE]}
            tuples = connection.execute(self.statement, chunk).all()
            for values, row in zip(tuples, self.rows.made(connection, (values[:-1] for values in tuples)), strict=True):
                found[values[-1]].append(row)
        for owner in owners:
            mine = found.get(getattr(owner, self.key), [])
            setattr(owner, self.name, mine if self.many else (mine[0] if mine else None))


def _related(relation: RelationshipProperty[Any], rows: ShownRows) -> _Related:
    """Of a relation whose two sides meet in one column each, directly or by a table between them."""
    keys: Any = bindparam("keys", expanding=True)
    if relation.secondary is None:
        ((here, there),) = relation.local_remote_pairs
        chosen = rows.select().add_columns(there.label("key_of_owner"))
    else:
        ((here, there),) = relation.synchronize_pairs
        assert relation.secondaryjoin is not None
        chosen = rows.select().add_columns(there.label("key_of_owner")).where(relation.secondaryjoin)
    statement = chosen.where(there.in_(keys)).order_by(*(relation.order_by or ()))
    key = relation.parent.get_property_by_column(here).key
    return _Related(relation.key, key, bool(relation.uselist), rows, statement)
