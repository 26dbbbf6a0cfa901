"""Control: what operators do to an instance, under its row lock, without any worker.

Every step leaves an event in the history, so that ``next_sequence`` moves: a worker that has the execution in
memory notices, and reads its history again. What is refused leaves the caller's transaction usable.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.core import events
from durable_django.core.errors import (
    FailureDetails,
    OrchestrationStateConflictError,
)
from durable_django.core.events import HistoryEvent
from durable_django.core.ids import new_execution_id, new_instance_id
from durable_django.core.registry import default_registry
from durable_django.core.status import OrchestrationStatus
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.models import Instance, InstanceStatus, Message, MessageKind
from durable_django.signals import orchestration_terminated
from durable_django.store import (
    bundles,
    clock,
    families,
    histories,
    inbox,
    instances,
    operations,
    rows,
    wakeup,
)
from durable_django.store.families import TERMINAL
from durable_django.store.histories import Appended
from durable_django.store.inbox import NewMessage
from durable_django.store.instances import NewInstance
from durable_django.store.subjects import Subject

_TERMINATED_FIELDS = (
    "status",
    "output",
    "waiting_for",
    "completed_at",
    "last_updated_at",
    "next_sequence",
    "turn",
)
_PAGE = 200


def raise_event(using: str, instance_id: str, name: str, data: str | None) -> None:
    """Put an external event into an instance's inbox, without a lock: a worker may hold the row for long.

    A terminal instance takes none, and the event is dropped.

    Raises:
        OrchestrationNotFoundError: There is no such instance.
    """
    found = Instance.objects.using(using).values_list("pk", "status").filter(instance_id=instance_id).first()
    if found is None:
        families.raise_not_found(instance_id)
    key, status = found
    if status in TERMINAL:
        return
    now = clock.now()
    event = events.EventRaisedEvent(-1, now, name, data)
    with connections[using].cursor() as cursor:
        post(cursor, [NewMessage(key, event)], now, suspended=status == InstanceStatus.SUSPENDED)


def terminate(
    using: str, instance_id: str, output: str | None = None, *, recursive: bool = True
) -> list[Instance]:
    """End an instance, and what it has started if ``recursive``, and return whom that has ended.

    Nothing happens to what is missing or terminal; a terminal child's own children are reached all the same.
    """
    with transaction.atomic(using):
        if recursive:
            family = families.lock_family(using, instance_id, families.of_execution)
        else:
            one = families.lock_one(using, instance_id)
            family = [] if one is None else [one]
        if not family or family[0].status in TERMINAL:
            return []
        return _end_live(using, family, output, recursive=recursive)


def terminate_all(using: str, locked: Sequence[Instance]) -> None:
    """End instances that are locked, and what they have started, as `terminate` does each, but all at once.

    Nothing happens to those that are terminal, nor to what these have started.
    """
    live = [instance for instance in locked if instance.status not in TERMINAL]
    if live:
        with transaction.atomic(using):
            started = families.lock_descendants(using, live, families.of_execution)
            _end_live(using, [*live, *started], None, recursive=True)


def suspend(using: str, instance_id: str) -> None:
    """Make an instance take in nothing until it is resumed; nothing happens to a suspended or terminal one.

    Raises:
        OrchestrationNotFoundError: There is no such instance.
    """
    with transaction.atomic(using):
        instance = families.lock_one_or_raise(using, instance_id)
        if instance.status in TERMINAL or instance.status == InstanceStatus.SUSPENDED:
            return
        families.refuse_moving(using, [instance], "suspended")
        with connections[using].cursor() as cursor:
            now = present(instance)
            record(cursor, [(instance, events.ExecutionSuspendedEvent(-1, now))])
        instance.status = InstanceStatus.SUSPENDED
        instance.save(using=using, update_fields=["status", "last_updated_at", "next_sequence", "turn"])
        Message.objects.using(using).filter(instance=instance).update(held=True)


def resume(using: str, instance_id: str) -> None:
    """Let a suspended instance go on where it stood; nothing happens to one that is not suspended.

    Raises:
        OrchestrationNotFoundError: There is no such instance.
    """
    with transaction.atomic(using):
        instance = families.lock_one_or_raise(using, instance_id)
        if instance.status != InstanceStatus.SUSPENDED:
            return
        with connections[using].cursor() as cursor:
            now = present(instance)
            record(cursor, [(instance, events.ExecutionResumedEvent(-1, now))])
        instance.status = InstanceStatus.RUNNING if _has_started(using, instance) else InstanceStatus.PENDING
        instance.save(using=using, update_fields=["status", "last_updated_at", "next_sequence", "turn"])
        Message.objects.using(using).filter(instance=instance).update(held=False)
        wakeup.announce_work(using)


def restart(using: str, instance_id: str, *, with_new_id: bool = False) -> str:
    """Start a terminal instance from the beginning, with its last input, and return its id.

    Under the same id it is a new execution; the history of the former ones stays.

    Raises:
        OrchestrationNotFoundError: There is no such instance.
        OrchestrationStateConflictError: It is not terminal.
    """
    with transaction.atomic(using):
        instance = families.lock_one_or_raise(using, instance_id)
        if instance.status not in TERMINAL:
            raise_conflict(instance, "restarted", "COMPLETED, FAILED or TERMINATED")
        now = clock.now()
        with connections[using].cursor() as cursor:
            if with_new_id:
                new = _copy(instance, now)
                instances.add(cursor, [new], now)
                instance_id = new.instance_id
            else:
                bundles.dissolve_of_executions(using, [instance.execution_id])
                instances.delete_work(cursor, [instance.pk])
                _start_over(using, instance, now)
        wakeup.announce_work(using)
        return instance_id


def purge(using: str, instance_id: str, *, recursive: bool = True) -> int:
    """Delete a terminal instance, and its terminal descendants if ``recursive``; return how many that were.

    A live child is left alone, and so are its own children.
    """
    with transaction.atomic(using):
        if not recursive:
            one = families.lock_one(using, instance_id)
            family = [] if one is None else [one]
        else:
            family = families.lock_family(using, instance_id, _is_terminal_pair)
        if not family or family[0].status not in TERMINAL:
            return 0
        keys = [instance.pk for instance in family if instance.status in TERMINAL]
        with connections[using].cursor() as cursor:
            instances.delete(cursor, keys)
        return len(keys)


def purge_by(
    using: str,
    *,
    created_from: datetime | None = None,
    created_to: datetime | None = None,
    statuses: Sequence[OrchestrationStatus] | None = None,
    recursive: bool = False,
) -> int:
    """Delete the terminal instances created in ``[created_from, created_to)``, naive UTC; return how many.

    Each page is a transaction of its own, unless the caller has one.
    """
    wanted = TERMINAL if statuses is None else TERMINAL & {status.value for status in statuses}
    query = Instance.objects.using(using).filter(status__in=sorted(wanted)).order_by("created_at", "pk")
    if created_from is not None:
        query = query.filter(created_at__gte=clock.aware(created_from))
    if created_to is not None:
        query = query.filter(created_at__lt=clock.aware(created_to))
    count = 0
    # What is found is deleted by us or has been by somebody else: the next page begins where this one did.
    while page := list(query.values_list("pk", "instance_id")[:_PAGE]):
        if recursive:
            count += sum(purge(using, name) for _, name in page)
        else:
            count += _purge_page(using, [key for key, _ in page])
    return count


# ------------------------------------------------------------------------------------- shared


def present(instance: Instance) -> datetime:
    """Return the time of an instance's next history row, naive UTC: its clock never goes back."""
    return max(clock.now(), clock.from_orm(instance.last_updated_at))


def record(cursor: CursorWrapper, happened: Sequence[tuple[Instance, HistoryEvent]]) -> None:
    """Append an event to each instance's history, in a turn of its own, and move the instances' counters.

    The caller saves the instances: ``last_updated_at``, ``next_sequence`` and ``turn``.
    """
    appended = []
    for instance, event in happened:
        instance.turn += 1
        instance.last_updated_at = clock.aware(event.timestamp)
        at = clock.to_database(cursor.db.alias, event.timestamp)
        where = (instance.pk, instance.execution_id, instance.next_sequence)
        appended.append(Appended(*where, at, instance.turn, [event]))
        instance.next_sequence += 1
    histories.insert(cursor, appended)


def raise_conflict(instance: Instance, what: str, needed: str) -> NoReturn:
    """Raise the error that says that an instance's status rules ``what`` out."""
    status = OrchestrationStatus(instance.status)
    raise OrchestrationStateConflictError(
        f"Orchestration instance {instance.instance_id!r} cannot be {what}: it is {status}, not {needed}."
    )


# ------------------------------------------------------------------------------------- messages


def post(cursor: CursorWrapper, messages: Sequence[NewMessage], now: datetime, *, suspended: bool) -> None:
    """Insert messages for instances that were suspended a moment ago, or were not.

    They are never born held: a resume that commits at the same moment would not see them, and nobody would
    release them any more. What is not held is only looked at in vain.
    """
    using = cursor.db.alias
    inbox.add(cursor, messages, now)
    if suspended:
        keys = {message.instance for message in messages}
        wakeup.after_commit(using, lambda: _hold(using, keys))
    wakeup.announce_work(using)


def _hold(using: str, keys: set[int]) -> None:
    """Mark the messages of instances that are still suspended as held."""
    skip_locked = connections[using].features.has_select_for_update_skip_locked
    with transaction.atomic(using):
        suspended = Instance.objects.using(using).select_for_update(skip_locked=skip_locked)
        still = suspended.filter(pk__in=keys, status=InstanceStatus.SUSPENDED).order_by("pk")
        held = list(still.values_list("pk", flat=True))
        Message.objects.using(using).filter(instance_id__in=held, held=False).update(held=True)


def _has_started(using: str, instance: Instance) -> bool:
    """Tell whether the current execution has begun, or its start is a message: then it was not pending."""
    history = HistoryRow.objects.using(using).filter(
        instance=instance,
        execution_id=instance.execution_id,
        kind=histories.kind_of(events.ExecutionStartedEvent),
    )
    starts = Message.objects.using(using).filter(instance=instance, kind=MessageKind.START)
    return history.exists() or starts.exists()


# ------------------------------------------------------------------------------------- terminate


def _end_live(
    using: str, family: Sequence[Instance], output: str | None, *, recursive: bool
) -> list[Instance]:
    """End those that are live among instances that are locked, and return them."""
    live = [instance for instance in family if instance.status not in TERMINAL]
    families.refuse_moving(using, live, "terminated")
    with connections[using].cursor() as cursor:
        for some in rows.batched(live, instances.BATCH_ROWS):
            _terminate(cursor, some, output, recursive=recursive)
        _tell_parents(cursor, live)
    wakeup.announce_changes(using, [instance.instance_id for instance in live])
    transaction.on_commit(lambda: _signal(using, live), using=using, robust=True)
    return live


def _terminate(
    cursor: CursorWrapper, live: Sequence[Instance], output: str | None, *, recursive: bool
) -> None:
    using = cursor.db.alias
    ended = []
    for instance in live:
        now = present(instance)
        instance.status = InstanceStatus.TERMINATED
        instance.completed_at = clock.aware(now)
        ended.append((instance, events.ExecutionTerminatedEvent(-1, now, output, recursive)))
    record(cursor, ended)
    rows.update(cursor, Instance, _TERMINATED_FIELDS, [_ended(using, *end, output) for end in ended])
    bundles.dissolve_of_executions(using, [instance.execution_id for instance in live])
    instances.delete_work(cursor, [instance.pk for instance in live])
    held = operations.of_open_sections(cursor, {instance.pk: instance.execution_id for instance in live})
    operations.add(cursor, held, clock.now())
    if held:
        wakeup.announce_work(using)


def _ended(using: str, instance: Instance, event: HistoryEvent, output: str | None) -> tuple[Any, ...]:
    at = clock.to_database(using, event.timestamp)
    return (instance.status, output, "[]", at, at, instance.next_sequence, instance.turn, instance.pk)


def _signal(using: str, ended: Sequence[Instance]) -> None:
    for instance in ended:
        known = default_registry.orchestrators.get(instance.name)
        orchestration_terminated.send_robust(
            sender=known and known.fn,
            name=instance.name,
            instance_id=instance.instance_id,
            execution_id=instance.execution_id,
            using=using,
        )


def _tell_parents(cursor: CursorWrapper, ended: Sequence[Instance]) -> None:
    """Fail the tasks of the parents that have not been ended themselves."""
    using = cursor.db.alias
    keys = {instance.pk for instance in ended}
    parents = {child.parent_id for child in ended if child.parent_id is not None} - keys
    statuses: dict[int, int] = {}
    for some in rows.batched(sorted(parents), instances.BATCH_ROWS):
        waiting = Instance.objects.using(using).filter(pk__in=some).exclude(status__in=TERMINAL)
        statuses.update(waiting.values_list("pk", "status"))
    now = clock.now()
    told: dict[bool, list[NewMessage]] = {}
    for child in ended:
        if child.parent_id is not None and child.parent_id in statuses and child.parent_task_id is not None:
            is_suspended = statuses[child.parent_id] == InstanceStatus.SUSPENDED
            event = _termination_of(child, child.parent_task_id, now)
            message = NewMessage(child.parent_id, event, child.parent_execution_id)
            told.setdefault(is_suspended, []).append(message)
    for is_suspended, messages in told.items():
        post(cursor, messages, now, suspended=is_suspended)


def _termination_of(child: Instance, task_id: int, now: datetime) -> HistoryEvent:
    failure = FailureDetails(
        f"Sub-orchestration {child.instance_id!r} was terminated", "OrchestrationTerminated"
    )
    return events.SubOrchestrationInstanceFailedEvent(-1, now, task_id, failure)


# ------------------------------------------------------------------------------------- restart


def _copy(instance: Instance, now: datetime) -> NewInstance:
    return NewInstance(
        instance_id=new_instance_id(),
        execution_id=new_execution_id(),
        name=instance.name,
        version=instance.version,
        queue=instance.queue,
        priority=instance.priority,
        input=instance.input,
        tags=instance.tags,
        subject=Subject.kept_by(instance),
        start_at=now,
    )


def _start_over(using: str, instance: Instance, now: datetime) -> None:
    Instance.objects.using(using).filter(pk=instance.pk).update(
        execution_id=new_execution_id(),
        status=InstanceStatus.PENDING,
        output=None,
        custom_status=None,
        failure=None,
        waiting_for=[],
        parent=None,
        parent_execution_id=None,
        parent_task_id=None,
        start_at=clock.aware(now),
        created_at=clock.aware(now),
        last_updated_at=clock.aware(now),
        completed_at=None,
        next_sequence=0,
        turn=0,
        tries=0,
    )


# ------------------------------------------------------------------------------------- purge


def _is_terminal_pair(parent: Instance, child: Instance) -> bool:
    return parent.status in TERMINAL and child.status in TERMINAL


def _purge_page(using: str, keys: Sequence[int]) -> int:
    with transaction.atomic(using):
        terminal = [instance.pk for instance in families.lock(using, keys) if instance.status in TERMINAL]
        with connections[using].cursor() as cursor:
            instances.delete(cursor, terminal)
        return len(terminal)
