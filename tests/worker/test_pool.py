"""The activity pool: how much it takes in, by what activities have taken lately."""

from __future__ import annotations

import asyncio
import itertools
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, transaction

from durable_django.core.context import ActivityContext
from durable_django.core.events import TaskCompletedEvent
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store.activities import Leased
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.pool import ActivityPool
from tests.acceptance.conftest import TIMEOUT, eventually
from tests.factories import NOW

THREADS = 4

Run = Callable[[Callable[..., Any]], ActivityResult]


@pytest.fixture
def pool() -> ActivityPool:
    """Give a pool that has not begun to work."""
    runner = ActivityRunner(Registry(), PayloadCodec(), "w")
    return ActivityPool(runner, lambda _: None, threads=THREADS, concurrent=1)


@pytest.mark.parametrize(("seconds", "ahead"), [(1e-5, 128), (0.02, 5), (0.1, 1), (60.0, 0)])
def test_the_first_activity_says_how_many_may_wait(pool: ActivityPool, seconds: float, ahead: int) -> None:
    pool._learn(max(seconds, 1e-4))
    assert pool.free == THREADS * (1 + ahead)


def test_what_activities_take_is_their_average_at_first(pool: ActivityPool) -> None:
    for seconds in (0.1, 0.2, 0.3, 0.4):
        pool._learn(seconds)
    assert pool._seconds == pytest.approx(0.25)


def test_later_ones_count_for_more(pool: ActivityPool) -> None:
    for _ in range(1000):
        pool._learn(0.1)
    for _ in range(100):
        pool._learn(1e-4)
    assert pool._seconds < 2e-3
    assert pool._weight == pytest.approx(0.05)


def test_only_short_ones_are_about_to_end(pool: ActivityPool) -> None:
    pool._waiting[1] = 0.0
    pool._learn(1e-4)
    assert pool.left == 1
    pool._learn(1.0)
    assert pool.left == 0


def test_a_batch_of_them_may_wait_before_one_has_ended(pool: ActivityPool) -> None:
    assert pool.free == THREADS * (1 + 20)


def test_until_the_first_one_has_ended_nobody_knows_what_they_take(
    pool: ActivityPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_django.worker.pool.time.monotonic", lambda: 1.0)
    untried = [pool.is_untried]
    pool.submit([_leased(1)])
    untried.append(pool.is_untried)
    pool._learn(1e-4)
    untried.append(pool.is_untried)
    assert untried == [False, True, False]


def test_a_first_one_that_takes_long_says_enough(pool: ActivityPool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.submit([_leased(1)])
    now = time.monotonic()
    monkeypatch.setattr("durable_django.worker.pool.time.monotonic", lambda: now + 0.1)
    pool.submit([_leased(2)])
    assert not pool.is_untried


class TestRunning:
    """A pool at work, with one thread and one event loop."""

    @pytest.fixture
    def ran(self) -> Iterator[Run]:
        """Give what runs an activity, each after the one before, in the same pool."""
        registry = Registry()
        results: queue.SimpleQueue[ActivityResult] = queue.SimpleQueue()
        runner = ActivityRunner(registry, PayloadCodec(), "w")
        pool = ActivityPool(runner, results.put, threads=1, concurrent=2)
        pool.start()
        tokens = itertools.count(1)

        def run(activity: Callable[..., Any]) -> ActivityResult:
            if activity.__name__ not in registry.activities:
                registry.add_activity(activity)
            token = next(tokens)
            pool.submit([_leased(token, activity.__name__)])
            result = results.get(timeout=TIMEOUT)
            eventually(lambda: pool.is_idle)
            return result

        yield run
        pool.stop()

    def test_an_exit_in_a_task_of_an_activitys_ends_that_activity_alone(self, ran: Run) -> None:
        async def careless(ctx: ActivityContext, _: None) -> None:
            async def leave() -> None:
                raise SystemExit(1)

            await asyncio.gather(leave())

        for _ in range(2):
            failure = ran(careless).failure
            assert failure is not None
            assert failure.error_type == "builtins.SystemExit"
            assert ran(wait).failure is None

    def test_an_activity_that_stops_its_event_loop_stops_nothing(self, ran: Run) -> None:
        async def stopping(ctx: ActivityContext, _: None) -> None:
            asyncio.get_running_loop().stop()

        for _ in range(2):
            assert ran(stopping).failure is None
            assert ran(wait).failure is None

    def test_activities_that_another_one_cancels_before_they_begin_fail(self) -> None:
        async def nasty(ctx: ActivityContext, _: None) -> None:
            for other in asyncio.all_tasks():
                if other is not asyncio.current_task():
                    other.cancel()

        registry = Registry()
        for activity in (nasty, wait):
            registry.add_activity(activity)
        results: queue.SimpleQueue[ActivityResult] = queue.SimpleQueue()
        pool = ActivityPool(
            ActivityRunner(registry, PayloadCodec(), "w"), results.put, threads=1, concurrent=1
        )
        pool.submit([_leased(1, "nasty"), *(_leased(token, "wait") for token in range(2, 50))])
        found = {results.get(timeout=TIMEOUT).leased.token for _ in range(49)}
        assert found == set(range(1, 50))
        eventually(lambda: pool.is_idle)
        assert pool.tokens() == []
        pool.stop()

    @pytest.mark.django_db(transaction=True)
    def test_an_atomic_block_that_an_async_activity_never_leaves_is_undone(self, ran: Run) -> None:
        async def careless(ctx: ActivityContext, _: None) -> None:
            await sync_to_async(transaction.atomic().__enter__)()

        async def writes(ctx: ActivityContext, _: None) -> None:
            await Group.objects.acreate(name=f"kept {ctx.task_id}")

        async def fails(ctx: ActivityContext, _: None) -> None:
            raise ValueError

        for activity in (writes, careless, fails, writes, writes):
            ran(activity)
        assert Group.objects.count() == 3

    @pytest.mark.django_db(transaction=True)
    def test_an_atomic_block_that_is_never_left_fails_its_activity_alone(self, ran: Run) -> None:
        def careless(ctx: ActivityContext, _: None) -> None:
            transaction.atomic().__enter__()
            Group.objects.create(name="lost")

        def closing(ctx: ActivityContext, _: None) -> None:
            careless(ctx, None)
            connection.close()

        def careful(ctx: ActivityContext, _: None) -> None:
            Group.objects.create(name=f"kept {Group.objects.count()}")

        for number, bad in enumerate((careless, closing, careless)):
            failure = ran(bad).failure
            assert failure is not None
            assert "An atomic block was entered and never left" in failure.message
            assert ran(careful).failure is None
            assert Group.objects.count() == number + 1
        assert not Group.objects.filter(name="lost").exists()

    @pytest.mark.database("postgresql")
    @pytest.mark.django_db(transaction=True)
    def test_async_activities_get_a_new_connection_when_theirs_is_cut(self, ran: Run) -> None:
        async def pid(ctx: ActivityContext, _: None) -> Any:
            return await sync_to_async(ask)("SELECT pg_backend_pid()")

        def ask(sql: str) -> Any:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchone()[0]

        first = ran(pid).event
        assert isinstance(first, TaskCompletedEvent)
        ask(f"SELECT pg_terminate_backend({first.result}, 5000)")
        ran(pid)  # This one fails, unless connections are checked beforehand.
        again = ran(pid).event
        assert isinstance(again, TaskCompletedEvent)
        assert again.result != first.result


async def wait(ctx: ActivityContext, _: None) -> None:
    await asyncio.sleep(0)


def _leased(token: int, name: str = "pay") -> Leased:
    return Leased(token, 1, "order", "execution", token, name, None, "default", None, NOW)
