"""What a worker has to know to run tasks: an orchestrator for attempts, and activities for functions."""

from __future__ import annotations

from collections.abc import Generator
from threading import Lock
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from durable_django.conf import data_converter, settings
from durable_django.contrib.django_tasks import results
from durable_django.contrib.django_tasks.framework import (
    InvalidTaskBackend,
    TaskContext,
    normalize_json,
    task_backends,
    task_finished,
    task_started,
)
from durable_django.contrib.django_tasks.requests import Request
from durable_django.contrib.django_tasks.results import NAME
from durable_django.core.errors import TaskFailedError
from durable_django.core.interrupts import is_interrupt
from durable_django.core.serialization import PayloadCodec
from durable_django.task import ActivityContext, OrchestrationContext, Task

if TYPE_CHECKING:
    from durable_django.contrib.django_tasks.results import AnyResult
    from durable_django.core.registry import Registry

ASYNC_NAME = "durable_django.async_task"
"""The name of the activity for ``async def`` functions, which the worker runs on its event loop."""


def run_attempts(ctx: OrchestrationContext, data: dict[str, Any]) -> Generator[Task[Any], Any, Any]:
    """Run a task until an attempt succeeds, or none is left. The orchestrator of tasks."""
    request = Request.from_json(data)
    first_scheduled = ctx.current_utc_datetime
    while True:
        try:
            # Neither queue nor priority is said: both are the instance's, which has the task's own.
            return (
                yield ctx.call_activity(ASYNC_NAME if request.is_async else NAME, input=request.to_json())
            )
        except TaskFailedError:
            if request.retry is None:
                raise
            delay = request.retry.next_delay(request.attempt, ctx.current_utc_datetime, first_scheduled)
            if delay is None:
                raise
        yield ctx.create_timer(delay)
        request = request.following()


def run_function(ctx: ActivityContext, data: dict[str, Any]) -> Any:
    """Run a task's function once. The activity of tasks."""
    attempt = _Attempt(ctx, data)
    attempt.begin()
    try:
        attempt.succeed(attempt.task.call(*attempt.args, **attempt.kwargs))
    except BaseException as error:
        if not is_interrupt(error):  # That ends the process, and not the task.
            attempt.fail(error)
        raise
    attempt.announce_success()
    return attempt.value


async def run_async_function(ctx: ActivityContext, data: dict[str, Any]) -> Any:
    """Run a task's ``async def`` function once. The activity of such tasks."""
    # All but the function itself may query, and receivers of signals do as they like.
    attempt = await sync_to_async(_Attempt)(ctx, data)
    await sync_to_async(attempt.begin)()
    try:
        attempt.succeed(await attempt.task.acall(*attempt.args, **attempt.kwargs))
    except BaseException as error:
        if is_interrupt(error):
            raise
        traceback = error.__traceback__
        await sync_to_async(attempt.fail)(error)
        error.__traceback__ = traceback  # The exception was raised again in the other thread.
        raise
    await sync_to_async(attempt.announce_success)()
    return attempt.value


_lock = Lock()


def register(registry: Registry) -> None:
    """Make tasks known to a registry; do nothing if they are.

    Raises:
        ValueError: One of their names is taken by something else.
    """
    with _lock:
        known = registry.orchestrators.get(NAME)
        if known is None or known.fn is not run_attempts:
            registry.add_orchestrator(run_attempts, name=NAME)
        for name, activity in ((NAME, run_function), (ASYNC_NAME, run_async_function)):
            present = registry.activities.get(name)
            if present is None or present.fn is not activity:
                registry.add_activity(activity, name=name)


class _Attempt:
    """One call of a task's function, and the result that its context and the signals show.

    Receivers of signals that raise something change nothing: it goes to the log.
    """

    def __init__(self, ctx: ActivityContext, data: dict[str, Any]) -> None:
        request = Request.from_json(data)
        self._is_last = request.is_last
        self._sender = _backend_class(request.backend)
        self._result: AnyResult = results.running_result(
            settings.DATABASE_ALIAS, ctx.orchestration_id, request, ctx.worker
        )
        self.task = self._result.task
        self.args: list[Any] = self._result.args
        if self.task.takes_context:
            self.args = [TaskContext(task_result=self._result), *self.args]
        self.kwargs = self._result.kwargs
        self.value: Any = None

    def begin(self) -> None:
        """Announce the start."""
        task_started.send_robust(self._sender, task_result=self._result)

    def succeed(self, value: Any) -> None:
        """Take what the function has returned; raise an error if it cannot be stored, which is a failure."""
        self.value = normalize_json(value)
        codec = PayloadCodec(data_converter(), settings.MAX_PAYLOAD_BYTES)
        codec.dumps(self.value, "the result of task", self.task.module_path)
        results.succeed(self._result, self.value)

    def announce_success(self) -> None:
        """Announce the end. Not where the function's exceptions are caught: it has none any more."""
        task_finished.send_robust(self._sender, task_result=self._result)

    def fail(self, error: BaseException) -> None:
        """Take what the function has raised and, if it will not be tried again, announce the end.

        Receivers log what ``sys.exc_info()`` has: call it while the exception is handled.
        """
        results.fail(self._result, error)
        if self._is_last:
            task_finished.send_robust(self._sender, task_result=self._result)


def _backend_class(alias: str) -> type[Any] | None:
    """Return the class of a task's backend; None where the settings do not have it any more."""
    try:
        return type(task_backends[alias])
    except InvalidTaskBackend:
        return None
