"""The backend: enqueued tasks become orchestrations."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cached_property
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from durable_django.contrib.django_tasks import options
from durable_django.contrib.django_tasks.framework import (
    BaseTaskBackend,
    InvalidTask,
    TaskResultDoesNotExist,
    normalize_json,
    task_enqueued,
)
from durable_django.contrib.django_tasks.requests import Request, changed
from durable_django.core import registry as registries
from durable_django.core.ids import check_instance_id, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from durable_django.contrib.django_tasks.framework import Task, TaskResult
    from durable_django.contrib.django_tasks.requests import AnyTask
    from durable_django.core.registry import Registry
    from durable_django.core.retry import RetryPolicy

# What needs models is imported where it is used: tasks, and so this module, may be imported by the models of
# any app, and `check` is to say so where durable_django is not installed.


P = ParamSpec("P")
R = TypeVar("R")


class DurableBackend(BaseTaskBackend):
    """A backend of Django's Tasks framework whose tasks are orchestrations, run by ``durable_worker``.

    An enqueued task is part of the caller's transaction on ``DATABASE_ALIAS``: it is there if that commits,
    and runs afterwards. ``OPTIONS`` may have ``retry``: a `RetryPolicy`, or a dictionary of its parameters
    with intervals in seconds, by which failed tasks are tried again; without it they are not.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._queues_given: object = params.get("QUEUES", [])
        if apps.models_ready and apps.is_installed("durable_django"):
            self.add_to(registries.default_registry)

    @classmethod
    def add_to(cls, registry: Registry) -> None:
        """Let a worker with this registry run tasks; nothing happens if it does.

        The app-wide registry knows them wherever the backend is in ``TASKS``.

        Raises:
            ValueError: One of the names, such as ``durable_django.task``, is taken by something else.
        """
        from durable_django.contrib.django_tasks import running

        running.register(registry)

    @cached_property
    def retry_policy(self) -> RetryPolicy | None:
        """The policy by which failed tasks are tried again, if there is one.

        Raises:
            ImproperlyConfigured: ``OPTIONS`` are wrong.
        """
        try:
            return options.retry_policy(self.options)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"TASKS[{self.alias!r}]['OPTIONS'] {error}.") from error

    def validate_task(self, task: AnyTask) -> None:
        """Check a task; its ``run_after`` may be a timedelta too, from the time at which it is enqueued.

        Raises:
            InvalidTask: It cannot be enqueued to this backend.
        """
        # Django documents a timedelta, and its base class breaks on one.
        is_relative = isinstance(task.run_after, timedelta)
        super().validate_task(changed(task, run_after=None) if is_relative else task)
        try:
            check_name("queue", task.queue_name)
        except ValueError as error:
            raise InvalidTask(str(error)) from error
        _start_at(task.run_after, datetime.now(UTC).replace(tzinfo=None))

    def enqueue(self, task: Task[P, R], args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult[P, R]:
        """Store a task, in the caller's transaction, and return its result as it is now.

        Raises:
            ImproperlyConfigured: ``OPTIONS`` are wrong.
            InvalidTask: The task is not valid for this backend.
            PayloadError: The arguments are too large, or no database holds them.
            TypeError: An argument has no JSON form.
        """
        from durable_django.client import DurableTaskClient
        from durable_django.contrib.django_tasks import results
        from durable_django.store import clock

        self.validate_task(task)
        now = clock.now()
        request = Request(
            path=task.module_path,
            args=_round_trip(list(args)),
            kwargs=_round_trip(kwargs),
            backend=self.alias,
            queue_name=task.queue_name,
            priority=int(task.priority),
            run_after=task.run_after,
            is_async=iscoroutinefunction(task.func),
            enqueued_at=now,
            retry=self.retry_policy,
        )
        result_id = DurableTaskClient().schedule_new_orchestration(
            results.NAME,
            input=request.to_json(),
            start_at=_start_at(task.run_after, now),
            tags={"task": request.path},
            queue=request.queue_name,
            priority=request.priority,
        )
        result: Any = results.new_result(result_id, request, task)
        task_enqueued.send(type(self), task_result=result)
        return result  # type: ignore[no-any-return]  # as the framework types it

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """Return a task's result, whichever backend of this class it was enqueued to.

        Raises:
            TaskResultDoesNotExist: There is no such task: it was never enqueued, its transaction was rolled
                back, or it was purged.
        """
        from durable_django.conf import settings
        from durable_django.contrib.django_tasks import results

        try:
            found = results.stored_result(settings.DATABASE_ALIAS, check_instance_id(result_id))
        except ValueError:  # Nothing has such an id.
            found = None
        if found is None:
            raise TaskResultDoesNotExist(result_id)
        return found

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Say what is wrong with the settings of this backend."""
        messages = list(super().check(**kwargs))
        if not apps.is_installed("durable_django"):
            messages.append(
                Error(
                    f"TASKS[{self.alias!r}] keeps tasks in tables of durable_django, which is not installed.",
                    hint="Add 'durable_django' to INSTALLED_APPS, and run `manage.py migrate`.",
                    id="durable_django.E031",
                )
            )
        try:
            _ = self.retry_policy
        except ImproperlyConfigured as error:
            messages.append(Error(str(error), id="durable_django.E032"))
        if problem := _queue_problem(self._queues_given):
            messages.append(Error(f"TASKS[{self.alias!r}]['QUEUES'] {problem}", id="durable_django.E033"))
        return messages


def _queue_problem(given: Any) -> str | None:
    if isinstance(given, str):  # Django would take each letter for a queue.
        return f"must be a list of names, not the text {given!r}."
    try:
        for name in given:
            check_name("queue", name)
    except ValueError as error:
        return f"has a name that is none: {error}"
    return None


def _round_trip(value: Any) -> Any:
    """Return arguments as the function will get them: JSON has no tuples, and no keys but texts."""
    return json.loads(json.dumps(normalize_json(value)))


def _start_at(run_after: datetime | timedelta | None, now: datetime) -> datetime | None:
    """Return when a task may run, naive UTC; None is at once.

    Raises:
        InvalidTask: No calendar has that time.
    """
    if run_after is None:
        return None
    try:
        if isinstance(run_after, timedelta):
            return now + run_after
        # Without USE_TZ, a naive time is one of TIME_ZONE.
        aware = run_after if timezone.is_aware(run_after) else timezone.make_aware(run_after)
        return aware.astimezone(UTC).replace(tzinfo=None)
    except (OverflowError, ValueError) as error:
        raise InvalidTask(f"run_after {run_after} lies beyond the calendar (years 1 to 9999).") from error
