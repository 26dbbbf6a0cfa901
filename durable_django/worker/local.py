"""Local activities: short work that a turn does itself, inside its own transaction.

A turn whose code calls local activities runs them in the order in which they were scheduled, each under a
savepoint, and feeds every result straight on. The history has the same events as for other activities; there
is just never a row for one. They run only where the transaction is one instance's own: users' code that
locks rows must not share a transaction across instances. Elsewhere, and at a bound, they are **postponed**:
the turn commits what there is, with a message to its own instance that names what is still to be run.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from durable_django.conf import settings
from durable_django.core.decisions import TurnOutcome
from durable_django.core.errors import FailureDetails
from durable_django.core.events import (
    EntityUnlockSentEvent,
    ExecutionCompletedEvent,
    HistoryEvent,
    TaskScheduledEvent,
)
from durable_django.core.interrupts import is_workers_own
from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import ActivityRegistration
from durable_django.core.replay import Execution
from durable_django.core.status import OrchestrationStatus
from durable_django.store import clock, families, histories, pipeline
from durable_django.store.activities import Leased
from durable_django.store.claims import Claimed
from durable_django.store.savepoints import SavepointOnUse, is_conflict, limit_lock_waits
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.feeds import Feed
from durable_django.worker.guard import no_queries

logger = logging.getLogger("durable_django.worker")

_NO_LEASE = 0

Watch = Callable[[Claimed], AbstractContextManager[None]]


class BrokenTransactionError(Exception):
    """A local activity has broken its turn's transaction, so that nothing of the turn is kept."""


@dataclass(slots=True)
class LocalReport:
    """What the local activities of a batch have come to.

    ``ran`` says how many were run, ``failures`` are the results of those that failed. ``unfinished`` are the
    keys of instances that have some left to run. Of these, the ones in ``left`` have come to their end in a
    transaction which is not their own: there is no next turn to run them, so that this one has to be taken
    once more.
    """

    ran: int = 0
    failures: list[ActivityResult] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    left: list[Feed] = field(default_factory=list)


class LocalActivities:
    """Runs the local activities of turns, in the thread and the transaction of the turn.

    ``checks`` says of an instance, by its key, whether its last commit was refused: then each activity is
    checked by itself for what the commit would refuse, to find out which one it was.
    """

    def __init__(
        self,
        using: str,
        options: ExecutionOptions,
        worker: str,
        watch: Watch,
        *,
        checks: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._using = using
        self._runner = ActivityRunner(options.registry, options.codec, worker)
        self._watch = watch
        self._checks = checks
        self._registry = options.registry
        self._registered: Mapping[str, ActivityRegistration] = {}
        self._names: frozenset[str] = frozenset()

    def run(self, feeds: Sequence[Feed], *, own: bool) -> LocalReport:
        """Run what the turns have scheduled, and what earlier ones have postponed.

        ``own`` says that the transaction is one instance's alone. Where it is not, nothing is run.

        Raises:
            OperationalError: A deadlock or a serialization failure; or the database is away.
            BrokenTransactionError: An activity has lost or closed the connection, say.
        """
        report = LocalReport()
        for feed in self.callers(feeds):
            self._run(feed, report, own=own)
        return report

    def callers(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Return those that have local activities to be run."""
        if self._registry.activities is not self._registered:
            self._registered = self._registry.activities
            self._names = frozenset(name for name, found in self._registered.items() if found.local)
        return [feed for feed in feeds if feed.arrived.postponed or self._has_some(feed)]

    def _has_some(self, feed: Feed) -> bool:
        assert feed.outcome is not None
        names = self._names
        return bool(names) and any(
            type(event) is TaskScheduledEvent and event.name in names for event in feed.outcome.events
        )

    def _run(self, feed: Feed, report: LocalReport, *, own: bool) -> None:
        turn = _Turn(self._names, feed)
        if turn.outcome.may_hold_locks:
            return  # The code is not to be run, for what it does to workers, say. A rewind finds the rest.
        if sequences := feed.arrived.postponed:
            key = feed.instance.pk, feed.instance.execution_id
            turn.take_up(histories.read_events(self._using, *key, sequences))
        if not (turn.queue or turn.handed_on):
            return
        if own:
            with families.moving(self._using, turn.instance.pk):
                self._run_all(turn, feed.execution)
        turn.conclude(feed)
        report.ran += turn.count
        report.failures += turn.failures
        if turn.queue:
            report.unfinished.add(feed.instance.pk)
            if turn.has_ended:
                report.left.append(feed)

    def _run_all(self, turn: _Turn, execution: Execution) -> None:
        until = time.monotonic() + settings.LOCAL_SECONDS
        most, slow = settings.LOCAL_ACTIVITIES, settings.SLOW_LOCAL_SECONDS
        is_limited = False

        def limit() -> None:
            nonlocal is_limited
            if not is_limited:
                pipeline.leave(self._using)
                limit_lock_waits(self._using, settings.LOCAL_LOCK_SECONDS)
            is_limited = True

        while turn.queue:
            # What has ended has no next turn: it is not cut.
            if not turn.has_ended and (turn.count >= most or time.monotonic() > until):
                return
            result = self._perform(turn, turn.next(), limit, slow)
            if turn.has_ended:
                turn.record_late(result, execution.now)
            else:
                turn.adopt(self._feed(turn.instance, execution, result))

    def _perform(
        self, turn: _Turn, event: TaskScheduledEvent, limit: Callable[[], None], slow: float
    ) -> ActivityResult:
        """Run one activity. Whatever it raises is its failure, as long as its savepoint could be restored."""
        instance = turn.instance
        started_at, start = clock.now(), time.perf_counter()
        leased = Leased.called(_NO_LEASE, instance, event, started_at)
        payload: str | None = None
        failure: FailureDetails | None = None
        savepoint = SavepointOnUse(self._using, limit, checks=self._checks(instance.pk))
        try:
            with self._watch(instance), savepoint:
                payload = self._runner.output(leased)
        except BaseException as error:
            if is_workers_own(error) or is_conflict(error):
                raise
            if not savepoint.is_undone:
                raise _broken_by(event, repr(error)) from error
            failure = FailureDetails.from_exception(error)
        if not savepoint.is_intact:  # A generator was in an atomic block, and has left it only now.
            raise _broken_by(event, "it was in an atomic block when it had ended")
        seconds = time.perf_counter() - start
        if seconds > slow:
            logger.warning(
                "Local activity %r (#%s of %s) took %.2f s: its turn, and all others of this worker, have "
                "waited for it. Make it an activity that is not local.",
                event.name,
                event.event_id,
                instance.instance_id,
                seconds,
            )
        result = self._runner.result(leased, started_at, payload, failure)
        if failure is not None:
            turn.failures.append(result)
        return result

    def _feed(self, instance: Claimed, execution: Execution, result: ActivityResult) -> TurnOutcome:
        with no_queries(), self._watch(instance):
            return execution.turn(execution.now, [result.event])


def _broken_by(event: TaskScheduledEvent, why: str) -> BrokenTransactionError:
    return BrokenTransactionError(
        f"Local activity {event.name!r} (#{event.event_id}) has broken its turn's transaction: {why}"
    )


class _Turn:
    """A turn in the course of its local activities."""

    def __init__(self, names: frozenset[str], feed: Feed) -> None:
        assert feed.outcome is not None
        self.instance = feed.instance
        self.outcome = feed.outcome
        self.queue: deque[tuple[int, TaskScheduledEvent]] = deque()
        self.handed_on: list[HistoryEvent] = []
        self.failures: list[ActivityResult] = []
        self.count = 0
        self._names = names
        self._task_ids: set[int] = set()
        self._enqueue(enumerate(self.outcome.events, self.instance.next_sequence))

    @property
    def has_ended(self) -> bool:
        return self.outcome.status is not OrchestrationStatus.RUNNING

    def take_up(self, postponed: Iterable[tuple[int, HistoryEvent]]) -> None:
        """Take what an earlier turn has postponed; it was scheduled before all that this turn has."""
        later, self.queue = self.queue, deque()
        for sequence, event in postponed:
            if not isinstance(event, TaskScheduledEvent):
                continue
            if event.name in self._names:
                self.queue.append((sequence, event))
            else:
                self.handed_on.append(event)  # It is no local activity any more, or not here.
        self.queue.extend(later)

    def next(self) -> TaskScheduledEvent:
        self.count += 1
        return self.queue.popleft()[1]

    def adopt(self, more: TurnOutcome) -> None:
        """Append what the code has made of a result."""
        so_far = self.outcome
        self._enqueue(enumerate(more.events, self.instance.next_sequence + len(so_far.events)))
        so_far.events.extend(more.events)
        more.events = so_far.events
        more.cancelled_timers = so_far.cancelled_timers + more.cancelled_timers
        more.consumed = so_far.consumed  # Of what has come in: results of local activities do not count.
        self.outcome = more

    def record_late(self, result: ActivityResult, now: datetime) -> None:
        """Record, in a history that has ended, that an activity was run: a rewind must not run it again.

        A failure has left nothing behind, and may be tried again.
        """
        if result.failure is not None:
            return
        events = self.outcome.events
        # A rewind takes the releases at the very end for the end's.
        at = len(events) - 1
        while at and isinstance(events[at - 1], EntityUnlockSentEvent | ExecutionCompletedEvent):
            at -= 1
        result.event.timestamp = now
        events.insert(at, result.event)

    def conclude(self, feed: Feed) -> None:
        """Say what the turn has come to."""
        feed.outcome = self.outcome
        feed.postponed = [sequence for sequence, _ in self.queue]
        feed.decisions = self.handed_on + [
            event
            for event in self.outcome.events
            if not (type(event) is TaskScheduledEvent and event.event_id in self._task_ids)
        ]

    def _enqueue(self, numbered: Iterable[tuple[int, HistoryEvent]]) -> None:
        for sequence, event in numbered:
            if type(event) is TaskScheduledEvent and event.name in self._names:
                self._task_ids.add(event.event_id)
                self.queue.append((sequence, event))
