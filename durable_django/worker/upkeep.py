"""Upkeep: signs of life, leases, the watch over slow code, and the burial of dead workers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self

from django.db import connections

from durable_django.conf import settings
from durable_django.store import activities, bundles, queues, retention, wakeup, workers
from durable_django.store.claims import Claimed
from durable_django.worker.bundles import LONGEST_SECONDS, Bundles
from durable_django.worker.leases import lease_end
from durable_django.worker.pool import ActivityPool

logger = logging.getLogger("durable_django.worker")

_TICK = 0.25
_AGAIN_SECONDS = 1.0
_SWEEP_SECONDS = 60.0  # Nobody waits for it, and it looks at all timers that there are.
CAREFUL_SECONDS = 30.0
"""How long after a crash each instance is noted before it is run."""


class Watch:
    """Knows which instance's code is running, and since when.

    A context itself, rather than one for each instance: every turn enters it.
    """

    def __init__(self) -> None:
        self._next: Claimed | None = None
        self._current: tuple[Claimed, float] | None = None
        self._reported: tuple[Claimed, float] | None = None

    def over(self, instance: Claimed) -> Self:
        """Return the context of one instance's code."""
        self._next = instance
        return self

    def __enter__(self) -> None:
        assert self._next is not None
        self._current = (self._next, time.monotonic())

    def __exit__(self, *_: object) -> None:
        self._current = None

    @property
    def is_over_slow(self) -> bool:
        """Whether the instance that was reported last is still running."""
        return self._current is not None and self._current is self._reported

    def slow(self) -> Claimed | None:
        """Return the instance whose code has been running for long, once."""
        current = self._current
        if current is None or current is self._reported:
            return None
        if time.monotonic() - current[1] < settings.SLOW_TURN_SECONDS:
            return None
        self._reported = current
        return current[0]


class Upkeep:
    """The worker's housekeeping: one thread watches, another keeps leases and signs of life.

    ``beat`` shows that the worker is alive. It is called at every heartbeat, when the event of `follow` is
    set, and when ``tend``, which is called often, says that there is news.

    Each has its own connection. On SQLite a turn that hangs keeps everybody else from writing; the warning
    about it must not wait for that.
    """

    def __init__(
        self,
        using: str,
        identity: str,
        pool: ActivityPool,
        held: Bundles,
        watch: Watch,
        *,
        tend: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        self._using = using
        self._identity = identity
        self._pool = pool
        self._bundles = held
        self._watch = watch
        self._tend = tend
        self._beat = beat
        self._called = threading.Event()
        self._stopped = threading.Event()
        self._careful_until = 0.0
        self._has_noted = False
        self._beat_at = 0.0
        self._sweep_at = time.monotonic() + _SWEEP_SECONDS
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), name=f"durable-{name}", daemon=True)
            for name, work in (("watch", self._look_after), ("upkeep", self._keep_up))
        ]

    def is_careful(self) -> bool:
        """Whether a worker has died lately, so that whoever killed it may come next."""
        return time.monotonic() < self._careful_until

    def bury_dead(self) -> None:
        """Look for dead workers; after a death, be careful for a while."""
        silence = timedelta(seconds=settings.LEASE_SECONDS)
        if workers.bury_dead(self._using, silence):
            self._careful_until = time.monotonic() + CAREFUL_SECONDS
            wakeup.announce_work(self._using)  # What it had leased is anybody's.

    def follow(self, called: threading.Event) -> None:
        """Have every ``called`` bring the next heartbeat forward."""
        self._called = called

    def note(self, instance: int | None) -> None:
        """Note whose code runs next, in case it kills this process."""
        workers.suspect(self._using, self._identity, instance)

    def note_operations(self, operations: list[int]) -> None:
        """Note which operations of entities are performed now, in case one kills this process."""
        workers.suspect_operations(self._using, self._identity, operations)

    def start(self) -> None:
        """Start the threads."""
        self._beat_at = time.monotonic() + settings.HEARTBEAT_SECONDS
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and wait for them."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _repeat(self, work: Callable[[], None]) -> None:
        try:
            while not self._stopped.wait(_TICK):
                try:
                    work()
                except Exception:
                    logger.exception("Upkeep goes on after an error, with a new connection")
                    connections[self._using].close()
        finally:
            connections.close_all()

    def _look_after(self) -> None:
        if self._has_noted and not self._watch.is_over_slow:
            self._has_noted = False
            self.note(None)
        slow = self._watch.slow()
        if slow is None:
            return
        logger.warning(
            "Orchestrator %r of instance %s has been running for over %s s without a pause. It must yield, "
            "and leave work to activities that are not local: all other instances wait for it.",
            slow.name,
            slow.instance_id,
            settings.SLOW_TURN_SECONDS,
        )
        if connections[self._using].vendor != "sqlite":  # There, the running turn has the only write lock.
            self._has_noted = True
            self.note(slow.pk)

    def _keep_up(self) -> None:
        self._show_signs()  # First: nothing that fails below shall cost them.
        self._bundles.dissolve(after=LONGEST_SECONDS)
        self._bundles.give_back(self._pool.give_back_overdue())

    def _show_signs(self) -> None:
        """Keep leases and signs of life, and look after those of others, if it is time."""
        has_news = self._tend() or self._called.is_set()
        if time.monotonic() < self._beat_at and not has_news:
            return
        self._called.clear()
        # Until it has worked: leases may run out before the next regular one.
        self._beat_at = time.monotonic() + min(_AGAIN_SECONDS, settings.HEARTBEAT_SECONDS)
        began_at = time.monotonic()
        activities.renew(self._using, self._pool.tokens(), lease_end())
        self._beat()
        self._beat_at = began_at + settings.HEARTBEAT_SECONDS
        self.bury_dead()
        if began_at >= self._sweep_at:
            self._sweep_at = began_at + _SWEEP_SECONDS
            retention.sweep(self._using)
            bundles.sweep(self._using)
            queues.sweep(self._using)
