"""What orchestrators and activities are written with.

Code written for the Durable Task SDK runs after ``from durabletask import task`` has become
``from durable_django import task``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durable_django.core.context import ActivityContext, OrchestrationContext, ReplaySafeLogger
from durable_django.core.errors import (
    DurableTaskError,
    FailureDetails,
    NonDeterminismError,
    OrchestrationStateError,
    TaskCancelledError,
    TaskFailedError,
)
from durable_django.core.registry import get_entity_name, get_name
from durable_django.core.retry import RetryPolicy
from durable_django.core.tasks import (
    CancellableTask,
    CompletableTask,
    CompositeTask,
    RetryableTask,
    Task,
    TimerTask,
    WhenAllTask,
    WhenAnyTask,
    when_all,
    when_any,
)

Orchestrator = Callable[..., Any]
"""``fn(ctx, input)``: a generator function, an ``async def`` or a plain function."""

Activity = Callable[..., Any]
"""``fn(ctx, input)``: a plain function or an ``async def``."""

Entity = Callable[..., Any]
"""``fn(ctx, input)``, or a class."""

__all__ = [
    "Activity",
    "ActivityContext",
    "CancellableTask",
    "CompletableTask",
    "CompositeTask",
    "DurableTaskError",
    "Entity",
    "FailureDetails",
    "NonDeterminismError",
    "OrchestrationContext",
    "OrchestrationStateError",
    "Orchestrator",
    "ReplaySafeLogger",
    "RetryPolicy",
    "RetryableTask",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "TimerTask",
    "WhenAllTask",
    "WhenAnyTask",
    "get_entity_name",
    "get_name",
    "when_all",
    "when_any",
]
