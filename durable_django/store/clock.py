"""The one clock, and the one place where datetimes change their form.

Inside the package a datetime is naive UTC, as orchestrators see it. What a database wants depends on the
backend and on ``USE_TZ``; `to_database` and `from_orm` know. The ORM is given aware datetimes, or without
``USE_TZ`` those of ``TIME_ZONE``, whatever zone the present request has activated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.utils import timezone

_offset = timedelta(0)
_frozen: datetime | None = None


def now() -> datetime:
    """Return the present, naive UTC."""
    present = _frozen if _frozen is not None else datetime.now(UTC).replace(tzinfo=None)
    return present + _offset if _offset else present


def move(by: timedelta) -> None:
    """Move the clock of this process. For tests."""
    global _offset  # noqa: PLW0603 - one clock is the point
    _offset += by


@contextmanager
def frozen(at: datetime | None = None) -> Iterator[None]:
    """Stop the clock, at ``at`` (naive UTC) or now, so that only `move` moves it. For tests."""
    global _frozen, _offset
    before = _frozen, _offset
    _frozen, _offset = (now() if at is None else at), timedelta(0)
    try:
        yield
    finally:
        _frozen, _offset = before


def is_frozen() -> bool:
    """Tell whether the clock is stopped. For tests."""
    return _frozen is not None


def aware(value: datetime) -> datetime:
    """Return a naive UTC datetime as the ORM wants it."""
    result = value.replace(tzinfo=UTC)
    return result if settings.USE_TZ else timezone.make_naive(result, timezone.get_default_timezone())


def naive(value: datetime) -> datetime:
    """Return a datetime of a user's as naive UTC; a naive one is taken to be that already."""
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def from_orm(value: datetime | str) -> datetime:
    """Return a datetime that the ORM or a raw cursor has read as naive UTC.

    SQLite gives those of aggregates and unions as text: it knows types of columns alone.
    """
    if isinstance(value, datetime) and value.tzinfo is UTC:
        return value.replace(tzinfo=None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value.tzinfo is None and not settings.USE_TZ:
        value = timezone.make_aware(value, timezone.get_default_timezone())
    return naive(value)


def utc(vendor: str, expression: str) -> str:
    """Return SQL for a time that is read often, by `from_utc`: psycopg reads naive ones in C."""
    return f"{expression} AT TIME ZONE 'UTC'" if vendor == "postgresql" else expression


def from_utc(vendor: str, value: datetime) -> datetime:
    """Return what a raw cursor has read of `utc` as naive UTC."""
    return value if vendor == "postgresql" else from_orm(value)


def to_database(using: str, value: datetime) -> Any:
    """Return a naive UTC datetime as a parameter for SQL on the database ``using``."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        # Text: a row of history has one of these, and psycopg takes longer for a datetime than for the rest.
        return f"{value.isoformat()}+00:00"
    return connection.ops.adapt_datetimefield_value(aware(value))
