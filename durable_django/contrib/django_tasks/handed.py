"""The task that a `TasksDispatcher` enqueues for each activity. Whoever runs it imports this module."""

from __future__ import annotations

from durable_django.contrib.django_tasks.dispatcher import TasksDispatcher
from durable_django.contrib.django_tasks.framework import task
from durable_django.worker.dispatch import dispatchers
from durable_django.worker.remote import execute_activity

_ENGINE = "django-tasks"

# A task is checked against its backend as it is made, so that it is made for one that is in use.
_first = next((found for found in dispatchers().values() if isinstance(found, TasksDispatcher)), None)
_backend: str = "default" if _first is None else _first.backend
_queue_name: str = "default" if _first is None else _first.queue_name


@task(backend=_backend, queue_name=_queue_name)
def run_activity(using: str, token: str) -> bool:
    """Run an activity that was handed over, and return whether its result was recorded."""
    return execute_activity(using, int(token), engine=_ENGINE)
