"""Long orchestrations take time in proportion to their length, and keep no more than they need."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.entity import EntityInstanceId
from durable_django.core.errors import TaskFailedError
from durable_django.core.events import HistoryEvent
from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import Registry
from durable_django.core.replay import Execution
from durable_django.core.tasks import Task, when_all, when_any
from tests.core.harness import (
    COMPLETED,
    RUNNING,
    SECOND,
    START,
    Steps,
    World,
    raised,
    task_completed,
    task_failed,
)

LENGTH = 10_000


def begun(orchestrator: Callable[..., Any]) -> Execution:
    registry = Registry()
    registry.add_orchestrator(orchestrator)
    execution = Execution("long", ExecutionOptions(registry))
    execution.turn(START, [events.ExecutionStartedEvent(-1, START, orchestrator.__name__)])
    return execution


def seconds_of_halves(execution: Execution, answers: list[HistoryEvent]) -> tuple[float, float]:
    """Feed the answers one by one; return the CPU time of the first and of the second half."""
    status = RUNNING
    gc.collect()
    gc.disable()
    try:
        marks = [time.process_time()]
        middle = len(answers) // 2
        for half in (answers[:middle], answers[middle:]):
            for answer in half:
                status = execution.turn(START, [answer]).status
            marks.append(time.process_time())
    finally:
        gc.enable()
    assert status is COMPLETED
    return marks[1] - marks[0], marks[2] - marks[1]


def check_linear(halves: tuple[float, float]) -> None:
    first, second = halves
    assert second < 2.5 * first + 0.2, f"the first half took {first:.2f} s, the second {second:.2f} s"


def in_turn(count: int = LENGTH, first_id: int = 1) -> list[HistoryEvent]:
    return [task_completed(number) for number in range(first_id, first_id + count)]


def chain(ctx: OrchestrationContext) -> Steps:
    for _ in range(LENGTH):
        yield ctx.call_activity("step")


def wide(ctx: OrchestrationContext) -> Steps:
    yield when_all([ctx.call_activity("step") for _ in range(5_000)])


def races(ctx: OrchestrationContext) -> Steps:
    approval = ctx.wait_for_external_event("approval")
    for _ in range(LENGTH):
        winner = yield when_any([ctx.call_activity("step"), approval])
        assert winner is not approval


def settled_races(ctx: OrchestrationContext) -> Steps:
    approval = ctx.wait_for_external_event("approval")
    for _ in range(LENGTH):
        step = ctx.call_activity("step")
        yield step
        yield when_any([step, approval])
    assert approval._parents == []


def names(ctx: OrchestrationContext) -> Steps:
    for number in range(LENGTH):
        yield ctx.wait_for_external_event(f"step {number}")


def test_a_chain_is_linear_live_and_in_replay() -> None:
    execution = begun(chain)
    check_linear(seconds_of_halves(execution, in_turn()))

    history: list[HistoryEvent] = [events.ExecutionStartedEvent(-1, START, "chain")]
    for number in range(1, LENGTH + 1):
        history += [events.TaskScheduledEvent(number, START, "step"), task_completed(number)]
    replayed = Execution("long", execution.options)
    began = time.process_time()
    replayed.replay(history)
    assert time.process_time() - began < 5
    assert replayed.turn(START, []).status is COMPLETED


def test_a_fan_out_is_linear() -> None:
    check_linear(seconds_of_halves(begun(wide), in_turn(5_000)))


@pytest.mark.parametrize("orchestrator", [races, settled_races])
def test_races_over_one_event_are_linear(orchestrator: Callable[..., Any]) -> None:
    execution = begun(orchestrator)

    check_linear(seconds_of_halves(execution, in_turn()))


def test_events_of_many_names_are_linear() -> None:
    execution = begun(names)

    check_linear(seconds_of_halves(execution, [raised(f"Step {number}") for number in range(LENGTH)]))


def test_many_open_tasks_do_not_slow_down_each_turn() -> None:
    def crowded(ctx: OrchestrationContext) -> Steps:
        crowd = [ctx.call_activity("slow") for _ in range(20_000)]
        for _ in range(2_000):
            yield ctx.call_activity("step")
        return len(crowd)

    crowd, alone = begun(crowded), begun(chain)
    answers = in_turn(2_000, first_id=20_001)
    began = time.process_time()
    for answer in in_turn(2_000):
        alone.turn(START, [answer])
    between = time.process_time()
    for answer in answers:
        crowd.turn(START, [answer])
    took, expected = time.process_time() - between, between - began

    assert took < 5 * expected + 0.2, f"{took:.2f} s instead of {expected:.2f} s"


def live_objects(kinds: tuple[type, ...]) -> int:
    gc.collect()
    # By type(): of a proxy whose object is gone, isinstance() asks for the class of that.
    return sum(issubclass(type(candidate), kinds) for candidate in gc.get_objects())


def test_what_is_over_is_forgotten() -> None:
    def endless(ctx: OrchestrationContext) -> Steps:
        approval = ctx.wait_for_external_event("approval")
        while True:
            timer = ctx.create_timer(SECOND)
            winner = yield when_any([ctx.call_activity("step"), timer, approval])
            timer.cancel()
            try:
                yield when_all([ctx.call_activity("step"), winner])
            except TaskFailedError as error:
                ctx.set_custom_status(str(error))
            approval_once = ctx.wait_for_external_event(ctx.new_uuid())
            yield when_any([ctx.wait_for_external_event("tick"), approval_once])
            approval_once.cancel()

    execution = begun(endless)
    kinds = (Task, TaskFailedError, events.HistoryEvent)

    def rounds(first: int, last: int) -> None:
        for number in range(first, last):
            task_id = 3 * number + 1
            for answer in (task_completed(task_id + 1), task_failed(task_id + 2), raised("tick")):
                assert execution.turn(START, [answer]).status is RUNNING

    rounds(0, 10)
    before, failures = live_objects(kinds), len(execution._failures._failures)
    rounds(10, 110)

    assert live_objects(kinds) - before < 20
    assert failures == 10
    assert len(execution._open) < 20


def fails(ctx: OrchestrationContext) -> Steps:
    yield ctx.call_activity("step")
    raise ValueError("enough")


def sleeps(ctx: OrchestrationContext) -> Steps:
    yield ctx.create_timer(SECOND)


def wakes_early(ctx: OrchestrationContext) -> Steps:
    timer = ctx.create_timer(10 * SECOND)
    yield when_any([timer, ctx.call_activity("step"), ctx.wait_for_external_event("never")])
    timer.cancel()


def leaves_a_timer(ctx: OrchestrationContext) -> Steps:
    yield when_any([ctx.create_timer(10 * SECOND), ctx.call_activity("step")])


async def awaits(ctx: OrchestrationContext) -> list[Any]:
    return await when_all([ctx.call_activity("step") for _ in range(3)])


def starts_over(ctx: OrchestrationContext) -> Steps:
    yield ctx.call_activity("step")
    ctx.continue_as_new(None)


def gives_up_a_lock(ctx: OrchestrationContext) -> Steps:
    ctx.lock_entities([EntityInstanceId("counter", "a")])
    yield ctx.call_activity("step")


def step(ctx: object) -> int:
    return 1


@pytest.mark.parametrize(
    "orchestrator",
    [fails, sleeps, wakes_early, leaves_a_timer, awaits, starts_over, gives_up_a_lock],
)
def test_an_execution_that_has_ended_is_gone_at_once(orchestrator: Callable[..., Any]) -> None:
    """A busy worker ends thousands in a second: the garbage collector must not have to look for them."""
    gc.collect()
    gc.disable()
    try:
        world = World(orchestrator, activities=[step])
        outcome = world.begin()
        while outcome.status is RUNNING:
            outcome = world.turn(world.ready.popleft()) if world.ready else world.fire()
        ended = ref(world._execution)
        world._execution = None
        assert ended() is None
    finally:
        gc.enable()


def waits_with_a_lock(ctx: OrchestrationContext) -> Steps:
    with (yield ctx.lock_entities([EntityInstanceId("counter", "a")])):
        yield ctx.wait_for_external_event("go")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_one_that_is_dropped_within_a_critical_section_goes_in_silence() -> None:
    execution = begun(waits_with_a_lock)
    outcome = execution.turn(START, [events.EntityLockGrantedEvent(-1, START, "1", task_scheduled_id=1)])
    assert outcome.waiting_for == ["go"]
    dropped = ref(execution)
    del execution, outcome
    gc.collect()
    assert dropped() is None
