"""The user's code while it runs: a generator or a coroutine that pauses at tasks."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Generator
from typing import Any

from durable_django.core.sites import pause_site
from durable_django.core.tasks import Task

Body = Generator[Any, Any, Any] | Coroutine[Any, Any, Any]


def body_of(returned: object, name: str) -> Body | None:
    """Return what orchestrator ``name`` returned if that is to be run, None if it is the result.

    Raises:
        TypeError: It is neither.
    """
    if inspect.isgenerator(returned) or inspect.iscoroutine(returned):
        return returned
    if inspect.isasyncgen(returned) or inspect.isawaitable(returned):
        raise TypeError(
            f"Orchestrator {name!r} must be a generator, an async def or a plain function; it returned "
            f"{type(returned).__name__}."
        )
    return None


def resume(body: Body, awaited: Task[Any] | None) -> object:
    """Run the code to its next pause, with the outcome of what it waited for; return what it yields there."""
    if awaited is None:
        return body.send(None)
    awaited._observe()
    if awaited._exception is not None:
        return body.throw(awaited._exception)
    return body.send(awaited._result)


def no_task(body: Body | None, yielded: object, name: str) -> TypeError:
    """Return the error of orchestrator ``name`` that yielded something else than a task, with the line."""
    site = pause_site(body)
    at = f" at {site}" if site else ""
    return TypeError(
        f"Orchestrator {name!r} yielded {type(yielded).__name__}{at}, which is not a task. Yield or await "
        "what the context's methods, when_all() and when_any() return."
    )
