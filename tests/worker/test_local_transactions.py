"""What local activities may do to the transaction that they run in, and what they may not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from durable_django import task
from durable_django.models import InstanceStatus
from durable_django.worker.work import Work
from tests.worker.byhand import USING, HandWorker, assert_sound, failure, instance, output, status
from tests.worker.local_cast import (
    ACTIVITIES,
    Steps,
    dying_before_commit,
    hand,
    local,
    names,
    prepare,
    ran,
    start,
    write,
    writer,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _clean(settings: Any) -> None:
    prepare(settings)
    hooked.clear()


hooked: list[str] = []


def between(ctx: task.OrchestrationContext, name: str) -> Steps:
    """Call the activity ``name`` between two that work, and return what it gives or why it fails."""
    yield ctx.call_activity(write, input="before")
    try:
        result = yield ctx.call_activity(name)
    except task.TaskFailedError as error:
        result = f"{error.details.error_type}: {error.details.message}"
    yield ctx.call_activity(write, input="after")
    return result


def run(activity: Callable[..., Any]) -> Any:
    """Run one local activity between two others."""
    worker = hand(between, activities=[local(activity), *ACTIVITIES])
    start(between, activity.__name__)
    worker.settle()
    assert instance("one").turn == 1
    assert_sound("one")
    return output("one")


# ------------------------------------------------------------------------------------- errors


def test_a_violated_constraint_is_a_failure_like_any_other() -> None:
    def twice(ctx: task.ActivityContext) -> None:
        Group.objects.create(name="once")
        Group.objects.create(name="once")

    assert run(twice).startswith("django.db.utils.IntegrityError: ")
    assert names() == ["before", "after"]


@pytest.mark.database("postgresql")
def test_a_hidden_error_that_has_broken_the_transaction_is_a_failure() -> None:
    def hiding(ctx: task.ActivityContext) -> str:
        Group.objects.create(name="once")
        with suppress(IntegrityError):
            Group.objects.create(name="once")
        return "hidden"

    assert "A database error was caught, and what led to it was not undone" in run(hiding)
    assert names() == ["before", "after"]


def test_an_inner_block_that_has_failed_and_is_hidden_is_a_failure() -> None:
    def hiding(ctx: task.ActivityContext) -> str:
        Group.objects.create(name="once")
        with suppress(ValueError), transaction.atomic(savepoint=False):
            raise ValueError
        return "hidden"

    assert "A database error was caught, and what led to it was not undone" in run(hiding)
    assert names() == ["before", "after"]


def test_an_inner_block_that_has_failed_without_a_query_is_a_failure_alone() -> None:
    def failing(ctx: task.ActivityContext) -> str:
        with transaction.atomic(savepoint=False):
            raise ValueError("no query at all")

    assert run(failing) == "builtins.ValueError: no query at all"
    assert names() == ["before", "after"]


def commit(ctx: task.ActivityContext) -> None:
    Group.objects.create(name="x")
    transaction.commit()


def roll_back(ctx: task.ActivityContext) -> None:
    Group.objects.create(name="x")
    transaction.rollback()


def autocommit(ctx: task.ActivityContext) -> None:
    Group.objects.create(name="x")
    transaction.set_autocommit(True)


def durable(ctx: task.ActivityContext) -> None:
    Group.objects.create(name="x")
    with transaction.atomic(durable=True):
        pass


@pytest.mark.parametrize("activity", [commit, roll_back, autocommit, durable])
def test_the_turns_transaction_is_not_an_activitys_to_end(activity: Callable[..., Any]) -> None:
    found = run(activity)
    assert found.startswith(("django.db.transaction.TransactionManagementError: ", "builtins.RuntimeError: "))
    assert names() == ["before", "after"]


@pytest.mark.database("postgresql")
def test_an_activity_that_closes_the_connection_is_given_up() -> None:
    def closing(ctx: task.ActivityContext) -> None:
        Group.objects.create(name="x")
        connection.close()

    worker = hand(between, activities=[local(closing), *ACTIVITIES])
    start(between, "closing", "bad")
    start(writer, ["good"], "good")
    for _ in range(8):
        worker.settle()
    assert "The database connection was closed within a transaction" in failure("bad")["message"]
    assert output("good") == ["GOOD"]
    assert names() == ["good"]


# ------------------------------------------------------------------------------------- hooks, round trips


def test_hooks_run_once_the_turn_is_committed() -> None:
    def hooking(ctx: task.ActivityContext) -> None:
        def hook() -> None:
            assert not connection.in_atomic_block
            hooked.append(status("one").name)

        transaction.on_commit(hook)

    with dying_before_commit(), suppress(OperationalError):
        run(hooking)
    assert hooked == []
    hand(between, activities=[local(hooking), *ACTIVITIES]).settle()
    assert hooked == ["COMPLETED"]


def test_hooks_of_what_has_failed_do_not_run() -> None:
    def hooking(ctx: task.ActivityContext) -> None:
        transaction.on_commit(lambda: hooked.append("outer"))
        with transaction.atomic():
            Group.objects.create(name="x")
            transaction.on_commit(lambda: hooked.append("inner"))
        raise ValueError("no")

    assert run(hooking) == "builtins.ValueError: no"
    assert hooked == []


def test_hooks_of_an_inner_block_that_is_undone_do_not_run() -> None:
    def hooking(ctx: task.ActivityContext) -> None:
        transaction.on_commit(lambda: hooked.append("outer"))
        with suppress(ValueError), transaction.atomic():
            Group.objects.create(name="x")
            transaction.on_commit(lambda: hooked.append("inner"))
            raise ValueError
        transaction.on_commit(lambda: hooked.append("last"))

    assert run(hooking) is None
    assert hooked == ["outer", "last"]


def test_a_hook_that_raises_does_not_pass_for_a_failed_commit() -> None:
    def hooking(ctx: task.ActivityContext) -> None:
        def hook() -> None:
            hooked.append("ran")
            raise RuntimeError("no")

        transaction.on_commit(hook)

    run(hooking)
    assert hooked == ["ran"]
    assert names() == ["before", "after"]
    assert instance("one").tries == 0


def test_one_that_makes_no_query_costs_no_round_trip() -> None:
    def statements(count: int) -> int:
        def thinking(ctx: task.OrchestrationContext, _: Any) -> Steps:
            for number in range(count):
                yield ctx.call_activity("think", input=number)

        worker = hand(thinking)
        start(thinking, None, f"n{count}")
        with CaptureQueriesContext(connection) as queries:
            worker.processor.run(Work(scan=True, starts=1))
        assert status(f"n{count}") == InstanceStatus.COMPLETED
        return len(queries)

    assert statements(1) == statements(6)


@pytest.mark.database("postgresql")
def test_the_wait_for_locks_is_limited_in_that_transaction_alone() -> None:
    told: list[Any] = []

    def looking(ctx: task.ActivityContext) -> None:
        told.append(setting("lock_timeout"))

    before = setting("lock_timeout")
    run(looking)
    assert told == ["1s"]
    assert setting("lock_timeout") == before != "1s"


def setting(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return str(cursor.fetchone()[0])


# ------------------------------------------------------------------------------------- conflicts


@contextmanager
def held_elsewhere(*held: str) -> Iterator[Any]:
    """Lock rows on another connection."""
    other = connections.create_connection(USING)
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM auth_group WHERE name = ANY(%s) FOR UPDATE", [list(held)])
            yield cursor
        other.rollback()
    finally:
        other.close()


@pytest.mark.database("postgresql")
def test_a_lock_that_is_not_let_go_fails_the_activity(settings: Any) -> None:
    settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"LOCAL_LOCK_SECONDS": 0.05}
    Group.objects.create(name="held")

    def waiting(ctx: task.ActivityContext) -> None:
        Group.objects.create(name="x")
        Group.objects.select_for_update().get(name="held")

    with held_elsewhere("held"):
        found = run(waiting)
    assert found.startswith("django.db.utils.OperationalError: ")
    assert "lock timeout" in found
    assert names() == ["held", "before", "after"]


@pytest.mark.database("postgresql")
def test_a_deadlock_costs_a_retry_of_the_whole_transaction_and_fails_nothing(settings: Any) -> None:
    settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"LOCAL_LOCK_SECONDS": 60}
    for name in ("left", "right"):
        Group.objects.create(name=name)
    attempts: list[int] = []
    threads: list[threading.Thread] = []

    def crossing(ctx: task.ActivityContext) -> str:
        attempts.append(1)
        with connection.cursor() as cursor:
            # Whoever waits longest for a deadlock is not its victim.
            cursor.execute("SET LOCAL deadlock_timeout = '10ms'")
        Group.objects.select_for_update().get(name="left")
        if len(attempts) == 1:
            cross()
        Group.objects.select_for_update().get(name="right")
        return "crossed"

    with held_elsewhere("right") as cursor:
        cursor.execute("SET LOCAL deadlock_timeout = '60s'")

        def wait() -> None:
            cursor.execute("SELECT 1 FROM auth_group WHERE name = 'left' FOR UPDATE")
            cursor.connection.rollback()

        def cross() -> None:
            threads.append(threading.Thread(target=wait))
            threads[0].start()
            wait_for_a_waiter()

        worker = hand(between, activities=[local(crossing), *ACTIVITIES])
        start(between, "crossing")
        settle_through_conflicts(worker)
        threads[0].join()
    assert len(attempts) == 2
    assert output("one") == "crossed"
    assert names() == ["left", "right", "before", "after"]
    assert ran == ["before", "before", "after"]
    assert instance("one").tries == 0
    assert_sound("one")


def wait_for_a_waiter() -> None:
    """Return once somebody waits for a lock."""
    for _ in range(10_000):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody waits")


def settle_through_conflicts(worker: HandWorker) -> None:
    for _ in range(3):
        worker.settle()
