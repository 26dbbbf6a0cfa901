"""Leases: when one ends that a worker gives or renews."""

from __future__ import annotations

from datetime import datetime, timedelta

from durable_django.conf import settings
from durable_django.store import clock


def lease_end(now: datetime | None = None) -> datetime:
    """Return when a lease ends that is given ``now``, or at this moment."""
    return (clock.now() if now is None else now) + timedelta(seconds=settings.LEASE_SECONDS)
