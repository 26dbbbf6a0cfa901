"""Two workers on one database: held instances, leases that run out, races."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from durable_django import task
from durable_django.core import events
from durable_django.models import ActivityTask, Instance, InstanceStatus, Message, MessageKind
from durable_django.store import activities, clock
from durable_django.worker.work import Work
from tests.worker.byhand import (
    USING,
    HandWorker,
    assert_sound,
    assert_tables_are_empty,
    client,
    elsewhere,
    held_by_another,
    instance,
    output,
    status,
)

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]


def double(ctx: task.ActivityContext, number: int) -> int:
    return 2 * number


def chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    number = 1
    for _ in range(length):
        number = yield ctx.call_activity(double, input=number)
    return number


def fan(ctx: task.OrchestrationContext, width: int) -> Steps:
    return (yield task.when_all([ctx.call_activity(double, input=number) for number in range(width)]))


def worker(name: str, **options: Any) -> HandWorker:
    return HandWorker(chain, fan, activities=[double], name=name, **options)


@pytest.fixture(autouse=True)
def _clock_comes_back() -> Iterator[None]:
    before = clock._offset
    yield
    clock._offset = before


# ------------------------------------------------------------------------------------- held instances


@pytest.mark.database("postgresql")
def test_a_result_whose_instance_another_worker_holds_waits_in_its_inbox() -> None:
    ours = worker("ours")
    for instance_id in ("held", "free"):
        client().schedule_new_orchestration(chain, input=2, instance_id=instance_id)
    ours.step()
    ours.run_activities()
    with held_by_another("held"):
        ours.step()
        ours.settle()
        assert output("free") == 4
        message = Message.objects.get()
        assert (message.kind, message.task_id) == (MessageKind.TASK_COMPLETED, 1)
        assert (message.instance_id, message.held) == (instance("held").pk, False)
        assert not ActivityTask.objects.exists()
    ours.settle()
    assert output("held") == 4
    history = assert_sound("held")
    assert [event.result for event in history if isinstance(event, events.TaskCompletedEvent)] == ["2", "4"]
    assert len(ours.ran) == 4
    assert_tables_are_empty()


@pytest.mark.database("postgresql")
def test_a_worker_looks_again_soon_for_an_instance_that_another_one_holds() -> None:
    ours = worker("ours")
    client().schedule_new_orchestration(chain, input=1, instance_id="held")
    ours.settle()
    client().schedule_new_orchestration(chain, input=1, instance_id="held2")
    ours.step()
    ours.run_activities()
    ours.loop._poll_at = float("inf")
    with held_by_another("held2"):
        ours.loop.step()
    assert ours.loop._poll_at < float("inf"), "the result went into the inbox of whoever comes first"


def test_a_result_of_a_suspended_instance_waits_in_its_inbox() -> None:
    ours = worker("ours")
    client().schedule_new_orchestration(chain, input=2, instance_id="flow")
    ours.step()
    client().suspend_orchestration("flow")
    ours.run_activities()
    ours.settle()
    assert Message.objects.get().held
    assert not ActivityTask.objects.exists()
    client().resume_orchestration("flow")
    ours.settle()
    assert output("flow") == 4
    assert len(ours.ran) == 2
    assert_sound("flow")


# ------------------------------------------------------------------------------------- leases


def test_an_activity_whose_lease_has_run_out_is_taken_over_and_recorded_once() -> None:
    first, second = worker("first"), worker("second")
    for number in range(20):
        client().schedule_new_orchestration(chain, input=2, instance_id=f"flow{number}")
    first.step()
    assert len(first.pool.leased) == 20
    clock.move(timedelta(seconds=59))
    second.settle()
    assert not second.ran, "the leases are good for a minute"
    clock.move(timedelta(seconds=2))
    second.step()
    assert len(second.pool.leased) == 20
    assert set(ActivityTask.objects.values_list("deliveries", "worker")) == {(2, "second")}

    first.run_activities()  # Late, and under load: the other one is running the same right now.
    first.step()
    assert not first.loop.has_results
    assert ActivityTask.objects.count() == 20, "a late result is dropped"
    second.settle()
    first.settle()
    for number in range(20):
        assert output(f"flow{number}") == 4
        history = assert_sound(f"flow{number}")
        who = [event.worker for event in history if isinstance(event, events.TaskCompletedEvent)]
        assert who[0] == "second"
        assert len(who) == 2
    assert_tables_are_empty()


def test_a_lease_that_is_renewed_is_not_taken_over() -> None:
    first, second = worker("first"), worker("second")
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    first.step()
    for _ in range(5):
        clock.move(timedelta(seconds=40))
        activities.renew(USING, first.pool.tokens(), clock.now() + timedelta(seconds=60))
        second.settle()
    assert not second.ran
    first.settle()
    assert output("flow") == 2


def test_a_lease_that_has_run_out_is_still_its_holders_until_somebody_takes_it() -> None:
    first = worker("first")
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    first.step()
    clock.move(timedelta(hours=1))
    first.run_activities()
    first.loop.step()
    assert output("flow") == 2
    assert len(first.ran) == 1


def test_a_result_that_comes_after_a_takeover_has_been_recorded_is_dropped() -> None:
    first, second = worker("first"), worker("second")
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    first.step()
    clock.move(timedelta(seconds=61))
    second.settle()
    assert output("flow") == 2
    first.run_activities()
    first.settle()
    assert output("flow") == 2
    assert_sound("flow")


def test_activities_of_a_purged_instance_are_thrown_away() -> None:
    ours = worker("ours")
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    ours.step()
    key = instance("flow").pk
    ActivityTask.objects.update(lease_token=None, visible_at=clock.aware(clock.now()))
    Instance.objects.filter(pk=key).delete()
    ours.pool.leased.clear()
    ours.settle()
    assert not ours.ran
    assert not ActivityTask.objects.exists()


# ------------------------------------------------------------------------------------- races


def race(workers: list[HandWorker], is_done: Callable[[], bool]) -> None:
    """Let workers move what there is, each in a thread of its own, until all is done."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(workers))

    def work(one: HandWorker) -> None:
        try:
            barrier.wait()
            for _ in range(5000):
                one.processor.run(Work(keys=keys, scan=True, starts=50))
                one.step()
                one.run_activities()
                if is_done():
                    return
            raise AssertionError("not done after 5000 steps")
        except BaseException as error:  # noqa: BLE001 - told in the test's thread
            failures.append(error)
        finally:
            connections.close_all()

    keys = set(Instance.objects.values_list("pk", flat=True))
    threads = [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_workers_that_race_for_the_same_instances_write_each_event_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(20):
        client().schedule_new_orchestration(chain, input=5, instance_id=f"chain{number}")
    for number in range(4):
        client().schedule_new_orchestration(fan, input=30, instance_id=f"fan{number}")

    def is_done() -> bool:
        return not Instance.objects.exclude(status=InstanceStatus.COMPLETED).exists()

    workers = [worker("one", slots=3), worker("two", slots=3), worker("three", slots=3)]
    race(workers, is_done)
    for number in range(20):
        assert output(f"chain{number}") == 32
        assert_sound(f"chain{number}")
    for number in range(4):
        assert output(f"fan{number}") == [2 * n for n in range(30)]
        assert_sound(f"fan{number}")
    assert sum(len(one.ran) for one in workers) == 20 * 5 + 4 * 30
    # The tripwire is for the case that all else fails: nothing may ever run into it.
    assert "durable_history_sequence" not in caplog.text
    assert "tried again" not in caplog.text
    assert_tables_are_empty()


def test_the_tripwire_holds_where_two_workers_have_fed_the_same_execution() -> None:
    """A stale read of the row, as no lock would allow: the second writer fails, is undone and reads again."""
    ours, theirs = worker("ours"), worker("theirs")
    client().schedule_new_orchestration(chain, input=2, instance_id="flow")
    ours.step()
    elsewhere(theirs.step)
    stale = instance("flow").next_sequence
    ours.run_activities()
    ours.step()
    Instance.objects.filter(instance_id="flow").update(next_sequence=stale)
    Message.objects.create(
        instance=instance("flow"), kind=MessageKind.EVENT, name="x", visible_at=clock.aware(clock.now())
    )
    theirs.step()
    assert instance("flow").next_sequence == stale
    assert status("flow") is InstanceStatus.RUNNING
    assert instance("flow").tries > 0
