"""An execution's dealings with entities: its calls, its signals and its critical section."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from weakref import proxy

from durable_django.core import events
from durable_django.core.critical import CriticalSection, EntityLock
from durable_django.core.entity import EntityInstanceId, EntityOperationFailedException
from durable_django.core.errors import NO_DETAILS
from durable_django.core.tasks import CompletableTask

if TYPE_CHECKING:
    from durable_django.core.replay import Execution


class EntityCalls:
    """What one execution has asked of entities. Answers and grants come as events, like all results."""

    def __init__(self, execution: Execution) -> None:
        # An execution that owns what owns it would stay in memory until the garbage collector comes by.
        self._execution: Execution = proxy(execution)
        self._section = CriticalSection()
        self._granted: set[str] = set()
        self._called: dict[int, tuple[EntityInstanceId, str, str | None]] = {}

    def check_child(self) -> None:
        """Check that a sub-orchestration may be started now.

        Raises:
            RuntimeError: There is a critical section.
        """
        self._section.check_child()

    def call(
        self, entity: EntityInstanceId, operation: str, payload: str | None, expected_type: Any
    ) -> CompletableTask[Any]:
        """Decide on a call and return its task.

        Raises:
            RuntimeError: The critical section rules it out.
        """
        self._section.check_call(entity)
        execution = self._execution
        task_id = execution.next_task_id()
        self._called[task_id] = (entity, operation, self._section.section_id)
        task: CompletableTask[Any] = CompletableTask(expected_type)
        execution.decide(
            events.EntityOperationCalledEvent(
                task_id,
                execution.now,
                str(task_id),
                operation,
                input=payload,
                parent_instance_id=execution.instance_id,
                target_instance_id=str(entity),
            ),
            task,
        )
        return task

    def signal(
        self, entity: EntityInstanceId, operation: str, payload: str | None, due: datetime | None
    ) -> None:
        """Decide on a signal, to be taken in at ``due`` (naive UTC) or at once.

        Raises:
            RuntimeError: The entity is locked by the critical section.
        """
        self._section.check_signal(entity)
        execution = self._execution
        task_id = execution.next_task_id()
        execution.decide(
            events.EntityOperationSignaledEvent(
                task_id,
                execution.now,
                str(task_id),
                operation,
                scheduled_time=due,
                input=payload,
                target_instance_id=str(entity),
            )
        )

    def lock(self, entities: Iterable[EntityInstanceId]) -> CompletableTask[EntityLock]:
        """Decide on a critical section; the task completes when all locks are held.

        Raises:
            RuntimeError: There are no entities, or there is a critical section already.
        """
        locks = self._section.check_request(entities)
        execution = self._execution
        task_id = execution.next_task_id()
        self._section.enter(str(task_id), locks)
        task: CompletableTask[EntityLock] = CompletableTask()
        execution.decide(
            events.EntityLockRequestedEvent(
                task_id,
                execution.now,
                str(task_id),
                [str(entity) for entity in locks],
                0,
                parent_instance_id=execution.instance_id,
            ),
            task,
        )
        return task

    def leave(self, section_id: str) -> None:
        """Unlock the entities of a critical section; nothing, if it is over already."""
        if section_id == self._section.section_id:
            with suppress(ReferenceError):  # What was dropped, and not even closed, decides nothing any more.
                self.release()

    def release(self) -> None:
        """Unlock whatever is locked, or about to be."""
        section_id = self._section.section_id
        if section_id is None:
            return
        execution = self._execution
        for entity in self._section.leave():
            execution.decide(
                events.EntityUnlockSentEvent(
                    execution.next_task_id(),
                    execution.now,
                    section_id,
                    parent_instance_id=execution.instance_id,
                    target_instance_id=str(entity),
                )
            )

    def complete(self, event: events.EntityOperationCompletedEvent) -> None:
        """Take in the result of a call."""
        task = self._answered(event)
        if task is not None:
            task.complete(self._execution.options.codec.loads(event.output, task._expected_type))

    def fail(self, event: events.EntityOperationFailedEvent) -> None:
        """Take in the failure of a call."""
        called = self._called.get(event.task_scheduled_id)
        task = self._answered(event)
        if task is not None and called is not None:
            details = event.failure_details or NO_DETAILS
            self._execution.fail_task(task, EntityOperationFailedException(called[0], called[1], details))

    def grant(self, event: events.EntityLockGrantedEvent) -> None:
        """Take in that all locks are held; whoever knows it already need not hear it again."""
        if event.critical_section_id in self._granted:
            return
        self._granted.add(event.critical_section_id)
        task = self._execution.claim(event)
        if task is not None and self._section.grant(event.critical_section_id):
            task.complete(EntityLock(self, event.critical_section_id))

    def _answered(
        self, event: events.EntityOperationCompletedEvent | events.EntityOperationFailedEvent
    ) -> CompletableTask[Any] | None:
        called = self._called.pop(event.task_scheduled_id, None)
        if called is not None and called[2] == self._section.section_id:
            self._section.returned(called[0])
        return self._execution.claim(event)
