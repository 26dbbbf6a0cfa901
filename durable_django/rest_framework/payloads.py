"""What is stored as text, for readers of JSON."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from durable_django.core.events import HistoryEvent
from durable_django.store import clock

_PAYLOADS = frozenset({"input", "result", "output", "data"})


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


def moment(value: datetime | None) -> str | None:
    """Return a time that the ORM has read, in ISO 8601 and UTC."""
    return None if value is None else utc(clock.from_orm(value))


def utc(value: datetime) -> str:
    """Return a naive UTC time in ISO 8601."""
    return f"{value.isoformat()}Z"


def event(sequence: int, turn: int, happened: HistoryEvent) -> dict[str, Any]:
    """Return a history event with its payloads as values."""
    fields = happened.to_dict()
    found: dict[str, Any] = {
        "sequence": sequence,
        "turn": turn,
        "type": type(happened).__name__,
        "timestamp": utc(happened.timestamp),
    }
    for name, value in fields.items():
        if name == "timestamp" or value is None or (name == "event_id" and value == -1):
            continue
        if isinstance(getattr(happened, name), datetime):
            found[name] = utc(getattr(happened, name))
        else:
            found[name] = payload(value) if name in _PAYLOADS else value
    return found
