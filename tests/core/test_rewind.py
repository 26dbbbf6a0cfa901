from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.errors import FailureDetails, TaskFailedError
from durable_django.core.registry import make_orchestrator
from durable_django.core.retry import RetryPolicy
from durable_django.core.rewind import completed_task_id, rewind
from durable_django.core.tasks import when_all
from tests.core.harness import (
    COMPLETED,
    FAILED,
    RUNNING,
    SECOND,
    START,
    Plant,
    Steps,
    World,
    child_failed,
    raised,
    rewound,
    task_completed,
    task_failed,
)


def two_steps(ctx: OrchestrationContext) -> Steps:
    first = yield ctx.call_activity("first")
    second = yield ctx.call_activity("second")
    return [first, second]


@pytest.fixture(params=["live", "replayed"])
def live(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "live")


def test_a_rewind_makes_the_failed_step_again_and_keeps_the_others(live: bool) -> None:
    plant = Plant("second")
    world = World(two_steps, activities=plant.activities("first", "second"), live=live)
    outcome = world.run()
    assert outcome.status is FAILED
    end = outcome.events[-1]
    assert isinstance(end, events.ExecutionCompletedEvent)
    assert (end.failed_by, end.undo_from) == ([4], 5)

    assert rewound(world, plant).output == '["FIRST", "SECOND"]'
    assert plant.runs == ["second"]


def test_a_history_that_did_not_fail_stays_whole() -> None:
    history = [events.ExecutionStartedEvent(-1, START, "x"), events.TaskScheduledEvent(1, START, "a")]

    whole = rewind(history)

    assert whole.kept == [0, 1]
    assert whole.open == {1: history[1]}
    assert whole.undone == set()
    assert rewind([]).kept == []


def test_siblings_that_are_still_open_belong_to_the_new_execution() -> None:
    def fan_out(ctx: OrchestrationContext) -> Steps:
        slow, fine, quick = (ctx.call_activity(name) for name in ("slow", "fine", "quick"))
        ctx.create_timer(60 * SECOND)
        yield fine
        yield quick
        return (yield slow)

    world = World(fan_out)
    world.begin()
    world.turn(task_completed(2))
    assert world.turn(task_failed(3)).status is FAILED

    undone = rewind(world.history)

    assert sorted(undone.open) == [1, 3, 4]
    assert undone.undone == set()
    world.ready.clear()
    world.rewind()
    assert world.turn().status is RUNNING
    world.turn(task_completed(1, '"slow"'))
    assert world.turn(task_completed(3)).output == '"slow"'


def test_all_failures_of_a_when_all_are_made_again() -> None:
    def fan_out(ctx: OrchestrationContext) -> Steps:
        return (yield when_all([ctx.call_activity(name) for name in ("a", "b", "c")]))

    plant = Plant("a", "c")
    world = World(fan_out, activities=plant.activities("a", "b", "c"))
    assert world.run().status is FAILED

    assert rewound(world, plant).output == '["A", "B", "C"]'
    assert plant.runs == ["a", "c"]


def test_failures_that_a_caught_when_all_hides_stay_with_it() -> None:
    def tolerant(ctx: OrchestrationContext) -> Steps:
        with suppress(TaskFailedError):
            yield when_all([ctx.call_activity("a"), ctx.call_activity("b")])
        return (yield ctx.call_activity("last"))

    plant = Plant("a", "b", "last")
    world = World(tolerant, activities=plant.activities("a", "b", "last"))
    assert world.run().status is FAILED

    assert rewound(world, plant).output == '"LAST"'
    assert plant.runs == ["last"]


# ---------------------------------------------------------------- retries


RETRIES = RetryPolicy(first_retry_interval=SECOND, max_number_of_attempts=3)


def test_after_all_retries_failed_one_more_attempt_is_made(live: bool) -> None:
    def retrying(ctx: OrchestrationContext) -> Steps:
        first = yield ctx.call_activity("first", retry_policy=RETRIES)
        second = yield ctx.call_activity("second")
        return [first, second]

    plant = Plant("first")
    world = World(retrying, activities=plant.activities("first", "second"), live=live)
    assert world.run().status is FAILED
    assert plant.runs == ["first"] * 3
    numbers = [event.event_id for event in world.decisions]

    assert rewound(world, plant).output == '["FIRST", "SECOND"]'
    assert plant.runs == ["first", "second"]
    assert [event.event_id for event in world.decisions] == [*numbers, 4]


def test_a_rewound_retry_that_fails_again_fails_the_instance_again() -> None:
    def retrying(ctx: OrchestrationContext) -> Steps:
        return (yield ctx.call_activity("first", retry_policy=RETRIES))

    plant = Plant("first")
    world = World(retrying, activities=plant.activities("first"))
    world.run()
    plant.runs.clear()
    world.rewind()

    assert world.go_on(world.turn()).status is FAILED
    assert plant.runs == ["first"]
    assert rewound(world, plant).status is COMPLETED


@pytest.mark.parametrize("fails_after", [0, 1, 2])
def test_a_siblings_retries_go_on_wherever_they_were(fails_after: int) -> None:
    flaky_runs = []

    def flaky(ctx: object) -> str:
        flaky_runs.append(1)
        if len(flaky_runs) < 3:
            raise ValueError("flaky")
        return "at last"

    def code(ctx: OrchestrationContext) -> Steps:
        flaky_task = ctx.call_activity("flaky", retry_policy=RETRIES)
        try:
            yield ctx.call_activity("doomed")
        except TaskFailedError:
            yield ctx.wait_for_external_event("go")
            raise
        return (yield flaky_task)

    plant = Plant("doomed")
    world = World(code, activities=[flaky, *plant.activities("doomed")])
    world.begin()
    world.turn(world.ready.pop())  # doomed fails first, and the retries are decided after that
    for _ in range(fails_after):
        if world.ready:
            world.turn(world.ready.popleft())
        else:
            world.fire()
    assert world.turn(raised("go")).status is FAILED

    outcome = rewound(world, plant)

    assert outcome.output == '"at last"', outcome.failure


# ---------------------------------------------------------------- children


def test_failed_children_are_open_again() -> None:
    def parent(ctx: OrchestrationContext) -> Steps:
        return (yield when_all([ctx.call_sub_orchestrator(child), ctx.call_sub_orchestrator(child)]))

    world = World(parent, children=[child])
    world.begin()
    world.ready.clear()
    world.turn(child_failed(2))
    assert world.turn(child_failed(1)).status is FAILED

    undone = rewind(world.history)

    assert sorted(undone.open) == [1, 2]
    created = [world.history[position] for position in undone.kept if position > 0]
    assert [type(event) for event in created] == [events.SubOrchestrationInstanceCreatedEvent] * 2
    assert rewound(world).output == "[null, null]"


def child(ctx: OrchestrationContext) -> None:
    """Ends at once."""


def test_a_childs_retries_count() -> None:
    def parent(ctx: OrchestrationContext) -> Steps:
        return (yield ctx.call_sub_orchestrator(fragile, retry_policy=RETRIES))

    fault = [True]

    def fragile(ctx: OrchestrationContext) -> str:
        if fault:
            raise ValueError("fragile")
        return "whole"

    world = World(parent, children=[fragile])
    assert world.run().status is FAILED
    fault.clear()

    assert rewound(world).output == '"whole"'


# ---------------------------------------------------------------- again, events and control


def test_an_instance_can_be_rewound_time_after_time(live: bool) -> None:
    plant = Plant("first", "second")
    world = World(two_steps, activities=plant.activities("first", "second"), live=live)
    assert world.run().status is FAILED

    plant.broken.discard("first")
    world.rewind()
    assert world.go_on(world.turn()).status is FAILED
    world.rewind()
    assert world.go_on(world.turn()).status is FAILED

    assert rewound(world, plant).output == '["FIRST", "SECOND"]'
    assert plant.runs == ["second"]


def test_external_events_stay_whatever_the_code_made_of_them() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("step")
        except TaskFailedError:
            yield ctx.wait_for_external_event("go")
            raise
        return (yield ctx.wait_for_external_event("go"))

    plant = Plant("step")
    world = World(code, activities=plant.activities("step"))
    world.run()
    assert world.turn(raised("go", '"gone"')).status is FAILED

    assert rewound(world, plant).output == '"gone"'


def test_the_trail_of_operators_stays() -> None:
    history: Sequence[events.HistoryEvent] = [
        events.ExecutionStartedEvent(-1, START, "x"),
        events.ExecutionSuspendedEvent(-1, START),
        events.ExecutionResumedEvent(-1, START),
        events.ExecutionCompletedEvent(-1, START, FAILED.value),
    ]

    assert rewind(history).kept == [0, 1, 2]


def test_an_instance_that_failed_by_non_determinism_goes_on_with_the_old_code() -> None:
    changed = [True]

    def code(ctx: OrchestrationContext) -> Steps:
        if changed:
            yield ctx.call_activity("other")
        result = yield ctx.call_activity("first")
        yield ctx.call_activity("second")
        return result

    changed.clear()
    plant = Plant()
    world = World(code, activities=plant.activities("first", "second", "other"), live=False)
    world.begin()
    changed.append(True)
    answers = list(world.ready)
    world.ready.clear()
    outcome = world.turn(*answers)
    assert outcome.status is FAILED
    assert outcome.consumed == 1
    assert outcome.failure is not None
    assert outcome.failure.error_type == "durable_django.task.NonDeterminismError"

    changed.clear()
    undone = world.rewind()

    assert undone.open == {}
    assert world.go_on(world.turn()).output == '"FIRST"'


def test_an_instance_of_an_unregistered_name_goes_on_once_it_is_registered() -> None:
    world = World(two_steps, activities=Plant().activities("first", "second"))
    name, world.name = world.name, "unknown"
    outcome = world.begin()
    assert outcome.status is FAILED
    assert outcome.failure is not None
    assert outcome.failure.error_type == "durable_django.worker.OrchestratorNotRegisteredError"

    world.registry.declare(_renamed("unknown"))
    assert rewound(world).output == '["FIRST", "SECOND"]'
    assert name == "two_steps"


def _renamed(name: str) -> Any:
    return make_orchestrator(two_steps, name=name)


def test_a_refused_execution_can_be_rewound() -> None:
    world = World(two_steps, activities=Plant().activities("first", "second"))
    execution = world.replayed()
    execution.refuse(FailureDetails("not this version", "VersionMismatch"))
    outcome = execution.turn(START, [world.start_event()])
    assert outcome.status is FAILED
    assert outcome.consumed == 1
    world.history = outcome.events

    assert rewound(world).output == '["FIRST", "SECOND"]'


@pytest.mark.parametrize(
    ("event", "task_id"),
    [
        (task_completed(3), 3),
        (task_failed(4), 4),
        (child_failed(5), 5),
        (events.SubOrchestrationInstanceCompletedEvent(-1, START, 6), 6),
        (events.TimerFiredEvent(-1, START, START, 7), 7),
        (raised("x"), None),
        (events.TaskScheduledEvent(8, START, "x"), None),
    ],
)
def test_the_task_that_an_event_completes(event: events.HistoryEvent, task_id: int | None) -> None:
    assert completed_task_id(event) == task_id
