"""The durable timers of one execution."""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import datetime
from typing import TYPE_CHECKING
from weakref import proxy

from durable_django.core import events
from durable_django.core.tasks import TimerTask

if TYPE_CHECKING:
    from durable_django.core.replay import Execution


class Timers:
    """The timers that have been started and have neither fired nor been cancelled.

    One that is longer than the options allow is a chain of pieces, each with a task id of its own. Its end is
    what was decided when it was started: code that names another time now does not move it.

    ``cancelled`` are the task ids of those that were cancelled since the last `begin_turn`.
    """

    def __init__(self, execution: Execution) -> None:
        # An execution that owns what owns it would stay in memory until the garbage collector comes by.
        self._execution: Execution = proxy(execution)
        self._running: dict[int, TimerTask] = {}
        self.cancelled: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._running)

    def begin_turn(self, undecided: Container[int]) -> None:
        """Forget what was cancelled, but for timers that replay has decided on beyond the history."""
        self.cancelled = [timer_id for timer_id in self.cancelled if timer_id in undecided]

    def start(self, fire_at: datetime, then: Callable[[], None] | None) -> TimerTask:
        """Decide on a timer, or on the first piece of a long one, and return its task."""
        timer = TimerTask(fire_at, then)
        self._start_piece(timer, fire_at)
        return timer

    def recall(self, recorded: events.TimerCreatedEvent) -> None:
        """Have a timer that replay has decided on again end when its history says."""
        timer = self._running.get(recorded.event_id)
        if timer is not None and recorded.final_fire_at is not None:  # Old histories do not tell.
            timer._final_fire_at = recorded.final_fire_at

    def fire(self, event: events.TimerFiredEvent) -> None:
        """Complete a timer, or decide on its next piece."""
        timer = self._running.pop(event.timer_id, None)
        if timer is None:  # It was cancelled as it fired.
            return
        final = timer._final_fire_at
        if final is not None and event.fire_at < final:
            self._start_piece(timer, final)
            return
        timer.complete(None)
        if timer._then is not None:
            timer._then()

    def clear(self) -> None:
        """Forget all: the execution has ended."""
        self._running.clear()

    def _start_piece(self, timer: TimerTask, final: datetime) -> None:
        execution = self._execution
        now, longest = execution.now, execution.options.maximum_timer_interval
        task_id = execution.next_task_id()
        fire_at = final if longest is None or final - now <= longest else now + longest
        self._running[task_id] = timer
        timer.set_cancel_handler(lambda: self._cancel(task_id))
        execution.decide(events.TimerCreatedEvent(task_id, now, fire_at, final))

    def _cancel(self, task_id: int) -> None:
        self._running.pop(task_id, None)
        if not self._execution.is_sealed:
            self.cancelled.append(task_id)
