"""Timers whose code names another time after a deploy: those that run, and have run, stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.retry import RetryPolicy
from tests.core.harness import COMPLETED, FAILED, RUNNING, SECOND, START, Steps, World, raised

DAY = timedelta(days=1)


def sleeper(delay: timedelta) -> Callable[..., Steps]:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        yield ctx.create_timer(delay)
        woken = ctx.current_utc_datetime
        yield ctx.create_timer(SECOND)
        yield ctx.wait_for_external_event("go")
        return (woken - START) / DAY

    return orchestrator


def deployed(before: World, orchestrator: Callable[..., Any], **options: Any) -> World:
    """Return the same instance under other code."""
    after = World(orchestrator, live=False, **options)
    after.history, after.timers, after.now = before.history, before.timers, before.now
    after.ready = before.ready
    return after


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (7, 2), (2, 7), (7, 14), (14, 7), (3, 3.5)])
@pytest.mark.parametrize("fired", [0, 1, 3, 6])
def test_a_timer_ends_when_it_was_to_end(old: int, new: int, fired: int) -> None:
    before = World(sleeper(old * DAY), live=False)
    before.begin()
    for _ in range(fired):
        if before.timers:
            before.fire()

    after = deployed(before, sleeper(new * DAY))
    while after.timers:
        assert after.fire().status is RUNNING

    ended = after.turn(raised("go"))
    assert (ended.status, ended.output) == (COMPLETED, f"{old}.0")


@pytest.mark.parametrize("longest", [DAY, 3 * DAY, 5 * DAY, None])
def test_old_histories_that_do_not_tell_go_by_the_code(longest: timedelta | None) -> None:
    before = World(sleeper(7 * DAY), live=False)
    before.begin()
    before.fire()
    before.history = [
        replace(event, final_fire_at=None) if isinstance(event, events.TimerCreatedEvent) else event
        for event in before.history
    ]
    after = deployed(before, sleeper(7 * DAY), maximum_timer_interval=longest)
    while after.timers:
        after.fire()
    assert after.turn(raised("go")).output == "7.0"


def test_each_piece_says_when_the_timer_ends() -> None:
    world = World(sleeper(9 * DAY))
    world.begin()
    while world.timers:
        world.fire()
    ends = [event.final_fire_at for event in world.decisions if isinstance(event, events.TimerCreatedEvent)]
    assert ends == [START + 9 * DAY] * 3 + [START + 9 * DAY + SECOND]


@pytest.mark.parametrize(("old", "new"), [(5, 10), (10, 5), (5, 7 * 86_400), (7 * 86_400, 5)])
def test_the_waits_of_a_retry_may_change(old: int, new: int) -> None:
    def failing(ctx: Any, _: None) -> None:
        raise ValueError("no")

    def policy(seconds: int) -> RetryPolicy:
        return RetryPolicy(first_retry_interval=seconds * SECOND, max_number_of_attempts=3)

    def retrying(seconds: int) -> Callable[..., Steps]:
        def orchestrator(ctx: OrchestrationContext) -> Steps:
            return (yield ctx.call_activity(failing, retry_policy=policy(seconds)))

        return orchestrator

    before = World(retrying(old), activities=[failing], live=False)
    before.begin()
    before.turn(before.ready.popleft())
    while before.now < START + old * SECOND:
        before.fire()
    after = deployed(before, retrying(new), activities=[failing])
    ended = after.go_on(after.turn(after.ready.popleft()))
    assert ended.status is FAILED
    assert ended.failure is not None
    assert "no" in ended.failure.message
