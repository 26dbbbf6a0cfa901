"""Monitoring: what people who watch over orchestrations ask for. No locks; datetimes are naive UTC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import reduce
from operator import attrgetter, or_
from statistics import median
from typing import Any

from django.conf import settings as django_settings
from django.db import connections
from django.db.models import BooleanField, Count, F, Min, Q, QuerySet, TextField, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Greatest, Left, TruncHour
from django.db.models.lookups import Exact

from durable_django.conf import settings
from durable_django.core.events import HistoryEvent, TaskCompletedEvent, TaskFailedEvent, TaskScheduledEvent
from durable_django.models import (
    ActivityTask,
    EntityOperation,
    EntityOperationKind,
    Instance,
    InstanceStatus,
    Timer,
    Worker,
)
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import bundles, clock, families, histories, rows

_LATELY = 2000
"""How many events, of what has ended and of what is running each, tell how long activities take."""

_LATELY_INSTANCES = 200
"""Of how many instances these are at most."""

_MOST = 1000
"""How many of one sort of things that an instance waits for are listed."""


_MOST_EQUALS = 5
"""How many equals signs of a tag that people ask for are taken for the end of its key."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A history event, with its place."""

    sequence: int
    turn: int
    event: HistoryEvent


@dataclass(frozen=True, slots=True)
class PendingActivity:
    """An activity without a result; ``attempt`` counts retries, from 1, ``deliveries`` those of this one."""

    task_id: int
    name: str
    queue: str
    attempt: int
    deliveries: int
    worker: str | None
    lease_expires_at: datetime | None
    created_at: datetime

    @property
    def is_leased(self) -> bool:
        """Whether a worker has it."""
        return self.lease_expires_at is not None


@dataclass(frozen=True, slots=True)
class Attempts:
    """The activities of one execution that have ended, in order, and the one that a worker has now.

    That one is told by its worker, and when it was queued. Results have no payload here.
    """

    ended: list[TaskCompletedEvent | TaskFailedEvent]
    running: tuple[str | None, datetime] | None


@dataclass(frozen=True, slots=True)
class PendingTimer:
    """A timer that has not fired."""

    task_id: int
    fire_at: datetime


@dataclass(frozen=True, slots=True)
class PendingChild:
    """A sub-orchestration that has not ended."""

    task_id: int | None
    instance_id: str
    name: str
    status: InstanceStatus


@dataclass(frozen=True, slots=True)
class PendingCall:
    """An operation that waits for its entity; a lock request has no ``operation``."""

    task_id: int | None
    entity: str
    kind: EntityOperationKind
    operation: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """What an instance waits for."""

    activities: list[PendingActivity]
    timers: list[PendingTimer]
    events: list[str]
    children: list[PendingChild]
    entity_calls: list[PendingCall]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits for a worker now, and since when the oldest does."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Backlogs:
    """The backlogs of each sort of work."""

    pending: Backlog
    activities: Backlog
    entity_operations: Backlog
    timers_due: Backlog


@dataclass(frozen=True, slots=True)
class ActivityTimes:
    """How long activities of one name took, without their time in the queue."""

    name: str
    count: int
    median: timedelta
    longest: timedelta


class WorkerState(StrEnum):
    """How a worker process is."""

    ALIVE = "alive"
    """It has shown so lately, and works."""
    DRAINING = "draining"
    """It has been told to take on nothing new; what it runs, if it has noticed, ends."""
    DRAINED = "drained"
    """Nothing of that is left."""
    SILENT = "silent"
    """It has not shown for `LEASE_SECONDS` that it is alive: it is about to be taken for dead."""


def history(
    using: str,
    instance: int,
    execution_id: str,
    *,
    after: int = -1,
    limit: int | None = None,
    classes: Collection[type[HistoryEvent]] | None = None,
    task_id: int | None = None,
    longest: int | None = None,
) -> list[Recorded]:
    """Return the events of one execution that come after a sequence number, ``limit`` at most.

    Of these ``classes`` and this task alone, if they are given; of each payload, the first ``longest``
    characters.
    """
    query = HistoryRow.objects.using(using).filter(
        instance_id=instance, execution_id=execution_id, sequence__gt=after
    )
    if classes is not None:
        query = query.filter(kind__in=[histories.kind_of(cls) for cls in classes])
    if task_id is not None:
        query = query.filter(task_id=task_id)
    data = F("data") if longest is None else Left("data", longest) if longest else Value(None, TextField())
    fields = ("sequence", "turn", "timestamp", "kind", "task_id", "name", data, "attributes")
    return [
        Recorded(sequence, turn, histories.event_from_columns(clock.from_orm(timestamp), *columns))
        for sequence, turn, timestamp, *columns in query.order_by("sequence").values_list(*fields)[:limit]
    ]


def attempts(using: str, instance_id: str, *, with_running: bool) -> Attempts:
    """Return an instance's activities that have ended and, if asked for, the first one that is being run."""
    # First what runs, then what has ended, so that what ends in between is not missed.
    running = _running(using, instance_id) if with_running else None
    query = HistoryRow.objects.using(using).filter(
        instance__instance_id=instance_id,
        execution_id=F("instance__execution_id"),
        kind__in=[histories.kind_of(TaskCompletedEvent), histories.kind_of(TaskFailedEvent)],
    )
    fields = ("timestamp", "kind", "task_id", "name", Value(None, TextField()), "attributes")
    ended: list[TaskCompletedEvent | TaskFailedEvent] = []
    for timestamp, *columns in query.order_by("sequence").values_list(*fields):
        event = histories.event_from_columns(clock.from_orm(timestamp), *columns)
        if isinstance(event, TaskCompletedEvent | TaskFailedEvent):
            ended.append(event)
    if running is None or any(event.task_scheduled_id == running[0] for event in ended):
        return Attempts(ended, None)
    return Attempts(ended, running[1:])


def _running(using: str, instance_id: str) -> tuple[int, str | None, datetime] | None:
    leased = ActivityTask.objects.using(using).filter(
        instance__instance_id=instance_id,
        execution_id=F("instance__execution_id"),
        lease_token__isnull=False,
        visible_at__gt=clock.aware(clock.now()),
    )
    found = leased.order_by("pk").values_list("task_id", "worker", "created_at").first()
    return None if found is None else (*found[:2], clock.from_orm(found[2]))


def pending(using: str, instance: Instance, visible: QuerySet[Instance] | None = None) -> Pending:
    """Return what an instance waits for now, the oldest first, up to a thousand of each sort.

    Of its children, those among the ``visible`` ones; None is all.
    """
    children = Instance.objects.using(using) if visible is None else visible
    if instance.status in families.TERMINAL:
        return Pending([], [], [], [], [])
    return Pending(
        _activities(using, instance),
        [
            PendingTimer(task_id, clock.from_orm(fire_at))
            for task_id, fire_at in Timer.objects.using(using)
            .filter(instance=instance, execution_id=instance.execution_id)
            .order_by("fire_at")
            .values_list("task_id", "fire_at")[:_MOST]
        ],
        list(instance.waiting_for),
        [
            PendingChild(task_id, instance_id, name, InstanceStatus(status))
            for task_id, instance_id, name, status in children.filter(
                parent=instance, parent_execution_id=instance.execution_id
            )
            .exclude(status__in=families.TERMINAL)
            .order_by("pk")
            .values_list("parent_task_id", "instance_id", "name", "status")[:_MOST]
        ],
        [
            PendingCall(task_id, f"@{name}@{key}", EntityOperationKind(kind), operation)
            for task_id, name, key, kind, operation in EntityOperation.objects.using(using)
            .filter(instance=instance, execution_id=instance.execution_id)
            .filter(kind__in=[EntityOperationKind.CALL, EntityOperationKind.LOCK])
            .order_by("pk")
            .values_list("task_id", "name", "key", "kind", "operation")[:_MOST]
        ],
    )


def tagged(using: str, key: str, value: str) -> Any:
    """Return the condition that an instance has a tag."""
    connection = connections[using]
    if connection.features.supports_json_field_contains:
        return Q(tags__contains={key: value})  # There may be an index for it.
    # Django's own lookup would take a key of digits for a place in an array.
    column = f"{rows.table(Instance, connection.vendor)}.{rows.column(Instance, 'tags', connection.vendor)}"
    sql = f"EXISTS (SELECT 1 FROM json_each({column}) WHERE key = %s AND value = %s)"
    return RawSQL(sql, (key, value), output_field=BooleanField())  # noqa: S611 - values are parameters


def tagged_as(using: str, text: str) -> Any:
    """Return the condition that an instance has a tag that reads so, as ``key=value``: there is a `=` in it.

    A key may have equals signs itself, so that each of the first ones may be the one that ends it.
    """
    pieces = text.split("=", _MOST_EQUALS)
    conditions = [
        Q(tagged(using, "=".join(pieces[:place]), "=".join(pieces[place:])))
        for place in range(1, len(pieces))
    ]
    return reduce(or_, conditions)


def starting(using: str, field: str, prefix: str) -> Q:
    """Return the condition that a field begins so, in exactly this case."""
    condition = Q(**{f"{field}__startswith": prefix})
    if connections[using].vendor == "sqlite":  # Its LIKE does not tell A from a.
        condition &= Q(Exact(Left(field, len(prefix)), prefix))
    return condition


def counts(query: QuerySet[Instance]) -> list[tuple[str, InstanceStatus, int]]:
    """Return how many instances there are of each name in each status."""
    found = query.order_by("name", "status").values_list("name", "status").annotate(count=Count("pk"))
    return [(name, InstanceStatus(status), count) for name, status, count in found]


def live_counts(using: str) -> dict[InstanceStatus, int]:
    """Return how many instances there are in each status that is no end."""
    live = [status for status in InstanceStatus if status not in families.TERMINAL]
    query = Instance.objects.using(using).filter(status__in=live)
    found = dict(query.order_by("status").values_list("status").annotate(count=Count("pk")))
    return {status: found.get(status.value, 0) for status in live}


def ended_by_hour(using: str, hours: int) -> list[tuple[datetime, int, int]]:
    """Return when each of the last hours began, how many instances ended in it, and how many failed."""
    present = clock.now()
    last = present.replace(minute=0, second=0, microsecond=0)
    begins = [last - timedelta(hours=number) for number in reversed(range(hours))]
    totals, failures = Counter[datetime](), Counter[datetime]()
    query = Instance.objects.using(using).filter(completed_at__gte=clock.aware(begins[0]))
    hour = TruncHour("completed_at", tzinfo=UTC if django_settings.USE_TZ else None)
    grouped = query.order_by().values_list(hour, "status").annotate(count=Count("pk"))
    for began, status, count in grouped:
        # Without time zones in the database its hours are local ones, some of which begin at half past.
        begin = clock.from_orm(began).replace(minute=0)
        totals[begin] += count
        if status == InstanceStatus.FAILED:
            failures[begin] += count
    return [(begin, totals[begin], failures[begin]) for begin in begins]


def longest_activities(using: str, limit: int) -> list[tuple[str, str, int, datetime]]:
    """Return the activities that workers have had for longest: name, instance id, instance, since when."""
    running = ActivityTask.objects.using(using).filter(lease_token__isnull=False)
    found = running.order_by("created_at").values_list(
        "name", "instance__instance_id", "instance_id", "created_at"
    )
    return [(name, instance_id, key, clock.from_orm(at)) for name, instance_id, key, at in found[:limit]]


def slowest_activities(using: str, limit: int) -> list[ActivityTimes]:
    """Return the names whose activities took longest, by the median.

    They are those that were scheduled and have ended among the latest events of the instances that have ended
    last and of the running ones that are newest: an activity's end does not know its name, and to look each
    one up would read long histories whole.
    """
    names: dict[tuple[int, str, int], str] = {}
    seconds: dict[str, list[float]] = {}
    for instance, execution_id, timestamp, *columns in _latest_events(using):
        event = histories.event_from_columns(clock.from_orm(timestamp), *columns)
        if isinstance(event, TaskScheduledEvent):
            names[instance, execution_id, event.event_id] = event.name
        elif isinstance(event, TaskCompletedEvent | TaskFailedEvent):
            name = names.get((instance, execution_id, event.task_scheduled_id))
            if name is not None and event.started_at is not None and event.finished_at is not None:
                took = (event.finished_at - event.started_at).total_seconds()
                seconds.setdefault(name, []).append(max(took, 0.0))
    all_times = [
        ActivityTimes(name, len(times), timedelta(seconds=median(times)), timedelta(seconds=max(times)))
        for name, times in seconds.items()
    ]
    return sorted(all_times, key=attrgetter("median"), reverse=True)[:limit]


def backlogs(using: str) -> Backlogs:
    """Return what could be done now, had a worker the time."""
    present = clock.aware(clock.now())
    return Backlogs(
        _backlog(
            Instance.objects.using(using).filter(status=InstanceStatus.PENDING, start_at__lte=present),
            "start_at",
        ),
        _backlog(ActivityTask.objects.using(using).filter(visible_at__lte=present), "visible_at"),
        _backlog(
            EntityOperation.objects.using(using).filter(visible_at__lte=present),
            Greatest("created_at", "visible_at"),
        ),
        _backlog(Timer.objects.using(using).filter(fire_at__lte=present), "fire_at"),
    )


def workers(using: str) -> list[tuple[Worker, WorkerState]]:
    """Return the worker processes, the first to start first, each with how it is."""
    return [
        (worker, worker_state(worker)) for worker in Worker.objects.using(using).order_by("started_at", "pk")
    ]


def worker_state(worker: Worker) -> WorkerState:
    """Return how a worker process is, by its row."""
    silence = clock.now() - clock.from_orm(worker.last_heartbeat_at)
    if silence > timedelta(seconds=settings.LEASE_SECONDS):
        return WorkerState.SILENT
    if worker.draining_since is None:
        return WorkerState.ALIVE
    return WorkerState.DRAINING if worker.drained_at is None else WorkerState.DRAINED


def _activities(using: str, instance: Instance) -> list[PendingActivity]:
    query = ActivityTask.objects.using(using).filter(instance=instance, execution_id=instance.execution_id)
    in_rows = list(query.defer("input", "tags").order_by("pk")[:_MOST])
    found = (bundles.activities_of(using, instance) + in_rows)[:_MOST]
    attempts = _attempts(using, instance, [activity.task_id for activity in found])
    return [
        PendingActivity(
            activity.task_id,
            activity.name,
            activity.queue,
            attempts.get(activity.task_id, 1),
            activity.deliveries,
            activity.worker,
            None if activity.lease_token is None else clock.from_orm(activity.visible_at),
            clock.from_orm(activity.created_at),
        )
        for activity in found
    ]


def _attempts(using: str, instance: Instance, task_ids: Sequence[int]) -> dict[int, int]:
    """Return how often each task was scheduled: a retry keeps its number."""
    if not task_ids:
        return {}
    scheduled = HistoryRow.objects.using(using).filter(
        instance=instance,
        execution_id=instance.execution_id,
        kind=histories.kind_of(TaskScheduledEvent),
        task_id__in=task_ids,
    )
    found: dict[Any, int] = dict(
        scheduled.order_by("task_id").values_list("task_id").annotate(count=Count("sequence"))
    )
    return found


def _latest_events(using: str) -> Iterator[tuple[Any, ...]]:
    """Yield the columns of events, without their data, in the order of each execution's history."""
    instances = Instance.objects.using(using)
    ended = instances.filter(completed_at__isnull=False).order_by("-completed_at", "-pk")
    running = instances.filter(status=InstanceStatus.RUNNING).order_by("-created_at", "-pk")
    no_data = Value(None, TextField())
    fields = ("instance", "execution_id", "timestamp", "kind", "task_id", "name", no_data, "attributes")
    for query in (ended, running):
        for condition in _latest_parts(query):
            found = HistoryRow.objects.using(using).filter(
                condition, execution_id=F("instance__execution_id")
            )
            yield from found.order_by("instance", "execution_id", "sequence").values_list(*fields)


def _latest_parts(instances: QuerySet[Instance]) -> Iterator[Q]:
    """Yield which histories to read whole, and of which one, that is too long, the end."""
    left, whole = _LATELY, []
    for key, length in instances.values_list("pk", "next_sequence")[:_LATELY_INSTANCES]:
        if length > left:
            yield Q(instance=key, sequence__gte=length - left)
            break
        whole.append(key)
        left -= length
    yield Q(instance__in=whole)


def _backlog(query: QuerySet[Any], since: str | Greatest) -> Backlog:
    found = query.aggregate(count=Count("pk"), oldest=Min(since))
    oldest = found["oldest"]
    return Backlog(found["count"], None if oldest is None else clock.from_orm(oldest))
