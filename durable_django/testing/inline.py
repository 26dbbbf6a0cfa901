"""A worker without threads: all that it runs, it runs in the caller's thread, connection and transaction."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

from django.db import Error as DatabaseError
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from durable_django.conf import data_converter, settings
from durable_django.core.errors import DurableTaskError
from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import Registry, default_registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import activities, claims, clock, entities
from durable_django.store.activities import Leased
from durable_django.store.operations import Address
from durable_django.store.scope import Scope
from durable_django.testing.virtual_clock import check_forward
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.entities import EntityProcessor
from durable_django.worker.loop import send_activity_signals, send_orchestration_signals
from durable_django.worker.turns import TurnProcessor
from durable_django.worker.work import Report, Work

MAX_TURNS = 10_000

_WORKER = "testing"
_SLOTS = 500


class DrainError(DurableTaskError):
    """There is no end of things to do, or no way to do them."""


@dataclass(frozen=True, slots=True)
class Drained:
    """How many turns were taken, how many activities run and how many operations of entities performed."""

    turns: int = 0
    activities: int = 0
    operations: int = 0

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            self.turns + other.turns, self.activities + other.activities, self.operations + other.operations
        )


def drain(
    *,
    registry: Registry | None = None,
    using: str | None = None,
    max_turns: int = MAX_TURNS,
    replay: bool = False,
) -> Drained:
    """Run turns, activities and entities until nothing is ready, and return how many there were.

    It all happens in this thread and on its connection to ``using`` (None: the setting's alias), and, within
    ``atomic()`` or a ``TestCase``, in the transaction that is open. What waits for a time that has not come
    stays waiting: see `advance`. An activity that breaks the open transaction, as a violated constraint does,
    is rolled back, so that the test can go on. From an event loop, call it through ``sync_to_async``.

    ``registry`` holds what is to be run; app-wide by default. A name that it does not have fails its
    orchestration. With ``replay``, each turn starts from the stored history, as after a crash of the worker:
    code that is not deterministic fails then.

    Raises:
        DrainError: ``max_turns`` were not enough; the message names the instance that took most of them. An
            orchestrator that calls activities for ever, without a timer in between, never comes to rest. Or
            the database refuses, again and again, what a turn writes.
    """
    inline = _InlineWorker(default_registry if registry is None else registry, using, max_turns, replay)
    try:
        return inline.run()
    finally:
        inline.close()


def advance(
    by: timedelta,
    *,
    registry: Registry | None = None,
    using: str | None = None,
    max_turns: int = MAX_TURNS,
    replay: bool = False,
) -> Drained:
    """Let ``by`` pass, in `virtual_time`: drain, go to the next time at which something is due, and so on.

    Everything happens at its own time: timers, retries, orchestrations with a ``start_at``, signals to come.
    The clock ends up exactly ``by`` later. ``max_turns`` is for each time anew; the other parameters are
    those of `drain`.

    Raises:
        DrainError: See `drain`.
        RuntimeError: The clock is not virtual.
        ValueError: ``by`` is negative.
    """
    if not clock.is_frozen():
        raise RuntimeError("advance() moves the clock: call it within `with virtual_time():`.")
    check_forward(by)
    alias = using or settings.DATABASE_ALIAS
    until = clock.now() + by
    done = Drained()
    while True:
        done += drain(registry=registry, using=alias, max_turns=max_turns, replay=replay)
        now = clock.now()
        if now >= until:
            return done
        clock.move(min(_next_due(alias) or until, until) - now)


def _next_due(using: str) -> datetime | None:
    with transaction.atomic(using), connections[using].cursor() as cursor:
        now = clock.now()
        due = (
            claims.ask_next_due(cursor, now)(),
            claims.next_visible(cursor, now),
            entities.next_due(using, now),
        )
    return min((moment for moment in due if moment is not None), default=None)


class _InlineWorker:
    """One drain. Its live executions are its own: a transaction rolled back later takes nothing with it."""

    def __init__(self, registry: Registry, using: str | None, max_turns: int, replay: bool) -> None:
        self._using = using or settings.DATABASE_ALIAS
        self._registry = registry
        self._max_turns = max_turns
        self._replay = replay
        codec = PayloadCodec(data_converter(), settings.MAX_PAYLOAD_BYTES)
        options = ExecutionOptions(registry, codec, settings.MAXIMUM_TIMER_INTERVAL)
        scope = Scope()
        self._processor = TurnProcessor(self._using, options, scope, worker=_WORKER)
        self._entities = EntityProcessor(self._using, registry, codec, scope.entities)
        self._runner = ActivityRunner(registry, codec, _WORKER)
        self._leased: deque[Leased] = deque()
        self._movers: Counter[tuple[str, str]] = Counter()
        self._operations: Counter[Address] = Counter()
        self._ran = 0
        self._ran_locally = 0
        self._performed = 0

    def run(self) -> Drained:
        """Go on until a look at the tables finds nothing."""
        results: list[ActivityResult] = []
        keys: set[int] = set()
        while True:
            scan = not results and not keys
            work = Work(results, keys, scan, starts=_SLOTS if scan else 0, slots=_SLOTS, lease_new=True)
            work.claim_activities = scan
            report = self._processor.run(work)
            self._follow(report)
            send_activity_signals(self._registry, self._using, work.results)
            keys = report.committed.touched | report.again
            for key in sorted(report.alone | report.local):
                keys |= self._move_alone(key)
            if scan and not report.did_something and not self._run_entities():
                return Drained(self._movers.total(), self._ran, self._performed)
            results = report.lost_results + self._run_activities()

    def close(self) -> None:
        """Drop the executions and, after an error, give back the activities that have not run."""
        self._processor.cache.clear()
        with suppress(DatabaseError):  # The transaction may be broken: then it takes the leases with it.
            activities.release(self._using, [leased.token for leased in self._leased])

    def _follow(self, report: Report) -> None:
        # In one order, whatever the database's: tests look at what activities do.
        self._leased += sorted(report.leased, key=attrgetter("instance", "task_id"))
        self._movers.update((moved.instance.instance_id, moved.instance.name) for moved in report.moved)
        if self._replay:
            self._processor.cache.clear()
        send_orchestration_signals(self._registry, self._using, report.moved)
        send_activity_signals(self._registry, self._using, report.local_failures)
        self._ran += report.local_ran
        self._ran_locally += report.local_ran
        self._check_turns()

    def _move_alone(self, key: int) -> set[int]:
        """Move an instance whose turn has failed, or has local activities, until it works or is given up."""
        for _ in range(settings.MAX_TRIES + 1):
            report = self._processor.run_alone(key, slots=_SLOTS)
            self._follow(report)
            if not report.alone:
                return report.committed.touched | report.local
        raise DrainError(
            f"The turn of {self._name(key)} fails each time, and that is not the orchestrator's fault: see "
            "the errors in the log of durable_django.worker."
        )

    def _name(self, key: int) -> str:
        with transaction.atomic(self._using), connections[self._using].cursor() as cursor:
            instances = claims.claim_keys(cursor, [key])
        return f"instance {instances[0].instance_id!r}" if instances else "an instance that is gone"

    def _check_turns(self) -> None:
        # Were it not local, each of these would have taken a turn.
        if self._movers.total() + self._ran_locally <= self._max_turns:
            return
        (((instance_id, name), count),) = self._movers.most_common(1)
        raise DrainError(
            f"There is still something to do after {self._max_turns} turns, {count} of them of instance "
            f"{instance_id!r} (orchestrator {name!r}). Does it go on for ever without waiting for a timer or "
            "an event? If not, give a higher max_turns."
        )

    def _run_entities(self) -> int:
        """Perform what entities have to do, and return how much that was."""
        before = self._performed
        for address in self._entities.ready(_SLOTS):
            performed = self._entities.run(address).performed
            self._performed += performed
            self._operations[address] += performed
        self._check_operations()
        return self._performed - before

    def _check_operations(self) -> None:
        if self._operations.total() <= self._max_turns:
            return
        (((name, key), count),) = self._operations.most_common(1)
        raise DrainError(
            f"There is still something to do after {self._max_turns} operations, {count} of them of entity "
            f"@{name}@{key}. Does it signal itself for ever? If not, give a higher max_turns."
        )

    def _run_activities(self) -> list[ActivityResult]:
        results = []
        while self._leased:
            results.append(self._run_activity(self._leased.popleft()))
        self._ran += len(results)
        return results

    def _run_activity(self, leased: Leased) -> ActivityResult:
        savepoints = [
            (connection, connection.savepoint())
            for connection in connections.all(initialized_only=True)
            if connection.in_atomic_block
        ]
        result = self._runner.run(leased)
        for connection, savepoint in reversed(savepoints):
            _leave(connection, savepoint)
        return result


def _leave(connection: BaseDatabaseWrapper, savepoint: str | None) -> None:
    """Keep what was done since the savepoint, unless that has broken the transaction."""
    if savepoint is None:
        return  # This connection has none.
    if not connection.needs_rollback:
        try:
            connection.savepoint_commit(savepoint)
        except DatabaseError:  # PostgreSQL takes nothing but a rollback after any error.
            pass
        else:
            return
    connection.needs_rollback = False
    connection.savepoint_rollback(savepoint)
