"""Histories: the rows of executions' histories, and the events that they are.

Every step of every orchestration is two of these rows, or more: to make and to send them is the largest part
of what a busy worker does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.utils import CursorWrapper

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.core.events import HistoryEvent
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import clock, rows
from durable_django.store.postgres import NULL, escaped
from durable_django.store.rows import any_of, column, columns, fetch, table

FIELDS = (
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

Columns = tuple[int, int | None, str | None, str | None, str | None]
"""What an event has in its row: kind, task id, name, data and attributes."""

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
    values: Callable[[HistoryEvent], tuple[Any, ...]]
    """Reads all at once: first the row, then the attributes."""
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
    writers = tuple(_TO_JSON.get(base, json.dumps) for base in types.values())
    members = tuple(
        f'"{name}": "%s"' if base == "datetime" else f'"{name}": %s' for name, base in types.items()
    )
    read = [name or "NOTHING" for name in cls.ROW] + list(types)
    nothing = [None] * len(types)
    return _Shape(kind, cls, cls.ROW, attributes, writers, members, attrgetter(*read), nothing)


_BY_KIND = {kind: _shape(kind, cls) for kind, cls in _KINDS.items()}
_BY_CLASS = {shape.cls: shape for shape in _BY_KIND.values()}


def kind_of(cls: type[HistoryEvent]) -> int:
    """Return the number under which events of a class are stored."""
    return _BY_CLASS[cls].kind


def event_columns(event: HistoryEvent) -> Columns:
    """Return kind, task id, name, data and attributes of an event, as their columns hold them."""
    plain = _PLAIN.get(type(event))
    if plain is not None and (columns := plain(event)) is not None:
        return columns
    shape = _BY_CLASS[type(event)]
    task_id, name, data, *attributes = shape.values(event)
    text = None if attributes == shape.nothing else _attributes(shape, attributes)
    return shape.kind, task_id, name, data, text


def _scheduled(event: events.TaskScheduledEvent) -> Columns | None:
    """Return the columns of one with no attributes; None for others."""
    if (
        event.version is None
        and event.parent_trace_context is None
        and event.tags is None
        and event.queue is None
        and event.priority is None
        and event.local is None
        and event.limit_key is None
    ):
        return _SCHEDULED, event.event_id, event.name, event.input, None
    return None


def _completed(event: events.TaskCompletedEvent) -> Columns | None:
    """Return the columns of one with all attributes; None for others."""
    worker, queued_at, started_at, finished_at = (
        event.worker,
        event.queued_at,
        event.started_at,
        event.finished_at,
    )
    if worker is None or queued_at is None or started_at is None or finished_at is None:
        return None
    started, finished = started_at.isoformat(), finished_at.isoformat()
    attributes = f'{{{_queued(worker, queued_at)}, "started_at": "{started}", "finished_at": "{finished}"}}'
    return _COMPLETED, event.task_scheduled_id, None, event.result, attributes


@lru_cache(maxsize=64)
def _queued(worker: str, queued_at: datetime) -> str:
    """Return what all activities of a batch share."""
    return f'"worker": {json.dumps(worker)}, "queued_at": "{queued_at.isoformat()}"'


_SCHEDULED, _COMPLETED = kind_of(events.TaskScheduledEvent), kind_of(events.TaskCompletedEvent)
_PLAIN: dict[type[HistoryEvent], Callable[[Any], Columns | None]] = {
    # Nearly all rows are of these two, and mostly like this: it takes half as long as what all events take.
    events.TaskScheduledEvent: _scheduled,
    events.TaskCompletedEvent: _completed,
}


def _attributes(shape: _Shape, values: list[Any]) -> str:
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


class Appended(NamedTuple):
    """What a turn appends to an execution's history.

    ``sequence`` is the number of the first event, ``timestamp`` is as the database wants it.
    """

    instance: int
    execution_id: str
    sequence: int
    timestamp: Any
    turn: int
    events: Sequence[HistoryEvent]


def insert(
    cursor: CursorWrapper, appended: Sequence[Appended], then: Callable[[], object] = lambda: None
) -> None:
    """Append to histories. ``then`` is called once the rows are made; the database may still take them in."""
    count = sum(len(one.events) for one in appended)
    made = rows.Made(count, partial(_values, appended), partial(_lines, appended), then)
    rows.insert(cursor, HistoryRow, FIELDS, made)


def _values(appended: Sequence[Appended]) -> Iterator[rows.Values]:
    for instance, execution_id, first, timestamp, turn, happened in appended:
        for sequence, event in enumerate(happened, first):
            yield instance, execution_id, sequence, timestamp, turn, *event_columns(event)


def _lines(appended: Sequence[Appended]) -> Iterator[str]:
    """Yield the rows as COPY reads them. What a turn's rows share is written once."""
    for instance, execution_id, first, timestamp, turn, happened in appended:
        start, middle = f"{instance}\t{escaped(execution_id)}\t", f"\t{timestamp}\t{turn}\t"
        for sequence, event in enumerate(happened, first):
            kind, task_id, name, data, attributes = event_columns(event)
            yield (
                f"{start}{sequence}{middle}{kind}"
                f"\t{NULL if task_id is None else task_id}"
                f"\t{NULL if name is None else escaped(name)}"
                f"\t{NULL if data is None else escaped(data)}"
                f"\t{NULL if attributes is None else escaped(attributes)}\n"
            )


def read(using: str, instance: int, execution_id: str) -> list[HistoryEvent]:
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
