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

from django.db.backends.utils import CursorWrapper
from django.db.models import F

from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus, Message, Timer
from durable_django.store import clock, rows

BATCH_ROWS = 500
"""The most instances in one statement: SQLite and server-side parameters have their limits."""

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
    "start_at",
    "created_at",
    "last_updated_at",
    "next_sequence",
    "turn",
    "tries",
)

_NO_EVENTS = "[]"


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


def add(cursor: CursorWrapper, new: Sequence[NewInstance], now: datetime) -> dict[str, int]:
    """Insert pending instances and return the primary keys of those that are really new, by instance id.

    An instance id that is taken is left alone, whether it was taken before, at the same moment, or earlier
    in ``new`` itself.
    """
    added: dict[str, int] = {}
    # In one order everywhere, so that two transactions that insert the same ids do not wait for each other.
    ordered = sorted(new, key=attrgetter("instance_id"))
    for batch in _batches(ordered):
        added.update(_insert(cursor, batch, now))
    return added


def delete(cursor: CursorWrapper, keys: Sequence[int]) -> None:
    """Delete instances by primary key, with their history, messages, timers and activities.

    The caller has locked them.
    """
    for batch in _batches(sorted(keys)):
        delete_work(cursor, batch)
        rows.delete(cursor, HistoryEvent, "instance", batch)
        rows.delete(cursor, Instance, "id", batch)


def delete_work(cursor: CursorWrapper, keys: Sequence[int]) -> None:
    """Delete the activities, timers and messages of instances that the caller has locked."""
    for batch in _batches(keys):
        lock_activities(cursor, batch)
        for model in (ActivityTask, Timer, Message):
            rows.delete(cursor, model, "instance", batch)


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


def _insert(cursor: CursorWrapper, batch: Sequence[NewInstance], now: datetime) -> dict[str, int]:
    vendor = cursor.db.vendor
    values = chain.from_iterable(_values(cursor.db.alias, instance, now) for instance in batch)
    cursor.execute(_insert_sql(vendor, len(batch)), list(values))
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
    key, instance_id = (rows.column(Instance, field, vendor) for field in ("id", "instance_id"))
    if vendor == "mysql":
        # INSERT IGNORE would swallow every other error as well.
        otherwise = f"ON DUPLICATE KEY UPDATE {key} = {key}"
    else:
        otherwise = f"ON CONFLICT ({instance_id}) DO NOTHING RETURNING {instance_id}, {key}"
    return (
        f"INSERT INTO {rows.table(Instance, vendor)} ({rows.columns(Instance, _FIELDS, vendor)})"
        f" VALUES {', '.join([row] * count)} {otherwise}"
    )


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
        _NO_EVENTS,
        new.parent,
        new.parent_execution_id,
        new.parent_task_id,
        clock.to_database(using, new.start_at),
        present,
        present,
        0,
        0,
        0,
    )


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH_ROWS):
        yield items[start : start + BATCH_ROWS]
