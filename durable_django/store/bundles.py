"""Bundles: what a turn leases to its own worker at once, in one row instead of one for each activity.

A busy worker leases hundreds of short activities with every batch, and their rows would be gone a moment
later. Their bundle's row takes their place until all have ended. What a crash must not break: the worker may
die with some of them recorded, others run but not recorded, others not begun. The bundle says which
activities it has, the history which of these have a result; a result that no history gets strikes its
activity out of the bundle. `dissolve` gives all others the rows that they would have had, with the same
leases, and deletes the bundle: from then on it is as if there had never been one.

Whoever needs the rows does that: a worker that gives activities back, or has had a bundle for a second, or
does not know whether its last commit has come about; who rewinds, restarts or terminates an instance; who
buries a dead worker; and the sweep, of bundles whose leases are over. For as long as a bundle has activities
of an execution, its history stays.

There is a row or a bundle for an activity, never both. A turn that records results has their bundles locked
while code of users runs, perhaps for long. Therefore nobody waits for a bundle but those who have locked its
instances, in ascending order, and its worker in doubt.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Max, QuerySet

from durable_django.core.events import TaskCompletedEvent, TaskFailedEvent, TaskScheduledEvent
from durable_django.models import ActivityBundle, ActivityTask, Instance
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import activities, clock, histories, rows
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
_SCHEDULED = histories.kind_of(TaskScheduledEvent)
_RESULTS = (histories.kind_of(TaskCompletedEvent), histories.kind_of(TaskFailedEvent))


class Call(NamedTuple):
    """Activities that one turn of an instance has called: their task ids, None for those struck out."""

    instance: int
    execution_id: str
    turn: int
    task_ids: list[int | None]


def new_token() -> int:
    """Return a token for a bundle.

    It is the token of the first of its activities, too; the others' are the numbers that follow.
    """
    return activities.new_token() >> 1  # Half of all numbers lie above it.


def written(calls: Sequence[Call]) -> str:
    """Return calls as a bundle has them."""
    return json.dumps(calls)


def add(
    cursor: CursorWrapper, token: int, tasks: str, now: datetime, *, worker: str, lease_until: datetime
) -> None:
    """Lease activities to ``worker``; ``tasks`` are their calls as `written`, ``token`` the first one's."""
    using = cursor.db.alias
    present, until = clock.to_database(using, now), clock.to_database(using, lease_until)
    rows.insert(cursor, ActivityBundle, _FIELDS, [(token, worker, tasks, present, until)])


def record(
    cursor: CursorWrapper, finished: Sequence[Leased], emptied: Collection[int]
) -> Sequence[Leased | Recorded]:
    """Return those of these activities, leased in bundles, that are still their holder's.

    ``emptied`` are the bundles that have no others left. Of a bundle that is gone, the activities' rows are
    asked as `activities.record` does.
    """
    there = _lock(cursor, sorted({leased.bundle for leased in finished if leased.bundle is not None}))
    rows.delete(cursor, ActivityBundle, "token", [token for token in emptied if token in there])
    found = [leased for leased in finished if leased.bundle in there]
    gone = [leased.token for leased in finished if leased.bundle not in there]
    return [*found, *activities.record(cursor, gone)()]


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
        cursor.execute(f"UPDATE {bundle} SET tasks = %s WHERE token = %s", [written(left), token])


def _lock(cursor: CursorWrapper, tokens: Sequence[int], *, wait: bool = True) -> set[int]:
    """Lock bundles, and return which of them there are: others dissolve them only after this transaction."""
    vendor = cursor.db.vendor
    condition, parameters = any_of(vendor, "token", tokens)
    lock = "" if vendor == "sqlite" else f" FOR UPDATE{'' if wait else ' SKIP LOCKED'}"
    cursor.execute(
        f"SELECT token FROM {table(ActivityBundle, vendor)} WHERE {condition} ORDER BY token{lock}",
        parameters,
    )
    return {token for (token,) in cursor.fetchall()}


def dissolve(
    using: str, tokens: Iterable[int], *, wait: bool = False, lease_until: datetime | None = None
) -> list[int]:
    """Give what has no result of these bundles rows of its own, under the same leases; delete the bundles.

    Returned are those that somebody has locked, unless ``wait``. ``lease_until`` is for the holder, whose
    leases have been good for as long as it was held up.
    """
    return [token for token in sorted(tokens) if not _dissolve(using, token, wait, lease_until)]


def _dissolve(using: str, token: int, wait: bool, lease_until: datetime | None) -> bool:
    with transaction.atomic(using), connections[using].cursor() as cursor:
        if not _lock(cursor, [token], wait=wait):
            return not _bundles(using).filter(token=token).exists()
        # Read by statements that begin after the lock: until then, its holder records results.
        bundle = _bundles(using).get(token=token)
        until = clock.from_orm(bundle.visible_at)
        activities.add(
            cursor,
            list(_unrecorded(using, bundle)),
            clock.from_orm(bundle.created_at),
            worker=bundle.worker,
            lease_until=until if lease_until is None else max(until, lease_until),
        )
        rows.delete(cursor, ActivityBundle, "token", [token])
        return True


def dissolve_of_worker(
    using: str, worker: str, *, wait: bool = False, lease_until: datetime | None = None
) -> bool:
    """Dissolve all bundles of a worker, and tell whether none was locked."""
    found = _bundles(using).filter(worker=worker)
    return not dissolve(using, _tokens(found), wait=wait, lease_until=lease_until)


def dissolve_of_executions(using: str, execution_ids: Collection[str]) -> None:
    """Dissolve the bundles that have activities of any of these executions. The caller has locked these."""
    wanted = set(execution_ids)
    found = _bundles(using).values_list("token", "tasks")
    dissolve(using, [token for token, tasks in found if not wanted.isdisjoint(_executions(tasks))], wait=True)


def sweep(using: str) -> None:
    """Dissolve bundles whose leases are over: anybody may have their activities."""
    dissolve(using, _tokens(_bundles(using).filter(visible_at__lte=clock.aware(clock.now()))))


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


def _tokens(found: QuerySet[ActivityBundle]) -> list[int]:
    return list(found.values_list("token", flat=True))


def _bundles(using: str) -> QuerySet[ActivityBundle]:
    return ActivityBundle.objects.using(using).order_by("token")


def _calls(tasks: str) -> list[Call]:
    return [Call(*call) for call in json.loads(tasks)]


def _executions(tasks: str) -> set[str]:
    return {call.execution_id for call in _calls(tasks)}


def _unrecorded(using: str, bundle: ActivityBundle) -> Iterator[NewActivity]:
    """Yield the activities of a bundle that are without a result, with their leases' tokens.

    A retry keeps its task id, but not the turn in which it is scheduled: a result belongs to what was
    scheduled in an earlier turn.
    """
    calls = _calls(bundle.tasks)
    instances = Instance.objects.using(using).in_bulk({call.instance for call in calls})
    results, scheduled = _results(using, calls), _scheduled(using, calls)
    tokens = count(bundle.token)
    for call in calls:
        for task_id in call.task_ids:
            token = next(tokens)
            task = (call.instance, call.execution_id, task_id)
            event = scheduled.get((*task, call.turn))
            if event is not None and results.get(task, 0) <= call.turn and call.instance in instances:
                new = NewActivity.called(instances[call.instance], event, token)
                yield new._replace(execution_id=call.execution_id)  # The instance may have started over.


def _history(using: str, calls: Sequence[Call]) -> QuerySet[HistoryRow]:
    return HistoryRow.objects.using(using).filter(
        instance__in={call.instance for call in calls}, execution_id__in={call.execution_id for call in calls}
    )


def _results(using: str, calls: Sequence[Call]) -> dict[Any, int]:
    """Return the turns of the last results of these instances' tasks: by instance, execution and task."""
    after = _history(using, calls).filter(kind__in=_RESULTS, turn__gt=min(call.turn for call in calls))
    found = after.order_by().values_list("instance_id", "execution_id", "task_id")
    return {tuple(task): turn for *task, turn in found.annotate(last=Max("turn"))}


def _scheduled(using: str, calls: Sequence[Call]) -> dict[Any, TaskScheduledEvent]:
    """Return what these turns have scheduled: by instance, execution, task and turn."""
    turns = {call.turn for call in calls}
    found = _history(using, calls).filter(kind=_SCHEDULED, turn__in=turns).values_list(*_EVENT_FIELDS)
    scheduled: dict[Any, TaskScheduledEvent] = {}
    for instance, execution_id, turn, timestamp, kind, task_id, *columns in found:
        event = histories.event_from_columns(clock.from_orm(timestamp), kind, task_id, *columns)
        assert isinstance(event, TaskScheduledEvent)
        scheduled[instance, execution_id, task_id, turn] = event
    return scheduled
