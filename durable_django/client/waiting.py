"""Waiting for an instance: what to do next, without doing it, for threads and event loops alike."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Final

from durable_django.client.checks import check_timeout
from durable_django.client.types import OrchestrationState

LOOK: Final = None
"""Look whether the instance is where it is waited for, and send its state, or None."""

SHORTEST = 0.005
LONGEST = 0.25
_GROWTH = 1.3

Waiting = Generator[float | None, OrchestrationState | bool | None, OrchestrationState]
"""Yields `LOOK`, or how many seconds to pause; then it is sent whether a wake-up came meanwhile."""


def waiting(instance_id: str, what: str, timeout: float | None) -> Waiting:
    """Return the steps of waiting until an instance has done ``what``: a look, a pause, a look, a pause ...

    ``timeout`` is in seconds; 0 looks once, None waits for ever.

    Raises:
        TimeoutError: While waiting: it has not in time, or there is no such instance.
        TypeError: ``timeout`` is no number.
        ValueError: ``timeout`` is NaN, or more than a clock can count.
    """
    return _waiting(instance_id, what, check_timeout(timeout))


def _waiting(instance_id: str, what: str, timeout: float | None) -> Waiting:
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = SHORTEST
    while True:
        state = yield LOOK
        if isinstance(state, OrchestrationState):
            return state
        remaining = LONGEST if deadline is None else deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(
                f"Timed out after {timeout:g} s of waiting for orchestration {instance_id!r} to {what}."
            )
        woken = yield min(pause, remaining)
        pause = SHORTEST if woken else min(pause * _GROWTH, LONGEST)
