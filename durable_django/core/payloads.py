"""Stored payloads, for readers that take whatever a converter has written."""

from __future__ import annotations

import json
import math
from typing import Any

PAYLOADS = frozenset({"input", "result", "output", "data"})
"""The fields of history events that are payloads."""

_DEEPEST = 200
"""How deep a value may be: Python writes much deeper ones as indented JSON no more."""


def payload(text: str | None) -> Any:
    """Return the value of a stored payload; the text itself where it is no JSON, or too deep to be shown."""
    if text is None:
        return None
    try:
        value = json.loads(text, parse_constant=str, parse_float=finite)
        if "\\u" in text:  # Half of a pair, escaped, is no text that can be sent.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    # There is no depth without brackets, and these are counted in no time.
    if text.count("[") + text.count("{") > _DEEPEST and depth_exceeds(value, _DEEPEST):
        return text
    return value


def depth_exceeds(value: Any, limit: int) -> bool:
    """Tell whether arrays and objects lie deeper in each other than ``limit`` levels."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def finite(text: str) -> float:
    """Return the number that a JSON text has.

    Raises:
        ValueError: It is too large.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
