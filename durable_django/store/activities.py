"""Activity tasks: claimed under a lease, renewed, given back, and recorded exactly once.

A lease is a token made here in Python, so that a row can be leased by the very statement that inserts it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.core.events import TaskScheduledEvent
from durable_django.models import ActivityTask, Instance
from durable_django.store import clock, rows
from durable_django.store.claims import Claimed
from durable_django.store.postgres import array
from durable_django.store.rows import any_of, columns, table
from durable_django.store.scope import Served

_PASSES = 5
_PASSING_SECONDS = 0.01
"""InnoDB locks, for a moment, what a scan passes by: who passes over what is locked comes back there."""

_TASK_FIELDS = (
    "instance",
    "execution_id",
    "task_id",
    "name",
    "input",
    "tags",
    "version",
    "queue",
    "priority",
    "created_at",
    "visible_at",
    "deliveries",
    "lease_token",
    "worker",
    "limit_key",
)


class Leased(NamedTuple):
    """An activity that this process may run until its lease ends."""

    token: int
    instance: int
    instance_id: str
    execution_id: str
    task_id: int
    name: str
    input: str | None
    queue: str
    limit_key: str | None
    queued_at: datetime
    deliveries: int = 1
    """How often it has been begun, this time included; known of what `take_over` gives."""
    bundle: int | None = None
    """The bundle that it was leased in, if it was; see `durable_django.store.bundles`."""

    @classmethod
    def called(
        cls,
        token: int,
        caller: Claimed,
        event: TaskScheduledEvent,
        queued_at: datetime,
        bundle: int | None = None,
    ) -> Leased:
        """Return the lease of an activity that the caller's turn has just called."""
        return cls(
            token,
            caller.pk,
            caller.instance_id,
            caller.execution_id,
            event.event_id,
            event.name,
            event.input,
            event.queue or caller.queue,
            event.limit_key,
            queued_at,
            1,
            bundle,
        )


class NewActivity(NamedTuple):
    """An activity to insert; with a ``token`` it is leased to the inserter at once."""

    instance: int
    execution_id: str
    task_id: int
    name: str
    input: str | None
    tags: dict[str, str] | None
    version: str | None
    queue: str
    priority: int
    limit_key: str | None = None
    token: int | None = None

    @classmethod
    def called(
        cls, caller: Claimed | Instance, event: TaskScheduledEvent, token: int | None = None
    ) -> NewActivity:
        """Return an activity that its caller's history has."""
        return cls(
            caller.pk,
            caller.execution_id,
            event.event_id,
            event.name,
            event.input,
            event.tags,
            caller.version,
            event.queue or caller.queue,
            caller.priority if event.priority is None else event.priority,
            event.limit_key,
            token,
        )


class Recorded(NamedTuple):
    """A finished activity whose row was still its holder's, and is gone now."""

    token: int
    instance: int
    execution_id: str


def new_token() -> int:
    """Return a lease token: 63 random bits."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def add(
    cursor: CursorWrapper,
    new: Sequence[NewActivity],
    now: datetime,
    *,
    worker: str | None = None,
    lease_until: datetime | None = None,
) -> None:
    """Insert activities; those with a token are leased to ``worker`` until ``lease_until``."""
    if not new:
        return
    using = cursor.db.alias
    present = clock.to_database(using, now)
    until = present if lease_until is None else clock.to_database(using, lease_until)
    rows.insert(
        cursor,
        ActivityTask,
        _TASK_FIELDS,
        [
            (
                task.instance,
                task.execution_id,
                task.task_id,
                task.name,
                task.input,
                json.dumps(task.tags) if task.tags else None,
                task.version,
                task.queue,
                task.priority,
                present,
                present if task.token is None else until,
                0 if task.token is None else 1,
                task.token,
                None if task.token is None else worker,
                task.limit_key,
            )
            for task in new
        ],
    )


def ask_due(
    cursor: CursorWrapper, served: Served, worker: str, now: datetime, lease_until: datetime, limit: int
) -> Callable[[], list[Leased]]:
    """Lock up to ``limit`` activities whose time has come, the highest priority and the oldest first.

    That includes those whose last lease has run out. What is returned leases them, and gives them.
    """
    if limit <= 0:
        return list
    condition, parameters = served.condition(cursor.db.vendor, "a.")
    found = ask_rows(cursor, condition, parameters, now, limit)
    return lambda: lease_rows(cursor, found(), worker, lease_until)


def ask_rows(
    cursor: CursorWrapper, condition: str, parameters: Sequence[Any], now: datetime, limit: int
) -> Callable[[], list[tuple[Any, ...]]]:
    """Lock up to ``limit`` activities ``a`` whose time has come, for `lease_rows`."""
    vendor = cursor.db.vendor
    lock = {"postgresql": " FOR NO KEY UPDATE OF a SKIP LOCKED", "sqlite": ""}.get(
        vendor, " FOR UPDATE SKIP LOCKED"
    )
    return rows.ask(
        cursor,
        f"SELECT a.id, a.instance_id,"
        f" (SELECT i.instance_id FROM {table(Instance, vendor)} i WHERE i.id = a.instance_id),"
        f" a.execution_id, a.task_id, a.name, a.input, a.queue, a.limit_key,"
        f" a.created_at FROM {table(ActivityTask, vendor)} a WHERE a.visible_at <= %s{condition}"
        f" ORDER BY a.priority DESC, a.visible_at, a.id LIMIT %s{lock}",
        [clock.to_database(cursor.db.alias, now), *parameters, limit],
    )


def lease_rows(
    cursor: CursorWrapper, found: Sequence[tuple[Any, ...]], worker: str, lease_until: datetime
) -> list[Leased]:
    """Lease what `ask_rows` has found; orphans among it are deleted."""
    if not found:
        return []
    until = clock.to_database(cursor.db.alias, lease_until)
    leased: list[Leased] = []
    updates: list[tuple[Any, ...]] = []
    orphans: list[int] = []
    for pk, instance, instance_id, *task, queued_at in found:
        if instance_id is None:
            orphans.append(pk)  # Its instance was purged.
            continue
        known = (instance, instance_id, *task, clock.from_orm(queued_at))
        leased.append(Leased(new_token(), *known))
        updates.append((leased[-1].token, until, worker, pk))
    _lease(cursor, updates)
    rows.delete(cursor, ActivityTask, "id", orphans)
    return leased


def _lease(cursor: CursorWrapper, updates: list[tuple[Any, ...]]) -> None:
    if not updates:
        return
    vendor = cursor.db.vendor
    activity = table(ActivityTask, vendor)
    if vendor == "postgresql":
        tokens, untils, workers, keys = zip(*updates, strict=True)
        cursor.execute(
            f"UPDATE {activity} a SET lease_token = v.token, visible_at = %s, worker = %s,"
            f" deliveries = deliveries + 1"
            f" FROM unnest(%s::bigint[], %s::bigint[]) AS v(id, token) WHERE a.id = v.id",
            [untils[0], workers[0], array(keys), array(tokens)],
        )
        return
    cursor.executemany(
        f"UPDATE {activity} SET lease_token = %s, visible_at = %s, worker = %s,"
        f" deliveries = deliveries + 1 WHERE id = %s",
        updates,
    )


def record(cursor: CursorWrapper, tokens: Sequence[int]) -> Callable[[], list[Recorded]]:
    """Delete finished activities by lease token; what is returned gives those that were there.

    A token without a row has been taken over, or its instance has been terminated: that result is nobody's.
    The execution id comes from the row: a rewind may have given the activity to a new execution meanwhile.
    """
    if not tokens:
        return list
    vendor = cursor.db.vendor
    activity = table(ActivityTask, vendor)
    fields = ("lease_token", "instance", "execution_id")
    condition, parameters = any_of(vendor, "lease_token", tokens)
    if vendor == "postgresql":
        # Locked in one order everywhere: whoever terminates an instance locks its activities too.
        deleted = rows.ask(
            cursor,
            f"WITH ours AS (SELECT id FROM {activity} WHERE {condition} ORDER BY id FOR UPDATE)"
            f" DELETE FROM {activity} a USING ours WHERE a.id = ours.id"
            f" RETURNING {columns(ActivityTask, fields, vendor, 'a.')}",
            parameters,
        )
        return lambda: [Recorded(*row) for row in deleted()]
    lock = " FOR UPDATE" if cursor.db.features.has_select_for_update else ""
    cursor.execute(
        f"SELECT id, {columns(ActivityTask, fields, vendor)} FROM {activity}"
        f" WHERE {condition} ORDER BY id{lock}",
        parameters,
    )
    found = cursor.fetchall()
    rows.delete(cursor, ActivityTask, "id", [row[0] for row in found])
    return lambda: [Recorded(*row[1:]) for row in found]


def expect(cursor: CursorWrapper, token: int) -> None:
    """Do what `record` does for one activity, and have the transaction fail if it is not there.

    In a pipeline on PostgreSQL: nothing waits for the answer but the commit.
    """
    activity = table(ActivityTask, cursor.db.vendor)
    rows.ask(
        cursor,
        f"WITH ours AS (DELETE FROM {activity} WHERE lease_token = %s RETURNING id)"
        f" SELECT 1 / count(*) FROM ours",
        [token],
    )


def take_over(using: str, token: int, worker: str, until: datetime) -> Leased | None:
    """Lease an activity anew that was handed over with a token, to whoever begins it; None if it is gone.

    With a token of its own: who comes later with the same one, since a message came twice, gets nothing.
    Neither does who comes after its lease: it is not counted as running any more, and limits would not hold.
    """
    with transaction.atomic(using):
        tasks = ActivityTask.objects.using(using).filter(lease_token=token)
        if connections[using].features.has_select_for_update:
            tasks = tasks.select_for_update()
        task = tasks.first()
        instance = None if task is None else Instance.objects.using(using).filter(pk=task.instance_id).first()
        if task is None or instance is None or clock.from_orm(task.visible_at) <= clock.now():
            return None
        new = new_token()
        # Without a worker it was on its way. With one, whoever has claimed it was quicker than the note that
        # it is handed over, and its claim has counted.
        deliveries = task.deliveries + (task.worker is None)
        ActivityTask.objects.using(using).filter(pk=task.pk).update(
            lease_token=new, visible_at=clock.aware(until), worker=worker, deliveries=deliveries
        )
    return Leased(
        new,
        task.instance_id,
        instance.instance_id,
        task.execution_id,
        task.task_id,
        task.name,
        task.input,
        task.queue,
        task.limit_key,
        clock.from_orm(task.created_at),
        deliveries,
    )


def hand_over(using: str, tokens: Sequence[int]) -> None:
    """Note that leased activities are on their way to an engine.

    They are no worker's any more: the death of the one that has claimed them is nothing to them. Nor are they
    delivered until somebody takes them over, so that those which only wait are not counted.
    """
    _change_leases(using, tokens, "worker = NULL, deliveries = deliveries - 1", [])


def postpone(using: str, token: int, until: datetime) -> None:
    """Give back an activity that was not begun, to be claimed by anybody at some time to come."""
    change = "visible_at = %s, lease_token = NULL, worker = NULL, deliveries = deliveries - 1"
    _change_leases(using, [token], change, [clock.to_database(using, until)])


def renew(using: str, tokens: Sequence[int], until: datetime) -> None:
    """Extend the leases of what this process is running now.

    Rows that somebody holds are passed over: they are about to be recorded, or lost.
    """
    _change_leases(using, tokens, "visible_at = %s", [clock.to_database(using, until)])


def release(using: str, tokens: Sequence[int]) -> None:
    """Give activities back that were not started: anybody may claim them at once, in their old order."""
    _change_leases(
        using,
        tokens,
        "visible_at = created_at, lease_token = NULL, worker = NULL, deliveries = deliveries - 1",
        [],
    )


def release_of(using: str, worker: str) -> None:
    """Give back what a dead worker had leased, instead of waiting for the leases to run out."""
    leased = ActivityTask.objects.using(using).filter(worker=worker, lease_token__isnull=False)
    release(using, [token for token in leased.values_list("lease_token", flat=True) if token is not None])


def _change_leases(using: str, tokens: Sequence[int], change: str, values: list[Any]) -> None:
    for batch in rows.batched(tokens, 500):
        left = _change_free(using, batch, change, values)
        for _ in range(_PASSES):
            if left:
                time.sleep(_PASSING_SECONDS)
                left = _change_free(using, left, change, values)


def _change_free(using: str, tokens: Sequence[int], change: str, values: list[Any]) -> list[int]:
    """Change those leases that nobody holds, and return the others where that is worth another try."""
    vendor = connections[using].vendor
    activity = table(ActivityTask, vendor)
    lock = "" if vendor == "sqlite" else " FOR UPDATE SKIP LOCKED"
    condition, parameters = any_of(vendor, "lease_token", tokens)
    with transaction.atomic(using), connections[using].cursor() as cursor:
        sql = f"SELECT id, lease_token FROM {activity} WHERE {condition} ORDER BY id"
        free = rows.ask(cursor, f"{sql}{lock}", parameters)()
        is_short = vendor == "mysql" and len(free) < len(tokens)
        there = rows.ask(cursor, sql, parameters)() if is_short else free
        if free:
            in_keys, more = any_of(vendor, "id", [key for key, _ in free])
            cursor.execute(f"UPDATE {activity} SET {change} WHERE {in_keys}", [*values, *more])
    return [token for _, token in set(there) - set(free)]
