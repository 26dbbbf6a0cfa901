"""Local activities: what they do, what becomes of it, and that it happens once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth.models import Group
from django.db import OperationalError, connection, connections, transaction

from durable_django import RetryPolicy, signals, task
from durable_django.core import events
from durable_django.core.registry import Registry
from durable_django.entities import DurableEntity, EntityInstanceId
from durable_django.models import ActivityTask, InstanceStatus
from durable_django.store import clock
from durable_django.testing import drain
from tests.worker.byhand import (
    USING,
    assert_sound,
    assert_tables_are_empty,
    client,
    failure,
    instance,
    output,
    status,
)
from tests.worker.local_cast import (
    ACTIVITIES,
    Steps,
    counter,
    dying_before_commit,
    fail,
    hand,
    local,
    names,
    post,
    prepare,
    ran,
    start,
    think,
    write,
    writer,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _clean(settings: Any) -> Iterator[None]:
    prepare(settings)
    before = clock._offset
    yield
    clock._offset = before


@contextmanager
def commits() -> Iterator[list[int]]:
    """Count the commits of this thread: Django's, and those that are sent as statements."""
    counted: list[int] = []
    commit = connections[USING]._commit  # type: ignore[attr-defined]

    def count() -> None:
        counted.append(1)
        commit()

    def watch(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql == "COMMIT":
            counted.append(1)
        return execute(sql, *rest)

    with patch.object(connections[USING], "_commit", count), connections[USING].execute_wrapper(watch):
        yield counted


# ------------------------------------------------------------------------------------- exactly once


def test_what_a_crash_before_the_commit_undoes_is_done_again_and_only_once() -> None:
    worker = hand()
    start(writer, ["a", "b", "c"])
    with dying_before_commit(), suppress(OperationalError):
        worker.step()
    assert ran == ["a", "b", "c"]
    assert names() == []
    assert instance("one").next_sequence == 0
    hand().settle()
    assert ran == ["a", "b", "c"] * 2
    assert names() == ["a", "b", "c"]
    assert output("one") == ["A", "B", "C"]
    assert_sound("one")
    assert_tables_are_empty()


def test_a_crash_after_the_commit_runs_nothing_again() -> None:
    def waiting(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(write, input="a")
        yield ctx.wait_for_external_event("go")
        return (yield ctx.call_activity(write, input="b"))

    start(waiting)
    hand(waiting).settle()
    assert names() == ["a"]
    client().raise_orchestration_event("one", "go")
    hand(waiting).settle()  # Another worker: it has to replay.
    assert (ran, names(), output("one")) == (["a", "b"], ["a", "b"], "B")


def test_the_history_is_that_of_any_activity() -> None:
    worker = hand()
    start(writer, ["a"])
    worker.settle()
    scheduled, completed = assert_sound("one")[1:3]
    assert isinstance(scheduled, events.TaskScheduledEvent)
    assert (scheduled.event_id, scheduled.name, scheduled.input, scheduled.local) == (1, "write", '"a"', True)
    assert isinstance(completed, events.TaskCompletedEvent)
    assert (completed.task_scheduled_id, completed.result, completed.worker) == (1, '"A"', "hand")
    assert completed.started_at is not None
    assert completed.finished_at is not None
    assert completed.started_at <= completed.finished_at


def test_a_hundred_in_a_row_cost_one_commit_and_not_one_row() -> None:
    worker = hand()
    start(counter, 100)
    with commits() as counted:
        worker.step()
    assert output("one") == 100
    assert len(counted) == 1
    assert instance("one").turn == 1
    assert worker.ran == worker.pool.leased == []


def test_the_activity_is_told_about_itself() -> None:
    told: list[Any] = []

    @local
    def ask(ctx: task.ActivityContext) -> None:
        told.append((ctx.orchestration_id, ctx.task_id))

    def asking(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(think, input=1)
        yield ctx.call_activity(ask, tags={"a": "b"})

    start(asking)
    hand(asking, activities=[ask, *ACTIVITIES]).settle()
    assert told == [("one", 2)]
    scheduled = [event for event in assert_sound("one") if isinstance(event, events.TaskScheduledEvent)]
    assert scheduled[1].tags == {"a": "b"}


# ------------------------------------------------------------------------------------- failures


def test_a_failure_undoes_its_own_writes_and_no_others() -> None:
    def trying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(write, input="before")
        caught: tuple[str, str] | None = None
        try:
            yield ctx.call_activity(fail, input="bad")
        except task.TaskFailedError as error:
            caught = str(error), error.details.error_type
        yield ctx.call_activity(write, input="after")
        return caught

    start(trying)
    hand(trying).settle()
    assert output("one") == ["one: Activity task #2 failed: no bad", "builtins.ValueError"]
    assert names() == ["before", "after"]
    assert instance("one").turn == 1


def test_a_failure_that_nobody_catches_keeps_what_came_before() -> None:
    def trying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(write, input="before")
        yield ctx.call_activity(fail, input="bad")

    start(trying)
    hand(trying).settle()
    assert failure("one")["message"] == "one: Activity task #2 failed: no bad"
    assert names() == ["before"]
    assert_tables_are_empty()


def test_a_retry_waits_for_a_durable_timer() -> None:
    attempts: list[int] = []

    @local
    def flaky(ctx: task.ActivityContext, name: str) -> str:
        attempts.append(ctx.task_id)
        Group.objects.create(name=f"{name} {len(attempts)}")
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "at last"

    def retrying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        policy = RetryPolicy(first_retry_interval=timedelta(minutes=1), max_number_of_attempts=3)
        return (yield ctx.call_activity(flaky, input="x", retry_policy=policy))

    activities = [flaky, *ACTIVITIES]
    start(retrying)
    hand(retrying, activities=activities).settle()
    assert (attempts, status("one"), names()) == ([1], InstanceStatus.RUNNING, [])
    for _ in range(2):
        clock.move(timedelta(minutes=1))
        hand(retrying, activities=activities).settle()
    assert (attempts, output("one"), names()) == ([1, 1, 1], "at last", ["x 3"])
    assert_sound("one")


def test_the_activitys_own_retry_policy_gives_up() -> None:
    policy = RetryPolicy(first_retry_interval=timedelta(0), max_number_of_attempts=4)
    attempts: list[int] = []

    def hopeless(ctx: task.ActivityContext) -> None:
        attempts.append(1)
        raise ValueError("never")

    def trying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(hopeless)

    worker = hand(trying, activities=[])
    worker.processor.options.registry.add_activity(hopeless, local=True, retry_policy=policy)
    start(trying)
    worker.settle()
    assert len(attempts) == 4
    assert failure("one")["message"] == "one: Activity task #1 failed: never"


def test_a_result_that_cannot_be_written_is_a_failure_and_undone() -> None:
    @local
    def opaque(ctx: task.ActivityContext) -> object:
        Group.objects.create(name="x")
        return object()

    def trying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(opaque)

    start(trying)
    hand(trying, activities=[opaque]).settle()
    assert failure("one")["message"].endswith("Object of type 'object' at $ is not JSON serializable")
    assert names() == []


def test_even_an_exit_is_the_activitys_alone() -> None:
    @local
    def leave(ctx: task.ActivityContext) -> None:
        raise SystemExit(3)

    def trying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(leave)

    start(trying)
    hand(trying, activities=[leave]).settle()
    assert failure("one")["type"] == "durable_django.task.TaskFailedError"


def test_a_failure_is_signalled_once_it_is_committed() -> None:
    heard: list[Any] = []

    def listen(**about: Any) -> None:
        assert not connection.in_atomic_block
        heard.append((about["sender"], about["name"], about["instance_id"], about["task_id"]))
        assert about["failure_details"].message == "no bad"

    def trying(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(fail, input="bad")

    start(trying)
    signals.activity_failed.connect(listen)
    try:
        with dying_before_commit(), suppress(OperationalError):
            hand(trying).step()
        assert heard == []
        hand(trying).settle()
    finally:
        signals.activity_failed.disconnect(listen)
    assert heard == [(fail, "fail", "one", 1)]


# ------------------------------------------------------------------------------------- the guard, the limits


def test_a_query_of_the_orchestrator_between_two_is_refused() -> None:
    def curious(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(write, input="a")
        refused = ""
        try:
            Group.objects.count()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            refused = str(error)
        yield ctx.call_activity(write, input="b")
        return refused

    start(curious)
    hand(curious).settle()
    assert output("one").startswith("An orchestrator must not query the database")
    assert names() == ["a", "b"]


def test_one_that_takes_long_is_named(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"SLOW_LOCAL_SECONDS": 60}
    now = time.perf_counter()

    @local
    def slow(ctx: task.ActivityContext) -> None:
        nonlocal now
        now += 61

    def waiting(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(think, input=1)
        yield ctx.call_activity(slow)

    start(waiting)
    with (
        caplog.at_level(logging.WARNING, "durable_django.worker"),
        patch("durable_django.worker.local.time.perf_counter", lambda: now),
    ):
        hand(waiting, activities=[slow, *ACTIVITIES]).settle()
    assert [record.getMessage() for record in caplog.records] == [
        "Local activity 'slow' (#2 of one) took 61.00 s: its turn, and all others of this worker, have "
        "waited for it. Make it an activity that is not local."
    ]


# ------------------------------------------------------------------------------------- with other things


def test_a_fan_out_runs_in_order_and_gathers_all() -> None:
    def fan(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield task.when_all([ctx.call_activity(write, input=name) for name in "cab"]))

    start(fan)
    hand(fan).settle()
    assert (output("one"), ran, names()) == (["C", "A", "B"], ["c", "a", "b"], ["c", "a", "b"])
    assert instance("one").turn == 1


def test_a_fan_out_with_other_activities_gathers_all() -> None:
    def fan(ctx: task.OrchestrationContext, _: Any) -> Steps:
        calls: list[tuple[Callable[..., Any], Any]] = [
            (write, "a"),
            (post, "b"),
            (think, 1),
            (post, "c"),
            (write, "d"),
        ]
        return (yield task.when_all([ctx.call_activity(fn, input=argument) for fn, argument in calls]))

    start(fan)
    worker = hand(fan)
    worker.step()
    assert ran == ["a", 1, "d"]
    assert sorted(leased.name for leased in worker.pool.leased) == ["post", "post"]
    worker.settle()
    assert output("one") == ["A", "posted b", 2, "posted c", "D"]
    assert_tables_are_empty()


def test_the_first_of_a_race_wins_and_the_others_have_run_all_the_same() -> None:
    def race(ctx: task.OrchestrationContext, _: Any) -> Steps:
        called: list[tuple[Callable[..., Any], str]] = [(write, "a"), (post, "b"), (write, "c")]
        runners = [ctx.call_activity(fn, input=name) for fn, name in called]
        winner = yield task.when_any(runners)
        return runners.index(winner)

    start(race)
    worker = hand(race)
    worker.settle()
    assert output("one") == 0
    assert names() == ["a", "c"]
    assert sorted(ran) == ["a", "b", "c"]
    assert_tables_are_empty()


def test_what_is_not_waited_for_is_run_whatever_the_end() -> None:
    def careless(ctx: task.OrchestrationContext, _: Any) -> None:
        ctx.call_activity(write, input="a")
        ctx.call_activity(fail, input="b")

    start(careless)
    hand(careless).settle()
    assert output("one") is None
    assert (names(), ran) == (["a"], ["a", "b"])
    assert_tables_are_empty()


def test_events_that_have_arrived_come_first() -> None:
    def listening(ctx: task.OrchestrationContext, _: Any) -> Steps:
        first = yield ctx.wait_for_external_event("go")
        written = ctx.call_activity(write, input=first)
        second = ctx.wait_for_external_event("go")
        winner = yield task.when_any([written, second])
        return winner is second

    start(listening)
    worker = hand(listening)
    worker.settle()
    for name in "ab":
        client().raise_orchestration_event("one", "go", data=name)
    worker.settle()
    assert output("one") is True
    assert names() == ["a"]


def test_a_loop_that_starts_over_goes_on() -> None:
    def loop(ctx: task.OrchestrationContext, left: int) -> Steps:
        yield ctx.call_activity(write, input=f"{left}")
        ctx.call_activity(write, input=f"{left} too")
        if left:
            ctx.continue_as_new(left - 1)
        return "done"

    start(loop, 3)
    hand(loop).settle()
    assert output("one") == "done"
    assert names() == [name for left in (3, 2, 1, 0) for name in (f"{left}", f"{left} too")]
    assert_tables_are_empty()


def test_a_sub_orchestration_has_its_own() -> None:
    def parent(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(write, input="before")
        result = yield ctx.call_sub_orchestrator(writer, input=["a", "b"])
        yield ctx.call_activity(write, input="after")
        return result

    start(parent)
    hand(parent).settle()
    assert output("one") == ["A", "B"]
    assert names() == ["before", "a", "b", "after"]


def test_they_run_in_a_critical_section() -> None:
    account = EntityInstanceId("account", "a")

    class Account(DurableEntity):
        def add(self, amount: int) -> int:
            self.set_state(self.get_state(int, 0) + amount)
            return self.get_state(int, 0)

    def transfer(ctx: task.OrchestrationContext, _: Any) -> Steps:
        with (yield ctx.lock_entities([account])):
            balance = yield ctx.call_entity(account, "add", 5)
            yield ctx.call_activity(write, input=f"balance {balance}")
            balance = yield ctx.call_entity(account, "add", 7)
        yield ctx.call_activity(write, input=f"balance {balance}")
        return balance

    registry = Registry()
    registry.add_orchestrator(transfer)
    registry.add_activity(write)
    registry.add_entity(Account)
    start(transfer)
    drained = drain(registry=registry)
    assert output("one") == 12
    assert drained.activities == 2
    assert names() == ["balance 5", "balance 12"]


def test_a_local_activity_may_use_the_client() -> None:
    @local
    def order(ctx: task.ActivityContext) -> str:
        return client().schedule_new_orchestration(writer, input=["from within"], instance_id="two")

    def ordering(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.call_activity(order))

    start(ordering)
    hand(ordering, activities=[order, *ACTIVITIES]).settle()
    assert output("one") == "two"
    assert output("two") == ["FROM WITHIN"]


def test_careful_mode_runs_them_with_their_instance_noted() -> None:
    worker = hand()
    worker.careful = True
    start(writer, ["a", "b"])
    key = instance("one").pk
    worker.settle()
    assert output("one") == ["A", "B"]
    assert key in worker.noted
    assert worker.noted[-1] is None


def test_a_row_of_theirs_is_run_like_any_activity() -> None:
    """As after a deploy that has made an activity local."""

    def posting(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.call_activity("write", input="a"))

    plain = hand(posting, activities=[])
    start(posting)
    plain.step()
    plain.pool.leased.clear()
    assert ActivityTask.objects.get().name == "write"
    clock.move(timedelta(seconds=61))
    worker = hand(posting)
    worker.settle()
    assert [leased.name for leased in worker.ran] == ["write"]
    assert (output("one"), names()) == ("A", ["a"])
    assert_sound("one")


def test_a_worker_that_does_not_have_it_leaves_it_to_whoever_does() -> None:
    start(writer, ["a"])
    worker = hand(activities=[], filtered=True)
    worker.settle()
    assert (ActivityTask.objects.get().name, names()) == ("write", [])
    hand().settle()
    assert (output("one"), names()) == (["A"], ["a"])


def test_transactions_of_an_activity_nest() -> None:
    @local
    def nested(ctx: task.ActivityContext) -> None:
        Group.objects.create(name="outer")
        with suppress(ValueError), transaction.atomic():
            Group.objects.create(name="inner")
            raise ValueError
        with transaction.atomic():
            Group.objects.create(name="kept")

    def nesting(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(nested)

    start(nesting)
    hand(nesting, activities=[nested]).settle()
    assert output("one") is None
    assert names() == ["outer", "kept"]
