"""The activity pool: threads for plain functions, one event loop for ``async def`` ones."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.transaction import TransactionManagementError

from durable_django.core.errors import FailureDetails
from durable_django.store import clock
from durable_django.store.activities import Leased
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.connections import leave_atomic_blocks, tidy

logger = logging.getLogger("durable_django.worker")

_AHEAD_SECONDS = 0.1
_MOST_AHEAD = 128
_FIRST_GUESS_SECONDS = 0.005
_TRIAL_SECONDS = 5e-3
_PATIENCE_SECONDS = 1.0
_CLOSING_SECONDS = 5.0
_IDLE_SECONDS = 0.5
_SHORTEST_SECONDS = 1e-4
_LEAST_WEIGHT = 0.05
_QUICK_SECONDS = 1e-3


class ActivityPool:
    """Runs leased activities and hands their results to ``deliver``, from whatever thread.

    It takes in somewhat more than it has threads: as much as it will have done in a tenth of a second, by
    what activities have taken lately, so that short ones need no claim each, and long ones do not wait here
    while another worker is idle.

    Its threads share dictionaries and no lock: single operations on these are atomic, and many threads that
    are done at once would queue up for a lock with every activity. Who pops a token has it; one that goes
    from one dictionary to another is in both for a moment, and never in none.
    """

    def __init__(
        self,
        runner: ActivityRunner,
        deliver: Callable[[ActivityResult], None],
        *,
        threads: int,
        concurrent: int,
    ) -> None:
        self._runner = runner
        self._deliver = deliver
        self._has_async = runner.has_async
        self._thread_count = threads
        self._concurrent = concurrent
        self._seconds = _FIRST_GUESS_SECONDS
        self._weight = 1.0
        self._begun_at: float | None = None
        self._queue: queue.SimpleQueue[Leased | None] = queue.SimpleQueue()
        self._waiting: dict[int, float] = {}
        self._running: dict[int, Leased] = {}
        self._on_loop: dict[int, Leased] = {}
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False
        self._tidied_at = 0.0
        self._tidying: set[asyncio.Future[bool]] = set()

    def start(self) -> None:
        """Start the threads; the event loop starts with the first activity that needs it."""
        for number in range(self._thread_count):
            thread = threading.Thread(target=self._work, name=f"durable-activity-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def free(self) -> int:
        """How many more plain activities to take in now."""
        ahead = self._thread_count * min(_AHEAD_SECONDS / self._seconds, _MOST_AHEAD)
        return max(0, self._thread_count + int(ahead) - len(self._waiting) - len(self._running))

    @property
    def idle_threads(self) -> int:
        """How many threads have nothing to do, and nothing waiting for them."""
        return max(0, self._thread_count - len(self._waiting) - len(self._running))

    @property
    def free_on_loop(self) -> int:
        """How many more ``async def`` activities to take in now; none where none are registered."""
        if not self._has_async:
            return 0
        return max(0, self._concurrent - len(self._on_loop))

    @property
    def running(self) -> int:
        """How many activities are running."""
        return len(self._running) + len(self._on_loop)

    @property
    def waiting(self) -> int:
        """How many activities are here and have not started."""
        return len(self._waiting)

    @property
    def left(self) -> int:
        """How many plain activities are to end, if that is a matter of a moment; else none."""
        return len(self._waiting) + len(self._running) if self._seconds < _QUICK_SECONDS else 0

    @property
    def is_untried(self) -> bool:
        """Whether the first plain activities of all have come just now, and none has ended."""
        begun = self._begun_at
        return self._weight == 1.0 and begun is not None and time.monotonic() - begun < _TRIAL_SECONDS

    @property
    def threads(self) -> int:
        """How many plain activities run at once."""
        return self._thread_count

    @property
    def async_slots(self) -> int:
        """How many ``async def`` activities run at once; none where none are registered."""
        return self._concurrent if self._has_async else 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or running."""
        return not (self._waiting or self._running or self._on_loop)

    def tokens(self) -> list[int]:
        """Return the lease tokens of all that is here."""
        return list({*self._waiting, *self._running, *self._on_loop})

    def submit(self, tasks: Sequence[Leased]) -> None:
        """Take in activities."""
        now = time.monotonic()
        for task in tasks:
            if self._runner.is_async(task):
                self._on_loop[task.token] = task
                loop, at_once = self._event_loop()
                running = asyncio.run_coroutine_threadsafe(self._run_async(task, at_once), loop)
                running.add_done_callback(partial(self._see_to_end, task))
            else:
                self._begun_at = self._begun_at or now
                self._waiting[task.token] = now
                self._queue.put(task)

    def give_back(self) -> list[int]:
        """Take out what has not started, and return its tokens."""
        return [token for token in list(self._waiting) if self._waiting.pop(token, None) is not None]

    def give_back_overdue(self) -> list[int]:
        """Take out what has waited for long, as behind activities that turned out long; return its tokens."""
        overdue = time.monotonic() - _PATIENCE_SECONDS
        if not any(since < overdue for since in list(self._waiting.values())):
            return []
        self._seconds = max(self._seconds, _PATIENCE_SECONDS)  # Take in fewer from now on.
        return self.give_back()

    def stop(self) -> None:
        """Let the threads end after what they are running now."""
        for _ in self._threads:
            self._queue.put(None)
        if self._loop is not None:
            closing = asyncio.run_coroutine_threadsafe(_close_connections(), self._loop)
            with suppress(TimeoutError):
                closing.result(_CLOSING_SECONDS)
            self._is_stopping = True
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _work(self) -> None:
        tidied = -_IDLE_SECONDS
        try:
            while (task := self._queue.get()) is not None:
                self._running[task.token] = task
                if self._waiting.pop(task.token, None) is None:  # Given back.
                    del self._running[task.token]
                    continue
                started = time.perf_counter()
                if started - tidied > _IDLE_SECONDS:
                    tidy()
                result = self._runner.run(task)
                if tidy():
                    result = self._undone(task, result)
                tidied = time.perf_counter()
                self._finish(task, result, tidied - started)
        finally:
            connections.close_all()

    def _undone(self, task: Leased, result: ActivityResult) -> ActivityResult:
        """Undo what an activity has left in an open atomic block, which is its failure."""
        leave_atomic_blocks()
        if result.failure is not None:
            return result
        error = TransactionManagementError(
            "An atomic block was entered and never left: what was written in it is undone. Use `with "
            "transaction.atomic():`."
        )
        started_at = result.event.started_at or result.event.timestamp
        return self._runner.result(task, started_at, None, FailureDetails.from_exception(error))

    async def _run_async(self, task: Leased, at_once: asyncio.Semaphore) -> None:
        async with at_once:
            result = await self._runner.run_async(task)
        if result.failure is not None or time.monotonic() - self._tidied_at > _IDLE_SECONDS:
            self._tidy_later()
        self._finish(task, result, None)

    def _see_to_end(self, task: Leased, _: object) -> None:
        """Fail an activity that another one has cancelled before it began."""
        if task.token in self._on_loop:
            failure = FailureDetails.from_exception(asyncio.CancelledError("It was cancelled as it began."))
            self._finish(task, self._runner.result(task, clock.now(), None, failure), None)

    def _tidy_later(self) -> None:
        """Look after the connections of the event loop's activities, in the one thread that has them.

        They may keep it busy: nobody waits for that. Whatever uses a connection next comes after it.
        """
        self._tidied_at = time.monotonic()
        tidying = asyncio.ensure_future(sync_to_async(self._tidy)())
        self._tidying.add(tidying)
        tidying.add_done_callback(self._tidying.discard)

    def _tidy(self) -> bool:
        is_left_open = tidy()
        if is_left_open and len(self._on_loop) <= 1:  # Of others, one might be in it.
            logger.error("An async activity has entered an atomic block and never left it: it is undone")
            leave_atomic_blocks()
        return is_left_open

    def _finish(self, task: Leased, result: ActivityResult, seconds: float | None) -> None:
        if seconds is not None:
            self._learn(max(seconds, _SHORTEST_SECONDS))
        # Delivered before it is counted out: nobody shall find the pool idle and no result.
        self._deliver(result)
        self._running.pop(task.token, None)
        self._on_loop.pop(task.token, None)

    def _learn(self, seconds: float) -> None:
        """Adjust what activities take: by the average of the first ones, then by the later ones' more."""
        self._seconds += (seconds - self._seconds) * self._weight
        self._weight = max(self._weight / (1 + self._weight), _LEAST_WEIGHT)

    def _event_loop(self) -> tuple[asyncio.AbstractEventLoop, asyncio.Semaphore]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._at_once = asyncio.Semaphore(self._concurrent)
            target, arguments = self._run_loop, (self._loop,)
            threading.Thread(target=target, args=arguments, name="durable-async", daemon=True).start()
        return self._loop, self._at_once

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the event loop until the pool stops: an exit out of a task of some activity's ends it."""
        while not self._is_stopping:
            try:
                loop.run_forever()
            except BaseException:
                logger.exception("The event loop of activities goes on after an exit in one of its tasks")


async def _close_connections() -> None:
    """Close the connections that the activities of the present event loop have made."""
    await sync_to_async(connections.close_all)()
