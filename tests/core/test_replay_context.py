"""What the context tells and takes: clock, uuids, logger, custom status; ends; coroutines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.errors import TaskFailedError
from durable_django.core.tasks import when_all, when_any
from tests.core.harness import (
    COMPLETED,
    FAILED,
    RUNNING,
    SECOND,
    START,
    Steps,
    World,
    fired,
    raised,
    task_completed,
    task_failed,
)


@pytest.fixture(params=["live", "replayed"])
def live(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "live")


# ---------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("result", "output"),
    [(None, None), (0, "0"), ("", '""'), ([], "[]"), ({"a": 1}, '{"a": 1}'), (False, "false")],
)
def test_a_plain_function_completes_at_once(result: object, output: str | None) -> None:
    def plain(ctx: OrchestrationContext, _: object) -> object:
        return result

    outcome = World(plain).run()
    assert (outcome.status, outcome.output) == (COMPLETED, output)
    end = outcome.events[-1]
    assert isinstance(end, events.ExecutionCompletedEvent)
    assert (end.orchestration_status, end.result) == (COMPLETED.value, output)


def test_an_orchestrator_may_leave_out_its_input() -> None:
    def alone(ctx: OrchestrationContext) -> str:
        return ctx.instance_id

    def with_default(ctx: OrchestrationContext, number: int = 3) -> int | None:
        return number

    assert World(alone).run(5).output == '"root"'
    assert World(with_default).run(5).output == "5"


def test_what_is_not_waited_for_is_still_sent(live: bool) -> None:
    def hasty(ctx: OrchestrationContext) -> Steps:
        yield ctx.wait_for_external_event("go")
        ctx.call_activity("a")
        ctx.create_timer(SECOND)
        ctx.send_event("other", "x")
        return "gone"

    world = World(hasty, live=live)
    world.begin()
    outcome = world.turn(raised("go"), raised("late"))
    assert [type(event).__name__ for event in outcome.events] == [
        "EventRaisedEvent",
        "TaskScheduledEvent",
        "TimerCreatedEvent",
        "EventSentEvent",
        "ExecutionCompletedEvent",
    ]
    assert outcome.consumed == 1


def test_a_result_that_cannot_be_written_fails_the_instance() -> None:
    def code(ctx: OrchestrationContext) -> Any:
        return {"answer": object()}

    outcome = World(code).run()
    assert outcome.status is FAILED
    assert outcome.failure is not None
    assert outcome.failure.error_type == "builtins.TypeError"
    assert "object" in outcome.failure.message
    assert "the result of orchestrator 'code'" in str(outcome.failure.stack_trace)


def test_an_input_that_cannot_be_written_is_the_callers_error() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(TypeError, match="object"):
            ctx.call_activity("a", input=object())
        yield ctx.call_activity("b")

    world = World(code)
    assert world.begin().status is RUNNING
    assert [event.event_id for event in world.decisions] == [1]


def test_complete_tasks_are_not_waited_for(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        task = ctx.call_activity("a")
        first = yield task
        again = yield task
        nothing: list[Any] = yield when_all([])
        winner = yield when_any([task])
        return [first, again, nothing, winner is task]

    world = World(code, live=live)
    world.begin()
    assert world.turn(task_completed(1, "1")).output == "[1, 1, [], true]"


def test_a_failed_task_may_be_yielded_again(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        task = ctx.call_activity("a")
        seen = []
        for _ in range(2):
            try:
                yield task
            except TaskFailedError as error:
                seen.append(str(error))
        return len(seen)

    world = World(code, live=live)
    world.begin()
    assert world.turn(task_failed(1)).output == "2"


def test_the_code_is_resumed_after_each_event_of_a_turn() -> None:
    seen: list[list[bool]] = []

    def code(ctx: OrchestrationContext) -> Steps:
        tasks = [ctx.call_activity("a"), ctx.call_activity("b")]
        yield when_any(tasks)
        seen.append([task.is_complete for task in tasks])
        yield tasks[0]
        seen.append([task.is_complete for task in tasks])

    world = World(code)
    world.begin()
    world.turn(task_completed(2), task_completed(1))
    assert seen == [[False, True], [True, True]]


# ---------------------------------------------------------------- clock and uuids


def test_the_clock_is_the_turns(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        times = [ctx.current_utc_datetime]
        yield ctx.call_activity("a")
        times.append(ctx.current_utc_datetime)
        yield ctx.create_timer(10 * SECOND)
        times.append(ctx.current_utc_datetime)
        return [(time - START).total_seconds() for time in times]

    world = World(code, live=live)
    world.begin()
    world.turn(task_completed(1), at=START + 5 * SECOND)
    assert world.turn(fired(world.timers[2])).output == "[0.0, 5.0, 15.0]"
    world.check()
    assert all(event.timestamp == START + 15 * SECOND for event in world.turns[-1].outcome.events)


def test_the_clock_never_goes_back(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        yield ctx.wait_for_external_event("go")
        return (ctx.current_utc_datetime - START).total_seconds()

    world = World(code, live=live)
    world.now = START + 9 * SECOND
    world.begin()
    execution = world.replayed()
    outcome = execution.turn(START, [raised("go")])
    assert outcome.output == "9.0"
    assert outcome.events[0].timestamp == START + 9 * SECOND


def test_an_operators_slow_clock_does_not_turn_back_the_codes() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        yield ctx.wait_for_external_event("go")

    world = World(code, live=False)
    world.now = START + 9 * SECOND
    world.begin()
    world.history.append(events.ExecutionResumedEvent(-1, START))

    assert world.replayed().now == START + 9 * SECOND


def test_uuids_are_new_and_the_same_in_every_replay(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        ids = [ctx.new_uuid(), ctx.new_uuid()]
        yield ctx.call_activity("a", input=ids[0])
        return [*ids, ctx.new_uuid()]

    first, second = World(code, live=live), World(code, instance_id="other", live=live)
    outputs = []
    for world in (first, second):
        world.begin()
        output = world.turn(task_completed(1), at=START + SECOND).output
        assert output is not None
        outputs += world.options.codec.loads(output)
        world.check()
    assert len(set(outputs)) == 6
    assert {UUID(text).version for text in outputs} == {5}


# ---------------------------------------------------------------- replaying, logger, closing


def test_a_replay_says_so_and_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.orchestrator")
    replaying: list[bool] = []

    def code(ctx: OrchestrationContext) -> Steps:
        safe = ctx.create_replay_safe_logger(logger)
        replaying.append(ctx.is_replaying)
        safe.info("started %s", ctx.instance_id)
        yield ctx.call_activity("a")
        replaying.append(ctx.is_replaying)
        safe.info("done", extra={"step": 2})
        assert safe.isEnabledFor(logging.INFO) is not ctx.is_replaying
        assert not safe.isEnabledFor(logging.DEBUG)
        yield ctx.call_activity("b")

    world = World(code, live=False)
    with caplog.at_level(logging.INFO, "tests.orchestrator"):
        world.begin()
        world.turn(task_completed(1))
        world.turn(raised("x"))

    assert replaying == [False, True, False, True, True]
    assert [record.message for record in caplog.records] == ["started root", "done"]
    assert caplog.records[1].step == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("fed", [True, False])
def test_an_execution_that_is_dropped_decides_nothing_and_logs_nothing(
    fed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("tests.orchestrator")

    @contextmanager
    def section(ctx: OrchestrationContext) -> Iterator[None]:
        try:
            yield
        finally:
            ctx.call_activity("never")
            ctx.send_event("other", "never")
            ctx.set_custom_status("never")
            ctx.continue_as_new("never")
            timer = ctx.create_timer(SECOND)
            timer.cancel()
            ctx.create_replay_safe_logger(logger).info("never")

    def code(ctx: OrchestrationContext) -> Steps:
        with section(ctx):
            yield ctx.call_activity("a")

    world = World(code)
    with caplog.at_level(logging.INFO, "tests.orchestrator"):
        world.begin()
        execution = world.replayed()
        outcome = execution.turn(START, [raised("x")]) if fed else None
        execution.close()
        execution.close()
        world.close()

    assert caplog.records == []
    assert execution.custom_status is None
    if outcome is not None:
        assert len(outcome.events) == 1
        assert outcome.cancelled_timers == []


def test_code_that_ends_by_a_bad_yield_decides_nothing_on_its_way_out() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        try:
            yield "no task"
        finally:
            ctx.call_activity("never")

    world = World(code)
    assert world.begin().status is FAILED
    assert world.decisions == []


# ---------------------------------------------------------------- custom status


def test_the_custom_status_is_json_and_none_clears_it(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        for status in ({"step": 1}, "two", 0, None):
            ctx.set_custom_status(status)
            yield ctx.wait_for_external_event("go")
        ctx.set_custom_status("done")

    world = World(code, live=live)
    statuses = [world.begin().custom_status, *(world.turn(raised("go")).custom_status for _ in range(4))]
    assert statuses == ['{"step": 1}', '"two"', "0", None, '"done"']
    world.check()


def test_the_custom_status_stays_until_it_is_changed(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        ctx.set_custom_status("waiting")
        yield ctx.wait_for_external_event("go")
        raise ValueError("broken")

    world = World(code, live=live)
    world.begin()
    assert world.turn(raised("x")).custom_status == '"waiting"'
    outcome = world.turn(raised("go"))
    assert (outcome.status, outcome.custom_status) == (FAILED, '"waiting"')


def test_a_custom_status_that_cannot_be_written_is_the_codes_error() -> None:
    def code(ctx: OrchestrationContext) -> None:
        ctx.set_custom_status("good")
        ctx.set_custom_status(object())

    outcome = World(code).run()
    assert (outcome.status, outcome.custom_status) == (FAILED, '"good"')


# ---------------------------------------------------------------- async def


async def helper(ctx: OrchestrationContext, name: str) -> Any:
    return await ctx.call_activity(name)


def test_coroutines_await_tasks(live: bool) -> None:
    async def code(ctx: OrchestrationContext, _: object) -> Any:
        first = await helper(ctx, "a")
        both = await when_all([ctx.call_activity("b"), ctx.call_activity("c")])
        timer = ctx.create_timer(timedelta(seconds=1))
        winner = await when_any([ctx.wait_for_external_event("x"), timer])
        return [first, both, winner is timer]

    world = World(code, live=live)
    world.begin()
    world.turn(task_completed(1, "1"))
    world.turn(task_completed(2, "2"), task_completed(3, "3"))
    assert world.fire().output == "[1, [2, 3], true]"
    world.check()


def test_coroutines_catch_failures(live: bool) -> None:
    async def code(ctx: OrchestrationContext) -> Any:
        try:
            await helper(ctx, "a")
        except TaskFailedError as error:
            return error.details.message

    world = World(code, live=live)
    world.begin()
    assert world.turn(task_failed(1)).output == '"broken"'


def test_a_coroutine_without_awaits_completes_at_once() -> None:
    async def code(ctx: OrchestrationContext, number: int) -> int:
        return number

    assert World(code).run(3).output == "3"


def test_a_coroutines_continue_as_new_waits_for_its_next_await() -> None:
    async def code(ctx: OrchestrationContext, count: int) -> int:
        await ctx.create_timer(SECOND)
        if count < 2:
            ctx.continue_as_new(count + 1)
            await ctx.call_activity("never answered")
        return count

    world = World(code)
    assert world.run(0, generations=5).output == "2"
    assert len(world.generations) == 2


@pytest.mark.parametrize("flavour", ["generator", "coroutine"])
def test_flavours_mix_in_one_family(flavour: str) -> None:
    async def coroutine(ctx: OrchestrationContext, depth: int) -> Any:
        return ["c", (await ctx.call_sub_orchestrator("generator", input=depth - 1)) if depth else None]

    def generator(ctx: OrchestrationContext, depth: int) -> Steps:
        return ["g", (yield ctx.call_sub_orchestrator("coroutine", input=depth - 1)) if depth else None]

    functions: dict[str, Callable[..., Any]] = {"generator": generator, "coroutine": coroutine}
    world = World(functions[flavour], children=[generator, coroutine])
    expected = {"generator": '["g", ["c", ["g", null]]]', "coroutine": '["c", ["g", ["c", null]]]'}
    assert world.run(2).output == expected[flavour]
