"""Critical sections: what they forbid, how they end, and that replays agree."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.decisions import TurnOutcome
from durable_django.core.entity import EntityInstanceId
from durable_django.core.errors import FailureDetails, TaskFailedError
from durable_django.core.rewind import rewind
from durable_django.core.tasks import when_any
from tests.core.harness import (
    COMPLETED,
    CONTINUED,
    FAILED,
    RUNNING,
    SECOND,
    START,
    Steps,
    World,
    decisions,
    raised,
    task_completed,
    task_failed,
)

A, B, C = (EntityInstanceId("account", key) for key in "abc")


def granted(task_id: int) -> events.EntityLockGrantedEvent:
    return events.EntityLockGrantedEvent(-1, START, str(task_id), task_id)


def answered(task_id: int, output: str | None = None) -> events.EntityOperationCompletedEvent:
    return events.EntityOperationCompletedEvent(-1, START, str(task_id), output, task_id)


def refused(task_id: int) -> events.EntityOperationFailedEvent:
    details = FailureDetails("too little", "builtins.ValueError")
    return events.EntityOperationFailedEvent(-1, START, str(task_id), details, task_id)


def unlocked(outcome: TurnOutcome) -> list[str | None]:
    return [
        event.target_instance_id
        for event in outcome.events
        if isinstance(event, events.EntityUnlockSentEvent)
    ]


def decided(outcome: TurnOutcome) -> list[str]:
    return [type(event).__name__ for event in decisions(outcome.events)]


@pytest.fixture(params=[True, False], ids=["live", "replayed"])
def make(request: pytest.FixtureRequest) -> Generator[Callable[..., World]]:
    """Worlds, whose replays are checked after the test."""
    worlds: list[World] = []

    def made(orchestrator: Callable[..., Any]) -> World:
        worlds.append(World(orchestrator, live=request.param))
        return worlds[-1]

    yield made
    for world in worlds:
        world.check()


Make = Callable[[Callable[..., Any]], World]


def said(fn: Callable[[], object]) -> str:
    """Return what the RuntimeError says that the call raises."""
    try:
        fn()
    except RuntimeError as error:
        return str(error)
    return "nothing"


class TestRules:
    def test_every_violation_before_the_grant(self, make: Make) -> None:
        def greedy(ctx: OrchestrationContext) -> Steps:
            lock = ctx.lock_entities([B, A])
            found = [
                said(lambda: ctx.lock_entities([C])),
                said(lambda: ctx.call_entity(A, "get")),
                said(lambda: ctx.call_entity(C, "get")),
                said(lambda: ctx.signal_entity(A, "add")),
                said(lambda: ctx.call_sub_orchestrator("child")),
            ]
            ctx.signal_entity(C, "add")
            yield lock
            return found

        world = make(greedy)
        world.begin()
        assert world.scheduled == ["EntityLockRequestedEvent", "EntityOperationSignaledEvent"]
        assert world.turn(granted(1)).output == (
            '["A critical section cannot be entered from within a critical section.", '
            '"No entity can be called before the requested locks are granted.", '
            '"No entity can be called before the requested locks are granted.", '
            '"Entity @account@a cannot be signalled while it is locked: call it instead.", '
            '"A sub-orchestration cannot be started in a critical section."]'
        )

    def test_every_violation_after_the_grant(self, make: Make) -> None:
        def greedy(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A, B])):
                call = ctx.call_entity(A, "get")
                found = [
                    said(lambda: ctx.lock_entities([C])),
                    said(lambda: ctx.lock_entities([])),
                    said(lambda: ctx.call_entity(A, "get")),
                    said(lambda: ctx.call_entity(C, "get")),
                    said(lambda: ctx.signal_entity(B, "add")),
                    said(lambda: ctx.call_sub_orchestrator("child")),
                ]
                yield call
                ctx.call_entity(A, "get")
            ctx.call_sub_orchestrator("child")
            ctx.signal_entity(B, "add")
            ctx.call_entity(C, "get")
            ctx.call_entity(C, "get")
            return found

        world = make(greedy)
        world.begin()
        world.turn(granted(1))
        assert world.turn(answered(2)).output == (
            '["A critical section cannot be entered from within a critical section.", '
            '"A critical section cannot be entered from within a critical section.", '
            '"Entity @account@a cannot be called: a call to it is still under way.", '
            '"Entity @account@c cannot be called in a critical section: it is not locked.", '
            '"Entity @account@b cannot be signalled while it is locked: call it instead.", '
            '"A sub-orchestration cannot be started in a critical section."]'
        )

    def test_an_empty_list(self, make: Make) -> None:
        def nobody(ctx: OrchestrationContext) -> str:
            return said(lambda: ctx.lock_entities([]))

        assert make(nobody).begin().output == '"lock_entities() needs at least one entity to lock."'

    @pytest.mark.parametrize("wrong", [["@account@a"], "@account@a", EntityInstanceId("account", "a")])
    def test_what_is_no_id(self, make: Make, wrong: Any) -> None:
        def careless(ctx: OrchestrationContext) -> None:
            ctx.lock_entities(wrong)

        outcome = make(careless).begin()
        assert outcome.failure is not None
        assert "EntityInstanceIds, not " in outcome.failure.message

    def test_activities_timers_events_and_other_signals_are_allowed(self, make: Make) -> None:
        def busy(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                ctx.create_timer(SECOND)
                ctx.wait_for_external_event("go")
                ctx.signal_entity(B, "add")
                ctx.send_event("other", "hello")
                yield ctx.call_activity("act")

        world = make(busy)
        world.begin()
        world.turn(granted(1))
        assert world.turn(task_completed(5)).status is COMPLETED

    def test_a_failed_call_may_be_made_again(self, make: Make) -> None:
        def stubborn(ctx: OrchestrationContext) -> Steps:
            first = "nothing"
            with (yield ctx.lock_entities([A])):
                try:
                    yield ctx.call_entity(A, "withdraw", 5)
                except TaskFailedError as error:
                    first = str(error)
                yield ctx.call_entity(A, "withdraw", 4)
            return first

        world = make(stubborn)
        world.begin()
        world.turn(granted(1))
        world.turn(refused(2))
        outcome = world.turn(answered(3))
        assert (
            outcome.output == "\"Operation 'withdraw' on entity '@account@a' failed with error: too little\""
        )
        assert unlocked(outcome) == ["@account@a"]

    def test_the_answer_to_a_call_of_the_section_before_is_none_of_this_one(self, make: Make) -> None:
        def hasty(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                early = ctx.call_entity(A, "slow")
            with (yield ctx.lock_entities([A])):
                late = ctx.call_entity(A, "slow")
                yield early
                found = said(lambda: ctx.call_entity(A, "slow"))
                yield late
            return found

        world = make(hasty)
        world.begin()
        world.turn(granted(1))
        world.turn(granted(4))
        world.turn(answered(2))
        output = world.turn(answered(5)).output
        assert output == '"Entity @account@a cannot be called: a call to it is still under way."'


class TestLocks:
    def test_they_are_sorted_and_each_is_taken_once(self, make: Make) -> None:
        def careless(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([C, A, B, A])):
                pass

        world = make(careless)
        world.begin()
        (request,) = world.decisions
        assert isinstance(request, events.EntityLockRequestedEvent)
        assert request.lock_set == ["@account@a", "@account@b", "@account@c"]
        assert unlocked(world.turn(granted(1))) == request.lock_set

    def test_exit_releases_once(self, make: Make) -> None:
        def twice(ctx: OrchestrationContext) -> Steps:
            lock = yield ctx.lock_entities([A])
            with lock:
                pass
            with lock:
                pass
            lock.__exit__(None, None, None)
            yield ctx.wait_for_external_event("never")

        world = make(twice)
        world.begin()
        assert unlocked(world.turn(granted(1))) == ["@account@a"]

    def test_an_old_lock_does_not_open_a_new_section(self, make: Make) -> None:
        def confused(ctx: OrchestrationContext) -> Steps:
            old = yield ctx.lock_entities([A])
            old.__exit__(None, None, None)
            new = yield ctx.lock_entities([B])
            old.__exit__(None, None, None)
            found = said(lambda: ctx.call_entity(A, "get"))
            new.__exit__(None, None, None)
            return found

        world = make(confused)
        world.begin()
        world.turn(granted(1))
        outcome = world.turn(granted(3))
        assert outcome.output is not None
        assert "@account@a cannot be called" in outcome.output
        assert unlocked(outcome) == ["@account@b"]

    @pytest.mark.parametrize("is_granted", [True, False], ids=["held", "asked for"])
    @pytest.mark.parametrize("end", ["return", "raise", "continue", "bad yield", "bad result"])
    def test_every_end_releases(self, make: Make, end: str, is_granted: bool) -> None:
        def leaky(ctx: OrchestrationContext) -> Steps:
            lock = ctx.lock_entities([A, B])
            if is_granted:
                yield lock
            else:
                yield ctx.call_activity("act")
            match end:
                case "raise":
                    raise ValueError(end)
                case "continue":
                    ctx.continue_as_new(None)
                case "bad yield":
                    yield 5
                case "bad result":
                    return object()
            return None

        world = make(leaky)
        world.begin()
        outcome = world.turn(granted(1) if is_granted else task_completed(2))
        assert outcome.status is {"return": COMPLETED, "continue": CONTINUED}.get(end, FAILED)
        assert unlocked(outcome) == ["@account@a", "@account@b"]
        assert not outcome.may_hold_locks

    def test_a_raise_within_the_block_releases_before_the_handler_runs(self, make: Make) -> None:
        def fragile(ctx: OrchestrationContext) -> Steps:
            try:
                with (yield ctx.lock_entities([A])):
                    raise ValueError
            except ValueError:
                ctx.signal_entity(A, "add")
            yield ctx.wait_for_external_event("never")

        world = make(fragile)
        world.begin()
        world.turn(granted(1))
        assert world.scheduled[-2:] == ["EntityUnlockSentEvent", "EntityOperationSignaledEvent"]

    def test_code_that_differs_leaves_its_locks_to_the_store(self) -> None:
        def first(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                yield ctx.call_activity("act")

        def first_changed(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([B])):
                yield ctx.call_activity("act")

        world = World(first)
        world.begin()
        changed = World(first_changed)
        changed.name = world.name
        changed.registry.add_orchestrator(first_changed, name="first")
        outcome = changed.replayed(world.history).turn(START, [granted(1)])
        assert outcome.status is FAILED
        assert outcome.may_hold_locks
        assert unlocked(outcome) == []

    def test_a_timer_may_win_against_a_grant(self, make: Make) -> None:
        def impatient(ctx: OrchestrationContext) -> Steps:
            lock = ctx.lock_entities([A])
            timer = ctx.create_timer(SECOND)
            winner = yield when_any([lock, timer])
            return winner is timer

        world = make(impatient)
        world.begin()
        outcome = world.fire()
        assert outcome.output == "true"
        assert unlocked(outcome) == ["@account@a"]

    def test_a_second_grant_is_ignored_without_a_word(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        def holder(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                yield ctx.call_activity("act")
            yield ctx.call_activity("act")

        world = make(holder)
        world.begin()
        world.turn(granted(1))
        assert world.turn(granted(1)).status is RUNNING
        world.turn(task_completed(2))
        assert world.turn(granted(1)).status is RUNNING
        assert caplog.text == ""


# ---------------------------------------------------------------- rewind


def transfer(ctx: OrchestrationContext) -> Steps:
    with (yield ctx.lock_entities([A, B])):
        yield ctx.call_entity(A, "withdraw", 1)
        yield ctx.call_entity(B, "deposit", 1)
    return "done"


class TestRewind:
    def test_a_failed_call_is_open_and_its_section_entered_again(self) -> None:
        world = World(transfer)
        world.begin()
        world.turn(granted(1))
        world.turn(answered(2))
        outcome = world.turn(refused(3))
        assert (outcome.status, unlocked(outcome)) == (FAILED, ["@account@a", "@account@b"])

        undone = world.rewind()

        assert list(undone.open) == [3]
        assert [section.critical_section_id for section in undone.sections] == ["1"]
        assert not any(isinstance(event, events.EntityUnlockSentEvent) for event in world.history)
        assert world.turn().status is RUNNING
        assert world.turn(granted(1)).status is RUNNING
        outcome = world.turn(answered(3))
        assert (outcome.output, unlocked(outcome)) == ('"done"', ["@account@a", "@account@b"])

    def test_releases_by_the_codes_own_failure_go(self) -> None:
        broken = True

        def buggy(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                if broken:
                    raise ValueError
                yield ctx.call_entity(A, "get")

        world = World(buggy)
        world.begin()
        assert unlocked(world.turn(granted(1))) == ["@account@a"]
        broken = False
        undone = world.rewind()
        assert len(undone.sections) == 1
        world.turn()
        assert world.scheduled == ["EntityLockRequestedEvent"]
        world.turn(granted(1))
        assert world.scheduled == ["EntityLockRequestedEvent", "EntityOperationCalledEvent"]
        assert world.turn(answered(2)).status is COMPLETED

    @pytest.mark.parametrize("live", [True, False])
    def test_what_happens_before_the_grant_reaches_the_code_with_it(self, live: bool) -> None:
        broken = True

        def busy(ctx: OrchestrationContext) -> Steps:
            outside = ctx.call_activity("outside")
            with (yield ctx.lock_entities([A, B])):
                inside = ctx.call_activity("inside")
                yield ctx.call_entity(A, "get")
                if broken:
                    raise ValueError
                heard = yield ctx.wait_for_external_event("x")
            return [(yield outside), (yield inside), heard]

        world = World(busy, live=live)
        world.begin()
        world.turn(granted(2))
        assert world.turn(answered(4)).status is FAILED
        broken = False
        undone = world.rewind()
        assert (list(undone.open), list(undone.inside)) == ([1, 3], [3])
        for event in (task_completed(1, '"out"'), raised("x", '"heard"')):
            outcome = world.turn(event)
            assert (outcome.status, decided(outcome)) == (RUNNING, [])
        outcome = world.turn(granted(2))
        assert decided(outcome) == ["TaskScheduledEvent", "EntityUnlockSentEvent", "EntityUnlockSentEvent"]
        outcome = world.turn(task_completed(3, '"in"'))
        assert outcome.output == '["out", "in", "heard"]'
        world.check()

    @pytest.mark.parametrize("live", [True, False])
    def test_a_failure_that_was_held_back_is_undone_like_others(self, live: bool) -> None:
        broken = True

        def unlucky(ctx: OrchestrationContext) -> Steps:
            outside = ctx.call_activity("outside")
            with (yield ctx.lock_entities([A])):
                yield ctx.call_entity(A, "get")
                if broken:
                    raise ValueError
                yield outside
            return "done"

        world = World(unlucky, live=live)
        world.begin()
        world.turn(granted(2))
        assert world.turn(answered(3)).status is FAILED
        broken = False
        world.rewind()
        assert world.turn(task_failed(1)).status is RUNNING
        assert world.turn(raised("other")).status is RUNNING
        assert world.turn(granted(2)).status is FAILED
        again = world.rewind()
        assert list(again.open) == [1]
        assert world.turn(granted(2)).status is RUNNING
        assert world.turn(task_completed(1)).output == '"done"'
        world.check()

    @pytest.mark.parametrize("saves", [True, False])
    def test_events_that_an_end_leaves_behind_go_to_the_next_execution(self, saves: bool) -> None:
        broken = True

        def again(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                yield ctx.call_entity(A, "get")
                if broken:
                    raise ValueError
                yield ctx.wait_for_external_event("go")
            ctx.continue_as_new(2, save_events=saves)

        world = World(again)
        world.begin()
        world.turn(granted(1))
        assert world.turn(answered(2)).status is FAILED
        broken = False
        world.rewind()
        world.turn(raised("before"), raised("go"), raised("after"))
        outcome = world.turn(granted(1))
        assert outcome.continue_as_new is not None
        carried = [event.name for event in outcome.continue_as_new.carried]
        assert carried == (["before"] if saves else []) + ["after"]
        world.check()

    def test_code_that_fails_again_by_what_it_was_told_unlocks_again(self) -> None:
        def told(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                yield ctx.wait_for_external_event("fail")
                raise ValueError

        world = World(told)
        world.begin()
        world.turn(granted(1))
        assert world.turn(raised("fail")).status is FAILED
        world.rewind()
        outcome = world.turn()
        assert (outcome.status, unlocked(outcome)) == (FAILED, ["@account@a"])
        world.check()

    def test_a_second_rewind_before_the_grant_waits_for_it_as_well(self) -> None:
        world = World(transfer, live=False)
        world.begin()
        world.turn(granted(1))
        world.turn(answered(2))
        assert world.turn(refused(3)).status is FAILED
        world.rewind()
        world.turn()
        refusing = world.replayed()
        refusing.refuse(FailureDetails("given up", "TooManyTries"))
        world.history += refusing.turn(world.now, []).events
        world.rewind()
        assert world.turn(raised("x")).status is RUNNING
        outcome = world.turn(granted(1))
        assert decided(outcome) == ["EntityOperationCalledEvent"]
        assert world.turn(answered(3)).output == '"done"'
        world.check()

    def test_a_section_that_was_left_stays_left(self) -> None:
        def after(ctx: OrchestrationContext) -> Steps:
            with (yield ctx.lock_entities([A])):
                pass
            yield ctx.call_activity("act")

        world = World(after)
        world.begin()
        world.turn(granted(1))
        assert world.turn(task_failed(3)).status is FAILED
        undone = rewind(world.history)
        assert undone.sections == []
        assert list(undone.open) == [3]

    def test_a_request_without_a_grant_is_open(self) -> None:
        def waiting(ctx: OrchestrationContext) -> Steps:
            ctx.lock_entities([A])
            yield ctx.call_activity("act")

        world = World(waiting)
        world.begin()
        assert unlocked(world.turn(task_failed(2))) == ["@account@a"]
        undone = rewind(world.history)
        assert undone.sections == []
        assert list(undone.open) == [1, 2]
