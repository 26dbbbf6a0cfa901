"""The demo project's settings, with tasks of Django's framework kept by this package."""

from __future__ import annotations

from testproject.settings import *  # noqa: F403

TASKS = {
    "default": {
        "BACKEND": "durable_django.contrib.django_tasks.DurableBackend",
        "QUEUES": ["default", "mail"],
    }
}
