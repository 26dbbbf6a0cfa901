"""Giving up: the end of an instance whose turns cannot even be written."""

from __future__ import annotations

import json

from django.db import connections, transaction

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.models import Instance, InstanceStatus
from durable_django.store import clock, families, inbox, instances, operations, wakeup
from durable_django.store.families import TERMINAL
from durable_django.store.inbox import NewMessage


def give_up(using: str, key: int, tries: int, failure: FailureDetails) -> None:
    """Fail an instance that has been tried more than ``tries`` times, and tell its parent.

    At that number its turn was to fail it, and could not: something is wrong with its rows. It gets no event
    in its history, which may be what cannot be written.
    """
    with transaction.atomic(using):
        instance = next(iter(families.lock(using, [key])), None)
        if instance is None or instance.status in TERMINAL or instance.tries <= tries:
            return
        now = clock.now()
        instance.status = InstanceStatus.FAILED
        instance.failure = json.dumps(failure.to_dict())
        instance.waiting_for = []
        instance.completed_at = instance.last_updated_at = clock.aware(now)
        fields = ["status", "failure", "waiting_for", "completed_at", "last_updated_at"]
        instance.save(using=using, update_fields=fields)
        with connections[using].cursor() as cursor:
            instances.delete_work(cursor, [key])
            locks = operations.of_open_sections(cursor, {key: instance.execution_id})
            operations.add(cursor, locks, now)
            inbox.add(cursor, _answers(using, instance, failure), now)
        wakeup.announce_work(using)
        wakeup.announce_changes(using, [instance.instance_id])


def _answers(using: str, instance: Instance, failure: FailureDetails) -> list[NewMessage]:
    if instance.parent_id is None or instance.parent_task_id is None:
        return []
    waiting = Instance.objects.using(using).filter(pk=instance.parent_id).exclude(status__in=TERMINAL)
    if not waiting.exists():
        return []
    event = events.SubOrchestrationInstanceFailedEvent(-1, clock.now(), instance.parent_task_id, failure)
    return [NewMessage(instance.parent_id, event, instance.parent_execution_id)]
