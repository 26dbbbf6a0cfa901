"""The queue loop: one thread that claims the activities of queues with limits, or with another engine.

The turn loop leaves these queues alone. Their activities are claimed here, within the limits, and go to the
worker's own pool when they may begin, or to the queue's dispatcher.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, connections

from durable_django.conf import queue_limits, settings
from durable_django.core.limits import Limits
from durable_django.core.registry import Registry
from durable_django.store import activities, clock, queues
from durable_django.store.activities import Leased
from durable_django.store.scope import Served
from durable_django.worker import polling
from durable_django.worker.dispatch import ActivityDispatcher, Handed, dispatchers
from durable_django.worker.pool import ActivityPool

logger = logging.getLogger("durable_django.worker")

_BUSY_SECONDS = 0.02
_OUTAGE_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0
_TURNS_MISSED = 3


@dataclass(frozen=True, slots=True)
class Route:
    """A queue that is claimed by itself: its limits, and who runs its activities if not the pool."""

    queue: str
    limits: Limits
    dispatcher: ActivityDispatcher | None


def routes(served: Served) -> list[Route]:
    """Return the queues with limits or dispatchers, out of those that are served."""
    limits, engines = queue_limits(), dispatchers()
    return [
        Route(queue, limits.get(queue, Limits()), engines.get(queue))
        for queue in sorted(limits.keys() | engines.keys())
        if served.queues is None or queue in served.queues
    ]


def special_queues() -> frozenset[str]:
    """Return the queues that are claimed by themselves, by whatever worker."""
    return frozenset(queue_limits()) | frozenset(dispatchers())


class QueueLoop:
    """Claims what routes lead to, and passes it on."""

    def __init__(
        self,
        using: str,
        served: Served,
        registry: Registry,
        pool: ActivityPool,
        *,
        worker: str,
        poll_interval: Callable[[], float],
    ) -> None:
        self._using = using
        self._routes = routes(served)
        self._served = served
        self._pool = pool
        self._worker = worker
        self._poll_interval = poll_interval
        registered = registry.activities.values()
        self._async_names = frozenset(one.name for one in registered if one.is_async)
        self._soon: list[tuple[datetime, int, Leased, int]] = []
        self._limits = {route.queue: route.limits for route in self._routes}
        self._order = itertools.count()
        self._look_at = 0.0
        self._paused: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._is_draining = False
        self._thread: threading.Thread | None = None
        self._is_idle = not self._routes

    @property
    def is_idle(self) -> bool:
        """Whether the last look has found nothing, and nobody has given a hint since; or it drains."""
        if self._is_draining:
            return not self._soon
        return self._is_idle and not (self._soon or self._wake.is_set())

    def hint(self) -> None:
        """Say that there may be activities to claim, or places for them."""
        if self._routes:
            self._look_at = 0.0
            self._wake.set()

    def start(self) -> None:
        """Start the thread, if there is anything for it to do."""
        if self._routes:
            self._thread = threading.Thread(target=self._run, name="durable-queues", daemon=True)
            self._thread.start()

    def drain(self) -> None:
        """Claim nothing more, and give back what has not been passed on."""
        self._is_draining = True
        self._wake.set()

    def resume(self) -> None:
        """Work again, beginning with a look at the queues."""
        self._is_draining = False
        self.hint()

    @property
    def is_drained(self) -> bool:
        """Whether it claims nothing, and has nothing."""
        return self._is_draining and not self._soon

    def stop(self) -> None:
        """End the thread."""
        self.drain()
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            # A dispatcher may be waiting for a broker that does not answer: its leases run out.
            self._thread.join(_PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wait()
                try:
                    self.step()
                except BaseException:  # Without this thread, the worker would only look alive.
                    logger.exception("The queue loop goes on after an error, with a new connection")
                    connections[self._using].close()
                    self._stopping.wait(_OUTAGE_SECONDS)
            with suppress(DatabaseError):  # With the database away, leases run out.
                self._give_back()
        finally:
            connections.close_all()

    def step(self) -> None:
        """Pass on what may begin now, and claim some more if it is time to look."""
        self._begin()
        if self._is_draining:
            self._give_back()
        elif time.monotonic() >= self._look_at:
            self._look()

    def _wait(self) -> None:
        seconds = self._look_at - time.monotonic()
        if self._soon:
            seconds = min(seconds, (self._soon[0][0] - clock.now()).total_seconds())
        if seconds > 0:
            self._wake.wait(seconds)
        self._wake.clear()

    def _begin(self) -> None:
        while self._soon and self._soon[0][0] <= (now := clock.now()):
            begins, _order, leased, missed = heapq.heappop(self._soon)
            limits = self._limits[leased.queue]
            if limits.has_rates and now - begins > limits.latest and missed < _TURNS_MISSED:
                self._begin_later(leased, limits, missed + 1)
            else:
                self._pool.submit([leased])

    def _begin_later(self, leased: Leased, limits: Limits, missed: int) -> None:
        """Find an activity another moment: this thread was held up, and others begin at the present one."""
        begins = queues.reserve(self._using, leased.queue, leased.limit_key, limits, queues.AHEAD)
        if begins - clock.now() > queues.AHEAD:
            # Not until then: should the rate become another, the claim will know.
            activities.release(self._using, [leased.token])
        else:
            heapq.heappush(self._soon, (begins, next(self._order), leased, missed))

    def _give_back(self) -> None:
        left, self._soon = self._soon, []
        activities.release(self._using, [leased.token for _begins, _order, leased, _missed in left])

    def _look(self) -> None:
        self._look_at = time.monotonic() + self._poll_interval()
        is_idle = True
        for route in self._routes:
            until = self._paused.pop(route.queue, 0.0)
            if until > time.monotonic():
                self._paused[route.queue] = until
                self._look_at = min(self._look_at, until)
                is_idle = False
                continue
            for served, most in self._parts(route):
                is_idle &= self._claim(route, served, most)
        self._is_idle = is_idle

    def _parts(self, route: Route) -> Iterator[tuple[Served, int]]:
        """Yield what is claimed of a queue by itself, and how many: as many as can begin at once."""
        served = self._served.on(route.queue)
        if route.dispatcher is not None:
            names = frozenset[str]() if route.dispatcher.supports_async else self._async_names
            yield served.but(names), route.dispatcher.batch
            return
        waiting = len(self._soon)
        yield served.but(self._async_names), max(0, self._pool.idle_threads - waiting)
        if self._async_names:
            yield served.only(self._async_names), max(0, self._pool.free_on_loop - waiting)

    def _claim(self, route: Route, served: Served, most: int) -> bool:
        """Claim some of a queue, and tell whether there was nothing."""
        if most <= 0:
            return True  # The end of an activity is soon enough to look again.
        lease, ahead = settings.LEASE_SECONDS, queues.AHEAD
        if route.dispatcher is not None:
            lease, ahead = route.dispatcher.lease_seconds, queues.AHEAD_OF_ENGINES
        claim = queues.claim(
            self._using,
            served,
            route.queue,
            route.limits,
            worker=self._worker,
            lease=timedelta(seconds=lease),
            most=most,
            for_engine=route.dispatcher is not None,
        )
        if route.dispatcher is not None:
            self._dispatch(route.dispatcher, [leased for _begins, leased in claim.leased])
        else:
            for begins, leased in claim.leased:
                heapq.heappush(self._soon, (begins, next(self._order), leased, 0))
            self._begin()
        pause = self._pauses.get(route.queue, 0.0)
        longer = polling.longer(pause, self._poll_interval())
        self._pauses[route.queue] = polling.SHORTEST if claim.leased else longer
        if claim.is_full and route.queue not in self._paused:
            self._look_at = 0.0
        elif claim.is_busy:
            self._look_at = min(self._look_at, time.monotonic() + _BUSY_SECONDS)
        elif claim.next_at is not None:
            seconds = (claim.next_at - ahead - clock.now()).total_seconds()
            self._look_at = min(self._look_at, time.monotonic() + seconds)
        elif claim.is_blocked:
            # Nobody tells of what ends elsewhere: look again soon, and more rarely while nothing does.
            self._look_at = min(self._look_at, time.monotonic() + self._pauses[route.queue])
        return not (claim.leased or claim.is_busy or claim.next_at)

    def _dispatch(self, dispatcher: ActivityDispatcher, leased: list[Leased]) -> None:
        if not leased:
            return
        handed = [Handed(self._using, one.token, one.name, one.queue, one.instance_id) for one in leased]
        try:
            dispatcher.dispatch(handed)
        except Exception:
            queue = dispatcher.queue
            logger.exception("%s activities of queue %r could not be handed over", len(leased), queue)
            activities.release(self._using, [one.token for one in leased])
            # Other queues go on meanwhile.
            self._paused[queue] = time.monotonic() + _OUTAGE_SECONDS
        else:
            activities.hand_over(self._using, [one.token for one in leased])
