"""Activities and their results, children, and retries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from durable_django.core import events
from durable_django.core.context import ActivityContext, OrchestrationContext
from durable_django.core.errors import TaskFailedError
from durable_django.core.registry import make_activity
from durable_django.core.retry import RetryPolicy
from durable_django.core.serialization import DataConverter, JsonDataConverter, PayloadCodec
from durable_django.core.tasks import when_all, when_any
from tests.core.harness import (
    COMPLETED,
    FAILED,
    RUNNING,
    SECOND,
    START,
    Steps,
    World,
    child_completed,
    child_failed,
    fired,
    task_completed,
    task_failed,
)


@pytest.fixture(params=["live", "replayed"])
def live(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "live")


def double(ctx: ActivityContext, number: int) -> int:
    return 2 * number


def broken(ctx: ActivityContext, _: object) -> None:
    raise ValueError("no good")


def test_a_chain_passes_results_on(live: bool) -> None:
    def chain(ctx: OrchestrationContext, number: int) -> Steps:
        for _ in range(3):
            number = yield ctx.call_activity(double, input=number)
        return number

    world = World(chain, activities=[double], live=live)
    outcome = world.run(1)

    assert (outcome.status, outcome.output) == (COMPLETED, "8")
    assert [(event.event_id, event.name, event.input) for event in world.decisions] == [  # type: ignore[attr-defined]
        (1, "double", "1"),
        (2, "double", "2"),
        (3, "double", "4"),
    ]


def test_results_may_come_in_any_order(live: bool) -> None:
    def fan_out(ctx: OrchestrationContext) -> Steps:
        return (yield when_all([ctx.call_activity("a"), ctx.call_activity("b"), ctx.call_activity("c")]))

    world = World(fan_out, live=live)
    world.begin()
    world.turn(task_completed(3, "3"), task_completed(1, "1"))
    assert world.turn(task_completed(2, "2")).output == "[1, 2, 3]"


def test_an_activity_knows_its_instance_and_number() -> None:
    def who(ctx: ActivityContext) -> list[Any]:
        return [ctx.orchestration_id, ctx.task_id]

    def ask(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity(who)
        return (yield ctx.call_activity(who))

    assert World(ask, activities=[who]).run().output == '["root", 2]'


def test_decisions_carry_tags_queue_and_priority() -> None:
    def tagged(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("plain")
        yield ctx.call_activity("special", tags={"team": "red"})

    def special(ctx: ActivityContext) -> None: ...

    world = World(tagged)
    world.registry.declare(make_activity(special, queue="fast", priority=5))
    world.begin()
    world.turn(task_completed(1))

    plain, decided = world.decisions
    assert isinstance(plain, events.TaskScheduledEvent)
    assert isinstance(decided, events.TaskScheduledEvent)
    assert (plain.tags, plain.queue, plain.priority) == (None, None, None)
    assert (decided.tags, decided.queue, decided.priority) == ({"team": "red"}, "fast", 5)


def test_a_call_has_the_last_word_on_queue_and_priority() -> None:
    def calls(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("special", queue="slow", priority=0, limit_key="customer-7")
        yield ctx.call_sub_orchestrator("child", queue="slow", priority=-2)

    def special(ctx: ActivityContext) -> None: ...

    world = World(calls)
    world.registry.declare(make_activity(special, queue="fast", priority=5))
    world.begin()
    world.turn(task_completed(1))

    called, child = world.decisions
    assert isinstance(called, events.TaskScheduledEvent)
    assert isinstance(child, events.SubOrchestrationInstanceCreatedEvent)
    assert (called.queue, called.priority, called.limit_key) == ("slow", 0, "customer-7")
    assert (child.queue, child.priority) == ("slow", -2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue": ""}, ValueError),
        ({"queue": 3}, ValueError),
        ({"priority": "high"}, TypeError),
        ({"priority": 40_000}, ValueError),
        ({"limit_key": ""}, ValueError),
        ({"limit_key": 7}, ValueError),
        ({"retry_policy": 5}, TypeError),
    ],
)
def test_a_call_with_a_bad_option_decides_nothing(options: dict[str, Any], error: type[Exception]) -> None:
    def calls(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(error):
            ctx.call_activity("a", **options)
        if "limit_key" not in options:
            with pytest.raises(error):
                ctx.call_sub_orchestrator("c", **options)
        yield ctx.call_activity("b")

    world = World(calls)
    world.begin()
    assert [event.name for event in world.decisions if isinstance(event, events.TaskScheduledEvent)] == ["b"]


@pytest.mark.parametrize("options", [{"queue": "slow"}, {"limit_key": "7"}])
def test_a_local_activity_has_no_queue_and_no_limit(options: dict[str, Any]) -> None:
    def quick(ctx: ActivityContext) -> None: ...

    def calls(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(ValueError, match="'quick' is local"):
            ctx.call_activity("quick", **options)
        yield ctx.call_activity("b")

    world = World(calls)
    world.registry.declare(make_activity(quick, local=True))
    assert world.begin().status is RUNNING


def test_tags_are_texts() -> None:
    def tagged(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(TypeError, match="tags must map str to str"):
            ctx.call_activity("a", tags={"n": 1})  # type: ignore[dict-item]
        yield ctx.call_activity("b")

    assert World(tagged).begin().status is RUNNING


@pytest.mark.parametrize("event", [task_completed(9, "1"), task_failed(9), child_completed(9)])
def test_an_unknown_completion_is_ignored_with_a_warning(
    event: events.HistoryEvent, caplog: pytest.LogCaptureFixture
) -> None:
    def one(ctx: OrchestrationContext) -> Steps:
        return (yield ctx.call_activity("a"))

    world = World(one)
    world.begin()
    with caplog.at_level(logging.WARNING, "durable_django.replay"):
        outcome = world.turn(event)

    assert outcome.status is RUNNING
    assert outcome.consumed == 1
    assert "#9 is ignored" in caplog.text
    assert world.turn(task_completed(1, "1"), task_completed(1, "2")).output == "1"


def test_a_second_result_of_a_task_changes_nothing(live: bool) -> None:
    def two(ctx: OrchestrationContext) -> Steps:
        return [(yield ctx.call_activity("a")), (yield ctx.call_activity("b"))]

    world = World(two, live=live)
    world.begin()
    world.turn(task_completed(1, '"first"'), task_completed(1, '"second"'))
    assert world.turn(task_completed(2, "2")).output == '["first", 2]'


def test_timers_and_activities_are_not_mistaken_for_each_other() -> None:
    def both(ctx: OrchestrationContext) -> Steps:
        return (yield when_all([ctx.call_activity("a"), ctx.create_timer(SECOND)]))

    world = World(both)
    world.begin()
    world.turn(events.TimerFiredEvent(-1, START, START, 1), task_completed(2, "5"))
    world.turn(task_completed(1, "1"))
    assert world.fire().output == "[1, null]"


# ---------------------------------------------------------------- types


@dataclass
class Price:
    amount: int


class Point(NamedTuple):
    x: int
    y: int


def test_results_are_rebuilt_as_annotated_or_as_asked() -> None:
    def annotated(ctx: ActivityContext) -> Price:
        return Price(5)

    def many(ctx: ActivityContext) -> list[Point]:
        return [Point(1, 2)]

    def maybe(ctx: ActivityContext) -> Price | None:
        return Price(7)

    def plain(ctx: ActivityContext):  # type: ignore[no-untyped-def]
        return {"amount": 6}

    def misfit(ctx: ActivityContext) -> Price:
        return {"other": 1}  # type: ignore[return-value]

    seen: list[Any] = []

    def buy(ctx: OrchestrationContext) -> Steps:
        seen.append((yield ctx.call_activity(annotated)))
        seen.append((yield ctx.call_activity(many)))
        seen.append((yield ctx.call_activity(maybe)))
        seen.append((yield ctx.call_activity(plain, return_type=Price)))
        untyped = yield ctx.call_activity("annotated")
        seen.append((type(untyped) is dict or isinstance(untyped, dict), untyped.amount, untyped["amount"]))
        seen.append((yield ctx.call_activity("plain", return_type=Price)))
        seen.append((yield ctx.call_activity(misfit)))

    world = World(buy, activities=[annotated, many, maybe, plain, misfit])
    assert world.run().status is COMPLETED

    assert seen[:7] == [Price(5), [Point(1, 2)], Price(7), Price(6), (True, 5, 5), Price(6), {"other": 1}]


def test_inputs_are_rebuilt_as_annotated() -> None:
    def typed(ctx: OrchestrationContext, price: Price) -> int:
        return price.amount

    assert World(typed).run(Price(3)).output == "3"


def test_a_childs_result_is_rebuilt_as_annotated() -> None:
    async def offer(ctx: OrchestrationContext) -> Price:
        return Price(4)

    async def parent(ctx: OrchestrationContext) -> int:
        price = await ctx.call_sub_orchestrator(offer)
        assert isinstance(price, Price)
        other = await ctx.call_sub_orchestrator("offer", return_type=Price)
        return price.amount + other.amount

    assert World(parent, children=[offer]).run().output == "8"


def test_hints_are_for_the_converter_in_use_to_judge() -> None:
    class Reversing(DataConverter):
        """Knows `str` as a type of its own."""

        def serialize(self, value: Any) -> str | None:
            return JsonDataConverter().serialize(value)

        def deserialize(self, data: str | None, target_type: Any = None) -> Any:
            value = JsonDataConverter().deserialize(data)
            return value[::-1] if target_type is str else value

        def coerce(self, value: Any, target_type: Any = None) -> Any:
            return value

        def can_reconstruct(self, target_type: Any) -> bool:
            return target_type is str

    def word(ctx: ActivityContext) -> str:
        return "abc"

    def price(ctx: ActivityContext) -> Price:
        return Price(1)

    def code(ctx: OrchestrationContext, given: str) -> Steps:
        return [given, (yield ctx.call_activity(word)), (yield ctx.call_activity(price))]

    world = World(code, activities=[word, price], codec=PayloadCodec(Reversing()))
    assert world.run("xyz").output == '["zyx", "cba", {"amount": 1}]'


# ---------------------------------------------------------------- children


def test_a_child_has_a_default_id_a_parent_and_its_own_version(live: bool) -> None:
    def child(ctx: OrchestrationContext, number: int) -> Steps:
        doubled = yield ctx.call_activity(double, input=number)
        return [ctx.instance_id, ctx.parent_instance_id, ctx.version, doubled]

    def parent(ctx: OrchestrationContext) -> Steps:
        assert ctx.parent_instance_id is None
        ctx.call_activity(double, input=0)
        return [
            (yield ctx.call_sub_orchestrator(child, input=1)),
            (yield ctx.call_sub_orchestrator("child", input=2, instance_id="mine", version="2.0")),
        ]

    world = World(
        parent, activities=[double], children=[child], version="9.0", default_version="1.0", live=live
    )
    assert world.run().output == '[["root:0002", "root", "1.0", 2], ["mine", "root", "2.0", 4]]'


def test_without_a_default_version_a_child_has_none() -> None:
    def parent(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_sub_orchestrator("child")

    world = World(parent, version="9.0")
    world.registry.add_orchestrator(_named("child"))
    world.begin()
    (created,) = world.decisions
    assert isinstance(created, events.SubOrchestrationInstanceCreatedEvent)
    assert created.version is None


def _named(name: str) -> Callable[..., None]:
    def function(ctx: object) -> None: ...

    function.__name__ = function.__qualname__ = name
    return function


@pytest.mark.parametrize("instance_id", ["", "@entity@key", "x" * 256])
def test_a_childs_id_is_checked_before_it_takes_a_number(instance_id: str) -> None:
    def parent(ctx: OrchestrationContext) -> Steps:
        with pytest.raises(ValueError, match="instance_id"):
            ctx.call_sub_orchestrator("child", instance_id=instance_id)
        yield ctx.call_activity("a")

    world = World(parent)
    assert world.begin().status is RUNNING
    assert [event.event_id for event in world.decisions] == [1]


def test_a_failed_childs_failure_is_told(live: bool) -> None:
    def child(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity(broken)

    def parent(ctx: OrchestrationContext) -> Steps:
        try:
            yield ctx.call_sub_orchestrator(child)
        except TaskFailedError as error:
            return [str(error), error.details.error_type]

    assert World(parent, activities=[broken], children=[child], live=live).run().output == (
        '["root: Sub-orchestration task #1 failed: root:0001: Activity task #1 failed: no good", '
        '"durable_django.task.TaskFailedError"]'
    )


# ---------------------------------------------------------------- retries


def flaky(failures: int) -> Callable[..., Any]:
    runs = []

    def attempt(ctx: ActivityContext) -> int:
        runs.append(ctx.task_id)
        if len(runs) <= failures:
            raise ValueError(f"attempt {len(runs)}")
        return len(runs)

    return attempt


def policy(attempts: int, **options: Any) -> RetryPolicy:
    return RetryPolicy(first_retry_interval=SECOND, max_number_of_attempts=attempts, **options)


def retrying(retry_policy: RetryPolicy) -> Callable[..., Steps]:
    def orchestrator(ctx: OrchestrationContext) -> Steps:
        return (yield ctx.call_activity("attempt", retry_policy=retry_policy, tags={"a": "b"}))

    return orchestrator


def test_a_retry_keeps_the_number_and_the_tags_and_its_timer_takes_a_new_one(live: bool) -> None:
    world = World(retrying(policy(3, backoff_coefficient=2)), activities=[flaky(2)], live=live)

    assert world.run().output == "3"
    assert [(type(event), event.event_id) for event in world.decisions] == [
        (events.TaskScheduledEvent, 1),
        (events.TimerCreatedEvent, 2),
        (events.TaskScheduledEvent, 1),
        (events.TimerCreatedEvent, 3),
        (events.TaskScheduledEvent, 1),
    ]
    assert [event.tags for event in world.decisions if isinstance(event, events.TaskScheduledEvent)] == [
        {"a": "b"}
    ] * 3
    assert world.now == START + 3 * SECOND
    assert [event.timestamp for event in world.decisions] == [
        START + seconds * SECOND for seconds in (0, 0, 1, 1, 3)
    ]


def test_attempts_include_the_first_and_the_last_failure_is_told(live: bool) -> None:
    world = World(retrying(policy(2)), activities=[flaky(5)], live=live)
    outcome = world.run()

    assert outcome.status is FAILED
    assert outcome.failure is not None
    assert outcome.failure.message == "root: Activity task #1 failed: attempt 2"
    assert world.scheduled == ["attempt", "TimerCreatedEvent", "attempt"]


def test_one_attempt_is_no_retry() -> None:
    assert World(retrying(policy(1)), activities=[flaky(1)]).run().status is FAILED


def test_the_retry_timeout_is_measured_by_the_orchestrations_clock(live: bool) -> None:
    patient = policy(10, retry_timeout=3 * SECOND)
    world = World(retrying(patient), activities=[flaky(9)], live=live)

    assert world.run().status is FAILED
    assert world.scheduled.count("attempt") == 3

    late = World(retrying(patient))
    late.begin()
    assert late.turn(task_failed(1), at=START + timedelta(days=1)).status is FAILED
    assert late.replayed().turn(START, []).status is FAILED


def test_a_long_delay_is_waited_for_in_pieces() -> None:
    slow = RetryPolicy(first_retry_interval=timedelta(days=7), max_number_of_attempts=2)
    world = World(retrying(slow), activities=[flaky(1)])

    assert world.run().output == "2"
    assert world.scheduled == ["attempt", *["TimerCreatedEvent"] * 3, "attempt"]
    assert world.now == START + timedelta(days=7)


def test_a_retried_child_keeps_its_id_its_version_and_its_number(live: bool) -> None:
    def parent(ctx: OrchestrationContext) -> Steps:
        return (yield ctx.call_sub_orchestrator("parent", version="3.1", retry_policy=policy(3)))

    world = World(parent, live=live)
    world.bear = lambda event: child_failed(event.event_id)  # type: ignore[method-assign]
    assert world.run().status is FAILED
    created = [e for e in world.decisions if isinstance(e, events.SubOrchestrationInstanceCreatedEvent)]
    assert [(e.event_id, e.instance_id, e.version) for e in created] == [(1, "root:0001", "3.1")] * 3


def test_a_registered_policy_holds_unless_the_call_has_one() -> None:
    def calls(ctx: OrchestrationContext) -> Steps:
        yield ctx.call_activity("attempt")
        try:
            yield ctx.call_activity("attempt", retry_policy=policy(1))
        except TaskFailedError:
            return "once"

    world = World(calls)
    world.registry.declare(make_activity(flaky(1), name="attempt", retry_policy=policy(2)))
    world.begin()
    world.ready.clear()
    world.turn(task_failed(1))
    world.turn(fired(world.timers.pop(2)), at=START + SECOND)
    world.turn(task_completed(1))
    assert world.turn(task_failed(3)).output == '"once"'


def test_a_result_that_comes_twice_during_a_retry_is_ignored(live: bool) -> None:
    world = World(retrying(policy(3)), live=live)
    world.begin()
    world.ready.clear()
    world.turn(task_failed(1), task_failed(1), task_completed(1, '"late"'))

    assert world.scheduled == ["attempt", "TimerCreatedEvent"]


def test_a_retried_task_in_a_race_goes_on_retrying() -> None:
    def racing(ctx: OrchestrationContext) -> Steps:
        task = ctx.call_activity("attempt", retry_policy=policy(5))
        limit = ctx.create_timer(1.5 * SECOND)
        winner = yield when_any([task, limit])
        assert winner is limit
        return (yield task)

    assert World(racing, activities=[flaky(2)]).run().output == "3"
