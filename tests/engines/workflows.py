"""What the processes of these tests run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Generator
from typing import Any

import durable_django
from durable_django import task
from tests.engines.journal import Journal

Steps = Generator[task.Task[Any], Any, Any]


@durable_django.activity
def add_slowly(_: task.ActivityContext, number: int) -> int:
    """Add one, after 10 ms."""
    time.sleep(0.01)
    return number + 1


@durable_django.orchestrator
def slow_chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    """Return ``length``, by that many activities."""
    number = 0
    for _ in range(length):
        number = yield ctx.call_activity(add_slowly, input=number)
    return number


@durable_django.activity
def hang(_: task.ActivityContext) -> None:
    """Not heed the timeout."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)


@durable_django.activity
def die(_: task.ActivityContext) -> None:
    """Take the process down."""
    os.kill(os.getpid(), signal.SIGKILL)


@durable_django.orchestrator
def misfortunes(ctx: task.OrchestrationContext, _: Any) -> Steps:
    """Return why these activities have failed."""
    reasons = []
    for failing in [ctx.call_activity(hang), ctx.call_activity(die)]:
        try:
            yield failing
        except task.TaskFailedError as error:
            reasons.append(error.details.error_type)
    return reasons


@durable_django.activity
def keep_journal(_: task.ActivityContext, about: dict[str, Any]) -> None:
    """Note when this begins and ends; in between it takes some time."""
    with Journal(about["journal"]).entry():
        time.sleep(about["seconds"])


@durable_django.orchestrator
def many_entries(ctx: task.OrchestrationContext, about: dict[str, Any]) -> Steps:
    """Call ``count`` activities at once that keep a journal."""
    calls = [ctx.call_activity(keep_journal, input=about) for _ in range(about["count"])]
    yield task.when_all(calls)
    return len(calls)


@durable_django.activity
def nothing(_: task.ActivityContext, __: float) -> None:
    """Do nothing."""


@durable_django.activity
def wait(_: task.ActivityContext, seconds: float) -> None:
    """Wait, as for a service that answers slowly."""
    time.sleep(seconds)


@durable_django.activity
async def wait_async(_: task.ActivityContext, seconds: float) -> None:
    """Wait without a thread."""
    await asyncio.sleep(seconds)


@durable_django.activity
def compute(_: task.ActivityContext, seconds: float) -> None:
    """Keep a core busy."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@durable_django.orchestrator
def many(ctx: task.OrchestrationContext, about: dict[str, Any]) -> Steps:
    """Call ``count`` activities of one name at once."""
    name, seconds, queue = about["name"], about["seconds"], about.get("queue")
    yield task.when_all([ctx.call_activity(name, input=seconds, queue=queue) for _ in range(about["count"])])
    return about["count"]
