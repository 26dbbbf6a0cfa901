"""Many activities in one row: each runs, and its result counts once, whatever becomes of their worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import Mock, patch

import pytest
from django.db import OperationalError

from durable_django import task
from durable_django.core import events
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.models import ActivityBundle, ActivityTask, Instance, InstanceStatus, Message
from durable_django.store import activities, bundles, clock, control, monitoring, retention, workers
from durable_django.store.bundles import LEAST
from durable_django.worker import turns
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.bundles import LONGEST_SECONDS, Bundles
from durable_django.worker.pool import ActivityPool
from durable_django.worker.upkeep import Upkeep, Watch
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

WIDTH = LEAST + 8
SILENCE = timedelta(seconds=30)
_refused: set[int] = set()
"""The numbers that `double` fails for."""


def double(ctx: task.ActivityContext, number: int) -> int:
    if number in _refused:
        raise ValueError(f"not {number}")
    return 2 * number


def fan(ctx: task.OrchestrationContext, width: int) -> Steps:
    return (yield task.when_all([ctx.call_activity(double, input=number) for number in range(width)]))


def impatient(ctx: task.OrchestrationContext, width: int) -> Steps:
    calls = [ctx.call_activity(double, input=number) for number in range(width)]
    yield calls[0]
    return (yield task.when_all(calls))


def careless(ctx: task.OrchestrationContext, width: int) -> Steps:
    calls = [ctx.call_activity(double, input=number) for number in range(width)]
    return (yield calls[0])


def stubborn(ctx: task.OrchestrationContext, width: int) -> Steps:
    policy = task.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)
    calls = [ctx.call_activity(double, input=number, retry_policy=policy) for number in range(width)]
    return (yield task.when_all(calls))


def hasty(ctx: task.OrchestrationContext, given: list[int]) -> Steps:
    rounds, width = given
    if not rounds:
        return "over"
    yield task.when_any([ctx.call_activity(double, input=number) for number in range(width)])
    ctx.continue_as_new([rounds - 1, width])
    return None


def one(ctx: task.OrchestrationContext, number: int) -> Steps:
    return (yield ctx.call_activity(double, input=number))


def worker(name: str = "ours") -> HandWorker:
    return HandWorker(fan, impatient, careless, stubborn, hasty, one, activities=[double], name=name)


def start(orchestrator: Callable[..., Any] = fan, given: Any = WIDTH, instance_id: str = "flow") -> None:
    client().schedule_new_orchestration(orchestrator, input=given, instance_id=instance_id)


def run_some(ours: HandWorker, numbers: Iterator[int] | range) -> None:
    """Run the activities of these task ids, and hand in their results."""
    chosen = [leased for leased in ours.pool.leased if leased.task_id in numbers]
    ours.pool.leased = [leased for leased in ours.pool.leased if leased not in chosen]
    ours.ran += chosen
    for leased in chosen:
        ours.loop.deliver(ours.runner.run(leased))


def enter(name: str) -> None:
    """Write a worker's row, as of one that has been silent for long."""
    workers.add(USING, workers.Identity(name, "", None, None, None), workers.Load())
    clock.move(2 * SILENCE)


def bury() -> int:
    return workers.bury_dead(USING, SILENCE)


def rows_of_activities() -> list[tuple[int, str | None]]:
    return list(ActivityTask.objects.order_by("task_id").values_list("task_id", "worker"))


def runs(*hands: HandWorker) -> Counter[int]:
    """Return how often each task was run."""
    return Counter(leased.task_id for hand in hands for leased in hand.ran)


@pytest.fixture(autouse=True)
def _all_is_as_before() -> Iterator[None]:
    before = clock._offset
    yield
    clock._offset = before
    _refused.clear()


# ------------------------------------------------------------------------------------- as it should be


def test_many_activities_share_a_row_until_all_have_ended() -> None:
    ours = worker()
    start()
    ours.step()
    assert ActivityBundle.objects.get().worker == "ours"
    assert not ActivityTask.objects.exists()
    assert len({leased.token for leased in ours.pool.leased}) == WIDTH
    run_some(ours, range(WIDTH - 1))
    ours.step()
    assert ActivityBundle.objects.count() == 1
    ours.settle()
    assert not ActivityBundle.objects.exists()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(ours).values()) == {1}
    assert_sound("flow")
    assert_tables_are_empty()


def test_those_of_several_instances_share_it() -> None:
    ours = worker()
    for number in range(WIDTH):
        start(one, number, f"flow-{number}")
    ours.step()
    assert ActivityBundle.objects.count() == 1
    assert not ActivityTask.objects.exists()
    ours.settle()
    assert [output(f"flow-{number}") for number in range(WIDTH)] == [2 * n for n in range(WIDTH)]
    assert_tables_are_empty()


def test_a_few_get_rows_of_their_own() -> None:
    ours = worker()
    start(given=LEAST - 1)
    ours.step()
    assert not ActivityBundle.objects.exists()
    assert ActivityTask.objects.filter(worker="ours").count() == LEAST - 1
    ours.settle()
    assert_tables_are_empty()


def test_what_this_worker_has_no_room_for_gets_rows_for_others() -> None:
    ours, other = HandWorker(fan, activities=[double], slots=LEAST, name="ours"), worker("other")
    start()
    ours.step()
    assert ActivityBundle.objects.count() == 1
    assert rows_of_activities() == [(number, None) for number in range(LEAST + 1, WIDTH + 1)]
    other.step()
    other.run_activities()
    other.step()
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(ours, other).values()) == {1}
    assert_tables_are_empty()


# ------------------------------------------------------------------------------------- crashes


def test_a_dead_workers_activities_go_to_another_one_but_for_those_that_are_recorded() -> None:
    ours, other = worker(), worker("other")
    enter("ours")
    start()
    ours.step()
    run_some(ours, range(1, 11))
    ours.step()
    run_some(ours, range(11, 21))  # Their results are lost with the worker.
    assert bury() == 1
    assert rows_of_activities() == [(number, None) for number in range(11, WIDTH + 1)]
    assert not ActivityBundle.objects.exists()
    other.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(other)) == set(range(11, WIDTH + 1))
    assert_sound("flow")
    assert_tables_are_empty()


def test_results_of_a_worker_that_was_taken_for_dead_are_dropped() -> None:
    ours, other = worker(), worker("other")
    enter("ours")
    start()
    ours.step()
    run_some(ours, range(1, 11))
    assert bury() == 1
    other.step()
    ours.step()  # It is alive after all, and hands in its results: too late.
    assert not any(isinstance(event, events.TaskCompletedEvent) for event in assert_sound("flow"))
    other.settle()
    run_some(ours, range(1, WIDTH + 1))
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(other).values()) == {1}
    assert_sound("flow")
    assert_tables_are_empty()


def test_results_that_wait_in_an_inbox_are_recorded() -> None:
    ours, other = worker(), worker("other")
    enter("ours")
    start()
    ours.step()
    client().suspend_orchestration("flow")
    run_some(ours, range(1, 11))
    ours.step()
    assert Message.objects.filter(held=True).count() == 10
    assert bury() == 1
    assert [task_id for task_id, _ in rows_of_activities()] == list(range(11, WIDTH + 1))
    client().resume_orchestration("flow")
    other.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(other)) == set(range(11, WIDTH + 1))
    assert_sound("flow")
    assert_tables_are_empty()


@pytest.mark.parametrize("is_written", [True, False], ids=["committed", "rolled back"])
def test_results_of_a_commit_that_nobody_knows_of_are_recorded_once(is_written: bool) -> None:
    ours = worker()
    start()
    ours.step()
    run_some(ours, range(1, 11))
    lost = OperationalError("the connection is lost")
    fails_at = "_keep" if is_written else "_leave"
    with (
        patch.object(ours.processor, fails_at, side_effect=lost),
        patch.object(turns, "_is_away", return_value=True),
        pytest.raises(OperationalError),
    ):
        ours.step()
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(ours).values()) == {1}
    completed = [event for event in assert_sound("flow") if isinstance(event, events.TaskCompletedEvent)]
    assert len(completed) == WIDTH
    assert_tables_are_empty()


def test_what_a_commit_that_nobody_knows_of_has_leased_is_anybodys_once_the_lease_is_over() -> None:
    ours, other = worker(), worker("other")
    start()
    with (
        patch.object(ours.processor, "_keep", side_effect=OperationalError("the connection is lost")),
        patch.object(turns, "_is_away", return_value=True),
        pytest.raises(OperationalError),
    ):
        ours.step()
    assert ActivityBundle.objects.count() == 1
    assert not ours.pool.leased
    bundles.sweep(USING)
    assert ActivityBundle.objects.count() == 1
    clock.move(timedelta(minutes=5))
    bundles.sweep(USING)
    other.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert_tables_are_empty()


def test_a_batch_that_fails_is_done_again_with_its_bundle_as_it_was() -> None:
    ours = worker()
    start()
    ours.step()
    run_some(ours, range(1, 11))
    with patch.object(ours.processor, "_leave", side_effect=[ValueError("a bad batch"), None]) as leave:
        ours.step()
    assert leave.call_count == 2
    assert len([e for e in assert_sound("flow") if isinstance(e, events.TaskCompletedEvent)]) == 10
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert_tables_are_empty()


@pytest.mark.database("postgresql")
def test_a_bundle_whose_results_are_being_recorded_is_left_for_later() -> None:
    ours = worker()
    start()
    ours.step()
    run_some(ours, range(1, 11))
    real = ours.processor._leave
    waiting = [leased.token for leased in ours.pool.leased]

    def leave(*args: Any) -> None:
        elsewhere(ours.bundles.dissolve)
        elsewhere(lambda: ours.bundles.give_back(waiting))
        assert elsewhere(lambda: bundles.dissolve_of_worker(USING, "ours")) is False
        real(*args)

    with patch.object(ours.processor, "_leave", leave):
        ours.step()
    assert ActivityBundle.objects.count() == 1
    assert len(ours.bundles._held) == 1
    ours.bundles.give_back()  # What could not be given back then.
    assert rows_of_activities() == [(number, None) for number in range(11, WIDTH + 1)]
    ours.pool.leased.clear()
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(ours).values()) == {1}
    assert_tables_are_empty()


# ------------------------------------------------------------------------------------- long ones


def test_a_dissolved_bundles_activities_have_rows_with_the_same_leases() -> None:
    ours = worker()
    start()
    ours.step()
    run_some(ours, range(1, 11))
    ours.step()
    until = ActivityBundle.objects.get().visible_at
    ours.bundles.dissolve()
    tasks = list(ActivityTask.objects.order_by("task_id"))
    assert [task.task_id for task in tasks] == list(range(11, WIDTH + 1))
    assert {(task.worker, task.name, task.deliveries) for task in tasks} == {("ours", "double", 1)}
    assert all(task.visible_at >= until for task in tasks)
    assert [task.lease_token for task in tasks] == ours.pool.tokens()
    assert [task.input for task in tasks] == [str(number) for number in range(10, WIDTH)]
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(ours).values()) == {1}
    assert_tables_are_empty()


def test_what_has_not_begun_can_be_given_back() -> None:
    ours, other = worker(), worker("other")
    start()
    ours.step()
    waiting = ours.pool.leased[20:]
    del ours.pool.leased[20:]
    ours.bundles.give_back([leased.token for leased in waiting])
    other.step()
    assert {leased.task_id for leased in other.pool.leased} == {leased.task_id for leased in waiting}
    other.run_activities()
    other.step()
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert set(runs(ours, other).values()) == {1}
    assert_tables_are_empty()


def test_upkeep_dissolves_what_is_held_for_long() -> None:
    ours = worker()
    start()
    ours.step()
    pool = ActivityPool(
        ActivityRunner(Registry(), PayloadCodec(), "w"), lambda _: None, threads=1, concurrent=1
    )
    upkeep = Upkeep(USING, "ours", pool, ours.bundles, Watch(), tend=lambda: False, beat=Mock())
    upkeep._beat_at = float("inf")
    upkeep._keep_up()
    assert ActivityBundle.objects.count() == 1
    for held in ours.bundles._held.values():
        held.since -= LONGEST_SECONDS
    upkeep._keep_up()
    assert not ActivityBundle.objects.exists()
    assert ActivityTask.objects.count() == WIDTH
    assert not ours.bundles._held


def test_an_execution_that_waits_shows_what_it_waits_for() -> None:
    ours = worker()
    start()
    ours.step()
    run_some(ours, range(1, 11))
    ours.step()
    in_bundle = monitoring.pending(USING, instance("flow")).activities
    assert [activity.task_id for activity in in_bundle] == list(range(11, WIDTH + 1))
    bundles.dissolve_of_worker(USING, "ours")
    assert monitoring.pending(USING, instance("flow")).activities == in_bundle


# ------------------------------------------------------------------------------------- what else may happen


def test_an_attempt_is_not_taken_for_the_next_one() -> None:
    ours, other = worker(), worker("other")
    enter("ours")
    start(stubborn)
    _refused.update(range(WIDTH))
    ours.step()
    run_some(ours, range(1, WIDTH))  # All but one.
    ours.step()
    _refused.clear()
    clock.move(timedelta(seconds=2))
    ours.step()
    assert ActivityBundle.objects.count() == 2
    run_some(ours, range(5, 10))
    ours.step()
    before, after = ActivityBundle.objects.order_by("created_at")
    bundles.dissolve(USING, [before.token])
    assert [task_id for task_id, _ in rows_of_activities()] == [WIDTH]
    bundles.dissolve(USING, [after.token])
    assert [task_id for task_id, _ in rows_of_activities()] == [*range(1, 5), *range(10, WIDTH + 1)]
    clock.move(timedelta(seconds=60))
    assert bury() == 1
    other.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert_sound("flow")


def test_siblings_that_still_run_belong_to_the_rewound_execution() -> None:
    ours = worker()
    start(impatient)
    _refused.add(0)
    ours.step()
    run_some(ours, range(1, 2))
    ours.step()
    assert status("flow") == InstanceStatus.FAILED
    _refused.clear()
    client().rewind_orchestration("flow")
    assert not ActivityBundle.objects.exists()
    assert rows_of_activities()[0] == (1, None)
    assert rows_of_activities()[1:] == [(number, "ours") for number in range(2, WIDTH + 1)]
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert runs(ours) == Counter(range(1, WIDTH + 1)) + Counter([1])
    assert_sound("flow")
    assert_tables_are_empty()


def test_results_that_a_failed_execution_has_not_seen_are_asked_for_again_at_once() -> None:
    ours = worker()
    start(impatient)
    _refused.add(0)
    ours.step()
    run_some(ours, range(1, 6))  # One that fails it, with others that it does not get to.
    ours.step()
    run_some(ours, range(6, 11))  # Others that come later.
    ours.step()
    assert status("flow") == InstanceStatus.FAILED
    _refused.clear()
    client().rewind_orchestration("flow")
    assert rows_of_activities()[:11] == [*((number, None) for number in range(1, 11)), (11, "ours")]
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert_sound("flow")
    assert_tables_are_empty()


@pytest.mark.parametrize("width_run", [1, WIDTH // 2], ids=["at once", "with others"])
def test_what_an_execution_has_left_running_is_run_once(width_run: int) -> None:
    ours, other = worker(), worker("other")
    enter("ours")
    start(careless)
    ours.step()
    run_some(ours, range(1, width_run + 1))
    ours.step()
    assert output("flow") == 0
    run_some(ours, range(width_run + 1, WIDTH))
    ours.step()
    assert bury() == 1
    assert rows_of_activities() == [(WIDTH, None)]
    other.settle()
    assert set(runs(ours, other).values()) == {1}
    assert set(runs(ours, other)) == set(range(1, WIDTH + 1))
    assert_tables_are_empty()


@pytest.mark.parametrize("dies", [True, False], ids=["its worker dies", "all is well"])
def test_what_executions_that_have_started_over_have_called_is_run(dies: bool) -> None:
    ours, other = worker(), worker("other")
    enter("ours")
    start(hasty, [3, WIDTH])
    for _ in range(2):  # More often than histories are kept.
        ours.step()
        run_some(ours, range(1, 2))
        ours.step()
    if dies:
        assert bury() == 1
        ours.pool.leased.clear()
    ours.settle()
    other.settle()
    assert output("flow") == "over"
    assert set(Counter((one.execution_id, one.task_id) for one in ours.ran + other.ran).values()) == {1}
    assert len(ours.ran + other.ran) == 3 * WIDTH
    assert_tables_are_empty()


@pytest.mark.parametrize("is_dissolved", [True, False], ids=["dissolved", "as it was"])
def test_what_runs_for_a_terminated_instance_is_dropped(is_dissolved: bool) -> None:
    ours = worker()
    start()
    ours.step()
    client().terminate_orchestration("flow")
    if is_dissolved:
        ours.bundles.dissolve()
        assert not ActivityTask.objects.exists()
    ours.settle()
    assert status("flow") == InstanceStatus.TERMINATED
    assert_tables_are_empty()


@pytest.mark.parametrize("is_dissolved", [True, False], ids=["dissolved", "as it was"])
def test_what_runs_for_a_purged_instance_is_dropped(is_dissolved: bool) -> None:
    ours = worker()
    start()
    ours.step()
    control.terminate(USING, "flow")
    client().purge_orchestration("flow")
    if is_dissolved:
        ours.bundles.dissolve()
        assert not ActivityTask.objects.exists()
    ours.settle()
    retention.sweep(USING)
    assert not Instance.objects.exists()
    assert_tables_are_empty()


def test_leases_are_renewed_once_it_is_dissolved() -> None:
    ours = worker()
    start()
    ours.step()
    until = clock.now() + timedelta(hours=1)
    ours.bundles.dissolve()
    activities.renew(USING, ours.pool.tokens(), until)
    assert {clock.from_orm(task.visible_at) for task in ActivityTask.objects.all()} == {until}


def test_a_count_that_is_wrong_costs_a_row_until_the_sweep() -> None:
    ours = worker()
    start()
    ours.step()
    (held,) = ours.bundles._held.values()
    held.left += 1
    ours.settle()
    assert output("flow") == [2 * number for number in range(WIDTH)]
    assert ActivityBundle.objects.count() == 1
    clock.move(timedelta(minutes=5))
    bundles.sweep(USING)
    assert_tables_are_empty()


def test_counts_of_other_bundles_do_not_matter() -> None:
    held = Bundles(USING, "ours")
    assert held.emptied_by([]) == []
    held.take_out([])
    held.dissolve()
    held.give_back([])
