"""`DurableTaskWorker`: a worker in the threads of this process."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from django.db import InterfaceError, OperationalError, connections

from durable_django.conf import data_converter as configured_converter
from durable_django.conf import settings
from durable_django.core.options import DEFAULT_MAXIMUM_TIMER_INTERVAL, ExecutionOptions
from durable_django.core.registry import Registry
from durable_django.core.serialization import DataConverter, PayloadCodec
from durable_django.core.versioning import VersioningOptions
from durable_django.scheduled import definitions
from durable_django.store import wakeup, workers
from durable_django.store.scope import Served
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.bundles import Bundles
from durable_django.worker.entities import EntityProcessor
from durable_django.worker.entity_loop import EntityLoop
from durable_django.worker.loop import TurnLoop
from durable_django.worker.options import ConcurrencyOptions, WorkItemFilters, scope_of
from durable_django.worker.pool import ActivityPool
from durable_django.worker.presence import Presence, names_row, versioning_row
from durable_django.worker.queue_loop import QueueLoop, special_queues
from durable_django.worker.turns import TurnProcessor
from durable_django.worker.upkeep import Upkeep, Watch

logger = logging.getLogger("durable_django.worker")

_FROM_REGISTRY = object()
_LOOK_SECONDS = 0.01
_LEAST_JOIN_SECONDS = 5.0
_LISTENING = 8


class DurableTaskWorker:
    """Runs orchestrations and activities in background threads, from `start` to `stop`.

    ``registry`` is what it knows; without one it starts empty, to be filled with the ``add_*`` methods.
    ``queues`` are those that it serves; None is all. ``using`` is the database alias; None is the setting's.
    ``poll_interval`` (seconds) and ``listen`` replace the settings ``POLL_INTERVAL`` and ``LISTEN``; ``name``
    is shown with the worker's row.
    """

    def __init__(
        self,
        *,
        registry: Registry | None = None,
        concurrency_options: ConcurrencyOptions | None = None,
        maximum_timer_interval: timedelta | None = DEFAULT_MAXIMUM_TIMER_INTERVAL,
        data_converter: DataConverter | None = None,
        using: str | None = None,
        queues: Sequence[str] | None = None,
        name: str = "",
        poll_interval: float | None = None,
        listen: bool | None = None,
    ) -> None:
        self._registry = Registry() if registry is None else registry
        self._concurrency = concurrency_options or ConcurrencyOptions()
        if maximum_timer_interval is DEFAULT_MAXIMUM_TIMER_INTERVAL:  # Not given: the setting has its say.
            maximum_timer_interval = settings.MAXIMUM_TIMER_INTERVAL
        if maximum_timer_interval is not None and maximum_timer_interval <= timedelta(0):
            raise ValueError(f"maximum_timer_interval must be longer than 0, not {maximum_timer_interval}")
        self._maximum_timer_interval = maximum_timer_interval
        self._codec = PayloadCodec(data_converter or configured_converter(), settings.MAX_PAYLOAD_BYTES)
        self._using = using or settings.DATABASE_ALIAS
        self._queues = None if queues is None else list(queues)
        self._name = name
        self._poll_interval = poll_interval or settings.POLL_INTERVAL
        self._listen = settings.LISTEN if listen is None else listen
        self._versioning: VersioningOptions | None = None
        self._filters: WorkItemFilters | object | None = None
        self._running: _Running | None = None

    @property
    def concurrency_options(self) -> ConcurrencyOptions:
        """How much this worker does at once."""
        return self._concurrency

    @property
    def maximum_timer_interval(self) -> timedelta | None:
        """The longest single timer; a longer one is a chain."""
        return self._maximum_timer_interval

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._running is not None

    @property
    def identity(self) -> str | None:
        """What its row and its leases are signed with; None while it is stopped."""
        return self._running.identity if self._running else None

    def add_orchestrator(self, fn: Callable[..., Any]) -> str:
        """Register an orchestrator and return its name.

        Raises:
            RuntimeError: The worker is running.
            ValueError: The name is taken, or the function is a lambda.
        """
        self._check_stopped("add_orchestrator()")
        return self._registry.add_orchestrator(fn)

    def add_activity(self, fn: Callable[..., Any]) -> str:
        """Register an activity and return its name; raises like `add_orchestrator`."""
        self._check_stopped("add_activity()")
        return self._registry.add_activity(fn)

    def add_entity(self, fn: Callable[..., Any], name: str | None = None) -> str:
        """Register an entity, function or class, and return its name; raises like `add_orchestrator`."""
        self._check_stopped("add_entity()")
        return self._registry.add_entity(fn, name)

    def configure_scheduled_tasks(self) -> None:
        """Register what `durable_django.scheduled` needs; once more does nothing.

        Raises:
            RuntimeError: The worker is running.
            ValueError: A name of theirs, such as the entity ``schedule``, is taken.
        """
        self._check_stopped("configure_scheduled_tasks()")
        definitions.register(self._registry)

    def use_versioning(self, version: VersioningOptions) -> None:
        """Set which versions of orchestrations this worker runs, and what becomes of others."""
        self._check_stopped("use_versioning()")
        self._versioning = version

    def use_work_item_filters(self, filters: WorkItemFilters | object | None = _FROM_REGISTRY) -> None:
        """Take only what ``filters`` say or, without an argument, what is registered at the start.

        What does not match stays where it is, for another worker. None takes the filters away again.
        """
        self._check_stopped("use_work_item_filters()")
        if not (filters is None or filters is _FROM_REGISTRY or isinstance(filters, WorkItemFilters)):
            raise TypeError(f"filters must be WorkItemFilters or None, not {type(filters).__name__}")
        self._filters = filters

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: It is running already.
        """
        self._check_stopped("start()")
        running = _Running(self._parts(), self._using, listen=self._listen)
        running.start()
        self._running = running

    def stop(self) -> None:
        """Take on nothing new, let running activities end within the grace period, give the rest back.

        The worker can be started again. Stopping a stopped one does nothing.
        """
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is ready and nothing runs; False when ``timeout`` seconds were not enough."""
        return self._running is None or self._running.wait_until_idle(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_stopped(self, what: str) -> None:
        if self._running is not None:
            raise RuntimeError(f"{what} needs a stopped worker, and this one is running: call stop() first.")

    def _parts(self) -> _Parts:
        identity = uuid.uuid4().hex
        versioning = self._versioning
        filters = WorkItemFilters.of(self._registry) if self._filters is _FROM_REGISTRY else self._filters
        assert filters is None or isinstance(filters, WorkItemFilters)
        default_version = versioning.default_version if versioning else None
        options = ExecutionOptions(self._registry, self._codec, self._maximum_timer_interval, default_version)
        watch = Watch()
        bundles = Bundles(self._using, identity)
        scope = scope_of(self._queues, filters)
        processor = TurnProcessor(
            self._using,
            options,
            # Those that are claimed by themselves are the queue loop's.
            replace(scope, activities=scope.activities.off(special_queues())),
            worker=identity,
            versioning=versioning,
            batch_instances=self._concurrency.maximum_concurrent_orchestration_work_items,
            bundles=bundles,
            watch=watch.over,
        )
        entities = EntityProcessor(self._using, self._registry, self._codec, processor.scope.entities)
        runner = ActivityRunner(self._registry, self._codec, self._name or identity)
        names = names_row(scope)
        row = workers.Identity(identity, self._name, self._queues, versioning_row(versioning), names)
        return _Parts(
            row,
            processor,
            scope.activities,
            entities,
            runner,
            bundles,
            watch,
            self._concurrency,
            self._poll_interval,
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a run of a worker is put together from."""

    row: workers.Identity
    processor: TurnProcessor
    activities: Served
    entities: EntityProcessor
    runner: ActivityRunner
    bundles: Bundles
    watch: Watch
    concurrency: ConcurrencyOptions
    poll_interval: float


class _Running:
    """One run of a worker, from its start to its stop."""

    def __init__(self, parts: _Parts, using: str, *, listen: bool) -> None:
        self._using = using
        self.identity = parts.row.identity
        self._listen = listen
        self._poll_interval = parts.poll_interval
        concurrency = parts.concurrency
        assert concurrency.maximum_thread_pool_workers is not None
        assert concurrency.maximum_concurrent_activity_work_items is not None
        self._pool = ActivityPool(
            parts.runner,
            self._deliver,
            threads=concurrency.maximum_thread_pool_workers,
            concurrent=concurrency.maximum_concurrent_activity_work_items,
        )
        self._bundles = parts.bundles
        self._outbox = wakeup.Outbox(using)
        self._queue_loop = QueueLoop(
            using,
            parts.activities,
            parts.processor.options.registry,
            self._pool,
            worker=self.identity,
            poll_interval=self._longest_pause,
        )
        self._upkeep = Upkeep(
            using, self.identity, self._pool, self._bundles, parts.watch, tend=self._tend, beat=self._beat
        )
        self.loop = TurnLoop(
            parts.processor,
            self._pool,
            poll_interval=self._longest_pause,
            careful=self._upkeep.is_careful,
            note=self._upkeep.note,
            outbox=self._outbox,
        )
        self._has_entities = parts.entities.has_entities
        self._entities = EntityLoop(
            parts.entities,
            threads=concurrency.entity_threads,
            poll_interval=self._longest_pause,
            moved=self.loop.touch,
            careful=self._upkeep.is_careful,
            note=self._upkeep.note_operations,
            outbox=self._outbox,
        )
        self.loop.tell_of_entities(self._entities.submit, self._entities.hint)
        self.loop.tell_of_activities(self._queue_loop.hint)
        self._presence = Presence(
            using, parts.row, self.loop, self._entities, self._queue_loop, self._pool, bundles=self._bundles
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._turn, name="durable-turns", daemon=True)
        self._wakeups = ExitStack()

    def start(self) -> None:
        """Enter this worker and start its threads."""
        self._upkeep.bury_dead()
        self._presence.enter()
        hub = wakeup.hub(self._using)
        marks = hub.waiter(workers.marked(self.identity), listen=self._listen)
        self._upkeep.follow(self._wakeups.enter_context(marks))
        self._wakeups.enter_context(hub.worker(self.loop.hint, self.loop.hint_start, listen=self._listen))
        if self._has_entities:  # Else it is enough to look now and then, for calls that nobody can answer.
            self._wakeups.enter_context(hub.worker(self._entities.hint, listen=self._listen))
        self._wakeups.enter_context(hub.worker(self._queue_loop.hint, listen=self._listen))
        self._pool.start()
        self._queue_loop.start()
        self._entities.start()
        self._outbox.start()
        self._upkeep.start()
        self._thread.start()

    def stop(self) -> None:
        """Drain, give back what is left, and leave."""
        self._presence.leave()
        self._queue_loop.stop()
        deadline = time.monotonic() + settings.SHUTDOWN_GRACE_SECONDS
        self._give_back()
        while not self._pool.is_idle and time.monotonic() < deadline:
            time.sleep(0.01)
            # A turn that was under way has perhaps leased some more.
            self._give_back()
        self._pool.stop()
        self._entities.stop()
        self._stopping.set()
        self.loop.drain()  # Again, which wakes it.
        # With the database away nothing can be recorded: what is not comes again when its lease has run out.
        self._thread.join(max(_LEAST_JOIN_SECONDS, deadline - time.monotonic()))
        if left := self._pool.tokens():
            logger.warning("%s activities did not end in time; another worker will run them", len(left))
            self._release(left)
        self._upkeep.stop()
        self._outbox.stop()
        self._wakeups.close()
        self._write_last(self._bundles.dissolve)
        self._write_last(self._bundles.give_back)
        self._write_last(lambda: workers.remove(self._using, self.identity))
        wakeup.hub(self._using).work()

    def wait_until_idle(self, timeout: float | None) -> bool:
        """Wait until neither instances nor entities have anything to do."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = None if deadline is None else deadline - time.monotonic()
            if not self.loop.is_idle.wait(remaining):
                return False
            if self._entities.is_idle and self._queue_loop.is_idle and self.loop.is_idle.is_set():
                return True
            if remaining is not None and remaining <= 0:
                return False
            time.sleep(_LOOK_SECONDS)

    def _longest_pause(self) -> float:
        """Return how long nobody looks, in seconds.

        Where wake-ups arrive, polling is for lost ones and for leases that have run out.
        """
        if not wakeup.hub(self._using).is_listening:
            return self._poll_interval
        return max(
            self._poll_interval, min(self._poll_interval * _LISTENING, settings.LEASE_SECONDS / _LISTENING)
        )

    def _turn(self) -> None:
        self.loop.run(lambda: self._stopping.is_set() and not self.loop.has_results)

    def _deliver(self, result: ActivityResult) -> None:
        self.loop.deliver(result)

    def _tend(self) -> bool:
        return self._presence.tend()

    def _beat(self) -> None:
        self._presence.beat()

    def _give_back(self) -> None:
        self._release(self._pool.give_back())

    def _release(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return

        def release() -> None:
            self._bundles.give_back(tokens)
            wakeup.announce_work(self._using)

        self._write_last(release)

    def _write_last(self, write: Callable[[], None]) -> None:
        """Write what others would find out without, when leases run out: stopping goes on if it cannot be.

        The connection is the one of the start, days ago perhaps: if it turns out dead, a new one is tried.
        """
        for is_last in (False, True):
            try:
                return write()
            except (OperationalError, InterfaceError):
                if not connections[self._using].in_atomic_block:
                    connections[self._using].close()
                if is_last:
                    logger.warning(
                        "The database is away: what this worker had goes on without", exc_info=True
                    )
        return None
