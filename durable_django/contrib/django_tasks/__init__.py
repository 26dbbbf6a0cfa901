"""Django's Tasks framework on durable orchestrations: a backend for it, and its tasks as activities.

The framework is ``django.tasks`` from Django 6.0 on, and the package ``django-tasks`` before. In the
settings::

    TASKS = {"default": {"BACKEND": "durable_django.contrib.django_tasks.DurableBackend"}}

``as_activity(task)`` makes a task callable by orchestrators, and `TasksDispatcher` has the framework's other
backends run activities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_django.contrib.django_tasks.activities import as_activity
from durable_django.contrib.django_tasks.backend import DurableBackend

if TYPE_CHECKING:
    from durable_django.contrib.django_tasks.dispatcher import TasksDispatcher

__all__ = ["DurableBackend", "TasksDispatcher", "as_activity"]


def __getattr__(name: str) -> Any:
    # It needs models, and backends are made before there are any.
    if name == "TasksDispatcher":
        from durable_django.contrib.django_tasks.dispatcher import TasksDispatcher

        return TasksDispatcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
