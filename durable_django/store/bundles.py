"""Bundles: what a turn leases to its own worker at once, in one row instead of one for each activity.

A busy worker leases hundreds of short activities with every batch, and their rows would be gone a moment
later. Their bundle's row takes their place until all have ended. What a crash must not break: the worker may
die with some of them recorded, others run but not recorded, others not begun. The bundle says which
activities it has, the history which of these have a result; a result that no history gets strikes its
activity out of the bundle. `dissolve` gives all others the rows that they would have had, with the same
leases, and deletes the bundle: from then on it is as if there had never been one.

Whoever needs the rows does that: a worker that gives activities back, or has had a bundle for a second, or
does not know whether its last commit has come about; a rewind; the end of an execution whose history will go;
who buries a dead worker; and the sweep, of bundles whose leases are over.

There is a row or a bundle for an activity, never both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import QuerySet

from durable_django.core.events import (
    ExecutionTerminatedEvent,
    TaskCompletedEvent,
    TaskFailedEvent,
    TaskScheduledEvent,
)
from durable_django.models import ActivityBundle, ActivityTask, Instance
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import activities, clock, pipeline, rows
from durable_django.store.activities import Leased, NewActivity, Recorded
from durable_django.store.rows import any_of, table

LEAST = 32
"""From how many activities on a bundle is worth it: to dissolve one has its price."""

_FIELDS = ("token", "worker", "tasks", "created_at", "visible_at")
_EVENT_FIELDS = (
    "instance_id",
    "execution_id",
    "turn",
    "timestamp",
    "kind",
    "task_id",
    "name",
    "data",
    "attributes",
)
_SCHEDULED = rows.kind_of(TaskScheduledEvent)
_TERMINATED = rows.kind_of(ExecutionTerminatedEvent)
_KINDS = (_SCHEDULED, rows.kind_of(TaskCompletedEvent), rows.kind_of(TaskFailedEvent), _TERMINATED)


class Call(NamedTuple):
    """Activities that one turn of an instance has called: their task ids, None for those struck out."""

    instance: int
    execution_id: str
    turn: int
    task_ids: list[int | None]


def add(
    cursor: CursorWrapper, calls: Sequence[Call], now: datetime, *, worker: str, lease_until: datetime
) -> int:
    """Lease activities to ``worker``, and return the bundle's token.

    It is the token of the first one, too; the others' are the numbers that follow.
    """
    using = cursor.db.alias
    token = activities.new_token() >> 1  # Half of all numbers lie above it.
    present, until = clock.to_database(using, now), clock.to_database(using, lease_until)
    rows.insert(cursor, ActivityBundle, _FIELDS, [(token, worker, json.dumps(calls), present, until)])
    return token


def record(cursor: CursorWrapper, finished: Sequence[Leased], emptied: Collection[int]) -> Sequence[Recorded]:
    """Return those of these activities, leased in bundles, that are still their holder's.

    ``emptied`` are the bundles that have no others left. Of a bundle that is gone, the activities' rows are
    asked as `activities.record` does.
    """
    there = _lock(cursor, sorted({leased.bundle for leased in finished if leased.bundle is not None}))
    rows.delete(cursor, ActivityBundle, "token", [token for token in emptied if token in there])
    found = [
        Recorded(leased.token, leased.instance, leased.execution_id, leased.task_id)
        for leased in finished
        if leased.bundle in there
    ]
    gone = [leased.token for leased in finished if leased.bundle not in there]
    return found + activities.record(cursor, gone)()


def strike(cursor: CursorWrapper, finished: Sequence[Leased]) -> None:
    """Strike activities out of their bundles, which `record` has locked: no history gets their results.

    These have gone into an inbox, or nobody waits for them. Either way they are not to be run again.
    """
    struck: defaultdict[int, set[int]] = defaultdict(set)
    for leased in finished:
        if leased.bundle is not None:
            struck[leased.bundle].add(leased.token)
    if not struck:
        return
    vendor = cursor.db.vendor
    bundle = table(ActivityBundle, vendor)
    condition, parameters = any_of(vendor, "token", sorted(struck))
    found = rows.ask(cursor, f"SELECT token, tasks FROM {bundle} WHERE {condition}", parameters)
    for token, tasks in found():
        left, place = [], count(token)
        for call in _calls(tasks):
            task_ids = [None if next(place) in struck[token] else task_id for task_id in call.task_ids]
            left.append(call._replace(task_ids=task_ids))
        cursor.execute(f"UPDATE {bundle} SET tasks = %s WHERE token = %s", [json.dumps(left), token])


def _lock(cursor: CursorWrapper, tokens: Sequence[int]) -> set[int]:
    """Lock bundles, and return which of them there are: others dissolve them only after this transaction."""
    vendor = cursor.db.vendor
    condition, parameters = any_of(vendor, "token", tokens)
    lock = "" if vendor == "sqlite" else " FOR UPDATE"
    cursor.execute(
        f"SELECT token FROM {table(ActivityBundle, vendor)} WHERE {condition} ORDER BY token{lock}",
        parameters,
    )
    return {token for (token,) in cursor.fetchall()}


def dissolve(using: str, tokens: Sequence[int]) -> None:
    """Give what has no result of these bundles rows of its own, under the same leases; delete the bundles."""
    for token in sorted(tokens):
        with transaction.atomic(using), connections[using].cursor() as cursor:
            if not _lock(cursor, [token]):
                continue
            # Read by statements that begin after the lock: until then, its holder records results.
            bundle = ActivityBundle.objects.using(using).get(token=token)
            activities.add(
                cursor,
                list(_unrecorded(using, bundle)),
                clock.from_orm(bundle.created_at),
                worker=bundle.worker,
                lease_until=clock.from_orm(bundle.visible_at),
            )
            rows.delete(cursor, ActivityBundle, "token", [token])


def dissolve_of_worker(using: str, worker: str) -> None:
    """Dissolve all bundles of a worker."""
    _dissolve_all(using, worker=worker)


def dissolve_of_executions(cursor: CursorWrapper, execution_ids: AbstractSet[str]) -> None:
    """Dissolve the bundles that have activities of any of these executions."""
    if not execution_ids:
        return
    using = cursor.db.alias
    pipeline.leave(using)
    bundles = _bundles(using).values_list("token", "tasks")
    dissolve(using, [token for token, tasks in bundles if not execution_ids.isdisjoint(_executions(tasks))])


def sweep(using: str) -> None:
    """Dissolve bundles whose leases are over: anybody may have their activities."""
    _dissolve_all(using, visible_at__lte=clock.aware(clock.now()))


def activities_of(using: str, instance: Instance) -> list[ActivityTask]:
    """Return the activities of an instance that are in bundles, as the rows that `dissolve` would give them.

    Without inputs, and not saved: for people to look at.
    """
    return [
        ActivityTask(
            instance=instance,
            execution_id=activity.execution_id,
            task_id=activity.task_id,
            name=activity.name,
            queue=activity.queue,
            deliveries=1,
            lease_token=activity.token,
            worker=bundle.worker,
            created_at=bundle.created_at,
            visible_at=bundle.visible_at,
        )
        for bundle in _bundles(using)
        if instance.execution_id in _executions(bundle.tasks)
        for activity in _unrecorded(using, bundle)
        if activity.execution_id == instance.execution_id
    ]


def _dissolve_all(using: str, **conditions: Any) -> None:
    dissolve(using, list(_bundles(using).filter(**conditions).values_list("token", flat=True)))


def _bundles(using: str) -> QuerySet[ActivityBundle]:
    return ActivityBundle.objects.using(using).order_by("token")


def _calls(tasks: str) -> list[Call]:
    return [Call(*call) for call in json.loads(tasks)]


def _executions(tasks: str) -> set[str]:
    return {call.execution_id for call in _calls(tasks)}


def _unrecorded(using: str, bundle: ActivityBundle) -> Iterator[NewActivity]:
    """Yield the activities of a bundle that are without a result, with their leases' tokens."""
    calls = _calls(bundle.tasks)
    instances = Instance.objects.using(using).in_bulk({call.instance for call in calls})
    attempts = _open_attempts(using, calls)
    tokens = count(bundle.token)
    for call in calls:
        for task_id in call.task_ids:
            token = next(tokens)
            turn, event = attempts.get((call.instance, call.execution_id, task_id), (None, None))
            if event is not None and turn == call.turn and call.instance in instances:
                new = NewActivity.called(instances[call.instance], event, token)
                yield new._replace(execution_id=call.execution_id)  # The instance may have started over.


_Task = tuple[int, str, int | None]


def _open_attempts(using: str, calls: Sequence[Call]) -> dict[_Task, tuple[int, TaskScheduledEvent]]:
    """Return what these executions have scheduled and not heard of: the turn, and the event.

    A retry keeps its task id, but not the turn in which it was scheduled. Whoever terminates an execution
    drops what it has called.
    """
    history = HistoryRow.objects.using(using).filter(
        instance__in={call.instance for call in calls},
        execution_id__in={call.execution_id for call in calls},
        turn__gte=min(call.turn for call in calls),
        kind__in=_KINDS,
    )
    attempts: dict[_Task, tuple[int, TaskScheduledEvent]] = {}
    terminated: set[str] = set()
    fields = (
        "instance_id",
        "execution_id",
        "turn",
        "kind",
        "task_id",
        "timestamp",
        "name",
        "data",
        "attributes",
    )
    for instance, execution_id, turn, kind, task_id, timestamp, *columns in history.order_by(
        "instance", "sequence"
    ).values_list(*fields):
        task = (instance, execution_id, task_id)
        if kind == _SCHEDULED:
            event = rows.event_from_columns(clock.from_orm(timestamp), kind, task_id, *columns)
            assert isinstance(event, TaskScheduledEvent)
            attempts[task] = turn, event
        elif kind == _TERMINATED:
            terminated.add(execution_id)
        else:
            attempts.pop(task, None)
    return {task: attempt for task, attempt in attempts.items() if task[1] not in terminated}
