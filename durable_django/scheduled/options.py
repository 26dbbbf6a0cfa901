"""What a schedule is told, and what it tells. Times are aware UTC; naive ones are taken to be UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self

from durable_django.core.ids import check_instance_id, check_name
from durable_django.core.times import naive_utc
from durable_django.entities import EntityInstanceId
from durable_django.scheduled.errors import ScheduleClientValidationError

ENTITY_NAME = "schedule"
MINIMUM_INTERVAL = timedelta(seconds=1)
MAXIMUM_INTERVAL = date.max - date.min

_MAX_ID_LENGTH = 200  # The ids of its runs add a time to it.


class ScheduleStatus(StrEnum):
    """What a schedule is doing."""

    UNINITIALIZED = "Uninitialized"
    ACTIVE = "Active"
    PAUSED = "Paused"


@dataclass(frozen=True)
class ScheduleCreationOptions:
    """A schedule: start ``orchestration_name`` with ``orchestration_input`` every ``interval``.

    The runs are at ``start_at`` and every interval from there; without it, every interval after the creation.
    ``start_at`` in the past only fixes the grid, unless ``start_immediately_if_late``: then the first run is
    at once. No run is planned for later than ``end_at``: then the schedule deletes itself. One whose next run
    would be beyond the calendar (the year 9999) does so after its last.

    Each run has an instance id of its own, made of the schedule's id and the time. A fixed
    ``orchestration_instance_id`` is used again and again instead: a run whose predecessor has not ended
    starts nothing.

    Raises:
        ScheduleClientValidationError: An option cannot be as it is.
    """

    schedule_id: str
    orchestration_name: str
    interval: timedelta
    orchestration_input: Any | None = None
    orchestration_instance_id: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    start_immediately_if_late: bool = False

    def __post_init__(self) -> None:
        check_schedule_id(self.schedule_id)
        if self.orchestration_name is None:
            raise ScheduleClientValidationError(self.schedule_id, "orchestration_name must be given.")
        _check_common(self.schedule_id, self)
        if not isinstance(self.interval, timedelta):
            raise ScheduleClientValidationError(self.schedule_id, "interval must be a timedelta.")
        if self.start_at and self.end_at and self.start_at > self.end_at:
            raise ScheduleClientValidationError(self.schedule_id, "start_at must not be after end_at.")

    def updated(self, options: ScheduleUpdateOptions) -> Self:
        """Return these options with what an update changes."""
        changes = {field.name: getattr(options, field.name) for field in fields(options)}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the options that `to_json` has written."""
        return cls(**_from_json(data))

    @classmethod
    def from_state(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the options of a schedule that there is, even if they could not be given any more."""
        options = object.__new__(cls)
        for name, value in _from_json(data).items():
            object.__setattr__(options, name, value)
        return options


@dataclass(frozen=True)
class ScheduleUpdateOptions:
    """Changes to a schedule; None leaves an option as it is.

    Raises:
        ScheduleClientValidationError: An option cannot be as it is.
        TypeError: ``interval`` is no timedelta.
    """

    orchestration_name: str | None = None
    orchestration_input: Any | None = None
    orchestration_instance_id: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    interval: timedelta | None = None
    start_immediately_if_late: bool | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and not isinstance(self.interval, timedelta):
            raise TypeError(f"interval must be a timedelta, not {type(self.interval).__name__}")
        _check_common("", self)

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the options that `to_json` has written."""
        return cls(**_from_json(data))


@dataclass(frozen=True)
class ScheduleQuery:
    """Which schedules to list: those created in ``[created_from, created_to)``; None is any.

    ``page_size`` is how many are read at a time, not how many are returned.
    """

    DEFAULT_PAGE_SIZE: ClassVar[int] = 100

    status: ScheduleStatus | None = None
    schedule_id_prefix: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    page_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("created_from", "created_to"):
            object.__setattr__(self, name, utc(getattr(self, name), name))


@dataclass(frozen=True)
class ScheduleDescription:
    """A schedule as it was when it was read.

    ``next_run_at`` is None while it is paused, and when no run is left before ``end_at``.
    """

    schedule_id: str
    orchestration_name: str | None = None
    orchestration_input: Any | None = None
    orchestration_instance_id: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    interval: timedelta | None = None
    start_immediately_if_late: bool | None = None
    status: ScheduleStatus = ScheduleStatus.UNINITIALIZED
    execution_token: str = ""
    last_run_at: datetime | None = None
    next_run_at: datetime | None = None
    created_at: datetime | None = None
    last_modified_at: datetime | None = None


def check_schedule_id(schedule_id: object) -> str:
    """Return ``schedule_id`` if it can name a schedule."""
    if not isinstance(schedule_id, str) or not schedule_id.strip():
        raise ScheduleClientValidationError(str(schedule_id), "schedule_id must be a text that is not blank.")
    if len(schedule_id) > _MAX_ID_LENGTH:
        raise ScheduleClientValidationError(
            schedule_id[:60] + "...", f"schedule_id must not be longer than {_MAX_ID_LENGTH} characters."
        )
    entity_id(schedule_id)
    return schedule_id


def entity_id(schedule_id: str) -> EntityInstanceId:
    """Return the id of the entity that is the schedule."""
    try:
        return EntityInstanceId(ENTITY_NAME, schedule_id)
    except ValueError as error:
        raise ScheduleClientValidationError(schedule_id, str(error)) from error


def utc(value: datetime | None, what: str = "a time") -> datetime | None:
    """Return a time as aware UTC; a naive one is taken to be UTC. ``what`` is what an error calls it.

    Raises:
        ValueError: In UTC it would be before the year 1 or after the year 9999.
    """
    return None if value is None else naive_utc(what, value).replace(tzinfo=UTC)


def to_text(value: datetime | None) -> str | None:
    """Return a time as text, to the microsecond."""
    return None if value is None else value.isoformat()


def from_text(text: str | None) -> datetime | None:
    """Return the time of a text that `to_text` has written."""
    return None if text is None else utc(datetime.fromisoformat(text))


def _check_common(schedule_id: str, options: ScheduleCreationOptions | ScheduleUpdateOptions) -> None:
    """Check what both sorts of options have, and make times aware."""
    try:
        _check_texts(options)
        _check_times(options)
    except ValueError as error:
        raise ScheduleClientValidationError(schedule_id, str(error)) from error
    interval = options.interval
    if isinstance(interval, timedelta) and not MINIMUM_INTERVAL <= interval <= MAXIMUM_INTERVAL:
        raise ScheduleClientValidationError(
            schedule_id,
            f"interval must be at least 1 second and at most {MAXIMUM_INTERVAL.days} days, not {interval}.",
        )


def _check_texts(options: ScheduleCreationOptions | ScheduleUpdateOptions) -> None:
    for name in ("orchestration_name", "orchestration_instance_id"):
        value = getattr(options, name)
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{name} must be a text that is not blank.")
    if options.orchestration_name is not None:
        check_name("orchestration", options.orchestration_name)
    if options.orchestration_instance_id is not None:
        check_instance_id(options.orchestration_instance_id, "orchestration_instance_id")


def _check_times(options: ScheduleCreationOptions | ScheduleUpdateOptions) -> None:
    for name in ("start_at", "end_at"):
        value = getattr(options, name)
        if value is not None and not isinstance(value, datetime):
            raise ValueError(f"{name} must be a datetime.")
        object.__setattr__(options, name, utc(value, name))


def _to_json(options: ScheduleCreationOptions | ScheduleUpdateOptions) -> dict[str, Any]:
    data = {field.name: getattr(options, field.name) for field in fields(options)}
    data["start_at"] = to_text(options.start_at)
    data["end_at"] = to_text(options.end_at)
    data["interval"] = None if options.interval is None else options.interval.total_seconds()
    return data


def _from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    seconds = data.get("interval")
    return {
        **data,
        "start_at": from_text(data.get("start_at")),
        "end_at": from_text(data.get("end_at")),
        "interval": None if seconds is None else timedelta(seconds=seconds),
    }


for _public in (
    ScheduleStatus,
    ScheduleCreationOptions,
    ScheduleUpdateOptions,
    ScheduleQuery,
    ScheduleDescription,
):
    _public.__module__ = "durable_django.scheduled"  # where users import them from
del _public
