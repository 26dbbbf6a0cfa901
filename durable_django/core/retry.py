"""When a failed activity or sub-orchestration is tried again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and after what delay, a failed activity or sub-orchestration is tried again.

    The delay before the next attempt is ``first_retry_interval * backoff_coefficient ** (attempt - 1)``,
    at most ``max_retry_interval``, where ``attempt`` counts the attempts already made.

    - ``first_retry_interval``: the delay after the first attempt; not negative.
    - ``max_number_of_attempts``: how many attempts are made in all, the first one included; at least 1.
    - ``backoff_coefficient``: the factor from one delay to the next; finite, at least 1. None means 1.
    - ``max_retry_interval``: the longest delay, or None for no limit.
    - ``retry_timeout``: no attempt starts this long after the first one was scheduled, or None for no limit.

    Raises ``TypeError`` or ``ValueError``, naming the field, for a value that makes no sense.
    """

    first_retry_interval: timedelta
    max_number_of_attempts: int
    backoff_coefficient: float | None = 1.0
    max_retry_interval: timedelta | None = None
    retry_timeout: timedelta | None = None

    def __post_init__(self) -> None:
        _check_interval("first_retry_interval", self.first_retry_interval)
        _check_attempts(self.max_number_of_attempts)
        if self.backoff_coefficient is None:
            object.__setattr__(self, "backoff_coefficient", 1.0)
        else:
            _check_coefficient(self.backoff_coefficient)
        if self.max_retry_interval is not None:
            _check_interval("max_retry_interval", self.max_retry_interval)
        if self.retry_timeout is not None:
            _check_interval("retry_timeout", self.retry_timeout)

    def next_delay(self, attempt: int, now: datetime, first_scheduled: datetime) -> timedelta | None:
        """Return the delay before the next attempt, or None to give up.

        ``attempt`` is the number of attempts already made. ``now`` is the orchestration's own clock and
        ``first_scheduled`` what that clock showed when the first attempt was scheduled, both naive UTC:
        the wall clock would make the outcome of a late replay differ.
        """
        if attempt >= self.max_number_of_attempts:
            return None
        delay = self._backoff(attempt)
        if delay > datetime.max - now:  # noqa: DTZ901  (naive UTC, as `now`)
            return None  # No calendar has that date: waiting for it would hide the failure forever.
        if self.retry_timeout is not None and now - first_scheduled + delay >= self.retry_timeout:
            return None
        return delay

    def _backoff(self, attempt: int) -> timedelta:
        limit = timedelta.max if self.max_retry_interval is None else self.max_retry_interval
        if not self.first_retry_interval:
            return timedelta(0)  # Zero stays zero, even where the factor is beyond a float.
        assert self.backoff_coefficient is not None
        try:
            return min(self.first_retry_interval * float(self.backoff_coefficient) ** (attempt - 1), limit)
        except OverflowError:
            return limit


def check_retry_policy(value: object) -> None:
    """Raise TypeError unless it is a retry policy."""
    if not isinstance(value, RetryPolicy):
        raise TypeError(f"retry_policy must be a RetryPolicy, not {type(value).__name__}")


def _check_interval(field: str, value: object) -> None:
    if not isinstance(value, timedelta):
        raise TypeError(f"{field} must be a timedelta, not {type(value).__name__}")
    if value < timedelta(0):
        raise ValueError(f"{field} must be >= 0, not {value}")


def _check_attempts(value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"max_number_of_attempts must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"max_number_of_attempts must be >= 1, not {value}")


def _check_coefficient(value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"backoff_coefficient must be a number, not {type(value).__name__}")
    if not (value >= 1 and math.isfinite(value)):
        raise ValueError(f"backoff_coefficient must be finite and >= 1, not {value}")
