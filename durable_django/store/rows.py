"""Rows: SQL text for the hot statements.

The hot statements are plain SQL through Django's connection: the ORM's compiler costs more than the database
does. Their text is made once from the models' own ``_meta``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar

from django.db import DatabaseError, connections
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from durable_django.store import pipeline, postgres
from durable_django.store.postgres import array

T = TypeVar("T")
Values = Sequence[Any]
Answer = Callable[[], "list[tuple[Any, ...]]"]
"""Gives the rows of a query."""


@cache
def table(model: type[Model], vendor: str) -> str:
    """Return the quoted name of a model's table."""
    return _quote(model._meta.db_table, vendor)


@cache
def columns(model: type[Model], fields: tuple[str, ...], vendor: str, prefix: str = "") -> str:
    """Return the quoted columns of ``fields``, separated by commas."""
    return ", ".join(prefix + column(model, field, vendor) for field in fields)


@cache
def column(model: type[Model], field: str, vendor: str) -> str:
    """Return the quoted column of one field."""
    return _quote(str(model._meta.get_field(field).column), vendor)  # type: ignore[union-attr]


@cache
def column_type(using: str, model: type[Model], field: str) -> str:
    """Return what to cast a value of one field to.

    That is without its length: a cast cuts off in silence what an INSERT refuses.
    """
    found = model._meta.get_field(field).cast_db_type(connections[using])  # type: ignore[union-attr]
    return str(found).partition("(")[0]


def _quote(name: str, vendor: str) -> str:
    return f"`{name}`" if vendor == "mysql" else f'"{name}"'


def any_of(vendor: str, expression: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the condition that ``expression`` is one of ``values``, and its parameters.

    One array on PostgreSQL, so that the statement's text does not depend on how many there are.
    """
    if vendor == "postgresql":
        return f"{expression} = ANY(%s)", [array(values)]
    if not values:
        return "1 = 0", []
    return f"{expression} IN ({', '.join(['%s'] * len(values))})", list(values)


def is_shared(values: Sequence[Any]) -> bool:
    """Tell whether all of a column's values are the same, so that one statement need not have each."""
    return values.count(values[0]) == len(values)


class Made:
    """Rows that are made one by one as they are sent, while the database takes in those before.

    ``values`` makes them as others are given, ``lines`` as COPY reads them. ``then`` is called when all are
    made: it need not wait for the database either.
    """

    def __init__(
        self,
        count: int,
        values: Callable[[], Iterator[Values]],
        lines: Callable[[], Iterator[str]],
        then: Callable[[], object],
    ) -> None:
        self._count = count
        self._values = values
        self._lines = lines
        self._then = then

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Values]:
        yield from self._values()
        self._then()

    def lines(self) -> Iterator[str]:
        """Make the rows as COPY reads them."""
        yield from self._lines()
        self._then()


def insert(
    cursor: CursorWrapper, model: type[Model], fields: tuple[str, ...], rows: Sequence[Values] | Made
) -> None:
    """Insert ``rows``, each with the values of ``fields`` in order, ready for the database."""
    if not rows:
        return
    vendor = cursor.db.vendor
    names = f"{table(model, vendor)} ({columns(model, fields, vendor)})"
    if vendor != "postgresql":
        cursor.executemany(f"INSERT INTO {names} VALUES ({_places(len(fields))})", list(rows))
    elif len(rows) < postgres.COPY_FROM_ROWS:
        _insert_few(cursor, names, list(rows))
    elif isinstance(cursor, postgres.PipelineCursor) and len(rows) < postgres.COPY_FROM_PIPELINED_ROWS:
        arrays = [array(values) for values in zip(*rows, strict=True)]
        cursor.execute(f"INSERT INTO {names} SELECT * FROM {unnest(cursor.db.alias, model, fields)}", arrays)
    else:
        with pipeline.outside(cursor) as plain:
            if isinstance(rows, Made):
                postgres.copy_lines(plain, names, rows.lines())
            else:
                postgres.copy(plain, names, rows)


def _insert_few(cursor: CursorWrapper, names: str, rows: Sequence[Values]) -> None:
    values = ", ".join([f"({_places(len(rows[0]))})"] * len(rows))
    cursor.execute(f"INSERT INTO {names} VALUES {values}", list(chain.from_iterable(rows)))


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``items`` in pieces of ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def update(
    cursor: CursorWrapper, model: type[Model], fields: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Update rows by primary key: each of ``rows`` has the values of ``fields`` and, last, the key."""
    if not rows:
        return
    vendor = cursor.db.vendor
    if vendor == "postgresql" and len(rows) > 1:
        _update_many(cursor, model, fields, rows)
        return
    sql = _update_one_sql(model, fields, vendor)
    if len(rows) == 1:
        cursor.execute(sql, rows[0])
    else:
        cursor.executemany(sql, rows)


@cache
def _update_one_sql(model: type[Model], fields: tuple[str, ...], vendor: str) -> str:
    assignments = ", ".join(f"{column(model, field, vendor)} = %s" for field in fields)
    return f"UPDATE {table(model, vendor)} SET {assignments} WHERE {column(model, 'id', vendor)} = %s"


def _update_many(
    cursor: CursorWrapper, model: type[Model], fields: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Update rows by one statement. What is the same in all of them, as most is, is sent once."""
    *columns_, keys = zip(*rows, strict=True)
    differs = tuple(not is_shared(values) for values in columns_)
    same = [values[0] for values, differ in zip(columns_, differs, strict=True) if not differ]
    arrays = [array(values) for values, differ in zip(columns_, differs, strict=True) if differ]
    in_keys = array(keys)
    sql = _update_many_sql(cursor.db.alias, model, fields, differs)
    cursor.execute(sql, [*same, *arrays, in_keys, in_keys])


@cache
def _update_many_sql(
    using: str, model: type[Model], fields: tuple[str, ...], differs: tuple[bool, ...]
) -> str:
    """Return one PostgreSQL statement that updates many rows.

    Its parameters are the values that all of them get, an array for each field that ``differs``, and the keys
    twice. Without the latter once more it may read the whole table: nobody knows how long an array will be.
    As a subquery's they are not counted: else, of some thousands of rows that are in memory anyway, some
    hundreds would not seem worth the index.
    """
    key, kind = column(model, "id", "postgresql"), column_type(using, model, "id")
    names = {field: column(model, field, "postgresql") for field in fields}
    varying = tuple(field for field, differ in zip(fields, differs, strict=True) if differ)
    shared = [field for field in fields if field not in varying]
    assignments = [f"{names[field]} = %s::{column_type(using, model, field)}" for field in shared]
    assignments += [f"{names[field]} = v.{names[field]}" for field in varying]
    returned = ", ".join([*(names[field] for field in varying), key])
    return (
        f"UPDATE {table(model, 'postgresql')} t SET {', '.join(assignments)}"
        f" FROM {unnest(using, model, (*varying, 'id'))} AS v({returned})"
        f" WHERE t.{key} = v.{key} AND t.{key} = ANY((SELECT %s::{kind}[])::{kind}[])"
    )


@cache
def unnest(using: str, model: type[Model], fields: tuple[str, ...]) -> str:
    """Return the rows, on PostgreSQL, that an array for each of these fields makes."""
    return f"unnest({', '.join(f'%s::{column_type(using, model, field)}[]' for field in fields)})"


def delete(cursor: CursorWrapper, model: type[Model], field: str, values: Sequence[Any]) -> None:
    """Delete the rows in which ``field`` is one of ``values``."""
    if values:
        vendor = cursor.db.vendor
        condition, parameters = any_of(vendor, column(model, field, vendor), values)
        cursor.execute(f"DELETE FROM {table(model, vendor)} WHERE {condition}", parameters)


@cache
def _places(count: int) -> str:
    return ", ".join(["%s"] * count)


def ask(cursor: CursorWrapper, sql: str, parameters: Sequence[Any]) -> Answer:
    """Send a query, and return how to get its rows: in a pipeline, with the answers to what is asked next."""
    if isinstance(cursor, postgres.PipelineCursor):
        return cursor.ask(sql, parameters).rows
    cursor.execute(sql, parameters)
    found = cursor.fetchall()
    return lambda: found


def fetch_again(using: str, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Do what `fetch` does for a query that is run often: by a prepared statement, where that is possible."""
    if pipeline.can_ask(using):
        try:
            return pipeline.ask(using, sql, parameters)
        except DatabaseError as error:
            if not pipeline.has_lost_statements(error):
                raise
    return fetch(using, sql, parameters)


def fetch(using: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a query and return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found
