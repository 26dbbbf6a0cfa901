"""The worker: what moves orchestrations and runs activities."""

from durable_django.core.errors import (
    ActivityNotRegisteredError,
    EntityNotRegisteredError,
    OrchestratorNotRegisteredError,
)
from durable_django.core.versioning import (
    VersionFailureStrategy,
    VersioningOptions,
    VersionMatchStrategy,
)
from durable_django.worker.guard import DatabaseAccessError
from durable_django.worker.options import (
    ActivityWorkItemFilter,
    ConcurrencyOptions,
    EntityWorkItemFilter,
    OrchestrationWorkItemFilter,
    WorkItemFilters,
)
from durable_django.worker.worker import DurableTaskWorker

__all__ = [
    "ActivityNotRegisteredError",
    "ActivityWorkItemFilter",
    "ConcurrencyOptions",
    "DatabaseAccessError",
    "DurableTaskWorker",
    "EntityNotRegisteredError",
    "EntityWorkItemFilter",
    "OrchestrationWorkItemFilter",
    "OrchestratorNotRegisteredError",
    "VersionFailureStrategy",
    "VersionMatchStrategy",
    "VersioningOptions",
    "WorkItemFilters",
]
