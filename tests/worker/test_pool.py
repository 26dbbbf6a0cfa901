"""The activity pool: how much it takes in, by what activities have taken lately."""

from __future__ import annotations

import time

import pytest

from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store.activities import Leased
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.pool import ActivityPool
from tests.factories import NOW

THREADS = 4


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


def _leased(token: int) -> Leased:
    return Leased(token, 1, "order", "execution", token, "pay", None, "default", None, NOW)
