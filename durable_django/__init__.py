"""Durable workflows in Django's own database.

The names below are loaded when they are first used: importing the package imports neither Django nor the
engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_django import client, entities, history, scheduled, serialization, task, worker
    from durable_django.client import AsyncDurableTaskClient, DurableTaskClient
    from durable_django.core.decorators import activity, entity, orchestrator
    from durable_django.core.errors import DurableTaskError
    from durable_django.core.retry import RetryPolicy
    from durable_django.core.versioning import (
        VersionFailureStrategy,
        VersioningOptions,
        VersionMatchStrategy,
    )
    from durable_django.worker import (
        ActivityWorkItemFilter,
        ConcurrencyOptions,
        DurableTaskWorker,
        EntityWorkItemFilter,
        OrchestrationWorkItemFilter,
        WorkItemFilters,
    )

__version__ = "0.1.0"

__all__ = [
    "ActivityWorkItemFilter",
    "AsyncDurableTaskClient",
    "ConcurrencyOptions",
    "DurableTaskClient",
    "DurableTaskError",
    "DurableTaskWorker",
    "EntityWorkItemFilter",
    "OrchestrationWorkItemFilter",
    "RetryPolicy",
    "VersionFailureStrategy",
    "VersionMatchStrategy",
    "VersioningOptions",
    "WorkItemFilters",
    "activity",
    "client",
    "entities",
    "entity",
    "history",
    "orchestrator",
    "scheduled",
    "serialization",
    "task",
    "worker",
]

_SUBMODULES = frozenset({"client", "entities", "history", "scheduled", "serialization", "task", "worker"})
_MODULES = {
    "ActivityWorkItemFilter": "worker",
    "AsyncDurableTaskClient": "client",
    "ConcurrencyOptions": "worker",
    "DurableTaskClient": "client",
    "DurableTaskError": "core.errors",
    "DurableTaskWorker": "worker",
    "EntityWorkItemFilter": "worker",
    "OrchestrationWorkItemFilter": "worker",
    "RetryPolicy": "core.retry",
    "VersionFailureStrategy": "core.versioning",
    "VersionMatchStrategy": "core.versioning",
    "VersioningOptions": "core.versioning",
    "WorkItemFilters": "worker",
    "activity": "core.decorators",
    "entity": "core.decorators",
    "orchestrator": "core.decorators",
}

if not TYPE_CHECKING:  # A type checker that saw it would take any misspelt name for one of the package's.

    def __getattr__(name: str) -> object:
        """Load a public name and keep it (PEP 562)."""
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name in _MODULES:
            value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
