"""The timeline of an instance: what of its history took time, as bars of a chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from durable_django.core import events
from durable_django.core.events import HistoryEvent

WIDTH = 1000
_LEAST_WIDTH = 3.0
_ROW = 22
_BAR = 12

MOST = 200
"""How many bars a chart shows: the latest."""

_Answer = (
    events.TaskCompletedEvent
    | events.TaskFailedEvent
    | events.SubOrchestrationInstanceCompletedEvent
    | events.SubOrchestrationInstanceFailedEvent
    | events.EntityOperationCompletedEvent
    | events.EntityOperationFailedEvent
    | events.EntityLockGrantedEvent
)
_FAILURES = (
    events.TaskFailedEvent,
    events.SubOrchestrationInstanceFailedEvent,
    events.EntityOperationFailedEvent,
)


@dataclass(slots=True)
class Span:
    """Something that took time, or still does (``end`` None). Times are naive UTC.

    ``kind`` is activity, timer, event, child, entity or lock; ``state`` open, done or failed. ``began`` is
    when an activity left its queue. ``instance_id`` is that of a child.
    """

    kind: str
    label: str
    start: datetime
    end: datetime | None = None
    state: str = "open"
    began: datetime | None = None
    attempt: int = 1
    instance_id: str | None = None

    @property
    def title(self) -> str:
        """What it is, in words."""
        if self.attempt == 1:
            return self.label
        return _("%(label)s, attempt %(attempt)s") % {"label": self.label, "attempt": self.attempt}


@dataclass(frozen=True, slots=True)
class Bar:
    """A span as it is drawn, in units of the chart's view box."""

    span: Span
    x: float
    width: float
    queued: float
    y: int

    @property
    def text_y(self) -> int:
        """Where its label stands."""
        return self.y + _BAR - 2


@dataclass(frozen=True, slots=True)
class Chart:
    """All bars, with the present moment if the instance is alive; ``left_out`` are older ones."""

    bars: Sequence[Bar]
    start: datetime
    end: datetime
    now: float | None
    left_out: int

    @property
    def height(self) -> int:
        """How high it is."""
        return len(self.bars) * _ROW + 8


def spans(history: Iterable[HistoryEvent]) -> list[Span]:
    """Return what took time in a history, in the order in which it began."""
    found: list[Span] = []
    open_spans: dict[int, Span] = {}
    attempts: dict[int, int] = {}
    for event in history:
        if isinstance(event, events.TimerFiredEvent):
            _close(open_spans.pop(event.timer_id, None), event)
        elif isinstance(event, _Answer):
            _close(open_spans.pop(event.task_scheduled_id, None), event)
        elif isinstance(event, events.EventRaisedEvent):
            found.append(Span("event", event.name, event.timestamp, event.timestamp, "done"))
        elif (span := _opened(event)) is not None:
            attempts[event.event_id] = span.attempt = attempts.get(event.event_id, 0) + 1
            open_spans[event.event_id] = span
            found.append(span)
    return found


def chart(found: Sequence[Span], now: datetime, *, is_live: bool) -> Chart | None:
    """Lay out the latest spans; None if there is none."""
    if not found:
        return None
    shown = found[-MOST:]
    start = min(span.start for span in shown)
    end = max([now] if is_live else [], default=start)
    end = max(end, *(span.end or span.start for span in shown))
    seconds = max((end - start).total_seconds(), 1e-6)

    def place(moment: datetime) -> float:
        return round((moment - start).total_seconds() / seconds * WIDTH, 2)

    bars = []
    for row, span in enumerate(shown):
        x, stop = place(span.start), place(span.end or end)
        began = x if span.began is None else min(place(span.began), stop)
        width = max(stop - x, _LEAST_WIDTH)
        bars.append(Bar(span, min(x, WIDTH - _LEAST_WIDTH), width, max(began - x, 0.0), row * _ROW + 4))
    return Chart(bars, start, end, place(now) if is_live else None, len(found) - len(shown))


def _opened(event: HistoryEvent) -> Span | None:
    match event:
        case events.TaskScheduledEvent():
            return Span("activity", event.name, event.timestamp)
        case events.TimerCreatedEvent():
            return Span("timer", _("timer #%(number)s") % {"number": event.event_id}, event.timestamp)
        case events.SubOrchestrationInstanceCreatedEvent():
            return Span("child", event.name, event.timestamp, instance_id=event.instance_id)
        case events.EntityOperationCalledEvent():
            target = event.target_instance_id or ""
            return Span("entity", f"{target} {event.operation}".strip(), event.timestamp)
        case events.EntityLockRequestedEvent():
            return Span("lock", ", ".join(event.lock_set), event.timestamp)
    return None


def _close(span: Span | None, event: HistoryEvent) -> None:
    if span is None:
        return
    span.end = event.timestamp
    span.state = "failed" if isinstance(event, _FAILURES) else "done"
    if isinstance(event, events.TaskCompletedEvent | events.TaskFailedEvent):
        span.began = event.started_at
        span.end = event.finished_at or event.timestamp
