"""What a step of the turn loop looks at, and in which order it takes on activities."""

from __future__ import annotations

import time
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from durable_django import task
from durable_django.entities import EntityInstanceId
from durable_django.models import ActivityTask, InstanceStatus
from durable_django.store import clock, wakeup
from durable_django.store.exchange import Exchange
from durable_django.testing import VirtualClock
from tests import factories
from tests.worker.byhand import HandWorker, client, output, status

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]


def wait(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.wait_for_external_event("go"))


def one(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_activity(echo, input=ctx.instance_id))


def fan(ctx: task.OrchestrationContext, width: int) -> Steps:
    return (yield task.when_all([ctx.call_activity(echo, input=number) for number in range(width)]))


def echo(ctx: task.ActivityContext, value: str) -> str:
    return value


def look(worker: HandWorker, *hints: str) -> None:
    """Take one step, told what there may be."""
    for hint in hints:
        getattr(worker.loop, hint)()
    worker.loop._wake.clear()
    worker.loop.step()


def settled(*functions: Any, **options: Any) -> HandWorker:
    """Return a worker that has found nothing to do, and need not look again soon."""
    worker = HandWorker(*functions, activities=[echo], **options)
    worker.settle()
    worker.loop._poll_at = float("inf")
    return worker


def test_a_hint_of_a_start_looks_for_new_instances_alone() -> None:
    worker = settled(wait)
    client().schedule_new_orchestration(wait, instance_id="old")
    worker.settle()
    worker.loop._poll_at = float("inf")
    client().raise_orchestration_event("old", "go", data=1)
    client().schedule_new_orchestration(wait, instance_id="new")

    look(worker, "hint_start")

    assert status("new") == InstanceStatus.RUNNING
    assert status("old") == InstanceStatus.RUNNING
    look(worker, "hint")
    assert output("old") == 1


def test_a_hint_of_a_start_that_somebody_else_has_taken_leaves_an_idle_worker_idle() -> None:
    worker = settled(wait)

    look(worker, "hint_start")

    assert worker.loop.is_idle.is_set()
    assert worker.loop._poll_at == float("inf")


@pytest.mark.parametrize("is_careful", [False, True])
@pytest.mark.parametrize("hint", ["hint_start", "hint"])
def test_a_start_to_come_is_not_slept_through(is_careful: bool, hint: str) -> None:
    worker = settled(wait)
    worker.careful = is_careful
    worker.loop._pause = 1000.0
    client().schedule_new_orchestration(wait, start_at=clock.now() + timedelta(seconds=5))

    look(worker, hint)

    assert worker.loop._poll_at <= time.monotonic() + 5


def test_entities_learn_of_signals_to_come(durable_clock: VirtualClock) -> None:
    def remind(ctx: task.OrchestrationContext, seconds: int) -> None:
        due = ctx.current_utc_datetime + timedelta(seconds=seconds) if seconds else None
        ctx.signal_entity(EntityInstanceId("log", "k"), "note", signal_time=due)

    worker = settled(remind)
    told: list[str] = []
    worker.loop.tell_of_entities(lambda _: None, lambda: told.append("later"))
    client().schedule_new_orchestration(remind, input=0)
    look(worker, "hint_start")
    assert told == []
    client().schedule_new_orchestration(remind, input=5)
    look(worker, "hint_start")
    assert told == ["later"]


def test_waking_up_for_nothing_leaves_an_idle_worker_idle() -> None:
    worker = settled(wait)

    look(worker)

    assert worker.loop.is_idle.is_set()


def test_after_a_start_a_worker_looks_again_soon() -> None:
    worker = settled(wait)
    client().schedule_new_orchestration(wait)

    look(worker, "hint_start")

    assert not worker.loop.is_idle.is_set()
    assert worker.loop._poll_at < float("inf")


def test_activities_that_nobody_has_claimed_go_before_new_ones() -> None:
    worker = settled(one, slots=3)
    other = factories.make_instance("other", InstanceStatus.RUNNING, name="one")
    for number in (1, 2):
        factories.make_activity(other, number, name="echo", input="1")
    for number in range(2):
        client().schedule_new_orchestration(one, instance_id=f"new{number}")

    look(worker, "hint")

    assert [leased.instance_id for leased in worker.pool.leased][:2] == ["other", "other"]
    assert len(worker.pool.leased) == 3
    assert ActivityTask.objects.filter(lease_token=None).count() == 1


def test_new_activities_are_left_unclaimed_while_there_may_be_older_ones() -> None:
    worker = settled(one, slots=2)
    other = factories.make_instance("other", InstanceStatus.RUNNING, name="one")
    for number in (1, 2, 3):
        factories.make_activity(other, number, name="echo", input="1")
    client().schedule_new_orchestration(one, instance_id="new")

    look(worker, "hint")

    assert [leased.instance_id for leased in worker.pool.leased] == ["other", "other"]
    assert ActivityTask.objects.filter(lease_token=None).count() == 2


def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what grows by each exchange with the server: by how many answers it had."""
    counts: list[int] = []
    settle = Exchange.settle

    def counted(exchange: Exchange) -> None:
        if exchange._sent:
            counts.append(len(exchange._sent))
        settle(exchange)

    monkeypatch.setattr(Exchange, "settle", counted)
    return counts


@pytest.mark.database("postgresql")
@pytest.mark.parametrize(("hint", "more"), [("hint_start", 0), ("hint", 1)])
def test_a_start_takes_two_exchanges(monkeypatch: pytest.MonkeyPatch, hint: str, more: int) -> None:
    worker = settled(one)
    client().schedule_new_orchestration(one)
    counts = exchanges(monkeypatch)
    look(worker, hint)

    assert len(counts) == 2 + more, counts  # The last exchange is the COMMIT's.
    assert len(worker.pool.leased) == 1


@pytest.mark.database("postgresql")
def test_all_results_of_a_fan_out_are_taken_in_by_three_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = settled(fan)
    client().schedule_new_orchestration(fan, input=40, instance_id="fan")
    look(worker, "hint_start")
    worker.run_activities()
    counts = exchanges(monkeypatch)

    look(worker)

    assert len(counts) == 3, counts  # Of their bundle, of the instance, and the COMMIT's.
    assert output("fan") == list(range(40))


def results_with(
    worker: HandWorker,
    monkeypatch: pytest.MonkeyPatch,
    orchestrator: Any,
    inputs: list[int],
    left: int,
    hint: str | None = None,
) -> int:
    """Return how many results a step takes where all but the ``left`` last activities have ended."""
    client().schedule_new_orchestrations(orchestrator, inputs)
    look(worker, "hint_start")
    slow = worker.pool.leased[-left:]
    del worker.pool.leased[-left:]
    worker.run_activities()
    monkeypatch.setattr(type(worker.pool), "left", property(lambda _: len(slow)))
    monkeypatch.setattr(
        "durable_django.worker.loop.time.sleep", lambda _: worker.loop.deliver(worker.runner.run(slow.pop()))
    )
    for patience in ("_MANY_SECONDS", "_STRAGGLERS_SECONDS"):  # However slow the machine is.
        monkeypatch.setattr(f"durable_django.worker.loop.{patience}", 60.0)
    if hint is not None:
        getattr(worker.loop, hint)()
    return len(worker.loop._gather().results)


@pytest.mark.parametrize(("left", "together"), [(2, 34), (1, 33), (8, 32)])
def test_the_last_few_of_many_short_activities_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, left: int, together: int
) -> None:
    inputs = list(range(32 + left))
    assert results_with(settled(one), monkeypatch, one, inputs, left) == together


@pytest.mark.parametrize(("ended", "left", "together"), [(8, 32, 40), (9, 32, 9), (7, 31, 7), (0, 32, 0)])
def test_few_results_wait_for_many(
    monkeypatch: pytest.MonkeyPatch, ended: int, left: int, together: int
) -> None:
    inputs = list(range(ended + left))
    assert results_with(settled(one), monkeypatch, one, inputs, left) == together


@pytest.mark.parametrize("hint", ["hint", "hint_start"])
def test_new_work_does_not_wait_with_few_results(monkeypatch: pytest.MonkeyPatch, hint: str) -> None:
    worker = settled(one)
    assert results_with(worker, monkeypatch, one, list(range(40)), 32, hint=hint) == 8


@pytest.mark.parametrize(("ended", "left", "together"), [(32, 8, 40), (40, 80, 120), (31, 8, 31)])
def test_all_of_a_fan_outs_short_activities_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, ended: int, left: int, together: int
) -> None:
    worker = settled(fan)
    assert results_with(worker, monkeypatch, fan, [1, ended + left - 1], left) == together


def test_the_first_activities_of_all_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = settled(one)
    client().schedule_new_orchestrations(one, [1, 2])
    look(worker, "hint_start")
    worker.pool.is_untried = True

    def sleep(_: float) -> None:
        worker.run_activities()
        worker.pool.is_untried = False

    monkeypatch.setattr("durable_django.worker.loop.time.sleep", sleep)
    assert len(worker.loop._gather().results) == 2


def test_the_first_activities_of_all_are_not_waited_for_long() -> None:
    worker = settled(one)
    client().schedule_new_orchestrations(one, [1, 2])
    look(worker, "hint_start")
    worker.pool.is_untried = True
    assert worker.loop._gather().results == []


def test_stragglers_that_do_not_come_are_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = settled(fan)
    client().schedule_new_orchestration(fan, input=33, instance_id="fan")
    look(worker, "hint_start")
    del worker.pool.leased[32:]
    worker.run_activities()
    monkeypatch.setattr(type(worker.pool), "left", property(lambda _: 1))
    assert len(worker.loop._gather().results) == 32


def test_a_look_waits_a_little_for_results_that_are_about_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = settled(one)
    worker.loop._poll_at = time.monotonic() - 0.01
    assert worker.loop._gather().scan
    monkeypatch.setattr(type(worker.pool), "left", property(lambda _: 1))
    assert not worker.loop._gather().scan
    worker.loop._poll_at -= 1.0  # Not for ever: others may have something for it.
    assert worker.loop._gather().scan
    worker.loop._poll_at = float("inf")
    worker.loop.hint()
    assert worker.loop._gather().scan


def test_a_look_waits_a_little_for_results_that_are_there() -> None:
    worker = settled(one)
    client().schedule_new_orchestration(one, instance_id="one")
    look(worker, "hint_start")
    worker.run_activities()
    worker.loop._poll_at = time.monotonic() - 0.01

    work = worker.loop._gather()

    assert (len(work.results), work.scan) == (1, False)
    assert worker.loop._gather().scan, "nothing is there any more"


def test_a_look_does_not_wait_for_ever_for_results_that_go_on_coming() -> None:
    worker = settled(one)
    client().schedule_new_orchestration(one, instance_id="one")
    look(worker, "hint_start")
    worker.run_activities()
    worker.loop._poll_at = time.monotonic() - 1.0

    work = worker.loop._gather()

    assert (len(work.results), work.scan) == (1, True)


def crowded(worker: HandWorker, count: int) -> list[str]:
    """Have as many instances go on as one batch moves, and one more wait for its start; return their ids."""
    ids = client().schedule_new_orchestrations(chain, [3] * count)
    look(worker, "hint_start")
    look(worker, "hint_start")  # And sees that there are no more.
    worker.run_activities()
    client().schedule_new_orchestration(chain, input=1, instance_id="new")
    return ids


def chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    for number in range(length):
        yield ctx.call_activity(echo, input=number)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results leave no room for as long as they come."""
    monkeypatch.setattr("durable_django.worker.intake._PATIENCE_SECONDS", float("inf"))


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("hint", ["hint", "hint_start"])
@pytest.mark.parametrize("stop", [None, "suspend_orchestration", "terminate_orchestration"])
def test_results_that_leave_no_room_have_it_look_again_in_a_moment(hint: str, stop: str | None) -> None:
    worker = settled(chain, batch_instances=10)
    ids = crowded(worker, 10)
    for instance_id in ids if stop else ():
        getattr(client(), str(stop))(instance_id)
    worker.loop._poll_at, worker.loop._pause = float("inf"), 60.0

    look(worker, hint)

    assert status("new") == InstanceStatus.PENDING
    assert not worker.loop._hinted, "not at once: the next results are about to come"
    assert not worker.loop.is_idle.is_set()
    assert worker.loop._poll_at <= time.monotonic() + 0.1
    look(worker, hint)
    assert status("new") == InstanceStatus.RUNNING


def test_results_that_leave_no_room_hold_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = settled(chain, batch_instances=10)
    crowded(worker, 10)
    monkeypatch.setattr("durable_django.worker.intake._PATIENCE_SECONDS", 0.0)

    look(worker, "hint_start")

    assert status("new") == InstanceStatus.RUNNING


def silent(ctx: task.OrchestrationContext, _: Any) -> str:
    return "done"


def failing(ctx: task.OrchestrationContext, _: Any) -> None:
    raise ValueError("no")


def again(ctx: task.OrchestrationContext, left: int) -> None:
    if left:
        ctx.continue_as_new(left - 1)


def test_clients_are_told_of_ends_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(wakeup.Outbox, "changes", lambda _, ids, **__: told.extend(ids))
    worker = settled(wait, one, silent, failing, again)
    for orchestrator in (wait, one, silent, failing):
        client().schedule_new_orchestration(orchestrator, instance_id=orchestrator.__name__)
    client().schedule_new_orchestration(again, input=1, instance_id="again")

    look(worker, "hint_start")

    assert sorted(told) == ["again", "failing", "silent"]
    told.clear()
    worker.settle()
    assert sorted(told) == ["again", "one"]
