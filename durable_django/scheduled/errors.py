"""What can be wrong with a schedule."""

from __future__ import annotations

from durable_django.task import DurableTaskError


class ScheduleError(DurableTaskError):
    """An operation on a schedule has failed."""


class ScheduleNotFoundError(ScheduleError):
    """There is no such schedule."""

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f"There is no schedule {schedule_id!r}.")
        self.schedule_id = schedule_id


class ScheduleClientValidationError(ScheduleError, ValueError):
    """The options of a schedule cannot be as they are."""

    def __init__(self, schedule_id: str, message: str) -> None:
        super().__init__(f"Schedule {schedule_id!r}: {message}")
        self.schedule_id = schedule_id


class ScheduleInvalidTransitionError(ScheduleError):
    """The schedule is in a status in which the operation has no meaning."""

    def __init__(self, schedule_id: str, from_status: object, to_status: object, operation_name: str) -> None:
        super().__init__(
            f"Schedule {schedule_id!r} is {from_status}: {operation_name} cannot make it {to_status}."
        )
        self.schedule_id = schedule_id
        self.from_status = from_status
        self.to_status = to_status
        self.operation_name = operation_name


for _public in (
    ScheduleError,
    ScheduleNotFoundError,
    ScheduleClientValidationError,
    ScheduleInvalidTransitionError,
):
    _public.__module__ = "durable_django.scheduled"  # where users import them from
del _public
