"""Rows: SQL text for the hot statements, and the conversion between history rows and events.

The hot statements are plain SQL through Django's connection: the ORM's compiler costs more than the database
does. Their text is made once from the models' own ``_meta``.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache, lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

from django.db import connections
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.core.events import HistoryEvent
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import clock, pipeline, postgres

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


def array(values: Sequence[str | int | None]) -> str:
    """Return an array's parameter on PostgreSQL, as text: psycopg takes eight times as long to make it."""
    write = str if set(map(type, values)) == {int} else _element
    return f"{{{','.join(map(write, values))}}}"


def is_shared(values: Sequence[Any]) -> bool:
    """Tell whether all of a column's values are the same, so that one statement need not have each."""
    return values.count(values[0]) == len(values)


def _element(value: str | int | None) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "NULL" if value is None else str(value)


class Made:
    """Rows that are made one by one as they are sent, while the database takes in those before.

    ``then`` is called when all are made: it need not wait for the database either.
    """

    def __init__(self, make: Callable[[], Iterator[Values]], count: int, then: Callable[[], object]) -> None:
        self._make = make
        self._count = count
        self._then = then

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Values]:
        yield from self._make()
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
        pipeline.leave(cursor.db.alias)  # There is no COPY in one.
        postgres.copy(cursor, names, rows)


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
        cursor = cursor.another()
        cursor.execute(sql, parameters)
        answer: Answer = cursor.fetchall
        return answer
    cursor.execute(sql, parameters)
    found = cursor.fetchall()
    return lambda: found


def fetch(using: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a query and return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


# -------------------------------------------------------------------- history rows and events

HISTORY_FIELDS = (
    "instance",
    "execution_id",
    "sequence",
    "timestamp",
    "turn",
    "kind",
    "task_id",
    "name",
    "data",
    "attributes",
)

_KINDS: dict[int, type[HistoryEvent]] = {
    # Numbers are in everybody's tables: add, never change.
    1: events.ExecutionStartedEvent,
    2: events.ExecutionCompletedEvent,
    3: events.ExecutionTerminatedEvent,
    4: events.ExecutionSuspendedEvent,
    5: events.ExecutionResumedEvent,
    6: events.ExecutionRewoundEvent,
    7: events.ContinueAsNewEvent,
    10: events.TaskScheduledEvent,
    11: events.TaskCompletedEvent,
    12: events.TaskFailedEvent,
    20: events.SubOrchestrationInstanceCreatedEvent,
    21: events.SubOrchestrationInstanceCompletedEvent,
    22: events.SubOrchestrationInstanceFailedEvent,
    30: events.TimerCreatedEvent,
    31: events.TimerFiredEvent,
    40: events.EventSentEvent,
    41: events.EventRaisedEvent,
    50: events.EntityOperationSignaledEvent,
    51: events.EntityOperationCalledEvent,
    52: events.EntityOperationCompletedEvent,
    53: events.EntityOperationFailedEvent,
    54: events.EntityLockRequestedEvent,
    55: events.EntityLockGrantedEvent,
    56: events.EntityUnlockSentEvent,
    60: events.GenericEvent,
}


def _as_is(value: Any) -> Any:
    return value


def _dataclass_to_json(value: Any) -> str:
    return json.dumps(dataclasses.asdict(value))


def _execution_to_json(value: events.OrchestrationInstance) -> str:
    instance_id, execution_id = json.dumps(value.instance_id), json.dumps(value.execution_id)
    return f'{{"instance_id": {instance_id}, "execution_id": {execution_id}}}'


_TO_JSON: dict[str, Callable[[Any], str]] = {
    "int": int.__repr__,
    "str": lru_cache(maxsize=512)(json.dumps),  # Names of workers and queues, versions: mostly the same ones.
    "datetime": datetime.isoformat,  # Its quotes are in the template.
    "FailureDetails": lambda value: json.dumps(value.to_dict()),
    "OrchestrationInstance": _execution_to_json,
    "ParentInstanceInfo": _dataclass_to_json,
    "TraceContext": _dataclass_to_json,
}

_FIELD_TO_JSON: dict[str, Callable[[Any], str]] = {
    "queued_at": lru_cache(maxsize=64)(datetime.isoformat),  # One for all activities of a batch.
}


def _parent(value: dict[str, Any]) -> events.ParentInstanceInfo:
    instance = value.pop("orchestration_instance", None)
    parent = events.ParentInstanceInfo(**value)
    if instance is not None:
        parent.orchestration_instance = events.OrchestrationInstance(**instance)
    return parent


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "FailureDetails": FailureDetails.from_dict,
    "OrchestrationInstance": lambda value: events.OrchestrationInstance(**value),
    "ParentInstanceInfo": _parent,
    "TraceContext": lambda value: events.TraceContext(**value),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """How one class of events lies in its columns."""

    kind: int
    cls: type[HistoryEvent]
    row: events.Row
    attributes: tuple[tuple[str, Callable[[Any], Any]], ...]
    """Their names, and what reads each one's JSON."""
    writers: tuple[Callable[[Any], str], ...]
    """What writes each one's JSON."""
    members: tuple[str, ...]
    """The templates of their members."""
    full: str
    """The template of all members."""
    values: Callable[[HistoryEvent], tuple[Any, ...]]
    """Reads all at once, since every row of the history asks for it: first the row, then the attributes."""
    nothing: list[None]
    """What the attributes are mostly."""


def _shape(kind: int, cls: type[HistoryEvent]) -> _Shape:
    in_columns = {"event_id", "timestamp", *cls.ROW}
    types = {
        field.name: str(field.type).split(" | ")[0]
        for field in dataclasses.fields(cls)
        if field.name not in in_columns
    }
    attributes = tuple((name, _FROM_JSON.get(base, _as_is)) for name, base in types.items())
    writers = tuple(
        _FIELD_TO_JSON.get(name) or _TO_JSON.get(base, json.dumps) for name, base in types.items()
    )
    members = tuple(
        f'"{name}": "%s"' if base == "datetime" else f'"{name}": %s' for name, base in types.items()
    )
    full = f"{{{', '.join(members)}}}"
    read = [name or "NOTHING" for name in cls.ROW] + list(types)
    nothing = [None] * len(types)
    return _Shape(kind, cls, cls.ROW, attributes, writers, members, full, attrgetter(*read), nothing)


_BY_KIND = {kind: _shape(kind, cls) for kind, cls in _KINDS.items()}
_BY_CLASS = {shape.cls: shape for shape in _BY_KIND.values()}


def kind_of(cls: type[HistoryEvent]) -> int:
    """Return the number under which events of a class are stored."""
    return _BY_CLASS[cls].kind


def event_columns(event: HistoryEvent) -> tuple[int, int | None, str | None, str | None, str | None]:
    """Return kind, task id, name, data and attributes of an event, as their columns hold them."""
    shape = _BY_CLASS[type(event)]
    task_id, name, data, *attributes = shape.values(event)
    text = None if attributes == shape.nothing else _attributes(shape, attributes)
    return shape.kind, task_id, name, data, text


def _attributes(shape: _Shape, values: list[Any]) -> str:
    if None not in values:
        return shape.full % tuple(map(operator.call, shape.writers, values))
    members = zip(shape.members, shape.writers, values, strict=True)
    present = [template % to_json(value) for template, to_json, value in members if value is not None]
    return f"{{{', '.join(present)}}}"


def event_from_columns(
    timestamp: datetime,
    kind: int,
    task_id: int | None,
    name: str | None,
    data: str | None,
    attributes: str | None,
) -> HistoryEvent:
    """Rebuild the event of a row; ``timestamp`` is naive UTC."""
    shape = _BY_KIND[kind]
    values: dict[str, Any] = {"event_id": -1, "timestamp": timestamp}
    columns_read = zip(shape.row, (task_id, name, data), strict=True)
    values.update({field: value for field, value in columns_read if field is not None})
    if attributes is not None:
        stored = json.loads(attributes)
        for field, decode in shape.attributes:
            if field in stored:
                values[field] = decode(stored[field])
    return shape.cls(**values)


def read_history(using: str, instance: int, execution_id: str) -> list[HistoryEvent]:
    """Return the events of one execution, in order."""
    return [event for _, event in read_turns(using, instance, execution_id)]


def read_events(
    using: str, instance: int, execution_id: str, sequences: Sequence[int]
) -> list[tuple[int, HistoryEvent]]:
    """Return single events of one execution, in order, each with its sequence number."""
    vendor = connections[using].vendor
    fields = ("timestamp", "kind", "task_id", "name", "data", "attributes", "sequence")
    sequence = column(HistoryRow, "sequence", vendor)
    condition, parameters = any_of(vendor, sequence, sequences)
    sql = (
        f"SELECT {columns(HistoryRow, fields, vendor)} FROM {table(HistoryRow, vendor)}"
        f" WHERE {column(HistoryRow, 'instance', vendor)} = %s"
        f" AND {column(HistoryRow, 'execution_id', vendor)} = %s AND {condition} ORDER BY {sequence}"
    )
    return [
        (number, event_from_columns(clock.from_orm(timestamp), *rest))
        for timestamp, *rest, number in fetch(using, sql, [instance, execution_id, *parameters])
    ]


def read_turns(using: str, instance: int, execution_id: str) -> list[tuple[int, HistoryEvent]]:
    """Return the events of one execution, in order, each with the number of its turn."""
    vendor = connections[using].vendor
    fields = ("timestamp", "kind", "task_id", "name", "data", "attributes", "turn")
    sql = (
        f"SELECT {columns(HistoryRow, fields, vendor)} FROM {table(HistoryRow, vendor)}"
        f" WHERE {column(HistoryRow, 'instance', vendor)} = %s"
        f" AND {column(HistoryRow, 'execution_id', vendor)} = %s"
        f" ORDER BY {column(HistoryRow, 'sequence', vendor)}"
    )
    return [
        (turn, event_from_columns(clock.from_orm(timestamp), *rest))
        for timestamp, *rest, turn in fetch(using, sql, [instance, execution_id])
    ]
