"""Commits: the outcomes of a whole batch of turns, written with a few statements."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from django.db.backends.utils import CursorWrapper

from durable_django.core import events
from durable_django.core.decisions import SCHEDULING_EVENTS, TurnOutcome
from durable_django.core.errors import FailureDetails, OrchestrationAlreadyExistsError, qualified_name
from durable_django.core.ids import new_execution_id
from durable_django.core.status import OrchestrationStatus
from durable_django.models import Instance, InstanceStatus, Timer
from durable_django.store import (
    activities,
    bundles,
    clock,
    histories,
    inbox,
    instances,
    operations,
    retention,
    rows,
)
from durable_django.store.activities import Leased, NewActivity
from durable_django.store.bundles import Call
from durable_django.store.claims import NOTHING, Claimed, claim_keys
from durable_django.store.histories import Appended
from durable_django.store.inbox import NewMessage, NewStart
from durable_django.store.instances import NewInstance
from durable_django.store.operations import Address, NewOperation
from durable_django.store.rows import any_of, columns, table

_TIMER_FIELDS = ("instance", "execution_id", "task_id", "fire_at")
_RUNNING = InstanceStatus.RUNNING.value
_TERMINAL = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)


class Moved(NamedTuple):
    """One instance's turn: what was locked, what came of it, and the rows that it has consumed.

    ``decisions`` are to be carried out; None stands for all of the outcome. ``postponed`` are the sequence
    numbers of local activities that are left for the next turn.
    """

    instance: Claimed
    outcome: TurnOutcome
    carriers: Sequence[tuple[int, int]]
    now: datetime
    decisions: Sequence[events.HistoryEvent] | None = None
    postponed: Sequence[int] = ()

    @property
    def is_news(self) -> bool:
        """Whether the instance has started or ended; else it has only gone on."""
        return self.outcome.status is not OrchestrationStatus.RUNNING or self.instance.is_pending


_Called = tuple[Claimed, events.TaskScheduledEvent]


@dataclass(slots=True)
class Committed:
    """What follows from a batch once it is committed.

    ``leased`` is for this worker to run. ``unleased`` says that activities were left to whoever claims them.
    ``touched`` are the keys of other instances that have something to do now, ``entities`` the entities that
    have; ``timers`` the times at which instances have something to do later, and ``sends_later`` says that
    some entity will have.
    """

    leased: list[Leased] = field(default_factory=list)
    unleased: bool = False
    touched: set[int] = field(default_factory=set)
    entities: set[Address] = field(default_factory=set)
    sends_later: bool = False
    timers: list[tuple[datetime, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lessor:
    """On whose behalf new activities may be leased as they are inserted.

    ``take`` is asked for each, and counts; ``until`` is when the leases end. ``bundles`` says whether many at
    once may share a row.
    """

    worker: str
    until: datetime
    take: Any
    bundles: bool = False


class _Bundle(NamedTuple):
    """A bundle to insert, and what is leased in it."""

    token: int
    tasks: str
    leased: list[Leased]


class Batch:
    """Collects the rows of all outcomes, then writes them, model by model."""

    def __init__(self, cursor: CursorWrapper, now: datetime, lessor: Lessor | None) -> None:
        self._cursor = cursor
        self._using = cursor.db.alias
        self._now = now
        self._lessor = lessor
        self._stamped = now, clock.to_database(self._using, now)
        self._moved: list[Moved] = []
        self._own: list[_Called] = []
        self._handed_on: list[_Called] = []
        self._activities: list[NewActivity] = []
        self._timers: list[tuple[Any, ...]] = []
        self._children: list[NewInstance] = []
        self._sent: list[events.EventSentEvent] = []
        self._messages: list[NewMessage] = []
        self._operations: list[NewOperation] = []
        self._unlocked: dict[int, str] = {}
        self._carriers: list[tuple[int, int]] = []
        self._progress: list[tuple[Any, ...]] = []
        self._ended: list[tuple[Any, ...]] = []
        self._restarted: list[tuple[Any, ...]] = []
        self._timerless: list[int] = []
        self._cancelled: list[tuple[int, int]] = []
        self._starts: list[NewStart] = []
        self._over: dict[int, str] = {}
        self._result = Committed()

    def add(self, moved: Moved) -> None:
        """Take in one instance's outcome."""
        instance, outcome = moved.instance, moved.outcome
        self._carriers.extend(moved.carriers)
        self._moved.append(moved)
        if outcome.cancelled_timers:
            created = {event.event_id for event in outcome.events if type(event) is events.TimerCreatedEvent}
            stored = set(outcome.cancelled_timers) - created
            self._cancelled.extend((instance.pk, task_id) for task_id in stored)
        for event in outcome.events if moved.decisions is None else moved.decisions:
            if type(event) in SCHEDULING_EVENTS:
                self._schedule(moved, event)
        if moved.postponed:
            self._starts.append(NewStart.postponing(instance, moved.postponed))
        if outcome.status is OrchestrationStatus.RUNNING:
            self._keep_going(moved)
        elif outcome.continue_as_new is not None:
            self._start_over(moved)
        else:
            self._end(moved)

    def write(self) -> Committed:
        """Write everything, and say what follows from it after the commit."""
        cursor = self._cursor
        appended = [self._appended(moved) for moved in self._moved]
        histories.insert(cursor, appended, then=lambda: self._bundle)
        self.write_progress()
        self._delete_timers()
        inbox.delete(cursor, self._carriers)
        self._lease_own()
        activities.add(cursor, self._activities, self._now)
        rows.insert(cursor, Timer, _TIMER_FIELDS, self._timers)
        self._create_children()
        self._deliver_sent()
        self._send_operations()
        inbox.add(cursor, self._messages, self._now)
        self._result.touched.update(message.instance for message in self._messages if not message.held)
        retention.forget_executions(cursor, self._over)
        inbox.add_starts(cursor, self._starts, self._now)
        self._result.touched.update(self._over)
        return self._result

    # ---------------------------------------------------------------- one instance

    def _appended(self, moved: Moved) -> Appended:
        instance = moved.instance
        key, execution_id, sequence = instance.pk, instance.execution_id, instance.next_sequence
        events_ = moved.outcome.events
        return Appended(key, execution_id, sequence, self._stamp(moved.now), instance.turn + 1, events_)

    def _schedule(self, moved: Moved, event: events.HistoryEvent) -> None:
        instance, outcome = moved.instance, moved.outcome
        match event:
            case events.TaskScheduledEvent():
                self._schedule_activity(moved, event)
            case events.TimerCreatedEvent():
                is_cancelled = event.event_id in outcome.cancelled_timers
                if not is_cancelled and outcome.status is OrchestrationStatus.RUNNING:
                    due = clock.to_database(self._using, event.fire_at)
                    self._timers.append((instance.pk, instance.execution_id, event.event_id, due))
                    self._result.timers.append((event.fire_at, instance.pk))
            case events.SubOrchestrationInstanceCreatedEvent():
                self._children.append(self._child(instance, event))
            case events.EventSentEvent():
                self._sent.append(event)
            case _:
                operation = operations.of_event(event, instance.pk, instance.execution_id)
                if operation is not None:
                    self._operations.append(operation)

    def _schedule_activity(self, moved: Moved, event: events.TaskScheduledEvent) -> None:
        instance, lessor = moved.instance, self._lessor
        if lessor is not None and lessor.take(event.queue or instance.queue, event.name, instance.version):
            # Among decisions of their own are calls of an earlier turn: a bundle has those of one.
            (self._own if moved.decisions is None else self._handed_on).append((instance, event))
        else:
            self._result.unleased = True
            self._activities.append(NewActivity.called(instance, event))

    def _child(self, parent: Claimed, event: events.SubOrchestrationInstanceCreatedEvent) -> NewInstance:
        return NewInstance(
            instance_id=event.instance_id,
            execution_id=new_execution_id(),
            name=event.name,
            queue=event.queue or parent.queue,
            start_at=self._now,
            version=event.version,
            priority=parent.priority if event.priority is None else event.priority,
            input=event.input,
            tags=event.tags,
            parent=parent.pk,
            parent_execution_id=parent.execution_id,
            parent_task_id=event.event_id,
        )

    def _stamp(self, value: datetime) -> Any:
        """Return a time as the database wants it; mostly it is that of the last instance."""
        if value != self._stamped[0]:
            self._stamped = value, clock.to_database(self._using, value)
        return self._stamped[1]

    def _progress_of(self, moved: Moved) -> tuple[Any, ...]:
        instance, outcome = moved.instance, moved.outcome
        return (
            instance.next_sequence + len(outcome.events),
            instance.turn + 1,
            outcome.custom_status if outcome.sets_custom_status else instance.custom_status,
            json.dumps(outcome.waiting_for) if outcome.waiting_for else NOTHING,
            self._stamp(moved.now),
        )

    def _keep_going(self, moved: Moved) -> None:
        self._progress.append((*self._progress_of(moved), _RUNNING, moved.instance.pk))

    def _end(self, moved: Moved) -> None:
        instance, outcome = moved.instance, moved.outcome
        progress = self._progress_of(moved)
        failure = json.dumps(outcome.failure.to_dict()) if outcome.failure else None
        self._ended.append(
            (*progress, outcome.status.value, outcome.output, failure, progress[-1], instance.pk)
        )
        if outcome.may_hold_locks:
            self._unlocked[instance.pk] = instance.execution_id
        if outcome.has_open_timers:
            self._timerless.append(instance.pk)
        if instance.parent_pk is not None and instance.parent_task_id is not None:
            self._messages.append(self._answer(instance, outcome))

    @staticmethod
    def _answer(child: Claimed, outcome: TurnOutcome) -> NewMessage:
        assert child.parent_pk is not None
        assert child.parent_task_id is not None
        task_id = child.parent_task_id
        event: events.HistoryEvent
        if outcome.failure is None:
            event = events.SubOrchestrationInstanceCompletedEvent(-1, clock.now(), task_id, outcome.output)
        else:
            event = events.SubOrchestrationInstanceFailedEvent(-1, clock.now(), task_id, outcome.failure)
        return NewMessage(child.parent_pk, event, child.parent_execution_id)

    def _start_over(self, moved: Moved) -> None:
        instance, outcome = moved.instance, moved.outcome
        following = outcome.continue_as_new
        assert following is not None
        execution_id = new_execution_id()
        _, turn, custom_status, waiting_for, timestamp = self._progress_of(moved)
        self._restarted.append(
            (
                0,
                turn,
                custom_status,
                waiting_for,
                timestamp,
                _RUNNING,
                execution_id,
                following.input,
                instance.pk,
            )
        )
        self._timerless.append(instance.pk)
        self._over[instance.pk] = instance.execution_id
        self._starts.append(NewStart.following(instance, execution_id, following))

    # ---------------------------------------------------------------- the batch

    def _lease_own(self) -> None:
        """Lease to this worker what it is to run itself: many in a bundle, few in rows of their own."""
        lessor, bundle = self._lessor, self._bundle
        if lessor is None:
            return
        if bundle is None:
            self._lease_rows(lessor, self._own + self._handed_on)
            return
        bundles.add(
            self._cursor,
            bundle.token,
            bundle.tasks,
            self._now,
            worker=lessor.worker,
            lease_until=lessor.until,
        )
        self._result.leased += bundle.leased
        self._lease_rows(lessor, self._handed_on)

    @cached_property
    def _bundle(self) -> _Bundle | None:
        """What this worker is to run itself, if that is much."""
        lessor, own = self._lessor, self._own
        if lessor is None or not lessor.bundles or len(own) < bundles.LEAST:
            return None
        token = bundles.new_token()
        leased = [
            Leased.called(number, *called, self._now, token) for number, called in enumerate(own, token)
        ]
        return _Bundle(token, bundles.written(self._calls()), leased)

    def _lease_rows(self, lessor: Lessor, own: Sequence[_Called]) -> None:
        tokens = [activities.new_token() for _ in own]
        new = [NewActivity.called(*called, token) for called, token in zip(own, tokens, strict=True)]
        activities.add(self._cursor, new, self._now, worker=lessor.worker, lease_until=lessor.until)
        self._result.leased += [
            Leased.called(token, *called, self._now) for called, token in zip(own, tokens, strict=True)
        ]

    def _calls(self) -> list[Call]:
        calls: list[Call] = []
        caller = None
        for instance, event in self._own:
            if instance is not caller:
                caller = instance
                calls.append(Call(instance.pk, instance.execution_id, instance.turn + 1, []))
            calls[-1].task_ids.append(event.event_id)
        return calls

    def write_progress(self) -> None:
        """Write how far the instances have come that were added so far."""
        progress = ("next_sequence", "turn", "custom_status", "waiting_for", "last_updated_at", "status")
        for extra, values in (
            ((), self._progress),
            (("output", "failure", "completed_at"), self._ended),
            (("execution_id", "input"), self._restarted),
        ):
            if values:
                rows.update(self._cursor, Instance, (*progress, *extra), values)
                values.clear()

    def _delete_timers(self) -> None:
        rows.delete(self._cursor, Timer, "instance", self._timerless)
        vendor = self._cursor.db.vendor
        if self._cancelled:
            self._cursor.executemany(
                f"DELETE FROM {table(Timer, vendor)} WHERE instance_id = %s AND task_id = %s",
                self._cancelled,
            )

    def _create_children(self) -> None:
        """Insert the children; an id that a live instance has fails the task, a finished one is replaced."""
        if not self._children:
            return
        added = instances.add(self._cursor, self._children, self._now)
        seen: set[str] = set()
        refused = []
        for child in self._children:
            # `add` takes the first of two children of one name; the other is refused below.
            if child.instance_id not in added or child.instance_id in seen:
                refused.append(child)
            seen.add(child.instance_id)
        if refused:
            refused = self._replace_finished(refused, added)
        self._messages.extend(self._refusal(child) for child in refused)
        self._result.touched.update(added.values())

    def _replace_finished(self, children: Sequence[NewInstance], added: dict[str, int]) -> list[NewInstance]:
        """Start children in place of finished instances of the same id, and return those that cannot be."""
        wanted: dict[str, NewInstance] = {}
        for child in children:  # Here, too, the first of two.
            if child.instance_id not in added:
                wanted.setdefault(child.instance_id, child)
        keys = [pk for pk, status in self._find(wanted).values() if status in _TERMINAL]
        # Its lock makes sure that it stays finished: a restart may come at the same moment.
        finished = [holder for holder in claim_keys(self._cursor, keys) if holder.status in _TERMINAL]
        instances.delete(self._cursor, [holder.pk for holder in finished])
        replacing = [wanted[holder.instance_id] for holder in finished]
        added.update(instances.add(self._cursor, replacing, self._now))
        return [child for child in children if not any(child is other for other in replacing)]

    @staticmethod
    def _refusal(child: NewInstance) -> NewMessage:
        failure = FailureDetails(
            f"Orchestration instance {child.instance_id!r} exists and is not finished: a sub-orchestration "
            "cannot have its id.",
            qualified_name(OrchestrationAlreadyExistsError),
        )
        assert child.parent is not None
        assert child.parent_task_id is not None
        event = events.SubOrchestrationInstanceFailedEvent(-1, clock.now(), child.parent_task_id, failure)
        return NewMessage(child.parent, event, child.parent_execution_id)

    def _deliver_sent(self) -> None:
        """Put sent events into the inboxes of their targets; what has no live target is dropped."""
        if not self._sent:
            return
        found = self._find(event.instance_id for event in self._sent)
        for event in self._sent:
            pk, status = found.get(event.instance_id, (None, None))
            if pk is not None and status not in _TERMINAL:
                raised = events.EventRaisedEvent(-1, self._now, event.name, event.input)
                self._messages.append(NewMessage(pk, raised))

    def _send_operations(self) -> None:
        sent = self._operations + operations.of_open_sections(self._cursor, self._unlocked)
        operations.add(self._cursor, sent, self._now)
        self._result.entities.update(
            (operation.target.entity, operation.target.key) for operation in sent if operation.due is None
        )
        self._result.sends_later = any(operation.due is not None for operation in sent)

    def _find(self, instance_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        vendor = self._cursor.db.vendor
        condition, parameters = any_of(vendor, "instance_id", sorted(set(instance_ids)))
        fields = columns(Instance, ("instance_id", "id", "status"), vendor)
        sql = f"SELECT {fields} FROM {table(Instance, vendor)} WHERE {condition}"
        found = rows.ask(self._cursor, sql, parameters)
        return {instance_id: (pk, status) for instance_id, pk, status in found()}
