"""The next step of one instance: sent in one exchange, by what is expected; and what if that is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from durable_django import task
from durable_django.core import events
from durable_django.models import ActivityTask, Instance, InstanceStatus
from durable_django.store import activities, clock, histories
from durable_django.worker.work import Work
from tests.worker.byhand import (
    USING,
    HandWorker,
    assert_sound,
    assert_tables_are_empty,
    client,
    held_by_another,
    instance,
    output,
    status,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database("postgresql")]

Steps = Generator[task.Task[Any], Any, Any]

_noted: list[int] = []


def double(ctx: task.ActivityContext, number: int) -> int:
    return 2 * number


def note(ctx: task.ActivityContext, number: int) -> int:
    _noted.append(number)
    return number


def chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    number = 1
    for _ in range(length):
        number = yield ctx.call_activity(double, input=number)
        ctx.set_custom_status(f"at {number}")
    return number


def mixed(ctx: task.OrchestrationContext, _: Any) -> Steps:
    number = yield ctx.call_activity(double, input=1)
    number = yield ctx.call_activity(note, input=number)
    return (yield ctx.call_activity(double, input=number))


def listening(ctx: task.OrchestrationContext, _: Any) -> Steps:
    number = yield ctx.call_activity(double, input=1)
    word = yield ctx.wait_for_external_event("word")
    return [number, word]


def parent(ctx: task.OrchestrationContext, length: int) -> Steps:
    result = yield ctx.call_sub_orchestrator(chain, input=length, instance_id="child")
    return (yield ctx.call_activity(double, input=result))


def over_and_over(ctx: task.OrchestrationContext, left: int) -> Steps:
    yield ctx.call_activity(double, input=left)
    if left:
        ctx.continue_as_new(left - 1)
    return "over"


def worker(name: str = "ours") -> HandWorker:
    hand = HandWorker(chain, mixed, listening, parent, over_and_over, activities=[double], name=name)
    hand.processor.options.registry.add_activity(note, local=True)
    return hand


def begin(orchestrator: Callable[..., Any] = chain, given: Any = 3) -> HandWorker:
    """Return a worker that has taken the first step of ``flow``, and has run its activity."""
    _noted.clear()
    client().schedule_new_orchestration(orchestrator, input=given, instance_id="flow")
    hand = worker()
    hand.loop.hint_start()
    hand.loop.step()
    hand.loop._poll_at = float("inf")
    hand.run_activities()
    return hand


def go_on(hand: HandWorker) -> None:
    """Take steps by results alone, as a worker does that nobody tells of anything."""
    hand.loop._poll_at = float("inf")
    while hand.loop.has_results:
        hand.loop.step()
        hand.run_activities()


def results_of(instance_id: str) -> list[str | None]:
    return [e.result for e in assert_sound(instance_id) if isinstance(e, events.TaskCompletedEvent)]


def test_a_step_waits_for_the_server_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from psycopg import Cursor

    hand = begin()
    waits: list[str] = []
    fetchall = Cursor.fetchall

    def fetch(cursor: Any) -> Any:
        waits.append(cursor._query.query)
        return fetchall(cursor)

    monkeypatch.setattr(Cursor, "fetchall", fetch)
    with patch.object(histories, "read") as read:
        hand.loop.step()
    assert waits == []  # There is the COMMIT's exchange alone.
    assert not read.called
    assert len(hand.pool.leased) == 1
    assert instance("flow").custom_status == '"at 2"'


@pytest.mark.parametrize("length", [1, 2, 10])
def test_it_comes_to_its_end_by_expectations_alone(length: int) -> None:
    hand = begin(chain, length)
    with patch.object(hand.processor.intake, "take", side_effect=AssertionError("not expected")):
        go_on(hand)
    assert output("flow") == 2**length
    assert len(results_of("flow")) == length
    assert instance("flow").custom_status == f'"at {2**length}"'
    assert_tables_are_empty()


def test_starting_over_is_expected_too() -> None:
    hand = begin(over_and_over, 3)
    hand.settle()
    assert output("flow") == "over"
    assert_tables_are_empty()


def test_a_local_activity_runs_in_the_expected_turn() -> None:
    hand = begin(mixed)
    hand.settle()
    assert output("flow") == 4
    assert _noted == [2]
    assert_tables_are_empty()


# ------------------------------------------------------------------------------------- wrong expectations


def terminated(hand: HandWorker) -> None:
    client().terminate_orchestration("flow", output="stopped")


def purged(hand: HandWorker) -> None:
    client().terminate_orchestration("flow")
    client().purge_orchestration("flow")


@pytest.mark.parametrize("orchestrator", [chain, mixed])
@pytest.mark.parametrize("end", [terminated, purged])
def test_what_has_ended_meanwhile_stays_as_it_is(
    end: Callable[[HandWorker], None], orchestrator: Callable[..., Any]
) -> None:
    hand = begin(orchestrator)
    end(hand)
    before = list(Instance.objects.values())
    go_on(hand)
    assert list(Instance.objects.values()) == before
    assert _noted == []
    hand.settle()
    assert_tables_are_empty()


@pytest.mark.parametrize("orchestrator", [chain, mixed])
def test_a_suspended_instance_keeps_the_result_for_later(orchestrator: Callable[..., Any]) -> None:
    hand = begin(orchestrator)
    client().suspend_orchestration("flow")
    go_on(hand)
    assert status("flow") == InstanceStatus.SUSPENDED
    assert _noted == []
    assert results_of("flow") == []
    client().resume_orchestration("flow")
    hand.settle()
    assert output("flow") == (8 if orchestrator is chain else 4)
    assert_sound("flow")
    assert_tables_are_empty()


def test_one_that_was_suspended_and_resumed_is_read_again() -> None:
    hand = begin()
    client().suspend_orchestration("flow")
    client().resume_orchestration("flow")
    go_on(hand)
    assert output("flow") == 8
    kinds = [type(event) for event in assert_sound("flow")]
    assert events.ExecutionResumedEvent in kinds
    assert_tables_are_empty()


def test_one_that_somebody_holds_gets_the_result_in_its_inbox() -> None:
    hand = begin()
    with held_by_another("flow"):
        go_on(hand)
        assert results_of("flow") == []
        assert not ActivityTask.objects.exists()
    hand.settle()
    assert output("flow") == 8
    assert results_of("flow") == ["2", "4", "8"]
    assert_tables_are_empty()


def test_a_result_whose_lease_is_over_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    hand, other = begin(), worker("other")
    before = clock._offset
    clock.move(timedelta(minutes=5))
    try:
        other.step()
        assert len(other.pool.leased) == 1
        with caplog.at_level(logging.WARNING, "durable_django.worker"):
            go_on(hand)
        assert [record.getMessage() for record in caplog.records] == [
            "flow: the result of activity 'double' (#1) is dropped: its lease is over"
        ]
        assert results_of("flow") == []
        other.run_activities()
        other.settle()
    finally:
        clock._offset = before
    assert output("flow") == 8
    assert results_of("flow") == ["2", "4", "8"]


def test_one_that_another_worker_has_moved_is_read_again() -> None:
    hand, other = begin(listening), worker("other")
    client().raise_orchestration_event("flow", "word", data="hello")
    other.step()
    go_on(hand)
    hand.settle()
    assert output("flow") == [2, "hello"]
    assert_tables_are_empty()


def test_what_has_arrived_is_taken_in_by_the_next_turn() -> None:
    hand = begin(listening)
    client().raise_orchestration_event("flow", "word", data="hello")
    go_on(hand)
    assert status("flow") == InstanceStatus.RUNNING
    assert results_of("flow") == ["2"]
    hand.settle()
    assert output("flow") == [2, "hello"]
    assert_tables_are_empty()


def test_one_that_has_failed_before_runs_alone() -> None:
    hand = begin()
    Instance.objects.update(tries=1)
    hand.settle()
    assert output("flow") == 8
    assert instance("flow").tries == 0
    assert results_of("flow") == ["2", "4", "8"]


def test_a_child_whose_parent_is_another_execution_by_now_answers_that_one() -> None:
    hand = worker()
    client().schedule_new_orchestration(parent, input=2, instance_id="flow")
    while not hand.pool.leased:
        hand.step()
    hand.run_activities()
    hand.loop._poll_at = float("inf")
    hand.loop.step()
    hand.run_activities()
    Instance.objects.filter(instance_id="child").update(parent_execution_id="f" * 32)
    go_on(hand)
    assert output("child") == 4
    assert status("flow") == InstanceStatus.RUNNING  # The answer was not for this execution.


def test_a_commit_that_has_come_about_although_it_failed_is_not_done_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hand = begin()
    with patch.object(hand.processor, "_keep", side_effect=[OSError("the connection is lost"), None]):
        hand.loop.step()
    assert "is dropped: its lease is over" in caplog.text
    assert results_of("flow") == ["2"]
    assert ActivityTask.objects.get().task_id == 2  # Leased by the commit that nobody knows of.
    token = ActivityTask.objects.get().lease_token
    assert token is not None
    activities.release(USING, [token])
    hand.settle()
    assert output("flow") == 8
    assert results_of("flow") == ["2", "4", "8"]
    assert_tables_are_empty()


def test_nothing_is_expected_of_what_is_not_in_the_cache() -> None:
    hand = begin()
    hand.processor.cache.clear()
    (result,) = [hand.loop._results.popleft()]
    assert hand.processor.intake.expected(Work([result])) is None
    hand.loop.deliver(result)
    go_on(hand)
    assert output("flow") == 8
