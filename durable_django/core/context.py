"""What an orchestrator's code is given: the orchestration context."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from durable_django.core import events
from durable_django.core.critical import EntityLock
from durable_django.core.entity import EntityInstanceId, make_signal
from durable_django.core.ids import check_instance_id, check_name, child_instance_id, deterministic_uuid
from durable_django.core.registry import ActivityRegistration, OrchestratorRegistration, check_priority
from durable_django.core.retry import RetryPolicy
from durable_django.core.tasks import CancellableTask, CompletableTask, TimerTask
from durable_django.core.times import naive_utc

if TYPE_CHECKING:
    from durable_django.core.replay import Execution

T = TypeVar("T")


class OrchestrationContext:
    """An orchestrator's only door to the world.

    Whatever depends on anything but the input and the results of these methods (time, randomness, files, the
    database) belongs into an activity: the code runs again from the start whenever its history is replayed,
    and must decide the same each time.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def instance_id(self) -> str:
        """The id of this instance."""
        return self._execution.instance_id

    @property
    def parent_instance_id(self) -> str | None:
        """The id of the instance that started this one as its child, if one did."""
        parent = self._execution.started.parent_instance
        return parent.orchestration_instance.instance_id if parent and parent.orchestration_instance else None

    @property
    def version(self) -> str | None:
        """The version that this instance was scheduled with."""
        return self._execution.started.version

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of the current turn, naive UTC; the same in every replay."""
        return self._execution.now

    @property
    def is_replaying(self) -> bool:
        """Whether the code is repeating what it has done before."""
        return self._execution.is_replaying

    @overload
    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        tags: dict[str, str] | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
        limit_key: str | None = ...,
        return_type: type[T],
    ) -> CompletableTask[T]: ...

    @overload
    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        tags: dict[str, str] | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
        limit_key: str | None = ...,
        return_type: None = ...,
    ) -> CompletableTask[Any]: ...

    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = None,
        retry_policy: RetryPolicy | None = None,
        tags: dict[str, str] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        limit_key: str | None = None,
        return_type: Any = None,
    ) -> CompletableTask[Any]:
        """Schedule an activity; the task completes with what it returns.

        ``activity`` is the function or its registered name; ``input`` is serialised at once. A
        ``retry_policy`` given here replaces the activity's own, and so do ``queue`` and ``priority``.
        ``limit_key`` says whom or what a limited queue counts it against, such as a customer.
        ``return_type`` says what the result is rebuilt as; without it the function's return annotation does.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of bounds, or a local activity is given a queue or a limit.

        Raises (when yielded):
            TaskFailedError: The activity failed, and no attempt is left.
        """
        execution = self._execution
        name, options = execution.options.activity_called(activity)
        options = options or _PLAIN_ACTIVITY
        payload = execution.options.codec.dumps(input, "the input of activity", name)
        tags = _checked_tags(tags)
        if options.local and not (queue is None and limit_key is None):
            raise ValueError(f"Activity {name!r} is local: no queue and no limit applies to it.")
        if limit_key is not None:
            check_name("limit key", limit_key)
        expected_type = execution.options.result_type(activity, return_type)
        # By position: keywords take twice as long, and a fan-out has thousands of these.
        event = events.TaskScheduledEvent(
            execution.next_task_id(),
            execution.now,
            name,
            None,  # version
            payload,
            None,  # parent_trace_context
            tags,
            options.queue if queue is None else check_name("queue", queue),
            (options.priority or None) if priority is None else check_priority(priority),
            options.local or None,
            limit_key,
        )
        return execution.schedule(event, retry_policy or options.retry_policy, expected_type)

    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: Callable[..., Any] | str,
        *,
        input: Any = ...,
        instance_id: str | None = ...,
        retry_policy: RetryPolicy | None = ...,
        version: str | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
        return_type: type[T],
    ) -> CompletableTask[T]: ...

    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: Callable[..., Any] | str,
        *,
        input: Any = ...,
        instance_id: str | None = ...,
        retry_policy: RetryPolicy | None = ...,
        version: str | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
        return_type: None = ...,
    ) -> CompletableTask[Any]: ...

    def call_sub_orchestrator(
        self,
        orchestrator: Callable[..., Any] | str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        version: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        return_type: Any = None,
    ) -> CompletableTask[Any]:
        """Start a child; the task completes with what it returns.

        Without an ``instance_id`` the child gets the parent's with the task's number. The id of a live
        instance fails the task; a finished one is replaced. Without a ``version`` the worker's default for
        children applies: a child does not inherit its parent's. ``queue`` and ``priority`` given here replace
        the orchestrator's own; where neither says anything, the parent's hold.

        Raises:
            TypeError: ``priority`` is no number.
            ValueError: ``instance_id``, ``version``, ``queue`` or ``priority`` cannot be one.
            RuntimeError: There is a critical section.

        Raises (when yielded):
            TaskFailedError: The child failed or was terminated, and no attempt is left.
        """
        execution = self._execution
        execution.entities.check_child()
        name, options = execution.options.orchestrator_called(orchestrator)
        options = options or _PLAIN_ORCHESTRATOR
        if instance_id is not None:
            check_instance_id(instance_id)
        if version is not None:
            check_name("version", version)
        payload = execution.options.codec.dumps(input, "the input of orchestrator", name)
        expected_type = execution.options.result_type(orchestrator, return_type)
        task_id = execution.next_task_id()
        event = events.SubOrchestrationInstanceCreatedEvent(
            task_id,
            execution.now,
            instance_id or child_instance_id(self.instance_id, task_id),
            name,
            version=execution.options.default_version if version is None else version,
            input=payload,
            queue=options.queue if queue is None else check_name("queue", queue),
            priority=(options.priority or None) if priority is None else check_priority(priority),
        )
        return execution.schedule(event, retry_policy, expected_type)

    def create_timer(self, fire_at: datetime | timedelta) -> TimerTask:
        """Start a durable timer: at a time (aware, or naive UTC), or after a delay.

        A time in the past fires at once.

        Raises:
            TypeError: ``fire_at`` is neither.
            ValueError: It leads beyond what a datetime holds.
        """
        return self._execution.schedule_timer(_due(fire_at, self.current_utc_datetime))

    @overload
    def wait_for_external_event(self, name: str, *, data_type: type[T]) -> CancellableTask[T]: ...

    @overload
    def wait_for_external_event(self, name: str, *, data_type: None = ...) -> CancellableTask[Any]: ...

    def wait_for_external_event(self, name: str, *, data_type: Any = None) -> CancellableTask[Any]:
        """Wait for an external event, or take the oldest one that is there already.

        Names do not care for case. Each event completes one wait, in the order in which both came.
        ``data_type`` is what the event's data is rebuilt as.
        """
        return self._execution.wait_for_event(check_name("event", name), data_type)

    def send_event(self, instance_id: str, event_name: str, *, data: Any = None) -> None:
        """Send an external event to another instance; it is dropped if there is no such live instance.

        Raises:
            ValueError: A target or a name is blank, or the target is an entity (it starts with ``@``).
        """
        if not instance_id.strip():
            raise ValueError("instance_id must not be blank: it names the instance that gets the event.")
        if not event_name.strip():
            raise ValueError("event_name must not be blank.")
        if instance_id.startswith("@"):
            raise ValueError(
                f"instance_id {instance_id!r} is an entity's: send_event() is for orchestrations."
            )
        payload = self._execution.options.codec.dumps(data, "the data of event", event_name)
        self._execution.send_event(check_instance_id(instance_id), check_name("event", event_name), payload)

    @overload
    def call_entity(
        self, entity: EntityInstanceId, operation: str, input: Any = ..., *, return_type: type[T]
    ) -> CompletableTask[T]: ...

    @overload
    def call_entity(
        self, entity: EntityInstanceId, operation: str, input: Any = ..., *, return_type: None = ...
    ) -> CompletableTask[Any]: ...

    def call_entity(
        self, entity: EntityInstanceId, operation: str, input: Any = None, *, return_type: Any = None
    ) -> CompletableTask[Any]:
        """Call an operation of an entity; the task completes with what it returns.

        Raises:
            RuntimeError: In a critical section: the locks are not granted yet, the entity is not one of the
                locked ones, or a call to it is under way.

        Raises (when yielded):
            EntityOperationFailedException: The operation failed.
        """
        call = make_signal(self._execution.options.codec, entity, operation, input, None)
        return self._execution.entities.call(entity, operation, call.payload, return_type)

    def signal_entity(
        self,
        entity_id: EntityInstanceId,
        operation_name: str,
        input: Any = None,
        signal_time: datetime | None = None,
    ) -> None:
        """Send an entity an operation, at ``signal_time`` (naive is UTC) or at once, and do not wait.

        Raises:
            RuntimeError: In a critical section: the entity is one of the locked ones.
        """
        signal = make_signal(self._execution.options.codec, entity_id, operation_name, input, signal_time)
        self._execution.entities.signal(entity_id, operation_name, signal.payload, signal.due)

    def lock_entities(self, entities: list[EntityInstanceId]) -> CompletableTask[EntityLock]:
        """Lock entities: ``with (yield ctx.lock_entities([...])):`` runs its block when all are locked.

        They are unlocked at the end of the block, and when the orchestration ends, whatever its end.

        Raises:
            RuntimeError: There are no entities, or there is a critical section already.
        """
        return self._execution.entities.lock(entities)

    def set_custom_status(self, custom_status: Any) -> None:
        """Show ``custom_status`` in the instance's state; None clears it."""
        payload = self._execution.options.codec.dumps(custom_status, "the custom status")
        self._execution.set_custom_status(payload)

    def continue_as_new(self, new_input: Any, *, save_events: bool = False) -> None:
        """Start over with ``new_input`` and an empty history once the code ends or yields next.

        What it has scheduled is still sent. With ``save_events`` the external events that it has not consumed
        come to the new execution before all others; without, they are dropped.
        """
        payload = self._execution.options.codec.dumps(new_input, "the input of continue_as_new()")
        self._execution.request_continue_as_new(payload, save_events)

    def new_uuid(self) -> str:
        """Return a uuid (version 5) that is new at each call and the same in every replay."""
        return deterministic_uuid(
            self.instance_id, self.current_utc_datetime, self._execution.next_uuid_number()
        )

    def create_replay_safe_logger(self, logger: logging.Logger) -> ReplaySafeLogger:
        """Return ``logger`` with a mute for replays."""
        return ReplaySafeLogger(logger, lambda: self.is_replaying)


class ReplaySafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that says nothing while history is replayed, so that each line is logged once."""

    def __init__(self, logger: logging.Logger, is_replaying: Callable[[], bool]) -> None:
        super().__init__(logger, {})
        self._is_replaying = is_replaying

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        """Whether ``level`` is logged now: never in a replay."""
        return not self._is_replaying() and self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave the caller's ``extra`` as it is."""
        return msg, kwargs


class ActivityContext:
    """What an activity is told about itself."""

    def __init__(self, orchestration_id: str, task_id: int, worker: str | None = None) -> None:
        self._orchestration_id = orchestration_id
        self._task_id = task_id
        self._worker = worker

    @property
    def orchestration_id(self) -> str:
        """The id of the instance that called the activity."""
        return self._orchestration_id

    @property
    def task_id(self) -> int:
        """The number of the call within its orchestration; a retry has the same."""
        return self._task_id

    @property
    def worker(self) -> str | None:
        """The worker that runs it, as histories name it; None where no worker does, as in a unit test."""
        return self._worker


def _unregistered(*_: object) -> None:
    """Stand in for the function of something that is known by its name alone."""


_PLAIN_ACTIVITY = ActivityRegistration("", _unregistered)
_PLAIN_ORCHESTRATOR = OrchestratorRegistration("", _unregistered)


def _due(fire_at: datetime | timedelta, now: datetime) -> datetime:
    # Never before now: not every database knows the times of antiquity.
    if isinstance(fire_at, timedelta):
        if fire_at <= timedelta(0):
            return now
        try:
            return now + fire_at
        except OverflowError:
            raise ValueError(f"fire_at {fire_at} leads beyond the calendar (the year 9999).") from None
    if not isinstance(fire_at, datetime):
        raise TypeError(f"fire_at must be a datetime or a timedelta, not {type(fire_at).__name__}")
    return max(naive_utc("fire_at", fire_at), now)


def _checked_tags(tags: dict[str, str] | None) -> dict[str, str] | None:
    if tags is None:
        return None
    for entry in tags.items():
        if not all(isinstance(part, str) for part in entry):
            raise TypeError(f"tags must map str to str, and not {entry[0]!r} to {entry[1]!r}")
    return dict(tags)
