"""What is stored of an enqueued task, and the task that it is about."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from django.utils.module_loading import import_string

from durable_django.contrib.django_tasks import options
from durable_django.contrib.django_tasks.framework import InvalidTask, Task
from durable_django.core.retry import RetryPolicy

if TYPE_CHECKING:
    AnyTask = Task[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A task to run, by the path of its module, with all that it was enqueued with.

    ``enqueued_at`` is naive UTC. ``attempt`` counts from 1.
    """

    path: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    queue_name: str
    priority: int
    run_after: datetime | timedelta | None
    is_async: bool
    enqueued_at: datetime
    retry: RetryPolicy | None
    attempt: int = 1

    @property
    def is_last(self) -> bool:
        """Whether no further attempt follows this one, should it fail."""
        return self.retry is None or self.attempt >= self.retry.max_number_of_attempts

    def following(self) -> Self:
        """Return the request for the next attempt."""
        return replace(self, attempt=self.attempt + 1)

    def to_json(self) -> dict[str, Any]:
        """Return the request as a JSON object."""
        data: dict[str, Any] = {
            "task": self.path,
            "args": self.args,
            "kwargs": self.kwargs,
            "backend": self.backend,
            "queue": self.queue_name,
            "priority": self.priority,
            "async": self.is_async,
            "enqueued_at": self.enqueued_at.isoformat(),
            "attempt": self.attempt,
        }
        if isinstance(self.run_after, timedelta):
            data["run_after"] = self.run_after.total_seconds()
        elif self.run_after is not None:
            data["run_after"] = self.run_after.isoformat()
        if self.retry is not None:
            data["retry"] = options.describe(self.retry)
        return data

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Rebuild the request that `to_json` has written.

        Raises:
            ValueError: It has not: anybody may start an orchestration of this name, with any input.
        """
        try:
            retry = data.get("retry")
            return cls(
                path=_text(data["task"]),
                args=[*data["args"]],
                kwargs={**data["kwargs"]},
                backend=_text(data["backend"]),
                queue_name=_text(data["queue"]),
                priority=int(data["priority"]),
                run_after=_run_after(data.get("run_after")),
                is_async=bool(data["async"]),
                enqueued_at=datetime.fromisoformat(data["enqueued_at"]),
                retry=None if retry is None else options.policy_of(retry),
                attempt=int(data["attempt"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is no task that a backend has enqueued: {error!r}") from error

    def task(self) -> AnyTask:
        """Return the task, as it was enqueued; in place of one that is gone, one that says so when called."""
        try:
            found = import_string(self.path)
        except Exception as error:  # noqa: BLE001 - a module may raise anything when it is imported
            return self._stand_in(f"it cannot be imported: {error}", error)
        if not isinstance(found, Task):
            kind = type(found).__name__
            return self._stand_in(f"what has its name now is no task of this framework, but a {kind}")
        return changed(found, **self._attributes)

    @property
    def _attributes(self) -> dict[str, Any]:
        return {
            "priority": self.priority,
            "queue_name": self.queue_name,
            "run_after": self.run_after,
            "backend": self.backend,
        }

    def _stand_in(self, reason: str, cause: Exception | None = None) -> AnyTask:
        message = f"Task {self.path!r} cannot be run: {reason}."

        def cannot_run(*_: object, **__: object) -> None:
            raise InvalidTask(message) from cause

        cannot_run.__module__, _, name = self.path.rpartition(".")
        cannot_run.__name__ = cannot_run.__qualname__ = name
        return _unchecked(Task, {"func": cannot_run, "takes_context": False, **self._attributes})


def changed(task: AnyTask, **attributes: Any) -> AnyTask:
    """Return a copy of a task with other attributes, unchecked.

    What was enqueued is past: today's settings may know neither its queue nor its backend any more.
    """
    present = {field.name: getattr(task, field.name) for field in fields(task)}
    return _unchecked(type(task), {**present, **attributes})


def _unchecked(cls: type[AnyTask], attributes: dict[str, Any]) -> AnyTask:
    task = object.__new__(cls)
    for name, value in attributes.items():
        object.__setattr__(task, name, value)  # Tasks are frozen, and their constructor checks.
    return task


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _run_after(value: Any) -> datetime | timedelta | None:
    if value is None:
        return None
    return datetime.fromisoformat(value) if isinstance(value, str) else timedelta(seconds=value)
