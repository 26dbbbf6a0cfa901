"""Rows that give every page something to show."""

from __future__ import annotations

import json
from datetime import timedelta

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.models import Entity, Instance, InstanceStatus, Worker
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

STACK = 'Traceback (most recent call last):\n  File "shop/payments.py", line 41, in charge\n    raise Refused'
FAILURE = FailureDetails("the card was refused", "shop.payments.Refused", STACK)


def make_rows() -> None:
    """Make an instance of each status, an entity and two workers."""
    present = clock.aware(clock.now())
    for status in InstanceStatus:
        make_instance(status)
    running = Instance.objects.get(instance_id="running")
    factories.make_child(running, "running-child-with-a-very-long-id-that-does-not-fit-anywhere" * 3, 4)
    factories.make_timer(running, 3)
    factories.make_activity(running, 2, name="pack_parcel", lease_token=1, visible_at=present)
    Entity.objects.create(
        name="stock",
        key="7",
        state=json.dumps({"left": 3}),
        lock_instance=running,
        last_modified_at=present,
    )
    for number, silent in enumerate((0, 3600)):
        Worker.objects.create(
            identity=str(number),
            name=f"press-{number}",
            host="here",
            pid=number,
            started_at=present,
            last_heartbeat_at=clock.aware(clock.now()) - timedelta(seconds=silent),
        )


def make_instance(status: InstanceStatus) -> None:
    """Make an instance that has something of everything."""
    has_failed, has_completed = status == InstanceStatus.FAILED, status == InstanceStatus.COMPLETED
    is_live = status in (InstanceStatus.RUNNING, InstanceStatus.SUSPENDED)
    instance = factories.make_instance(
        status.name.lower(),
        status,
        input=json.dumps({"customer": "Ada", "note": "x" * 500}),
        output=json.dumps({"sum": 12}) if has_completed else None,
        custom_status=json.dumps("packing"),
        tags={"customer": "Ada"},
        waiting_for=["approval"] if is_live else [],
        failure=json.dumps(FAILURE.to_dict()) if has_failed else None,
        completed_at=None if is_live or status == InstanceStatus.PENDING else clock.aware(clock.now()),
    )
    if status == InstanceStatus.PENDING:
        return
    soon, later = NOW + timedelta(seconds=5), NOW + timedelta(seconds=20)
    factories.add_history(
        instance,
        events.TaskScheduledEvent(1, NOW, "charge_card", input="1"),
        events.TaskCompletedEvent(-1, later, 1, "2", started_at=soon, finished_at=later),
        events.TaskScheduledEvent(2, NOW, "pack_parcel"),
        events.TimerCreatedEvent(3, NOW, later),
        events.SubOrchestrationInstanceCreatedEvent(4, NOW, "deliver", "deliver"),
        events.EventRaisedEvent(-1, later, "approval", json.dumps({"by": "Grace"})),
    )
    if has_failed:
        factories.add_history(instance, events.TaskFailedEvent(-1, later, 2, FAILURE))
        factories.fail(instance, failed_by=[instance.next_sequence - 1])
