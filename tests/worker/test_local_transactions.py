"""What local activities may do to the transaction that they run in, and what they may not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from psycopg import sql

from durable_django import task
from durable_django.client import OrchestrationIdReusePolicy, OrchestrationStatus
from durable_django.models import HistoryEvent, Instance, InstanceStatus
from durable_django.worker.work import Work
from tests.worker.byhand import (
    USING,
    HandWorker,
    assert_sound,
    client,
    failure,
    instance,
    output,
    status,
)
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


def dangling(ctx: task.ActivityContext) -> None:
    ran.append("dangling")
    Permission.objects.create(name="x", codename="x", content_type_id=1_000_000)


def test_a_constraint_that_is_deferred_to_the_commit_is_a_failure_too() -> None:
    worker = hand(between, activities=[local(dangling), *ACTIVITIES])
    start(between, "dangling")
    for _ in range(3):
        worker.settle()
    assert output("one").startswith("django.db.utils.IntegrityError: ")
    assert_sound("one")
    assert names() == ["before", "after"]
    assert not Permission.objects.filter(codename="x").exists()
    assert instance("one").tries == 0
    # In the batch, alone, and alone with an eye on it; where constraints are not deferred, it fails at once.
    assert ran.count("dangling") == (1 if connection.vendor == "mysql" else 3)


@pytest.mark.database("postgresql", "sqlite")
@pytest.mark.parametrize("was_refused", [False, True])
def test_constraints_are_checked_one_by_one_only_after_a_commit_was_refused(was_refused: bool) -> None:
    def patient(ctx: task.ActivityContext) -> str:
        dangling(ctx)
        Permission.objects.filter(codename="x").delete()
        return "in time"

    def mend(ctx: task.ActivityContext) -> str:
        Permission.objects.filter(codename="x").delete()
        return "mended"

    def sloppy(ctx: task.OrchestrationContext, _: Any) -> Steps:
        first = yield ctx.call_activity("patient")
        try:
            yield ctx.call_activity("dangling")
        except task.TaskFailedError as error:
            return [first, error.details.error_type]
        return [first, (yield ctx.call_activity("mend"))]

    worker = hand(sloppy, activities=[local(patient), local(mend), local(dangling)])
    start(sloppy)
    Instance.objects.update(tries=1)
    if was_refused:
        worker.processor._last_errors[instance("one").pk] = IntegrityError("at the commit")
    for _ in range(2):
        worker.settle()
    assert output("one") == ["in time", "django.db.utils.IntegrityError" if was_refused else "mended"]
    assert ran.count("dangling") == 2


@pytest.mark.database("sqlite")
def test_what_others_have_left_dangling_is_nobodys_failure() -> None:
    with connection.constraint_checks_disabled():
        dangling(None)  # type: ignore[arg-type]
    try:
        worker = hand()
        start(writer, ["a"])
        worker.processor._last_errors[instance("one").pk] = IntegrityError("at the commit")
        worker.settle()
        assert output("one") == ["A"]
    finally:
        Permission.objects.filter(codename="x").delete()


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


def never_leave(ctx: task.ActivityContext) -> None:
    Group.objects.create(name="x")
    transaction.atomic().__enter__()
    Group.objects.create(name="y")


def enter_and_raise(ctx: task.ActivityContext) -> None:
    never_leave(ctx)
    raise TransactionManagementError("on its own")


@pytest.mark.parametrize("activity", [commit, roll_back, autocommit, durable, never_leave, enter_and_raise])
def test_the_turns_transaction_is_not_an_activitys_to_end(activity: Callable[..., Any]) -> None:
    found = run(activity)
    assert found.startswith(("django.db.transaction.TransactionManagementError: ", "builtins.RuntimeError: "))
    assert names() == ["before", "after"]


def in_a_block() -> Iterator[int]:
    with transaction.atomic():
        Group.objects.create(name="x")
        yield 1


kept: list[Any] = []


@pytest.mark.parametrize("keeps", [False, True])
def test_a_generator_that_stands_in_an_atomic_block_leaves_no_other(keeps: bool) -> None:
    def failing(ctx: task.ActivityContext) -> None:
        rows = in_a_block()
        kept[:] = [rows] if keeps else []
        for _ in rows:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("no")  # noqa: B904  (its context is what matters)

    found = run(failing)
    kept.clear()
    assert found == "builtins.ValueError: no"
    assert names() == ["before", "after"]


def test_a_generator_in_a_cycle_leaves_its_atomic_block_in_time() -> None:
    def failing(ctx: task.ActivityContext) -> None:
        cycle: list[Any] = [in_a_block()]
        cycle.append(cycle)
        next(cycle[0])
        raise ValueError("no")

    assert run(failing) == "builtins.ValueError: no"
    assert names() == ["before", "after"]


@pytest.mark.parametrize(
    "statement",
    [
        "-- so\nCOMMIT",
        "/* so */ ;commit",
        sql.SQL("COMMIT"),
        b"COMMIT",
        "COMMIT",
        " rollback",
        "END",
        "BEGIN",
        "START  TRANSACTION",
        "ROLLBACK WORK",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_a_statement_that_would_end_the_transaction_is_refused(statement: Any) -> None:
    def ending(ctx: task.ActivityContext) -> None:
        Group.objects.create(name="x")
        with connection.cursor() as cursor:
            cursor.execute(statement)

    found = run(ending)
    assert found.startswith("django.db.transaction.TransactionManagementError: ")
    assert "is not possible here" in found
    assert names() == ["before", "after"]


@pytest.mark.database("mysql")
@pytest.mark.parametrize("statement", ["CREATE TABLE t (i int)", "truncate auth_group", "LOCK TABLES t READ"])
def test_a_statement_that_commits_along_is_refused(statement: str) -> None:
    def defining(ctx: task.ActivityContext) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    assert "is not possible here" in run(defining)
    assert names() == ["before", "after"]


def test_savepoints_and_temporary_tables_are_possible() -> None:
    def working(ctx: task.ActivityContext) -> int:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE ended (number integer)")
            cursor.execute("SAVEPOINT s")
            cursor.execute("INSERT INTO ended VALUES (1)")
            cursor.execute("ROLLBACK TO SAVEPOINT s")
            cursor.execute("SELECT count(*) FROM ended")
            (count,) = cursor.fetchone()
            cursor.execute(
                "DROP TEMPORARY TABLE ended" if connection.vendor == "mysql" else "DROP TABLE ended"
            )
        return int(count)

    assert run(working) == 0


def close(ctx: task.ActivityContext) -> None:
    Group.objects.create(name="x")
    connection.close()


def kill_own_session(ctx: task.ActivityContext) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("activity", [close, kill_own_session])
def test_an_activity_that_loses_the_connection_is_given_up(activity: Callable[..., Any]) -> None:
    worker = hand(between, activities=[local(activity), *ACTIVITIES])
    start(between, activity.__name__, "bad")
    start(writer, ["good"], "good")
    for _ in range(8):
        worker.settle()
    message = failure("bad")["message"]
    assert f"Local activity '{activity.__name__}' (#2) has broken its turn's transaction" in message
    assert output("good") == ["GOOD"]
    assert names() == ["good"]


# ------------------------------------------------------------------------------------- its own instance


def steered(ctx: task.OrchestrationContext, activity: str) -> Steps:
    """Call an activity that wants to steer this instance, or its parent, and return why it cannot."""
    try:
        yield ctx.call_activity(activity)
    except task.TaskFailedError as error:
        return error.details.error_type.rpartition(".")[2]
    return "nothing happened"


def family(ctx: task.OrchestrationContext, activity: str) -> Steps:
    return (yield ctx.call_sub_orchestrator(steered, input=activity, instance_id="kid"))


def terminate(ctx: task.ActivityContext) -> None:
    client().terminate_orchestration("one")


def suspend(ctx: task.ActivityContext) -> None:
    client().suspend_orchestration(ctx.orchestration_id)


def replace(ctx: task.ActivityContext) -> None:
    policy = OrchestrationIdReusePolicy([OrchestrationStatus.RUNNING, OrchestrationStatus.PENDING])
    client().schedule_new_orchestration(steered, instance_id="one", reuse_id_policy=policy)


@pytest.mark.parametrize("activity", [terminate, suspend, replace])
@pytest.mark.parametrize("orchestrator", [steered, family])
def test_what_is_being_moved_cannot_be_steered_by_its_own_turn(
    orchestrator: Callable[..., Any], activity: Callable[..., Any]
) -> None:
    worker = hand(steered, family, activities=[local(activity)])
    start(orchestrator, activity.__name__)
    worker.settle()
    assert output("one") == "OrchestrationStateConflictError"
    assert_sound("one")
    client().purge_orchestration("one")
    assert not HistoryEvent.objects.exists()


def test_what_an_activity_leaves_behind_may_steer_its_instance_later() -> None:
    contexts: list[Any] = []

    def leave(ctx: task.ActivityContext) -> None:
        contexts.append(copy_context())

    def waits(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity("leave")
        yield ctx.wait_for_external_event("never")

    start(waits)
    hand(waits, activities=[local(leave)]).settle()
    contexts[0].run(client().terminate_orchestration, "one")
    assert status("one") == InstanceStatus.TERMINATED


def test_others_can_be_steered_in_a_turn() -> None:
    def waits(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.wait_for_external_event("never")

    def steer(ctx: task.ActivityContext) -> None:
        client().terminate_orchestration("other")
        client().suspend_orchestration("third")

    worker = hand(steered, waits, activities=[local(steer)])
    start(waits, None, "other")
    start(waits, None, "third")
    worker.settle()
    start(steered, "steer")
    worker.settle()
    assert output("one") == "nothing happened"
    assert (status("other"), status("third")) == (InstanceStatus.TERMINATED, InstanceStatus.SUSPENDED)


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


def test_hooks_of_ours_are_not_piled_up() -> None:
    hooks: list[int] = []

    def begin(ctx: task.ActivityContext) -> None:
        client().schedule_new_orchestration("nobody")
        hooks.append(len(connection.run_on_commit))

    def several(ctx: task.OrchestrationContext, _: Any) -> Steps:
        for _ in range(3):
            yield ctx.call_activity("begin")

    start(several)
    hand(several, activities=[local(begin)], filtered=True).settle()
    assert hooks == [1, 1, 1]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)])
@pytest.mark.parametrize("is_partial", [False, True])
def test_a_hook_that_raises_does_not_pass_for_a_failed_commit(
    error: BaseException, is_partial: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(_: object = None) -> None:
        hooked.append("ran")
        raise error

    def hooking(ctx: task.ActivityContext) -> None:
        transaction.on_commit(partial(hook, 1) if is_partial else hook)

    run(hooking)
    assert "Error calling" in caplog.text
    assert "hook" in caplog.text
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
