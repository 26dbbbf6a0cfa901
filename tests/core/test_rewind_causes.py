"""Which failures a rewind undoes, and from where on."""

from __future__ import annotations

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.errors import TaskFailedError
from durable_django.core.rewind import rewind
from durable_django.core.tasks import when_all, when_any
from tests.core.harness import (
    COMPLETED,
    FAILED,
    Plant,
    Steps,
    World,
    raised,
    rewound,
    task_completed,
    task_failed,
)


@pytest.fixture(params=["live", "replayed"])
def live(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "live")


@pytest.mark.parametrize("look", ["winner", "is_complete", "counts", "nested winner"])
def test_to_see_a_failed_task_complete_is_to_know_of_it(look: str) -> None:
    def watching(ctx: OrchestrationContext) -> Steps:
        doomed = ctx.call_activity("doomed")
        both = when_all([doomed, ctx.wait_for_external_event("never")])
        race = when_any([doomed])
        if look == "winner":
            yield race
        elif look == "nested winner":
            yield when_all([race])
        else:
            yield ctx.call_activity("other")
            seen = doomed.is_complete if look == "is_complete" else both.get_completed_tasks()
            if not seen:
                return (yield doomed)
        yield ctx.call_activity("after")
        yield doomed

    plant = Plant("doomed")
    world = World(watching, activities=plant.activities("doomed", "other", "after"))
    assert world.run().status is FAILED

    outcome = rewound(world, plant)

    assert outcome.status is COMPLETED, outcome.failure
    assert plant.runs == (["doomed", "after"] if "winner" in look else ["doomed"])


def test_what_has_not_been_looked_at_undoes_nothing_when_it_fails() -> None:
    def late(ctx: OrchestrationContext) -> Steps:
        doomed = ctx.call_activity("doomed")
        yield ctx.call_activity("other")
        yield ctx.call_activity("after")
        yield doomed

    plant = Plant("doomed")
    world = World(late, activities=plant.activities("doomed", "other", "after"))
    assert world.run().status is FAILED

    assert rewound(world, plant).status is COMPLETED
    assert plant.runs == ["doomed"]


def test_a_handled_failure_stays() -> None:
    def handling(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("optional")
        except TaskFailedError:
            yield ctx.call_activity("instead")
        return (yield ctx.call_activity("needed"))

    plant = Plant("optional", "needed")
    world = World(handling, activities=plant.activities("optional", "instead", "needed"))
    assert world.run().status is FAILED

    assert rewound(world, plant).output == '"NEEDED"'
    assert plant.runs == ["needed"]


def test_compensation_is_undone_with_the_failure_that_it_answered(live: bool) -> None:
    def compensating(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("book")
        try:
            paid = yield ctx.call_activity("pay")
        except TaskFailedError:
            ctx.send_event("desk", "cancelled")
            yield ctx.call_activity("unbook")
            raise
        yield ctx.call_activity("confirm")
        return paid

    plant = Plant("pay")
    world = World(compensating, activities=plant.activities("book", "pay", "unbook", "confirm"), live=live)
    assert world.run().status is FAILED
    assert world.scheduled == ["book", "pay", "cancelled", "unbook"]

    undone = rewind(world.history)
    assert undone.kept == [0, 1, 2, 3]
    assert undone.undone == {3, 4}
    assert list(undone.open) == [2]

    assert rewound(world, plant).output == '"PAY"'
    assert world.scheduled == ["book", "pay", "confirm"]
    assert plant.runs == ["pay", "confirm"]


def test_a_failing_compensation_is_undone_too() -> None:
    def compensating(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("pay")
        except TaskFailedError:
            yield ctx.call_activity("unbook")

    plant = Plant("pay", "unbook")
    world = World(compensating, activities=plant.activities("pay", "unbook"))
    assert world.run().status is FAILED

    assert rewound(world, plant).status is COMPLETED
    assert plant.runs == ["pay"]


@pytest.mark.parametrize("chained", [True, False])
def test_an_error_of_the_codes_own_is_undone_with_what_made_it_raise(chained: bool) -> None:
    def translating(ctx: OrchestrationContext) -> Steps:
        step = ctx.call_activity("step")
        if chained:
            try:
                yield step
            except TaskFailedError as error:
                yield ctx.call_activity("notify")
                raise RuntimeError("no luck") from error
        else:
            yield when_any([step])
            if step.is_failed:
                raise RuntimeError("no luck")
        return "lucky"

    plant = Plant("step")
    world = World(translating, activities=plant.activities("step", "notify"))
    assert world.run().status is FAILED

    assert rewound(world, plant).output == '"lucky"'
    assert plant.runs == ["step"]


def test_failures_that_came_to_be_known_later_are_forgotten_too() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        other = ctx.call_activity("other")
        try:
            yield ctx.call_activity("first")
        except TaskFailedError:
            yield when_any([other])
            raise
        return (yield other)

    plant = Plant("first", "other")
    world = World(code, activities=plant.activities("first", "other"))
    world.begin()
    answers = list(world.ready)
    world.ready.clear()
    world.turn(answers[1])
    assert world.turn(answers[0]).status is FAILED

    assert rewound(world, plant).output == '"OTHER"'
    assert sorted(plant.runs) == ["first", "other"]


def test_exception_groups_are_searched_for_what_failed() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        caught = []
        for name in ("a", "b"):
            try:
                yield ctx.call_activity(name)
            except TaskFailedError as error:
                caught.append(error)
        if caught:
            yield ctx.call_activity("report")
            raise ExceptionGroup("both", caught)

    plant = Plant("a", "b")
    world = World(code, activities=plant.activities("a", "b", "report"))
    assert world.run().status is FAILED

    assert rewound(world, plant).status is COMPLETED
    assert plant.runs == ["a", "b"]


def test_a_failure_without_failed_tasks_keeps_everything() -> None:
    fault = [True]

    def buggy(ctx: OrchestrationContext) -> Steps:
        result = yield ctx.call_activity("first")
        if fault:
            raise KeyError("a bug")
        return result

    plant = Plant()
    world = World(buggy, activities=plant.activities("first"))
    assert world.run().status is FAILED
    fault.clear()

    assert rewound(world, plant).output == '"FIRST"'
    assert plant.runs == []


def test_what_the_code_decided_before_it_looked_stays_decided(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        doomed, other = ctx.call_activity("doomed"), ctx.call_activity("other")
        yield other
        ctx.call_activity("before")
        try:
            yield doomed
        except TaskFailedError:
            yield ctx.wait_for_external_event("go")
            raise

    world = World(code, live=live)
    world.begin()
    world.turn(task_failed(1), task_completed(2))
    end = world.turn(raised("go")).events[-1]

    assert isinstance(end, events.ExecutionCompletedEvent)
    assert (end.failed_by, end.undo_from) == ([3], 6)
    assert rewind(world.history).undone == set()
