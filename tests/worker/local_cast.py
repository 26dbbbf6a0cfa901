"""The local activities and orchestrators that tests of local activities let meet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from django.contrib.auth.models import Group
from django.db import OperationalError

from durable_django import activity, task
from durable_django.core.registry import Registry
from durable_django.store.commits import Batch, Committed
from tests.worker.byhand import HandWorker, client

Steps = Generator[task.Task[Any], Any, Any]

ran: list[Any] = []
"""What activities have been called with, whatever became of it."""

_nowhere = Registry()
local = activity(local=True, registry=_nowhere)


@local
def write(ctx: task.ActivityContext, name: str) -> str:
    """Insert a row."""
    ran.append(name)
    Group.objects.create(name=name)
    return name.upper()


@local
def think(ctx: task.ActivityContext, number: int) -> int:
    """Do without the database."""
    ran.append(number)
    return number + 1


@local
def fail(ctx: task.ActivityContext, name: str) -> None:
    """Insert a row, and fail."""
    ran.append(name)
    Group.objects.create(name=name)
    raise ValueError(f"no {name}")


def post(ctx: task.ActivityContext, name: str) -> str:
    """An activity like any other."""
    ran.append(name)
    return f"posted {name}"


def writer(ctx: task.OrchestrationContext, names: list[str]) -> Steps:
    """Insert rows, one after the other."""
    results: list[str] = []
    for name in names:
        results += [(yield ctx.call_activity(write, input=name))]
    return results


def counter(ctx: task.OrchestrationContext, count: int) -> Steps:
    """Count, one by one."""
    number = 0
    while number < count:
        number = yield ctx.call_activity(think, input=number)
    return number


ACTIVITIES: list[Callable[..., Any]] = [write, think, fail, post]


def prepare(settings: Any) -> None:
    """Forget what was run, and let nothing be cut by time, however slow the machine is."""
    settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"LOCAL_SECONDS": 600}
    ran.clear()


@contextmanager
def dying_before_commit() -> Iterator[None]:
    """Let everything be written, then let the worker's connection go before the commit."""
    original = Batch.write

    def die(batch: Batch) -> Committed:
        original(batch)
        raise OperationalError("server closed the connection unexpectedly")

    with patch.object(Batch, "write", die), patch("durable_django.worker.turns._is_away", lambda *_: True):
        yield


def hand(*orchestrators: Callable[..., Any], **options: Any) -> HandWorker:
    """Return a worker that knows the cast."""
    options.setdefault("activities", ACTIVITIES)
    return HandWorker(writer, counter, *orchestrators, **options)


def start(orchestrator: Callable[..., Any], argument: Any = None, instance_id: str = "one") -> str:
    return client().schedule_new_orchestration(orchestrator, input=argument, instance_id=instance_id)


def names() -> list[str]:
    """Return the rows that were inserted, in order."""
    return list(Group.objects.order_by("pk").values_list("name", flat=True))
