"""Django's Tasks framework on durable orchestrations: a backend for it, and its tasks as activities.

The framework is ``django.tasks`` from Django 6.0 on, and the package ``django-tasks`` before. In the
settings::

    TASKS = {"default": {"BACKEND": "durable_django.contrib.django_tasks.DurableBackend"}}

``as_activity(task)`` makes a task callable by orchestrators.
"""

from durable_django.contrib.django_tasks.activities import as_activity
from durable_django.contrib.django_tasks.backend import DurableBackend

__all__ = ["DurableBackend", "as_activity"]
