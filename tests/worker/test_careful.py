"""After a worker's death each instance is run by itself, noted beforehand; and when the loop sleeps."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from durable_django import signals, task
from durable_django.models import ActivityTask
from tests.worker.byhand import HandWorker, assert_sound, assert_tables_are_empty, client, instance, output

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]


def add_one(ctx: task.ActivityContext, number: int) -> int:
    return number + 1


def fail(ctx: task.ActivityContext, _: Any) -> None:
    raise ValueError("no")


def chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    number = 0
    for _ in range(length):
        number = yield ctx.call_activity(add_one, input=number)
    return number


def forgiving(ctx: task.OrchestrationContext, _: Any) -> Steps:
    try:
        yield ctx.call_activity(fail)
    except task.TaskFailedError:
        return "forgiven"


def careful_worker(**options: Any) -> HandWorker:
    worker = HandWorker(chain, forgiving, activities=[add_one, fail], **options)
    worker.careful = True
    return worker


def start(count: int) -> list[str]:
    return [client().schedule_new_orchestration(chain, input=3) for _ in range(count)]


def test_a_careful_worker_is_not_idle_before_all_is_done() -> None:
    worker = careful_worker(slots=2)
    ids = start(60)
    for _ in range(500):
        # As the loop does: looks only when it was told to, or when it is time.
        worker.loop._wake.clear()
        worker.loop.step()
        if worker.loop.is_idle.is_set():
            break
        worker.run_activities()
        assert worker.loop._wake.is_set() or worker.loop.has_results, "it would sleep, with work waiting"
    assert [output(instance_id) for instance_id in ids] == [3] * 60
    for instance_id in ids:
        assert_sound(instance_id)
    assert_tables_are_empty()


def test_each_instance_is_noted_before_it_is_run_and_nobody_afterwards() -> None:
    worker = careful_worker()
    ids = start(3)
    worker.step()
    assert worker.noted == [*sorted(instance(instance_id).pk for instance_id in ids), None]


def test_a_failed_activity_is_signalled_once() -> None:
    told: list[int] = []

    def receive(task_id: int, **_: Any) -> None:
        told.append(task_id)

    worker = careful_worker()
    client().schedule_new_orchestration(forgiving, instance_id="flow")
    start(5)
    signals.activity_failed.connect(receive)
    try:
        worker.settle()
    finally:
        signals.activity_failed.disconnect(receive)
    assert output("flow") == "forgiven"
    assert told == [1]


@pytest.mark.parametrize("careful", [True, False], ids=["careful", "as usual"])
def test_a_worker_without_free_slots_sleeps_until_an_activity_has_ended(careful: bool) -> None:
    worker = careful_worker(slots=1)
    worker.careful = careful
    start(3)
    for _ in range(10):
        worker.step()
    assert len(worker.pool.leased) == 1
    assert ActivityTask.objects.count() == 3
    worker.loop._wake.clear()
    worker.loop.step()
    assert not worker.loop._wake.is_set(), "it must not spin while it cannot take anything"
    worker.settle()
    assert len(worker.ran) == 9


async def think(ctx: task.ActivityContext, number: int) -> int:
    return number


def ponder(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_activity(think, input=1))


def test_a_worker_whose_event_loop_is_full_sleeps_until_an_activity_has_ended() -> None:
    worker = HandWorker(ponder, activities=[think, add_one])
    worker.pool.capacity_on_loop = 0
    client().schedule_new_orchestration(ponder, instance_id="flow")
    for _ in range(5):
        worker.step()
    assert ActivityTask.objects.get().lease_token is None
    assert not worker.loop._wake.is_set(), "threads are free, but no use for what waits"
    worker.pool.capacity_on_loop = 1
    worker.settle()
    assert output("flow") == 1
