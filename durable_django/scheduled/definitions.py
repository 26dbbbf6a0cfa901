"""The entity that is a schedule, and the orchestrators around it: all that a worker has to know.

A schedule signals itself when its next run is due. The signal carries a token, which every change replaces:
a signal from before the change does nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from durable_django.entities import DurableEntity, EntityInstanceId
from durable_django.scheduled.errors import (
    ScheduleClientValidationError,
    ScheduleInvalidTransitionError,
    ScheduleNotFoundError,
)
from durable_django.scheduled.options import (
    ENTITY_NAME,
    ScheduleCreationOptions,
    ScheduleDescription,
    ScheduleStatus,
    ScheduleUpdateOptions,
    entity_id,
    from_text,
    to_text,
)
from durable_django.task import OrchestrationContext, Task, TaskFailedError

if TYPE_CHECKING:
    from durable_django.core.registry import Registry

logger = logging.getLogger("durable_django.scheduled")

CREATE = "create_schedule"
UPDATE = "update_schedule"
PAUSE = "pause_schedule"
RESUME = "resume_schedule"
DELETE = "delete"
RUN = "run_schedule"


@dataclass(frozen=True, kw_only=True)
class ScheduleState:
    """What a schedule remembers. Times are aware UTC."""

    options: ScheduleCreationOptions
    status: ScheduleStatus
    created_at: datetime
    last_modified_at: datetime
    last_run_at: datetime | None = None
    next_run_at: datetime | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def renewed(self, **changes: Any) -> Self:
        """Return the state with changes and a new token."""
        return replace(self, token=uuid.uuid4().hex, **changes)

    def next_after(self, now: datetime) -> datetime | None:
        """Return when the next run is due: after ``now``, or now; None if none is left."""
        due, end_at = self._unbounded_next_after(now), self.options.end_at
        return None if due is None or (end_at is not None and due > end_at) else due

    def _unbounded_next_after(self, now: datetime) -> datetime | None:
        options = self.options
        start_at = options.start_at
        if start_at is not None and start_at >= now and start_at != self.last_run_at:
            return start_at
        if self.last_run_at is None and options.start_immediately_if_late:
            return now
        return grid_after(now, start_at or self.created_at, options.interval)

    def check_next(self, now: datetime) -> Self:
        """Return the state, unless its options leave no run though they name no end.

        Raises:
            ScheduleClientValidationError: They do.
        """
        options = self.options
        if options.end_at is None and self.next_after(now) is None:
            raise ScheduleClientValidationError(
                options.schedule_id,
                f"interval {options.interval} leads beyond the calendar (the year 9999): no run is left.",
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        return {
            "options": self.options.to_json(),
            "status": self.status.value,
            "created_at": to_text(self.created_at),
            "last_modified_at": to_text(self.last_modified_at),
            "last_run_at": to_text(self.last_run_at),
            "next_run_at": to_text(self.next_run_at),
            "token": self.token,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the state that `to_json` has written."""
        created_at, last_modified_at = (from_text(data[name]) for name in ("created_at", "last_modified_at"))
        assert created_at is not None
        assert last_modified_at is not None
        return cls(
            options=ScheduleCreationOptions.from_state(data["options"]),
            status=ScheduleStatus(data["status"]),
            created_at=created_at,
            last_modified_at=last_modified_at,
            last_run_at=from_text(data["last_run_at"]),
            next_run_at=from_text(data["next_run_at"]),
            token=data["token"],
        )

    def describe(self) -> ScheduleDescription:
        """Return what clients are told."""
        options = self.options
        return ScheduleDescription(
            schedule_id=options.schedule_id,
            orchestration_name=options.orchestration_name,
            orchestration_input=options.orchestration_input,
            orchestration_instance_id=options.orchestration_instance_id,
            start_at=options.start_at,
            end_at=options.end_at,
            interval=options.interval,
            start_immediately_if_late=options.start_immediately_if_late,
            status=self.status,
            execution_token=self.token,
            last_run_at=self.last_run_at,
            next_run_at=self.next_run_at,
            created_at=self.created_at,
            last_modified_at=self.last_modified_at,
        )


def grid_after(now: datetime, anchor: datetime, interval: timedelta) -> datetime | None:
    """Return the first of ``anchor + n * interval`` (n may be 0) that is later than ``now``.

    None if that is beyond the calendar (the year 9999).
    """
    try:
        return anchor + max(0, (now - anchor) // interval + 1) * interval
    except OverflowError:
        return None


class Schedule(DurableEntity):
    """A schedule, under its id as the key."""

    def create_schedule(self, options: Mapping[str, Any]) -> None:
        """Begin, or begin anew with other options if the schedule exists."""
        created = ScheduleCreationOptions.from_json(options)
        now = self._now()
        before = self._load()
        if before is None:
            state = ScheduleState(
                options=created, status=ScheduleStatus.ACTIVE, created_at=now, last_modified_at=now
            )
        else:
            state = before.renewed(options=created, status=ScheduleStatus.ACTIVE, last_modified_at=now)
        self._plan(state.check_next(now), now)

    def update_schedule(self, options: Mapping[str, Any]) -> None:
        """Change options; the next run is planned anew."""
        state = self._existing()
        updated = state.options.updated(ScheduleUpdateOptions.from_json(options))
        if updated == state.options:
            return
        now = self._now()
        changed = state.renewed(options=updated, last_modified_at=now).check_next(now)
        if state.status is ScheduleStatus.ACTIVE:
            self._plan(changed, now)
        else:
            self.set_state(changed)

    def pause_schedule(self) -> None:
        """Start nothing until the schedule is resumed."""
        state = self._leave(ScheduleStatus.ACTIVE, ScheduleStatus.PAUSED, PAUSE)
        self.set_state(state.renewed(next_run_at=None))

    def resume_schedule(self) -> None:
        """Go on, with the next run of the grid."""
        state = self._leave(ScheduleStatus.PAUSED, ScheduleStatus.ACTIVE, RESUME)
        self._plan(state.renewed(), self._now())

    def run_schedule(self, token: str) -> None:
        """Start the orchestration, if it is due, and plan the next run. The schedule's own signal."""
        state = self._load()
        if state is None or state.token != token:
            logger.debug("A signal from before a change of schedule %s does nothing", self._key())
            return
        now, due = self._now(), state.next_run_at
        if due is None:
            logger.info("Schedule %s has come to its end", self._key())
            self.set_state(None)
            return
        if due > now:  # The clock of the worker that took the signal is behind.
            self._signal(state, due)
            return
        try:
            self._start(state.options, due)
        except Exception:  # The signal for the next run must not be lost with this one.
            logger.exception("Schedule %s cannot start its run of %s", self._key(), due)
        self._plan(replace(state, last_run_at=due), now)

    def _plan(self, state: ScheduleState, now: datetime) -> None:
        """Keep the state with its next run, and have it called then."""
        due = state.next_after(now)
        self.set_state(replace(state, next_run_at=due))
        # Where no run is left, the signal at the end deletes the schedule.
        self._signal(state, due or max(now, state.options.end_at or now))

    def _signal(self, state: ScheduleState, due: datetime) -> None:
        self.signal_entity(self.entity_context.entity_id, RUN, state.token, signal_time=due)

    def _start(self, options: ScheduleCreationOptions, due: datetime) -> None:
        run_id = f"{options.schedule_id}-{due.isoformat()}"
        if options.orchestration_instance_id is None:
            self.schedule_new_orchestration(options.orchestration_name, options.orchestration_input, run_id)
            return
        request = {
            "name": options.orchestration_name,
            "input": options.orchestration_input,
            "instance_id": options.orchestration_instance_id,
        }
        self.schedule_new_orchestration(start_scheduled_orchestration.__name__, request, run_id)

    def _leave(self, from_status: ScheduleStatus, to_status: ScheduleStatus, operation: str) -> ScheduleState:
        state = self._existing()
        if state.status is not from_status:
            raise ScheduleInvalidTransitionError(self._key(), state.status, to_status, operation)
        return replace(state, status=to_status, last_modified_at=self._now())

    def _existing(self) -> ScheduleState:
        state = self._load()
        if state is None:
            raise ScheduleNotFoundError(self._key())
        return state

    def _load(self) -> ScheduleState | None:
        data = self.get_state()
        return None if data is None else ScheduleState.from_json(data)

    def _key(self) -> str:
        return self.entity_context.entity_id.key

    def _now(self) -> datetime:
        return self.entity_context.current_utc_datetime.replace(tzinfo=UTC)


def start_scheduled_orchestration(ctx: OrchestrationContext, request: Mapping[str, Any]) -> None:
    """Start an orchestration under a fixed instance id, over a predecessor that has ended.

    It is not waited for. While the predecessor lives, the start is refused, and that is all.
    """
    ctx.call_sub_orchestrator(request["name"], input=request["input"], instance_id=request["instance_id"])


def execute_schedule_operation(
    ctx: OrchestrationContext, request: Mapping[str, Any]
) -> Generator[Task[Any], Any, dict[str, str] | None]:
    """Perform an operation on a schedule; return None, or why it has failed."""
    target: EntityInstanceId = entity_id(request["schedule_id"])
    try:
        yield ctx.call_entity(target, request["operation"], request["input"])
    except TaskFailedError as error:
        return {"error_type": error.details.error_type, "message": error.details.message}
    return None


ORCHESTRATORS = (execute_schedule_operation, start_scheduled_orchestration)


def register(registry: Registry) -> None:
    """Make schedules known to a registry; do nothing if they are.

    Raises:
        ValueError: One of their names is taken by something else.
    """
    known = registry.entities.get(ENTITY_NAME)
    if known is None or known.fn is not Schedule:
        registry.add_entity(Schedule, ENTITY_NAME)
    for orchestrator in ORCHESTRATORS:
        present = registry.orchestrators.get(orchestrator.__name__)
        if present is None or present.fn is not orchestrator:
            registry.add_orchestrator(orchestrator)
