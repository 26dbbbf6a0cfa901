"""Rows: SQL text for the hot statements, and the conversion between history rows and events.

The hot statements are plain SQL through Django's connection: the ORM's compiler costs more than the database
does. Their text is made once from the models' own ``_meta``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
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
        return f"{expression} = ANY(%s)", [_array(values)]
    if not values:
        return "1 = 0", []
    return f"{expression} IN ({', '.join(['%s'] * len(values))})", list(values)


def _array(values: Sequence[Any]) -> Any:
    """Return an array's parameter; one of whole numbers as text: psycopg takes eight times as long for it."""
    if values and isinstance(values[0], int):
        return f"{{{','.join(map(str, values))}}}"
    return list(values)


def insert(
    cursor: CursorWrapper, model: type[Model], fields: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Insert ``rows``, each with the values of ``fields`` in order, ready for the database."""
    if not rows:
        return
    vendor = cursor.db.vendor
    names = f"{table(model, vendor)} ({columns(model, fields, vendor)})"
    if vendor != "postgresql":
        cursor.executemany(f"INSERT INTO {names} VALUES ({_places(len(fields))})", rows)
    elif len(rows) < postgres.COPY_FROM_ROWS:
        _insert_few(cursor, names, rows)
    elif isinstance(cursor, postgres.PipelineCursor) and len(rows) < postgres.COPY_FROM_PIPELINED_ROWS:
        arrays = [list(values) for values in zip(*rows, strict=True)]
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
        keys = _array([row[-1] for row in rows])
        cursor.execute(_update_many_sql(cursor.db.alias, model, fields), [_as_records(rows), keys])
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


def _as_records(rows: Sequence[Values]) -> str:
    """Return rows as JSON for `_update_many_sql`: made in C, where psycopg makes arrays in Python."""
    return json.dumps([{str(place): value for place, value in enumerate(row)} for row in rows], default=str)


@cache
def _update_many_sql(using: str, model: type[Model], fields: tuple[str, ...]) -> str:
    """Return one PostgreSQL statement that takes all rows as one JSON text, and their keys as an array.

    Without the array it may read the whole table: nobody knows beforehand how many rows the text has.
    """
    names = [column(model, field, "postgresql") for field in (*fields, "id")]
    types = [column_type(using, model, field) for field in (*fields, "id")]
    assignments = ", ".join(
        f'{name} = v."{place}"::{type_}'
        for place, (name, type_) in enumerate(zip(names, types, strict=True))
        if name != names[-1]
    )
    # A value of JSON that is text here, with JSON in it, must not become a JSON string.
    record = ", ".join(
        f'"{place}" {"text" if type_ == "jsonb" else type_}' for place, type_ in enumerate(types)
    )
    return (
        f"UPDATE {table(model, 'postgresql')} t SET {assignments}"
        f' FROM json_to_recordset(%s::json) AS v({record}) WHERE t.{names[-1]} = v."{len(fields)}"'
        f" AND t.{names[-1]} = ANY(%s)"
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


_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.isoformat,
    "FailureDetails": FailureDetails.to_dict,
    "OrchestrationInstance": dataclasses.asdict,
    "ParentInstanceInfo": dataclasses.asdict,
    "TraceContext": dataclasses.asdict,
}


def _parent(value: dict[str, Any]) -> events.ParentInstanceInfo:
    instance = value.pop("orchestration_instance", None)
    parent = events.ParentInstanceInfo(**value)
    if instance is not None:
        parent.orchestration_instance = events.OrchestrationInstance(**instance)
    return parent


_DECODERS: dict[str, Callable[[Any], Any]] = {
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
    attributes: tuple[tuple[str, Callable[[Any], Any], Callable[[Any], Any]], ...]


def _shape(kind: int, cls: type[HistoryEvent]) -> _Shape:
    in_columns = {"event_id", "timestamp", *cls.ROW}
    attributes = tuple(
        (field.name, _ENCODERS.get(base, _as_is), _DECODERS.get(base, _as_is))
        for field in dataclasses.fields(cls)
        if field.name not in in_columns
        for base in [str(field.type).split(" | ")[0]]
    )
    return _Shape(kind, cls, cls.ROW, attributes)


_BY_KIND = {kind: _shape(kind, cls) for kind, cls in _KINDS.items()}
_BY_CLASS = {shape.cls: shape for shape in _BY_KIND.values()}


def kind_of(cls: type[HistoryEvent]) -> int:
    """Return the number under which events of a class are stored."""
    return _BY_CLASS[cls].kind


def event_columns(event: HistoryEvent) -> tuple[int, int | None, str | None, str | None, str | None]:
    """Return kind, task id, name, data and attributes of an event, as their columns hold them."""
    shape = _BY_CLASS[type(event)]
    task_id, name, data = shape.row
    attributes = {}
    for field, encode, _ in shape.attributes:
        value = getattr(event, field)
        if value is not None:
            attributes[field] = encode(value)
    return (
        shape.kind,
        getattr(event, task_id) if task_id else None,
        getattr(event, name) if name else None,
        getattr(event, data) if data else None,
        json.dumps(attributes) if attributes else None,
    )


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
        for field, _, decode in shape.attributes:
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
