"""What the annotations of users' functions say about their payloads."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from types import NoneType
from typing import Any

from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, DataConverter
from durable_django.core.type_hints import bare_hint, remembering, resolved_hint

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def input_type(fn: object, converter: DataConverter = DEFAULT_DATA_CONVERTER) -> Any | None:
    """Return the annotation of a function's second parameter, the input.

    None if there is none that can be resolved, or if ``converter`` does not rebuild its type. Of a method
    taken from its class, the second parameter is the first after ``self``.
    """
    return _reconstructed(fn, converter)[0]


def input_hint(fn: object) -> Any | None:
    """Return the annotation of a function's second parameter as `input_type` does, rebuilt or not."""
    return _annotations(fn)[0]


def return_type(fn: object, converter: DataConverter = DEFAULT_DATA_CONVERTER) -> Any | None:
    """Return the type of a function's result: awaited for a coroutine, returned in the end for a generator.

    None if there is no annotation that can be resolved, or if ``converter`` does not rebuild the type; also
    for anything but a function, such as an activity's name.
    """
    return _reconstructed(fn, converter)[1]


@remembering
def _reconstructed(fn: object, converter: DataConverter) -> tuple[Any, Any]:
    """Return the annotations of the input and the result, None for what ``converter`` does not rebuild."""
    given, result = (
        hint if hint is not None and converter.can_reconstruct(hint) else None for hint in _annotations(fn)
    )
    return given, result


@remembering
def _annotations(fn: object) -> tuple[Any, Any]:
    """Return the resolved annotations of the input and the result, each None when it says nothing."""
    if not callable(fn):
        return None, None
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return None, None
    parameters = [p for p in signature.parameters.values() if p.kind in _POSITIONAL]
    names = _module_names(fn)
    given = _resolved(parameters[1].annotation, names) if len(parameters) > 1 else None
    return given, _result_hint(_resolved(signature.return_annotation, names))


def _resolved(annotation: Any, names: dict[str, Any]) -> Any | None:
    if annotation is inspect.Signature.empty:
        return None
    hint = resolved_hint(annotation, names, {})
    return None if hint in (Any, NoneType) else hint


def _module_names(fn: Any) -> dict[str, Any]:
    """Return the names that the annotations of a function were written with."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    if not hasattr(fn, "__globals__") and not inspect.ismethod(fn):
        fn = type(fn).__call__  # an object that can be called
    names = getattr(inspect.unwrap(fn), "__globals__", {})
    return typing.cast("dict[str, Any]", names)


def _result_hint(hint: Any) -> Any | None:
    """Return what a function annotated with ``hint`` has to say in the end."""
    bare = bare_hint(hint)
    origin = typing.get_origin(bare) or bare
    args = typing.get_args(bare)
    if origin in (Generator, Coroutine):
        return args[2] if len(args) == 3 else None
    if origin is Awaitable:
        return args[0] if args else None
    return None if origin is AsyncGenerator else hint
