"""Rewinds: a failed execution goes on as a new one, with the part of its history that was good.

What still runs for it is re-keyed to the new execution; what is open, and neither runs nor has a result, is
scheduled again; failed children are rewound themselves.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.core import events
from durable_django.core.errors import FailureDetails, OrchestrationAlreadyExistsError, qualified_name
from durable_django.core.ids import new_execution_id
from durable_django.core.rewind import Rewound
from durable_django.core.rewind import rewind as undo_failure
from durable_django.models import (
    ActivityTask,
    EntityOperation,
    EntityOperationKind,
    Instance,
    InstanceStatus,
    Message,
    MessageKind,
    Timer,
)
from durable_django.models import HistoryEvent as HistoryRow
from durable_django.store import (
    activities,
    bundles,
    clock,
    control,
    families,
    histories,
    inbox,
    instances,
    operations,
    rows,
    wakeup,
)
from durable_django.store.activities import NewActivity
from durable_django.store.families import TERMINAL
from durable_django.store.inbox import NewMessage
from durable_django.store.instances import NewInstance

# With the failure the locks have gone that a grant was for.
_UNDONE = (
    MessageKind.TASK_FAILED,
    MessageKind.CHILD_FAILED,
    MessageKind.CALL_FAILED,
    MessageKind.LOCK_GRANTED,
)
_SAVED = (
    "execution_id",
    "status",
    "output",
    "failure",
    "waiting_for",
    "parent_execution_id",
    "completed_at",
    "last_updated_at",
    "next_sequence",
    "turn",
    "tries",
)


def rewind(using: str, instance_id: str, reason: str | None = None) -> None:
    """Take a failed instance back to before its failure, and let it go on from there.

    Raises:
        OrchestrationNotFoundError: There is no such instance.
        OrchestrationStateConflictError: It has not failed.
    """
    with transaction.atomic(using):
        family = families.lock_family(using, instance_id, _is_touched)
        if not family:
            families.raise_not_found(instance_id)
        root, *descendants = family
        if root.status != InstanceStatus.FAILED:
            control.raise_conflict(root, "rewound", "FAILED")
        # What they still run needs its rows, and is told by the histories as they are.
        failed = [instance for instance in family if instance.status == InstanceStatus.FAILED]
        bundles.dissolve_of_executions(using, [instance.execution_id for instance in failed])
        with connections[using].cursor() as cursor:
            _Rewind(cursor, descendants, reason).rewind(root)
        wakeup.announce_work(using)


def _started_anew(event: events.ExecutionStartedEvent, instance: Instance) -> events.ExecutionStartedEvent:
    """Return the start of the new execution: it says who it is, and who has started it."""
    own, parent = event.orchestration_instance, event.parent_instance
    if own is not None:
        own = replace(own, execution_id=instance.execution_id)
    if parent is not None and parent.orchestration_instance is not None and instance.parent_execution_id:
        by = replace(parent.orchestration_instance, execution_id=instance.parent_execution_id)
        parent = replace(parent, orchestration_instance=by)
    return replace(event, orchestration_instance=own, parent_instance=parent)


def _is_touched(parent: Instance, child: Instance) -> bool:
    return parent.status == InstanceStatus.FAILED and families.of_execution(parent, child)


class _Recorded(NamedTuple):
    """A row of the history: its event, turn, and columns."""

    event: events.HistoryEvent
    turn: int
    columns: Sequence[Any]


class _Rewind:
    """One rewind, over all the instances that it reaches; they are locked."""

    def __init__(self, cursor: CursorWrapper, descendants: Sequence[Instance], reason: str | None) -> None:
        self._cursor = cursor
        self._using = cursor.db.alias
        self._reason = reason
        self._now = clock.now()
        self._children: defaultdict[int | None, list[Instance]] = defaultdict(list)
        for child in descendants:
            self._children[child.parent_id].append(child)

    def rewind(self, instance: Instance) -> None:
        """Rewind one failed instance and those of its children that its open tasks wait for."""
        old, instance.execution_id = instance.execution_id, new_execution_id()
        history = self._history(instance, old)
        rewound = undo_failure([event for event, *_ in history])
        self._withdraw_operations(instance, old)
        under_way = self._rekey_messages(instance, old, rewound) | self._rekey_work(instance, old, rewound)
        # What the code is to decide anew, once it has its locks.
        later = {task_id: at for task_id, at in rewound.inside.items() if task_id not in under_way}
        kept = [position for position in rewound.kept if position not in later.values()]
        self._write_history(instance, [history[position] for position in kept], rewound)
        children = self._rekey_children(instance, rewound)
        local: list[int] = []
        for task_id, decision in rewound.open.items():
            if task_id in under_way or task_id in later:
                continue
            if isinstance(decision, events.TaskScheduledEvent) and decision.local:
                local.append(task_id)
            else:
                self._reopen(instance, decision, children)
        # Last: what a child has locked, the section may have to wait for.
        for section in rewound.sections:
            self._send(instance, section)
        self._save(instance, local)

    # ---------------------------------------------------------------- what goes over

    def _history(self, instance: Instance, execution_id: str) -> list[_Recorded]:
        query = HistoryRow.objects.using(self._using).filter(instance=instance, execution_id=execution_id)
        stored = query.order_by("sequence").values_list(
            "timestamp", "turn", "kind", "task_id", "name", "data", "attributes"
        )
        return [
            _Recorded(histories.event_from_columns(clock.from_orm(row[0]), *row[2:]), row[1], row[2:])
            for row in stored
        ]

    def _write_history(self, instance: Instance, kept: Sequence[_Recorded], rewound: Rewound) -> None:
        copies = []
        for sequence, (event, turn, columns) in enumerate(kept):
            written = columns
            if isinstance(event, events.ExecutionStartedEvent):
                written = histories.event_columns(_started_anew(event, instance))
            at = clock.to_database(self._using, event.timestamp)
            copies.append((instance.pk, instance.execution_id, sequence, at, turn, *written))
        rows.insert(self._cursor, HistoryRow, histories.FIELDS, copies)
        instance.next_sequence = len(copies)
        rewinding = events.ExecutionRewoundEvent(
            -1,
            control.present(instance),
            reason=self._reason,
            parent_execution_id=instance.parent_execution_id,
            instance_id=instance.instance_id,
            name=instance.name,
            version=instance.version,
            sections=[section.critical_section_id for section in rewound.sections] or None,
        )
        control.record(self._cursor, [(instance, rewinding)])

    def _withdraw_operations(self, instance: Instance, old: str) -> None:
        """Delete the calls and lock requests that wait at entities: what is still wanted is sent again.

        An entity that is performing one finds that it is gone, and takes back what it has done.
        """
        waiting = EntityOperation.objects.using(self._using).filter(
            instance=instance,
            execution_id=old,
            kind__in=(EntityOperationKind.CALL, EntityOperationKind.LOCK),
        )
        rows.delete(
            self._cursor, EntityOperation, "id", list(waiting.order_by("pk").values_list("pk", flat=True))
        )

    def _rekey_messages(self, instance: Instance, old: str, rewound: Rewound) -> set[int]:
        """Keep the results of open tasks and return whose they are.

        A failure that the code has not seen yet is undone like the ones that it has.
        """
        waiting = Message.objects.using(self._using).filter(instance=instance, execution_id=old)
        results = waiting.exclude(kind__in=(MessageKind.START, *_UNDONE)).filter(task_id__in=rewound.open)
        answered = {task_id for task_id in results.values_list("task_id", flat=True) if task_id is not None}
        results.update(execution_id=instance.execution_id, held=False)
        waiting.delete()
        return answered

    def _rekey_work(self, instance: Instance, old: str, rewound: Rewound) -> set[int]:
        """Keep the activities and timers of open tasks and return whose they are."""
        instances.lock_activities(self._cursor, [instance.pk])
        kept: set[int] = set()
        for model in (ActivityTask, Timer):
            work = model.objects.using(self._using).filter(instance=instance, execution_id=old)
            of_open_tasks = work.filter(task_id__in=rewound.open)
            kept.update(of_open_tasks.values_list("task_id", flat=True))
            of_open_tasks.update(execution_id=instance.execution_id)
            work.delete()
        return kept

    def _rekey_children(self, instance: Instance, rewound: Rewound) -> dict[str, Instance]:
        """Let the children follow, but for those of undone decisions, and return them by instance id."""
        followers = {}
        for child in self._children[instance.pk]:
            if child.parent_task_id in rewound.undone:
                child.parent = child.parent_execution_id = child.parent_task_id = None
            else:
                child.parent_execution_id = instance.execution_id
                followers[child.instance_id] = child
            child.save(using=self._using, update_fields=["parent", "parent_execution_id", "parent_task_id"])
        return followers

    def _save(self, instance: Instance, local: Sequence[int]) -> None:
        """Set the instance going; local activities are its next turn's to run."""
        instance.status = InstanceStatus.RUNNING
        instance.output = instance.failure = instance.completed_at = None
        instance.waiting_for = []
        instance.tries = 0
        instance.save(using=self._using, update_fields=_SAVED)
        postponed = {inbox.POSTPONED: self._sequences(instance, local)} if local else {}
        Message.objects.using(self._using).create(
            instance=instance,
            execution_id=instance.execution_id,
            kind=MessageKind.START,
            attributes=json.dumps({inbox.REWOUND: True} | postponed),
            visible_at=clock.aware(self._now),
        )

    def _sequences(self, instance: Instance, task_ids: Sequence[int]) -> list[int]:
        """Return where the history has the last attempt of each activity."""
        scheduled = HistoryRow.objects.using(self._using).filter(
            instance=instance,
            execution_id=instance.execution_id,
            kind=histories.kind_of(events.TaskScheduledEvent),
            task_id__in=task_ids,
        )
        last = dict(scheduled.order_by("sequence").values_list("task_id", "sequence"))
        return sorted(last.values())

    # ---------------------------------------------------------------- what is scheduled again

    def _reopen(
        self, instance: Instance, decision: events.HistoryEvent, children: dict[str, Instance]
    ) -> None:
        match decision:
            case events.TaskScheduledEvent():
                activities.add(self._cursor, [NewActivity.called(instance, decision)], self._now)
            case events.TimerCreatedEvent():
                Timer.objects.using(self._using).create(
                    instance=instance,
                    execution_id=instance.execution_id,
                    task_id=decision.event_id,
                    fire_at=clock.aware(decision.fire_at),
                )
            case events.SubOrchestrationInstanceCreatedEvent():
                child = children.get(decision.instance_id)
                if child is not None and child.parent_task_id == decision.event_id:
                    self._go_on(instance, decision, child)
                else:
                    self._start(instance, decision)
            case events.EntityOperationCalledEvent() | events.EntityLockRequestedEvent():
                self._send(instance, decision)

    def _send(self, instance: Instance, decision: events.HistoryEvent) -> None:
        operation = operations.of_event(decision, instance.pk, instance.execution_id)
        assert operation is not None
        operations.add(self._cursor, [operation], self._now)

    def _go_on(
        self, parent: Instance, decision: events.SubOrchestrationInstanceCreatedEvent, child: Instance
    ) -> None:
        if child.status == InstanceStatus.FAILED:
            self.rewind(child)
        elif child.status == InstanceStatus.TERMINATED:
            self._start(parent, decision)
        elif child.status == InstanceStatus.COMPLETED:
            # Its result has come when the parent was finished already, and was dropped.
            result = events.SubOrchestrationInstanceCompletedEvent(
                -1, self._now, decision.event_id, child.output
            )
            self._tell(parent, result)

    def _start(self, parent: Instance, decision: events.SubOrchestrationInstanceCreatedEvent) -> None:
        holder = families.lock_one(self._using, decision.instance_id)
        if holder is not None and holder.status in TERMINAL:
            instances.delete(self._cursor, [holder.pk])
        added = instances.add(self._cursor, [self._child(parent, decision)], self._now)
        if not added:
            failure = FailureDetails(
                f"Orchestration instance {decision.instance_id!r} exists and is not finished: a "
                "sub-orchestration cannot have its id.",
                qualified_name(OrchestrationAlreadyExistsError),
            )
            self._tell(
                parent,
                events.SubOrchestrationInstanceFailedEvent(-1, self._now, decision.event_id, failure),
            )

    def _tell(self, parent: Instance, event: events.HistoryEvent) -> None:
        inbox.add(self._cursor, [NewMessage(parent.pk, event, parent.execution_id)], self._now)

    def _child(self, parent: Instance, decision: events.SubOrchestrationInstanceCreatedEvent) -> NewInstance:
        return NewInstance(
            instance_id=decision.instance_id,
            execution_id=new_execution_id(),
            name=decision.name,
            version=decision.version,
            queue=decision.queue or parent.queue,
            priority=parent.priority if decision.priority is None else decision.priority,
            input=decision.input,
            tags=decision.tags,
            start_at=self._now,
            parent=parent.pk,
            parent_execution_id=parent.execution_id,
            parent_task_id=decision.event_id,
        )
