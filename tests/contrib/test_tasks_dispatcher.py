"""Activities that a backend of Django's Tasks framework runs."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from django.db import connections

from durable_django import task as durable
from durable_django.checks import check_dispatchers
from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.conf import queue_limits
from durable_django.contrib.django_tasks import framework
from durable_django.core import events, registry
from durable_django.core.registry import Registry
from durable_django.models import ActivityTask
from durable_django.worker import DurableTaskWorker
from durable_django.worker.dispatch import dispatchers
from tests.contrib import tasks
from tests.contrib.conftest import PATH

pytestmark = pytest.mark.django_db(transaction=True)

DISPATCHER = "durable_django.contrib.django_tasks.TasksDispatcher"
MODULE = "django.tasks" if framework.Task.__module__.startswith("django.tasks") else "django_tasks"
IMMEDIATE = f"{MODULE}.backends.immediate.ImmediateBackend"
ECHO = "tests.contrib.tasks.echo"
_HANDED = "durable_django.contrib.django_tasks.handed"

Steps = Generator[durable.Task[Any], Any, Any]


def double(ctx: durable.ActivityContext, number: int) -> int:
    return 2 * number


def fan(ctx: durable.OrchestrationContext, numbers: list[int]) -> Steps:
    return (yield durable.when_all([ctx.call_activity(double, input=n, queue="far") for n in numbers]))


def call_task(ctx: durable.OrchestrationContext, value: Any) -> Steps:
    return (yield ctx.call_activity(ECHO, input=value))


def configured(settings: Any, **options: Any) -> None:
    settings.TASKS = {
        "default": {"BACKEND": PATH, "QUEUES": ["none"]},
        "engine": {"BACKEND": IMMEDIATE, "QUEUES": ["work"]},
    }
    given = {"backend": "engine", "queue_name": "work"} | options
    settings.DURABLE_DJANGO = {"DISPATCHERS": {"far": {"BACKEND": DISPATCHER, "OPTIONS": given}}}


@pytest.fixture(autouse=True)
def _fresh(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    configured(settings, tasks=[ECHO])
    sys.modules.pop(_HANDED, None)
    known = Registry()
    for orchestrator in (fan, call_task):
        known.add_orchestrator(orchestrator)
    known.add_activity(double)
    for dispatcher in dispatchers().values():
        for registration in dispatcher.activities():
            known.declare(registration)
    monkeypatch.setattr(registry, "default_registry", known)
    monkeypatch.setattr("durable_django.worker.remote.default_registry", known)
    yield
    sys.modules.pop(_HANDED, None)
    queue_limits.cache_clear()


@pytest.fixture
def worker() -> Iterator[DurableTaskWorker]:
    with DurableTaskWorker(registry=registry.default_registry, poll_interval=0.1) as started:
        started.start()
        yield started
    connections.close_all()


def run(name: str, given: Any) -> Any:
    client = DurableTaskClient()
    instance_id = client.schedule_new_orchestration(name, input=given)
    state = client.wait_for_orchestration_completion(instance_id, timeout=30)
    assert state is not None
    assert state.runtime_status is OrchestrationStatus.COMPLETED, state.failure_details
    history = client.get_orchestration_history(instance_id)
    for event in history:
        if isinstance(event, events.TaskCompletedEvent):
            assert str(event.worker).startswith("django-tasks@")
    assert not ActivityTask.objects.exists()
    return state.get_output()


def test_its_workers_run_the_queues_activities(worker: DurableTaskWorker) -> None:
    assert run("fan", [1, 2, 3]) == [2, 4, 6]


def test_its_tasks_are_called_by_their_paths(worker: DurableTaskWorker) -> None:
    assert run("call_task", ["hello"]) == "hello"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "nobody"}, "['backend']: "),
        ({"backend": "default", "queue_name": "none"}, "['backend'] must be another engine"),
        ({"queue_name": "other"}, "['queue_name'] must be one of the backend's (work), not 'other'"),
        ({"tasks": ECHO}, "['tasks']: must be a list of dotted paths"),
        ({"tasks": ["tests.contrib.tasks.nothing"]}, "['tasks']: "),
        ({"tasks": ["tests.contrib.tasks.seen"]}, "['tasks']: as_activity() takes a task"),
        ({"retries": 3}, " has the unknown key 'retries'"),
        ({"lease_seconds": -1}, "['lease_seconds'] must be a positive number"),
    ],
)
def test_wrong_options_are_named(settings: Any, options: dict[str, Any], words: str) -> None:
    configured(settings, **options)
    found = [message.msg for message in check_dispatchers()]
    assert len(found) == 1
    assert words in found[0]


def test_right_options_are_not(settings: Any) -> None:
    configured(settings, tasks=[ECHO], lease_seconds=60, batch=10)
    assert check_dispatchers() == []
    assert tasks.seen == []
