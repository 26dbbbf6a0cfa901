"""The entity pool: one thread that looks for entities with something to do, and some that perform it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from django.db import connections

from durable_django.store import clock, wakeup
from durable_django.store.operations import Address
from durable_django.worker import polling
from durable_django.worker.connections import leave_atomic_blocks, tidy
from durable_django.worker.entities import EntityProcessor, EntityReport

logger = logging.getLogger("durable_django.worker")

_OUTAGE_SECONDS = 1.0
_BATCH_ENTITIES = 200


class EntityLoop:
    """Runs entities' turns, each entity in one thread at a time, so that a slow one holds up no other.

    ``moved`` is told which instances have something to do now. ``careful`` tells whether a worker has died
    lately: each operation is performed by itself then, and ``note`` is told which ones are under way.
    """

    def __init__(
        self,
        processor: EntityProcessor,
        *,
        threads: int,
        poll_interval: Callable[[], float],
        moved: Callable[[Iterable[int]], None],
        careful: Callable[[], bool] = lambda: False,
        note: Callable[[list[int]], None] = lambda _: None,
        outbox: wakeup.Outbox,
    ) -> None:
        self._processor = processor
        self._poll_interval = poll_interval
        self._moved = moved
        self._careful = careful
        self._note = note
        self._alone = threading.Lock()
        self._note_lock = threading.Lock()
        self._noted: set[int] = set()
        self._outbox = outbox
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._queue: queue.SimpleQueue[Address | None] = queue.SimpleQueue()
        self._queued: set[Address] = set()
        self._again: set[Address] = set()
        self._busy = 0
        self._is_draining = False
        self._hinted = True
        self._pause = polling.SHORTEST
        self._has_looked = False
        self._threads = [
            threading.Thread(target=self._work, name=f"durable-entity-{number}", daemon=True)
            for number in range(threads)
        ]
        self._scout = threading.Thread(target=self._look, name="durable-entities", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        for thread in (*self._threads, self._scout):
            thread.start()

    def drain(self) -> None:
        """Take on nothing new from now on; turns that are under way end."""
        with self._lock:
            self._is_draining = True
            self._again.clear()

    def resume(self) -> None:
        """Work again."""
        with self._lock:
            self._is_draining = False
        self.hint()

    def stop(self) -> None:
        """Drain, end the threads after the turns that are under way, and wait for them."""
        self.drain()
        self._stopping.set()
        self._wake.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in (self._scout, *self._threads):
            thread.join()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is known to be ready or running; of one that drains, whether nothing is running."""
        with self._lock:
            return not self._queued and (self._is_draining or (self._has_looked and not self._hinted))

    @property
    def busy(self) -> int:
        """How many entities perform operations now."""
        return self._busy

    def hint(self) -> None:
        """Say that the tables may have something new."""
        self._hinted = True
        self._wake.set()

    def submit(self, addresses: Iterable[Address]) -> None:
        """Have entities perform their operations, here or, if they are not served here, elsewhere."""
        leaves = False
        with self._lock:
            if self._is_draining:
                return  # The tables have it, for other workers.
            for address in addresses:
                if address in self._queued:
                    self._again.add(address)
                elif self._processor.served.takes_name(address[0]):
                    self._queued.add(address)
                    self._queue.put(address)
                else:
                    leaves = True
        if leaves:
            self._outbox.work(self.hint)

    # ---------------------------------------------------------------- the threads

    def _look(self) -> None:
        """Look for entities that nobody has told us of."""
        try:
            while True:
                self._wake.clear()  # First: what is told from here on, a stop among it, is not lost.
                if self._stopping.is_set():
                    break
                pause = _OUTAGE_SECONDS
                try:
                    pause = self._poll_interval() if self._is_draining else self._look_once()
                except Exception:
                    logger.exception("The search for entities goes on after an error, with a new connection")
                    connections[self._processor.using].close()
                self._wake.wait(pause)
        finally:
            connections.close_all()

    def _look_once(self) -> float:
        """Submit what is ready, and return how many seconds to wait before the next look."""
        self._hinted = False
        found = self._processor.ready(_BATCH_ENTITIES)
        self.submit(found)
        self._has_looked = True
        self._pause = polling.SHORTEST if found else polling.longer(self._pause, self._poll_interval())
        due = None if found else self._processor.next_due()
        if due is None:
            return self._pause
        return max(0.0, min(self._pause, (due - clock.now()).total_seconds()))

    def _work(self) -> None:
        try:
            while (address := self._queue.get()) is not None:
                if not self._begin(address):
                    continue
                report = self._run(address)
                tidy()
                self._follow(address, report)
        finally:
            connections.close_all()

    def _begin(self, address: Address) -> bool:
        """Note that an entity is busy; False if it is left to another worker."""
        with self._lock:
            if self._is_draining:
                self._queued.discard(address)
                return False
            self._busy += 1
            return True

    def _run(self, address: Address) -> EntityReport:
        try:
            if self._careful():
                report = self._processor.run_noted(address, self._noting, leave_suspects=True)
            else:
                report = self._processor.run(address, leave_suspects=True)
            return report if report.performed or not report.is_suspect else self._run_suspect(address)
        except BaseException:  # Without this thread, the worker would only look alive.
            logger.exception("The operations of @%s@%s could not be performed", *address)
            leave_atomic_blocks()
            with suppress(Exception):
                connections[self._processor.using].close()
            time.sleep(polling.SHORTEST)
            return EntityReport()

    def _run_suspect(self, address: Address) -> EntityReport:
        """Perform what may kill this process beside no other suspect: of several, nobody would know which."""
        while not self._alone.acquire(timeout=polling.SHORTEST):
            if self._is_draining:
                return EntityReport(has_more=True)
        try:
            return self._processor.run_noted(address, self._noting, leave_suspects=False)
        finally:
            self._alone.release()

    @contextmanager
    def _noting(self, operation: int) -> Iterator[None]:
        """Have an operation on record while it is performed."""
        with self._note_lock:
            self._noted.add(operation)
            self._note(sorted(self._noted))
        try:
            yield
        finally:
            with self._note_lock:
                self._noted.discard(operation)
                self._note(sorted(self._noted))

    def _follow(self, address: Address, report: EntityReport) -> None:
        if report.instances:
            self._moved(report.instances)
        with self._lock:
            self._busy -= 1
            self._queued.discard(address)
            again = address in self._again
            self._again.discard(address)
            leaves = self._is_draining and (again or report.has_more)
        if report.instances or report.entities or report.sends_later or leaves:
            self._outbox.work(self.hint)
        more = {address} if (again or report.has_more) and report.performed else set[Address]()
        self.submit(report.entities | more)
        if report.sends_later or ((again or report.has_more) and not report.performed):
            self.hint()
