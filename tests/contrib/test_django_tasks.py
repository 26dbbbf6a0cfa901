"""The backend: what Django's documentation promises of one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import django
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from durable_django import testing
from durable_django.client import DurableTaskClient
from durable_django.contrib.django_tasks import DurableBackend, framework
from durable_django.contrib.django_tasks.framework import (
    InvalidTask,
    InvalidTaskBackend,
    TaskContext,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
)
from durable_django.core.errors import PayloadError, TaskCancelledError
from durable_django.core.registry import Registry
from durable_django.models import ActivityTask, HistoryEvent, Instance
from durable_django.store import clock as store_clock
from durable_django.task import NonDeterminismError
from tests.contrib import tasks
from tests.contrib.conftest import PATH

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import default_task_backend, task
    from django.tasks.exceptions import TaskResultMismatch
else:
    from django_tasks import default_task_backend, task
    from django_tasks.exceptions import TaskResultMismatch

if TYPE_CHECKING:
    from pytest_django import DjangoAssertNumQueries, Settings

    from durable_django.testing import VirtualClock

pytestmark = pytest.mark.django_db

LOGGER = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
FAILED, SUCCESSFUL = TaskResultStatus.FAILED, TaskResultStatus.SUCCESSFUL


def run(result: Any) -> Any:
    """Run what there is, and return the result as it is then."""
    testing.drain()
    result.refresh()
    return result


def retrying(settings: Settings, **policy: Any) -> None:
    retry = {"first_retry_interval": 10, "max_number_of_attempts": 3, **policy}
    settings.TASKS = {"default": {"BACKEND": PATH, "QUEUES": [], "OPTIONS": {"retry": retry}}}


class TestBackend:
    def test_is_found_by_its_path(self, backend: Any) -> None:
        assert import_string(PATH) is DurableBackend
        assert isinstance(backend, DurableBackend)
        assert default_task_backend == backend
        assert (backend.alias, backend.options) == ("default", {})

    def test_supports_everything(self, backend: Any) -> None:
        assert backend.supports_defer
        assert backend.supports_async_task
        assert backend.supports_get_result
        assert backend.supports_priority

    def test_unknown_alias(self) -> None:
        with pytest.raises(InvalidTaskBackend):
            tasks.note.using(backend="unknown")


class TestEnqueue:
    @pytest.mark.parametrize("wanted", [tasks.note, tasks.note_async])
    def test_result_is_ready(self, wanted: Any) -> None:
        before = timezone.now()
        result = wanted.enqueue(1, two=3)

        assert (result.status, result.is_finished, result.attempts) == (READY, False, 0)
        assert before <= result.enqueued_at <= timezone.now()
        assert result.started_at is None
        assert result.last_attempted_at is None
        assert result.finished_at is None
        with pytest.raises(ValueError, match="Task has not finished yet"):
            _ = result.return_value
        assert (result.task, result.args, result.kwargs) == (wanted, [1], {"two": 3})
        assert (result.errors, result.worker_ids, result.backend) == ([], [], "default")
        assert isinstance(result.id, str)
        assert 0 < len(result.id) < 64
        assert tasks.seen == []

    @pytest.mark.parametrize("wanted", [tasks.note, tasks.note_async])
    def test_arguments_reach_the_function(self, wanted: Any, seen: list[Any]) -> None:
        wanted.enqueue(1, [2], three={"four": None})
        testing.drain()
        assert seen == [((1, [2]), {"three": {"four": None}})]

    def test_aenqueue(self, seen: list[Any]) -> None:
        result = async_to_sync(tasks.note.aenqueue)(1, two=3)
        assert (result.status, result.args, result.kwargs) == (READY, [1], {"two": 3})
        assert run(result).status == SUCCESSFUL
        assert seen == [((1,), {"two": 3})]

    def test_by_the_backend_itself(self, backend: Any) -> None:
        assert run(backend.enqueue(tasks.answer, [], {})).return_value == 42
        assert run(async_to_sync(backend.aenqueue)(tasks.answer, (), {})).return_value == 42

    def test_is_one_insert(self, django_assert_num_queries: DjangoAssertNumQueries) -> None:
        # MySQL's INSERT does not tell whether the id was taken.
        with django_assert_num_queries(2 if connection.vendor == "mysql" else 1) as queries:
            tasks.note.enqueue()
        assert queries.captured_queries[0]["sql"].lstrip().startswith("INSERT")

    def test_arguments_go_through_json(self, seen: list[Any]) -> None:
        result = tasks.note.enqueue((1, (2,)), b"bytes", mapping={1: True})
        assert result.args == [[1, [2]], "bytes"]
        assert result.kwargs == {"mapping": {"1": True}}
        run(result)
        assert seen == [((([1, [2]]), "bytes"), {"mapping": {"1": True}})]
        assert type(seen[0][1]["mapping"]) is dict

    def test_a_tuple_comes_as_a_list(self) -> None:
        result = run(tasks.double.enqueue((1, 2, 3)))
        assert result.status == FAILED
        assert result.errors[0].exception_class is TypeError
        assert "unhashable type: 'list'" in result.errors[0].traceback

    @pytest.mark.parametrize("argument", [datetime(2026, 1, 1), object(), {1, 2}, Group(name="a")])
    def test_arguments_without_json(self, argument: Any) -> None:
        with pytest.raises(TypeError, match="Unsupported type"):
            tasks.note.enqueue(argument)
        with pytest.raises(TypeError, match="Unsupported type"):
            async_to_sync(tasks.note.aenqueue)(key=argument)
        assert not Instance.objects.exists()

    @pytest.mark.parametrize("argument", ["a\x00b", "\ud800", "x" * 2_000_000])
    def test_arguments_that_cannot_be_stored(self, argument: str) -> None:
        with pytest.raises(PayloadError):
            tasks.note.enqueue(argument)
        assert not Instance.objects.exists()

    def test_joins_the_transaction(self) -> None:
        with transaction.atomic():
            result = tasks.note.enqueue()
            assert tasks.note.get_result(result.id) == result
            transaction.set_rollback(True)
        with pytest.raises(TaskResultDoesNotExist):
            result.refresh()
        assert testing.drain().turns == 0

    def test_can_be_found_by_its_path(self) -> None:
        result = tasks.note.enqueue()
        (instance,) = Instance.objects.all()
        assert (instance.instance_id, instance.name) == (result.id, "durable_django.task")
        assert instance.tags == {"task": "tests.contrib.tasks.note"}


class TestValidation:
    def test_queues(self, settings: Settings) -> None:
        anywhere = tasks.note.using(queue_name="anywhere")
        settings.TASKS = {"default": {"BACKEND": PATH, "QUEUES": ["default", "mail"]}}

        assert tasks.note.using(queue_name="mail").queue_name == "mail"
        with pytest.raises(InvalidTask, match="Queue 'anywhere' is not valid for backend"):
            tasks.note.using(queue_name="anywhere")
        with pytest.raises(InvalidTask, match="Queue 'anywhere' is not valid for backend"):
            anywhere.enqueue()
        with pytest.raises(InvalidTask, match="Queue 'anywhere' is not valid for backend"):
            async_to_sync(anywhere.aenqueue)()

    def test_default_queue_alone_unless_told_otherwise(self, settings: Settings) -> None:
        settings.TASKS = {"default": {"BACKEND": PATH}}
        tasks.note.enqueue()
        with pytest.raises(InvalidTask, match="Queue 'mail' is not valid for backend"):
            tasks.note.using(queue_name="mail")

    @pytest.mark.parametrize("name", ["", "x" * 256, "a\nb"])
    def test_queue_names_that_are_none(self, name: str) -> None:
        with pytest.raises(InvalidTask, match="queue name"):
            tasks.note.using(queue_name=name)

    @pytest.mark.parametrize("priority", [-101, 101, 3.1])
    def test_priorities_out_of_bounds(self, priority: Any) -> None:
        with pytest.raises(InvalidTask, match="priority must be a whole number between -100 and 100"):
            tasks.note.using(priority=priority)

    @pytest.mark.parametrize("priority", [-100, 0, 100, 5.0])
    def test_priorities(self, priority: Any) -> None:
        tasks.note.using(priority=priority).enqueue()
        assert Instance.objects.get().priority == priority

    def test_naive_run_after(self) -> None:
        with pytest.raises(InvalidTask, match="run_after must be an aware datetime"):
            tasks.note.using(run_after=datetime(2026, 1, 1))

    @pytest.mark.parametrize(
        "run_after",
        [
            timedelta.max,
            timedelta.min,
            timedelta(days=3_000_000),
            datetime.max.replace(tzinfo=dt.timezone(timedelta(hours=-1))),
            datetime.min.replace(tzinfo=dt.timezone(timedelta(hours=1))),
        ],
    )
    def test_run_after_beyond_the_calendar(self, backend: Any, run_after: Any) -> None:
        with pytest.raises(InvalidTask, match=r"run_after .* lies beyond the calendar"):
            tasks.answer.using(run_after=run_after)
        with (
            mock.patch.object(DurableBackend, "validate_task"),
            pytest.raises(InvalidTask, match=r"run_after .* lies beyond the calendar"),
        ):
            tasks.answer.using(run_after=run_after).enqueue()
        assert not Instance.objects.exists()

    def test_functions_that_are_not_at_a_modules_level(self) -> None:
        def inner() -> None:
            pass

        for function in (any, inner, self.test_queues):
            with pytest.raises(InvalidTask, match="must be defined at a module level"):
                task()(function)

    def test_context_that_is_not_taken(self) -> None:
        with pytest.raises(InvalidTask, match="does not have a first argument of 'context'"):
            task(takes_context=True)(tasks.answer.func)

    def test_of_an_async_task_where_a_subclass_refuses_them(self, backend: Any) -> None:
        with (
            mock.patch.object(backend, "supports_async_task", False),
            pytest.raises(InvalidTask, match="does not support async"),
        ):
            backend.validate_task(tasks.note_async)


class TestUsing:
    def test_leaves_the_task_alone(self) -> None:
        at = timezone.now()
        changed = tasks.note.using(priority=10, queue_name="mail", run_after=at)
        assert (changed.priority, changed.queue_name, changed.run_after) == (10, "mail", at)
        assert (tasks.note.priority, tasks.note.queue_name, tasks.note.run_after) == (0, "default", None)

    def test_all_of_it_comes_back(self) -> None:
        at = datetime(2030, 1, 1, 12, tzinfo=dt.timezone(timedelta(hours=2)))
        result = tasks.note.using(priority=10, queue_name="mail", run_after=at).enqueue()
        assert default_task_backend.get_result(result.id) == result
        assert default_task_backend.get_result(result.id).task.run_after == at

    def test_run_after_a_time(self, clock: VirtualClock) -> None:
        at = store_clock.now() + timedelta(hours=2)
        result = tasks.answer.using(run_after=at.replace(tzinfo=UTC)).enqueue()

        testing.advance(timedelta(hours=1, minutes=59))
        result.refresh()
        assert (result.status, result.attempts) == (READY, 0)

        testing.advance(timedelta(minutes=2))
        result.refresh()
        assert result.status == SUCCESSFUL
        assert result.started_at == at.replace(tzinfo=UTC)
        assert result.enqueued_at == (at - timedelta(hours=2)).replace(tzinfo=UTC)

    def test_run_after_a_while(self, clock: VirtualClock) -> None:
        soon = tasks.answer.using(run_after=timedelta(minutes=5))  # type: ignore[arg-type]
        result = soon.enqueue()
        assert default_task_backend.get_result(result.id) == result

        testing.advance(timedelta(minutes=4))
        result.refresh()
        assert result.status == READY
        testing.advance(timedelta(minutes=2))
        result.refresh()
        assert result.status == SUCCESSFUL

    def test_run_after_a_while_is_checked_like_the_rest(self) -> None:
        with pytest.raises(InvalidTask, match="priority must be a whole number"):
            tasks.note.using(run_after=timedelta(1), priority=1000)  # type: ignore[arg-type]

    def test_run_after_what_has_passed(self) -> None:
        assert run(tasks.answer.using(run_after=timezone.now() - timedelta(1)).enqueue()).status == SUCCESSFUL

    def test_another_backend(self, settings: Settings, backend: Any) -> None:
        settings.TASKS = {
            "default": {"BACKEND": PATH},
            "reserve": {"BACKEND": PATH, "QUEUES": ["slow"]},
        }
        result = tasks.answer.using(backend="reserve", queue_name="slow").enqueue()
        assert (result.backend, result.task.backend) == ("reserve", "reserve")
        assert run(result).return_value == 42
        found = task_backends["default"].get_result(result.id)
        assert (found.backend, found.task.get_backend().alias) == ("reserve", "reserve")

    def test_a_result_outlives_its_queue_and_its_backend(self, settings: Settings) -> None:
        settings.TASKS = {"default": {"BACKEND": PATH}, "old": {"BACKEND": PATH, "QUEUES": ["old"]}}
        result = tasks.answer.using(backend="old", queue_name="old").enqueue()
        settings.TASKS = {"default": {"BACKEND": PATH}}
        testing.drain()
        found = default_task_backend.get_result(result.id)
        assert (found.status, found.backend, found.task.queue_name) == (SUCCESSFUL, "old", "old")


class TestQueuesAndPriorities:
    def test_everything_of_a_task_waits_in_its_queue(self) -> None:
        tasks.note.using(queue_name="mail", priority=-7).enqueue()
        instance = Instance.objects.get()
        assert (instance.queue, instance.priority) == ("mail", -7)

        waiting: list[tuple[str, int]] = []

        def look(*_: Any, **__: Any) -> None:
            waiting.extend(ActivityTask.objects.values_list("queue", "priority"))

        with mock.patch.object(framework.task_started, "send_robust", look):
            testing.drain()
        assert waiting == [("mail", -7)]

    def test_the_higher_priority_goes_first(self, seen: list[Any]) -> None:
        for priority in (0, 50, -50, 100):
            tasks.note.using(priority=priority).enqueue(priority)
        with mock.patch("durable_django.testing.inline._SLOTS", 1):
            testing.drain()
        order = [args[0] for args, _ in seen]
        assert order == [100, 50, 0, -50]


class TestResults:
    @pytest.mark.parametrize("wanted", [tasks.note, tasks.note_async])
    def test_of_a_success(self, wanted: Any) -> None:
        result = run(wanted.enqueue(1, two=3))

        assert (result.status, result.is_finished) == (SUCCESSFUL, True)
        assert result.return_value is None
        assert result.enqueued_at <= result.started_at <= result.finished_at <= timezone.now()
        assert result.last_attempted_at == result.started_at
        assert (result.task, result.args, result.kwargs) == (wanted, [1], {"two": 3})
        assert (result.attempts, result.worker_ids, result.errors) == (1, ["testing"], [])

    @pytest.mark.parametrize("value", [None, 0, "ä", [1, [2]], {"a": {"b": None}}, 1.5, True])
    @pytest.mark.parametrize("wanted", [tasks.echo, tasks.echo_async])
    def test_return_values(self, wanted: Any, value: Any) -> None:
        returned = run(wanted.enqueue(value)).return_value
        assert returned == value
        assert type(returned) is type(value)

    def test_of_a_failure(self) -> None:
        result = run(tasks.fail.enqueue())

        assert (result.status, result.is_finished) == (FAILED, True)
        with pytest.raises(ValueError, match="Task failed"):
            _ = result.return_value
        assert result.enqueued_at <= result.started_at <= result.finished_at
        assert result.last_attempted_at == result.started_at
        (error,) = result.errors
        assert (error.exception_class_path, error.exception_class) == ("builtins.ValueError", ValueError)
        assert error.traceback.startswith("Traceback (most recent call last)")
        assert 'raise ValueError("This task failed")' in error.traceback
        assert error.traceback.endswith("ValueError: This task failed\n")
        assert result.attempts == 1
        assert result._return_value is None

    @pytest.mark.parametrize(
        ("wanted", "error", "text"),
        [
            (tasks.fail_async, ValueError, "This async task failed"),
            (tasks.leave, SystemExit, "SystemExit: This task left"),
            (tasks.fail_oddly, ValueError, 'ValueError(ValueError("This task failed"))'),
            (tasks.unwritable, TypeError, "Unsupported type"),
            (tasks.too_large, PayloadError, "MAX_PAYLOAD_BYTES"),
        ],
    )
    def test_of_other_failures(
        self, wanted: Any, error: type[BaseException], text: str, signals: list[Any]
    ) -> None:
        result = run(wanted.enqueue())
        assert result.status == FAILED
        assert result.errors[0].exception_class is error
        assert text in result.errors[0].traceback
        assert result._return_value is None
        assert [(name, status) for name, _, status, _ in signals] == [
            ("enqueued", READY),
            ("started", RUNNING),
            ("finished", FAILED),
        ]

    def test_of_a_wrong_call(self) -> None:
        result = run(tasks.answer.enqueue("too much"))  # type: ignore[call-arg]
        assert result.status == FAILED
        assert result.errors[0].exception_class is TypeError

    def test_an_interruption_is_no_failure_of_the_task(self, signals: list[Any]) -> None:
        result = tasks.interrupt.enqueue()
        with pytest.raises(KeyboardInterrupt):
            testing.drain()
        result.refresh()
        assert not result.is_finished
        assert [name for name, *_ in signals] == ["enqueued", "started"]

    def test_same_by_id(self) -> None:
        result = tasks.answer.enqueue()
        assert default_task_backend.get_result(result.id) == result
        assert tasks.answer.get_result(result.id) == result
        assert async_to_sync(default_task_backend.aget_result)(result.id) == result
        assert async_to_sync(tasks.answer.aget_result)(result.id) == result

    def test_refresh_changes_nothing_else(self) -> None:
        result = tasks.answer.enqueue()
        before = dataclasses.asdict(result)
        result.refresh()
        assert dataclasses.asdict(result) == before
        async_to_sync(result.arefresh)()
        assert dataclasses.asdict(result) == before

    def test_do_not_change_by_themselves(self) -> None:
        result = tasks.answer.enqueue()
        testing.drain()
        assert result.status == READY
        async_to_sync(result.arefresh)()
        assert (result.status, result.return_value) == (SUCCESSFUL, 42)

    def test_of_another_task(self) -> None:
        result = tasks.answer.enqueue()
        with pytest.raises(TaskResultMismatch, match="Task does not match"):
            tasks.note.get_result(result.id)
        with pytest.raises(TaskResultMismatch, match="Task does not match"):
            async_to_sync(tasks.note.aget_result)(result.id)

    @pytest.mark.parametrize("result_id", ["123", 123, "", "@entity@key", "a\x00b", "x" * 300, None])
    def test_that_do_not_exist(self, backend: Any, result_id: Any) -> None:
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result(result_id)
        with pytest.raises(TaskResultDoesNotExist):
            async_to_sync(backend.aget_result)(result_id)
        with pytest.raises(TaskResultDoesNotExist):
            tasks.note.get_result(result_id)

    def test_orchestrations_have_none(self, backend: Any) -> None:
        instance_id = DurableTaskClient().schedule_new_orchestration("something", input={"task": "a.b"})
        with pytest.raises(TaskResultDoesNotExist, match=instance_id):
            backend.get_result(instance_id)

    @pytest.mark.parametrize("data", [None, 1, [], "os.system", {"task": "os.system"}, {"args": None}])
    def test_what_no_backend_has_enqueued_is_none(self, backend: Any, data: Any) -> None:
        instance_id = DurableTaskClient().schedule_new_orchestration("durable_django.task", input=data)
        testing.drain()
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result(instance_id)
        failure = DurableTaskClient().get_orchestration_state(instance_id)
        assert failure is not None
        assert failure.failure_details is not None
        assert "no task that a backend has enqueued" in failure.failure_details.message

    def test_are_gone_after_a_purge(self) -> None:
        result = run(tasks.answer.enqueue())
        DurableTaskClient().purge_orchestration(result.id)
        with pytest.raises(TaskResultDoesNotExist):
            result.refresh()

    def test_of_a_terminated_task(self) -> None:
        result = tasks.answer.enqueue()
        DurableTaskClient().terminate_orchestration(result.id)
        result.refresh()
        assert (result.status, result.attempts) == (FAILED, 0)
        assert result.started_at is None
        assert result.finished_at is not None
        assert result.errors[0].exception_class is TaskCancelledError

    def test_of_a_suspended_task(self) -> None:
        result = tasks.answer.enqueue()
        DurableTaskClient().suspend_orchestration(result.id)
        assert run(result).status == READY
        DurableTaskClient().resume_orchestration(result.id)
        assert run(result).status == SUCCESSFUL

    def test_of_a_task_that_no_worker_could_run(self) -> None:
        result = tasks.answer.enqueue()
        testing.drain(registry=Registry())
        result.refresh()
        assert (result.status, result.attempts) == (FAILED, 0)
        assert "durable_django.task" in result.errors[0].traceback
        assert issubclass(result.errors[0].exception_class, Exception)

    def test_of_an_orchestration_that_broke_between_attempts(self, settings: Settings) -> None:
        retrying(settings)
        result = run(tasks.fail.enqueue())
        # As if the package's own code had changed under a waiting task.
        HistoryEvent.objects.filter(name="durable_django.task", task_id=1).update(name="another")
        with testing.virtual_time():
            testing.advance(timedelta(seconds=11))
        result.refresh()
        assert result.status == FAILED
        assert [error.exception_class for error in result.errors] == [ValueError, NonDeterminismError]

    def test_times_without_time_zones(self, settings: Settings) -> None:
        settings.USE_TZ = False
        settings.TIME_ZONE = "Asia/Tokyo"
        before = timezone.now()
        at = before - timedelta(hours=1)
        result = run(tasks.answer.using(run_after=at).enqueue())
        assert result.status == SUCCESSFUL
        assert result.task.run_after == at
        assert before <= result.enqueued_at <= result.started_at <= result.finished_at <= timezone.now()

    def test_times_without_time_zones_are_local(self, settings: Settings) -> None:
        settings.USE_TZ = False
        settings.TIME_ZONE = "America/New_York"
        result = run(tasks.answer.using(run_after=timezone.now() + timedelta(hours=1)).enqueue())
        assert result.status == READY


class TestContext:
    def test_is_the_first_argument(self) -> None:
        result = run(tasks.tell_context.enqueue())
        assert result.return_value == {"id": result.id, "attempt": 1}

    def test_tells_what_is_running(self, seen: list[Any]) -> None:
        run(tasks.tell_context.enqueue())
        assert seen == [(1, RUNNING, ["testing"], 0)]

    def test_of_an_async_task(self) -> None:
        assert run(tasks.tell_context_async.enqueue()).return_value == 1

    def test_of_a_later_attempt(self, settings: Settings, clock: VirtualClock, seen: list[Any]) -> None:
        retrying(settings)
        result = tasks.tell_context.enqueue(fail_first=True)
        testing.advance(timedelta(minutes=1))
        result.refresh()
        assert seen == [(1, RUNNING, ["testing"], 0), (2, RUNNING, ["testing", "testing"], 1)]
        assert result.return_value == {"id": result.id, "attempt": 2}

    def test_shows_the_running_result_that_the_database_shows(self, seen: list[Any]) -> None:
        result = tasks.look_at_oneself.enqueue()
        testing.drain()
        shown, started_at = seen
        assert shown == (RUNNING, ["testing"], 1, None)
        assert result.enqueued_at <= started_at <= timezone.now()

    def test_cannot_be_changed(self) -> None:
        result = tasks.note.enqueue()
        context = TaskContext(task_result=result)
        with pytest.raises(dataclasses.FrozenInstanceError):
            context.task_result = result
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.status = SUCCESSFUL


class TestRetries:
    def test_none_by_default(self, seen: list[Any]) -> None:
        with testing.virtual_time():
            result = tasks.fail_twice.enqueue()
            testing.advance(timedelta(days=1))
        result.refresh()
        assert (result.status, result.attempts, seen) == (FAILED, 1, ["attempt"])

    def test_until_it_works(self, settings: Settings, clock: VirtualClock) -> None:
        retrying(settings)
        start = store_clock.now().replace(tzinfo=UTC)
        result: Any = tasks.fail_twice.enqueue()
        assert run(result).status == READY
        assert (result.attempts, result.is_finished, result.finished_at) == (1, False, None)
        assert [error.exception_class for error in result.errors] == [LookupError]

        testing.advance(timedelta(seconds=10))
        assert run(result).attempts == 2
        assert result.status == READY

        testing.advance(timedelta(seconds=10))
        result.refresh()
        assert (result.status, result.return_value, result.attempts) == (SUCCESSFUL, "at last", 3)
        assert [error.traceback.splitlines()[-1] for error in result.errors] == [
            "LookupError: attempt 1",
            "LookupError: attempt 2",
        ]
        assert result.worker_ids == ["testing"] * 3
        assert result.last_attempted_at - result.started_at == timedelta(seconds=20)
        assert result.started_at == start

    def test_until_none_is_left(self, settings: Settings, clock: VirtualClock) -> None:
        retrying(settings, backoff_coefficient=2, max_retry_interval=timedelta(seconds=15))
        result: Any = tasks.fail.enqueue()
        testing.advance(timedelta(hours=1))
        result.refresh()
        assert (result.status, result.attempts, len(result.errors)) == (FAILED, 3, 3)
        assert result.last_attempted_at - result.started_at == timedelta(seconds=25)
        assert result.finished_at == result.last_attempted_at

    def test_a_policy_object(self, settings: Settings, clock: VirtualClock) -> None:
        from durable_django import RetryPolicy

        policy = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=2)
        settings.TASKS = {"default": {"BACKEND": PATH, "OPTIONS": {"retry": policy}}}
        assert run(tasks.fail.enqueue()).attempts == 2

    def test_are_those_of_the_time_of_enqueueing(self, settings: Settings, clock: VirtualClock) -> None:
        retrying(settings)
        result = tasks.fail_twice.enqueue()
        settings.TASKS = {"default": {"BACKEND": PATH}}
        testing.advance(timedelta(hours=1), replay=True)
        result.refresh()
        assert (result.status, result.attempts) == (SUCCESSFUL, 3)

    def test_signals(self, settings: Settings, clock: VirtualClock, signals: list[Any]) -> None:
        retrying(settings)
        tasks.fail_twice.enqueue()
        testing.advance(timedelta(hours=1))
        assert [(name, status, attempts) for name, _, status, attempts in signals] == [
            ("enqueued", READY, 0),
            ("started", RUNNING, 1),
            ("started", RUNNING, 2),
            ("started", RUNNING, 3),
            ("finished", SUCCESSFUL, 3),
        ]

    def test_a_rewound_task_is_tried_once_more(self, seen: list[Any]) -> None:
        result = run(tasks.fail_twice.enqueue())
        for _ in range(2):
            DurableTaskClient().rewind_orchestration(result.id)
            run(result)
        assert (result.status, result.return_value, result.errors) == (SUCCESSFUL, "at last", [])


class TestSignals:
    @pytest.mark.parametrize("wanted", [tasks.note, tasks.note_async])
    def test_around_a_success(self, wanted: Any, signals: list[Any]) -> None:
        wanted.enqueue()
        assert signals == [("enqueued", DurableBackend, READY, 0)]
        testing.drain()
        assert signals[1:] == [
            ("started", DurableBackend, RUNNING, 1),
            ("finished", DurableBackend, SUCCESSFUL, 1),
        ]

    @pytest.mark.parametrize("wanted", [tasks.fail, tasks.fail_async])
    def test_around_a_failure(self, wanted: Any, signals: list[Any]) -> None:
        wanted.enqueue()
        testing.drain()
        assert signals[1:] == [
            ("started", DurableBackend, RUNNING, 1),
            ("finished", DurableBackend, FAILED, 1),
        ]

    def test_show_the_return_value(self) -> None:
        values: list[Any] = []

        def receive(task_result: Any, **_: Any) -> None:
            values.append((task_result.return_value, task_result.finished_at >= task_result.started_at))

        framework.task_finished.connect(receive)
        try:
            tasks.answer.enqueue()
            testing.drain()
        finally:
            framework.task_finished.disconnect(receive)
        assert values == [(42, True)]

    @pytest.mark.parametrize("signal", [framework.task_started, framework.task_finished])
    @pytest.mark.parametrize("wanted", [tasks.echo, tasks.echo_async])
    def test_a_receiver_that_fails_does_not_fail_the_task(self, signal: Any, wanted: Any) -> None:
        def receive(**_: Any) -> None:
            raise RuntimeError("a receiver's own fault")

        signal.connect(receive)
        try:
            result = run(wanted.enqueue(1))
        finally:
            signal.disconnect(receive)
        assert (result.status, result.attempts) == (SUCCESSFUL, 1)

    def test_a_receiver_may_refuse_what_is_enqueued(self) -> None:
        def receive(**_: Any) -> None:
            raise RuntimeError("not now")

        framework.task_enqueued.connect(receive)
        try:
            with pytest.raises(RuntimeError, match="not now"), transaction.atomic():
                tasks.note.enqueue()
        finally:
            framework.task_enqueued.disconnect(receive)
        assert not Instance.objects.exists()

    @pytest.mark.parametrize("wanted", [tasks.note, tasks.note_async])
    def test_are_logged(self, wanted: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, LOGGER):
            result = wanted.enqueue()
            testing.drain()
        messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
        assert len(messages) == 3
        assert all(result.id in message and wanted.module_path in message for message in messages)
        assert "enqueued" in messages[0]
        assert "state=RUNNING" in messages[1]
        assert "state=SUCCESSFUL" in messages[2]

    @pytest.mark.parametrize("wanted", [tasks.fail, tasks.fail_async])
    def test_failures_are_logged_with_their_exception(
        self, wanted: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR, LOGGER):
            result = wanted.enqueue()
            testing.drain()
        (record,) = [record for record in caplog.records if record.name == LOGGER]
        assert "state=FAILED" in record.getMessage()
        assert result.id in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[0] is ValueError
        result.refresh()
        # One line for the function, and what else stands there does not come from passing it between threads.
        assert "asgiref" not in result.errors[0].traceback


class TestDatabase:
    @pytest.mark.parametrize("wanted", [tasks.add_group, tasks.add_group_async])
    def test_tasks_may_use_it(self, wanted: Any) -> None:
        result = run(wanted.enqueue("editors"))
        assert result.return_value == Group.objects.get(name="editors").pk

    def test_a_task_that_breaks_its_transaction(self) -> None:
        result = run(tasks.break_transaction.enqueue())
        assert result.status == FAILED
        assert result.errors[0].exception_class.__name__ in ("OperationalError", "ProgrammingError")

    def test_reading_a_result_takes_few_queries(
        self, backend: Any, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        result = tasks.answer.enqueue()
        with django_assert_num_queries(1):
            backend.get_result(result.id)
        testing.drain()
        with django_assert_num_queries(2):
            backend.get_result(result.id)


class TestFunctionsThatAreGone:
    def test_fail_at_once(self, monkeypatch: pytest.MonkeyPatch, signals: list[Any]) -> None:
        result = tasks.gone.enqueue()
        monkeypatch.delattr(tasks, "gone")
        drained = testing.drain()
        assert (drained.turns, drained.activities) == (2, 1)

        found = default_task_backend.get_result(result.id)
        assert (found.status, found.attempts) == (FAILED, 1)
        assert found.errors[0].exception_class is InvalidTask
        text = found.errors[0].traceback
        assert "Task 'tests.contrib.tasks.gone' cannot be run: it cannot be imported" in text
        assert found.task.module_path == "tests.contrib.tasks.gone"
        assert found.task.name == "gone"
        assert signals[-1][0] == "finished"

    def test_so_does_a_module(self) -> None:
        data = _stored(tasks.answer.enqueue()) | {"task": "tests.contrib.no_module.gone"}
        found = _enqueued(data)
        assert found.status == FAILED
        assert "No module named 'tests.contrib.no_module'" in found.errors[0].traceback

    @pytest.mark.parametrize("path", ["os.system", "tests.contrib.tasks.Receipt", "nothing", ""])
    def test_nothing_but_tasks_is_run(self, path: str) -> None:
        found = _enqueued(_stored(tasks.note.enqueue()) | {"task": path, "args": ["exit 1"]})
        assert found.status == FAILED
        assert "cannot be run" in found.errors[0].traceback

    def test_are_tried_again_no_oftener_than_others(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, clock: VirtualClock
    ) -> None:
        retrying(settings)
        result = tasks.gone.enqueue()
        monkeypatch.delattr(tasks, "gone")
        testing.advance(timedelta(hours=1))
        assert default_task_backend.get_result(result.id).attempts == 3

    def test_may_change_between_def_and_async_def(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, awaited = tasks.echo.enqueue(1), tasks.echo_async.enqueue(2)
        was_plain, was_async = tasks.echo, tasks.echo_async
        monkeypatch.setattr(tasks, "echo", was_async)
        monkeypatch.setattr(tasks, "echo_async", was_plain)
        assert (run(plain).return_value, run(awaited).return_value) == (1, 2)


def _stored(result: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Instance.objects.get(instance_id=result.id).input or "")
    return data


def _enqueued(data: dict[str, Any]) -> Any:
    instance_id = DurableTaskClient().schedule_new_orchestration("durable_django.task", input=data)
    testing.drain()
    return default_task_backend.get_result(instance_id)


@pytest.mark.django_db(transaction=True)
def test_from_an_event_loop() -> None:
    async def use() -> tuple[Any, Any]:
        result = await tasks.echo_async.aenqueue(5)
        await sync_to_async(testing.drain)()
        before = result.status
        await result.arefresh()
        return before, (await tasks.echo_async.aget_result(result.id)).return_value

    assert async_to_sync(use)() == (READY, 5)
