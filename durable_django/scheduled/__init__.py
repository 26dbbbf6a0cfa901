"""Recurring orchestrations: schedules, which are entities, and their clients.

The names below are loaded when they are first used: the definitions need no Django.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_django.scheduled.client import (
        AsyncScheduleClient,
        AsyncScheduledTaskClient,
        ScheduleClient,
        ScheduledTaskClient,
    )
    from durable_django.scheduled.errors import (
        ScheduleClientValidationError,
        ScheduleError,
        ScheduleInvalidTransitionError,
        ScheduleNotFoundError,
    )
    from durable_django.scheduled.options import (
        ScheduleCreationOptions,
        ScheduleDescription,
        ScheduleQuery,
        ScheduleStatus,
        ScheduleUpdateOptions,
    )

__all__ = [
    "AsyncScheduleClient",
    "AsyncScheduledTaskClient",
    "ScheduleClient",
    "ScheduleClientValidationError",
    "ScheduleCreationOptions",
    "ScheduleDescription",
    "ScheduleError",
    "ScheduleInvalidTransitionError",
    "ScheduleNotFoundError",
    "ScheduleQuery",
    "ScheduleStatus",
    "ScheduleUpdateOptions",
    "ScheduledTaskClient",
]

_CLIENT = frozenset(
    {"AsyncScheduleClient", "AsyncScheduledTaskClient", "ScheduleClient", "ScheduledTaskClient"}
)

if not TYPE_CHECKING:  # A type checker that saw it would take any misspelt name for one of the package's.

    def __getattr__(name: str) -> object:
        """Load a public name and keep it (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "client" if name in _CLIENT else "errors" if name.endswith("Error") else "options"
        value = getattr(import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
