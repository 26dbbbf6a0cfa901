"""Entity turns: one transaction performs a batch of one entity's operations, with its row locked.

An operation's own database writes are in that transaction: they commit with the state that belongs to them.
One that fails is rolled back by itself, to a savepoint that is made only if it uses the database at all.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asgiref.sync import async_to_sync
from django.db import OperationalError, connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError

from durable_django.conf import settings
from durable_django.core import events
from durable_django.core.entity import Effects, EntityContext, EntityInstanceId, Start, perform
from durable_django.core.errors import FailureDetails
from durable_django.core.ids import new_execution_id
from durable_django.core.interrupts import is_workers_own
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import clock, entities, inbox, instances, operations
from durable_django.store.entities import Holder, LockedEntity, Operation
from durable_django.store.inbox import NewMessage
from durable_django.store.instances import NewInstance
from durable_django.store.operations import Address, NewOperation
from durable_django.store.savepoints import SavepointOnUse
from durable_django.store.scope import Served
from durable_django.worker.connections import close_if_lost

logger = logging.getLogger("durable_django.worker")

BATCH_OPERATIONS = 200

_MOST_TRIES = 3

BATCH_SECONDS = 1.0
"""After this long a turn ends, with whatever it has performed: others wait for its locks."""


@dataclass(slots=True)
class EntityReport:
    """What an entity's turn did, once it is committed.

    ``instances`` and ``entities`` have something to do now. ``has_more`` says that this one may have, too,
    ``is_suspect`` that its next operation may be what killed a worker, ``sends_later`` that some entity will
    have something to do.
    """

    performed: int = 0
    instances: set[int] = field(default_factory=set)
    entities: set[Address] = field(default_factory=set)
    has_more: bool = False
    is_suspect: bool = False
    sends_later: bool = False


@dataclass(slots=True)
class _Trial:
    """What is known of the operations that break the transaction, over the turns that it takes to find them.

    ``limit`` is how many one turn performs; with ``only``, it is that one or none. ``withdraws_itself`` says
    that an operation withdraws others, or itself. ``begun`` and ``current`` are of the last turn: how many
    operations it began, and the one whose code ran when it broke.
    """

    limit: int
    only: int | None = None
    leaves_suspects: bool = False
    withdraws_itself: bool = False
    begun: int = 0
    current: int | None = None
    broken: dict[int, int] = field(default_factory=dict)
    refused: dict[int, FailureDetails] = field(default_factory=dict)

    def begin_turn(self) -> None:
        """Forget where the last turn stood."""
        self.begun, self.current = 0, None

    def ends_before(self, op: Operation) -> bool:
        """Tell whether ``op`` is not to be performed along with what this turn has begun, or at all."""
        if self.only is not None:
            return op.pk != self.only
        return bool(self.begun) and op.pk in self.broken

    def begin(self, op: Operation) -> None:
        """Note that ``op`` is to blame for what happens now."""
        self.begun, self.current = self.begun + 1, op.pk

    def end(self) -> None:
        """Note that all code has run: what happens now may be due to any of it."""
        if self.begun > 1:
            self.current = None

    def blame(self, error: Exception) -> None:
        """Draw the conclusions from a turn that broke with ``error``; raises it where there are none.

        The operation that was being performed is performed by itself from now on, and refused the third time.
        What broke at the commit may be any of them: half as many are tried.
        """
        culprit = self.current
        if not self.begun or culprit in self.refused:
            raise error
        if culprit is None:
            self.limit = max(1, self.begun // 2)
            return
        self.broken[culprit] = self.broken.get(culprit, 0) + 1
        if self.broken[culprit] == _MOST_TRIES:
            self.refused[culprit] = FailureDetails.from_exception(error)


@dataclass(slots=True)
class _Batch:
    """What the operations of one turn have led to so far."""

    now: datetime
    trial: _Trial
    consumed: list[int] = field(default_factory=list)
    messages: list[NewMessage] = field(default_factory=list)
    sent: list[NewOperation] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    is_changed: bool = False


class _WithdrawnError(Exception):
    """Of the operations that have been performed, by their ``keys``, some were withdrawn meanwhile."""

    def __init__(self, keys: list[int]) -> None:
        super().__init__(keys)
        self.keys = keys


class EntityProcessor:
    """Performs the operations of entities of one database. Thread-safe: each call has its own transaction."""

    def __init__(self, using: str, registry: Registry, codec: PayloadCodec, served: Served) -> None:
        self.using = using
        self.served = served
        self._registry = registry
        self._codec = codec
        self._limits: dict[Address, int] = {}

    @property
    def has_entities(self) -> bool:
        """Whether there are entities at all."""
        return bool(self._registry.entities)

    def ready(self, limit: int) -> list[Address]:
        """Return entities that have something to do, the longest waiting first."""
        return entities.ready(self.using, self.served, clock.now(), limit)

    def next_due(self) -> datetime | None:
        """Return when the next signal is due, if one is."""
        return entities.next_due(self.using, clock.now())

    def run(self, address: Address, *, leave_suspects: bool = False) -> EntityReport:
        """Perform an entity's operations, if nobody else does; with ``leave_suspects``, none that may kill.

        An operation that breaks the transaction, or deadlocks, is tried again by itself, once those before it
        are performed; the third time, it has failed.

        Raises:
            django.db.Error: The database is away, or gives no access.
        """
        trial = _Trial(self._limits.pop(address, BATCH_OPERATIONS), leaves_suspects=leave_suspects)
        report = self._run(address, trial)
        if report.has_more and trial.limit < BATCH_OPERATIONS:  # What has broken the batch is still to come.
            self._limits[address] = 2 * trial.limit
        return report

    def run_noted(
        self, address: Address, note: Callable[[int], AbstractContextManager[None]], *, leave_suspects: bool
    ) -> EntityReport:
        """Perform one operation in the context that ``note`` makes of its key; see `run`."""
        first = self._first(address)
        if first is None:
            return EntityReport()
        if leave_suspects and _is_suspect(first):
            return EntityReport(is_suspect=True)
        with note(first.pk):
            return self._run(address, _Trial(1, only=first.pk))

    def _run(self, address: Address, trial: _Trial) -> EntityReport:
        while True:
            trial.begin_turn()
            try:
                return self._commit(address, trial)
            except _WithdrawnError as withdrawn:
                # Those that are there again were withdrawn by this very turn, which is to be.
                trial.withdraws_itself = entities.are_waiting(self.using, withdrawn.keys)
            except Exception as error:
                close_if_lost(self.using)
                connections[self.using].ensure_connection()
                trial.blame(error)
                logger.warning("Operations of @%s@%s are tried again", *address, exc_info=True)

    def _see_to_row(self, address: Address, now: datetime) -> None:
        if not entities.exists(self.using, address):
            entities.create(self.using, address, now)

    def _first(self, address: Address) -> Operation | None:
        """Return the operation that the entity would perform now."""
        now = clock.now()
        self._see_to_row(address, now)
        with transaction.atomic(self.using), connections[self.using].cursor() as cursor:
            entity = entities.lock(cursor, address)
            waiting = entity and entities.operations(cursor, entity, now, 1)
            return waiting[0] if waiting else None

    def _commit(self, address: Address, trial: _Trial) -> EntityReport:
        report = EntityReport()
        now = clock.now()
        self._see_to_row(address, now)
        with transaction.atomic(self.using), connections[self.using].cursor() as cursor:
            entity = entities.lock(cursor, address)
            if entity is None:
                return report
            waiting = entities.operations(cursor, entity, now, trial.limit)
            if waiting:
                report.has_more = len(waiting) == trial.limit
                batch = _Batch(now, trial)
                self._perform_all(cursor, entity, waiting, batch, report)
                self._write(cursor, entity, batch, report)
        return report

    def _perform_all(
        self,
        cursor: CursorWrapper,
        entity: LockedEntity,
        waiting: list[Operation],
        batch: _Batch,
        report: EntityReport,
    ) -> None:
        owners = [op.instance for op in waiting if op.kind == entities.LOCK and op.instance is not None]
        live = entities.live_executions(cursor, owners)
        trial = batch.trial
        until = time.monotonic() + BATCH_SECONDS
        for op in waiting:
            if entity.holder is not None and not op.is_of(entity.holder):
                report.has_more = True  # Granted in this very batch: for others it is closed now.
                continue
            report.is_suspect = trial.leaves_suspects and _is_suspect(op)
            if report.is_suspect or trial.ends_before(op) or (trial.begun and time.monotonic() > until):
                report.has_more = True
                break
            trial.begin(op)
            batch.consumed.append(op.pk)
            if op.kind == entities.LOCK:
                self._grant(entity, op, live, batch)
            elif op.kind == entities.RELEASE:
                if entity.holder == (op.instance, op.execution_id, op.request):
                    entity.holder, batch.is_changed = None, True
                    report.has_more = True
                    break  # What it has held back comes before what came meanwhile.
            else:
                self._perform(entity, op, batch)
            if op.pk in trial.broken:
                report.has_more = True
                break
        trial.end()

    # ---------------------------------------------------------------- locks

    def _grant(self, entity: LockedEntity, op: Operation, live: dict[int, str], batch: _Batch) -> None:
        """Lock the entity for a critical section, and pass its request on to the next of the set."""
        if op.instance is None or op.execution_id is None or op.request is None or op.task_id is None:
            return
        if live.get(op.instance) != op.execution_id:
            return  # Whoever asked has ended or started over: nobody would release it.
        entity.holder, batch.is_changed = Holder(op.instance, op.execution_id, op.request), True
        following = op.position + 1
        if following < len(op.lock_set):
            batch.sent.append(
                NewOperation(
                    target=EntityInstanceId.parse(op.lock_set[following]),
                    kind=entities.LOCK,
                    instance=op.instance,
                    execution_id=op.execution_id,
                    task_id=op.task_id,
                    request=op.request,
                    lock_set=op.lock_set,
                    position=following,
                )
            )
        else:
            granted = events.EntityLockGrantedEvent(-1, clock.now(), op.request, op.task_id)
            batch.messages.append(NewMessage(op.instance, granted, op.execution_id))

    # ---------------------------------------------------------------- operations

    def _perform(self, entity: LockedEntity, op: Operation, batch: _Batch) -> None:
        refusal = batch.trial.refused.get(op.pk)
        if op.tries >= settings.MAX_TRIES:
            refusal = _exhaustion()
        if refusal is not None:
            logger.error(
                "Operation %r of %s is given up: %s", op.operation, entity.entity_id, refusal.message
            )
            self._answer(op, None, refusal, batch)
            return
        context = EntityContext(
            op.instance_id or "",
            op.operation or "",
            entity.entity_id,
            entity.state,
            self._codec,
            clock.now(),
        )
        output: str | None = None
        failure: FailureDetails | None = None
        savepoint = SavepointOnUse(self.using)
        try:
            with savepoint:
                output = self._output(context, op)
        except OperationalError:
            raise  # A deadlock, for one, has taken the whole transaction.
        except BaseException as error:
            if is_workers_own(error):
                raise
            failure = FailureDetails.from_exception(error)
            if op.kind != entities.CALL:
                logger.warning("Signal %r to %s failed", op.operation, entity.entity_id, exc_info=True)
        if not savepoint.is_intact:  # A generator was in an atomic block, and has left it only now.
            raise TransactionManagementError("The operation was in an atomic block when it had ended.")
        if failure is None:
            self._adopt(entity, context._effects, batch)
        self._answer(op, output, failure, batch)

    def _output(self, context: EntityContext, op: Operation) -> str | None:
        registered = self._registry.entity(context.entity_id.entity)
        result = perform(registered, context, op.input)
        if inspect.isawaitable(result):
            result = async_to_sync(_awaited)(result)
        return self._codec.dumps(result, "the result of operation", op.operation)

    @staticmethod
    def _adopt(entity: LockedEntity, effects: Effects, batch: _Batch) -> None:
        batch.is_changed |= effects.state != entity.state
        entity.state = effects.state
        batch.sent += [operations.signal(sent) for sent in effects.signals]
        batch.starts += effects.starts

    @staticmethod
    def _answer(op: Operation, output: str | None, failure: FailureDetails | None, batch: _Batch) -> None:
        if op.kind != entities.CALL or op.instance is None or op.task_id is None:
            return
        event: events.HistoryEvent
        if failure is None:
            event = events.EntityOperationCompletedEvent(-1, clock.now(), str(op.task_id), output, op.task_id)
        else:
            event = events.EntityOperationFailedEvent(-1, clock.now(), str(op.task_id), failure, op.task_id)
        batch.messages.append(NewMessage(op.instance, event, op.execution_id))

    # ---------------------------------------------------------------- the end of a turn

    def _write(
        self, cursor: CursorWrapper, entity: LockedEntity, batch: _Batch, report: EntityReport
    ) -> None:
        now = batch.now
        report.performed = len(batch.consumed)
        if batch.is_changed:
            entities.save(cursor, entity, now)
        if not entities.delete_operations(cursor, batch.consumed) and not batch.trial.withdraws_itself:
            raise _WithdrawnError(batch.consumed)  # A rewind has sent it again: nothing of this is kept.
        inbox.add(cursor, batch.messages, now)
        operations.add(cursor, batch.sent, now)
        started = instances.add(cursor, [self._new_instance(start, now) for start in batch.starts], now)
        report.instances = {message.instance for message in batch.messages} | set(started.values())
        report.entities = {(sent.target.entity, sent.target.key) for sent in batch.sent if sent.due is None}
        report.sends_later = any(sent.due is not None for sent in batch.sent)

    def _new_instance(self, start: Start, now: datetime) -> NewInstance:
        registered = self._registry.orchestrators.get(start.name)
        return NewInstance(
            instance_id=start.instance_id,
            execution_id=new_execution_id(),
            name=start.name,
            queue=(registered and registered.queue) or settings.DEFAULT_QUEUE,
            priority=registered.priority if registered else 0,
            version=settings.DEFAULT_VERSION,
            input=start.payload,
            start_at=now,
        )


def _is_suspect(op: Operation) -> bool:
    return 0 < op.tries < settings.MAX_TRIES


def _exhaustion() -> FailureDetails:
    message = f"Given up after {settings.MAX_TRIES} tries: each time the worker that performed it died"
    return FailureDetails(message, "durable_django.worker.TooManyTries")


async def _awaited(value: Any) -> Any:
    return await value
