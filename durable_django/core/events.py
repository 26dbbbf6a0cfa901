"""The history events: what has happened to one execution of an orchestration.

An execution's history is the list of these, in order. Three sorts matter to the engine:

* *scheduling* events record a decision of the orchestrator's code (an activity, a timer, a child ...). They
  carry their task id as ``event_id``; replay compares them with what the code decides now.
* *incoming* events are what the world answered: results, fired timers, external events. Those that complete a
  task name it (``task_scheduled_id`` or ``timer_id``) and have ``event_id`` -1.
* *control* events (suspended, resumed, rewound ...) are the trail of what an operator did.

Payloads are JSON text, exactly as they are stored. Timestamps are naive UTC.

Every class says, in ``ROW``, which of its fields a store keeps in columns of their own; the others are rare
and travel together.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from durable_django.core.errors import FailureDetails


class Row(NamedTuple):
    """The fields of an event that have columns of their own."""

    task_id: str | None = None
    name: str | None = None
    data: str | None = None


@dataclass(slots=True)
class OrchestrationInstance:
    """Names one execution of one instance."""

    instance_id: str
    execution_id: str | None = None


@dataclass(slots=True)
class ParentInstanceInfo:
    """Who started a sub-orchestration, and as which of its tasks."""

    task_scheduled_id: int
    name: str | None = None
    version: str | None = None
    orchestration_instance: OrchestrationInstance | None = None


@dataclass(slots=True)
class TraceContext:
    """A W3C trace context."""

    trace_parent: str
    span_id: str
    trace_state: str | None = None


@dataclass(slots=True)
class HistoryEvent:
    """What all events share: the task id of a scheduling event (else -1) and the turn's time, naive UTC."""

    ROW: ClassVar[Row] = Row()
    NOTHING: ClassVar[None] = None
    """Stands where a row has no field of the event's."""

    event_id: int
    timestamp: datetime

    def to_dict(self) -> dict[str, Any]:
        """The event's fields as plain values; times in ISO 8601."""
        return to_dict(self)


@dataclass(slots=True)
class ExecutionStartedEvent(HistoryEvent):
    """The first event of every execution."""

    ROW: ClassVar[Row] = Row(name="name", data="input")

    name: str
    version: str | None = None
    input: str | None = None
    orchestration_instance: OrchestrationInstance | None = None
    parent_instance: ParentInstanceInfo | None = None
    scheduled_start_timestamp: datetime | None = None
    parent_trace_context: TraceContext | None = None
    orchestration_span_id: str | None = None
    tags: dict[str, str] | None = None


@dataclass(slots=True)
class ExecutionCompletedEvent(HistoryEvent):
    """The end of an execution, good or bad.

    ``failed_by`` and ``undo_from`` are for a later rewind: the positions in this history of the failures that
    the code did not survive, and the position from which on the code acted upon them.
    """

    ROW: ClassVar[Row] = Row(data="result")

    orchestration_status: int
    result: str | None = None
    failure_details: FailureDetails | None = None
    failed_by: list[int] | None = None
    undo_from: int | None = None


@dataclass(slots=True)
class ExecutionTerminatedEvent(HistoryEvent):
    """Somebody terminated the instance; ``input`` is the output that they gave it."""

    ROW: ClassVar[Row] = Row(data="input")

    input: str | None = None
    recurse: bool = False


@dataclass(slots=True)
class ExecutionSuspendedEvent(HistoryEvent):
    """Somebody suspended the instance."""

    ROW: ClassVar[Row] = Row(data="input")

    input: str | None = None


@dataclass(slots=True)
class ExecutionResumedEvent(HistoryEvent):
    """Somebody resumed the instance."""

    ROW: ClassVar[Row] = Row(data="input")

    input: str | None = None


@dataclass(slots=True)
class ExecutionRewoundEvent(HistoryEvent):
    """The failed execution before this one was rewound into it.

    ``sections`` are the critical sections that its code is in: it goes on when their locks are granted again.
    """

    reason: str | None = None
    parent_execution_id: str | None = None
    instance_id: str | None = None
    parent_trace_context: TraceContext | None = None
    name: str | None = None
    version: str | None = None
    input: str | None = None
    parent_instance: ParentInstanceInfo | None = None
    tags: dict[str, str] | None = None
    sections: list[str] | None = None


@dataclass(slots=True)
class TaskScheduledEvent(HistoryEvent):
    """The code called an activity; a retry has one of these for each attempt, all with the same id.

    ``local`` is True where the activity was a local one at that time, else None.
    """

    ROW: ClassVar[Row] = Row(task_id="event_id", name="name", data="input")

    name: str
    version: str | None = None
    input: str | None = None
    parent_trace_context: TraceContext | None = None
    tags: dict[str, str] | None = None
    queue: str | None = None
    priority: int | None = None
    local: bool | None = None
    limit_key: str | None = None


@dataclass(slots=True)
class TaskCompletedEvent(HistoryEvent):
    """An activity's result, with who ran it and when (``None`` where that was not recorded)."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id", data="result")

    task_scheduled_id: int
    result: str | None = None
    worker: str | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(slots=True)
class TaskFailedEvent(HistoryEvent):
    """An activity raised an exception, or could not be run."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id")

    task_scheduled_id: int
    failure_details: FailureDetails | None = None
    worker: str | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(slots=True)
class SubOrchestrationInstanceCreatedEvent(HistoryEvent):
    """The code started a child."""

    ROW: ClassVar[Row] = Row(task_id="event_id", name="name", data="input")

    instance_id: str
    name: str
    version: str | None = None
    input: str | None = None
    parent_trace_context: TraceContext | None = None
    tags: dict[str, str] | None = None
    queue: str | None = None
    priority: int | None = None


@dataclass(slots=True)
class SubOrchestrationInstanceCompletedEvent(HistoryEvent):
    """A child's result."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id", data="result")

    task_scheduled_id: int
    result: str | None = None


@dataclass(slots=True)
class SubOrchestrationInstanceFailedEvent(HistoryEvent):
    """A child failed, was terminated, or could not be started."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id")

    task_scheduled_id: int
    failure_details: FailureDetails | None = None


@dataclass(slots=True)
class TimerCreatedEvent(HistoryEvent):
    """The code (or a retry policy) started a durable timer.

    A long one is made of pieces: this is one of them, and ``final_fire_at`` is the end of the last.
    """

    ROW: ClassVar[Row] = Row(task_id="event_id")

    fire_at: datetime
    final_fire_at: datetime | None = None


@dataclass(slots=True)
class TimerFiredEvent(HistoryEvent):
    """A durable timer fired."""

    ROW: ClassVar[Row] = Row(task_id="timer_id")

    fire_at: datetime
    timer_id: int


@dataclass(slots=True)
class OrchestratorStartedEvent(HistoryEvent):
    """A turn began. Never stored: derived from the turn's number when a history is read."""


@dataclass(slots=True)
class OrchestratorCompletedEvent(HistoryEvent):
    """A turn ended. Never stored, like its twin."""


@dataclass(slots=True)
class EventSentEvent(HistoryEvent):
    """The code sent an external event to another instance."""

    ROW: ClassVar[Row] = Row(task_id="event_id", name="name", data="input")

    instance_id: str
    name: str
    input: str | None = None


@dataclass(slots=True)
class EventRaisedEvent(HistoryEvent):
    """An external event arrived."""

    ROW: ClassVar[Row] = Row(name="name", data="input")

    name: str
    input: str | None = None


@dataclass(slots=True)
class GenericEvent(HistoryEvent):
    """Free text for people."""

    ROW: ClassVar[Row] = Row(data="data")

    data: str | None = None


@dataclass(slots=True)
class HistoryStateEvent(HistoryEvent):
    """A snapshot of an orchestration's state; kept for the protocol's sake."""

    orchestration_state: dict[str, Any]


@dataclass(slots=True)
class ContinueAsNewEvent(HistoryEvent):
    """The execution ended by starting over; ``input`` is the next one's."""

    ROW: ClassVar[Row] = Row(data="input")

    input: str | None = None


@dataclass(slots=True)
class EntityOperationSignaledEvent(HistoryEvent):
    """The code signalled an entity."""

    ROW: ClassVar[Row] = Row(task_id="event_id", name="operation", data="input")

    request_id: str
    operation: str
    scheduled_time: datetime | None = None
    input: str | None = None
    target_instance_id: str | None = None


@dataclass(slots=True)
class EntityOperationCalledEvent(HistoryEvent):
    """The code called an entity."""

    ROW: ClassVar[Row] = Row(task_id="event_id", name="operation", data="input")

    request_id: str
    operation: str
    scheduled_time: datetime | None = None
    input: str | None = None
    parent_instance_id: str | None = None
    parent_execution_id: str | None = None
    target_instance_id: str | None = None


@dataclass(slots=True)
class EntityOperationCompletedEvent(HistoryEvent):
    """An entity's answer to a call."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id", data="output")

    request_id: str
    output: str | None = None
    task_scheduled_id: int = -1


@dataclass(slots=True)
class EntityOperationFailedEvent(HistoryEvent):
    """An entity's operation failed."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id")

    request_id: str
    failure_details: FailureDetails | None = None
    task_scheduled_id: int = -1


@dataclass(slots=True)
class EntityLockRequestedEvent(HistoryEvent):
    """The code asked for a critical section."""

    ROW: ClassVar[Row] = Row(task_id="event_id")

    critical_section_id: str
    lock_set: list[str]
    position: int
    parent_instance_id: str | None = None


@dataclass(slots=True)
class EntityLockGrantedEvent(HistoryEvent):
    """All locks of a critical section are held."""

    ROW: ClassVar[Row] = Row(task_id="task_scheduled_id")

    critical_section_id: str
    task_scheduled_id: int = -1


@dataclass(slots=True)
class EntityUnlockSentEvent(HistoryEvent):
    """The code left a critical section."""

    ROW: ClassVar[Row] = Row(task_id="event_id")

    critical_section_id: str
    parent_instance_id: str | None = None
    target_instance_id: str | None = None


Call = TaskScheduledEvent | SubOrchestrationInstanceCreatedEvent
Completed = TaskCompletedEvent | SubOrchestrationInstanceCompletedEvent
Failed = TaskFailedEvent | SubOrchestrationInstanceFailedEvent
Answer = (
    Completed | Failed | EntityOperationCompletedEvent | EntityOperationFailedEvent | EntityLockGrantedEvent
)


def to_dict(event: HistoryEvent) -> dict[str, Any]:
    """Return the fields of ``event`` as plain values; times in ISO 8601."""
    fields: dict[str, Any] = _plain(dataclasses.asdict(event))
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
