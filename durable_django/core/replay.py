"""The engine: one live execution of an orchestrator.

An `Execution` holds the user's running generator or coroutine and is fed events. `Execution.replay` brings it
to where a stored history ends; `Execution.turn` applies new events, one by one, and returns what changed.
Nothing here looks at a clock or a database, so the same events always lead to the same outcome.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from weakref import ref

from durable_django.core import events
from durable_django.core.body import Body, body_of, no_task, resume
from durable_django.core.calls import call
from durable_django.core.context import OrchestrationContext
from durable_django.core.decisions import (
    SCHEDULING_EVENTS,
    ContinueAsNew,
    Decision,
    End,
    TurnOutcome,
    check_same,
)
from durable_django.core.entity_calls import EntityCalls
from durable_django.core.errors import (
    NO_DETAILS,
    FailureDetails,
    NonDeterminismError,
    OrchestrationStateError,
    OrchestratorNotRegisteredError,
    TaskFailedError,
)
from durable_django.core.events import HistoryEvent
from durable_django.core.failures import FailureLog
from durable_django.core.gate import Gate
from durable_django.core.interrupts import is_workers_own
from durable_django.core.mailbox import Mailbox
from durable_django.core.options import ExecutionOptions
from durable_django.core.retry import RetryPolicy
from durable_django.core.sites import call_site, pause_site
from durable_django.core.status import OrchestrationStatus
from durable_django.core.tasks import CancellableTask, CompletableTask, RetryableTask, Task, TimerTask
from durable_django.core.timers import Timers

logger = logging.getLogger("durable_django.replay")

_NEVER = datetime.min  # noqa: DTZ901 - naive UTC


class Execution:
    """One execution of one instance, alive in memory."""

    def __init__(self, instance_id: str, options: ExecutionOptions) -> None:
        self.instance_id = instance_id
        self.options = options
        self.now = _NEVER
        self.is_replaying = True
        self.custom_status: str | None = None
        self._sets_custom_status = False
        self.length = 0
        """How many events the history has, appended ones included: the position of the next."""
        self._position = -1

        self._started: events.ExecutionStartedEvent | None = None
        self._body: Body | None = None
        self._awaited: Task[Any] | None = None
        self._last_step = 0
        self._end: End | None = None
        self.is_sealed = False
        """Whether the code decides nothing any more: it is being dropped."""
        self._wanted_restart: tuple[str | None, bool] | None = None

        self._task_ids = itertools.count(1)
        self._uuid_numbers = itertools.count()
        self._open: dict[int, CompletableTask[Any]] = {}
        self._timers: Timers | None = None
        self._retried: dict[int, events.Call] = {}
        self._failures = FailureLog()
        self._mailbox = Mailbox()
        self._entities: EntityCalls | None = None
        self._gate: Gate | None = None

        self._undecided: dict[int, Decision] = {}
        self._appended: list[HistoryEvent] = []

    # ---------------------------------------------------------------- what a worker calls

    @property
    def started(self) -> events.ExecutionStartedEvent:
        """The event that started the execution.

        Raises:
            OrchestrationStateError: There was none yet.
        """
        if self._started is None:
            raise OrchestrationStateError(
                f"{self.instance_id}: the history does not begin with a start event."
            )
        return self._started

    @property
    def entities(self) -> EntityCalls:
        """What the code has to do with entities."""
        if self._entities is None:
            self._entities = EntityCalls(self)
        return self._entities

    @property
    def timers(self) -> Timers:
        """What the code waits for by the clock."""
        if self._timers is None:
            self._timers = Timers(self)
        return self._timers

    def replay(self, history: Iterable[HistoryEvent]) -> None:
        """Bring the code to where ``history`` ends.

        What does not fit is not raised: it ends the execution, and the next turn says so.
        """
        self.is_replaying = True
        for event in history:
            self.length += 1
            if self._end is not None and not self._end.trusted:
                continue
            self.now = max(self.now, event.timestamp)
            try:
                if type(event) in SCHEDULING_EVENTS:
                    self._recall(event)
                else:
                    self._apply(event)
            except NonDeterminismError as error:
                self._fail(error, trusted=False)

    def turn(self, now: datetime, new_events: Sequence[HistoryEvent]) -> TurnOutcome:
        """Apply ``new_events`` in order and return what that changed.

        The outcome's events carry the turn's time: ``now`` (naive UTC), unless the last turn or a timer that
        fires in this one has a later time.
        """
        self.now = max(now, self.now)
        for event in new_events:
            if type(event) is events.TimerFiredEvent:
                self.now = max(self.now, event.fire_at)
        self.is_replaying = False
        self._appended = []
        if self._timers is not None:
            self._timers.begin_turn(self._undecided)
        if self._undecided and self._gate is None:
            self._adopt_undecided()
        consumed = 0
        for event in new_events:
            if self._end is not None and not self._end.takes_in(event):
                continue
            event.timestamp = self.now
            self._append(event)
            consumed += 1
            if self._end is None:
                self._apply(event)
        return self._outcome(consumed)

    def refuse(self, failure: FailureDetails) -> None:
        """Fail the execution without running its code: the next turn records its events and this end."""
        self._end_with(End(OrchestrationStatus.FAILED, failure=failure, trusted=False))

    def close(self) -> None:
        """Drop the code where it stands. Its ``finally`` blocks run, but decide nothing."""
        self.is_sealed = True
        self.is_replaying = self.is_replaying or self._end is None  # What is dropped half way logs nothing.
        body, self._body = self._body, None
        if body is None:
            return
        try:
            body.close()
        except BaseException as error:
            if is_workers_own(error):
                raise
            logger.warning("%s: cleaning up after the orchestrator failed", self.instance_id, exc_info=True)

    # ---------------------------------------------------------------- what the context calls

    def next_task_id(self) -> int:
        """Return the number of the next decision, from 1."""
        return next(self._task_ids)

    def next_uuid_number(self) -> int:
        """Return the number of the next uuid, from 0."""
        return next(self._uuid_numbers)

    def schedule(
        self, event: events.Call, retry_policy: RetryPolicy | None, expected_type: Any
    ) -> CompletableTask[Any]:
        """Decide on the activity or the child that ``event`` describes, and return its task."""
        task: CompletableTask[Any]
        if retry_policy is None:
            task = CompletableTask(expected_type)
        else:
            task = RetryableTask(retry_policy, self.now, expected_type)
            self._retried[event.event_id] = event
        self.decide(event, task)
        return task

    def schedule_timer(self, fire_at: datetime, then: Callable[[], None] | None = None) -> TimerTask:
        """Decide on a durable timer, or on the first piece of a long one, and return its task."""
        return self.timers.start(fire_at, then)

    def wait_for_event(self, name: str, data_type: Any) -> CancellableTask[Any]:
        """Return a task for the next event called ``name``: complete already if one is buffered."""
        task: CancellableTask[Any] = CancellableTask(data_type)
        event = self._mailbox.take(name)
        if event is None:
            self._mailbox.add_wait(name, task)
        else:
            self._deliver(event, task)
        return task

    def send_event(self, instance_id: str, name: str, payload: str | None) -> None:
        """Decide on an event for another instance."""
        self.decide(events.EventSentEvent(self.next_task_id(), self.now, instance_id, name, input=payload))

    def set_custom_status(self, payload: str | None) -> None:
        """Replace the custom status."""
        if not self.is_sealed:
            self.custom_status = payload
            self._sets_custom_status = True

    def request_continue_as_new(self, payload: str | None, save_events: bool) -> None:
        """Make the execution start over at its next pause."""
        self._wanted_restart = (payload, save_events)

    # ---------------------------------------------------------------- decisions

    def decide(self, event: HistoryEvent, task: CompletableTask[Any] | None = None) -> None:
        """Take a decision of the code; ``task`` is the one that its result will complete."""
        if self.is_sealed:
            return
        if task is not None:
            self._open[event.event_id] = task
        if self.is_replaying:
            self._undecided[event.event_id] = Decision(event, call_site())
        else:
            self._append(event)

    def _recall(self, recorded: HistoryEvent) -> None:
        """Find the decision that ``recorded`` was."""
        decided = self._undecided.pop(recorded.event_id, None)
        check_same(recorded, decided, pause_site(self._body) if decided is None else None)
        if type(recorded) is events.TimerCreatedEvent:
            self.timers.recall(recorded)

    def _adopt_undecided(self) -> None:
        """Take what replay decided beyond the history for new: code grew, or a rewind left rows out."""
        undecided, self._undecided = self._undecided, {}
        if self._end is not None and not self._end.trusted:
            return
        for decision in undecided.values():
            decision.event.timestamp = self.now
            self._append(decision.event)

    def _append(self, event: HistoryEvent) -> None:
        self._appended.append(event)
        self.length += 1

    # ---------------------------------------------------------------- incoming events

    def _apply(self, event: HistoryEvent, position: int | None = None) -> None:
        """Let one event of the world happen to the code; the operators' trail is for people to read.

        ``position`` is where the history has it; None is the end.
        """
        handler = _HANDLERS.get(type(event))
        if handler is None:
            return
        self._position = self.length - 1 if position is None else position
        if self._gate is not None and type(event) is not events.ExecutionRewoundEvent:
            self._hold_back(self._gate, event)
            return
        if self._end is None:
            self._last_step = self._next_decision()
        try:
            handler(self, event)
        except BaseException as error:  # A payload that cannot be read, say: this instance's fault.
            if isinstance(error, NonDeterminismError) or is_workers_own(error):
                raise
            self._fail(error)
        self._advance()

    def _hold_back(self, gate: Gate, event: HistoryEvent) -> None:
        if not gate.opens(event, self._position):
            return
        self._gate = None
        if not self.is_replaying:
            self._adopt_undecided()
        for number, (position, held) in enumerate(gate.held):
            if self._end is not None:
                self._end.carry(event for _, event in gate.held[number:])
                return
            self._apply(held, position)

    def _rewind(self, event: events.ExecutionRewoundEvent) -> None:
        if event.sections and self._end is None:  # The code may fail again, by what it was told.
            self._gate = self._gate or Gate()
            self._gate.close(event.sections)

    def _start(self, event: events.ExecutionStartedEvent) -> None:
        if self._started is not None:
            logger.warning("%s: a second start event is ignored", self.instance_id)
            return
        self._started = event
        try:
            registered = self.options.registry.orchestrator(event.name)
        except OrchestratorNotRegisteredError as error:
            self._fail(error, trusted=False)
            return
        try:
            returned = call(registered.fn, OrchestrationContext(self), event.input, self.options.codec)
            self._body = body_of(returned, event.name)
        except BaseException as error:  # SystemExit ends the instance, not the worker.
            if is_workers_own(error):
                raise
            self._fail(error)
            return
        if self._body is None:
            self._finish(returned)

    def claim(self, event: events.Answer) -> CompletableTask[Any] | None:
        """Take the open task that ``event`` completes."""
        task_id = event.task_scheduled_id
        task = self._open.pop(task_id, None)
        if task is None and self._end is None:
            kind = type(event).__name__
            logger.warning("%s: %s for task #%s is ignored: nobody waits", self.instance_id, kind, task_id)
        return task

    def _complete(self, event: events.Completed) -> None:
        task_id = event.task_scheduled_id
        task = self.claim(event)
        if task is not None:
            self._retried.pop(task_id, None)
            task.complete(self.options.codec.loads(event.result, task._expected_type))

    def _fail_task(self, event: events.Failed) -> None:
        task_id = event.task_scheduled_id
        task = self.claim(event)
        if task is None:
            return
        if isinstance(task, RetryableTask):
            delay = task._retry_policy.next_delay(task._attempts, self.now, task._start_time)
            if delay is not None:
                self._retry(task_id, task, delay)
                return
        self._retried.pop(task_id, None)
        what = "Activity task" if isinstance(event, events.TaskFailedEvent) else "Sub-orchestration task"
        details = event.failure_details or NO_DETAILS
        message = f"{self.instance_id}: {what} #{task_id} failed: {details.message}"
        self.fail_task(task, TaskFailedError(message, details))

    def fail_task(self, task: CompletableTask[Any], error: TaskFailedError) -> None:
        """Let a task fail, and keep book of it for a rewind."""
        failure = self._failures.add(self._position)
        task._on_observed = {lambda: failure.observe(self._next_decision())}
        failure.error = ref(error)
        task._settle(None, error)

    def _next_decision(self) -> int:
        """Return where in the history the code's next decision stands, in a replay as in a live turn."""
        return self.length + len(self._undecided)

    def _retry(self, task_id: int, task: RetryableTask[Any], delay: timedelta) -> None:
        """Wait for ``delay``, then schedule the task again under its old id."""
        task._attempts += 1

        def again() -> None:
            self._open[task_id] = task
            self.decide(replace(self._retried[task_id], timestamp=self.now))

        self.schedule_timer(self.now + delay, again)

    def _raise(self, event: events.EventRaisedEvent) -> None:
        task = self._mailbox.deliver(event)
        if task is not None:
            self._deliver(event, task)

    def _deliver(self, event: events.EventRaisedEvent, task: CancellableTask[Any]) -> None:
        """Complete a task with an event; data that cannot be read raise where the code yields the task."""
        try:
            data = self.options.codec.loads(event.input, task._expected_type)
        except Exception as error:  # noqa: BLE001 - whatever the converter raises
            task._settle(None, error)
        else:
            task.complete(data)

    # ---------------------------------------------------------------- the code

    def _advance(self) -> None:
        """Run the code until it waits for something that is not complete, or ends."""
        while self._end is None and self._body is not None:
            awaited = self._awaited
            if awaited is not None and not awaited._is_complete:
                return
            try:
                yielded = resume(self._body, awaited)
            except StopIteration as stop:
                self._finish(stop.value)
            except BaseException as error:
                if is_workers_own(error):
                    raise
                self._fail(error)
            else:
                self._wait_for(yielded)

    def _wait_for(self, yielded: object) -> None:
        self._awaited = yielded if isinstance(yielded, Task) else None
        if self._wanted_restart is not None:
            self._restart(*self._wanted_restart)
        elif self._awaited is None:
            self._fail(no_task(self._body, yielded, self.started.name))

    def _finish(self, result: object) -> None:
        if self._wanted_restart is not None:
            self._restart(*self._wanted_restart)
            return
        try:
            output = self.options.codec.dumps(result, "the result of orchestrator", self.started.name)
        except Exception as error:  # noqa: BLE001 - whatever the converter raises
            self._fail(error)
        else:
            self._end_with(End(OrchestrationStatus.COMPLETED, output))

    def _restart(self, payload: str | None, save_events: bool) -> None:
        following = ContinueAsNew(payload, self._mailbox.unclaimed if save_events else ())
        self._end_with(End(OrchestrationStatus.CONTINUED_AS_NEW, continue_as_new=following))

    def _fail(self, error: BaseException, *, trusted: bool = True) -> None:
        failure = FailureDetails.from_exception(error)
        self._end_with(End(OrchestrationStatus.FAILED, failure=failure, cause=error, trusted=trusted))

    def _end_with(self, end: End) -> None:
        if end.trusted and self._entities is not None:
            self._entities.release()
        self._end = end
        self.close()

    # ---------------------------------------------------------------- the outcome

    def _outcome(self, consumed: int) -> TurnOutcome:
        end = self._end
        if end is None:
            status = OrchestrationStatus.RUNNING
        else:
            status = end.status
            self._append(end.as_event(self.now, self._failures, self._last_step))
        outcome = TurnOutcome(
            status=status,
            events=self._appended,
            consumed=consumed,
            output=end.output if end else None,
            failure=end.failure if end else None,
            custom_status=self.custom_status,
            sets_custom_status=self._sets_custom_status,
            waiting_for=[] if end else self._mailbox.awaited_names,
            cancelled_timers=self._timers.cancelled if self._timers is not None else [],
            has_open_timers=bool(self._timers),
            may_hold_locks=end is not None and not end.trusted,
            continue_as_new=end.continue_as_new if end else None,
        )
        if end is not None:
            self._let_go(end)
        return outcome

    def _let_go(self, end: End) -> None:
        """Drop what leads back to this execution, which goes with its last reference then.

        Else all that have ended would wait for the garbage collector, which stops everything meanwhile. Some
        whose code has seen a task fail still do: its exception keeps the frames that it went through.
        """
        end.cause = self._awaited = None
        self._open.clear()
        if self._timers is not None:
            self._timers.clear()


_HANDLERS: dict[type[HistoryEvent], Callable[[Execution, Any], None]] = {
    events.ExecutionStartedEvent: Execution._start,
    events.ExecutionRewoundEvent: Execution._rewind,
    events.TaskCompletedEvent: Execution._complete,
    events.TaskFailedEvent: Execution._fail_task,
    events.SubOrchestrationInstanceCompletedEvent: Execution._complete,
    events.SubOrchestrationInstanceFailedEvent: Execution._fail_task,
    events.TimerFiredEvent: lambda execution, event: execution.timers.fire(event),
    events.EventRaisedEvent: Execution._raise,
    events.EntityOperationCompletedEvent: lambda execution, event: execution.entities.complete(event),
    events.EntityOperationFailedEvent: lambda execution, event: execution.entities.fail(event),
    events.EntityLockGrantedEvent: lambda execution, event: execution.entities.grant(event),
}
