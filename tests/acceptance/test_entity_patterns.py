"""The entity patterns of the Durable Task guide (see ``entity_patterns.py``), run by a real worker."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest
from django.db import connection, transaction

from durable_django import entities, task
from durable_django.client import OrchestrationStatus
from durable_django.history import EntityLockGrantedEvent
from tests.acceptance import entity_patterns as patterns
from tests.acceptance.conftest import Stage, eventually

Steps = Generator[Any, Any, Any]

MINE = entities.EntityInstanceId("counter", "my-counter")


def state(stage: Stage, entity_id: entities.EntityInstanceId) -> Any:
    found = stage.client.get_entity(entity_id)
    return None if found is None else found.get_typed_state(object)


@pytest.fixture(params=[patterns.counter, patterns.Counter], ids=["function", "class"])
def counter(request: pytest.FixtureRequest) -> Any:
    return request.param


def start(stage: Stage, *orchestrators: Any, **named: Any) -> None:
    worker = stage.worker(orchestrators, start=False)
    for name, entity in named.items():
        worker.add_entity(entity, name)
    worker.start()


def test_a_counter_from_an_orchestration(stage: Stage, counter: Any) -> None:
    start(stage, patterns.workflow_with_entity, counter=counter)
    assert stage.output(stage.start(patterns.workflow_with_entity)) == "Counter value: 5"
    assert stage.output(stage.start(patterns.workflow_with_entity)) == "Counter value: 10"


def test_a_counter_from_a_client(stage: Stage, counter: Any) -> None:
    client = stage.client
    start(stage, patterns.workflow_with_entity, counter=counter)
    entity_id = entities.EntityInstanceId("counter", "my-counter")
    client.signal_entity(entity_id, "add", input=10)
    eventually(lambda: state(stage, MINE) == 10)
    client.signal_entity(entity_id, "subtract", input=3)
    eventually(lambda: state(stage, MINE) == 7)
    client.signal_entity(entity_id, "reset")
    eventually(lambda: state(stage, MINE) == 0)


def test_a_transfer_under_locks(stage: Stage) -> None:
    start(stage, patterns.workflow_with_locks, account=patterns.Account)
    ids = [stage.start(patterns.workflow_with_locks) for _ in range(10)]
    for instance_id in ids:
        assert stage.output(instance_id) == "Transfer complete"
    for key, balance in (("account-1", -1000), ("account-2", 1000)):
        entity_id = entities.EntityInstanceId("account", key)
        assert state(stage, entity_id) == balance

    def is_unlocked() -> bool:
        return all(metadata.get_locked_by() is None for metadata in stage.client.get_all_entities())

    eventually(is_unlocked)


def test_a_worker_that_is_stopped_keeps_its_locks_for_the_next(stage: Stage) -> None:
    def patient(ctx: task.OrchestrationContext, _: None) -> Steps:
        with (yield ctx.lock_entities([MINE])):
            amount = yield ctx.wait_for_external_event("amount")
            yield ctx.call_entity(MINE, "add", amount)
        return "added"

    start(stage, patient, counter=patterns.Counter)
    instance_id = stage.start(patient)
    stage.happened(instance_id, EntityLockGrantedEvent)
    stage.workers[0].stop()
    stage.client.signal_entity(MINE, "add", input=100)
    start(stage, patient, counter=patterns.Counter)
    assert stage.status(instance_id) is OrchestrationStatus.RUNNING
    stage.client.raise_orchestration_event(instance_id, "amount", data=1)
    assert stage.output(instance_id) == "added"
    eventually(lambda: state(stage, MINE) == 101)


@pytest.mark.database("postgresql")
def test_requests_that_signal_in_opposite_order_block_nobody(stage: Stage) -> None:
    """Two long transactions signal the same two entities, which go on working meanwhile."""
    start(stage, patterns.workflow_with_entity, counter=patterns.Counter)
    first, second = (entities.EntityInstanceId("counter", key) for key in ("1", "2"))
    for entity_id in (first, second):
        stage.client.signal_entity(entity_id, "add", input=1)
    half, done = threading.Barrier(3), threading.Event()
    errors: list[Exception] = []

    def request(*targets: entities.EntityInstanceId) -> None:
        try:
            with transaction.atomic():
                for number, target in enumerate(targets):
                    stage.client.signal_entity(target, "add", input=10)
                    if number == 0:
                        half.wait(10)
                half.wait(10)
                done.wait(10)
        except Exception as error:  # noqa: BLE001 - told to the test
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=request, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    half.wait(10)
    half.wait(10)
    # Both have signalled both, and have not committed: whoever comes now is served.
    for entity_id in (first, second):
        stage.client.signal_entity(entity_id, "add", input=1)
    eventually(lambda: state(stage, first) == state(stage, second) == 2)
    assert stage.output(stage.start(patterns.workflow_with_entity)) == "Counter value: 5"
    done.set()
    for thread in threads:
        thread.join(10)
    eventually(lambda: state(stage, first) == state(stage, second) == 22)
    assert errors == []


def test_a_slow_entity_holds_up_no_other(stage: Stage) -> None:
    release = threading.Event()

    def slow(ctx: entities.EntityContext, _: Any) -> None:
        release.wait(10)
        ctx.set_state("done")

    start(stage, patterns.workflow_with_entity, counter=patterns.Counter, slow=slow)
    sloth = entities.EntityInstanceId("slow", "sloth")
    try:
        for _ in range(3):
            stage.client.signal_entity(sloth, "go")
        if connection.vendor != "sqlite":  # There, whatever writes waits for the one who writes.
            assert stage.output(stage.start(patterns.workflow_with_entity)) == "Counter value: 5"
            assert state(stage, sloth) is None
    finally:
        release.set()
    eventually(lambda: state(stage, sloth) == "done")
    if connection.vendor == "sqlite":
        assert stage.output(stage.start(patterns.workflow_with_entity)) == "Counter value: 5"
