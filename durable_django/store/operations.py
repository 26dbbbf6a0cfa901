"""Entity operations: what is sent to entities, by name and key. An insert alone: it waits for nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.core import events
from durable_django.core.entity import EntityInstanceId, Signal
from durable_django.models import EntityOperation, EntityOperationKind
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import clock, histories, rows, wakeup
from durable_django.store.rows import any_of, columns, table

FIELDS = (
    "name",
    "key",
    "kind",
    "operation",
    "input",
    "instance",
    "execution_id",
    "task_id",
    "request",
    "lock_set",
    "position",
    "created_at",
    "visible_at",
)

AT_ONCE = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC
"""When what is sent without a time is to be performed: earlier than any clock, whatever the sender's says."""

Address = tuple[str, str]
"""An entity's name and key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperation:
    """Something to put into an entity's inbox, to be taken in at ``due`` (naive UTC) or at once."""

    target: EntityInstanceId
    kind: int
    operation: str | None = None
    input: str | None = None
    instance: int | None = None
    execution_id: str | None = None
    task_id: int | None = None
    request: str | None = None
    lock_set: Sequence[str] = ()
    position: int = 0
    due: datetime | None = None


def add(cursor: CursorWrapper, new: Sequence[NewOperation], now: datetime) -> None:
    """Put operations into inboxes, in this order."""
    using = cursor.db.alias
    present, at_once = clock.to_database(using, now), clock.to_database(using, AT_ONCE)
    rows.insert(
        cursor,
        EntityOperation,
        FIELDS,
        [
            (
                operation.target.entity,
                operation.target.key,
                operation.kind,
                operation.operation,
                operation.input,
                operation.instance,
                operation.execution_id,
                operation.task_id,
                operation.request,
                json.dumps(list(operation.lock_set)) if operation.lock_set else None,
                operation.position,
                present,
                at_once
                if operation.due is None or operation.due <= now
                else clock.to_database(using, operation.due),
            )
            for operation in new
        ],
    )


def send(using: str, new: Sequence[NewOperation]) -> None:
    """Put operations into inboxes in the caller's transaction, and wake workers when it is committed."""
    with transaction.atomic(using), connections[using].cursor() as cursor:
        add(cursor, new, clock.now())
        wakeup.announce_work(using)


def signal(sent: Signal, instance: int | None = None) -> NewOperation:
    """Return a signal; ``instance`` is its sender's key, if that is an orchestration."""
    return NewOperation(
        target=sent.target,
        kind=EntityOperationKind.SIGNAL.value,
        operation=sent.operation,
        input=sent.payload,
        instance=instance,
        due=sent.due,
    )


def of_event(event: events.HistoryEvent, instance: int, execution_id: str) -> NewOperation | None:
    """Return what a decision of an execution sends to an entity, if it sends something."""
    sender: dict[str, Any] = {"instance": instance, "execution_id": execution_id, "task_id": event.event_id}
    match event:
        case events.EntityOperationCalledEvent():
            return NewOperation(
                target=EntityInstanceId.parse(event.target_instance_id or ""),
                kind=EntityOperationKind.CALL.value,
                operation=event.operation,
                input=event.input,
                **sender,
            )
        case events.EntityOperationSignaledEvent():
            target = EntityInstanceId.parse(event.target_instance_id or "")
            return signal(Signal(target, event.operation, event.input, event.scheduled_time), instance)
        case events.EntityLockRequestedEvent():
            return NewOperation(
                target=EntityInstanceId.parse(event.lock_set[0]),
                kind=EntityOperationKind.LOCK.value,
                request=event.critical_section_id,
                lock_set=event.lock_set,
                **sender,
            )
        case events.EntityUnlockSentEvent():
            return release(event.target_instance_id or "", event.critical_section_id, instance, execution_id)
    return None


def release(entity_id: str, request: str, instance: int, execution_id: str) -> NewOperation:
    """Return the release of one lock: without effect where it is not held, or by somebody else."""
    return NewOperation(
        target=EntityInstanceId.parse(entity_id),
        kind=EntityOperationKind.RELEASE.value,
        instance=instance,
        execution_id=execution_id,
        request=request,
    )


def of_open_sections(cursor: CursorWrapper, executions: Mapping[int, str]) -> list[NewOperation]:
    """Return the releases of all locks that these executions have requested and not released.

    ``executions`` maps instances to execution ids. Granted or not: the request may be on its way.
    """
    if not executions:
        return []
    vendor = cursor.db.vendor
    kinds = [
        histories.kind_of(events.EntityLockRequestedEvent),
        histories.kind_of(events.EntityUnlockSentEvent),
    ]
    of_instance, keys = any_of(vendor, "instance_id", sorted(executions))
    of_execution, ids = any_of(vendor, "execution_id", sorted(executions.values()))
    of_kind, numbers = any_of(vendor, "kind", kinds)
    fields = ("instance", "execution_id", "kind", "task_id", "name", "data", "attributes")
    cursor.execute(
        f"SELECT {columns(HistoryRow, fields, vendor)} FROM {table(HistoryRow, vendor)}"
        f" WHERE {of_instance} AND {of_execution} AND {of_kind} ORDER BY instance_id, sequence",
        [*keys, *ids, *numbers],
    )
    open_locks: dict[tuple[int, str, str], str] = {}
    for instance, execution_id, *stored in cursor.fetchall():
        event = histories.event_from_columns(clock.now(), *stored)
        if isinstance(event, events.EntityLockRequestedEvent):
            for entity_id in event.lock_set:
                open_locks[instance, event.critical_section_id, entity_id] = execution_id
        elif isinstance(event, events.EntityUnlockSentEvent):
            open_locks.pop((instance, event.critical_section_id, event.target_instance_id or ""), None)
    return [
        release(entity_id, request, instance, execution_id)
        for (instance, request, entity_id), execution_id in open_locks.items()
    ]
