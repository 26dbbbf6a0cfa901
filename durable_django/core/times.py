"""Times that users give."""

from __future__ import annotations

from datetime import UTC, datetime


def naive_utc(what: str, value: datetime) -> datetime:
    """Return a time, aware or naive UTC, as naive UTC; ``what`` is what an error calls it.

    Raises:
        ValueError: In UTC it would be before the year 1 or after the year 9999.
    """
    if value.tzinfo is None:
        return value
    try:
        return value.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise ValueError(f"{what} {value} lies beyond the calendar (years 1 to 9999) in UTC.") from None
