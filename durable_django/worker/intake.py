"""Intake: what a batch of turns takes in, locked until it commits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.conf import settings
from durable_django.core.options import ExecutionOptions
from durable_django.core.versioning import VersionFailureStrategy, VersioningOptions, version_mismatch
from durable_django.store import activities, bundles, claims, clock, inbox, pipeline
from durable_django.store.activities import Leased, Recorded
from durable_django.store.claims import Claimed
from durable_django.store.inbox import Arrived
from durable_django.store.scope import Scope
from durable_django.worker.activities import ActivityResult
from durable_django.worker.bundles import Bundles
from durable_django.worker.cache import ExecutionCache
from durable_django.worker.feeds import Results
from durable_django.worker.leases import lease_end
from durable_django.worker.shares import Shares
from durable_django.worker.slots import Slots
from durable_django.worker.work import Report, Work

logger = logging.getLogger("durable_django.worker")

HISTORY_ROWS = 20_000
"""About how many rows of history one transaction reads after cache misses."""

_RESERVE = 20
"""Which part of a batch, one in so many, is for what nobody has named where there was no room for long."""

_PATIENCE_SECONDS = 0.5
"""How long results may leave no room for what nobody has named."""

SMALL_BATCH = 8
"""Up to how many instances a batch is bound by its round trips, and goes through a pipeline."""

_FEW_STARTS = 500
"""How many pending instances such a batch starts at most: with more, a large one does better."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What is locked, what of it is to be moved, and by key what has arrived for it, and the results."""

    claimed: list[Claimed]
    movable: list[Claimed]
    arrived: dict[int, Arrived]
    results: Results


class Intake:
    """Takes in what there is to do for one worker: results, instances, and activities that are due."""

    def __init__(
        self,
        using: str,
        options: ExecutionOptions,
        scope: Scope,
        cache: ExecutionCache,
        *,
        worker: str,
        versioning: VersioningOptions | None,
        batch_instances: int,
        bundles: Bundles | None,
    ) -> None:
        self.scope = scope
        self._using = using
        self._options = options
        self._cache = cache
        self._worker = worker
        self._versioning = versioning
        self._batch_instances = batch_instances
        self._bundles = bundles
        self._last_scanned = 0
        self._looked_at = 0.0
        self._has_more = True
        self._shares = Shares(using, worker)
        self.moving: set[int] = set()
        """The keys of what the batch moves, as soon as that is known: to read what has arrived may fail."""

    def is_small(self, work: Work) -> bool:
        """Tell whether a batch will probably have few instances."""
        known = work.keys.union(result.leased.instance for result in work.results)
        return len(known) + (self._last_scanned if work.looks else 0) <= SMALL_BATCH

    def expected(self, work: Work) -> Claimed | None:
        """Return the one instance that there is a result for, if it is known how its last turn has left it.

        Then the code may run, and all be sent in one exchange, before it is known whether that still holds.
        """
        if len(work.results) != 1 or work.keys or work.looks or work.claim_activities:
            return None
        leased = work.results[0].leased
        if leased.bundle is not None or not pipeline.is_possible(self._using):
            return None
        instance = self._cache.instance(leased.instance)
        return instance if instance is not None and instance.execution_id == leased.execution_id else None

    def peek(self, starts: int) -> set[int]:
        """Return instances that are ready, without moving them; ``starts`` bounds the pending ones."""
        room = self._batch_instances
        with transaction.atomic(self._using), connections[self._using].cursor() as cursor:
            found = self._scan(cursor, clock.now(), room, min(starts, room))()
        return {instance.pk for instance in found}

    def next_due(self) -> datetime | None:
        """Return when something will be ready that is not yet."""
        with connections[self._using].cursor() as cursor:
            return claims.ask_next_due(cursor, clock.now())()

    def slots(self, work: Work) -> Slots:
        """Return what counts how many activities a batch may lease."""
        registered = self._options.registry.activities.values()
        async_names = frozenset(activity.name for activity in registered if activity.is_async)
        return Slots(work.slots, work.async_slots, self.scope.activities, async_names)

    def take(
        self, cursor: CursorWrapper, work: Work, slots: Slots, now: datetime, report: Report, *, alone: bool
    ) -> Taken:
        """Lock what there is to do, and read what has arrived for it; lease activities that are due."""
        keys = work.keys.union(result.leased.instance for result in work.results)
        # Asked for together, read one by one: in a pipeline that is one exchange.
        recorded = self._record(cursor, [result.leased for result in work.results])
        locked = claims.ask_keys(cursor, keys)
        room = self._room(len(keys))
        starts, leaves_some = self._starts(cursor, work, now, room)
        scanned = self._scan(cursor, now, room if work.scan else 0, starts)
        arrivals = None if work.looks else inbox.ask(cursor, sorted(keys), now, settings.BATCH_EVENTS)
        results = self._found(work.results, recorded())
        found = scanned()
        claimed = list({instance.pk: instance for instance in locked() + found}.values())
        if work.looks:
            if room:
                self._looked_at = time.monotonic()
                self._last_scanned = len(found)
                # Below its limits it has seen all: to look again at once would only delay results to come.
                # So it would where others have a share: what they leave is found in a moment.
                full = starts if pipeline.is_open(cursor) else min(work.starts, room)
                started = sum(instance.is_pending for instance in found)
                self._has_more = started >= full or len(found) >= room
            report.is_full, report.is_crowded = self._has_more, not room
        report.missed = not {instance.pk for instance in claimed} >= work.keys | results.keys()
        movable = [instance for instance in claimed if self._is_movable(instance, now, report, alone=alone)]
        if leaves_some and not movable:
            self._has_more = report.is_full = True  # Its share was not for it: to wait would be for nothing.
        movable = self._within_budget(movable, report)
        self.moving = {instance.pk for instance in movable}
        if arrivals is None:
            receivers = sorted(instance.pk for instance in movable if instance.may_have_messages)
            arrivals = inbox.ask(cursor, receivers, now, settings.BATCH_EVENTS)
        next_due = claims.ask_next_due(cursor, now) if work.looks and not found else None
        if work.claim_activities:
            self._claim_activities(cursor, slots, now, report)
        if next_due is not None:
            report.next_due = next_due()
        return Taken(claimed, movable, arrivals(movable), results)

    def _room(self, taken: int) -> int:
        """Return how many instances a batch may look for, beside those that are named."""
        room = self._batch_instances - taken
        if room <= 0 and time.monotonic() - self._looked_at > _PATIENCE_SECONDS:
            return max(1, self._batch_instances // _RESERVE)
        return max(0, room)

    def take_expected(self, cursor: CursorWrapper, work: Work, instance: Claimed) -> Taken:
        """Do what `take` does, without waiting for any answer: a mistake fails the commit."""
        (result,) = work.results
        activities.expect(cursor, result.leased.token)
        claims.expect(cursor, instance)
        self.moving = {instance.pk}
        return Taken([instance], [instance], {}, {instance.pk: [result]})

    def _record(
        self, cursor: CursorWrapper, finished: Sequence[Leased]
    ) -> Callable[[], Sequence[Leased | Recorded]]:
        """Take finished activities out of the tables; what is returned gives those that were still ours."""
        if self._bundles is None or all(leased.bundle is None for leased in finished):
            return activities.record(cursor, [leased.token for leased in finished])
        recorded = bundles.record(cursor, finished, self._bundles.emptied_by(finished))
        return lambda: recorded

    @staticmethod
    def _found(results: Sequence[ActivityResult], recorded: Sequence[Leased | Recorded]) -> Results:
        """Return those results whose rows were still ours, by instance."""
        rows_by_token = {row.token: row for row in recorded}
        found: Results = {}
        for result in results:
            row = rows_by_token.get(result.leased.token)
            if row is None:
                logger.warning(
                    "%s: the result of activity %r (#%s) is dropped: its lease is over",
                    result.leased.instance_id,
                    result.leased.name,
                    result.leased.task_id,
                )
                continue
            is_same = row.execution_id == result.leased.execution_id
            ours = result if is_same else result.given_to(row.execution_id)
            found.setdefault(row.instance, []).append(ours)
        return found

    def _starts(self, cursor: CursorWrapper, work: Work, now: datetime, room: int) -> tuple[int, bool]:
        """Return how many pending instances to take on, and whether that leaves others their share."""
        starts = min(work.starts, room)
        if not starts:
            return 0, False
        if pipeline.is_open(cursor):
            return min(starts, _FEW_STARTS), False
        share, leaves_some = self._shares.starts(cursor, self.scope.orchestrations, now, starts)
        return min(work.starts, share), leaves_some

    def _scan(
        self, cursor: CursorWrapper, now: datetime, room: int, starts: int
    ) -> Callable[[], list[Claimed]]:
        served = self.scope.orchestrations
        ready = claims.ask_ready(cursor, served, now, room)
        if pipeline.is_open(cursor):
            # In one exchange: the few that a small batch has will not be twice as many as a large one may.
            pending = claims.ask_pending(cursor, served, now, starts)
            return lambda: ready() + pending()
        found = ready()
        pending = claims.ask_pending(cursor, served, now, min(starts, max(room, starts) - len(found)))
        return lambda: found + pending()

    def _claim_activities(self, cursor: CursorWrapper, slots: Slots, now: datetime, report: Report) -> None:
        asked = [
            (count, activities.ask_due(cursor, served, self._worker, now, lease_end(now), count))
            for served, count in slots.left()
        ]
        for count, leased in asked:
            report.more_activities |= len(found := leased()) == count
            report.leased += found
        for activity in report.leased:
            slots.count(activity.name)

    def _is_movable(self, instance: Claimed, now: datetime, report: Report, *, alone: bool) -> bool:
        if not instance.is_active or not self._serves(instance):
            return False
        if instance.is_pending and instance.start_at > now:
            return False
        if instance.tries and not alone:
            report.alone.add(instance.pk)
            return False
        return True

    def _serves(self, instance: Claimed) -> bool:
        served = self.scope.orchestrations
        if not served.takes(instance.queue, instance.name, instance.version):
            return False
        versioning = self._versioning
        if versioning is None or versioning.failure_strategy is VersionFailureStrategy.FAIL:
            return True
        if version_mismatch(versioning, instance.version) is None:
            return True
        # Left to another worker, here and, from now on, by the claim itself.
        rejected = served.rejected_versions | {instance.version}
        orchestrations = replace(served, rejected_versions=rejected)
        self.scope = replace(self.scope, orchestrations=orchestrations)
        return False

    def _within_budget(self, movable: list[Claimed], report: Report) -> list[Claimed]:
        """Leave to the next batch what would have to read too much history in this one."""
        taken: list[Claimed] = []
        to_read = 0
        for instance in movable:
            if not self._cache.has(instance.pk, instance.execution_id, instance.next_sequence):
                to_read += instance.next_sequence
            if taken and to_read > HISTORY_ROWS:
                report.again.add(instance.pk)
            else:
                taken.append(instance)
        return taken
