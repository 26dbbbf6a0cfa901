"""What the benchmark runs: orchestrations whose activities do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from durable_django.entities import EntityContext
from durable_django.task import ActivityContext, OrchestrationContext, Task, when_all

Steps = Iterator[Task[Any]]


def nothing(_: ActivityContext, number: int) -> int:
    """Return the input."""
    return number


def counter(ctx: EntityContext, amount: int) -> None:
    """Count."""
    ctx.set_state(ctx.get_state(int, 0) + amount)


def chain(ctx: OrchestrationContext, length: int) -> Steps:
    """Run activities one after the other."""
    for number in range(length):
        yield ctx.call_activity(nothing, input=number)


def fan_out(ctx: OrchestrationContext, width: int) -> Steps:
    """Run activities all at once."""
    yield when_all([ctx.call_activity(nothing, input=number) for number in range(width)])
