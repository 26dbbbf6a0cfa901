"""Clients that steer instances from many threads while a worker moves them."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from django.db import connections

from durable_django import task
from durable_django.client import DurableTaskClient, OrchestrationNotFoundError
from durable_django.core.errors import DurableTaskError
from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus
from durable_django.worker import ConcurrencyOptions, DurableTaskWorker
from tests.worker.byhand import assert_sound, assert_tables_are_empty

pytestmark = [
    pytest.mark.database("postgresql"),  # SQLite lets one writer in at a time: nobody can wait in a circle.
    pytest.mark.django_db(transaction=True),
]

Steps = Generator[task.Task[Any], Any, Any]

FAMILIES = 12
SECONDS = 4.0
LONGEST = 60.0
"""Where few operations fit into the seconds, the hammering goes on until each has had its turn."""
SEED = int(os.environ.get("HAMMER_SEED", "0"))
_TERMINAL = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)


def double(ctx: task.ActivityContext, number: int) -> int:
    if number == 13:
        raise ValueError("thirteen")
    return 2 * number


def child(ctx: task.OrchestrationContext, number: int) -> Steps:
    doubled = yield task.when_all([ctx.call_activity(double, input=number + n) for n in range(5)])
    yield ctx.create_timer(ctx.current_utc_datetime)
    return sum(doubled)


def parent(ctx: task.OrchestrationContext, number: int) -> Steps:
    """Create children, over finished ones if need be, send events, take one, and start over."""
    children = [
        ctx.call_sub_orchestrator(child, input=number + n, instance_id=f"{ctx.instance_id}-{n}")
        for n in range(3)
    ]
    sums = yield task.when_all(children)
    for n in range(3):
        ctx.send_event(f"p{(number + n) % FAMILIES}", "go", data=n)
    yield ctx.wait_for_external_event("go")
    if number < 20:
        ctx.continue_as_new(number + 1, save_events=True)
        return None
    return sums


def operations(client: DurableTaskClient) -> dict[str, Callable[[str], Any]]:
    return {
        "terminate": client.terminate_orchestration,
        "suspend": client.suspend_orchestration,
        "resume": client.resume_orchestration,
        "event": lambda name: client.raise_orchestration_event(name, "go", data=0),
        "purge": client.purge_orchestration,
        "rewind": client.rewind_orchestration,
        "restart": client.restart_orchestration,
        "start": lambda name: client.schedule_new_orchestration(parent, input=0, instance_id=name),
    }


def hammer(seed: int, began: float, failures: list[BaseException], done: set[str]) -> None:
    """Do this and that to whatever family, until the time is over and each operation has had its turn."""
    rng = random.Random(seed)
    calls = operations(DurableTaskClient())
    try:
        while (passed := time.monotonic() - began) < SECONDS or (
            passed < LONGEST and not failures and done != set(calls)
        ):
            family = f"p{rng.randrange(FAMILIES)}"
            what = rng.choice([*calls, "event", "event", "resume", "start"])
            is_of_family = what in ("start", "restart", "purge", "rewind")
            name = family if is_of_family else rng.choice([family, f"{family}-{rng.randrange(3)}"])
            try:
                calls[what](name)
                done.add(what)
            except DurableTaskError:
                pass  # It does not exist, or its state does not allow it.
    except BaseException as error:  # noqa: BLE001 - told in the test's thread
        failures.append(error)
    finally:
        connections.close_all()


@pytest.mark.timeout(180)
def test_clients_and_a_worker_never_wait_in_a_circle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="durable_django")
    client = DurableTaskClient()
    workers = []
    for _ in range(2):
        worker = DurableTaskWorker(concurrency_options=ConcurrencyOptions(maximum_thread_pool_workers=4))
        for orchestrator in (parent, child):
            worker.add_orchestrator(orchestrator)
        worker.add_activity(double)
        worker.start()
        workers.append(worker)
    failures: list[BaseException] = []
    done: set[str] = set()
    began = time.monotonic()
    threads = [
        threading.Thread(target=hammer, args=(SEED + number, began, failures, done)) for number in range(6)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert done == set(operations(client)), "every operation has had its turn"
        finish(client)
    finally:
        for worker in workers:
            worker.stop()
    assert "tried again" not in caplog.text, "no batch has run into a client"
    assert "deadlock" not in caplog.text
    assert "durable_history_sequence" not in caplog.text
    for instance_id in Instance.objects.values_list("instance_id", flat=True):
        assert_sound(instance_id)
    owners = set(Instance.objects.values_list("pk", flat=True))
    assert set(HistoryEvent.objects.values_list("instance_id", flat=True)) <= owners
    ActivityTask.objects.filter(instance__status__in=_TERMINAL).delete()
    assert_tables_are_empty()


def finish(client: DurableTaskClient) -> None:
    """Resume whoever is suspended and give everybody all events; then all must end."""
    deadline = time.monotonic() + 60
    while live := list(Instance.objects.exclude(status__in=_TERMINAL).values_list("instance_id", "status")):
        assert time.monotonic() < deadline, live
        for instance_id, status in live:
            try:
                if status == InstanceStatus.SUSPENDED:
                    client.resume_orchestration(instance_id)
                client.raise_orchestration_event(instance_id, "go", data=0)
            except OrchestrationNotFoundError:
                continue
        time.sleep(0.05)
