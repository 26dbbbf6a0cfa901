"""Tasks of Django's framework as activities of orchestrators."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from durable_django import RetryPolicy, testing
from durable_django.client import DurableTaskClient
from durable_django.contrib.django_tasks import as_activity
from durable_django.core import registry as registries
from durable_django.core.registry import Fault, Registry, get_name
from durable_django.history import TaskScheduledEvent
from tests.contrib import tasks

pytestmark = pytest.mark.django_db


@pytest.fixture
def registry() -> Registry:
    return Registry()


def run(registry: Registry, activity: Any, input: Any = None, **options: Any) -> Any:
    """Let an orchestrator call an activity, and return its result."""

    def caller(ctx: Any, _: Any) -> Any:
        seen = yield ctx.call_activity(activity, input=input, **options)
        tasks.seen.append(("orchestrator", seen))
        return seen

    registry.add_orchestrator(caller)
    instance_id = DurableTaskClient().schedule_new_orchestration("caller")
    testing.drain(registry=registry)
    state = DurableTaskClient().get_orchestration_state(instance_id)
    assert state is not None
    state.raise_if_failed()
    return state.get_output()


@pytest.mark.parametrize(
    ("input", "arguments"),
    [
        (None, ((), {})),
        ({"a": 1, "b": {"c": 2}}, ((), {"a": 1, "b": {"c": 2}})),
        ([1, [2]], ((1, [2]), {})),
        ([], ((), {})),
        ({}, ((), {})),
        ("text", (("text",), {})),
        (0, ((0,), {})),
        (False, ((False,), {})),
    ],
)
@pytest.mark.parametrize("task", [tasks.note, tasks.note_async])
def test_input_is_arguments(
    registry: Registry, seen: list[Any], task: Any, input: Any, arguments: Any
) -> None:
    run(registry, as_activity(task, registry=registry), input)
    assert seen == [arguments, ("orchestrator", None)]


def test_is_registered_under_the_tasks_path(registry: Registry) -> None:
    activity = as_activity(tasks.subtract, registry=registry)
    assert get_name(activity) == "tests.contrib.tasks.subtract"
    assert registry.activities.keys() == {"tests.contrib.tasks.subtract"}
    assert run(registry, "tests.contrib.tasks.subtract", {"minuend": 5, "subtrahend": 3}) == 2


def test_is_registered_app_wide_by_default(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    monkeypatch.setattr(registries, "default_registry", registry)
    as_activity(tasks.subtract)
    assert registry.activities.keys() == {"tests.contrib.tasks.subtract"}


def test_options_are_those_of_an_activity(registry: Registry) -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=3)
    activity = as_activity(
        tasks.fail_twice, name="flaky", queue="slow", priority=5, retry_policy=policy, registry=registry
    )
    assert run(registry, activity) == "at last"
    registered = registry.activities["flaky"]
    assert (registered.queue, registered.priority) == ("slow", 5)


def test_waits_in_the_orchestrations_queue_by_default(registry: Registry) -> None:
    elsewhere = tasks.answer.using(queue_name="elsewhere", priority=9)
    run(registry, as_activity(elsewhere, registry=registry))
    (instance_id,) = [state.instance_id for state in DurableTaskClient().get_all_orchestration_states()]
    history = DurableTaskClient().get_orchestration_history(instance_id)
    (called,) = [event for event in history if isinstance(event, TaskScheduledEvent)]
    assert (called.queue, called.priority) == (None, None)


@pytest.mark.parametrize("task", [tasks.receipt, tasks.receipt_async])
def test_results_are_rebuilt_by_the_functions_annotation(
    registry: Registry, seen: list[Any], task: Any
) -> None:
    run(registry, as_activity(task, registry=registry), 7)
    assert seen == [("orchestrator", tasks.Receipt(7))]


@pytest.mark.parametrize("task", [tasks.note, tasks.note_async])
def test_async_ones_run_on_the_event_loop(registry: Registry, task: Any) -> None:
    as_activity(task, registry=registry)
    assert registry.activities[task.module_path].is_async == (task is tasks.note_async)


def test_failures_are_the_functions(registry: Registry) -> None:
    with pytest.raises(Exception, match="This task failed"):
        run(registry, as_activity(tasks.fail, registry=registry))


def test_twice_is_the_same(registry: Registry) -> None:
    first = as_activity(tasks.answer, queue="slow", registry=registry)
    assert as_activity(tasks.answer, queue="slow", registry=registry) is first
    assert registry.problems == ()


def test_twice_with_other_options_is_a_fault(registry: Registry) -> None:
    as_activity(tasks.answer, registry=registry)
    as_activity(tasks.answer, queue="slow", registry=registry)
    assert [problem.fault for problem in registry.problems] == [Fault.DUPLICATE_NAME]


def test_takes_no_context(registry: Registry) -> None:
    with pytest.raises(TypeError, match="takes a context"):
        as_activity(tasks.tell_context, registry=registry)


@pytest.mark.parametrize("given", [None, "tests.contrib.tasks.note", tasks.note.func])
def test_takes_nothing_but_tasks(given: Any) -> None:
    with pytest.raises(TypeError, match="takes a task"):
        as_activity(given)


def test_bad_options(registry: Registry) -> None:
    with pytest.raises(TypeError, match="priority"):
        as_activity(tasks.note, priority="high", registry=registry)  # type: ignore[arg-type]
    assert not registry.activities
