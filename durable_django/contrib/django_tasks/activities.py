"""Tasks of Django's framework as activities."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from durable_django.core import registry as registries
from durable_django.core.decorators import activity
from durable_django.core.registry import make_activity

if TYPE_CHECKING:
    from durable_django.contrib.django_tasks.requests import AnyTask
    from durable_django.core.context import ActivityContext
    from durable_django.core.registry import Registry
    from durable_django.core.retry import RetryPolicy

Activity = Callable[..., Any]

_TASK = "_durable_task"


def as_activity(
    task: AnyTask,
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    retry_policy: RetryPolicy | None = None,
    registry: Registry | None = None,
) -> Activity:
    """Register a task's function as an activity, and return what orchestrators call: ``ctx.call_activity``.

    The call's input is the function's arguments: a dictionary is keyword arguments, a list positional ones,
    None no argument, anything else the one argument. The function runs in the worker; the task's backend, its
    queue and its priority have no part in that. To register a task twice with the same options gives the same
    activity.

    - ``name``: the path of the task's module by default, such as ``shop.tasks.send_receipt``.
    - the rest: as ``@activity`` takes them.

    Raises:
        TypeError: It is no task, or one that takes a context, which enqueued tasks alone have.
        ValueError: An option is out of bounds.
    """
    if not callable(getattr(task, "func", None)) or not hasattr(task, "module_path"):
        raise TypeError(f"as_activity() takes a task, as @task makes them, not {task!r}")
    if task.takes_context:
        raise TypeError(
            f"Task {task.module_path!r} cannot be an activity: it takes a context, which enqueued tasks "
            "alone have."
        )
    options: dict[str, Any] = {"queue": queue, "priority": priority, "retry_policy": retry_policy}
    run = _runner(task)
    wanted = make_activity(run, name=name or task.module_path, **options)
    into = registries.default_registry if registry is None else registry
    known = into.activities.get(wanted.name)
    if known is not None and getattr(known.fn, _TASK, None) == task:
        same = (wanted.queue, wanted.priority, wanted.retry_policy)
        if (known.queue, known.priority, known.retry_policy) == same:
            return known.fn
    return activity(name=wanted.name, registry=into, **options)(run)


def _runner(task: AnyTask) -> Activity:
    run: Any
    if inspect.iscoroutinefunction(task.func):

        async def run_async(_: ActivityContext, input: Any) -> Any:
            args, kwargs = _arguments(input)
            return await task.acall(*args, **kwargs)

        run = run_async
    else:

        def run_sync(_: ActivityContext, input: Any) -> Any:
            args, kwargs = _arguments(input)
            return task.call(*args, **kwargs)

        run = run_sync
    # Errors name the function of the user's, and its return annotation says what results are rebuilt as.
    functools.update_wrapper(run, task.func, updated=())
    run.__signature__ = inspect.signature(run, follow_wrapped=False).replace(
        return_annotation=inspect.signature(task.func).return_annotation
    )
    setattr(run, _TASK, task)
    return run  # type: ignore[no-any-return]  # either of two functions


def _arguments(input: Any) -> tuple[list[Any], dict[str, Any]]:
    if input is None:
        return [], {}
    if isinstance(input, dict):
        return [], {**input}
    return ([*input] if isinstance(input, list) else [input]), {}
