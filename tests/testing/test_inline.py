"""Draining and advancing, in the transaction of a test."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import DataError, OperationalError, connection, transaction
from django.test import TestCase

import durable_django
from durable_django import signals, task
from durable_django.client import DurableTaskClient, OrchestrationState, OrchestrationStatus
from durable_django.core.registry import Registry
from durable_django.history import TimerFiredEvent
from durable_django.store import activities
from durable_django.testing import Drained, DrainError, VirtualClock, advance, drain, virtual_time

pytestmark = pytest.mark.django_db

Steps = Generator[Any, Any, Any]

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, 12)
COMPLETED = OrchestrationStatus.COMPLETED
RUNNING = OrchestrationStatus.RUNNING
PENDING = OrchestrationStatus.PENDING
FAILED = OrchestrationStatus.FAILED


class Bench:
    """A registry, filled from the test, with a client."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.client = DurableTaskClient()

    def orchestrator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        self.registry.add_orchestrator(fn)
        return fn

    def activity(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        self.registry.add_activity(fn)
        return fn

    def start(self, fn: Callable[..., Any] | str, input: Any = None, **options: Any) -> str:
        return self.client.schedule_new_orchestration(fn, input=input, **options)

    def state(self, instance_id: str) -> OrchestrationState:
        state = self.client.get_orchestration_state(instance_id)
        assert state is not None
        return state

    def drain(self, **options: Any) -> Drained:
        return drain(registry=self.registry, **options)

    def advance(self, by: timedelta, **options: Any) -> Drained:
        return advance(by, registry=self.registry, **options)

    def output(self, instance_id: str) -> Any:
        state = self.state(instance_id)
        assert state.runtime_status is COMPLETED, state
        return state.get_output()

    def fired(self, instance_id: str) -> list[datetime]:
        """When timers fired, as history has it."""
        history = self.client.get_orchestration_history(instance_id)
        return [event.timestamp for event in history if isinstance(event, TimerFiredEvent)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestDrain:
    def test_it_runs_a_chain_to_its_end(self, bench: Bench) -> None:
        @bench.activity
        def double(ctx: task.ActivityContext, number: int) -> int:
            return 2 * number

        @bench.orchestrator
        def chain(ctx: task.OrchestrationContext, number: int) -> Steps:
            for _ in range(10):
                number = yield ctx.call_activity(double, input=number)
            return number

        instance_id = bench.start(chain, 1)
        assert bench.drain() == Drained(turns=11, activities=10)
        assert bench.output(instance_id) == 1024
        assert bench.drain() == Drained()

    def test_every_kind_of_activity_and_child(self, bench: Bench) -> None:
        @bench.activity
        async def greet(ctx: task.ActivityContext, name: str) -> str:
            return f"Hello {name}"

        @bench.activity
        def boom(ctx: task.ActivityContext, _: None) -> None:
            raise ValueError("boom")

        @bench.orchestrator
        def child(ctx: task.OrchestrationContext, name: str) -> Steps:
            return (yield ctx.call_activity(greet, input=name))

        @bench.orchestrator
        async def parent(ctx: task.OrchestrationContext, names: list[str]) -> Any:
            greetings = await task.when_all([ctx.call_sub_orchestrator(child, input=name) for name in names])
            try:
                await ctx.call_activity(boom)
            except task.TaskFailedError as error:
                return [*greetings, error.details.message]

        instance_id = bench.start(parent, ["Ada", "Grace"])
        drained = bench.drain()
        assert bench.output(instance_id) == ["Hello Ada", "Hello Grace", "boom"]
        assert drained.activities == 3

    def test_more_activities_than_it_takes_at_once(self, bench: Bench) -> None:
        @bench.activity
        def same(ctx: task.ActivityContext, number: int) -> int:
            return number

        @bench.orchestrator
        def fan(ctx: task.OrchestrationContext, count: int) -> Steps:
            numbers = yield task.when_all([ctx.call_activity(same, input=n) for n in range(count)])
            return sum(numbers)

        instance_id = bench.start(fan, 1100)
        assert bench.drain().activities == 1100
        assert bench.output(instance_id) == sum(range(1100))

    def test_what_waits_goes_on_with_the_event(self, bench: Bench) -> None:
        @bench.orchestrator
        def approval(ctx: task.OrchestrationContext, _: None) -> Steps:
            return (yield ctx.wait_for_external_event("approved"))

        instance_id = bench.start(approval)
        bench.drain()
        assert bench.state(instance_id).runtime_status is RUNNING
        bench.client.raise_orchestration_event(instance_id, "approved", data="yes")
        bench.drain()
        assert bench.output(instance_id) == "yes"

    def test_control_needs_no_commit(self, bench: Bench) -> None:
        @bench.orchestrator
        def approval(ctx: task.OrchestrationContext, _: None) -> Steps:
            return (yield ctx.wait_for_external_event("approved"))

        instance_id = bench.start(approval)
        bench.drain()
        bench.client.suspend_orchestration(instance_id)
        bench.client.raise_orchestration_event(instance_id, "approved", data=1)
        bench.drain()
        assert bench.state(instance_id).runtime_status is OrchestrationStatus.SUSPENDED
        bench.client.resume_orchestration(instance_id)
        bench.drain()
        assert bench.output(instance_id) == 1

    def test_an_unknown_name_fails_the_orchestration(self, bench: Bench) -> None:
        instance_id = bench.start("nobody_knows_me")
        bench.drain()
        details = bench.state(instance_id).failure_details
        assert details is not None
        assert details.is_caused_by(durable_django.worker.OrchestratorNotRegisteredError)

    def test_signals_are_sent(self, bench: Bench) -> None:
        @bench.orchestrator
        def quick(ctx: task.OrchestrationContext, _: None) -> int:
            return 1

        seen: list[str] = []

        def receive(name: str, **_: Any) -> None:
            seen.append(name)

        signals.orchestration_completed.connect(receive, sender=quick)
        bench.start(quick)
        bench.drain()
        assert seen == ["quick"]

    def test_with_replay_each_turn_starts_from_the_history(self, bench: Bench) -> None:
        @bench.activity
        def odd(ctx: task.ActivityContext, _: None) -> None:
            pass

        @bench.activity
        def even(ctx: task.ActivityContext, _: None) -> None:
            pass

        runs = iter((odd, odd, even))

        @bench.orchestrator
        def fickle(ctx: task.OrchestrationContext, _: None) -> Steps:
            yield ctx.call_activity(next(runs))

        live = bench.start(fickle)
        bench.drain()
        assert bench.state(live).runtime_status is COMPLETED
        replayed = bench.start(fickle)
        bench.drain(replay=True)
        details = bench.state(replayed).failure_details
        assert details is not None
        assert details.is_caused_by(task.NonDeterminismError)

    def test_an_activity_may_break_the_transaction(self, bench: Bench) -> None:
        @bench.activity
        def add_group(ctx: task.ActivityContext, name: str) -> str:
            return Group.objects.create(name=name).name

        @bench.activity
        def query(ctx: task.ActivityContext, sql: str) -> None:
            with connection.cursor() as cursor:
                cursor.execute(sql)

        @bench.orchestrator
        def add_twice(ctx: task.OrchestrationContext, name: str) -> Steps:
            outcomes = []
            nonsense = "SELECT nonsense FROM nowhere"
            for activity, value in (
                (add_group, name),
                (add_group, name),
                (query, nonsense),
                (add_group, "b"),
            ):
                try:
                    outcomes.append((yield ctx.call_activity(activity, input=value)))
                except task.TaskFailedError as error:
                    outcomes.append(error.details.error_type)
            return outcomes

        instance_id = bench.start(add_twice, "staff")
        bench.drain()
        first, second, third, fourth = bench.output(instance_id)
        assert (first, second, fourth) == ("staff", "django.db.utils.IntegrityError", "b")
        assert third in ("django.db.utils.ProgrammingError", "django.db.utils.OperationalError")
        assert Group.objects.count() == 2

    def test_a_rollback_takes_everything_back(self, bench: Bench) -> None:
        @bench.orchestrator
        def counting(ctx: task.OrchestrationContext, _: None) -> Steps:
            first = yield ctx.wait_for_external_event("n")
            second = yield ctx.wait_for_external_event("n")
            return first, second

        instance_id = bench.start(counting)
        bench.drain()
        with transaction.atomic():
            bench.client.raise_orchestration_event(instance_id, "n", data=1)
            bench.drain()
            transaction.set_rollback(True)
        for number in (2, 3):
            with transaction.atomic():
                bench.client.raise_orchestration_event(instance_id, "n", data=number)
                bench.drain()
        assert bench.output(instance_id) == [2, 3]

    @pytest.fixture
    def poison(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
        """Errors that the database gives to whoever calls an activity of that name."""
        errors: dict[str, Exception] = {}
        add = activities.add

        def add_no_poison(cursor: Any, new: Any, *args: Any, **kwargs: Any) -> None:
            for activity in new:
                if activity.name in errors:
                    raise errors[activity.name]
            add(cursor, new, *args, **kwargs)

        monkeypatch.setattr(activities, "add", add_no_poison)
        return errors

    def test_a_turn_that_cannot_be_written_fails_its_orchestration_alone(
        self, bench: Bench, poison: dict[str, Exception]
    ) -> None:
        @bench.orchestrator
        def poisoned(ctx: task.OrchestrationContext, _: None) -> Steps:
            yield ctx.call_activity("poison")

        @bench.orchestrator
        def healthy(ctx: task.OrchestrationContext, _: None) -> str:
            return "fine"

        poison["poison"] = DataError("too toxic")
        bad, good = bench.start(poisoned), bench.start(healthy)
        bench.drain()
        assert bench.output(good) == "fine"
        details = bench.state(bad).failure_details
        assert details is not None
        assert "too toxic" in details.message

    def test_a_database_that_refuses_for_ever(self, bench: Bench, poison: dict[str, Exception]) -> None:
        @bench.orchestrator
        def unlucky(ctx: task.OrchestrationContext, _: None) -> Steps:
            yield ctx.call_activity("poison")

        poison["poison"] = OperationalError("deadlock")
        bench.start(unlucky, instance_id="the-unlucky")
        with pytest.raises(DrainError, match="'the-unlucky' fails each time"):
            bench.drain()


class TestLocalActivities:
    def test_they_run_within_the_turn(self, bench: Bench, settings: Any) -> None:
        settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"LOCAL_SECONDS": 600}

        def save(ctx: task.ActivityContext, name: str) -> str:
            return Group.objects.create(name=name).name

        @bench.orchestrator
        def saving(ctx: task.OrchestrationContext, names: list[str]) -> Steps:
            return (yield task.when_all([ctx.call_activity(save, input=name) for name in names]))

        bench.registry.add_activity(save, local=True)
        names = [f"n{number}" for number in range(1200)]
        one, two = bench.start(saving, names), bench.start(saving, ["a", "b"])
        drained = bench.drain()
        assert (bench.output(one), bench.output(two)) == (names, ["a", "b"])
        assert Group.objects.count() == 1202
        assert drained == Drained(turns=6, activities=1202)

    def test_a_failure_breaks_nothing_and_is_tried_again_in_its_time(self, bench: Bench) -> None:
        attempts: list[int] = []

        def flaky(ctx: task.ActivityContext, _: None) -> str:
            attempts.append(1)
            Group.objects.create(name="once")
            if len(attempts) == 1:
                Group.objects.create(name="once")
            return "done"

        @bench.orchestrator
        def trying(ctx: task.OrchestrationContext, _: None) -> Steps:
            policy = durable_django.RetryPolicy(first_retry_interval=DAY, max_number_of_attempts=2)
            return (yield ctx.call_activity(flaky, retry_policy=policy))

        heard: list[str] = []

        def listen(name: str, **_: Any) -> None:
            heard.append(name)

        bench.registry.add_activity(flaky, local=True)
        signals.activity_failed.connect(listen)
        try:
            with virtual_time(START):
                instance_id = bench.start(trying)
                bench.drain(replay=True)
                assert bench.state(instance_id).runtime_status == RUNNING
                advance(DAY, registry=bench.registry, replay=True)
        finally:
            signals.activity_failed.disconnect(listen)
        assert bench.output(instance_id) == "done"
        assert (len(attempts), heard) == (2, ["flaky"])
        assert Group.objects.get().name == "once"


class TestEndless:
    def test_activities_for_ever(self, bench: Bench) -> None:
        @bench.activity
        def nothing(ctx: task.ActivityContext, _: None) -> None:
            pass

        @bench.orchestrator
        def treadmill(ctx: task.OrchestrationContext, _: None) -> Steps:
            while True:
                yield ctx.call_activity(nothing)

        bench.start(treadmill, instance_id="mill")
        with pytest.raises(DrainError, match=r"after 50 turns, 51 of them of instance 'mill' .*'treadmill'"):
            bench.drain(max_turns=50)
        # Nothing is lost: whoever drains next finds it all.
        bench.client.terminate_orchestration("mill")
        assert bench.drain() == Drained()

    def test_local_activities_for_ever(self, bench: Bench) -> None:
        @bench.orchestrator
        def treadmill(ctx: task.OrchestrationContext, _: None) -> Steps:
            while True:
                yield ctx.call_activity("nothing")

        def nothing(ctx: task.ActivityContext, _: None) -> None:
            pass

        bench.registry.add_activity(nothing, local=True)
        bench.start(treadmill, instance_id="mill")
        with pytest.raises(DrainError, match=r"after 700 turns, 2 of them of instance 'mill' .*'treadmill'"):
            bench.drain(max_turns=700)
        bench.client.terminate_orchestration("mill")
        assert bench.drain() == Drained()

    def test_continue_as_new_for_ever(self, bench: Bench) -> None:
        @bench.orchestrator
        def again(ctx: task.OrchestrationContext, _: None) -> None:
            ctx.continue_as_new(None)

        bench.start(again, instance_id="phoenix")
        with pytest.raises(DrainError, match="'phoenix'"):
            bench.drain(max_turns=50)

    def test_children_for_ever(self, bench: Bench) -> None:
        @bench.orchestrator
        def mirror(ctx: task.OrchestrationContext, _: None) -> Steps:
            yield ctx.call_sub_orchestrator("mirror", instance_id=ctx.new_uuid())

        bench.start(mirror)
        with pytest.raises(DrainError, match="'mirror'"):
            bench.drain(max_turns=50)

    def test_the_activities_of_an_interrupted_drain_can_be_run_by_the_next(self, bench: Bench) -> None:
        @bench.activity
        def same(ctx: task.ActivityContext, number: int) -> int:
            return number

        @bench.orchestrator
        def fan(ctx: task.OrchestrationContext, _: None) -> Steps:
            return (yield task.when_all([ctx.call_activity(same, input=n) for n in range(3)]))

        ids = [bench.start(fan) for _ in range(3)]
        with pytest.raises(DrainError):
            bench.drain(max_turns=2)
        bench.drain()
        assert [bench.output(instance_id) for instance_id in ids] == [[0, 1, 2]] * 3


class TestAdvance:
    def test_it_needs_virtual_time(self, bench: Bench) -> None:
        with pytest.raises(RuntimeError, match="virtual_time"):
            advance(DAY)

    def test_time_does_not_go_back(self, durable_clock: VirtualClock) -> None:
        with pytest.raises(ValueError, match="not go back"):
            advance(-DAY)
        with pytest.raises(ValueError, match="not go back"):
            durable_clock.move(-DAY)

    def test_thirty_days_of_reminders(self, bench: Bench) -> None:
        sent: list[str] = []

        @bench.activity
        def remind(ctx: task.ActivityContext, text: str) -> None:
            sent.append(text)

        @bench.orchestrator
        def trial(ctx: task.OrchestrationContext, name: str) -> Steps:
            ends = ctx.current_utc_datetime + timedelta(days=30)
            paid = ctx.wait_for_external_event("paid")
            while ctx.current_utc_datetime < ends:
                winner = yield task.when_any([paid, ctx.create_timer(timedelta(days=7))])
                if winner is paid:
                    return f"paid {paid.get_result()}"
                yield ctx.call_activity(remind, input=f"{name} {ctx.current_utc_datetime:%d %b}")
            return "expired"

        with virtual_time(START) as clock:
            expiring, paying = bench.start(trial, "ada"), bench.start(trial, "bob")
            bench.advance(timedelta(days=10))
            assert sent == ["ada 08 Mar", "bob 08 Mar"]
            assert clock.now == START + timedelta(days=10)
            bench.client.raise_orchestration_event(paying, "paid", data=12)
            bench.drain()
            assert bench.output(paying) == "paid 12"
            bench.advance(timedelta(days=20))
            assert bench.state(expiring).runtime_status is RUNNING
            bench.advance(timedelta(days=5))
        assert bench.output(expiring) == "expired"
        assert sent[2:] == ["ada 15 Mar", "ada 22 Mar", "ada 29 Mar", "ada 05 Apr"]
        state = bench.state(expiring)
        assert state.created_at == START
        assert state.last_updated_at == START + timedelta(days=35)

    def test_a_long_timer_fires_once_at_its_time(self, bench: Bench) -> None:
        @bench.orchestrator
        def wait(ctx: task.OrchestrationContext, days: int) -> Steps:
            yield ctx.create_timer(timedelta(days=days))
            return ctx.current_utc_datetime.isoformat()

        with virtual_time(START):
            instance_id = bench.start(wait, 10)
            drained = bench.advance(timedelta(days=30))
        assert bench.output(instance_id) == (START + timedelta(days=10)).isoformat()
        assert bench.fired(instance_id) == [START + timedelta(days=days) for days in (3, 6, 9, 10)]
        assert drained == Drained(turns=5)

    def test_a_week_of_retries(self, bench: Bench) -> None:
        attempts: list[datetime] = []

        with virtual_time(START) as clock:

            @bench.activity
            def flaky(ctx: task.ActivityContext, _: None) -> str:
                attempts.append(clock.now)
                if len(attempts) < 4:
                    raise ConnectionError("away")
                return "there"

            @bench.orchestrator
            def patient(ctx: task.OrchestrationContext, _: None) -> Steps:
                policy = task.RetryPolicy(
                    first_retry_interval=DAY, max_number_of_attempts=5, backoff_coefficient=2
                )
                return (yield ctx.call_activity(flaky, retry_policy=policy))

            instance_id = bench.start(patient)
            bench.advance(timedelta(days=7))
        assert bench.output(instance_id) == "there"
        assert attempts == [START + timedelta(days=days) for days in (0, 1, 3, 7)]

    def test_start_at(self, bench: Bench) -> None:
        @bench.orchestrator
        def now(ctx: task.OrchestrationContext, _: None) -> str:
            return ctx.current_utc_datetime.isoformat()

        with virtual_time(START):
            instance_id = bench.start(now, start_at=START + timedelta(hours=5))
            bench.drain()
            assert bench.state(instance_id).runtime_status is PENDING
            bench.advance(DAY)
        assert bench.output(instance_id) == (START + timedelta(hours=5)).isoformat()

    def test_an_eternal_orchestration(self, bench: Bench) -> None:
        ticks: list[int] = []

        @bench.activity
        def tick(ctx: task.ActivityContext, number: int) -> None:
            ticks.append(number)

        @bench.orchestrator
        def eternal(ctx: task.OrchestrationContext, number: int) -> Steps:
            yield ctx.call_activity(tick, input=number)
            yield ctx.create_timer(timedelta(minutes=5))
            ctx.continue_as_new(number + 1)

        with virtual_time(START):
            instance_id = bench.start(eternal, 0)
            bench.advance(timedelta(hours=1))
        assert ticks == list(range(13))
        assert bench.state(instance_id).get_input() == 12


@durable_django.activity(name="testing.shout")
def shout(ctx: task.ActivityContext, text: str) -> str:
    return text.upper()


@durable_django.orchestrator(name="testing.announce")
def announce(ctx: task.OrchestrationContext, text: str) -> Steps:
    yield ctx.create_timer(DAY)
    return (yield ctx.call_activity(shout, input=text))


class AnnouncementTests(TestCase):
    """Django's own test case, with the app-wide registry."""

    instance_id: str

    @classmethod
    def setUpTestData(cls) -> None:
        cls.instance_id = DurableTaskClient().schedule_new_orchestration(announce, input="hear")

    def output(self) -> Any:
        state = DurableTaskClient().get_orchestration_state(self.instance_id)
        assert state is not None
        return state.get_output()

    def test_it_is_loud(self) -> None:
        with virtual_time():
            drain()
            assert self.output() is None
            advance(DAY)
        assert self.output() == "HEAR"

    def test_each_test_starts_from_the_same_data(self) -> None:
        with transaction.atomic(), virtual_time():
            advance(2 * DAY)
        assert self.output() == "HEAR"

    async def test_from_an_event_loop(self) -> None:
        with virtual_time():
            done = await sync_to_async(advance)(DAY)
        assert done == Drained(turns=3, activities=1)
        assert await sync_to_async(self.output)() == "HEAR"
