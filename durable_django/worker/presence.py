"""Presence: what a worker's row says of it, and the mark on that row that drains it."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime
from typing import Any

from durable_django.core.versioning import VersioningOptions
from durable_django.store import clock, wakeup, workers
from durable_django.store.scope import Names, Scope
from durable_django.worker.bundles import Bundles
from durable_django.worker.entity_loop import EntityLoop
from durable_django.worker.loop import TurnLoop
from durable_django.worker.pool import ActivityPool
from durable_django.worker.queue_loop import QueueLoop

logger = logging.getLogger("durable_django.worker")

_MINUTE = 60.0
_SHORTEST_COUNT = 1.0


class Presence:
    """One run of a worker as others see it; drains it and lets it work again, as its row is marked.

    A worker that stops drains the same way, for good. Thread-safe.
    """

    def __init__(
        self,
        using: str,
        row: workers.Identity,
        loop: TurnLoop,
        entities: EntityLoop,
        queues: QueueLoop,
        pool: ActivityPool,
        *,
        bundles: Bundles,
    ) -> None:
        self._using = using
        self._row = row
        self._loop = loop
        self._entities = entities
        self._queues = queues
        self._pool = pool
        self._bundles = bundles
        self._lock = threading.Lock()
        self._draining_since: datetime | None = None
        self._drained_at: datetime | None = None
        self._is_leaving = False
        self._turns_per_minute = 0
        self._counted = (time.monotonic(), 0)

    def enter(self) -> None:
        """Write the row; one that was there before, and was marked, is marked again."""
        workers.add(self._using, self._row, self._load(), self._draining_since)

    def beat(self) -> None:
        """Show that this worker is alive, and follow its row's mark."""
        if self._draining_since is not None and self._drained_at is None and self._is_drained:
            self._drained_at = clock.now()
            logger.info("Worker %s is drained", self._row.identity)
        before = self._draining_since
        is_there, since = workers.beat(
            self._using, self._row.identity, self._load(), before, self._drained_at
        )
        if not is_there:
            # Somebody took us for dead; our leases are renewed, if we still have them. A mark that was set
            # meanwhile went with the old row: its operator was told that this worker is gone.
            self.enter()
        elif (since is None) != (before is None):
            self._follow(since)

    def tend(self) -> bool:
        """Give back what has not started, where it drains; tell whether it is drained and nobody knows."""
        if self._draining_since is None:
            return False
        self.give_back()
        return self._drained_at is None and self._is_drained

    def leave(self) -> None:
        """Drain for good, whatever the row says: this worker stops, and gives back what it has."""
        with self._lock:
            self._is_leaving = True
            self._drain()

    def give_back(self) -> None:
        """Give back the activities that are here and have not started."""
        if tokens := self._pool.give_back():
            self._bundles.give_back(tokens)
            wakeup.announce_work(self._using)

    @property
    def _is_drained(self) -> bool:
        return self._loop.is_drained and self._entities.is_idle and self._queues.is_drained

    def _follow(self, since: datetime | None) -> None:
        with self._lock:
            self._draining_since, self._drained_at = since, None
            if since is not None:
                logger.info("Worker %s drains: it takes on nothing new", self._row.identity)
                self._drain()
            elif not self._is_leaving:
                logger.info("Worker %s works again", self._row.identity)
                self._entities.resume()
                self._queues.resume()
                self._loop.resume()
        if since is not None:
            self.give_back()

    def _drain(self) -> None:
        self._entities.drain()
        self._queues.drain()
        self._loop.drain()

    def _load(self) -> workers.Load:
        return workers.Load(
            activities_running=self._pool.running,
            activities_waiting=self._pool.waiting,
            threads=self._pool.threads,
            async_slots=self._pool.async_slots,
            instances=self._loop.instances,
            entities=self._entities.busy,
            turns_per_minute=self._rate(),
        )

    def _rate(self) -> int:
        now, turns = time.monotonic(), self._loop.turns
        since, before = self._counted
        if now - since >= _SHORTEST_COUNT:  # Of less, nothing can be said.
            self._turns_per_minute = round((turns - before) / (now - since) * _MINUTE)
            self._counted = (now, turns)
        return self._turns_per_minute


def versioning_row(options: VersioningOptions | None) -> dict[str, str | None] | None:
    """Return what a worker's row says of the versions that it takes."""
    if options is None:
        return None
    return {
        "version": options.version,
        "match": options.match_strategy.name.lower(),
        "others": options.failure_strategy.name.lower(),
    }


def names_row(scope: Scope) -> dict[str, Any] | None:
    """Return what a worker's row says of the names that it takes; None is all."""
    orchestrations, activities_, entities = (
        scope.orchestrations.names,
        scope.activities.names,
        scope.entities.names,
    )
    if orchestrations is None or activities_ is None or entities is None:
        return None  # They are filtered together.
    return {
        "orchestrations": _with_versions(orchestrations),
        "activities": _with_versions(activities_),
        "entities": sorted(entities),
    }


def _with_versions(names: Names) -> dict[str, list[str]]:
    return {name: sorted(versions) for name, versions in sorted(names.items())}
