"""Decisions: what an orchestrator's code wants, as data.

A decision is the scheduling event that it leaves in the history. While history is replayed, the code decides
everything once more, and each recorded event must find its twin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from durable_django.core import events
from durable_django.core.errors import FailureDetails, NonDeterminismError
from durable_django.core.events import HistoryEvent
from durable_django.core.failures import FailureLog
from durable_django.core.sites import Site
from durable_django.core.status import OrchestrationStatus


class Decision(NamedTuple):
    """A scheduling event that the code has decided on during replay, and where."""

    event: HistoryEvent
    site: Site | None


@dataclass(frozen=True, slots=True)
class ContinueAsNew:
    """How an execution goes on as a new one: its input, and the external events that it has not consumed."""

    input: str | None
    carried: tuple[events.EventRaisedEvent, ...] = ()


@dataclass(slots=True)
class End:
    """How the execution ended; ``trusted`` is False where code and history do not fit together."""

    status: OrchestrationStatus
    output: str | None = None
    failure: FailureDetails | None = None
    cause: BaseException | None = None
    continue_as_new: ContinueAsNew | None = None
    trusted: bool = True

    def takes_in(self, event: HistoryEvent) -> bool:
        """Tell whether ``event``, which came too late for the code, goes into the history all the same.

        A failure may be rewound, and the world does not send its events twice.
        """
        if not self.trusted:
            return True
        return self.status is OrchestrationStatus.FAILED and isinstance(event, events.EventRaisedEvent)

    def carry(self, unseen: Iterable[HistoryEvent]) -> None:
        """Let the next execution, if one follows, have the external events that the code has not seen."""
        following = self.continue_as_new
        if following is not None:
            raised = [event for event in unseen if isinstance(event, events.EventRaisedEvent)]
            self.continue_as_new = replace(following, carried=(*following.carried, *raised))

    def as_event(self, now: datetime, failures: FailureLog, last_step: int) -> HistoryEvent:
        """Return what the history is to say of it; ``last_step`` is where the code's last decisions begin."""
        if self.continue_as_new is not None:
            return events.ContinueAsNewEvent(-1, now, self.continue_as_new.input)
        event = events.ExecutionCompletedEvent(-1, now, self.status.value, self.output, self.failure)
        if self.cause is not None and self.trusted:
            event.failed_by, event.undo_from = failures.blame(self.cause, last_step)
        return event


@dataclass(slots=True)
class TurnOutcome:
    """All that one turn of one execution changes.

    ``events`` are the rows to append, in order: what came in and what was decided. The first ``consumed`` of
    the events fed are among them; the rest the code has not seen. Scheduling events say what to create;
    timers in ``cancelled_timers`` are to be deleted, or not to be created at all. ``custom_status`` is what
    it is now, changed or not, if this execution has ever set it (``sets_custom_status``). ``waiting_for``
    names the external events that the code waits for. ``may_hold_locks`` says that the code could not be
    asked what it has locked.
    """

    status: OrchestrationStatus
    events: list[HistoryEvent] = field(default_factory=list)
    consumed: int = 0
    output: str | None = None
    failure: FailureDetails | None = None
    custom_status: str | None = None
    sets_custom_status: bool = False
    waiting_for: list[str] = field(default_factory=list)
    cancelled_timers: list[int] = field(default_factory=list)
    has_open_timers: bool = False
    may_hold_locks: bool = False
    continue_as_new: ContinueAsNew | None = None


_CALLS: dict[type[HistoryEvent], str] = {
    events.TaskScheduledEvent: "call_activity",
    events.TimerCreatedEvent: "create_timer",
    events.SubOrchestrationInstanceCreatedEvent: "call_sub_orchestrator",
    events.EventSentEvent: "send_event",
    events.EntityOperationCalledEvent: "call_entity",
    events.EntityOperationSignaledEvent: "signal_entity",
    events.EntityLockRequestedEvent: "lock_entities",
    events.EntityUnlockSentEvent: "the end of a critical section",
}

SCHEDULING_EVENTS = frozenset(_CALLS)

_REMEDY = (
    "The orchestrator's code is not deterministic, or it was changed while this instance was running: give "
    "the changed code a new version, or restore the old order of its calls."
)


def check_same(recorded: HistoryEvent, decided: Decision | None, waiting_at: Site | None) -> None:
    """Check that the code has decided again what the history says it decided.

    ``waiting_at`` is where the code is now, for a decision that it has not made.

    Raises:
        NonDeterminismError: It has not; the message has event, expectation, finding and the line.
    """
    if decided is None:
        found, site = "the code does not make this call", waiting_at
    elif describe(recorded) == describe(decided.event):
        return
    else:
        found, site = f"the code now makes {describe(decided.event)}", decided.site
    where = f" at {site}" if site else ""
    raise NonDeterminismError(
        f"History and code differ at task #{recorded.event_id} ({type(recorded).__name__}): "
        f"expected {describe(recorded)}, found that {found}{where}. {_REMEDY}"
    )


def describe(event: HistoryEvent) -> str:
    """Return what replay compares of a scheduling event, in words."""
    call = _CALLS[type(event)]
    match event:
        case events.TaskScheduledEvent() | events.EventSentEvent():
            target = f" to {event.instance_id!r}" if isinstance(event, events.EventSentEvent) else ""
            return f"{call}({event.name!r}){target}"
        case events.SubOrchestrationInstanceCreatedEvent():
            return f"{call}({event.name!r}) with instance_id={event.instance_id!r}"
        case events.EntityOperationCalledEvent() | events.EntityOperationSignaledEvent():
            return f"{call}({event.target_instance_id!r}, {event.operation!r})"
        case events.EntityLockRequestedEvent():
            return f"{call}({event.lock_set!r})"
        case events.EntityUnlockSentEvent():
            return f"{call} for {event.target_instance_id!r}"
    return call
