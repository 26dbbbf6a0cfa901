"""Clients: they start orchestrations, ask about them and steer them."""

from __future__ import annotations

from durable_django.client.asynchronous import AsyncDurableTaskClient
from durable_django.client.sync import DurableTaskClient
from durable_django.client.types import (
    CleanEntityStorageResult,
    EntityQuery,
    OrchestrationIdReusePolicy,
    OrchestrationQuery,
    OrchestrationState,
    Page,
    PurgeInstancesResult,
)
from durable_django.core.errors import (
    DurableTaskError,
    OrchestrationAlreadyExistsError,
    OrchestrationFailedError,
    OrchestrationNotFoundError,
    OrchestrationStateConflictError,
)
from durable_django.core.status import OrchestrationStatus

__all__ = [
    "AsyncDurableTaskClient",
    "CleanEntityStorageResult",
    "DurableTaskClient",
    "DurableTaskError",
    "EntityQuery",
    "OrchestrationAlreadyExistsError",
    "OrchestrationFailedError",
    "OrchestrationIdReusePolicy",
    "OrchestrationNotFoundError",
    "OrchestrationQuery",
    "OrchestrationState",
    "OrchestrationStateConflictError",
    "OrchestrationStatus",
    "Page",
    "PurgeInstancesResult",
]

for _public in (
    AsyncDurableTaskClient,
    CleanEntityStorageResult,
    DurableTaskClient,
    EntityQuery,
    OrchestrationIdReusePolicy,
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStatus,
    Page,
    PurgeInstancesResult,
):
    _public.__module__ = __name__  # where users import them from
del _public
