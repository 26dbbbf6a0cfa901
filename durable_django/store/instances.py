"""Instances: they come into being, and they go with all that is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any

from django.db import DatabaseError
from django.db.backends.utils import CursorWrapper
from django.db.models import F

from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus, Message, Timer
from durable_django.store import clock, rows, wakeup
from durable_django.store.claims import NOTHING
from durable_django.store.postgres import array
from durable_django.store.subjects import Subject

BATCH_ROWS = 500
"""The most instances in one statement: SQLite and server-side parameters have their limits."""

BATCH_CHARACTERS = 4_000_000
"""The most characters of inputs in one statement of several instances: packets have their limits, too."""

_FIELDS = (
    "instance_id",
    "execution_id",
    "name",
    "version",
    "queue",
    "priority",
    "status",
    "input",
    "tags",
    "waiting_for",
    "parent",
    "parent_execution_id",
    "parent_task_id",
    "subject_type",
    "subject_id",
    "start_at",
    "created_at",
    "last_updated_at",
    "next_sequence",
    "turn",
    "tries",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """An instance to start: ``start_at`` is naive UTC, ``input`` serialized, ``parent`` a primary key."""

    instance_id: str
    execution_id: str
    name: str
    queue: str
    start_at: datetime
    version: str | None = None
    priority: int = 0
    input: str | None = None
    tags: Mapping[str, str] | None = None
    parent: int | None = None
    parent_execution_id: str | None = None
    parent_task_id: int | None = None
    subject: Subject | None = None


def add(cursor: CursorWrapper, new: Sequence[NewInstance], now: datetime) -> dict[str, int]:
    """Insert pending instances and return the primary keys of those that are really new, by instance id.

    An instance id that is taken is left alone, whether it was taken before, at the same moment, or earlier
    in ``new`` itself.
    """
    added: dict[str, int] = {}
    # In one order everywhere, so that two transactions that insert the same ids do not wait for each other.
    ordered = sorted(new, key=attrgetter("instance_id"))
    for batch in _statements(ordered):
        added.update(_insert(cursor, batch, now))
    return added


def add_and_announce(cursor: CursorWrapper, new: NewInstance, now: datetime) -> bool:
    """Insert a pending instance, wake whoever may start it, and tell whether it is really new."""
    using = cursor.db.alias
    if not wakeup.can_announce_along(using):
        return _add_then_announce(cursor, new, now)
    sql, values = _insert_sql(cursor.db.vendor, 1), _values(using, new, now)
    try:
        return bool(wakeup.execute_and_announce_start(cursor, sql, values))
    except DatabaseError:
        # Where the wake-up alone has failed, the instance is there. What else has failed fails again.
        ours = Instance.objects.using(using).filter(execution_id=new.execution_id)
        return _add_then_announce(cursor, new, now) or ours.filter(instance_id=new.instance_id).exists()


def delete(cursor: CursorWrapper, keys: Sequence[int]) -> None:
    """Delete instances by primary key, with their history, messages, timers and activities.

    The caller has locked them.
    """
    for batch in rows.batched(sorted(keys), BATCH_ROWS):
        delete_work(cursor, batch)
        rows.delete(cursor, HistoryEvent, "instance", batch)
        rows.delete(cursor, Instance, "id", batch)


def delete_work(cursor: CursorWrapper, keys: Sequence[int]) -> None:
    """Delete the activities, timers and messages of instances that the caller has locked."""
    for batch in rows.batched(keys, BATCH_ROWS):
        lock_activities(cursor, batch)
        for model in (ActivityTask, Timer, Message):
            rows.delete(cursor, model, "instance", batch)


def exists(using: str, key: int) -> bool:
    """Tell whether there is such an instance, whoever holds it."""
    return Instance.objects.using(using).filter(pk=key).exists()


def count_try(using: str, key: int) -> None:
    """Count a failed attempt to move an instance."""
    Instance.objects.using(using).filter(pk=key).update(tries=F("tries") + 1)


def reset_tries(using: str, keys: Sequence[int]) -> None:
    """Forget failed attempts: these instances have moved."""
    Instance.objects.using(using).filter(pk__in=keys).update(tries=0)


def lock_activities(cursor: CursorWrapper, keys: Sequence[int]) -> None:
    """Lock activities in the order in which workers lock them; a bare DELETE takes them as they come."""
    if not cursor.db.features.has_select_for_update:
        return
    vendor = cursor.db.vendor
    key = rows.column(ActivityTask, "id", vendor)
    condition, parameters = rows.any_of(vendor, rows.column(ActivityTask, "instance", vendor), keys)
    cursor.execute(
        f"SELECT {key} FROM {rows.table(ActivityTask, vendor)} WHERE {condition} ORDER BY {key} FOR UPDATE",
        parameters,
    )


def _add_then_announce(cursor: CursorWrapper, new: NewInstance, now: datetime) -> bool:
    added = add(cursor, [new], now)
    wakeup.announce_start(cursor.db.alias)
    return bool(added)


def _insert(cursor: CursorWrapper, batch: Sequence[NewInstance], now: datetime) -> dict[str, int]:
    vendor = cursor.db.vendor
    values = [_values(cursor.db.alias, instance, now) for instance in batch]
    if vendor == "postgresql" and len(batch) > 1:
        _insert_columns(cursor, dict(zip(_FIELDS, zip(*values, strict=True), strict=True)))
    else:
        cursor.execute(_insert_sql(vendor, len(batch)), list(chain.from_iterable(values)))
    if vendor != "mysql":
        return dict(cursor.fetchall())
    ours = {instance.instance_id: instance.execution_id for instance in reversed(batch)}
    fields = rows.columns(Instance, ("instance_id", "id", "execution_id"), vendor)
    condition, parameters = rows.any_of(vendor, rows.column(Instance, "instance_id", vendor), list(ours))
    cursor.execute(f"SELECT {fields} FROM {rows.table(Instance, vendor)} WHERE {condition}", parameters)
    return {name: key for name, key, execution in cursor.fetchall() if ours.get(name) == execution}


@cache
def _insert_sql(vendor: str, count: int) -> str:
    row = f"({', '.join(['%s'] * len(_FIELDS))})"
    return f"{_insert_into(vendor)} VALUES {', '.join([row] * count)} {_unless_taken(vendor)}"


def _insert_columns(cursor: CursorWrapper, columns: Mapping[str, Sequence[Any]]) -> None:
    """Insert rows on PostgreSQL, given by column: what all have in common is sent and parsed once."""
    varying = tuple(
        field for field, column in columns.items() if field == "instance_id" or not rows.is_shared(column)
    )
    common = [column[0] for field, column in columns.items() if field not in varying]
    arrays = [array(columns[field]) for field in varying]
    cursor.execute(_insert_columns_sql(cursor.db.alias, varying), [*common, *arrays])


@cache
def _insert_columns_sql(using: str, varying: tuple[str, ...]) -> str:
    """Return a statement that takes a value for each other field, then an array for each of these."""
    values = [
        f"v.{field}" if field in varying else f"%s::{rows.column_type(using, Instance, field)}"
        for field in _FIELDS
    ]
    return (
        f"{_insert_into('postgresql')} SELECT {', '.join(values)}"
        f" FROM {rows.unnest(using, Instance, varying)} AS v({', '.join(varying)})"
        f" {_unless_taken('postgresql')}"
    )


def _insert_into(vendor: str) -> str:
    return f"INSERT INTO {rows.table(Instance, vendor)} ({rows.columns(Instance, _FIELDS, vendor)})"


def _unless_taken(vendor: str) -> str:
    key, instance_id = (rows.column(Instance, field, vendor) for field in ("id", "instance_id"))
    if vendor == "mysql":
        # INSERT IGNORE would swallow every other error as well.
        return f"ON DUPLICATE KEY UPDATE {key} = {key}"
    return f"ON CONFLICT ({instance_id}) DO NOTHING RETURNING {instance_id}, {key}"


def _values(using: str, new: NewInstance, now: datetime) -> tuple[Any, ...]:
    present = clock.to_database(using, now)
    return (
        new.instance_id,
        new.execution_id,
        new.name,
        new.version,
        new.queue,
        new.priority,
        InstanceStatus.PENDING.value,
        new.input,
        json.dumps(dict(new.tags)) if new.tags else None,
        NOTHING,
        new.parent,
        new.parent_execution_id,
        new.parent_task_id,
        None if new.subject is None else new.subject.type,
        None if new.subject is None else new.subject.id,
        clock.to_database(using, new.start_at),
        present,
        present,
        0,
        0,
        0,
    )


def _statements(new: Sequence[NewInstance]) -> Iterator[Sequence[NewInstance]]:
    """Yield the instances that go into one statement each."""
    begin = characters = 0
    for position, instance in enumerate(new):
        characters += len(instance.input or "")
        if position > begin and (position - begin == BATCH_ROWS or characters > BATCH_CHARACTERS):
            yield new[begin:position]
            begin, characters = position, len(instance.input or "")
    if new:
        yield new[begin:]
