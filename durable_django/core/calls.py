"""Calling users' functions: with the context alone, or with the input too, rebuilt as annotated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from durable_django.core.annotations import input_type
from durable_django.core.serialization import PayloadCodec

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def call(function: Callable[..., Any], context: object, payload: str | None, codec: PayloadCodec) -> Any:
    """Call an orchestrator or an activity with its input.

    A function that declares no second positional parameter is called with the context alone.
    """
    if not _takes_input(function):
        return function(context)
    return function(context, codec.loads(payload, input_type(function, codec.converter)))


@lru_cache(maxsize=4096)
def _takes_input(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # A builtin without a signature: take it at the contract's word.
        return True
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return sum(parameter.kind in _POSITIONAL for parameter in parameters) >= 2
