"""Rewind: the history of a failed execution, without its failure and what the code made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from durable_django.core import events
from durable_django.core.decisions import SCHEDULING_EVENTS
from durable_django.core.events import HistoryEvent

_AWAITED = (
    events.TaskScheduledEvent,
    events.TimerCreatedEvent,
    events.SubOrchestrationInstanceCreatedEvent,
    events.EntityOperationCalledEvent,
    events.EntityLockRequestedEvent,
)


@dataclass(slots=True)
class Rewound:
    """What a rewind keeps, and what that leaves to do.

    ``kept`` are positions in the old history. ``open`` are the decisions, by task id, that have no result in
    what is kept: each must be under way, or is to be scheduled again. ``undone`` are the task ids of
    decisions that are gone: whatever still runs for them is nobody's any more. ``sections`` are the critical
    sections that the code is in again: the failure has released their locks. ``inside`` are the open
    decisions, by task id, that were taken in them, and where in the old history.
    """

    kept: list[int] = field(default_factory=list)
    open: dict[int, HistoryEvent] = field(default_factory=dict)
    undone: set[int] = field(default_factory=set)
    sections: list[events.EntityLockRequestedEvent] = field(default_factory=list)
    inside: dict[int, int] = field(default_factory=dict)


def rewind(history: Sequence[HistoryEvent]) -> Rewound:
    """Undo the failure at the end of ``history``.

    What goes is the end itself, the failed results that led to it, and whatever the code decided from there
    on, with its results. External events stay: the world has sent them, whatever the code made of them. A
    failed retry keeps its earlier attempts, so that one more is made and all numbers stay as they were.
    """
    end = history[-1] if history else None
    failed: set[int] = set()
    undo_from = len(history)
    if isinstance(end, events.ExecutionCompletedEvent):
        failed = set(end.failed_by or ())
        undo_from = len(history) if end.undo_from is None else end.undo_from
    released_from = _released_from(history)
    result = Rewound()
    decided_at: dict[int, int] = {}
    for position, event in enumerate(history):
        if isinstance(event, events.ExecutionCompletedEvent) or position in failed:
            continue
        if type(event) in SCHEDULING_EVENTS:
            if position >= min(undo_from, released_from):
                result.undone.add(event.event_id)
                continue
            if isinstance(event, _AWAITED):
                result.open[event.event_id] = event
                decided_at[event.event_id] = position
        elif (task_id := completed_task_id(event)) is not None:
            if task_id in result.undone:
                continue
            result.open.pop(task_id, None)
        result.kept.append(position)
    entered = _open_sections(history, result.kept)
    result.sections = [request for request, _ in entered]
    if entered:
        begin = min(position for _, position in entered)
        result.inside = {one: decided_at[one] for one in result.open if decided_at[one] > begin}
    return result


def _released_from(history: Sequence[HistoryEvent]) -> int:
    """Return from where on there is nothing but the releases of the end, and the end."""
    position = len(history)
    while position and isinstance(
        history[position - 1], events.EntityUnlockSentEvent | events.ExecutionCompletedEvent
    ):
        position -= 1
    return position


def _open_sections(
    history: Sequence[HistoryEvent], kept: Sequence[int]
) -> list[tuple[events.EntityLockRequestedEvent, int]]:
    """Return the requests of the critical sections that were entered and not left, and where they begin."""
    requested: dict[str, events.EntityLockRequestedEvent] = {}
    entered: dict[str, tuple[events.EntityLockRequestedEvent, int]] = {}
    for position in kept:
        match event := history[position]:
            case events.EntityLockRequestedEvent():
                requested[event.critical_section_id] = event
            case events.EntityLockGrantedEvent():
                if (section := event.critical_section_id) in requested:
                    entered.setdefault(section, (requested[section], position))
            case events.EntityUnlockSentEvent():
                entered.pop(event.critical_section_id, None)
    return list(entered.values())


def completed_task_id(event: HistoryEvent) -> int | None:
    """Return the id of the task that ``event`` completes, if it completes one."""
    match event:
        case events.TimerFiredEvent():
            return event.timer_id
        case (
            events.TaskCompletedEvent()
            | events.TaskFailedEvent()
            | events.SubOrchestrationInstanceCompletedEvent()
            | events.SubOrchestrationInstanceFailedEvent()
            | events.EntityOperationCompletedEvent()
            | events.EntityOperationFailedEvent()
            | events.EntityLockGrantedEvent()
        ):
            return event.task_scheduled_id
    return None
