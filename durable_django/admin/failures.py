"""Why an instance has failed: the failures behind the one that its orchestrator let through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_django.core import events
from durable_django.store.monitoring import Recorded

_MOST = 5


def causes(history: Sequence[Recorded]) -> list[dict[str, Any]]:
    """Return what its activities and sub-orchestrations have failed with, where that made the instance fail.

    Their stack traces tell where to look; the instance's own ends where the orchestrator waited for them.
    """
    end = history[-1].event if history else None
    if not isinstance(end, events.ExecutionCompletedEvent):
        return []
    positions = set((end.failed_by or ())[-_MOST:])
    return [
        recorded.event.failure_details.to_dict()
        for recorded in history
        if recorded.sequence in positions
        and isinstance(recorded.event, events.TaskFailedEvent | events.SubOrchestrationInstanceFailedEvent)
        and recorded.event.failure_details is not None
    ]
