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
    decisions that are gone: whatever still runs for them is nobody's any more.
    """

    kept: list[int] = field(default_factory=list)
    open: dict[int, HistoryEvent] = field(default_factory=dict)
    undone: set[int] = field(default_factory=set)


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
    result = Rewound()
    for position, event in enumerate(history):
        if isinstance(event, events.ExecutionCompletedEvent) or position in failed:
            continue
        if type(event) in SCHEDULING_EVENTS:
            if position >= undo_from:
                result.undone.add(event.event_id)
                continue
            if isinstance(event, _AWAITED):
                result.open[event.event_id] = event
        elif (task_id := completed_task_id(event)) is not None:
            if task_id in result.undone:
                continue
            result.open.pop(task_id, None)
        result.kept.append(position)
    return result


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
