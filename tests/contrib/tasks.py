"""Tasks, as a project defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import django
from django.contrib.auth.models import Group
from django.db import connection

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import TaskContext, task
else:
    from django_tasks import TaskContext, task

seen: list[Any] = []
"""What tasks have done in this process; a fixture empties it."""


@task
def note(*args: Any, **kwargs: Any) -> None:
    seen.append((args, kwargs))


@task()
async def note_async(*args: Any, **kwargs: Any) -> None:
    seen.append((args, kwargs))


@task
def answer() -> int:
    return 42


@task
def echo(value: Any) -> Any:
    return value


@task
async def echo_async(value: Any) -> Any:
    return value


@task
def fail() -> None:
    raise ValueError("This task failed")


@task
async def fail_async() -> None:
    raise ValueError("This async task failed")


@task
def fail_twice() -> str:
    seen.append("attempt")
    if len(seen) <= 2:
        raise LookupError(f"attempt {len(seen)}")
    return "at last"


@task
def leave() -> None:
    raise SystemExit("This task left")


@task
def interrupt() -> None:
    raise KeyboardInterrupt


@task
def fail_oddly() -> None:
    raise ValueError(ValueError("This task failed"))


@task
def unwritable() -> Any:
    return lambda: True


@task
def too_large() -> str:
    return "x" * 2_000_000


@task
def double(key: Any) -> Any:
    return {key: key * 2}


@task(takes_context=True)
def tell_context(context: TaskContext[Any, Any], *, fail_first: bool = False) -> dict[str, Any]:
    assert isinstance(context, TaskContext)
    result = context.task_result
    seen.append((context.attempt, result.status, list(result.worker_ids), len(result.errors)))
    if fail_first and context.attempt == 1:
        raise ValueError("The first attempt fails")
    return {"id": result.id, "attempt": context.attempt}


@task(takes_context=True)
async def tell_context_async(context: TaskContext[Any, Any]) -> int:
    return context.attempt


@task(takes_context=True)
def look_at_oneself(context: TaskContext[Any, Any]) -> None:
    context.task_result.refresh()
    result = context.task_result
    seen.append((result.status, result.worker_ids, context.attempt, result.finished_at))
    seen.append(result.started_at)


@task
def add_group(name: str) -> int:
    return int(Group.objects.create(name=name).pk)


@task
async def add_group_async(name: str) -> int:
    return int((await Group.objects.acreate(name=name)).pk)


@task
def break_transaction() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


@task
def subtract(minuend: int, subtrahend: int = 0) -> int:
    return minuend - subtrahend


@dataclass
class Receipt:
    """What a task returns that is called as an activity."""

    number: int


@task
def receipt(number: int) -> Receipt:
    return Receipt(number)


@task
async def receipt_async(number: int) -> Receipt:
    return Receipt(number)


@task
def gone() -> None:
    """Be deleted by a test."""
