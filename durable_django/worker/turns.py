"""Turns: one transaction that moves a whole batch of instances.

`TurnProcessor.run` is the heart of the worker, and of ``drain()`` in tests. It takes what is ready, feeds it
to the orchestrators' code, and commits what came of it. What a crash must not break is all here: an execution
is taken out of the cache before it is fed and put back after the commit, so that a rollback, or a commit
whose outcome nobody knows, costs a read of the history and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from itertools import chain

from django.db import Error as DatabaseError
from django.db import IntegrityError, InterfaceError, OperationalError
from django.db.backends.utils import CursorWrapper

from durable_django.conf import settings
from durable_django.core.errors import FailureDetails
from durable_django.core.options import ExecutionOptions
from durable_django.core.replay import Execution
from durable_django.core.status import OrchestrationStatus
from durable_django.core.versioning import VersioningOptions, version_mismatch
from durable_django.store import (
    bundles,
    clock,
    failures,
    histories,
    inbox,
    instances,
    pipeline,
    rows,
    wakeup,
)
from durable_django.store.claims import Claimed
from durable_django.store.commits import Batch, Lessor, Moved
from durable_django.store.inbox import Arrived, NewMessage
from durable_django.store.scope import Scope
from durable_django.worker.activities import ActivityResult
from durable_django.worker.bundles import Bundles
from durable_django.worker.cache import ExecutionCache
from durable_django.worker.connections import close_if_lost, is_lost
from durable_django.worker.feeds import Feed, Results
from durable_django.worker.guard import no_queries
from durable_django.worker.intake import SMALL_BATCH, Intake
from durable_django.worker.leases import lease_end
from durable_django.worker.local import LocalActivities
from durable_django.worker.work import Report, Work

logger = logging.getLogger("durable_django.worker")


PART_INSTANCES = 200
"""Of how many instances in a larger batch the rows are written while the code of the next ones runs."""


class TurnProcessor:
    """Moves instances of one database, for one worker. Not thread-safe: one thread runs its turns."""

    def __init__(
        self,
        using: str,
        options: ExecutionOptions,
        scope: Scope,
        *,
        worker: str,
        versioning: VersioningOptions | None = None,
        batch_instances: int | None = None,
        bundles: Bundles | None = None,
        watch: Callable[[Claimed], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self.using = using
        self.options = options
        self.worker = worker
        self.cache = ExecutionCache(settings.CACHE_EXECUTIONS)
        self.intake = Intake(
            using,
            options,
            scope,
            self.cache,
            worker=worker,
            versioning=versioning,
            batch_instances=batch_instances or settings.BATCH_INSTANCES,
            bundles=bundles,
        )
        self._versioning = versioning
        self._bundles = bundles
        self._watch = watch
        self._local = LocalActivities(using, options, worker, watch, checks=self._was_refused)
        self._fed: list[Feed] = []
        self._outdated: list[ActivityResult] = []
        self._last_errors: dict[int, Exception] = {}
        self._is_in_doubt = False

    @property
    def scope(self) -> Scope:
        """What this worker serves, without the versions that it has found to be others' to move."""
        return self.intake.scope

    def run(self, work: Work) -> Report:
        """Move what is ready; if the batch fails, one by one, so that one bad instance stops no other.

        Raises:
            OperationalError, InterfaceError: The database is away.
            Exception: It failed, and it is no instance's fault.

        Nothing is lost when it raises: hand the results in again.
        """
        if (expected := self.intake.expected(work)) is not None:
            try:
                return self._commit(work, expected=expected)
            except Exception:
                self._forget()
                logger.debug("%s is not as it was thought to be", expected.instance_id, exc_info=True)
        try:
            return self._commit_prepared(work)
        except Exception as error:
            self.doubt()
            keys = self._forget() | work.keys
            if not (keys or work.results) or _is_away(self.using, error):
                raise
            logger.warning("A batch of %s turns is tried again one by one", len(keys), exc_info=True)
        self.settle()
        return self._one_by_one(work, keys)

    def run_alone(self, key: int, results: Sequence[ActivityResult] = (), slots: int = 0) -> Report:
        """Move one instance in a transaction of its own, and count it against the instance if that fails.

        Raises:
            OperationalError, InterfaceError: The database is away.
        """
        try:
            report = self._commit(Work(results, {key}, slots=slots, lease_new=slots > 0), alone=True)
        except Exception as error:
            self.doubt()
            self._forget()
            if _is_away(self.using, error):
                raise
            logger.exception("The turn of instance %s failed", key)
            self._last_errors[key] = error
            if not isinstance(error, OperationalError):  # Deadlocks and timeouts are nobody's fault.
                close_if_lost(self.using)
                instances.count_try(self.using, key)
                failures.give_up(self.using, key, settings.MAX_TRIES, self._exhaustion(key))
            return Report(alone={key}, lost_results=list(results))
        self._last_errors.pop(key, None)
        return report

    def doubt(self) -> None:
        """Say that nobody knows whether results which will be handed in again have been committed.

        Bundles do not tell: only an activity's own row is gone once its result is recorded.
        """
        self._is_in_doubt = self._bundles is not None

    def settle(self) -> None:
        """After `doubt`, see to it that what is handed in again is recorded only once."""
        if self._is_in_doubt and self._bundles is not None:
            self._bundles.dissolve_all()
            self._is_in_doubt = False

    # ---------------------------------------------------------------- a batch

    def _commit_prepared(self, work: Work) -> Report:
        """Move a batch, and do so again if nothing is wrong but that prepared statements are gone."""
        try:
            return self._commit(work)
        except DatabaseError as error:
            if not pipeline.has_lost_statements(error):
                raise
            self._forget()
        return self._commit(work)

    def _commit(self, work: Work, *, alone: bool = False, expected: Claimed | None = None) -> Report:
        report = Report()
        self._fed = []
        self._outdated = []
        self.intake.moving = set()
        is_small = not alone and self.intake.is_small(work)
        with pipeline.begin(self.using, small=is_small) as cursor:
            self._move(cursor, work, report, alone=alone, expected=expected)
            few = len(report.moved) <= SMALL_BATCH
            report.is_announced = wakeup.announce_within(cursor, report.ended, is_small=few)
        self._keep(report)
        if self._bundles is not None:
            self._bundles.take_out(result.leased for result in work.results)
            self._bundles.open(report.committed.leased)
        return report

    def _move(
        self, cursor: CursorWrapper, work: Work, report: Report, *, alone: bool, expected: Claimed | None
    ) -> None:
        now = clock.now()
        slots = self.intake.slots(work)
        if expected is not None:
            taken = self.intake.take_expected(cursor, work, expected)
        else:
            taken = self.intake.take(cursor, work, slots, now, report, alone=alone)
        claimed, arrived, results = taken.claimed, taken.arrived, taken.results
        report.is_full |= sum(len(entry.carriers) for entry in arrived.values()) >= settings.BATCH_EVENTS
        leases_new = work.lease_new and not report.more_activities
        may_bundle = self._bundles is not None
        lessor = Lessor(self.worker, lease_end(now), slots.take, may_bundle) if leases_new else None
        batch = Batch(cursor, now, lessor)
        own = alone or len(claimed) == 1
        for instance in taken.movable:
            inbox_of = arrived.get(instance.pk) or Arrived()
            if inbox_of.postponed and not own:
                del arrived[instance.pk]
                report.local.add(instance.pk)
                continue
            self._prepare(instance, inbox_of, results.pop(instance.pk, []), now)
        parts = list(rows.batched(self._fed, PART_INSTANCES))
        # The server writes what has become of one part while the code of the next one runs.
        with pipeline.ahead(cursor) if len(parts) > 1 else nullcontext():
            for feeds in parts:
                self._feed(feeds, now)
                if expected is not None and self._local.callers(feeds):
                    pipeline.leave(self.using)
                for moved in [feed.moved() for feed in self._run_local(feeds, own, arrived, results, report)]:
                    batch.add(moved)
                    report.moved.append(moved)
                if len(parts) > 1:
                    batch.write_progress()
        self._leave(cursor, claimed, results, now)
        inbox.delete(cursor, [carrier for entry in arrived.values() for carrier in entry.stale])
        report.committed = batch.write()
        report.leased += report.committed.leased
        self._reset_tries(report.moved)

    # ---------------------------------------------------------------- the code

    def _prepare(
        self, instance: Claimed, arrived: Arrived, found: list[ActivityResult], now: datetime
    ) -> None:
        """Bring an instance that has something to do to where its history ends."""
        execution_id = instance.execution_id
        current = [result for result in found if result.leased.execution_id == execution_id]
        self._outdated += [result for result in found if result.leased.execution_id != execution_id]
        for result in current:
            arrived.add(result.event)
        if instance.is_pending:
            arrived.lead(inbox.started(instance, instance.input, now))
        elif not arrived.events and not arrived.goes_on:
            return
        self._fed.append(Feed(instance, arrived, self._execution(instance), current))

    def _feed(self, feeds: Sequence[Feed], now: datetime) -> None:
        """Run the code of all that is prepared."""
        with no_queries():
            for feed in feeds:
                with self._watch(feed.instance):
                    present = max(now, feed.instance.last_updated_at)
                    feed.outcome = feed.execution.turn(present, feed.arrived.events)

    def _run_local(
        self,
        feeds: Sequence[Feed],
        own: bool,
        arrived: dict[int, Arrived],
        results: Results,
        report: Report,
    ) -> list[Feed]:
        """Run local activities if the transaction is one instance's ``own``; else see that they are run.

        Returned are those whose turn is done by that.
        """
        done = self._local.run(feeds, own=own)
        report.local |= done.unfinished
        report.local_ran += done.ran
        report.local_failures += done.failures
        for feed in done.left:
            feed.execution.close()
            self._fed.remove(feed)
            arrived.pop(feed.instance.pk, None)
            results[feed.instance.pk] = feed.found
        return [feed for feed in feeds if feed not in done.left] if done.left else list(feeds)

    def _execution(self, instance: Claimed) -> Execution:
        key = (instance.pk, instance.execution_id, instance.next_sequence)
        execution = self.cache.take(*key)
        if execution is not None:
            return execution
        execution = Execution(instance.instance_id, self.options)
        refusal = self._refusal(instance)
        if refusal is not None:
            execution.refuse(refusal)
        elif instance.next_sequence:
            history = histories.read(self.using, instance.pk, instance.execution_id)
            with self._watch(instance), no_queries():
                execution.replay(history)
        return execution

    def _refusal(self, instance: Claimed) -> FailureDetails | None:
        """Return why the instance's code is not to be run at all, if there is a reason."""
        if instance.tries >= settings.MAX_TRIES:
            return self._exhaustion(instance.pk)
        if self._versioning is not None:
            mismatch = version_mismatch(self._versioning, instance.version)
            if mismatch is not None:
                return FailureDetails(mismatch, "VersionMismatch")
        return None

    def _exhaustion(self, key: int) -> FailureDetails:
        error = self._last_errors.get(key)
        if error is not None:
            reason = f"its turn failed each time, at last with {type(error).__name__}: {error}"
        else:
            reason = "each time the worker that ran it died or hung"
        message = f"Given up after {settings.MAX_TRIES} tries: {reason}"
        return FailureDetails(message, "durable_django.worker.TooManyTries")

    # ---------------------------------------------------------------- after the code

    def _leave(
        self,
        cursor: CursorWrapper,
        claimed: Sequence[Claimed],
        results: Results,
        now: datetime,
    ) -> None:
        """Put results into the inboxes of instances that this batch does not move.

        These, and those that nobody will see, are none that the history knows of.
        """
        by_key = {instance.pk: instance for instance in claimed}
        messages = []
        for key, found in results.items():
            instance = by_key.get(key)
            held = instance is not None and instance.is_suspended
            if instance is not None and not (held or instance.is_active):
                continue  # It has ended: nobody waits.
            messages += [NewMessage(key, event, leased.execution_id, held) for leased, event in found]
        inbox.add(cursor, messages, now)
        unseen = [one for feed in self._fed for one in feed.unseen]
        bundles.strike(cursor, [one.leased for one in chain(unseen, self._outdated, *results.values())])

    def _was_refused(self, key: int) -> bool:
        return isinstance(self._last_errors.get(key), IntegrityError)

    def _reset_tries(self, moved: Sequence[Moved]) -> None:
        survivors = [entry.instance.pk for entry in moved if entry.instance.tries]
        if survivors:
            instances.reset_tries(self.using, survivors)

    def _keep(self, report: Report) -> None:
        """Put the executions back into the cache: their turns are committed."""
        is_small = len(self._fed) <= SMALL_BATCH
        for feed in self._fed:
            outcome, instance = feed.outcome, feed.instance
            if outcome is not None and outcome.status is OrchestrationStatus.RUNNING:
                next_sequence = instance.next_sequence + len(outcome.events)
                left = _as_left(feed, next_sequence) if is_small else None
                self.cache.put(instance.pk, feed.execution, instance.execution_id, next_sequence, left)
        self._fed = []

    def _forget(self) -> set[int]:
        """Drop all executions that the failed batch has fed, and return the keys of all its instances."""
        fed, self._fed = self._fed, []
        for feed in fed:
            feed.execution.close()
        return self.intake.moving

    def _one_by_one(self, work: Work, keys: set[int]) -> Report:
        by_instance: dict[int, list[ActivityResult]] = {}
        for result in work.results:
            by_instance.setdefault(result.leased.instance, []).append(result)
        total = Report(is_full=work.scan)
        slots = work.slots
        for key in sorted(keys | set(by_instance)):
            report = self.run_alone(key, by_instance.get(key, ()), max(slots, 0))
            slots -= len(report.leased)
            total.merge(report)
        return total


def _as_left(feed: Feed, next_sequence: int) -> Claimed:
    """Return an instance as its turn has left it."""
    instance, outcome = feed.instance, feed.outcome
    assert outcome is not None
    return instance._replace(
        status=OrchestrationStatus.RUNNING.value,
        next_sequence=next_sequence,
        turn=instance.turn + 1,
        last_updated_at=feed.execution.now,
        custom_status=outcome.custom_status if outcome.sets_custom_status else instance.custom_status,
        input=None,
    )


def _is_away(using: str, error: Exception) -> bool:
    """Tell whether the connection is lost, rather than one statement refused."""
    return isinstance(error, OperationalError | InterfaceError) and is_lost(using)
