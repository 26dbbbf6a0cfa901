"""The queue loop when it is held up: by itself, or by a dispatcher whose broker does not answer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.test import override_settings

from durable_django import task
from durable_django.core.registry import Registry
from durable_django.models import ActivityTask
from durable_django.store import activities, clock
from durable_django.store.scope import Served
from durable_django.testing import VirtualClock
from durable_django.worker import queue_loop
from durable_django.worker.dispatch import ActivityDispatcher, Handed
from durable_django.worker.queue_loop import QueueLoop
from tests.worker.byhand import USING, HandWorker, HeldPool, client

pytestmark = pytest.mark.django_db(transaction=True)

QUEUE = "limited"
RATE = {"QUEUE_LIMITS": {QUEUE: {"rate": "20/s"}}}
SECONDS = {"QUEUE_LIMITS": {QUEUE: {"rate": "1/s"}}}


def double(ctx: task.ActivityContext, number: int) -> int:
    return 2 * number


def fan(ctx: task.OrchestrationContext, width: int) -> Generator[task.Task[Any], Any, Any]:
    return (yield task.when_all([ctx.call_activity(double, input=n, queue=QUEUE) for n in range(width)]))


class IdlePool(HeldPool):
    idle_threads = 100


class Stuck(ActivityDispatcher):
    """Waits for a broker that does not answer."""

    begun = threading.Event()
    let_go = threading.Event()

    def dispatch(self, activities: Sequence[Handed]) -> None:
        self.begun.set()
        assert self.let_go.wait(30)


def a_loop(poll_interval: float = 0.05) -> QueueLoop:
    pool: Any = IdlePool(100)
    return QueueLoop(USING, Served(), Registry(), pool, worker="worker", poll_interval=lambda: poll_interval)


class Spool(ActivityDispatcher):
    """A broker: first in, first out."""

    tokens: ClassVar[deque[int]] = deque()

    def dispatch(self, activities: Sequence[Handed]) -> None:
        self.tokens.extend(one.token for one in activities)


def begun(loop: QueueLoop) -> int:
    pool: Any = loop._pool
    return len(pool.leased)


def start(width: int) -> None:
    client().schedule_new_orchestration(fan, input=width)
    HandWorker(fan, activities=[double], slots=0).step()
    assert ActivityTask.objects.count() == width


def look(loop: QueueLoop) -> None:
    loop._look_at = 0.0
    loop.step()


def test_what_has_missed_its_turn_takes_another(durable_clock: VirtualClock) -> None:
    with override_settings(DURABLE_DJANGO=RATE):
        loop = a_loop()
        start(10)
        look(loop)
        assert begun(loop) == 1
        assert len(loop._soon) == 1
        durable_clock.move(timedelta(seconds=0.3))
        look(loop)
        assert begun(loop) == 2, "the second is late, and no third begins along with it"
        durable_clock.move(timedelta(seconds=0.04))
        loop.step()
        assert begun(loop) == 2
        durable_clock.move(timedelta(seconds=0.02))
        loop.step()
        assert begun(loop) == 3


def test_though_one_is_late_no_second_has_too_many(durable_clock: VirtualClock) -> None:
    with override_settings(DURABLE_DJANGO=RATE):
        loop = a_loop()
        start(60)
        look(loop)
        moments = [clock.now()]
        while len(moments) < 60:
            late = loop._limits[QUEUE].latest if len(moments) % 30 == 3 else timedelta()
            durable_clock.move(loop._soon[0][0] - clock.now() + late)
            look(loop)
            moments += [clock.now()] * (begun(loop) - len(moments))
        for moment in moments:
            assert sum(moment <= other < moment + timedelta(seconds=1) for other in moments) <= 20
        assert moments[-1] - moments[0] < timedelta(seconds=3.2)


def test_a_turn_that_is_far_away_is_left_to_whoever_is_there_then(durable_clock: VirtualClock) -> None:
    with override_settings(DURABLE_DJANGO=RATE):
        first = a_loop()
        start(4)
        look(first)
        (_begins, _order, waiting, _missed) = first._soon[0]
    with override_settings(DURABLE_DJANGO=SECONDS):
        second = a_loop()
        durable_clock.move(timedelta(seconds=0.5))
        look(second)
        assert begun(second) == 1
        first._limits = second._limits
        first._look_at = time.monotonic() + 60
        first.step()
        assert begun(first) == 1
        assert not first._soon
        given_back = ActivityTask.objects.get(task_id=waiting.task_id)
        assert (given_back.lease_token, given_back.deliveries) == (None, 0)
        durable_clock.move(timedelta(seconds=1.05))
        look(second)
        assert begun(second) == 2


def test_a_full_queue_is_looked_at_soon_and_more_rarely_while_nothing_ends() -> None:
    """What runs elsewhere ends without a word."""
    with override_settings(DURABLE_DJANGO={"QUEUE_LIMITS": {QUEUE: {"concurrency": 1}}}):
        loop = a_loop(1.0)
        start(3)
        look(loop)
        pauses = [round(next_look(loop), 1) for _ in range(6)]
        assert pauses[0] < 0.2
        assert pauses == sorted(pauses)
        assert pauses[-1] > 0.9
        ActivityTask.objects.get(lease_token__isnull=False).delete()
        look(loop)
        assert begun(loop) == 2
        assert next_look(loop) < 0.2


def test_a_backlog_that_outlasts_its_leases_is_worked_off_all_the_same(durable_clock: VirtualClock) -> None:
    Spool.tokens.clear()
    given = {"BACKEND": f"{__name__}.Spool", "OPTIONS": {"lease_seconds": 10, "batch": 30}}
    with override_settings(DURABLE_DJANGO={"DISPATCHERS": {QUEUE: given}}):
        loop = a_loop()
        start(100)
        messages = 0
        for _second in range(100):
            before = len(Spool.tokens)
            for _look in range(6):
                look(loop)
            messages += len(Spool.tokens) - before
            until = clock.now() + timedelta(hours=1)
            assert activities.take_over(USING, Spool.tokens.popleft(), "engine", until), (
                "it is good for nothing"
            )
            durable_clock.move(timedelta(seconds=1))
        assert messages < 300, "three for each would be many"
        until = clock.now() + timedelta(hours=1)
        assert not any(activities.take_over(USING, token, "engine", until) for token in Spool.tokens)
    assert set(ActivityTask.objects.values_list("worker", "deliveries")) == {("engine", 1)}


def test_an_empty_queue_costs_a_poll() -> None:
    with override_settings(DURABLE_DJANGO={"QUEUE_LIMITS": {QUEUE: {"concurrency": 1, "rate": "9/s"}}}):
        assert next_look(a_loop(1.0)) > 0.9


def next_look(loop: QueueLoop) -> float:
    """Look, and return in how many seconds the next look is due."""
    look(loop)
    return loop._look_at - time.monotonic()


@pytest.fixture
def _let_go() -> Iterator[None]:
    Stuck.begun.clear()
    Stuck.let_go.clear()
    yield
    Stuck.let_go.set()


@pytest.mark.usefixtures("_let_go")
def test_a_worker_stops_though_a_broker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_loop, "_PATIENCE_SECONDS", 0.2)
    path = f"{__name__}.Stuck"
    with override_settings(DURABLE_DJANGO={"DISPATCHERS": {QUEUE: {"BACKEND": path}}}):
        loop = a_loop()
        start(1)
        loop.start()
        assert Stuck.begun.wait(10)
        stopping = threading.Thread(target=loop.stop)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        Stuck.let_go.set()
        assert loop._thread is not None
        loop._thread.join(10)
        assert not loop._thread.is_alive()
    row = ActivityTask.objects.get()
    assert row.lease_token is not None, "it was handed over after all"
    assert activities.take_over(USING, row.lease_token, "engine", row.visible_at.replace(tzinfo=None))
