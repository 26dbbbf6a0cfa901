"""Stored payloads, for readers that take whatever a converter has written."""

from __future__ import annotations

import json
import math
from typing import Any

PAYLOADS = frozenset({"input", "result", "output", "data"})
"""The fields of history events that are payloads."""


def payload(text: str | None) -> Any:
    """Return the value of a stored payload; the text itself where a converter has written no JSON."""
    if text is None:
        return None
    try:
        value = json.loads(text, parse_constant=str, parse_float=_finite)
        if "\\u" in text:  # Half of a pair, escaped, is no text that can be sent.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
