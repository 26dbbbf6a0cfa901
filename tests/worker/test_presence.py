"""What a worker's row says, how it is kept up, and what becomes of it when the worker dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from durable_django import task
from durable_django.entities import EntityInstanceId
from durable_django.models import ActivityTask, EntityOperation, Instance, Worker
from durable_django.store import clock, workers
from durable_django.store.monitoring import WorkerState, worker_state
from durable_django.store.workers import Load
from durable_django.testing import VirtualClock, advance
from durable_django.worker import (
    ActivityWorkItemFilter,
    DurableTaskWorker,
    EntityWorkItemFilter,
    OrchestrationWorkItemFilter,
    VersionFailureStrategy,
    VersioningOptions,
    VersionMatchStrategy,
    WorkItemFilters,
)
from tests import factories
from tests.acceptance.conftest import TIMEOUT, eventually
from tests.worker.byhand import HandWorker, client, output

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("_durable_wakeups")]

Steps = Generator[task.Task[Any], Any, Any]
SILENCE = timedelta(seconds=60)


def add_one(ctx: task.ActivityContext, number: int) -> int:
    return number + 1


def chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    number = 0
    for _ in range(length):
        number = yield ctx.call_activity(add_one, input=number)
    return number


def row_of(worker: DurableTaskWorker) -> Worker:
    with worker:
        worker.start()
        return Worker.objects.get(identity=worker.identity)


# ------------------------------------------------------------------------------------- what is served


def test_a_worker_that_takes_everything_says_so() -> None:
    row = row_of(DurableTaskWorker())
    assert (row.versioning, row.names, row.queues) == (None, None, None)


def test_filters_and_versions_are_shown() -> None:
    worker = DurableTaskWorker(queues=["mail"])
    worker.use_work_item_filters(
        WorkItemFilters(
            [OrchestrationWorkItemFilter("b", ["2", "1"]), OrchestrationWorkItemFilter("a")],
            [ActivityWorkItemFilter("act", ["1"])],
            [EntityWorkItemFilter("Box")],
        )
    )
    worker.use_versioning(
        VersioningOptions(
            version="2",
            match_strategy=VersionMatchStrategy.CURRENT_OR_OLDER,
            failure_strategy=VersionFailureStrategy.FAIL,
        )
    )
    row = row_of(worker)
    assert row.names == {
        "orchestrations": {"a": [], "b": ["1", "2"]},
        "activities": {"act": ["1"]},
        "entities": ["box"],
    }
    assert row.versioning == {"version": "2", "match": "current_or_older", "others": "fail"}
    assert row.queues == ["mail"]


def test_what_is_registered_is_shown_where_it_filters() -> None:
    worker = DurableTaskWorker()
    worker.add_orchestrator(chain)
    worker.use_work_item_filters()
    assert row_of(worker).names == {"orchestrations": {"chain": []}, "activities": {}, "entities": []}


# ------------------------------------------------------------------------------------- how much is done


def test_the_load_comes_with_each_heartbeat(settings: Any) -> None:
    settings.DURABLE_DJANGO = {"HEARTBEAT_SECONDS": 0.1, "ACTIVITY_THREADS": 3}
    arrived, opened = threading.Event(), threading.Event()

    def wait(ctx: task.ActivityContext, number: int) -> None:
        arrived.set()
        assert opened.wait(TIMEOUT)

    def waits(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(wait, input=1)

    worker = DurableTaskWorker()
    worker.add_orchestrator(waits)
    worker.add_activity(wait)

    def load() -> Any:
        return Worker.objects.get(identity=worker.identity).load

    with worker:
        worker.start()
        assert load()["threads"] == 3
        client().schedule_new_orchestration(waits)
        assert arrived.wait(TIMEOUT)
        eventually(lambda: (load()["activities_running"], load()["instances"]) == (1, 1))
        eventually(lambda: load()["turns_per_minute"] > 0)
        opened.set()
        eventually(lambda: (load()["activities_running"], load()["instances"]) == (0, 0))
        # What happened before the heartbeat before is not counted again.
        eventually(lambda: load()["turns_per_minute"] == 0)


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_heartbeat_is_one_statement(django_assert_num_queries: Any, is_marked: bool) -> None:
    since = clock.now() if is_marked else None
    factories.make_worker("w", silent=30, draining_since=None if since is None else clock.aware(since))
    with django_assert_num_queries(1):
        assert workers.beat("default", "w", Load(instances=7), since, since) == (True, since)
    row = Worker.objects.get()
    assert row.load is not None
    assert row.load["instances"] == 7
    assert row.last_heartbeat_at > row.started_at
    assert (row.drained_at is not None) is is_marked


def test_a_heartbeat_finds_a_mark_that_has_come_or_gone() -> None:
    factories.make_worker("w", silent=30)
    since = clock.now()
    Worker.objects.update(draining_since=clock.aware(since))
    assert workers.beat("default", "w", Load(), None, None) == (True, since)
    assert worker_state(Worker.objects.get()) is WorkerState.DRAINING
    Worker.objects.update(draining_since=None)
    # It is not drained any more, whatever it has been until now.
    assert workers.beat("default", "w", Load(), since, since) == (True, None)
    assert worker_state(Worker.objects.get()) is WorkerState.ALIVE
    Worker.objects.all().delete()
    assert workers.beat("default", "w", Load(), None, None) == (False, None)
    assert not Worker.objects.exists()


# ------------------------------------------------------------------------------------- the end of the dead


def test_a_worker_that_falls_silent_changes_its_state_and_is_buried(durable_clock: VirtualClock) -> None:
    factories.make_worker("w")
    advance(SILENCE)
    assert workers.bury_dead("default", SILENCE) == 0
    assert worker_state(Worker.objects.get()) is WorkerState.ALIVE
    advance(timedelta(seconds=1))
    assert worker_state(Worker.objects.get()) is WorkerState.SILENT
    assert workers.bury_dead("default", SILENCE) == 1
    assert not Worker.objects.exists()


@pytest.mark.parametrize("is_draining", [False, True])
@pytest.mark.parametrize("is_drained", [False, True])
def test_what_the_dead_had_leased_is_given_back(is_draining: bool, is_drained: bool) -> None:
    now = clock.now()
    later = clock.aware(now + timedelta(hours=1))
    instance = factories.make_instance("i")
    for number, worker in enumerate(("dead", "alive")):
        lease = {"lease_token": number + 1, "deliveries": 1, "worker": worker, "visible_at": later}
        factories.make_activity(instance, number, **lease)
    marks: dict[str, Any] = {
        "draining_since": clock.aware(now) if is_draining else None,
        "drained_at": clock.aware(now) if is_draining and is_drained else None,
    }
    client().signal_entity(EntityInstanceId("counter", "c"), "add")
    operation = EntityOperation.objects.get()
    factories.make_worker("alive", silent=1, **marks)
    factories.make_worker("dead", silent=61, suspect=instance, suspect_operations=[operation.pk], **marks)

    assert workers.bury_dead("default", SILENCE) == 1

    assert Worker.objects.get().identity == "alive"
    given_back, kept = ActivityTask.objects.order_by("task_id")
    assert (given_back.lease_token, given_back.worker, given_back.deliveries) == (None, None, 0)
    assert given_back.visible_at == given_back.created_at
    assert (kept.lease_token, kept.worker, kept.visible_at) == (2, "alive", later)
    assert Instance.objects.get().tries == 1
    assert EntityOperation.objects.get().tries == 1
    # Who would mark it, or take its mark away, is told that it is gone.
    for mark in (True, False):
        assert not workers.mark("default", "dead", is_draining=mark)


def test_a_draining_process_that_is_gone_is_buried_before_it_is_silent_for_long() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    since = clock.aware(clock.now())
    here: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid_namespace": workers._pid_namespace(),
        "draining_since": since,
    }
    factories.make_worker("gone", pid=process.pid, **here)
    factories.make_worker("there", pid=os.getppid(), **here)
    assert workers.bury_dead("default", SILENCE) == 1
    assert Worker.objects.get().identity == "there"


def test_who_is_silent_can_be_marked_and_the_mark_dies_with_the_row() -> None:
    factories.make_worker("dead", silent=61)
    assert workers.mark("default", "dead", is_draining=True)
    assert worker_state(Worker.objects.get()) is WorkerState.SILENT
    assert workers.bury_dead("default", SILENCE) == 1


# ------------------------------------------------------------------------------------- the loop, by hand


def is_drained(worker: HandWorker) -> bool:
    return worker.loop.is_drained


@pytest.mark.parametrize("careful", [False, True], ids=["", "careful"])
def test_a_turn_of_a_draining_worker_leases_nothing(careful: bool) -> None:
    worker = HandWorker(chain, activities=[add_one])
    worker.careful = careful
    client().schedule_new_orchestration(chain, input=2, instance_id="flow")
    worker.step()
    worker.step()
    assert len(worker.pool.leased) == 1
    worker.loop.drain()
    worker.run_activities()
    worker.step()
    assert worker.pool.leased == []
    assert ActivityTask.objects.get().lease_token is None
    worker.step()
    assert is_drained(worker)
    assert worker.loop.instances == 0
    worker.loop.resume()
    assert not is_drained(worker)
    worker.settle()
    assert output("flow") == 2


def test_a_draining_worker_is_not_drained_while_something_runs_or_is_unrecorded() -> None:
    worker = HandWorker(chain, activities=[add_one])
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    worker.step()
    worker.loop.drain()
    worker.step()
    assert not is_drained(worker)
    worker.run_activities()
    assert not is_drained(worker)
    worker.step()
    worker.step()
    assert is_drained(worker)
    assert output("flow") == 1


def test_a_draining_worker_sleeps_until_something_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = HandWorker(chain, activities=[add_one])
    slept: list[float] = []
    monkeypatch.setattr(worker.loop._wake, "wait", slept.append)
    worker.loop._timers.append((clock.now() - timedelta(hours=1), 1))
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    worker.step()
    worker.loop.drain()
    worker.loop._wait()
    worker.run_activities()
    worker.step()
    worker.step()
    worker.loop._wait()
    assert slept == [0.1, 1.0]


def test_one_that_works_again_looks_at_once() -> None:
    worker = HandWorker(chain, activities=[add_one])
    worker.step()
    worker.loop.drain()
    worker.loop.step()
    assert is_drained(worker)
    client().schedule_new_orchestration(chain, input=1, instance_id="flow")
    worker.loop._poll_at = float("inf")
    worker.loop.step()
    assert worker.pool.leased == []
    worker.loop.resume()
    worker.loop.step()
    assert len(worker.pool.leased) == 1
