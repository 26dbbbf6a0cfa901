"""Random orchestrations decide the same however their events are batched and wherever they are replayed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from durable_django.core import events
from durable_django.core.decisions import SCHEDULING_EVENTS, TurnOutcome
from durable_django.core.events import HistoryEvent
from durable_django.core.replay import Execution
from tests.core.harness import RUNNING, START
from tests.core.programs import Fate, FatefulWorld, Program, coroutine_of, generator_of, programs

bounded = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """The world sends strays on purpose; the warnings about thousands of them take most of the time."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


numbers = st.lists(st.integers(0, 1000), min_size=1, max_size=30)


def incoming(world: FatefulWorld) -> list[HistoryEvent]:
    """What the world sent, in order, as far as the code took it."""
    return [e for e in world.history if type(e) not in SCHEDULING_EVENTS and not isinstance(e, _ENDS)]


_ENDS = (events.ExecutionCompletedEvent, events.ContinueAsNewEvent)


def fed(
    execution: Execution, batches: Sequence[Sequence[HistoryEvent]]
) -> tuple[list[HistoryEvent], TurnOutcome]:
    history: list[HistoryEvent] = []
    outcome = TurnOutcome(RUNNING)
    for batch in batches:
        outcome = execution.turn(START, [copy.copy(e) for e in batch])
        assert outcome.consumed == len(batch) or outcome.status is not RUNNING
        history += outcome.events
        if outcome.status is not RUNNING:
            break
    return history, outcome


def in_time(history: list[HistoryEvent]) -> list[HistoryEvent]:
    """Leave out the events right before a failure: some came with it, too late for the code to see."""
    if not (history and isinstance(history[-1], events.ExecutionCompletedEvent)):
        return history
    *before, end = history
    while before and isinstance(before[-1], events.EventRaisedEvent):
        before.pop()
    return [*before, end]


def cut(items: Sequence[HistoryEvent], sizes: Sequence[int]) -> list[Sequence[HistoryEvent]]:
    batches, position, turn = [], 0, 0
    while position < len(items):
        size = 1 + sizes[turn % len(sizes)]
        batches.append(items[position : position + size])
        position, turn = position + size, turn + 1
    return batches


def same(one: list[HistoryEvent], other: list[HistoryEvent]) -> bool:
    """Whether two histories are equal, but for the frames of stack traces."""
    return [_without_trace(e) for e in in_time(one)] == [_without_trace(e) for e in in_time(other)]


def _without_trace(event: HistoryEvent) -> dict[str, Any]:
    fields = event.to_dict()
    if isinstance(event, events.ExecutionCompletedEvent) and event.failure_details is not None:
        fields["failure_details"] = (event.failure_details.message, event.failure_details.error_type)
    return fields


@bounded
@given(program=programs(), fate=numbers, sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5))
@example(program=[("activity", 2), ("wait", 0)], fate=[1, 0, 0], sizes=[1])
@example(program=[("activity", 3), ("child", 2), ("all", [0, 1]), ("wait", 2)], fate=[0, 3, 5], sizes=[2])
def test_the_batches_of_events_change_nothing(program: Program, fate: list[int], sizes: list[int]) -> None:
    world = FatefulWorld(generator_of(program), Fate(fate))
    last = world.run()
    event(f"ends {last.status}")
    arrived = incoming(world)

    history, outcome = fed(Execution(world.instance_id, world.options), cut(arrived, sizes))

    assert in_time(history) == in_time(world.history)
    assert (outcome.status, outcome.output, outcome.custom_status) == (
        last.status,
        last.output,
        last.custom_status,
    )
    assert outcome.waiting_for == last.waiting_for
    assert outcome.continue_as_new == last.continue_as_new
    assert outcome.has_open_timers == last.has_open_timers


@bounded
@given(program=programs(), fate=numbers)
@example(program=[("activity", 2), ("wait", 0)], fate=[1, 0, 0])
def test_the_history_can_be_replayed_from_every_split(program: Program, fate: list[int]) -> None:
    world = FatefulWorld(generator_of(program), Fate(fate))
    last = world.run()

    for position, first in enumerate(world.history):
        if type(first) in SCHEDULING_EVENTS or isinstance(first, _ENDS):
            continue
        execution = world.replayed(world.history[:position])
        rest = [e for e in incoming(world) if any(e is later for later in world.history[position:])]
        appended, outcome = fed(execution, [rest])
        assert world.history[:position] + appended == world.history
        assert outcome.custom_status == last.custom_status
        assert outcome.continue_as_new == last.continue_as_new
        assert outcome.waiting_for == last.waiting_for
        assert execution.length == len(world.history)


@bounded
@given(program=programs(), fate=numbers)
def test_a_forgetful_worker_decides_as_one_with_a_memory(program: Program, fate: list[int]) -> None:
    forgetful = FatefulWorld(generator_of(program), Fate(fate), live=False)
    remembering = FatefulWorld(generator_of(program), Fate(fate))

    assert forgetful.run() == remembering.run()
    assert forgetful.history == remembering.history
    assert [turn.outcome for turn in forgetful.turns] == [turn.outcome for turn in remembering.turns]


@bounded
@given(program=programs(), fate=numbers)
def test_generators_and_coroutines_decide_the_same(program: Program, fate: list[int]) -> None:
    generator = FatefulWorld(generator_of(program), Fate(fate))
    coroutine = FatefulWorld(coroutine_of(program), Fate(fate))
    generator.run()
    coroutine.run()

    assert same(generator.history, coroutine.history)


@settings(bounded, max_examples=200)
@given(program=programs(endings=False), fate=numbers, flavour=st.sampled_from([generator_of, coroutine_of]))
def test_whatever_failed_can_be_rewound_and_goes_on(
    program: Program, fate: list[int], flavour: Callable[[Program], Callable[..., Any]]
) -> None:
    world = FatefulWorld(flavour(program), Fate(fate), failing=2)
    outcome = world.run()
    rewinds = 0
    while outcome.failure is not None and "cancelled" not in outcome.failure.message:
        assert outcome.failure.error_type != "durable_django.task.NonDeterminismError", (
            outcome.failure.message
        )
        rewinds += 1
        assert rewinds < 30
        if rewinds > 2:
            world.failing = 0
        world.rewind()
        outcome = world.go_on(world.turn())
    event(f"{rewinds} rewinds")
