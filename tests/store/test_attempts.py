"""What monitoring tells of the activities of an instance: those that ended, and the one that runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from durable_django.core import events
from durable_django.models import Instance
from durable_django.store import clock, monitoring
from tests import factories

pytestmark = pytest.mark.django_db

SOON, LATELY = timedelta(minutes=1), timedelta(minutes=-1)


def lease(instance: Instance, task_id: int, until: timedelta = SOON, **fields: Any) -> None:
    visible_at = clock.aware(clock.now() + until)
    factories.make_activity(
        instance, task_id, lease_token=task_id, worker="somebody", visible_at=visible_at, **fields
    )


def attempts(instance: Instance, **options: bool) -> tuple[list[int], tuple[str | None, Any] | None]:
    found = monitoring.attempts("default", instance.instance_id, **{"with_running": True, **options})
    return [event.task_scheduled_id for event in found.ended], found.running


def test_in_order() -> None:
    instance = factories.make_instance()
    factories.make_instance("another")
    failed = events.TaskFailedEvent(-1, factories.NOW, 1, factories.FAILURE)
    factories.add_history(instance, failed, events.TimerFiredEvent(-1, factories.NOW, factories.NOW, 2))
    factories.add_history(instance, events.TaskCompletedEvent(-1, factories.NOW, 3, '"a long result"'))

    found = monitoring.attempts("default", "flow", with_running=True)

    assert [type(event) for event in found.ended] == [events.TaskFailedEvent, events.TaskCompletedEvent]
    assert found.ended[0] == failed
    assert found.running is None
    assert attempts(Instance.objects.get(instance_id="another")) == ([], None)


def test_one_that_runs() -> None:
    instance = factories.make_instance()
    lease(instance, 1)
    assert attempts(instance) == ([], ("somebody", factories.NOW))
    assert attempts(instance, with_running=False) == ([], None)


def test_one_that_waits_does_not_run() -> None:
    instance = factories.make_instance()
    factories.make_activity(instance, 1)
    assert attempts(instance) == ([], None)


def test_one_whose_worker_is_silent_does_not_run() -> None:
    instance = factories.make_instance()
    lease(instance, 1, LATELY)
    assert attempts(instance) == ([], None)


def test_one_that_ended_meanwhile_is_told_once() -> None:
    instance = factories.make_instance()
    lease(instance, 1)
    factories.add_history(instance, events.TaskFailedEvent(-1, factories.NOW, 1, factories.FAILURE))
    assert attempts(instance) == ([1], None)


def test_of_the_current_execution_alone() -> None:
    instance = factories.make_instance()
    lease(instance, 1, execution_id="former")
    factories.add_history(instance, events.TaskFailedEvent(-1, factories.NOW, 1, factories.FAILURE))
    Instance.objects.update(execution_id="present")
    assert attempts(instance) == ([], None)
