"""What is stored as text, for readers of JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from durable_django.core.events import HistoryEvent
from durable_django.core.payloads import PAYLOADS, payload
from durable_django.store import clock


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
            found[name] = payload(value) if name in PAYLOADS else value
    return found
