"""Durable timers, external events, and continue-as-new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.errors import TaskCancelledError
from durable_django.core.serialization import JsonDataConverter, PayloadCodec
from durable_django.core.tasks import when_all, when_any
from tests.core.harness import (
    COMPLETED,
    CONTINUED,
    FAILED,
    RUNNING,
    SECOND,
    START,
    Steps,
    World,
    fired,
    raised,
    task_completed,
)

DAY = timedelta(days=1)


@pytest.fixture(params=["live", "replayed"])
def live(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "live")


def sleeper(fire_at: Any) -> Callable[..., Steps]:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        result = yield ctx.create_timer(fire_at)
        return [result, ctx.current_utc_datetime.isoformat()]

    return orchestrator


def created(world: World) -> list[datetime]:
    return [event.fire_at for event in world.decisions if isinstance(event, events.TimerCreatedEvent)]


# ---------------------------------------------------------------- timers


@pytest.mark.parametrize(
    "fire_at",
    [
        5 * SECOND,
        START + 5 * SECOND,
        (START + 5 * SECOND).replace(tzinfo=UTC),
        (START + 5 * SECOND + timedelta(hours=2)).replace(tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_a_timer_fires_at_a_time_or_after_a_delay(fire_at: Any, live: bool) -> None:
    world = World(sleeper(fire_at), live=live)

    assert world.begin().has_open_timers
    outcome = world.fire()

    assert created(world) == [START + 5 * SECOND]
    assert outcome.output == '[null, "2026-01-01T00:00:05"]'
    assert not outcome.has_open_timers


@pytest.mark.parametrize(
    "fire_at",
    [-5 * SECOND, 0 * SECOND, START - DAY, timedelta.min, datetime.min, datetime.min.replace(tzinfo=UTC)],
)
def test_a_time_in_the_past_fires_at_once(fire_at: Any, live: bool) -> None:
    world = World(sleeper(fire_at), live=live)

    assert world.run().output == '[null, "2026-01-01T00:00:00"]'
    assert created(world) == [START]


@pytest.mark.parametrize(
    ("fire_at", "error"),
    [
        (timedelta.max, ValueError),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), ValueError),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), ValueError),
        ("soon", TypeError),
        (5, TypeError),
    ],
)
def test_what_is_no_time_is_refused_where_it_is_given(fire_at: Any, error: type[Exception]) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(error, match="fire_at"):
            ctx.create_timer(fire_at)
        yield ctx.create_timer(SECOND)

    assert World(orchestrator).run().status is COMPLETED


def test_a_long_timer_is_a_chain_of_shorter_ones(live: bool) -> None:
    world = World(sleeper(7 * DAY), live=live, maximum_timer_interval=3 * DAY)

    outcome = world.run()

    assert outcome.output == '[null, "2026-01-08T00:00:00"]'
    assert created(world) == [START + 3 * DAY, START + 6 * DAY, START + 7 * DAY]
    assert [event.event_id for event in world.decisions] == [1, 2, 3]


def test_a_timer_as_long_as_the_limit_is_one() -> None:
    exact = World(sleeper(3 * DAY))
    unlimited = World(sleeper(30 * DAY), maximum_timer_interval=None)

    assert exact.run().status is unlimited.run().status is COMPLETED
    assert (len(created(exact)), len(created(unlimited))) == (1, 1)


def test_a_piece_that_fires_late_shortens_the_rest() -> None:
    world = World(sleeper(7 * DAY))
    world.begin()
    world.turn(fired(world.timers.pop(1)), at=START + 6.5 * DAY)
    assert created(world) == [START + 3 * DAY, START + 7 * DAY]
    assert world.fire().status is COMPLETED


def test_the_limit_may_change_under_a_running_timer() -> None:
    world = World(sleeper(7 * DAY), live=False)
    world.begin()
    longer = World(sleeper(7 * DAY), maximum_timer_interval=None)
    longer.history, longer.timers = world.history, world.timers

    assert longer.fire().status is RUNNING
    assert longer.fire().status is COMPLETED
    assert longer.now == START + 7 * DAY


@pytest.mark.parametrize("pieces_gone", [0, 1])
def test_a_cancelled_timer_is_taken_back_and_may_fire_in_vain(pieces_gone: int, live: bool) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        timer = ctx.create_timer(5 * DAY)
        yield ctx.wait_for_external_event("go")
        assert timer.cancel()
        assert not timer.cancel()
        assert timer.is_cancelled
        with pytest.raises(TaskCancelledError):
            yield timer
        yield ctx.wait_for_external_event("end")

    world = World(orchestrator, live=live)
    world.begin()
    for _ in range(pieces_gone):
        world.fire()
    (open_timer,) = world.timers.values()

    outcome = world.turn(raised("go"))

    assert outcome.cancelled_timers == [1 + pieces_gone]
    assert not outcome.has_open_timers
    assert world.turn(fired(open_timer), at=open_timer.fire_at).cancelled_timers == []
    assert world.turn(raised("end")).status is COMPLETED
    world.check()


def test_a_timer_may_be_cancelled_in_the_turn_that_makes_it() -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        ctx.create_timer(DAY).cancel()
        yield ctx.wait_for_external_event("go")

    outcome = World(orchestrator).begin()

    assert outcome.cancelled_timers == [1]
    assert [type(event) for event in outcome.events[1:]] == [events.TimerCreatedEvent]


def test_a_timer_that_only_new_code_makes_and_cancels_is_taken_back_too() -> None:
    grown: list[int] = []

    def orchestrator(ctx: OrchestrationContext) -> Steps:
        if grown:
            ctx.create_timer(DAY).cancel()
        yield ctx.wait_for_external_event("go")

    world = World(orchestrator, live=False)
    world.begin()
    grown.append(1)

    outcome = world.turn(raised("other"))

    assert [type(event) for event in outcome.events] == [events.TimerCreatedEvent, events.EventRaisedEvent]
    assert outcome.cancelled_timers == [1]


# ---------------------------------------------------------------- events


def waiter(*names: str) -> Callable[..., Steps]:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        got = []
        for name in names:
            got.append((yield ctx.wait_for_external_event(name)))  # noqa: PERF401
        return got

    return orchestrator


def test_names_do_not_care_for_case(live: bool) -> None:
    world = World(waiter("Approved", "STRASSE"), live=live)

    assert world.begin().waiting_for == ["Approved"]
    assert world.turn(raised("APPROVED", "1")).waiting_for == ["STRASSE"]
    assert world.turn(raised("straße", "2")).output == "[1, 2]"


@pytest.mark.parametrize("together", [True, False])
def test_events_wait_in_order_until_somebody_wants_them(together: bool, live: bool) -> None:
    world = World(waiter("a", "b", "a", "b", "a"), live=live)
    world.begin()
    letters = [raised("B", "1"), raised("b", "2"), raised("a", "3"), raised("A", "4"), raised("a", "5")]
    batches = [letters] if together else [[letter] for letter in letters]
    outcomes = [world.turn(*batch) for batch in batches]

    assert outcomes[-1].output == "[3, 1, 4, 2, 5]"
    world.check()


def test_events_may_come_before_the_start() -> None:
    world = World(waiter("a"))

    outcome = world.turn(raised("a", "1"), world.start_event())

    assert outcome.output == "[1]"


def test_several_waits_for_a_name_are_served_in_their_order(live: bool) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        return (yield when_all([ctx.wait_for_external_event(name) for name in ("x", "X", "x")]))

    world = World(orchestrator, live=live)
    assert world.begin().waiting_for == ["x", "X", "x"]
    world.turn(raised("x", "1"))
    assert world.turn(raised("x", "2"), raised("x", "3")).output == "[1, 2, 3]"


def test_a_cancelled_wait_consumes_nothing(live: bool) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        first, second = ctx.wait_for_external_event("x"), ctx.wait_for_external_event("x")
        yield ctx.wait_for_external_event("go")
        assert first.cancel()
        return (yield second)

    world = World(orchestrator, live=live)
    world.begin()
    assert world.turn(raised("go")).waiting_for == ["x"]
    assert world.turn(raised("x", "1")).output == "1"


def test_a_wait_that_was_never_yielded_still_takes_its_event() -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        early = ctx.wait_for_external_event("x")
        late = yield ctx.wait_for_external_event("x")
        assert early.is_complete
        return [early.get_result(), late]

    world = World(orchestrator)
    world.begin()
    assert world.turn(raised("x", "1"), raised("x", "2")).output == "[1, 2]"


@dataclass
class Approval:
    approver: str


@pytest.mark.parametrize("early", [True, False])
def test_an_events_data_is_rebuilt_where_it_is_consumed(early: bool) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        if early:
            yield ctx.call_activity("first")
        typed = yield ctx.wait_for_external_event("x", data_type=Approval)
        plain = yield ctx.wait_for_external_event("x")
        assert typed == Approval("me")
        return [typed.approver, plain.approver, (yield ctx.wait_for_external_event("x"))]

    world = World(orchestrator)
    world.begin()
    letters = [raised("x", '{"approver": "me"}'), raised("x", '{"approver": "you"}'), raised("x")]
    if early:
        world.turn(*letters)
        outcome = world.turn(task_completed(1))
    else:
        outcome = world.turn(*letters)
    assert outcome.output == '["me", "you", null]'


@pytest.mark.parametrize("early", [True, False])
def test_data_that_cannot_be_read_raise_where_they_are_waited_for(early: bool, live: bool) -> None:
    class Strict(JsonDataConverter):
        def deserialize(self, data: str | None, target_type: Any = None) -> Any:
            if target_type is Approval:
                raise ValueError("no approval")
            return super().deserialize(data, target_type)

    def orchestrator(ctx: OrchestrationContext) -> Steps:
        if early:
            yield ctx.create_timer(SECOND)
        approval = ctx.wait_for_external_event("x", data_type=Approval)
        try:
            yield approval
        except ValueError as error:
            return [str(error), approval.is_failed, (yield ctx.wait_for_external_event("x"))]

    world = World(orchestrator, live=live, codec=PayloadCodec(Strict()))
    world.begin()
    letters = [raised("x", "1"), raised("x", "2")]
    outcome = world.turn(*letters)
    if early:
        outcome = world.fire()
    assert outcome.output == '["no approval", true, 2]'


def test_events_are_sent(live: bool) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        ctx.send_event("other", "News", data={"n": 1})
        ctx.send_event("other", "empty")
        yield ctx.wait_for_external_event("go")

    world = World(orchestrator, live=live)
    world.begin()
    world.turn(raised("go"))
    sent = [event for event in world.decisions if isinstance(event, events.EventSentEvent)]
    assert [(e.event_id, e.instance_id, e.name, e.input) for e in sent] == [
        (1, "other", "News", '{"n": 1}'),
        (2, "other", "empty", None),
    ]


@pytest.mark.parametrize(
    ("target", "name"), [("", "x"), ("  ", "x"), ("other", ""), ("other", " "), ("@a@b", "x")]
)
def test_events_for_nobody_are_refused(target: str, name: str) -> None:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(ValueError, match=r"instance_id|event_name"):
            ctx.send_event(target, name)
        yield ctx.call_activity("a")

    world = World(orchestrator)
    assert world.begin().status is RUNNING
    assert world.scheduled == ["a"]


# ---------------------------------------------------------------- continue-as-new


def test_the_loop_goes_on_in_a_new_execution(live: bool) -> None:
    def loop(ctx: OrchestrationContext, count: int) -> Steps:
        yield ctx.create_timer(SECOND)
        if count < 3:
            ctx.continue_as_new(count + 1)
            return None
        return count

    world = World(loop, live=live)
    assert world.run(0, generations=9).output == "3"
    assert len(world.generations) == 3
    assert all(isinstance(history[-1], events.ContinueAsNewEvent) for history in world.generations)
    assert [event.event_id for event in world.decisions] == [1]


def test_the_code_runs_on_to_its_next_yield_and_what_it_scheduled_is_sent() -> None:
    def loop(ctx: OrchestrationContext) -> Steps:
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new("again")
        ctx.send_event("other", "bye")
        yield ctx.call_activity("last")
        ctx.send_event("other", "never")

    world = World(loop)
    world.begin()
    outcome = world.turn(raised("go"), raised("late"))

    assert outcome.status is CONTINUED
    assert outcome.consumed == 1
    assert world.scheduled == ["bye", "last"]
    assert outcome.continue_as_new is not None
    assert outcome.continue_as_new.input == '"again"'
    assert outcome.waiting_for == []


def test_the_last_call_of_continue_as_new_counts() -> None:
    def loop(ctx: OrchestrationContext) -> None:
        ctx.continue_as_new(1, save_events=True)
        ctx.continue_as_new(2)

    outcome = World(loop).begin()
    assert outcome.continue_as_new is not None
    assert outcome.continue_as_new.input == "2"


def test_an_error_after_continue_as_new_is_a_failure() -> None:
    def loop(ctx: OrchestrationContext) -> None:
        ctx.continue_as_new(1)
        raise ValueError("after all")

    assert World(loop).begin().status is FAILED


@pytest.mark.parametrize("save_events", [True, False])
def test_unconsumed_events_are_carried_over_on_request(save_events: bool, live: bool) -> None:
    def loop(ctx: OrchestrationContext, again: bool) -> Steps:
        if again:
            yield ctx.wait_for_external_event("go")
            ctx.continue_as_new(False, save_events=save_events)
            return None
        timer = ctx.create_timer(0 * SECOND)
        got = []
        while (winner := (yield when_any([letter := ctx.wait_for_external_event("x"), timer]))) is letter:
            got.append(winner.get_result())
        return [*got, (yield ctx.wait_for_external_event("y"))] if got else got

    world = World(loop, live=live)
    world.begin(True)
    world.turn(raised("x", "1"), raised("y", "2"), raised("x", "3"))
    outcome = world.turn(raised("go"))
    assert outcome.continue_as_new is not None
    carried = outcome.continue_as_new.carried

    assert [event.input for event in carried] == (["1", "2", "3"] if save_events else [])
    outcome = world.go_on(world.next_generation(outcome))
    assert outcome.output == ("[1, 3, 2]" if save_events else "[]")


def test_carried_events_can_be_carried_again() -> None:
    def loop(ctx: OrchestrationContext, count: int) -> Steps:
        if count:
            yield ctx.create_timer(0 * SECOND)
            ctx.continue_as_new(count - 1, save_events=True)
            return None
        return [(yield ctx.wait_for_external_event("x")), (yield ctx.wait_for_external_event("x"))]

    world = World(loop)
    world.turn(world.start_event(3), raised("x", "1"), raised("X", "2"))
    outcome = world.fire()
    while outcome.status is CONTINUED:
        outcome = world.go_on(world.next_generation(outcome))
    assert outcome.output == "[1, 2]"


def test_patience_ends_with_the_execution() -> None:
    """What was open in the old execution does not disturb the new one."""

    def loop(ctx: OrchestrationContext, count: int) -> Steps:
        ctx.create_timer(DAY)
        ctx.call_activity("slow")
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(count + 1)

    world = World(loop)
    world.begin(0)
    outcome = world.turn(raised("go"))
    assert not world.next_generation(outcome).cancelled_timers
    assert [event.event_id for event in world.decisions] == [1, 2]
