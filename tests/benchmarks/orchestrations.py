"""What the benchmark runs: orchestrations whose activities do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import Group

from durable_django import activity
from durable_django.entities import EntityContext
from durable_django.task import ActivityContext, OrchestrationContext, Task, when_all

Steps = Iterator[Task[Any]]


def nothing(_: ActivityContext, number: int) -> int:
    """Return the input."""
    return number


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


def fan_out(ctx: OrchestrationContext, width: int) -> Steps:
    """Run activities all at once."""
    yield when_all([ctx.call_activity(nothing, input=number) for number in range(width)])
