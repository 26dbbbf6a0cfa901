"""The states of an orchestration instance."""

from __future__ import annotations

from enum import Enum


class OrchestrationStatus(Enum):
    """Where an orchestration instance stands; the numbers are the Durable Task protocol's."""

    RUNNING = 0
    COMPLETED = 1
    CONTINUED_AS_NEW = 2
    FAILED = 3
    TERMINATED = 5
    PENDING = 6
    SUSPENDED = 7

    def __str__(self) -> str:
        return self.name

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can happen to the instance any more, short of a rewind or a restart."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset(
    {OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED}
)
