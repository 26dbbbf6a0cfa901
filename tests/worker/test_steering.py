"""What clients do to an instance that a worker has live in its cache."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from durable_django import task
from durable_django.core import events
from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus, Message, Timer
from tests.worker.byhand import (
    HandWorker,
    assert_sound,
    assert_tables_are_empty,
    client,
    instance,
    output,
    status,
)

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]

ran: list[str] = []
broken: set[str] = set()
closed: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    broken.clear()
    closed.clear()


def work(ctx: task.ActivityContext, name: str) -> str:
    ran.append(name)
    if name in broken:
        raise ValueError(f"{name} is broken")
    return name.upper()


def steps(ctx: task.OrchestrationContext, _: Any) -> Steps:
    """An activity, an event, an activity; and a decision that one who is dropped must not take."""
    try:
        first = yield ctx.call_activity(work, input="first")
        event = yield ctx.wait_for_external_event("go")
        second = yield ctx.call_activity(work, input="second")
        return [first, event, second]
    finally:
        closed.append(ctx.instance_id)
        ctx.call_activity(work, input="cleanup")


def fan(ctx: task.OrchestrationContext, names: list[str]) -> Steps:
    return (yield task.when_all([ctx.call_activity(work, input=name) for name in names]))


def impatient(ctx: task.OrchestrationContext, names: list[str]) -> Steps:
    """Fails with the first that fails, the rest still running."""
    tasks = [ctx.call_activity(work, input=name) for name in names]
    for _ in names:
        winner = yield task.when_any([one for one in tasks if not one.is_complete])
        winner.get_result()
    return [one.get_result() for one in tasks]


def family(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_sub_orchestrator(steps, instance_id="child"))


def hand() -> HandWorker:
    return HandWorker(steps, fan, impatient, family, activities=[work])


def live(worker: HandWorker, orchestrator: Any = steps, instance_id: str = "flow") -> None:
    """Start an instance and bring it to where it waits, alive in the worker's cache."""
    client().schedule_new_orchestration(orchestrator, instance_id=instance_id)
    worker.settle()
    assert status(instance_id) is InstanceStatus.RUNNING
    assert len(worker.processor.cache) > 0


def test_a_terminated_instance_goes_no_further() -> None:
    worker = hand()
    live(worker)
    client().terminate_orchestration("flow", output="stopped")
    client().raise_orchestration_event("flow", "go")
    worker.settle()
    assert status("flow") is InstanceStatus.TERMINATED
    assert instance("flow").output == '"stopped"'
    assert ran == ["first"]
    assert isinstance(assert_sound("flow")[-1], events.ExecutionTerminatedEvent)
    assert_tables_are_empty()


def test_the_result_of_a_terminated_instance_is_dropped() -> None:
    worker = hand()
    client().schedule_new_orchestration(steps, instance_id="flow")
    worker.step()
    client().terminate_orchestration("flow")
    worker.run_activities()
    worker.settle()
    assert status("flow") is InstanceStatus.TERMINATED
    assert isinstance(assert_sound("flow")[-1], events.ExecutionTerminatedEvent)
    assert_tables_are_empty()


def test_a_terminated_and_restarted_instance_begins_anew() -> None:
    worker = hand()
    live(worker)
    client().terminate_orchestration("flow")
    client().restart_orchestration("flow")
    client().raise_orchestration_event("flow", "go", data=1)
    worker.settle()
    assert output("flow") == ["FIRST", 1, "SECOND"]
    assert ran == ["first", "first", "second", "cleanup"]
    assert_sound("flow")


def test_a_suspended_instance_stands_still_and_goes_on_when_it_is_resumed() -> None:
    worker = hand()
    live(worker)
    client().suspend_orchestration("flow")
    client().raise_orchestration_event("flow", "go", data=1)
    worker.settle()
    assert (status("flow"), ran) == (InstanceStatus.SUSPENDED, ["first"])
    client().resume_orchestration("flow")
    worker.settle()
    assert output("flow") == ["FIRST", 1, "SECOND"]
    assert ran[:2] == ["first", "second"]
    kinds = [type(event) for event in assert_sound("flow")]
    assert kinds.count(events.ExecutionSuspendedEvent) == kinds.count(events.ExecutionResumedEvent) == 1
    worker.settle()
    assert_tables_are_empty()


def test_a_suspension_between_a_turn_and_its_activity_keeps_the_result() -> None:
    worker = hand()
    client().schedule_new_orchestration(steps, instance_id="flow")
    worker.step()
    client().suspend_orchestration("flow")
    worker.run_activities()
    worker.settle()
    client().raise_orchestration_event("flow", "go", data=1)
    client().resume_orchestration("flow")
    worker.settle()
    assert output("flow") == ["FIRST", 1, "SECOND"]
    assert ran[:2] == ["first", "second"]


def test_a_purged_instance_leaves_nothing_and_its_id_is_free() -> None:
    worker = hand()
    live(worker)
    client().terminate_orchestration("flow")
    assert client().purge_orchestration("flow").deleted_instance_count == 1
    worker.settle()
    for model in (Instance, HistoryEvent, Message, Timer, ActivityTask):
        assert not model._default_manager.exists()
    live(worker)
    client().raise_orchestration_event("flow", "go", data=1)
    worker.settle()
    assert output("flow") == ["FIRST", 1, "SECOND"]


def test_an_instance_purged_while_its_activity_runs_takes_the_result_with_it() -> None:
    worker = hand()
    client().schedule_new_orchestration(steps, instance_id="flow")
    worker.step()
    client().terminate_orchestration("flow")
    client().purge_orchestration("flow")
    worker.run_activities()
    worker.settle()
    assert not Instance.objects.exists()
    assert not HistoryEvent.objects.exists()
    assert_tables_are_empty()


def test_terminating_a_live_child_fails_the_parents_task() -> None:
    worker = hand()
    live(worker, family, "parent")
    client().terminate_orchestration("child")
    worker.settle()
    assert status("parent") is InstanceStatus.FAILED
    assert "'child' was terminated" in str(instance("parent").failure)


def test_terminating_a_live_family_ends_all_of_it() -> None:
    worker = hand()
    live(worker, family, "parent")
    client().terminate_orchestration("parent")
    worker.settle()
    assert status("parent") is status("child") is InstanceStatus.TERMINATED
    assert_tables_are_empty()


def test_the_first_of_two_children_with_one_id_has_it_though_it_is_a_finished_ones() -> None:
    def echo(ctx: task.OrchestrationContext, word: str) -> str:
        return word

    def twins(ctx: task.OrchestrationContext, _: Any) -> Steps:
        results = []
        for child in [ctx.call_sub_orchestrator(echo, input=word, instance_id="twin") for word in "ab"]:
            try:
                results.append((yield child))
            except task.TaskFailedError:
                results.append("refused")
        return results

    worker = HandWorker(twins, echo)
    for instance_id in ("new", "again"):
        client().schedule_new_orchestration(twins, instance_id=instance_id)
        worker.settle()
        assert output(instance_id) == ["a", "refused"]


def test_dropping_a_live_execution_decides_nothing() -> None:
    worker = hand()
    live(worker)
    client().terminate_orchestration("flow")
    worker.processor.cache.clear()
    assert "flow" in closed
    worker.settle()
    assert ran == ["first"]
    assert not ActivityTask.objects.exists()


# ------------------------------------------------------------------------------------- rewind


def test_an_instance_is_rewound_while_the_worker_runs() -> None:
    worker = hand()
    broken.add("second")
    live(worker)
    client().raise_orchestration_event("flow", "go", data=1)
    worker.settle()
    assert status("flow") is InstanceStatus.FAILED
    broken.clear()
    client().rewind_orchestration("flow", reason="repaired")
    worker.settle()
    assert output("flow") == ["FIRST", 1, "SECOND"]
    assert [name for name in ran if name != "cleanup"] == ["first", "second", "second"]
    assert_sound("flow")
    worker.settle()
    assert_tables_are_empty()


@pytest.mark.parametrize("result_first", [True, False], ids=["before", "after"])
def test_a_rewound_fan_out_keeps_the_siblings_that_are_under_way(result_first: bool) -> None:
    """Results of siblings that come between the failure and the rewind, or after it, count."""
    worker = hand()
    broken.add("b")
    names = ["a", "b", "c", "d"]
    client().schedule_new_orchestration(impatient, input=names, instance_id="flow")
    worker.step()
    tasks = {leased.input: leased for leased in worker.pool.leased}
    under_way = [tasks['"c"'], tasks['"d"']]
    worker.pool.leased = [tasks['"a"'], tasks['"b"']]
    worker.run_activities()
    worker.step()
    assert status("flow") is InstanceStatus.FAILED
    broken.clear()
    worker.pool.leased = under_way
    if result_first:
        worker.run_activities()
        worker.step()
    client().rewind_orchestration("flow")
    worker.settle()
    assert output("flow") == ["A", "B", "C", "D"]
    expected = ["a", "b", "b", "c", "c", "d", "d"] if result_first else ["a", "b", "b", "c", "d"]
    assert sorted(ran) == expected
    assert_sound("flow")
    worker.settle()
    assert_tables_are_empty()


def test_a_rewind_while_the_failed_result_of_a_sibling_is_under_way() -> None:
    worker = hand()
    broken.update({"b", "c"})
    client().schedule_new_orchestration(impatient, input=["a", "b", "c"], instance_id="flow")
    worker.step()
    tasks = {leased.input: leased for leased in worker.pool.leased}
    worker.pool.leased = [tasks['"b"']]
    worker.run_activities()
    worker.step()
    client().rewind_orchestration("flow")
    worker.pool.leased += [tasks['"c"'], tasks['"a"']]
    worker.settle()
    assert status("flow") is InstanceStatus.FAILED
    broken.clear()
    client().rewind_orchestration("flow")
    worker.settle()
    assert output("flow") == ["A", "B", "C"]
    assert_sound("flow")


def test_a_rewound_family_goes_on_in_the_child() -> None:
    worker = hand()
    broken.add("second")
    live(worker, family, "parent")
    client().raise_orchestration_event("child", "go", data=1)
    worker.settle()
    assert status("parent") is status("child") is InstanceStatus.FAILED
    broken.clear()
    client().rewind_orchestration("parent")
    worker.settle()
    assert output("parent") == ["FIRST", 1, "SECOND"]
    assert_sound("parent")
    assert_sound("child")


def test_a_timer_of_the_live_execution_does_not_outlive_its_end() -> None:
    def timed(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.create_timer(timedelta(days=1))

    worker = HandWorker(timed)
    live(worker, timed)
    assert Timer.objects.count() == 1
    client().terminate_orchestration("flow")
    assert not Timer.objects.exists()
