"""The turn loop: one thread that takes what is ready, has it moved, and follows up."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter

from django.db import connections

from durable_django import signals
from durable_django.conf import settings
from durable_django.core.interrupts import is_interrupt
from durable_django.core.registry import Registry
from durable_django.core.status import OrchestrationStatus
from durable_django.store import clock, instances, wakeup
from durable_django.store.commits import Moved
from durable_django.store.operations import Address
from durable_django.worker import polling
from durable_django.worker.activities import ActivityResult
from durable_django.worker.connections import leave_atomic_blocks
from durable_django.worker.intake import SMALL_BATCH
from durable_django.worker.pool import ActivityPool
from durable_django.worker.turns import TurnProcessor
from durable_django.worker.work import Report, Work

logger = logging.getLogger("durable_django.worker")

_MOST_RESULTS = 2000
_MOST_TIMERS = 100_000
_LEAST_STARTS = 10
_OUTAGE_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_STRAGGLERS_OF = 16
_STRAGGLERS_SECONDS = 2e-3
_MANY = 32
_FEW_OF = 4
_MANY_SECONDS = 12e-3
_ORCHESTRATION_SIGNALS = (
    signals.orchestration_started,
    signals.orchestration_completed,
    signals.orchestration_failed,
)


class TurnLoop:
    """Gathers work for a `TurnProcessor` and hands what comes of it to the pool, to others and to signals.

    ``careful`` asks whether each instance is to be run by itself, its name noted beforehand by ``note``:
    after a crash, until it is clear whose fault it was.
    """

    def __init__(
        self,
        processor: TurnProcessor,
        pool: ActivityPool,
        *,
        poll_interval: Callable[[], float],
        careful: Callable[[], bool],
        note: Callable[[int | None], None],
        outbox: wakeup.Outbox | None = None,
    ) -> None:
        self._processor = processor
        self._pool = pool
        self._entities_touched: Callable[[Iterable[Address]], None] = lambda _: None
        self._entities_delayed: Callable[[], None] = lambda: None
        self._activities_changed: Callable[[], None] = lambda: None
        self._poll_interval = poll_interval
        self._careful = careful
        self._note = note
        self._using = processor.using
        self._outbox = outbox or wakeup.Outbox(processor.using)
        self._wake = threading.Event()
        self._results: deque[ActivityResult] = deque()
        self._keys: set[int] = set()
        self._touched: deque[int] = deque()
        self._alone: set[int] = set()
        self._local: dict[int, None] = {}  # A set in order: who has waited longest goes first.
        self._timers: list[tuple[datetime, int]] = []
        self._hinted = True
        self._has_starts = False
        self._unclaimed = True
        self._poll_at = 0.0
        self._pause = polling.SHORTEST
        self._is_draining = False
        self.turns = 0
        """How many turns there have been."""
        self.is_idle = threading.Event()
        """Set while nothing is ready and nothing runs; while it drains, once nothing runs."""

    # ---------------------------------------------------------------- from other threads

    def deliver(self, result: ActivityResult) -> None:
        """Hand in an activity's result."""
        self._results.append(result)
        # Many threads do this at once, and to set it takes a lock. Whoever takes the results clears it first.
        if not self._wake.is_set():
            self._wake.set()

    def hint(self) -> None:
        """Say that the tables may have something new."""
        self._hinted = True
        self._wake.set()

    def hint_start(self) -> None:
        """Say that there may be new instances to start."""
        self._has_starts = True
        self._wake.set()

    def touch(self, keys: Iterable[int]) -> None:
        """Say that these instances have something to do."""
        self._touched.extend(keys)
        self._wake.set()

    def tell_of_entities(
        self, receiver: Callable[[Iterable[Address]], None], later: Callable[[], None]
    ) -> None:
        """Have ``receiver`` told which entities have something to do, and ``later`` when some will have."""
        self._entities_touched, self._entities_delayed = receiver, later

    def tell_of_activities(self, receiver: Callable[[], None]) -> None:
        """Have ``receiver`` told when activities were left to be claimed, or have ended."""
        self._activities_changed = receiver

    def drain(self) -> None:
        """Take on nothing new from now on, but record what comes in."""
        self._is_draining = True
        self._wake.set()

    def resume(self) -> None:
        """Work again, beginning with a look at the tables."""
        self._is_draining = False
        self._unclaimed = self._hinted = True
        self.is_idle.clear()
        self._wake.set()

    @property
    def is_drained(self) -> bool:
        """Whether it takes on nothing, and nothing that runs is still to be recorded."""
        return self._is_draining and self.is_idle.is_set() and self._is_at_rest

    @property
    def instances(self) -> int:
        """How many instances are in the cache."""
        return len(self._processor.cache)

    @property
    def has_results(self) -> bool:
        """Whether there are results that are not recorded yet."""
        return bool(self._results)

    # ---------------------------------------------------------------- the loop

    def run(self, until: Callable[[], bool]) -> None:
        """Loop in this thread until ``until`` says so."""
        try:
            while not until():
                self._wait()
                try:
                    self.step()
                except BaseException:  # Without this thread, the worker would only look alive.
                    logger.exception("The turn loop goes on after an error, with a new connection")
                    self._survive()
        finally:
            self._processor.cache.clear()
            connections.close_all()

    def step(self) -> None:
        """Look once at what is ready, and move it."""
        was_idle = self.is_idle.is_set()
        self.is_idle.clear()
        is_draining = self._is_draining  # After the event: who finds both set finds nothing under way.
        if is_draining:
            self._let_go()
        work = Work(self._next_results()) if is_draining else self._gather()
        has_work = work.results or work.keys or work.looks or work.claim_activities
        if not (has_work or self._alone or self._local):
            if is_draining and self._is_at_rest:
                self._processor.cache.clear()
                self.is_idle.set()
            elif was_idle:
                self.is_idle.set()
            return
        try:
            self._processor.settle()
            report = Report()
            if self._careful():
                report = self._move_carefully(work)
            elif has_work:
                report = self._processor.run(work)
                self._follow(work, report)
        except BaseException:
            # Nothing of it is committed, or nobody knows: a result that was is dropped when it comes again.
            self._results.extendleft(reversed(work.results))
            self._keys |= work.keys
            self._processor.doubt()
            raise
        self._move_suspects()
        self._move_local()
        self._schedule_poll(work, report)
        is_busy = report.did_something or report.is_crowded or self._wake.is_set()
        is_quiet = (work.scan or was_idle) and not is_busy
        if is_quiet and self._is_at_rest and not (self._alone or self._local):
            self.is_idle.set()

    @property
    def _is_at_rest(self) -> bool:
        """Whether no activity is here, and no result of one."""
        return self._pool.is_idle and not self._results

    def _let_go(self) -> None:
        """Forget what could be done: the tables have it, for others, and for this one once it resumes."""
        if self._keys or self._touched or self._alone or self._local:
            self._outbox.work(self.hint)
        for known in (self._keys, self._touched, self._alone, self._local, self._timers):
            known.clear()

    @property
    def _look_at(self) -> float:
        """When the tables are to be looked at: a little later while results are there, or about to come."""
        return self._poll_at + (_LOOK_SECONDS if self._results or self._pool.left else 0.0)

    def _wait(self) -> None:
        seconds = self._look_at - time.monotonic()
        if self._is_draining:  # Nothing is looked for: it is for activities that end without a result.
            seconds = self._poll_interval() if self.is_idle.is_set() else _LOOK_SECONDS
        elif self._timers:
            seconds = min(seconds, (self._timers[0][0] - clock.now()).total_seconds())
        if seconds > 0:
            self._wake.wait(seconds)
        self._wake.clear()

    def _next_results(self) -> list[ActivityResult]:
        results: list[ActivityResult] = []
        while self._results and len(results) < _MOST_RESULTS:
            results.append(self._results.popleft())
        if self._results:
            self._wake.set()
        return results

    def _wait_for_more(self) -> None:
        """Let short activities end whose results belong with those at hand: a turn of their own takes longer.

        These are the last few of many, all of a fan-out, and many beside which those at hand are few. The
        first activities of all are waited for, too: until one has ended, nobody knows how many more to take
        on.
        """
        are_many = self._is_fan_out or self._are_few
        until = time.monotonic() + (_MANY_SECONDS if are_many else _STRAGGLERS_SECONDS)
        while time.monotonic() < until:
            left = self._pool.left
            belongs = left > 0 and (are_many or left * _STRAGGLERS_OF <= len(self._results))
            if not (belongs or self._pool.is_untried):
                return
            time.sleep(_STRAGGLERS_SECONDS / 10)

    @property
    def _is_fan_out(self) -> bool:
        """Whether the results at hand are many, but of few instances, and more are about to come."""
        if self._pool.left == 0 or len(self._results) < _MANY:
            return False
        return len({result.leased.instance for result in list(self._results)}) <= SMALL_BATCH

    @property
    def _are_few(self) -> bool:
        """Whether the results at hand are few beside those to come, and no wake-up has told of other work."""
        left = self._pool.left
        if left < _MANY or self._hinted or self._has_starts:
            return False
        return 0 < len(self._results) * _FEW_OF <= left

    def _gather(self) -> Work:
        self._wait_for_more()
        look_at = self._look_at  # While the results are still there.
        results = self._next_results()
        while self._touched:
            self._keys.add(self._touched.popleft())
        now = clock.now()
        while self._timers and self._timers[0][0] <= now:
            self._keys.add(heapq.heappop(self._timers)[1])
        keys, self._keys = self._keys, set()
        scan = self._hinted or time.monotonic() >= look_at
        has_starts = scan or self._has_starts
        self._hinted = self._has_starts = False
        slots, on_loop = self._pool.free, self._pool.free_on_loop
        return Work(
            results,
            keys,
            scan=scan,
            starts=max(slots, on_loop, _LEAST_STARTS) if has_starts else 0,
            # Older activities first: what nobody has claimed yet goes before what this batch makes.
            slots=slots,
            async_slots=on_loop,
            lease_new=not self._unclaimed or self._has_slots,
            claim_activities=(self._unclaimed or scan) and self._has_slots,
        )

    # ---------------------------------------------------------------- what follows

    def _follow(self, work: Work, report: Report) -> None:
        self._pool.submit(report.leased)
        self.turns += len(report.moved)
        committed = report.committed
        self._entities_touched(committed.entities)
        if committed.sends_later:
            self._entities_delayed()
            self._outbox.work(self.hint)
        if work.results or committed.unleased:
            self._activities_changed()
        self._keys |= committed.touched | report.again
        self._alone |= report.alone
        self._local |= dict.fromkeys(sorted(report.local))
        self._results.extend(report.lost_results)
        if work.claim_activities:
            self._unclaimed = report.more_activities
        self._unclaimed |= committed.unleased
        for due, key in committed.timers:
            self._look_again(key, due)
        # Where nothing was leased and nothing left to lease, an activity's end is soon enough to look again.
        has_more = self._unclaimed and bool(report.leased or committed.unleased) and self._has_slots
        if self._keys or self._results or report.is_full or has_more:
            self._wake.set()
        self._hinted |= report.is_full
        leaves = self._is_draining and bool(committed.entities)
        if committed.unleased or leaves or (committed.touched and self._is_partial):
            self._outbox.work(self.hint)
        elif report.is_full:
            self._outbox.turns(self.hint)
        self._outbox.changes(report.ended, here_only=report.is_announced)
        self._send_signals(work, report)

    def _send_signals(self, work: Work, report: Report) -> None:
        registry = self._processor.options.registry
        try:
            send_orchestration_signals(registry, self._using, report.moved)
            send_activity_signals(registry, self._using, [*work.results, *report.local_failures])
        except BaseException as error:  # What has been done stays done, whatever a receiver makes of it.
            if is_interrupt(error):
                raise
            logger.exception("A receiver of a signal has raised what no receiver should")

    @property
    def _has_slots(self) -> bool:
        return self._pool.free > 0 or self._pool.free_on_loop > 0

    @property
    def _is_partial(self) -> bool:
        """Whether what this worker sets going may be somebody else's to move."""
        served = self._processor.scope.orchestrations
        return served.queues is not None or served.names is not None or bool(served.rejected_versions)

    def _move_carefully(self, work: Work) -> Report:
        total = Report()
        results: dict[int, list[ActivityResult]] = {}
        for result in work.results:
            results.setdefault(result.leased.instance, []).append(result)
        keys = work.keys | set(results)
        if work.looks:
            found = self._processor.intake.peek(work.starts)
            keys |= found
            total.next_due = None if found else self._processor.intake.next_due()
        for key in sorted(keys):
            self._note(key)
            report = self._move_alone(key, results.get(key, ()))
            total.moved += report.moved
            total.missed |= report.missed
        self._note(None)
        if work.claim_activities:
            claim = Work(slots=self._pool.free, claim_activities=True)
            report = self._processor.run(claim)
            self._follow(claim, report)
            total.leased += report.leased
        if work.looks and total.moved:
            self.hint()  # There may be more.
        return total

    def _move_alone(self, key: int, results: Sequence[ActivityResult] = ()) -> Report:
        report = self._processor.run_alone(key, results, 0 if self._is_draining else self._pool.free)
        self._follow(Work(results), report)
        return report

    def _move_alone_soon(self, key: int) -> None:
        """Move it now or, if somebody holds it, in a moment: nobody tells when that is over."""
        if self._move_alone(key).missed and instances.exists(self._using, key):
            self._look_again(key, clock.now() + timedelta(seconds=polling.SHORTEST))

    def _look_again(self, key: int, at: datetime) -> None:
        if len(self._timers) < _MOST_TIMERS:
            heapq.heappush(self._timers, (at, key))

    def _move_suspects(self) -> None:
        if self._is_draining or not self._alone:
            return
        suspects, self._alone = self._alone, set()
        for key in sorted(suspects):
            self._note(key)
            self._move_alone_soon(key)
        self._note(None)

    def _move_local(self) -> None:
        """Run local activities, each instance's in a transaction of its own; not for long, others wait."""
        if self._is_draining or not self._local:
            return
        until = time.monotonic() + settings.LOCAL_SECONDS
        is_careful = self._careful()
        while self._local and time.monotonic() < until:
            key = next(iter(self._local))
            del self._local[key]
            if is_careful:
                self._note(key)
            self._move_alone_soon(key)
        if is_careful:
            self._note(None)
        if self._local:
            self._wake.set()

    def _schedule_poll(self, work: Work, report: Report) -> None:
        if report.did_something or report.missed or report.is_crowded:
            self._pause = polling.SHORTEST
        if work.scan:
            self._poll_at = time.monotonic() + self._pause
            self._pause = polling.longer(self._pause, self._poll_interval())
        elif report.missed or report.is_crowded or (work.looks and report.did_something):
            self._poll_at = min(self._poll_at, time.monotonic() + self._pause)
        if report.next_due is not None:
            seconds = (report.next_due - clock.now()).total_seconds()
            self._poll_at = min(self._poll_at, time.monotonic() + seconds)

    def _survive(self) -> None:
        leave_atomic_blocks()
        connections[self._using].close()
        self._poll_at = 0.0
        time.sleep(_OUTAGE_SECONDS)


def send_orchestration_signals(registry: Registry, using: str, moved: Sequence[Moved]) -> None:
    """Tell the receivers of Django's signals which orchestrations have started or ended."""
    if not any(signal.receivers for signal in _ORCHESTRATION_SIGNALS):
        return
    for entry in filter(attrgetter("is_news"), moved):
        instance, outcome = entry.instance, entry.outcome
        registered = registry.orchestrators.get(instance.name)
        about = {
            "sender": registered.fn if registered else None,
            "name": instance.name,
            "instance_id": instance.instance_id,
            "execution_id": instance.execution_id,
            "using": using,
        }
        if instance.is_pending:
            signals.orchestration_started.send_robust(**about)
        if outcome.status is OrchestrationStatus.COMPLETED:
            signals.orchestration_completed.send_robust(**about)
        elif outcome.status is OrchestrationStatus.FAILED:
            signals.orchestration_failed.send_robust(**about, failure_details=outcome.failure)


def send_activity_signals(registry: Registry, using: str, results: Sequence[ActivityResult]) -> None:
    """Tell the receivers of Django's signals which activities have failed."""
    for result in results:
        if result.failure is None:
            continue
        leased = result.leased
        registered = registry.activities.get(leased.name)
        signals.activity_failed.send_robust(
            sender=registered.fn if registered else None,
            name=leased.name,
            instance_id=leased.instance_id,
            execution_id=leased.execution_id,
            using=using,
            task_id=leased.task_id,
            failure_details=result.failure,
        )
