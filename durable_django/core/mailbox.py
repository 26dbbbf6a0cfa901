"""The external events of one execution: those that are there, and those that the code waits for."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, TypeVar

from durable_django.core.events import EventRaisedEvent
from durable_django.core.tasks import CancellableTask

T = TypeVar("T")


class Mailbox:
    """Matches events with waits: names do not care for case, and within a name the oldest goes first.

    Of each name there are events or waits, never both; a name with neither is forgotten.
    """

    def __init__(self) -> None:
        self._waits: dict[str, deque[tuple[str, CancellableTask[Any]]]] = {}
        self._events: dict[str, deque[tuple[int, EventRaisedEvent]]] = {}
        self._numbers = itertools.count()

    @property
    def awaited_names(self) -> list[str]:
        """The name of each wait, as the code spells it."""
        return [name for waits in self._waits.values() for name, _ in waits]

    @property
    def unclaimed(self) -> tuple[EventRaisedEvent, ...]:
        """The events that nobody has waited for, in the order in which they came."""
        entries = sorted(itertools.chain(*self._events.values()), key=lambda entry: entry[0])
        return tuple(event for _, event in entries)

    def take(self, name: str) -> EventRaisedEvent | None:
        """Take out the oldest event called ``name``."""
        entry = _pop_first(self._events, name.casefold())
        return entry[1] if entry else None

    def add_wait(self, name: str, task: CancellableTask[Any]) -> None:
        """Let ``task`` wait for the next event called ``name``, until it is cancelled."""
        key = name.casefold()
        self._waits.setdefault(key, deque()).append((name, task))
        task.set_cancel_handler(lambda: self._drop(key, task))

    def deliver(self, event: EventRaisedEvent) -> CancellableTask[Any] | None:
        """Return the task that ``event`` is for; without one, keep the event."""
        key = event.name.casefold()
        entry = _pop_first(self._waits, key)
        if entry is not None:
            return entry[1]
        self._events.setdefault(key, deque()).append((next(self._numbers), event))
        return None

    def _drop(self, key: str, task: CancellableTask[Any]) -> None:
        kept = deque(entry for entry in self._waits.pop(key, ()) if entry[1] is not task)
        if kept:
            self._waits[key] = kept


def _pop_first(queues: dict[str, deque[T]], key: str) -> T | None:
    queue = queues.get(key)
    if queue is None:
        return None
    entry = queue.popleft()
    if not queue:
        del queues[key]
    return entry
