"""Bundles while much happens at once: slow turns, terminations, restarts, rewinds, two workers at random."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from unittest.mock import Mock, patch

import pytest
from django.db import OperationalError, connections, transaction

from durable_django import task
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.models import ActivityBundle, InstanceStatus
from durable_django.store import activities, bundles, clock, instances, rewinds, workers
from durable_django.store.commits import Batch
from durable_django.worker import turns
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.pool import ActivityPool
from durable_django.worker.upkeep import Upkeep, Watch
from durable_django.worker.work import Work
from tests.worker.byhand import (
    USING,
    HandWorker,
    assert_sound,
    assert_tables_are_empty,
    client,
    elsewhere,
    instance,
    output,
    status,
)

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]

WIDTH = bundles.LEAST + 4
SILENCE = timedelta(seconds=30)
_failing: set[int] = set()


def echo(ctx: task.ActivityContext, number: int) -> int:
    if number in _failing:
        raise ValueError(f"not {number}")
    return number


def fan(ctx: task.OrchestrationContext, width: int) -> Steps:
    return (yield task.when_all([ctx.call_activity(echo, input=number) for number in range(width)]))


@pytest.fixture(autouse=True)
def _all_is_as_before() -> Iterator[None]:
    before = clock._offset
    yield
    clock._offset = before
    _failing.clear()


def run(hand: HandWorker, task_ids: range | set[int]) -> None:
    """Run the activities of these task ids, and hand in their results."""
    chosen = [leased for leased in hand.pool.leased if leased.task_id in task_ids]
    hand.pool.leased = [leased for leased in hand.pool.leased if leased not in chosen]
    hand.ran += chosen
    for leased in chosen:
        hand.loop.deliver(hand.runner.run(leased))


def enter(name: str) -> None:
    workers.add(USING, workers.Identity(name, "", None, None, None), workers.Load())


def bury() -> int:
    return workers.bury_dead(USING, SILENCE)


def test_calls_that_were_to_be_local_are_not_lost_where_they_are_not() -> None:
    before, ours = HandWorker(fan, name="before"), HandWorker(fan, activities=[echo], name="ours")
    before.processor.options.registry.add_activity(echo, local=True)
    for name, width in (("flow", WIDTH), ("other", 1)):  # Two in a batch: local activities are postponed.
        client().schedule_new_orchestration(fan, input=width, instance_id=name)
    before.processor.run(Work(scan=True, starts=100))
    for _ in range(5):
        ours.step()
    ours.bundles.dissolve()
    ours.settle()
    assert output("flow") == list(range(WIDTH))
    assert set(Counter((one.instance, one.task_id) for one in ours.ran).values()) == {1}
    assert_tables_are_empty()


def test_what_a_restarted_instance_had_left_running_is_dropped() -> None:
    is_first = [True]

    def flow(ctx: task.OrchestrationContext, width: int) -> Steps:
        if is_first:
            calls = [ctx.call_activity(echo, input=number) for number in range(width)]
            yield calls[0]
            return "first"
        yield ctx.wait_for_external_event("go")
        return "second"

    ours, other = (HandWorker(flow, activities=[echo], name=name) for name in ("ours", "other"))
    client().schedule_new_orchestration(flow, input=WIDTH, instance_id="flow")
    ours.step()
    run(ours, range(1, 2))
    ours.step()
    assert output("flow") == "first"
    is_first.clear()
    client().restart_orchestration("flow")
    ours.step()
    run(ours, range(2, WIDTH))
    ours.step()
    ours.bundles.dissolve()
    clock.move(timedelta(minutes=5))
    other.settle()
    assert not other.ran
    client().raise_orchestration_event("flow", "go")
    other.settle()
    assert output("flow") == "second"
    assert_tables_are_empty()


@pytest.mark.database("postgresql")
def test_who_buries_a_worker_meanwhile_has_nothing_of_a_terminated_instance_run() -> None:
    ours, other = (HandWorker(fan, activities=[echo], name=name) for name in ("ours", "other"))
    enter("ours")
    client().schedule_new_orchestration(fan, input=WIDTH, instance_id="flow")
    ours.step()
    clock.move(2 * SILENCE)
    real = instances.delete_work

    def delete_work(*args: Any) -> None:
        real(*args)
        elsewhere(bury)

    with patch.object(instances, "delete_work", delete_work):
        client().terminate_orchestration("flow")
    assert status("flow") == InstanceStatus.TERMINATED
    other.settle()
    assert not other.ran
    assert_tables_are_empty()


@pytest.mark.database("postgresql")
def test_a_slow_turn_keeps_nobody_from_signs_of_life() -> None:
    goes_on, is_slow = threading.Event(), threading.Event()

    def flow(ctx: task.OrchestrationContext, width: int) -> Steps:
        calls = [ctx.call_activity(echo, input=number) for number in range(width)]
        yield calls[0]
        is_slow.set()
        goes_on.wait(30)
        return (yield task.when_all(calls))

    ours = HandWorker(flow, activities=[echo], name="ours")
    enter("ours")
    enter("third")
    client().schedule_new_orchestration(flow, input=WIDTH, instance_id="flow")
    ours.step()
    run(ours, range(1, 2))

    def step() -> None:
        ours.step()
        connections.close_all()

    turn = threading.Thread(target=step)
    turn.start()
    assert is_slow.wait(10)
    beat = Mock()
    runner = ActivityRunner(Registry(), PayloadCodec(), "w")
    pool = ActivityPool(runner, lambda _: None, threads=1, concurrent=1)
    upkeep = Upkeep(USING, "ours", pool, ours.bundles, Watch(), tend=lambda: False, beat=beat)
    for held in ours.bundles._held.values():
        held.since -= 5
    try:
        elsewhere(upkeep._keep_up)
        assert beat.called
        elsewhere(lambda: ours.bundles.give_back(ours.pool.tokens()))
        clock.move(2 * SILENCE)
        elsewhere(lambda: workers.beat(USING, "third", workers.Load(), None, None))
        elsewhere(bury)  # As if nothing had been heard of it: its turn shows that it is alive.
        elsewhere(lambda: workers.beat(USING, "third", workers.Load(), None, None))
        bundles.sweep(USING)
        assert ActivityBundle.objects.count() == 1
    finally:
        goes_on.set()
        turn.join(30)
    ours.bundles.give_back()
    ours.pool.leased.clear()
    ours.settle()
    assert output("flow") == list(range(WIDTH))
    assert set(Counter(one.task_id for one in ours.ran).values()) == {1}


@pytest.mark.database("postgresql")
def test_those_that_start_over_across_two_workers_bundles_do_not_block_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flow(ctx: task.OrchestrationContext, width: int) -> Steps:
        for number in range(width):
            ctx.call_activity(echo, input=number)
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(0)

    hands = [HandWorker(flow, fan, activities=[echo], name=name) for name in ("a", "b")]
    for hand, name in zip(hands, ("x", "y"), strict=True):
        client().schedule_new_orchestration(flow, input=WIDTH, instance_id=name)
        client().schedule_new_orchestration(fan, input=2, instance_id=f"{name} beside")
        hand.step()
    assert ActivityBundle.objects.count() == 2
    for name in ("x", "y"):
        client().raise_orchestration_event(name, "go")
    barrier = threading.Barrier(2, timeout=3)

    def go(hand: HandWorker, mine: str, others: str) -> None:
        real = hand.processor.intake._record

        def record(*args: Any) -> Any:
            found = real(*args)
            with suppress(threading.BrokenBarrierError):
                barrier.wait()
            return found

        beside = instance(f"{mine} beside").pk
        leased = next(one for one in hand.pool.leased if one.instance == beside)
        work = Work([hand.runner.run(leased)], {instance(others).pk})
        with patch.object(hand.processor.intake, "_record", record):
            hand.processor.run(work)
        connections.close_all()

    arguments = ((hands[0], "x", "y"), (hands[1], "y", "x"))
    threads = [threading.Thread(target=go, args=args) for args in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert "deadlock" not in caplog.text
    assert {instance(name).turn for name in ("x", "y")} == {2}


def child(ctx: task.OrchestrationContext, width: int) -> Steps:
    for number in range(width):
        ctx.call_activity(echo, input=number)
    yield ctx.wait_for_external_event("die")
    raise ValueError("child")


def parent(ctx: task.OrchestrationContext, width: int) -> Steps:
    yield ctx.wait_for_external_event("call")
    called = ctx.call_sub_orchestrator(child, input=width, instance_id="child")
    yield ctx.wait_for_external_event("more")
    for number in range(width):
        ctx.call_activity(echo, input=number)
    return (yield called)


@pytest.mark.database("postgresql")
def test_a_rewind_of_a_family_and_a_turn_do_not_block_each_other(caplog: pytest.LogCaptureFixture) -> None:
    ours = HandWorker(parent, child, activities=[echo], name="ours")
    client().schedule_new_orchestration(parent, input=WIDTH, instance_id="parent")
    ours.step()
    # The child's bundle comes first, the parent is rewound first.
    for event, token in (("call", 2**40), ("more", 2**41)):
        client().raise_orchestration_event("parent", event)
        with patch.object(activities, "new_token", return_value=token):
            for _ in range(3):
                ours.step()
    assert ActivityBundle.objects.count() == 2
    client().raise_orchestration_event("child", "die")
    for _ in range(4):
        ours.step()
    assert status("parent") == InstanceStatus.FAILED
    by_key = {leased.instance: leased for leased in ours.pool.leased}
    work = Work([ours.runner.run(leased) for leased in by_key.values()])
    copy = rewinds._Rewind._history

    def record() -> None:
        ours.processor.run(work)
        connections.close_all()

    turn = threading.Thread(target=record)

    def copy_history(*args: Any) -> Any:
        if turn.ident is None:
            turn.start()
            turn.join(0.5)
        return copy(*args)

    with patch.object(rewinds._Rewind, "_history", copy_history):
        client().rewind_orchestration("parent")
    turn.join(20)
    assert "deadlock" not in caplog.text
    assert not ActivityBundle.objects.exists()


# ------------------------------------------------------------------------------------- at random


def wild(ctx: task.OrchestrationContext, given: list[Any]) -> Steps:
    """Call many, wait for all, any or the first of them, and start over as often as is wanted."""
    waits_for, rounds = given
    policy = task.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=50)
    calls = [ctx.call_activity(echo, input=number, retry_policy=policy) for number in range(WIDTH)]
    if waits_for == "any":
        yield task.when_any(calls)
    elif waits_for == "first":
        yield calls[0]
    else:
        yield task.when_all(calls)
    if rounds:
        ctx.continue_as_new([waits_for, rounds - 1])
    return "over"


def _lose_a_commit(hand: HandWorker, rng: random.Random) -> None:
    lost = OperationalError("the connection is lost")
    with (
        patch.object(hand.processor, rng.choice(["_keep", "_leave"]), side_effect=lost),
        patch.object(turns, "_is_away", return_value=True),
        suppress(OperationalError),
    ):
        hand.step()


def _break_a_batch(hand: HandWorker) -> None:
    real = hand.processor._leave
    broken: list[bool] = []

    def leave(*args: Any) -> None:
        if not broken:
            broken.append(True)
            raise ValueError("a bad batch")
        real(*args)

    with patch.object(hand.processor, "_leave", leave), suppress(ValueError):
        hand.step()


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, str, int]]:
    """Count the activities that are called from now on, retries included, once that is committed."""
    called: Counter[tuple[int, str, int]] = Counter()
    write = Batch.write

    def counting(batch: Batch) -> Any:
        own = [(one.pk, one.execution_id, event.event_id) for one, event in batch._own + batch._handed_on]
        others = [(new.instance, new.execution_id, new.task_id) for new in batch._activities]
        transaction.on_commit(lambda: called.update(own + others), using=USING)
        return write(batch)

    monkeypatch.setattr(Batch, "write", counting)
    return called


def _give_half_back(hand: HandWorker) -> None:
    half = len(hand.pool.leased) // 2
    back = hand.pool.leased[half:]
    del hand.pool.leased[half:]
    hand.bundles.give_back([leased.token for leased in back])


@pytest.mark.parametrize("loses_commits", [False, True], ids=["all is known", "commits are lost"])
@pytest.mark.parametrize("seed", range(10))
def test_each_is_run_and_recorded_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, seed: int, *, loses_commits: bool
) -> None:
    rng = random.Random(seed)
    hands = [HandWorker(wild, activities=[echo], name=name) for name in ("a", "b")]
    names = [f"flow-{number}" for number in range(4)]
    for name in names:
        given = [rng.choice(["any", "first", "all"]), rng.choice([0, 0, 1, 2])]
        client().schedule_new_orchestration(wild, input=given, instance_id=name)
    actions: list[tuple[Callable[[HandWorker], Any], int]] = [
        (HandWorker.step, 20),
        (lambda hand: hand.loop.step(), 20),
        (lambda hand: run(hand, set(rng.sample(range(1, WIDTH + 1), 12))), 30),
        (lambda hand: hand.bundles.dissolve(), 8),
        (_give_half_back, 7),
        (lambda _: client().suspend_orchestration(rng.choice(names)), 5),
        (lambda _: client().resume_orchestration(rng.choice(names)), 8),
        (lambda hand: _lose_a_commit(hand, rng), 5 if loses_commits else 0),
        (_break_a_batch, 3),
        (lambda _: clock.move(timedelta(seconds=2)), 4),
    ]
    called = _count_calls(monkeypatch)
    for _ in range(60):
        _failing.clear()
        _failing.update(rng.sample(range(WIDTH), rng.choice([0, 0, 5])))
        (action,) = rng.choices([action for action, _ in actions], [weight for _, weight in actions])
        action(rng.choice(hands))
    _failing.clear()
    for name in names:
        client().resume_orchestration(name)
    for _ in range(12):
        for hand in hands:
            hand.settle()
        clock.move(timedelta(minutes=3))
        bundles.sweep(USING)
    for name in names:
        assert output(name) == "over"
        assert_sound(name)
    assert_tables_are_empty()
    ran = Counter((one.instance, one.execution_id, one.task_id) for hand in hands for one in hand.ran)
    assert ran >= called if loses_commits else ran == called
