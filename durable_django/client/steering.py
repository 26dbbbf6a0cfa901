"""Steering: what operators may do to an instance, in which statuses, and with which permission."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from durable_django.client.sync import DurableTaskClient
from durable_django.core.errors import OrchestrationStateConflictError
from durable_django.core.status import TERMINAL_STATUSES, OrchestrationStatus

_LIVE = frozenset({OrchestrationStatus.RUNNING, OrchestrationStatus.PENDING, OrchestrationStatus.SUSPENDED})


@dataclass(frozen=True, slots=True)
class Action:
    """Something that can be done to an instance.

    ``done`` is what has then happened to it, ``permission`` the codename of the permission that it takes,
    ``statuses`` are those in which it is possible. ``act`` does it: with a client, an instance id and options
    (``output``, ``recursive``, ``new_instance_id``, ``reason``).
    """

    done: str
    permission: str
    statuses: frozenset[OrchestrationStatus]
    act: Callable[[DurableTaskClient, str, Mapping[str, Any]], Any]

    def check(self, instance_id: str, status: OrchestrationStatus) -> None:
        """Do nothing if an instance's status allows it.

        Raises:
            OrchestrationStateConflictError: It does not.
        """
        if status not in self.statuses:
            needed = ", ".join(sorted(allowed.name for allowed in self.statuses))
            raise OrchestrationStateConflictError(
                f"Orchestration instance {instance_id!r} cannot be {self.done}: it is {status}, not {needed}."
            )


ACTIONS: Mapping[str, Action] = {
    "terminate": Action(
        "terminated",
        "terminate",
        _LIVE,
        lambda client, name, options: client.terminate_orchestration(
            name, output=options.get("output"), recursive=options.get("recursive", True)
        ),
    ),
    "suspend": Action(
        "suspended",
        "suspend",
        frozenset({OrchestrationStatus.RUNNING, OrchestrationStatus.PENDING}),
        lambda client, name, _: client.suspend_orchestration(name),
    ),
    "resume": Action(
        "resumed",
        "suspend",
        frozenset({OrchestrationStatus.SUSPENDED}),
        lambda client, name, _: client.resume_orchestration(name),
    ),
    "rewind": Action(
        "rewound",
        "rewind",
        frozenset({OrchestrationStatus.FAILED}),
        lambda client, name, options: client.rewind_orchestration(name, reason=options.get("reason") or None),
    ),
    "restart": Action(
        "restarted",
        "restart",
        TERMINAL_STATUSES,
        lambda client, name, options: client.restart_orchestration(
            name, restart_with_new_instance_id=options.get("new_instance_id", False)
        ),
    ),
    "purge": Action(
        "purged",
        "purge",
        TERMINAL_STATUSES,
        lambda client, name, options: client.purge_orchestration(
            name, recursive=options.get("recursive", True)
        ),
    ),
}
"""By the names that people know them by."""
