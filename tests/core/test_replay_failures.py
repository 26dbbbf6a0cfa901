"""Failures and their stack traces, bad yields, and code that does not fit its history."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.context import ActivityContext, OrchestrationContext
from durable_django.core.decisions import TurnOutcome
from durable_django.core.errors import (
    FailureDetails,
    OrchestrationStateError,
    TaskCancelledError,
    TaskFailedError,
)
from durable_django.core.replay import Execution
from durable_django.core.retry import RetryPolicy
from durable_django.core.tasks import Task, when_all, when_any
from durable_django.scheduled import definitions
from tests.core.harness import (
    COMPLETED,
    FAILED,
    RUNNING,
    SECOND,
    START,
    Steps,
    World,
    child_failed,
    raised,
    task_completed,
    task_failed,
)


@pytest.fixture(params=["live", "replayed"])
def live(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "live")


def failure_of(outcome: TurnOutcome) -> FailureDetails:
    assert outcome.status is FAILED
    assert outcome.failure is not None
    end = outcome.events[-1]
    assert isinstance(end, events.ExecutionCompletedEvent)
    assert (end.orchestration_status, end.failure_details) == (FAILED.value, outcome.failure)
    return outcome.failure


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}"))
    return number


class CustomError(Exception):
    pass


def custom(ctx: ActivityContext, _: object) -> None:
    raise CustomError("of my own")


def test_a_failure_is_raised_where_the_task_is_yielded(live: bool) -> None:
    def careful(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity(custom)
        except TaskFailedError as error:
            details = error.details
            return [str(error), details.error_type, details.message, details.is_caused_by(CustomError)]

    assert World(careful, activities=[custom], live=live).run().output == (
        f'["root: Activity task #1 failed: of my own", "{__name__}.CustomError", "of my own", true]'
    )


def test_an_unhandled_failure_fails_the_instance_and_shows_the_line(live: bool) -> None:
    def careless(ctx: OrchestrationContext) -> Steps:
        yield from deeper(ctx)

    def deeper(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity(custom)  # the failing call

    failure = failure_of(World(careless, activities=[custom], live=live).run())

    assert failure.message == "root: Activity task #1 failed: of my own"
    assert failure.error_type == "durable_django.task.TaskFailedError"
    assert failure.stack_trace is not None
    assert f'"{__file__}", line {line_of("the failing call")}, in deeper' in failure.stack_trace
    assert "durable_django/core" not in failure.stack_trace


def test_a_childs_failure_names_the_task() -> None:
    def parent(ctx: OrchestrationContext) -> Steps:
        ctx.call_activity("a")
        yield ctx.call_sub_orchestrator("child")

    world = World(parent)
    world.begin()
    failure = failure_of(world.turn(child_failed(2)))
    assert failure.message == "root: Sub-orchestration task #2 failed: broken"


def test_a_failure_without_details_is_a_failure() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("a")

    world = World(code)
    world.begin()
    failure = failure_of(world.turn(events.TaskFailedEvent(-1, START, 1, None)))
    assert failure.message.startswith("root: Activity task #1 failed: ")


def test_the_codes_own_error_fails_the_instance(live: bool) -> None:
    def buggy(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("a")
        raise KeyError("missing")  # the bug

    world = World(buggy, live=live)
    world.begin()
    failure = failure_of(world.turn(task_completed(1)))

    assert (failure.message, failure.error_type) == ("'missing'", "builtins.KeyError")
    assert failure.stack_trace is not None
    assert f"line {line_of('the bug')}" in failure.stack_trace


@pytest.mark.parametrize(
    "error", [SystemExit(3), GeneratorExit(), StopIteration(1), RecursionError(), BaseException()]
)
@pytest.mark.parametrize("flavour", ["plain", "generator", "coroutine"])
def test_any_error_ends_the_instance_and_not_the_worker(error: BaseException, flavour: str) -> None:
    def plain(ctx: OrchestrationContext) -> None:
        raise error

    def generator(ctx: OrchestrationContext) -> Steps:
        yield from ()
        raise error

    async def coroutine(ctx: OrchestrationContext) -> None:
        raise error

    functions: dict[str, Any] = {"plain": plain, "generator": generator, "coroutine": coroutine}
    failure_of(World(functions[flavour]).begin())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_is_the_workers_own_concern_is_left_to_it(error: BaseException) -> None:
    def plain(ctx: OrchestrationContext) -> None:
        raise error

    def generator(ctx: OrchestrationContext) -> Steps:
        yield from ()
        raise error

    for function in (plain, generator):
        with pytest.raises(type(error)):
            World(function).begin()


def test_cleaning_up_cannot_stop_the_worker_either(caplog: pytest.LogCaptureFixture) -> None:
    def stubborn(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_activity("a")
        finally:
            sys.exit(1)

    world = World(stubborn, live=False)
    world.begin()
    execution = world.replayed()
    execution.close()
    assert "cleaning up" in caplog.text


def test_a_result_that_cannot_be_read_fails_the_instance() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("a")

    world = World(code)
    world.begin()
    failure_of(world.turn(task_completed(1, "{no json")))


def test_an_unregistered_name_fails_at_once() -> None:
    def code(ctx: OrchestrationContext) -> None: ...

    world = World(code)
    world.name = "nobody"
    outcome = world.turn(world.start_event(), raised("x"))
    assert failure_of(outcome).error_type == "durable_django.worker.OrchestratorNotRegisteredError"
    assert outcome.consumed == 2


# ---------------------------------------------------------------- cancelled tasks


def test_a_cancelled_task_can_be_caught(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        timer = ctx.create_timer(SECOND)
        both = when_all([timer, ctx.wait_for_external_event("x")])
        timer.cancel()
        try:
            yield timer
        except TaskCancelledError:
            ctx.set_custom_status("caught")
        try:
            yield both
        except TaskCancelledError:
            return "caught again"

    world = World(code, live=live)
    assert world.begin().custom_status == '"caught"'
    assert world.turn(raised("x")).output == '"caught again"'


def test_an_uncaught_cancellation_fails_the_instance() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        timer = ctx.create_timer(SECOND)
        timer.cancel()
        yield timer

    assert failure_of(World(code).begin()).error_type == "durable_django.task.TaskCancelledError"


def test_a_lost_race_that_failed_is_no_failure() -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        good, bad = ctx.call_activity("good"), ctx.call_activity("bad")
        winner = yield when_any([good, bad])
        assert winner is bad
        assert bad.is_failed
        assert "broken" in str(bad.get_exception())
        return (yield good)

    world = World(code)
    world.begin()
    world.turn(task_failed(2))
    assert world.turn(task_completed(1, "1")).output == "1"


# ---------------------------------------------------------------- bad yields


@pytest.mark.parametrize("value", [None, 5, "task", [], object()])
@pytest.mark.parametrize("first", [True, False])
def test_yielding_no_task_fails_the_instance_with_the_line(value: object, first: bool, live: bool) -> None:
    def code(ctx: OrchestrationContext) -> Steps:
        if not first:
            yield ctx.call_activity("a")
        yield value  # no task

    world = World(code, live=live)
    outcome = world.begin()
    if not first:
        outcome = world.turn(task_completed(1))
    failure = failure_of(outcome)

    assert failure.error_type == "builtins.TypeError"
    assert f"yielded {type(value).__name__} at {__file__}:{line_of('no task')}" in failure.message
    assert "not a task" in failure.message


def test_awaiting_what_is_no_task_fails_too() -> None:
    class Sleep:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def code(ctx: OrchestrationContext) -> None:
        await Sleep()  # no awaitable of ours

    assert "yielded NoneType" in failure_of(World(code).begin()).message


def test_an_orchestrator_of_another_kind_is_refused() -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    def streaming(ctx: OrchestrationContext) -> AsyncIterator[int]:
        return stream()

    def returning(ctx: OrchestrationContext) -> Task[Any]:
        return ctx.call_activity("a")

    assert "async_generator" in failure_of(World(streaming).begin()).message
    assert "CompletableTask" in failure_of(World(returning).begin()).message


# ---------------------------------------------------------------- non-determinism


def recorded(code: Callable[[OrchestrationContext], Any]) -> World:
    """A world with the history of ``code``, to be replayed with other code of the same name."""

    def orchestrator(ctx: OrchestrationContext) -> Steps:
        return (yield from code(ctx))

    world = World(orchestrator, live=False)
    world.begin()
    return world


def now_runs(world: World, code: Callable[[OrchestrationContext], Any]) -> TurnOutcome:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        return (yield from code(ctx))

    changed = World(orchestrator)
    changed.history = world.history
    return changed.turn(raised("go"))


def activity(name: str) -> Callable[[OrchestrationContext], Steps]:
    def code(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity(name)  # a call

    return code


def nothing(ctx: OrchestrationContext) -> Steps:
    yield ctx.wait_for_external_event("go")  # a pause


def timer(ctx: OrchestrationContext) -> Steps:
    yield ctx.create_timer(SECOND)


def child(name: str, instance_id: str | None = None) -> Callable[[OrchestrationContext], Steps]:
    def code(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_sub_orchestrator(name, instance_id=instance_id)

    return code


def event(target: str, name: str) -> Callable[[OrchestrationContext], Steps]:
    def code(ctx: OrchestrationContext) -> Steps:
        ctx.send_event(target, name)
        yield ctx.wait_for_external_event("x")

    return code


@pytest.mark.parametrize(
    ("was", "is_now", "expected", "found"),
    [
        (activity("a"), nothing, "call_activity('a')", "does not make this call"),
        (activity("a"), activity("b"), "call_activity('a')", "now makes call_activity('b')"),
        (activity("a"), timer, "call_activity('a')", "now makes create_timer"),
        (timer, activity("a"), "create_timer", "now makes call_activity('a')"),
        (child("c"), child("d"), "call_sub_orchestrator('c')", "now makes call_sub_orchestrator('d')"),
        (child("c", "1"), child("c", "2"), "with instance_id='1'", "with instance_id='2'"),
        (child("c"), activity("c"), "call_sub_orchestrator('c')", "now makes call_activity('c')"),
        (event("i", "e"), event("i", "f"), "send_event('e') to 'i'", "send_event('f') to 'i'"),
        (event("i", "e"), event("j", "e"), "send_event('e') to 'i'", "send_event('e') to 'j'"),
        (event("i", "e"), nothing, "send_event('e') to 'i'", "does not make this call"),
    ],
)
def test_history_and_code_that_differ_fail_the_instance(
    was: Callable[[OrchestrationContext], Any],
    is_now: Callable[[OrchestrationContext], Any],
    expected: str,
    found: str,
) -> None:
    world = recorded(was)
    failure = failure_of(now_runs(world, is_now))

    assert failure.error_type == "durable_django.task.NonDeterminismError"
    assert f"task #1 ({type(world.decisions[0]).__name__}): expected " in failure.message
    before, after = failure.message.split(", found that ")
    assert expected in before
    assert found in after
    assert re.search(re.escape(__file__) + r":\d+\.", after)


def test_the_line_is_the_users(live: bool) -> None:
    changed = failure_of(now_runs(recorded(activity("a")), activity("b")))
    missing = failure_of(now_runs(recorded(activity("a")), nothing))

    assert f"{__file__}:{line_of('a call')}." in changed.message
    assert f"{__file__}:{line_of('a pause')}." in missing.message


def test_a_call_that_nobody_made_has_no_line() -> None:
    def was(ctx: OrchestrationContext) -> Steps:
        with contextlib.suppress(TaskFailedError):
            yield ctx.call_activity("a")
        yield ctx.call_activity("b")

    def retries(ctx: OrchestrationContext) -> Steps:
        policy = RetryPolicy(first_retry_interval=SECOND, max_number_of_attempts=2)
        yield ctx.call_activity("a", retry_policy=policy)

    world = recorded(was)
    world.turn(task_failed(1))
    message = failure_of(now_runs(world, retries)).message

    assert "found that the code now makes create_timer. The" in message


def test_the_line_of_an_orchestrator_of_the_package_is_named() -> None:
    request = {"name": "report", "input": None, "instance_id": "the-one"}
    code = definitions.start_scheduled_orchestration
    world = World(code)
    history = recorded(activity("a")).history
    (started,) = (event for event in history if isinstance(event, events.ExecutionStartedEvent))
    started.name, started.input = world.name, json.dumps(request)
    world.history = history
    message = failure_of(world.turn(raised("go"))).message

    assert f"call_sub_orchestrator('report') with instance_id='the-one' at {definitions.__file__}:" in message


def test_an_order_that_changed_is_found() -> None:
    def first(ctx: OrchestrationContext) -> Steps:
        yield when_all([ctx.call_activity("a"), ctx.call_activity("b")])

    def second(ctx: OrchestrationContext) -> Steps:
        yield when_all([ctx.call_activity("b"), ctx.call_activity("a")])

    assert "expected call_activity('a'), found that" in failure_of(now_runs(recorded(first), second)).message


def test_code_that_ends_too_early_is_found() -> None:
    def early(ctx: OrchestrationContext) -> Steps:
        yield from ()

    assert "does not make this call" in failure_of(now_runs(recorded(activity("a")), early)).message


def test_code_that_grew_at_its_end_goes_on() -> None:
    def longer(ctx: OrchestrationContext) -> Steps:
        both = [ctx.call_activity("a"), ctx.call_activity("b")]
        yield when_all(both)

    world = recorded(activity("a"))
    outcome = now_runs(world, longer)

    assert outcome.status is RUNNING
    assert [type(e) for e in outcome.events] == [events.TaskScheduledEvent, events.EventRaisedEvent]


def test_code_that_now_ends_where_it_waited_ends() -> None:
    def shorter(ctx: OrchestrationContext) -> Steps:
        ctx.call_activity("a")
        yield from ()
        return "short"

    outcome = now_runs(recorded(activity("a")), shorter)
    assert (outcome.status, outcome.output, outcome.consumed) == (COMPLETED, '"short"', 0)


def test_results_that_came_too_late_for_the_failure_are_kept() -> None:
    world = recorded(activity("a"))

    def other(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("b")

    changed = World(other)
    changed.name, changed.history = "other", [*world.history]
    started = changed.history[0]
    assert isinstance(started, events.ExecutionStartedEvent)
    started.name = "other"
    outcome = changed.turn(task_completed(1), raised("x"))

    assert outcome.consumed == 2
    assert len(outcome.events) == 3
    assert outcome.events[-1].failed_by is None  # type: ignore[attr-defined]


# ---------------------------------------------------------------- odd histories


def test_a_second_start_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    def code(ctx: OrchestrationContext, number: int) -> Steps:
        yield ctx.wait_for_external_event("go")
        return number

    world = World(code)
    world.begin(1)
    with caplog.at_level(logging.WARNING):
        world.turn(world.start_event(2))
    assert "second start event" in caplog.text
    assert world.turn(raised("go")).output == "1"


def test_an_execution_without_a_start_waits() -> None:
    def code(ctx: OrchestrationContext) -> None: ...

    world = World(code)
    assert world.turn(task_completed(1)).status is RUNNING
    with pytest.raises(OrchestrationStateError, match="root"):
        _ = Execution("root", world.options).started


def test_a_refused_execution_fails_without_running(live: bool) -> None:
    def code(ctx: OrchestrationContext) -> None:
        raise AssertionError("it ran")

    execution = Execution("root", World(code).options)
    execution.refuse(FailureDetails("the version", "VersionMismatch"))
    outcome = execution.turn(START, [World(code).start_event(), raised("x")])
    assert failure_of(outcome).error_type == "VersionMismatch"
    assert outcome.consumed == 2
