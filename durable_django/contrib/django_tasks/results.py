"""Results of tasks, as the framework wants them: made of what the store knows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from durable_django.conf import data_converter
from durable_django.contrib.django_tasks.framework import (
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
)
from durable_django.contrib.django_tasks.requests import Request
from durable_django.core.errors import FailureDetails, TaskCancelledError, TaskFailedError, qualified_name
from durable_django.core.events import TaskFailedEvent
from durable_django.core.status import TERMINAL_STATUSES, OrchestrationStatus
from durable_django.store import clock, monitoring, queries
from durable_django.store.monitoring import Attempts
from durable_django.store.queries import StateRow

if TYPE_CHECKING:
    from durable_django.contrib.django_tasks.requests import AnyTask

    AnyResult = TaskResult[..., Any]

NAME = "durable_django.task"
"""The name of the orchestrator that is a task, and of the activity that runs its function."""

_TASK_FAILED = qualified_name(TaskFailedError)


def new_result(result_id: str, request: Request, task: AnyTask | None = None) -> AnyResult:
    """Return the result of a task that is enqueued; ``task`` is the one of the request, if it is at hand."""
    return TaskResult(
        task=task or request.task(),
        id=result_id,
        status=TaskResultStatus.READY,
        enqueued_at=clock.aware(request.enqueued_at),
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=request.args,
        kwargs=request.kwargs,
        backend=request.backend,
        errors=[],
        worker_ids=[],
    )


def stored_result(using: str, result_id: str) -> AnyResult | None:
    """Return a task's result as it stands in the database ``using``; None where there is no such task."""
    row = queries.state(using, result_id)
    if row is None or row.name != NAME:
        return None
    try:
        request = Request.from_json(data_converter().deserialize(row.input))
    except ValueError:
        return None
    result = new_result(result_id, request)
    if row.status is not OrchestrationStatus.PENDING:
        attempts = monitoring.attempts(using, result_id, with_running=row.status not in TERMINAL_STATUSES)
        _add_attempts(result, attempts)
        _set_status(result, row, attempts)
    return result


def running_result(using: str, result_id: str, request: Request, worker: str | None) -> AnyResult:
    """Return the result of a task that begins an attempt now, on ``worker``."""
    result = new_result(result_id, request)
    if request.attempt > 1:
        _add_attempts(result, monitoring.attempts(using, result_id, with_running=False))
    _begin(result, worker, clock.now())
    return result


def succeed(result: AnyResult, value: Any) -> None:
    """Finish a result with what the function has returned."""
    _set(
        result,
        status=TaskResultStatus.SUCCESSFUL,
        _return_value=value,
        finished_at=clock.aware(clock.now()),
    )


def fail(result: AnyResult, error: BaseException) -> None:
    """Finish a result with what the function has raised."""
    result.errors.append(_error(FailureDetails.from_exception(error)))
    _set(result, status=TaskResultStatus.FAILED, finished_at=clock.aware(clock.now()))


def _set(result: AnyResult, **attributes: Any) -> None:
    for name, value in attributes.items():
        object.__setattr__(result, name, value)  # Results are frozen for those who get them.


def _begin(result: AnyResult, worker: str | None, at: datetime) -> None:
    began = clock.aware(at)
    # The present attempt counts: `TaskContext.attempt` is the number of these, and begins with 1.
    result.worker_ids.append(worker or "")
    _set(
        result,
        status=TaskResultStatus.RUNNING,
        started_at=result.started_at or began,
        last_attempted_at=began,
    )


def _add_attempts(result: AnyResult, attempts: Attempts) -> None:
    for event in attempts.ended:
        _begin(result, event.worker, event.started_at or event.timestamp)
        if isinstance(event, TaskFailedEvent):
            result.errors.append(_error(event.failure_details))
    _set(result, status=TaskResultStatus.READY)
    if attempts.running is not None:
        _begin(result, *attempts.running)


def _set_status(result: AnyResult, row: StateRow, attempts: Attempts) -> None:
    if row.status not in TERMINAL_STATUSES:
        return
    last = attempts.ended[-1] if attempts.ended else None
    ended_at = last.finished_at if last is not None and last.finished_at else row.last_updated_at
    _set(result, finished_at=clock.aware(ended_at))
    if row.status is OrchestrationStatus.COMPLETED:
        value = normalize_json(data_converter().deserialize(row.output))
        _set(result, status=TaskResultStatus.SUCCESSFUL, _return_value=value)
        return
    _set(result, status=TaskResultStatus.FAILED)
    if row.status is OrchestrationStatus.TERMINATED:
        result.errors.append(
            _error(FailureDetails("The task was terminated.", qualified_name(TaskCancelledError)))
        )
    elif not isinstance(last, TaskFailedEvent) or (row.failure and row.failure.error_type != _TASK_FAILED):
        # It is not the function that has failed, but what runs it.
        result.errors.append(_error(row.failure))


def _error(failure: FailureDetails | None) -> TaskError:
    details = failure or FailureDetails("The failure left no details.", _TASK_FAILED)
    return TaskError(
        exception_class_path=details.error_type,
        traceback=details.stack_trace or f"{details.error_type}: {details.message}\n",
    )
