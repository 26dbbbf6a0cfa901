"""Log lines about what happens to orchestrations, for whoever watches a worker at a terminal."""

from __future__ import annotations

import logging
from typing import Any

from durable_django import signals

logger = logging.getLogger("durable_django.worker")


def narrate(*, everything: bool = False) -> None:
    """Log what fails and, with ``everything``, what starts and completes too."""
    signals.orchestration_failed.connect(_failed)
    signals.activity_failed.connect(_activity_failed)
    if everything:
        signals.orchestration_started.connect(_started)
        signals.orchestration_completed.connect(_completed)


def _started(*, name: str, instance_id: str, **_: Any) -> None:
    logger.info("%s %s started", name, instance_id)


def _completed(*, name: str, instance_id: str, **_: Any) -> None:
    logger.info("%s %s completed", name, instance_id)


def _failed(*, name: str, instance_id: str, failure_details: Any, **_: Any) -> None:
    logger.warning(
        "%s %s failed: %s: %s", name, instance_id, failure_details.error_type, failure_details.message
    )


def _activity_failed(*, name: str, instance_id: str, task_id: int, failure_details: Any, **_: Any) -> None:
    logger.warning(
        "Activity %s (#%s of %s) failed: %s: %s",
        name,
        task_id,
        instance_id,
        failure_details.error_type,
        failure_details.message,
    )
