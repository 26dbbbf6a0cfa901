"""What the page of one instance shows: its state in words, its timeline, its payloads, its history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from durable_django.admin import failures, timeline, words
from durable_django.core import events
from durable_django.core.events import HistoryEvent
from durable_django.core.payloads import PAYLOADS, payload
from durable_django.models import Instance
from durable_django.store import clock, monitoring

_DRAWN = 2000
"""How many of the latest events the timeline is drawn from."""

_EVENTS = 100
_LONGEST_DETAIL = 300
_LONGEST_READ = 1000
"""How much of an event's payload is read: what does not fit is not shown anyway."""

_KINDS: dict[str, tuple[Any, tuple[type[HistoryEvent], ...]]] = {
    "activity": (
        gettext_lazy("Activities"),
        (events.TaskScheduledEvent, events.TaskCompletedEvent, events.TaskFailedEvent),
    ),
    "timer": (gettext_lazy("Timers"), (events.TimerCreatedEvent, events.TimerFiredEvent)),
    "event": (gettext_lazy("External events"), (events.EventRaisedEvent, events.EventSentEvent)),
    "child": (
        gettext_lazy("Sub-orchestrations"),
        (
            events.SubOrchestrationInstanceCreatedEvent,
            events.SubOrchestrationInstanceCompletedEvent,
            events.SubOrchestrationInstanceFailedEvent,
        ),
    ),
    "entity": (
        gettext_lazy("Entities"),
        (
            events.EntityOperationSignaledEvent,
            events.EntityOperationCalledEvent,
            events.EntityOperationCompletedEvent,
            events.EntityOperationFailedEvent,
            events.EntityLockRequestedEvent,
            events.EntityLockGrantedEvent,
            events.EntityUnlockSentEvent,
        ),
    ),
    "failure": (
        gettext_lazy("Failures"),
        (
            events.TaskFailedEvent,
            events.SubOrchestrationInstanceFailedEvent,
            events.EntityOperationFailedEvent,
        ),
    ),
}


def state(using: str, instance: Instance, now: datetime, *, is_live: bool) -> dict[str, Any]:
    """Return what is shown above the history."""
    recent = monitoring.history(
        using, instance.pk, instance.execution_id, after=instance.next_sequence - _DRAWN - 1, longest=0
    )
    spans = timeline.spans(one.event for one in recent)
    if is_live:
        since = clock.from_orm(instance.last_updated_at)
        spans += [timeline.Span("event", name, since) for name in instance.waiting_for]
    return {
        "waiting": words.waiting(monitoring.pending(using, instance), now),
        "failure": None if instance.failure is None else _failure(instance.failure),
        "causes": failures.causes(recent),
        # Pairs: of a dictionary, a template would take the tag "items" for its method.
        "tags": list((instance.tags or {}).items()),
        "payloads": [
            _payload(_("Input"), "input", instance.input),
            _payload(_("Output"), "output", instance.output),
            _payload(_("Custom status"), "custom_status", instance.custom_status),
        ],
        "chart": timeline.chart(spans, now, is_live=is_live),
    }


def history(using: str, instance: Instance, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of the history: of the ``kind``, of the ``task``, what comes ``after`` an event."""
    kind, task, after = asked.get("kind", ""), _number(asked.get("task")), _number(asked.get("after"))
    _label, classes = _KINDS.get(kind, ("", None))
    found = monitoring.history(
        using,
        instance.pk,
        instance.execution_id,
        after=-1 if after is None else after,
        limit=_EVENTS + 1,
        classes=classes,
        task_id=task,
        longest=_LONGEST_READ,
    )
    shown = found[:_EVENTS]
    chosen = {"kind": kind if classes else "", "task": "" if task is None else str(task)}
    return {
        "events": [_row(one) for one in shown],
        "event_count": instance.next_sequence,
        "task": task,
        "kinds": [
            {"label": label, "query": _query(kind=name), "is_chosen": name == chosen["kind"]}
            for name, label in [("", _("All")), *((name, label) for name, (label, _of) in _KINDS.items())]
        ],
        "next": _query(**chosen, after=str(shown[-1].sequence)) if len(found) > _EVENTS else None,
        "first": _query(**chosen) if after is not None else None,
    }


def _query(**values: str) -> str:
    # The fragment keeps a reader without JavaScript at the table, which stands far down the page.
    return f"?{urlencode({name: value for name, value in values.items() if value})}#history"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _failure(text: str) -> dict[str, Any]:
    found = payload(text)
    # A page that tells what is broken must not break on it.
    return found if isinstance(found, dict) else {"type": _("Failure"), "message": text}


def _payload(title: str, field: str, text: str | None) -> dict[str, Any]:
    shown, is_cut = words.excerpt(text)
    return {"title": title, "field": field, "text": shown, "is_cut": is_cut}


def _row(recorded: monitoring.Recorded) -> dict[str, Any]:
    event = recorded.event
    shown = {
        name: value
        for name, value in event.to_dict().items()
        if value is not None and name != "timestamp" and not (name == "event_id" and value == -1)
    }
    task = shown.get("task_scheduled_id", shown.get("timer_id", shown.get("event_id")))
    for name in PAYLOADS & shown.keys():
        shown[name] = payload(shown[name])
    text = json.dumps(shown, ensure_ascii=False)
    return {
        "sequence": recorded.sequence,
        "turn": recorded.turn,
        "at": event.timestamp,
        "type": type(event).__name__.removesuffix("Event"),
        "task": task,
        "task_query": None if task is None else _query(task=str(task)),
        "details": text if len(text) <= _LONGEST_DETAIL else f"{text[:_LONGEST_DETAIL]}…",
    }
