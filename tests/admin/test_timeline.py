"""The timeline that is drawn of a history."""

from __future__ import annotations

from datetime import timedelta

from durable_django.admin import timeline
from durable_django.admin.words import duration, pretty
from durable_django.core import events
from durable_django.core.errors import FailureDetails
from tests.factories import NOW


def at(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_each_sort_of_thing_is_a_span() -> None:
    history = [
        events.ExecutionStartedEvent(-1, NOW, "flow"),
        events.TaskScheduledEvent(1, NOW, "pay"),
        events.TimerCreatedEvent(2, NOW, NOW + at(60)),
        events.SubOrchestrationInstanceCreatedEvent(3, NOW, "child-1", "child"),
        events.EntityOperationCalledEvent(4, NOW, "r", "add", target_instance_id="@account@7"),
        events.EntityLockRequestedEvent(5, NOW, "s", ["@a@1", "@a@2"], 0),
        events.TaskFailedEvent(-1, NOW + at(9), 1, FailureDetails("no", "E"), finished_at=NOW + at(8)),
        events.TaskScheduledEvent(1, NOW + at(10), "pay"),
        events.EventRaisedEvent(-1, NOW + at(11), "go"),
        events.EntityLockGrantedEvent(-1, NOW + at(12), "s", 5),
        events.TimerFiredEvent(-1, NOW + at(60), NOW + at(60), 2),
    ]
    found = timeline.spans(history)
    assert [(span.kind, span.state, span.attempt) for span in found] == [
        ("activity", "failed", 1),
        ("timer", "done", 1),
        ("child", "open", 1),
        ("entity", "open", 1),
        ("lock", "done", 1),
        ("activity", "open", 2),
        ("event", "done", 1),
    ]
    assert found[0].end == NOW + at(8)
    assert found[2].instance_id == "child-1"
    assert found[5].title == "pay, attempt 2"


def test_a_result_without_its_beginning_is_left_out() -> None:
    assert timeline.spans([events.TaskCompletedEvent(-1, NOW, 7, "1")]) == []


def test_bars_lie_within_the_chart() -> None:
    spans = [
        timeline.Span("activity", "a", NOW, NOW + at(10), "done", began=NOW + at(5)),
        timeline.Span("activity", "b", NOW + at(10)),
        timeline.Span("event", "c", NOW + at(20), NOW + at(20), "done"),
    ]
    chart = timeline.chart(spans, NOW + at(20), is_live=True)
    assert chart is not None
    first, second, third = chart.bars
    assert (first.x, first.width, first.queued) == (0, 500, 250)
    assert (second.x, second.x + second.width) == (500, 1000)
    assert third.x + third.width == 1000
    assert chart.now == 1000
    assert [bar.y for bar in chart.bars] == sorted({bar.y for bar in chart.bars})


def test_only_the_latest_are_drawn() -> None:
    spans = [timeline.Span("event", str(n), NOW + at(n), NOW + at(n)) for n in range(timeline.MOST + 5)]
    chart = timeline.chart(spans, NOW, is_live=False)
    assert chart is not None
    assert (len(chart.bars), chart.left_out, chart.now) == (timeline.MOST, 5, None)
    assert timeline.chart([], NOW, is_live=True) is None


def test_durations_and_payloads_are_readable() -> None:
    assert [duration(at(seconds)) for seconds in (0, 0.5, 59, 61, 3600, 90061)] == [
        "0 ms",
        "500 ms",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 d 1 h",
    ]
    assert pretty('{"a":1}') == '{\n  "a": 1\n}'
    assert pretty("no json") == "no json"
    assert pretty(None) is None
