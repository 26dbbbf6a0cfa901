"""What the benchmark runs: orchestrations whose activities do nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import Group

from durable_django import activity
from durable_django.entities import EntityContext
from durable_django.task import ActivityContext, OrchestrationContext, Task, when_all

Steps = Generator[Task[Any], Any, Any]


def nothing(_: ActivityContext, number: int) -> int:
    """Return the input."""
    return number


def now(_: ActivityContext, _number: int) -> float:
    """Return the time, which costs no more than nothing."""
    return time.time()


@activity(local=True)
def local_now(_: ActivityContext, _number: int) -> float:
    """Return the time, asked by the turn itself."""
    return time.time()


@activity(local=True)
def nothing_here(_: ActivityContext, number: int) -> int:
    """Return the input, in the turn itself."""
    return number


@activity(local=True)
def insert_here(_: ActivityContext, number: int) -> None:
    """Insert a row, in the turn itself."""
    Group.objects.create(name=str(number))


def counter(ctx: EntityContext, amount: int) -> None:
    """Count."""
    ctx.set_state(ctx.get_state(int, 0) + amount)


def chain(ctx: OrchestrationContext, length: int) -> Steps:
    """Run activities one after the other."""
    for number in range(length):
        yield ctx.call_activity(nothing, input=number)


def local_chain(ctx: OrchestrationContext, length: int) -> Steps:
    """Run local activities one after the other."""
    for number in range(length):
        yield ctx.call_activity(nothing_here, input=number)


def inserting_chain(ctx: OrchestrationContext, length: int) -> Steps:
    """Run local activities one after the other, each of which writes to the database."""
    for number in range(length):
        yield ctx.call_activity(insert_here, input=number)


def timed_chain(ctx: OrchestrationContext, length: int) -> Steps:
    """Run activities one after the other, and return when each of them ran."""
    return (yield from _times(ctx, now, length))


def timed_local_chain(ctx: OrchestrationContext, length: int) -> Steps:
    """Run local activities one after the other, and return when each of them ran."""
    return (yield from _times(ctx, local_now, length))


def _times(ctx: OrchestrationContext, clock: Callable[..., float], length: int) -> Steps:
    times: list[float] = []
    while len(times) < length:
        times.append((yield ctx.call_activity(clock, input=len(times))))
    return times


def fan_out(ctx: OrchestrationContext, width: int) -> Steps:
    """Run activities all at once."""
    yield when_all([ctx.call_activity(nothing, input=number) for number in range(width)])


def wait(ctx: OrchestrationContext, _: int) -> Steps:
    """Wait for an event that does not come."""
    yield ctx.wait_for_external_event("never")


def sleep(ctx: OrchestrationContext, seconds: float) -> Steps:
    """Sleep, and return the time of the awakening."""
    yield ctx.create_timer(timedelta(seconds=seconds))
    return (yield ctx.call_activity(now, input=0))


ORCHESTRATORS = (
    chain,
    local_chain,
    inserting_chain,
    timed_chain,
    timed_local_chain,
    fan_out,
    wait,
    sleep,
)
ACTIVITIES = (nothing, nothing_here, insert_here, now, local_now)
