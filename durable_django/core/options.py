"""What an execution needs to know besides its history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from durable_django.core.annotations import return_type
from durable_django.core.ids import check_name
from durable_django.core.registry import (
    ActivityRegistration,
    OrchestratorRegistration,
    Registry,
    get_name,
    registration_of,
)
from durable_django.core.serialization import PayloadCodec

DEFAULT_MAXIMUM_TIMER_INTERVAL = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """The registry and the settings under which executions run.

    ``maximum_timer_interval`` is the longest single timer, None for no limit; ``default_version`` is given to
    children that are called without one.
    """

    registry: Registry
    codec: PayloadCodec = field(default_factory=PayloadCodec)
    maximum_timer_interval: timedelta | None = DEFAULT_MAXIMUM_TIMER_INTERVAL
    default_version: str | None = None

    def activity_called(self, activity: Callable[..., Any] | str) -> tuple[str, ActivityRegistration | None]:
        """Return an activity's name and its options, as far as they are known here."""
        name = check_name("activity", activity) if isinstance(activity, str) else get_name(activity)
        if registered := self.registry.activities.get(name):
            return name, registered
        declared = registration_of(activity)
        return name, declared if isinstance(declared, ActivityRegistration) else None

    def orchestrator_called(
        self, orchestrator: Callable[..., Any] | str
    ) -> tuple[str, OrchestratorRegistration | None]:
        """Return an orchestrator's name and its options, as far as they are known here."""
        if isinstance(orchestrator, str):
            name = check_name("orchestrator", orchestrator)
        else:
            name = get_name(orchestrator)
        if registered := self.registry.orchestrators.get(name):
            return name, registered
        declared = registration_of(orchestrator)
        return name, declared if isinstance(declared, OrchestratorRegistration) else None

    def result_type(self, function: Callable[..., Any] | str, explicit: Any) -> Any:
        """Return what a result is rebuilt as: ``explicit``, else what the function's annotation says."""
        if explicit is not None:
            return explicit
        return None if isinstance(function, str) else return_type(function, self.codec.converter)
