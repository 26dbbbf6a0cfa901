"""Tasks: what an orchestrator's code waits for.

A task is completed by the engine alone. ``yield task`` in a generator and ``await task`` in an ``async def``
orchestrator do the same: the code goes on when the task is complete, with its result or its exception.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from durable_django.core.errors import FailureDetails, TaskCancelledError, TaskFailedError
from durable_django.core.retry import RetryPolicy, check_retry_policy

T = TypeVar("T")


class Task(ABC, Generic[T]):
    """Something that will be complete one day, with a result or a failure."""

    def __init__(self) -> None:
        self._is_complete = False
        self._result: T | None = None
        self._exception: Exception | None = None
        self._parents: list[CompositeTask[Any]] = []
        self._on_observed: set[Callable[[], None]] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is a result, a failure or a cancellation."""
        if self._is_complete:
            self._observe()
        return self._is_complete

    @property
    def is_failed(self) -> bool:
        """Whether the task is complete and failed."""
        if self._exception is None:
            return False
        self._observe()
        return True

    @property
    def result(self) -> T:
        """The result; see `get_result`."""
        return self.get_result()

    def get_result(self) -> T:
        """Return the result.

        Raises:
            ValueError: The task is not complete.
            TaskFailedError: The task failed.
            TaskCancelledError: The task was cancelled.
        """
        if not self._is_complete:
            raise ValueError("The task is not complete yet: yield or await it before you ask for its result.")
        self._observe()
        if self._exception is not None:
            raise self._exception
        return cast(T, self._result)

    def get_exception(self) -> Exception:
        """Return the exception of a failed task.

        Raises:
            ValueError: The task has not failed.
        """
        if self._exception is None:
            raise ValueError("The task has not failed: it has no exception.")
        self._observe()
        return self._exception

    def __await__(self) -> Generator[Task[T], T, T]:
        return (yield self)

    def _observe(self) -> None:
        """Note that the code knows of the failures behind this: a rewind undoes what it did from here on.

        To see that a task is complete is enough: the code may act upon that alone.
        """
        if self._on_observed is not None:
            notes, self._on_observed = self._on_observed, None
            for note in notes:
                note()

    def _settle(self, result: T | None, exception: Exception | None) -> None:
        """Complete, and with it the composites that waited for this alone; they nest to any depth."""
        self._set(result, exception)
        pending = self._take_parents()
        while pending:
            child, parent = pending.pop()
            parent.on_child_completed(child)
            if parent._is_complete:
                pending += parent._take_parents()

    def _set(self, result: T | None, exception: Exception | None) -> None:
        self._is_complete = True
        self._result = result
        self._exception = exception

    def _take_parents(self) -> list[tuple[Task[Any], CompositeTask[Any]]]:
        """Return this task with each composite that waits for it, the last one first."""
        parents, self._parents = self._parents, []
        return [(self, parent) for parent in reversed(parents)]


class CompletableTask(Task[T]):
    """A task that completes on its own: an activity, a child, a timer, an event.

    ``expected_type`` is what its result is rebuilt as; ``None`` leaves the plain JSON value.
    """

    def __init__(self, expected_type: Any = None) -> None:
        super().__init__()
        self._expected_type = expected_type

    def complete(self, result: T) -> None:
        """Complete with ``result``.

        Raises:
            ValueError: The task is complete already.
        """
        self._check_open()
        self._settle(result, None)

    def fail(self, message: str, details: Exception | FailureDetails) -> None:
        """Complete with a `TaskFailedError` of this message and these details.

        Raises:
            ValueError: The task is complete already.
        """
        self._check_open()
        self._settle(None, TaskFailedError(message, details))

    def _check_open(self) -> None:
        if self._is_complete:
            raise ValueError("The task is already complete.")


class CancellableTask(CompletableTask[T]):
    """A task that the code may stop waiting for."""

    def __init__(self, expected_type: Any = None) -> None:
        super().__init__(expected_type)
        self._is_cancelled = False
        self._cancel_handler: Callable[[], None] | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` came before completion."""
        return self._is_cancelled

    def set_cancel_handler(self, cancel_handler: Callable[[], None]) -> None:
        """Set what is called, once, when the task is cancelled."""
        self._cancel_handler = cancel_handler

    def cancel(self) -> bool:
        """Cancel the task; False if it was complete already.

        A cancelled task is complete: whoever yields it, or asks for its result, gets `TaskCancelledError`.
        """
        if self._is_complete:
            return False
        if self._cancel_handler is not None:
            self._cancel_handler()
        self._is_cancelled = True
        self._settle(None, TaskCancelledError("The task was cancelled."))
        return True

    @property
    def is_failed(self) -> bool:
        """Whether the task failed; a cancelled one did not."""
        return not self._is_cancelled and super().is_failed

    def get_exception(self) -> Exception:
        """Return the exception of a failed task.

        Raises:
            ValueError: The task has not failed; being cancelled is no failure.
        """
        if self._is_cancelled:
            raise ValueError("The task was cancelled, which is no failure: it has no exception.")
        return super().get_exception()


class TimerTask(CancellableTask[None]):
    """A durable timer. A long one is a chain of shorter ones, each with an id of its own."""

    def __init__(self, final_fire_at: datetime | None = None, then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._final_fire_at = final_fire_at
        self._then = then  # What the engine does when the timer fires: a retry's next attempt.


class RetryableTask(CompletableTask[T]):
    """An activity or a child with a retry policy: complete when an attempt succeeds or none is left."""

    def __init__(self, retry_policy: RetryPolicy, start_time: datetime, expected_type: Any = None) -> None:
        check_retry_policy(retry_policy)
        super().__init__(expected_type)
        self._retry_policy = retry_policy
        self._start_time = start_time
        self._attempts = 1


class CompositeTask(Task[T]):
    """A task made of others. They may be complete already, be composites, or belong to several composites."""

    def __init__(self, tasks: Sequence[Task[Any]]) -> None:
        super().__init__()
        self._tasks = list(tasks)
        for position, task in enumerate(self._tasks):
            if not isinstance(task, Task):
                raise TypeError(f"tasks[{position}] is not a task but {type(task).__name__}: {task!r}")
        for task in self._tasks:
            if task._is_complete:
                self.on_child_completed(task)
            elif not self._is_complete:
                task._parents.append(self)

    def get_tasks(self) -> list[Task[Any]]:
        """Return the tasks that this one is made of, in the order given."""
        return list(self._tasks)

    def _include(self, task: Task[Any]) -> None:
        """Make seeing this composite mean seeing the failures behind ``task``, too."""
        if task._on_observed is not None:
            if self._on_observed is None:
                self._on_observed = set()
            self._on_observed |= task._on_observed

    @abstractmethod
    def on_child_completed(self, task: Task[Any]) -> None:
        """Take note that ``task``, one of this composite's, is complete."""


class WhenAllTask(CompositeTask[list[T]]):
    """Complete when all tasks are: with their results in order, or with the first failure."""

    def __init__(self, tasks: Sequence[Task[T]]) -> None:
        self._pending = len(tasks)
        self._first_failed: Task[Any] | None = None
        super().__init__(tasks)
        if not tasks:
            self._set([], None)

    @property
    def pending_tasks(self) -> int:
        """How many of the tasks are not complete."""
        self._observe()
        return self._pending

    def get_completed_tasks(self) -> int:
        """Return how many of the tasks are complete."""
        return len(self._tasks) - self.pending_tasks

    def on_child_completed(self, task: Task[Any]) -> None:
        """Count ``task``; the last one completes the composite."""
        self._include(task)
        self._pending -= 1
        if task._exception is not None and self._first_failed is None:
            self._first_failed = task
        if self._pending:
            return
        failed = self._first_failed
        if failed is None:
            self._set([cast(T, child._result) for child in self._tasks], None)
        else:
            self._set(None, failed._exception)


class WhenAnyTask(CompositeTask[Task[T]]):
    """Complete when one task is: with that task, which the code then asks for its result."""

    def __init__(self, tasks: Sequence[Task[T]]) -> None:
        if not tasks:
            raise ValueError("when_any() needs at least one task: with none it would never complete.")
        super().__init__(tasks)

    def on_child_completed(self, task: Task[Any]) -> None:
        """Take ``task`` for the winner if it is the first."""
        if self._is_complete:
            return
        for loser in self._tasks:
            # A loser may be waited for again and again, in a loop: it must not collect every race it lost.
            loser._parents = [parent for parent in loser._parents if parent is not self]
        self._include(task)
        self._set(task, None)


def when_all(tasks: Sequence[Task[T]]) -> WhenAllTask[T]:
    """Return a task that is complete when all ``tasks`` are.

    Its result is the list of theirs, in the same order. If some failed, it raises the failure that came
    first, after all are complete. With no tasks it is complete at once, with ``[]``.

    Raises:
        TypeError: Something in ``tasks`` is not a task.
    """
    return WhenAllTask(list(tasks))


def when_any(tasks: Sequence[Task[T]]) -> WhenAnyTask[T]:
    """Return a task that is complete as soon as one of ``tasks`` is, and whose result is that task.

    It never raises what the winner failed with; ask the winner. The others go on and can be waited for again.

    Raises:
        TypeError: Something in ``tasks`` is not a task.
        ValueError: ``tasks`` is empty.
    """
    return WhenAnyTask(list(tasks))
