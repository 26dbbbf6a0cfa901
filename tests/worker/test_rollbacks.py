"""Batches that fail after the code has run, and commits whose outcome nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, connections

from durable_django import task
from durable_django.core import events
from durable_django.core.replay import Execution
from durable_django.models import ActivityTask, HistoryEvent
from durable_django.store import clock, histories
from durable_django.store.commits import Batch, Committed
from durable_django.worker import turns
from tests.worker.byhand import (
    USING,
    HandWorker,
    assert_sound,
    assert_tables_are_empty,
    client,
    failure,
    instance,
    output,
)

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def charge(ctx: task.ActivityContext, order: str) -> str:
    ran.append(f"charge {order}")
    return f"charged {order}"


def refund(ctx: task.ActivityContext, order: str) -> str:
    ran.append(f"refund {order}")
    return f"refunded {order}"


def ship(ctx: task.ActivityContext, order: str) -> str:
    ran.append(f"ship {order}")
    return f"shipped {order}"


def approve(ctx: task.OrchestrationContext, order: str) -> Steps:
    """Charge or refund, whichever was asked for first, then ship."""
    yes, no = ctx.wait_for_external_event("yes"), ctx.wait_for_external_event("no")
    winner = yield task.when_any([yes, no])
    first = yield ctx.call_activity(charge if winner is yes else refund, input=order)
    second = yield ctx.call_activity(ship, input=order)
    return [first, second]


def parent(ctx: task.OrchestrationContext, order: str) -> Steps:
    try:
        return (yield ctx.call_sub_orchestrator(approve, input=order, instance_id="child"))
    except task.TaskFailedError as error:
        return str(error)


def hand(**options: Any) -> HandWorker:
    return HandWorker(approve, parent, activities=[charge, refund, ship], **options)


def start(*orders: str) -> None:
    for order in orders:
        client().schedule_new_orchestration(approve, input=order, instance_id=order)


@contextmanager
def failing_writes(error: Callable[[], Exception], times: int = 1) -> Iterator[list[int]]:
    """Make batches fail when all is written and nothing committed."""
    write = Batch.write
    failed: list[int] = []

    def fail(batch: Batch) -> Committed:
        committed = write(batch)
        if len(failed) < times:
            failed.append(1)
            raise error()
        return committed

    with patch.object(Batch, "write", fail):
        yield failed


@pytest.mark.parametrize("error", [RuntimeError, IntegrityError, OperationalError])
@pytest.mark.parametrize("times", [1, 2])
def test_a_batch_that_is_rolled_back_takes_the_right_branch_when_it_is_retried(
    error: type[Exception], times: int
) -> None:
    worker = hand()
    start("a", "b")
    worker.settle()
    client().raise_orchestration_event("a", "yes")
    client().raise_orchestration_event("b", "no")
    with failing_writes(error, times) as failed:
        worker.step()
    assert len(failed) == times
    # What would have won the other way round comes before the retry.
    client().raise_orchestration_event("a", "no")
    client().raise_orchestration_event("b", "yes")
    worker.settle()
    assert output("a") == ["charged a", "shipped a"]
    assert output("b") == ["refunded b", "shipped b"]
    assert sorted(ran) == ["charge a", "refund b", "ship a", "ship b"]
    for order in ("a", "b"):
        history = assert_sound(order)
        decided = [event.event_id for event in history if isinstance(event, events.TaskScheduledEvent)]
        assert decided == [1, 2]
        assert instance(order).tries == 0
    assert_tables_are_empty()


def test_results_of_a_batch_that_is_rolled_back_are_recorded_later() -> None:
    worker = hand()
    start("a", "b")
    for order in ("a", "b"):
        client().raise_orchestration_event(order, "yes")
    worker.step()
    worker.run_activities()
    with failing_writes(RuntimeError, 3):
        worker.step()
    worker.settle()
    assert output("a") == ["charged a", "shipped a"]
    assert output("b") == ["charged b", "shipped b"]
    assert sorted(ran) == ["charge a", "charge b", "ship a", "ship b"]
    assert_sound("a")
    assert_sound("b")


def test_a_rolled_back_execution_is_not_in_the_cache() -> None:
    worker = hand()
    start("a")
    worker.settle()
    assert len(worker.processor.cache) == 1
    client().raise_orchestration_event("a", "yes")
    with failing_writes(RuntimeError, 3):
        worker.step()
    assert len(worker.processor.cache) == 0


def block(instance_id: str) -> HistoryEvent:
    """Put a row where the instance's next event belongs."""
    blocked = instance(instance_id)
    return HistoryEvent.objects.create(
        instance=blocked,
        execution_id=blocked.execution_id,
        sequence=blocked.next_sequence,
        timestamp=clock.aware(clock.now()),
        turn=99,
        kind=histories.kind_of(events.GenericEvent),
    )


def test_an_instance_that_cannot_be_written_stops_no_other_and_goes_on_once_it_can() -> None:
    worker = hand()
    orders = [f"o{number}" for number in range(10)]
    start(*orders)
    worker.settle()
    stray = block("o4")
    for order in orders:
        client().raise_orchestration_event(order, "yes")
    worker.step()
    assert 0 < instance("o4").tries < 5
    stray.delete()
    worker.settle()
    assert [output(order) for order in orders] == [[f"charged {o}", f"shipped {o}"] for o in orders]
    assert sorted(ran) == sorted(f"{what} {order}" for order in orders for what in ("charge", "ship"))
    assert instance("o4").tries == 0
    for order in orders:
        assert_sound(order)


@pytest.mark.database("postgresql")
def test_an_instance_whose_row_is_refused_while_others_run_stops_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "PART_INSTANCES", 3)
    worker = hand()
    orders = [f"o{number}" for number in range(10)]
    start(*orders)
    worker.settle()
    refusal = "ADD CONSTRAINT refusal CHECK (instance_id <> 'o4' OR turn < 2) NOT VALID"
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE durable_django_instance {refusal}")
    try:
        for order in orders:
            client().raise_orchestration_event(order, "yes")
        worker.step()
        assert 0 < instance("o4").tries < 5
        assert not ActivityTask.objects.filter(instance__instance_id="o4").exists()
        assert ActivityTask.objects.count() == 9
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE durable_django_instance DROP CONSTRAINT refusal")
    worker.settle()
    assert [output(order) for order in orders] == [[f"charged {o}", f"shipped {o}"] for o in orders]
    assert sorted(ran) == sorted(f"{what} {order}" for order in orders for what in ("charge", "ship"))
    for order in orders:
        assert_sound(order)


def test_an_instance_that_can_never_be_written_fails_and_stops_no_other() -> None:
    worker = hand()
    orders = [f"o{number}" for number in range(10)]
    start(*orders)
    worker.settle()
    block("o4")
    for order in orders:
        client().raise_orchestration_event(order, "yes")
    worker.settle()
    for _ in range(10):
        worker.settle()
    assert failure("o4")["message"].startswith(
        "Given up after 5 tries: its turn failed each time, at last with "
    )
    assert "IntegrityError" in failure("o4")["message"]
    for order in orders:
        if order != "o4":
            assert output(order) == [f"charged {order}", f"shipped {order}"]
    assert_tables_are_empty()


def test_the_parent_of_an_instance_that_can_never_be_written_is_told() -> None:
    worker = hand()
    client().schedule_new_orchestration(parent, input="x", instance_id="parent")
    worker.settle()
    block("child")
    client().raise_orchestration_event("child", "yes")
    for _ in range(10):
        worker.settle()
    assert "Sub-orchestration task #1 failed: Given up after 5 tries" in output("parent")


def test_an_instance_that_breaks_the_engine_fails_and_stops_no_other() -> None:
    worker = hand()
    start("bad", "good")
    worker.settle()
    turn = Execution.turn

    def broken(execution: Execution, *arguments: Any) -> Any:
        if execution.instance_id == "bad" and execution._end is None:
            raise AssertionError("the engine is broken")
        return turn(execution, *arguments)

    with patch.object(Execution, "turn", broken):
        for order in ("bad", "good"):
            client().raise_orchestration_event(order, "yes")
        for _ in range(10):
            worker.settle()
    assert output("good") == ["charged good", "shipped good"]
    reason = "its turn failed each time, at last with AssertionError: the engine is broken"
    assert failure("bad")["message"] == f"Given up after 5 tries: {reason}"
    assert failure("bad")["type"] == "durable_django.worker.TooManyTries"
    assert_sound("bad")


def test_an_inbox_that_cannot_be_read_stops_no_other() -> None:
    worker = hand()
    start("bad", "good")
    worker.settle()
    for order in ("bad", "good"):
        client().raise_orchestration_event(order, "yes")
    # As if by a newer version of the package.
    instance("bad").message_set.update(kind=77)
    for _ in range(10):
        worker.settle()
    assert output("good") == ["charged good", "shipped good"]
    assert failure("bad")["message"].startswith("Given up after 5 tries")
    assert_tables_are_empty()


def test_a_claim_that_fails_is_raised_rather_than_tried_for_ever() -> None:
    worker = hand()
    with (
        patch("durable_django.store.claims.ask_ready", side_effect=DatabaseError("no such table")),
        pytest.raises(DatabaseError),
    ):
        worker.step()


# ------------------------------------------------------------------------------------- doubtful commits


class Cut:
    """Cuts the connection at the next COMMIT of this thread: before the database has done it, or after."""

    def __init__(self, *, committed: bool) -> None:
        self._committed = committed
        self.done = False

    def __enter__(self) -> Cut:
        cutting = self

        def commit() -> None:
            connection_here = connections[USING]
            if cutting.done:
                original()
                return
            cutting.done = True
            if cutting._committed:
                original()
            else:
                connection_here.connection.rollback()
            connection_here.connection.close()
            raise OperationalError("server closed the connection unexpectedly")

        original = connections[USING]._commit  # type: ignore[attr-defined]
        self._patch = patch.object(connections[USING], "_commit", commit)
        self._patch.start()
        connections[USING].execute_wrappers.append(self._cut_pipeline)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()
        connections[USING].execute_wrappers.remove(self._cut_pipeline)

    def _cut_pipeline(self, execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        """Do the same where COMMIT is a statement among others, all answered together."""
        if sql != "COMMIT" or self.done:
            return execute(sql, params, many, context)
        self.done = True
        raw = context["connection"].connection
        if self._committed:
            execute(sql, params, many, context)
            raw._pipeline.sync()  # What leaving the pipeline does: all of it is done, and answered.
        raw.close()
        raise OperationalError("server closed the connection unexpectedly")


def cut_off(worker: HandWorker, *, committed: bool) -> None:
    """Let one step be cut off, and go on as the loop does, with a new connection."""
    # SQLite's connections are opened again at once, so that the step can go on.
    with Cut(committed=committed) as cut, suppress(DatabaseError):
        worker.step()
    assert cut.done
    connection.close()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])
def test_results_whose_commit_is_in_doubt_are_recorded_once(committed: bool) -> None:
    worker = hand()
    start("a", "b")
    for order in ("a", "b"):
        client().raise_orchestration_event(order, "yes")
    worker.step()
    worker.run_activities()
    cut_off(worker, committed=committed)
    worker.step()
    for order in ("a", "b"):
        history = assert_sound(order)
        assert sum(isinstance(event, events.TaskCompletedEvent) for event in history) == 1
    if committed:
        assert worker.pool.is_idle, "the next activities are leased to a transaction that nobody has seen"
        clock.move(timedelta(seconds=61))
    worker.settle()
    assert output("a") == ["charged a", "shipped a"]
    assert output("b") == ["charged b", "shipped b"]
    assert sorted(ran) == ["charge a", "charge b", "ship a", "ship b"]
    assert_tables_are_empty()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])
def test_starts_whose_commit_is_in_doubt_happen_once(committed: bool) -> None:
    worker = hand()
    start("a")
    client().raise_orchestration_event("a", "no")
    cut_off(worker, committed=committed)
    worker.step()
    assert ActivityTask.objects.count() == 1
    if committed:
        clock.move(timedelta(seconds=61))
    worker.settle()
    assert output("a") == ["refunded a", "shipped a"]
    assert ran == ["refund a", "ship a"]
    assert_sound("a")


@pytest.mark.database("postgresql")
def test_a_backend_that_is_terminated_in_the_middle_of_a_batch_costs_a_retry() -> None:
    worker = hand()
    start("a", "b")
    worker.settle()
    for order in ("a", "b"):
        client().raise_orchestration_event(order, "yes")
    write = Batch.write
    victim = connection.connection.info.backend_pid
    other = connections.create_connection(USING)

    def terminated(batch: Batch) -> Committed:
        committed = write(batch)
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [victim])
        return committed

    try:
        with patch.object(Batch, "write", terminated), suppress(DatabaseError):
            worker.step()
    finally:
        other.close()
    assert connection.connection is None or connection.connection.info.backend_pid != victim
    connection.close()
    worker.settle()
    assert output("a") == ["charged a", "shipped a"]
    assert sorted(ran) == ["charge a", "charge b", "ship a", "ship b"]


@pytest.fixture(autouse=True)
def _clock_comes_back() -> Iterator[None]:
    before = clock._offset
    yield
    clock._offset = before
