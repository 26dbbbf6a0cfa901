"""A clock that stands still until the test moves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from durable_django.conf import settings
from durable_django.store import clock, wakeup


class VirtualClock:
    """The clock of durable_django in this process, as `virtual_time` has stopped it.

    ``timezone.now()`` and the like go on: a test that needs them to agree stops them as well.
    """

    @property
    def now(self) -> datetime:
        """The present, naive UTC."""
        return clock.now()

    def move(self, by: timedelta, *, using: str | None = None) -> None:
        """Move the clock at one bound, and wake the workers of this process.

        For tests with a real worker; without one, `advance` stops at everything that is due on the way.
        Move it while no activity is running: leases would run out.

        Raises:
            ValueError: ``by`` is negative.
        """
        check_forward(by)
        clock.move(by)
        wakeup.hub(using or settings.DATABASE_ALIAS).work()


@contextmanager
def virtual_time(start: datetime | None = None) -> Iterator[VirtualClock]:
    """Stop the clock of durable_django in this process, at ``start`` (naive is UTC) or now."""
    with clock.frozen(None if start is None else clock.naive(start)):
        yield VirtualClock()


def check_forward(by: timedelta) -> None:
    """Make sure that a clock is not moved back."""
    if by < timedelta(0):
        raise ValueError(f"Time does not go back, not even by {-by}.")
