"""What an execution keeps of events that come with, or after, its end."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from durable_django import task
from durable_django.core import events
from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import Registry
from durable_django.core.replay import Execution
from durable_django.core.rewind import rewind

NOW = datetime(2026, 1, 1)


def start(orchestrator: Any) -> Execution:
    registry = Registry()
    registry.add_orchestrator(orchestrator, name="it")
    return Execution("one", ExecutionOptions(registry))


def started() -> events.ExecutionStartedEvent:
    return events.ExecutionStartedEvent(-1, NOW, "it")


def raised(name: str) -> events.EventRaisedEvent:
    return events.EventRaisedEvent(-1, NOW, name)


def test_an_event_that_comes_with_the_failure_is_there_after_a_rewind() -> None:
    is_mended = False

    def code(ctx: task.OrchestrationContext, _: object) -> Any:
        if not is_mended:
            raise ValueError("not yet")
        yield ctx.wait_for_external_event("go")
        return "went"

    failed = start(code).turn(NOW, [started(), raised("go"), raised("other")])
    kinds = [type(event) for event in failed.events]
    assert kinds == [
        events.ExecutionStartedEvent,
        events.EventRaisedEvent,
        events.EventRaisedEvent,
        events.ExecutionCompletedEvent,
    ]
    is_mended = True
    again = start(code)
    again.replay([failed.events[position] for position in rewind(failed.events).kept])
    assert again.turn(NOW, []).output == '"went"'


def test_an_event_that_comes_with_a_good_end_is_left_out() -> None:
    outcome = start(lambda ctx, _: "done").turn(NOW, [started(), raised("late")])
    assert [type(event) for event in outcome.events] == [
        events.ExecutionStartedEvent,
        events.ExecutionCompletedEvent,
    ]
    assert outcome.consumed == 1


def test_an_execution_that_never_sets_a_custom_status_leaves_the_old_one_alone() -> None:
    def silent(ctx: task.OrchestrationContext, _: object) -> Any:
        yield ctx.wait_for_external_event("go")

    def clearing(ctx: task.OrchestrationContext, _: object) -> Any:
        ctx.set_custom_status(None)
        yield ctx.wait_for_external_event("go")

    assert not start(silent).turn(NOW, [started()]).sets_custom_status
    assert start(clearing).turn(NOW, [started()]).sets_custom_status
