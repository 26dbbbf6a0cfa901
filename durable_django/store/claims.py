"""Claims: which instances a turn moves, locked until it commits.

Every claim locks and limits *instances*, and passes over those that somebody else holds. A limit on messages
would starve: the oldest two hundred may belong to instances that nobody can move.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from django.db.backends.utils import CursorWrapper

from durable_django.models import ActivityTask, Instance, InstanceStatus, Message, Timer
from durable_django.store import clock, rows
from durable_django.store.rows import any_of, column, table
from durable_django.store.scope import Served

_ACTIVE = (InstanceStatus.RUNNING.value, InstanceStatus.PENDING.value)


class Claimed(NamedTuple):
    """A locked instance.

    ``input`` is read for a pending one only: later, history has it. ``may_have_messages`` is False where a
    pending one's inbox is known to be empty; if a message has come since, so has its wake-up.
    """

    pk: int
    instance_id: str
    execution_id: str
    name: str
    version: str | None
    queue: str
    priority: int
    status: int
    next_sequence: int
    turn: int
    tries: int
    start_at: datetime
    last_updated_at: datetime
    custom_status: str | None
    tags: dict[str, str] | None
    parent_pk: int | None
    parent_execution_id: str | None
    parent_task_id: int | None
    input: str | None
    may_have_messages: bool
    parent_instance_id: str | None

    @property
    def is_active(self) -> bool:
        """Whether a turn can move it."""
        return self.status in _ACTIVE

    @property
    def is_pending(self) -> bool:
        """Whether it has not started."""
        return self.status == InstanceStatus.PENDING

    @property
    def is_suspended(self) -> bool:
        """Whether it takes nothing in until it is resumed."""
        return self.status == InstanceStatus.SUSPENDED


_FIELDS = (
    "id",
    "instance_id",
    "execution_id",
    "name",
    "version",
    "queue",
    "priority",
    "status",
    "next_sequence",
    "turn",
    "tries",
    "start_at",
    "last_updated_at",
    "custom_status",
    "tags",
    "parent",
    "parent_execution_id",
    "parent_task_id",
)


_TIMES = ("start_at", "last_updated_at")
_TAGS = _FIELDS.index("tags")

NOTHING = "[]"
"""What most instances wait for, as JSON."""


@cache
def _select(vendor: str, may_have_messages: str = "1") -> str:
    instance = table(Instance, vendor)
    fields = ", ".join(
        clock.utc(vendor, name) if field in _TIMES else name
        for field in _FIELDS
        for name in [f"i.{column(Instance, field, vendor)}"]
    )
    return (
        f"SELECT {fields},"
        f" CASE WHEN i.status = {InstanceStatus.PENDING.value} THEN i.input END,"
        f" {may_have_messages},"
        f" CASE WHEN i.parent_id IS NOT NULL"
        f" THEN (SELECT p.instance_id FROM {instance} p WHERE p.id = i.parent_id) END"
        f" FROM {instance} i WHERE "
    )


def _lock(vendor: str) -> str:
    if vendor == "postgresql":
        return " FOR NO KEY UPDATE OF i SKIP LOCKED"
    # SQLite's transaction holds the database's one write lock already.
    return "" if vendor == "sqlite" else " FOR UPDATE SKIP LOCKED"


def _claimed(vendor: str, found: Sequence[Sequence[Any]]) -> list[Claimed]:
    if vendor == "postgresql" and all(row[_TAGS] is None for row in found):
        return list(map(Claimed._make, found))  # As it is: the times are naive UTC already.
    return [
        Claimed._make(
            (
                *row[:11],
                clock.from_utc(vendor, row[11]),
                clock.from_utc(vendor, row[12]),
                row[13],
                None if row[_TAGS] is None else json.loads(row[_TAGS]),
                *row[15:],
            )
        )
        for row in found
    ]


def claim_keys(cursor: CursorWrapper, keys: Iterable[int]) -> list[Claimed]:
    """Lock these instances, whatever their state, but for those that somebody else holds."""
    return ask_keys(cursor, keys)()


def ask_keys(cursor: CursorWrapper, keys: Iterable[int]) -> Callable[[], list[Claimed]]:
    """Do what `claim_keys` does; what is returned gives the instances."""
    ordered = sorted(keys)
    if not ordered:
        return list
    vendor = cursor.db.vendor
    condition, parameters = any_of(vendor, "i.id", ordered)
    found = rows.ask(cursor, f"{_select(vendor)}{condition} ORDER BY i.id{_lock(vendor)}", parameters)
    return lambda: _claimed(vendor, found())


def expect(cursor: CursorWrapper, instance: Claimed) -> None:
    """Lock an instance, and have the transaction fail if it is not as it is thought to be, or is held.

    In a pipeline on PostgreSQL: nothing waits for the answer but the commit.
    """
    vendor = cursor.db.vendor
    rows.ask(
        cursor,
        f"SELECT 1 / count(*) FROM (SELECT i.id FROM {table(Instance, vendor)} i WHERE i.id = %s"
        f" AND i.execution_id = %s AND i.next_sequence = %s AND i.tries = 0"
        f" AND i.status = {InstanceStatus.RUNNING.value}"
        f" AND i.parent_execution_id IS NOT DISTINCT FROM %s{_lock(vendor)}) held",
        [instance.pk, instance.execution_id, instance.next_sequence, instance.parent_execution_id],
    )


def ask_pending(
    cursor: CursorWrapper, served: Served, now: datetime, limit: int
) -> Callable[[], list[Claimed]]:
    """Lock up to ``limit`` instances that are to start, the highest priority and the oldest first.

    What is returned gives the instances.
    """
    if limit <= 0:
        return list
    vendor = cursor.db.vendor
    condition, parameters = served.condition(vendor, "i.")
    has_messages = f"EXISTS (SELECT 1 FROM {table(Message, vendor)} m WHERE m.instance_id = i.id)"
    found = rows.ask(
        cursor,
        f"{_select(vendor, has_messages)}i.status = {InstanceStatus.PENDING.value}"
        f" AND i.start_at <= %s{condition}"
        f" ORDER BY i.priority DESC, i.start_at, i.id LIMIT %s{_lock(vendor)}",
        [clock.to_database(cursor.db.alias, now), *parameters, limit],
    )
    return lambda: _claimed(vendor, found())


def count_pending(cursor: CursorWrapper, served: Served, now: datetime, most: int) -> int:
    """Count the instances that are to start, held by others or not, up to ``most``."""
    vendor = cursor.db.vendor
    condition, parameters = served.condition(vendor, "i.")
    # In the claim's order, by its index: just when a backlog ends, the server thinks that much is pending.
    cursor.execute(
        f"SELECT COUNT(*) FROM (SELECT 1 FROM {table(Instance, vendor)} i"
        f" WHERE i.status = {InstanceStatus.PENDING.value} AND i.start_at <= %s{condition}"
        " ORDER BY i.priority DESC, i.start_at, i.id LIMIT %s) pending",
        [clock.to_database(cursor.db.alias, now), *parameters, most],
    )
    count: int = cursor.fetchone()[0]
    return count


def ask_ready(
    cursor: CursorWrapper, served: Served, now: datetime, limit: int
) -> Callable[[], list[Claimed]]:
    """Lock up to ``limit`` running instances that have a message or a due timer.

    What is returned gives the instances.
    """
    if limit <= 0:
        return list
    vendor = cursor.db.vendor
    condition, parameters = served.condition(vendor, "i.")
    present = clock.to_database(cursor.db.alias, now)
    not_held = "NOT held" if vendor == "postgresql" else "held = 0"
    found = rows.ask(
        cursor,
        f"{_select(vendor)}i.status = {InstanceStatus.RUNNING.value} AND i.id IN ("
        f"SELECT instance_id FROM {table(Message, vendor)} WHERE {not_held} AND visible_at <= %s"
        f" UNION SELECT instance_id FROM {table(Timer, vendor)} WHERE fire_at <= %s)"
        f"{condition} LIMIT %s{_lock(vendor)}",
        [present, present, *parameters, limit],
    )
    return lambda: _claimed(vendor, found())


def ask_next_due(cursor: CursorWrapper, now: datetime) -> Callable[[], datetime | None]:
    """Ask when the next timer is due, or the next pending instance is to start, after ``now``."""
    vendor = cursor.db.vendor
    present = clock.to_database(cursor.db.alias, now)
    found = rows.ask(
        cursor,
        f"SELECT MIN(fire_at) FROM {table(Timer, vendor)} WHERE fire_at > %s"
        f" UNION ALL SELECT MIN(start_at) FROM {table(Instance, vendor)}"
        f" WHERE status = {InstanceStatus.PENDING.value} AND start_at > %s",
        [present, present],
    )
    return lambda: _earliest(found())


def next_visible(cursor: CursorWrapper, now: datetime) -> datetime | None:
    """Return when the next message or activity can be taken, after ``now``. For tests: it may read all."""
    vendor = cursor.db.vendor
    present = clock.to_database(cursor.db.alias, now)
    cursor.execute(
        f"SELECT MIN(visible_at) FROM {table(Message, vendor)} WHERE visible_at > %s"
        f" UNION ALL SELECT MIN(visible_at) FROM {table(ActivityTask, vendor)} WHERE visible_at > %s",
        [present, present],
    )
    return _earliest(cursor.fetchall())


def _earliest(found: Iterable[Sequence[Any]]) -> datetime | None:
    times = [clock.from_orm(value) for (value,) in found if value is not None]
    return min(times, default=None)
