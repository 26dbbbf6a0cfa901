"""Rows as workers leave them, for tests that need no worker."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.core.events import HistoryEvent
from durable_django.core.ids import new_execution_id
from durable_django.models import ActivityTask, Instance, InstanceStatus, Message, MessageKind, Timer, Worker
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import clock, histories

NOW = datetime(2026, 1, 2, 3, 4, 5)
FAILURE = FailureDetails("it broke", "builtins.ValueError")
TERMINAL = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)


def make_instance(
    instance_id: str = "flow", status: InstanceStatus = InstanceStatus.RUNNING, **fields: Any
) -> Instance:
    """Insert an instance; one that is not pending has begun."""
    present = clock.aware(fields.pop("at", NOW))
    is_terminal = status in TERMINAL
    defaults: dict[str, Any] = {
        "execution_id": new_execution_id(),
        "name": "flow",
        "queue": "default",
        "start_at": present,
        "created_at": present,
        "last_updated_at": present,
        "completed_at": present if is_terminal else None,
        "failure": json.dumps(FAILURE.to_dict()) if status == InstanceStatus.FAILED else None,
    }
    instance = Instance.objects.create(instance_id=instance_id, status=status, **(defaults | fields))
    if status != InstanceStatus.PENDING:
        add_history(instance, events.ExecutionStartedEvent(-1, NOW, instance.name, input=instance.input))
    return instance


def make_child(
    parent: Instance,
    instance_id: str,
    task_id: int,
    status: InstanceStatus = InstanceStatus.RUNNING,
    **fields: Any,
) -> Instance:
    """Insert an instance that ``parent`` has started as its task ``task_id``."""
    return make_instance(
        instance_id,
        status,
        parent=parent,
        parent_execution_id=parent.execution_id,
        parent_task_id=task_id,
        **fields,
    )


def add_history(instance: Instance, *happened: HistoryEvent) -> None:
    """Append a turn to an instance's history."""
    instance.refresh_from_db()
    instance.turn += 1
    for event in happened:
        event.timestamp = max(event.timestamp, NOW)
        kind, task_id, name, data, attributes = histories.event_columns(event)
        HistoryRow.objects.create(
            instance=instance,
            execution_id=instance.execution_id,
            sequence=instance.next_sequence,
            timestamp=clock.aware(event.timestamp),
            turn=instance.turn,
            kind=kind,
            task_id=task_id,
            name=name,
            data=data,
            attributes=attributes,
        )
        instance.next_sequence += 1
    instance.save()


def fail(instance: Instance, failed_by: list[int] | None = None, undo_from: int | None = None) -> None:
    """End an instance by a failure."""
    end = events.ExecutionCompletedEvent(
        -1,
        NOW,
        InstanceStatus.FAILED.value,
        failure_details=FAILURE,
        failed_by=failed_by,
        undo_from=undo_from,
    )
    add_history(instance, end)
    instance.status = InstanceStatus.FAILED
    instance.failure = json.dumps(FAILURE.to_dict())
    instance.completed_at = clock.aware(NOW)
    instance.save()


def make_activity(instance: Instance, task_id: int, **fields: Any) -> ActivityTask:
    """Insert an activity that has no result yet."""
    defaults: dict[str, Any] = {
        "execution_id": instance.execution_id,
        "name": "act",
        "queue": "default",
        "created_at": clock.aware(NOW),
        "visible_at": clock.aware(NOW),
    }
    return ActivityTask.objects.create(instance=instance, task_id=task_id, **(defaults | fields))


def make_timer(instance: Instance, task_id: int, fire_at: datetime = NOW + timedelta(hours=1)) -> Timer:
    """Insert a timer that has not fired."""
    return Timer.objects.create(
        instance=instance, execution_id=instance.execution_id, task_id=task_id, fire_at=clock.aware(fire_at)
    )


def make_message(instance: Instance, kind: MessageKind = MessageKind.EVENT, **fields: Any) -> Message:
    """Insert a message; a result is for the current execution."""
    if kind != MessageKind.EVENT:
        fields.setdefault("execution_id", instance.execution_id)
    return Message.objects.create(instance=instance, kind=kind, visible_at=clock.aware(NOW), **fields)


def make_worker(name: str, silent: float = 0.0, **fields: Any) -> Worker:
    """Insert a worker process that was last seen ``silent`` seconds ago."""
    at = clock.aware(clock.now() - timedelta(seconds=silent))
    defaults: dict[str, Any] = {"name": name, "host": "here", "pid": 1, "queues": ["a"]}
    return Worker.objects.create(identity=name, started_at=at, last_heartbeat_at=at, **(defaults | fields))


def history_of(instance: Instance) -> list[HistoryEvent]:
    """Return the current execution's history, and check that its sequence has no gap."""
    instance.refresh_from_db()
    stored = HistoryRow.objects.filter(instance=instance, execution_id=instance.execution_id)
    sequences = list(stored.order_by("sequence").values_list("sequence", flat=True))
    assert sequences == list(range(instance.next_sequence))
    return histories.read(connection.alias, instance.pk, instance.execution_id)
