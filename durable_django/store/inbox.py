"""The inbox: what has happened to instances and waits to be taken in by their turns."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.backends.utils import CursorWrapper

from durable_django.core import events
from durable_django.core.decisions import ContinueAsNew
from durable_django.core.events import EventRaisedEvent, HistoryEvent
from durable_django.models import Message, MessageKind, Timer
from durable_django.store import clock, histories, rows
from durable_django.store.claims import Claimed
from durable_django.store.rows import any_of, table

_EVENTS: dict[int, type[HistoryEvent]] = {
    MessageKind.EVENT: events.EventRaisedEvent,
    MessageKind.TASK_COMPLETED: events.TaskCompletedEvent,
    MessageKind.TASK_FAILED: events.TaskFailedEvent,
    MessageKind.CHILD_COMPLETED: events.SubOrchestrationInstanceCompletedEvent,
    MessageKind.CHILD_FAILED: events.SubOrchestrationInstanceFailedEvent,
    MessageKind.CALL_COMPLETED: events.EntityOperationCompletedEvent,
    MessageKind.CALL_FAILED: events.EntityOperationFailedEvent,
    MessageKind.LOCK_GRANTED: events.EntityLockGrantedEvent,
}
_KINDS = {cls: kind for kind, cls in _EVENTS.items()}
_TIMER = 0  # Stands where a message has its kind.

REWOUND = "rewound"
"""Marks the start message of an execution that goes on from another's history."""

POSTPONED = "postponed"
"""Names, in a message that makes an execution go on, the local activities that are to be run."""

MESSAGE_FIELDS = (
    "instance",
    "execution_id",
    "kind",
    "task_id",
    "name",
    "data",
    "attributes",
    "visible_at",
    "held",
)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """Something to be put into an instance's inbox; a result names the execution that waits for it."""

    instance: int
    event: HistoryEvent
    execution_id: str | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class NewStart:
    """A start message to be put into an instance's inbox: what its execution goes on with."""

    instance: int
    execution_id: str
    payload: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def following(cls, instance: Claimed, execution_id: str, following: ContinueAsNew) -> NewStart:
        """Start the next execution, with the events that the last one has left to it."""
        carried = [[event.name, event.input] for event in following.carried]
        attributes = {"carried": carried} if carried else {}
        return cls(instance.pk, execution_id, following.input, attributes)

    @classmethod
    def postponing(cls, instance: Claimed, sequences: Sequence[int]) -> NewStart:
        """Go on with local activities that the history shows as scheduled, and no row holds."""
        return cls(instance.pk, instance.execution_id, attributes={POSTPONED: list(sequences)})


@dataclass(slots=True)
class Arrived:
    """What one instance's turn takes in: events, each with the row that carried it, or None.

    ``goes_on`` says that there is work even without events: a rewound execution has to find out where it
    stands. ``postponed`` are the sequence numbers, in the history, of local activities still to be run.
    """

    events: list[HistoryEvent] = field(default_factory=list)
    carriers: list[tuple[int, int] | None] = field(default_factory=list)
    stale: list[tuple[int, int]] = field(default_factory=list)
    goes_on: bool = False
    postponed: list[int] = field(default_factory=list)

    def add(self, event: HistoryEvent, carrier: tuple[int, int] | None = None) -> None:
        """Take in one event and the row, kind and id, that carried it."""
        self.events.append(event)
        self.carriers.append(carrier)

    def lead(self, event: HistoryEvent) -> None:
        """Put an event before all others."""
        self.events.insert(0, event)
        self.carriers.insert(0, None)

    def carriers_of(self, count: int) -> list[tuple[int, int]]:
        """Return the rows that carried the first ``count`` events."""
        return [carrier for carrier in self.carriers[:count] if carrier is not None]

    def unseen_of_start(self, count: int) -> tuple[EventRaisedEvent, ...]:
        """Return what came with the start message, and is not among the first ``count`` events."""
        return tuple(
            event
            for event, carrier in zip(self.events[count:], self.carriers[count:], strict=True)
            if carrier is None and isinstance(event, EventRaisedEvent)
        )


def add(cursor: CursorWrapper, messages: Sequence[NewMessage], now: datetime) -> None:
    """Put messages into inboxes. An insert alone: it waits for nobody."""
    visible_at = clock.to_database(cursor.db.alias, now)
    values = []
    for message in messages:
        _, task_id, name, data, attributes = histories.event_columns(message.event)
        kind = int(_KINDS[type(message.event)])
        values.append(
            (
                message.instance,
                message.execution_id,
                kind,
                task_id,
                name,
                data,
                attributes,
                visible_at,
                message.held,
            )
        )
    rows.insert(cursor, Message, MESSAGE_FIELDS, values)


def add_starts(cursor: CursorWrapper, starts: Sequence[NewStart], now: datetime) -> None:
    """Tell instances to go on, each with its present or its next execution."""
    kind, visible_at = int(MessageKind.START), clock.to_database(cursor.db.alias, now)
    values = [
        (
            start.instance,
            start.execution_id,
            kind,
            None,
            None,
            start.payload,
            json.dumps(start.attributes) if start.attributes else None,
            visible_at,
            False,
        )
        for start in starts
    ]
    rows.insert(cursor, Message, MESSAGE_FIELDS, values)


def ask(
    cursor: CursorWrapper, keys: Sequence[int], now: datetime, limit: int
) -> Callable[[Sequence[Claimed]], dict[int, Arrived]]:
    """Ask what has arrived for instances that are being locked; what is returned takes those that are.

    Each one's comes oldest first, messages and due timers in one order. A start comes before all else,
    however old: what an execution has left unseen waits for the next.

    It has to be a statement of its own after the lock's: one that locks and reads at once may see rows that
    another worker has consumed before it let go of the lock.
    """
    if not keys:
        return lambda _: {}
    found = _arrivals(cursor, keys, now, limit)
    return lambda claimed: _sorted_in(found(), claimed, now)


def _sorted_in(
    found: Iterable[Sequence[Any]], claimed: Sequence[Claimed], now: datetime
) -> dict[int, Arrived]:
    by_key = {instance.pk: instance for instance in claimed}
    arrived: defaultdict[int, Arrived] = defaultdict(Arrived)
    for _, kind, pk, instance, execution_id, at, *rest in found:
        owner = by_key.get(instance)
        if owner is None:
            continue
        inbox = arrived[instance]
        if execution_id is not None and execution_id != owner.execution_id:
            inbox.stale.append((kind, pk))
        elif kind == MessageKind.START:
            _start(inbox, owner, (kind, pk), now, rest)
        elif kind == _TIMER:
            inbox.add(events.TimerFiredEvent(-1, now, clock.from_orm(at), rest[0]), (kind, pk))
        else:
            event = histories.event_from_columns(now, histories.kind_of(_EVENTS[kind]), *rest)
            inbox.add(event, (kind, pk))
    return dict(arrived)


def _arrivals(cursor: CursorWrapper, keys: Sequence[int], now: datetime, limit: int) -> rows.Answer:
    vendor = cursor.db.vendor
    condition, parameters = any_of(vendor, "instance_id", keys)
    present = clock.to_database(cursor.db.alias, now)
    not_held = "NOT held" if vendor == "postgresql" else "held = 0"
    return rows.ask(
        cursor,
        f"SELECT CASE WHEN kind = {MessageKind.START.value} THEN 0 ELSE 1 END, kind, id, instance_id,"
        f" execution_id, visible_at, task_id, name, data, attributes FROM {table(Message, vendor)}"
        f" WHERE {condition} AND {not_held} AND visible_at <= %s"
        f" UNION ALL SELECT 1, {_TIMER}, id, instance_id, execution_id, fire_at, task_id, NULL, NULL, NULL"
        f" FROM {table(Timer, vendor)} WHERE {condition} AND fire_at <= %s"
        " ORDER BY 1, 6, 2 DESC, 3 LIMIT %s",
        [*parameters, present, *parameters, present, limit],
    )


def _start(inbox: Arrived, owner: Claimed, carrier: tuple[int, int], now: datetime, rest: list[Any]) -> None:
    _, _, payload, attributes = rest
    details = json.loads(attributes) if attributes else {}
    inbox.goes_on = True
    inbox.postponed += details.get(POSTPONED, ())
    if REWOUND in details or POSTPONED in details:
        inbox.stale.append(carrier)  # Its history has the start: it only has to find out where it stands.
        return
    inbox.add(started(owner, payload, now), carrier)
    for name, data in details.get("carried", ()):
        inbox.add(events.EventRaisedEvent(-1, now, name, data))


def started(instance: Claimed, payload: str | None, now: datetime) -> events.ExecutionStartedEvent:
    """Return the event that starts an instance's present execution."""
    parent = None
    if instance.parent_instance_id is not None and instance.parent_task_id is not None:
        parent = events.ParentInstanceInfo(
            instance.parent_task_id,
            orchestration_instance=events.OrchestrationInstance(
                instance.parent_instance_id, instance.parent_execution_id
            ),
        )
    return events.ExecutionStartedEvent(
        -1,
        now,
        instance.name,
        version=instance.version,
        input=payload,
        orchestration_instance=events.OrchestrationInstance(instance.instance_id, instance.execution_id),
        parent_instance=parent,
        tags=instance.tags,
    )


def delete(cursor: CursorWrapper, carriers: Sequence[tuple[int, int]]) -> None:
    """Delete the rows that carried consumed events."""
    rows.delete(cursor, Message, "id", sorted({pk for kind, pk in carriers if kind != _TIMER}))
    rows.delete(cursor, Timer, "id", sorted({pk for kind, pk in carriers if kind == _TIMER}))
