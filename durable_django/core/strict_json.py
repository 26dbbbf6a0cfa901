"""JSON that people and other programs send: as RFC 8259 has it, and within bounds."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from durable_django.core.payloads import depth_exceeds, finite

MAX_DEPTH = 100
"""How deep arrays and objects may lie in each other."""

_NAMED = 60


def loads(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: It is no JSON, or has NaN, a number too large, a name twice in one object, or endless
            depth.
    """
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=finite, object_pairs_hook=_as_object)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if depth_exceeds(found, MAX_DEPTH):
        raise ValueError(_TOO_DEEP)
    return found


_TOO_DEEP = f"it is deeper than {MAX_DEPTH} levels"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is none of its numbers")


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = name if len(name) <= _NAMED else f"{name[:_NAMED]}…"
                raise ValueError(f"the name {shown!r} is there twice")
            seen.add(name)
    return found
