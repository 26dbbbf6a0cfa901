"""What django-q2 calls, by dotted path."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from durable_django.client import DurableTaskClient
from durable_django.core.errors import OrchestrationAlreadyExistsError
from durable_django.worker import remote

logger = logging.getLogger("durable_django.worker")

ENGINE = "django-q2"
"""What histories name as the one that has run an activity, with host and process id."""


def execute_activity(using: str, token: int) -> bool:
    """Run an activity that `DjangoQDispatcher` has handed over; raises and returns as its namesake does.

    See `durable_django.worker.remote.execute_activity`.
    """
    return remote.execute_activity(using, token, engine=ENGINE)


def start_orchestration(
    name: str,
    input: Any = None,
    instance_id: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    intended_date: str | None = None,
) -> str:
    """Start an orchestration, as the ``func`` of a `django_q.models.Schedule`, and return its instance id.

    django-q2 may deliver a task twice. Where there is an orchestration with this ``instance_id`` already,
    nothing is started. So that each run of a schedule has an id of its own, let the schedule give
    ``intended_date``, by ``intended_date_kwarg="intended_date"``: it is appended to the id, or to the name if
    there is no id.

    Raises:
        PayloadError: The input is too large, or no database holds it.
        TypeError: The input cannot be serialized, or an argument is of the wrong type.
        ValueError: The id, the name or another argument is out of bounds.
    """
    if intended_date is not None:
        instance_id = f"{instance_id or name}@{intended_date}"
    client = DurableTaskClient()
    try:
        return client.schedule_new_orchestration(
            name, input=input, instance_id=instance_id, queue=queue, priority=priority, tags=tags
        )
    except OrchestrationAlreadyExistsError:
        assert instance_id is not None  # Others are random.
        logger.info("Orchestration %s is there already: nothing is started", instance_id)
        return instance_id
