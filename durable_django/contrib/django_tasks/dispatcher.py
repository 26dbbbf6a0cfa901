"""The dispatcher: activities go to another backend of the Tasks framework, to be run there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from durable_django.conf import SETTING
from durable_django.contrib.django_tasks.activities import as_activity
from durable_django.contrib.django_tasks.backend import DurableBackend
from durable_django.contrib.django_tasks.framework import InvalidTaskBackend, task_backends
from durable_django.core.registry import ActivityRegistration, Registry
from durable_django.worker.dispatch import ActivityDispatcher, Handed


class TasksDispatcher(ActivityDispatcher):
    """Hands the activities of a queue to a backend of Django's Tasks framework, whose workers run them.

    ``OPTIONS`` may have, beside those of every dispatcher:

    - ``backend``: its alias in ``TASKS``, "default" by default.
    - ``queue_name``: the backend's queue, "default" by default.
    - ``tasks``: dotted paths of tasks that may be called as activities by these paths, in this queue, as
      `as_activity` has it.
    """

    def __init__(self, queue: str, options: Mapping[str, Any]) -> None:
        super().__init__(queue, options)
        self.backend: Any = self.options.pop("backend", "default")
        self.queue_name: Any = self.options.pop("queue_name", "default")
        self.tasks: Any = self.options.pop("tasks", ())

    def check(self) -> list[CheckMessage]:
        """Return what is wrong with the options."""
        problems = [f" has the unknown key {name!r}." for name in sorted(self.options)]
        try:
            backend = task_backends[self.backend]
        except InvalidTaskBackend as error:
            problems.append(f"['backend']: {error}")
        else:
            if isinstance(backend, DurableBackend):
                problems.append(
                    "['backend'] must be another engine: workers run this one's tasks themselves."
                )
            elif backend.queues and self.queue_name not in backend.queues:
                names = ", ".join(sorted(backend.queues))
                problems.append(
                    f"['queue_name'] must be one of the backend's ({names}), not {self.queue_name!r}."
                )
        try:
            list(self.activities())
        except (ImportError, TypeError, ValueError) as error:
            problems.append(f"['tasks']: {error}")
        where = f"{SETTING}['DISPATCHERS'][{self.queue!r}]['OPTIONS']"
        return [*super().check(), *(Error(where + text, id="durable_django.E006") for text in problems)]

    def activities(self) -> Iterable[ActivityRegistration]:
        """Return the tasks that may be called, as activities of this queue.

        Raises:
            ImportError: A path leads nowhere.
            TypeError: ``tasks`` is no list, or something in it no task.
        """
        if isinstance(self.tasks, str) or not isinstance(self.tasks, Iterable):
            raise TypeError(f"must be a list of dotted paths, not {self.tasks!r}")
        registry = Registry()
        for path in self.tasks:
            as_activity(import_string(path), name=path, queue=self.queue, registry=registry)
        return tuple(registry.activities.values())

    def dispatch(self, activities: Sequence[Handed]) -> None:
        """Enqueue a task for each activity."""
        # Not before: to be made, the task needs a backend, and the dispatchers.
        from durable_django.contrib.django_tasks.handed import run_activity

        task = run_activity.using(backend=self.backend, queue_name=self.queue_name)
        for handed in activities:
            # As text, since not all that stores JSON keeps integers of 63 bits.
            task.enqueue(handed.using, str(handed.token))
