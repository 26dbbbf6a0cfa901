"""Task functions of django-q2 as activities."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string

from durable_django.core.registry import ActivityRegistration, registration_of

Function = Callable[..., Any]


def find(path: Any) -> Function:
    """Return the function at a dotted path.

    Raises:
        ImportError: There is none.
        TypeError: It is no text, or nothing that can be called.
        ValueError: The function is an activity, which has a name, and an input of its own.
    """
    if not isinstance(path, str):
        raise TypeError(f"a dotted path is a text, not {path!r}")
    found = import_string(path)
    if not callable(found):
        raise TypeError(f"it is a {type(found).__name__}")
    if declared := registration_of(found):
        raise ValueError(f"it has been declared to durable_django already, as {declared.name!r}")
    function: Function = found
    return function


def activity_of(path: str, queue: str) -> ActivityRegistration:
    """Return the function at a dotted path as an activity of that name; raises like `find`.

    Its input becomes its arguments: a dictionary those by keyword, a list those by position, None none, and
    anything else the one argument.
    """
    function = find(path)
    if inspect.iscoroutinefunction(function):

        async def run_async(_: object, input: Any = None) -> Any:
            args, kwargs = arguments(input)
            return await function(*args, **kwargs)

        return ActivityRegistration(path, _named(run_async, path), queue, is_async=True)

    def run(_: object, input: Any = None) -> Any:
        args, kwargs = arguments(input)
        return function(*args, **kwargs)

    return ActivityRegistration(path, _named(run, path), queue)


def arguments(input: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments, by position and by keyword, that an input stands for."""
    match input:
        case None:
            return [], {}
        case dict():
            return [], input
        case list():
            return input, {}
        case _:
            return [input], {}


def _named(run: Function, path: str) -> Function:
    """Give a wrapper the place of what it wraps, for whoever reports that a name is taken."""
    run.__module__, _, run.__name__ = path.rpartition(".")
    run.__qualname__ = run.__name__
    return run
