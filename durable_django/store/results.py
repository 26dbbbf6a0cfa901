"""Results of activities that no turn loop has run: they go into the inbox of whoever waits for them."""

from __future__ import annotations

from django.db import connections, transaction

from durable_django.core.events import TaskCompletedEvent, TaskFailedEvent
from durable_django.models import Instance, InstanceStatus
from durable_django.store import activities, clock, control
from durable_django.store.families import TERMINAL
from durable_django.store.inbox import NewMessage


def add(using: str, token: int, event: TaskCompletedEvent | TaskFailedEvent) -> bool:
    """Record the result of an activity, and tell whether it was still its holder's.

    As in a turn, the activity's row goes with it.
    """
    with transaction.atomic(using), connections[using].cursor() as cursor:
        recorded = activities.record(cursor, [token])()
        if not recorded:
            return False
        row = recorded[0]
        statuses = Instance.objects.using(using).filter(pk=row.instance).values_list("status", flat=True)
        status = statuses.first()
        if status is not None and status not in TERMINAL:
            message = NewMessage(row.instance, event, row.execution_id)
            is_suspended = status == InstanceStatus.SUSPENDED
            control.post(cursor, [message], clock.now(), suspended=is_suspended)
        return True
