"""What cannot be moved, or not by this worker, must not stand in the way of what can."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from durable_django import task
from durable_django.models import InstanceStatus, Message, Timer
from durable_django.store import clock
from tests import factories
from tests.worker.byhand import HandWorker, assert_sound, client, instance, output, status

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]


def wait(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.wait_for_external_event("go"))


def nap(ctx: task.OrchestrationContext, _: Any) -> Steps:
    yield ctx.create_timer(ctx.current_utc_datetime)
    return "rested"


def newcomer(ctx: task.OrchestrationContext, _: Any) -> str:
    return "new"


def start(count: int, prefix: str, name: Any = wait, **options: Any) -> list[str]:
    ids = [f"{prefix}{number}" for number in range(count)]
    with transaction.atomic():
        for instance_id in ids:
            client().schedule_new_orchestration(name, instance_id=instance_id, **options)
    return ids


@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
def test_suspended_instances_at_the_head_of_the_inbox_hold_nobody_up(held: bool) -> None:
    worker = HandWorker(wait, batch_instances=10)
    suspended = start(200, "suspended")
    worker.settle()
    with transaction.atomic():
        for instance_id in suspended:
            client().suspend_orchestration(instance_id)
            client().raise_orchestration_event(instance_id, "go", data=1)
    # A message that is sent at the moment of the suspension is not marked.
    assert Message.objects.filter(held=True).update(held=held) == 200
    others = start(15, "other")
    worker.settle()
    for instance_id in others:
        client().raise_orchestration_event(instance_id, "go", data=2)
    worker.settle()
    assert [output(instance_id) for instance_id in others] == [2] * 15
    assert {status(instance_id) for instance_id in suspended} == {InstanceStatus.SUSPENDED}
    with transaction.atomic():
        for instance_id in suspended:
            client().resume_orchestration(instance_id)
    worker.settle()
    assert [output(instance_id) for instance_id in suspended] == [1] * 200


def test_due_timers_of_suspended_instances_hold_nobody_up() -> None:
    worker = HandWorker(nap, batch_instances=10)
    for number in range(200):
        suspended = factories.make_instance(f"suspended{number}", InstanceStatus.SUSPENDED, name="nap")
        factories.make_timer(suspended, 1, factories.NOW)
    others = start(15, "other", nap)
    worker.settle()
    assert [output(instance_id) for instance_id in others] == ["rested"] * 15
    assert Timer.objects.count() == 200


def test_orphaned_messages_and_timers_at_the_head_of_the_inbox_hold_nobody_up() -> None:
    worker = HandWorker(wait, batch_instances=10)
    ended = factories.make_instance("ended", InstanceStatus.TERMINATED)
    gone = factories.make_instance("gone", InstanceStatus.TERMINATED)
    gone_key = gone.pk
    gone.delete()
    for key in (ended.pk, gone_key):
        Message.objects.bulk_create(
            Message(instance_id=key, kind=2, name="go", visible_at=clock.aware(factories.NOW))
            for _ in range(200)
        )
        Timer.objects.bulk_create(
            Timer(instance_id=key, execution_id="x", task_id=1, fire_at=clock.aware(factories.NOW))
            for _ in range(200)
        )
    others = start(15, "other")
    worker.settle()
    for instance_id in others:
        client().raise_orchestration_event(instance_id, "go", data=2)
    worker.settle()
    assert [output(instance_id) for instance_id in others] == [2] * 15


def test_pending_instances_of_other_names_hold_nobody_up() -> None:
    worker = HandWorker(wait, filtered=True, batch_instances=10)
    strange = start(300, "strange", "somebody else's", priority=5)
    client().schedule_new_orchestration(wait, instance_id="ours")
    client().raise_orchestration_event("ours", "go", data="done")
    worker.settle()
    assert output("ours") == "done"
    assert {status(instance_id) for instance_id in strange} == {InstanceStatus.PENDING}


def test_activities_of_other_names_hold_nobody_up() -> None:
    ran: list[int] = []

    def ours(ctx: task.ActivityContext, _: Any) -> None:
        ran.append(1)

    def call(ctx: task.OrchestrationContext, name: str) -> Steps:
        yield ctx.call_activity(name)

    worker = HandWorker(call, activities=[ours], filtered=True, slots=5)
    start(300, "strange", call, input="somebody else's")
    worker.settle()
    start(1, "ours", call, input="ours")
    worker.settle()
    assert ran == [1]
    assert status("ours0") is InstanceStatus.COMPLETED


# ------------------------------------------------------------------------------------- a rolling deploy


def test_only_the_new_worker_of_a_rolling_deploy_runs_what_only_it_knows() -> None:
    old = HandWorker(wait, name="old", filtered=True)
    new = HandWorker(wait, newcomer, name="new", filtered=True)
    client().schedule_new_orchestration(newcomer, instance_id="flow")
    old.settle()
    assert status("flow") is InstanceStatus.PENDING
    with CaptureQueriesContext(connection) as queries:
        for _ in range(20):
            old.loop.step()
    assert len(queries) == 0, "nothing has happened, and it is not time to look"
    assert not old.loop._wake.is_set()
    new.settle()
    assert output("flow") == "new"
    assert_sound("flow")


def test_a_running_instance_whose_name_only_the_new_worker_knows_waits_for_it() -> None:
    """A deploy is rolled back: the old worker finds what the new one has begun."""

    def stay(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.wait_for_external_event("go"))

    old = HandWorker(wait, name="old", filtered=True)
    new = HandWorker(stay, name="new", filtered=True)
    client().schedule_new_orchestration(stay, instance_id="flow")
    new.settle()
    client().raise_orchestration_event("flow", "go", data=7)
    old.settle()
    assert status("flow") is InstanceStatus.RUNNING
    with CaptureQueriesContext(connection) as queries:
        for _ in range(20):
            old.loop.step()
    assert len(queries) == 0
    new.settle()
    assert output("flow") == 7


def test_an_activity_that_only_the_new_worker_knows_is_left_to_it() -> None:
    def fresh(ctx: task.ActivityContext, _: Any) -> str:
        return "fresh"

    def call(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.call_activity("fresh"))

    old = HandWorker(call, name="old", filtered=True)
    new = HandWorker(activities=[fresh], name="new", filtered=True)
    client().schedule_new_orchestration(call, instance_id="flow")
    old.settle()
    assert (instance("flow").tries, status("flow")) == (0, InstanceStatus.RUNNING)
    with CaptureQueriesContext(connection) as queries:
        for _ in range(20):
            old.loop.step()
    assert len(queries) == 0
    new.settle()
    old.settle()
    assert output("flow") == "fresh"


def test_an_idle_worker_looks_ever_less_often() -> None:
    worker = HandWorker(wait, filtered=True)
    start(3, "strange", "somebody else's")
    worker.settle()
    pauses = []
    for _ in range(10):
        worker.step()
        pauses.append(worker.loop._pause)
    assert pauses[-1] == 1.0
    assert pauses == sorted(pauses)
    with CaptureQueriesContext(connection) as queries:
        worker.step()
    assert len(queries) <= 8, [query["sql"] for query in queries]
