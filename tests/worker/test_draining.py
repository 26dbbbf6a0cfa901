"""Real workers that are drained by a mark on their rows, and let work again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable_django import entities, task
from durable_django.core import events
from durable_django.models import ActivityTask, EntityOperation, Instance, Worker
from durable_django.store import clock, postgres, wakeup, workers
from durable_django.store.activities import Leased
from durable_django.worker import ConcurrencyOptions, DurableTaskWorker, pool
from tests import factories
from tests.acceptance.conftest import TIMEOUT, Stage, eventually
from tests.factories import history_of
from tests.processes.pack import Pack

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

Steps = Generator[task.Task[Any], Any, Any]


class Gate:
    """Holds activities and entities until it is opened."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._is_open = threading.Event()

    def pass_through(self) -> None:
        self._arrived.release()
        assert self._is_open.wait(TIMEOUT)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrived.acquire(timeout=TIMEOUT)

    def open(self) -> None:
        self._is_open.set()


gate = Gate()


def add_one(ctx: task.ActivityContext, number: int) -> int:
    return number + 1


def slow(ctx: task.ActivityContext, number: int) -> int:
    gate.pass_through()
    return number + 1


async def slow_async(ctx: task.ActivityContext, number: int) -> int:
    await asyncio.to_thread(gate.pass_through)
    return number + 1


def quick(ctx: task.OrchestrationContext, number: int) -> Steps:
    return (yield ctx.call_activity(add_one, input=number))


def slow_then_quick(ctx: task.OrchestrationContext, kind: str) -> Steps:
    number = yield ctx.call_activity(kind, input=1)
    return (yield ctx.call_activity(add_one, input=number))


def fan(ctx: task.OrchestrationContext, width: int) -> Steps:
    return (yield task.when_all([ctx.call_activity(slow, input=number) for number in range(width)]))


class Box(entities.DurableEntity):
    """Holds something; some of it is slow to get in."""

    def put(self, what: str) -> None:
        if what == "slow":
            gate.pass_through()
        self.set_state(what)


@pytest.fixture(autouse=True)
def closed_gate() -> Iterator[None]:
    gate.close()
    yield
    gate.open()


@pytest.fixture
def stage(transactional_db: None, _durable_wakeups: None, settings: Any) -> Iterator[Stage]:
    settings.DURABLE_DJANGO = {"HEARTBEAT_SECONDS": 0.2}
    stage = Stage()
    try:
        yield stage
    finally:
        gate.open()
        for worker in stage.workers:
            worker.stop()


def start(stage: Stage, name: str = "one", **options: Any) -> DurableTaskWorker:
    worker = stage.worker(
        [quick, slow_then_quick, fan], [add_one, slow, slow_async], start=False, name=name, **options
    )
    worker.add_entity(Box, "box")
    worker.start()
    return worker


def row(worker: DurableTaskWorker) -> Worker:
    return Worker.objects.get(identity=worker.identity)


def mark(worker: DurableTaskWorker, *, is_draining: bool) -> None:
    assert worker.identity is not None
    assert workers.mark("default", worker.identity, is_draining=is_draining)


def load(worker: DurableTaskWorker) -> dict[str, int]:
    found: dict[str, int] | None = row(worker).load
    assert found is not None
    return found


def is_drained(worker: DurableTaskWorker) -> bool:
    return row(worker).drained_at is not None


def drain(worker: DurableTaskWorker) -> None:
    mark(worker, is_draining=True)
    eventually(lambda: is_drained(worker))


def drains(worker: DurableTaskWorker) -> bool:
    """Tell whether it has noticed its mark."""
    running = worker._running
    assert running is not None
    return running.loop._is_draining


def workers_of(instance_id: str) -> set[str | None]:
    """Return the names of the workers that ran an instance's activities."""
    history = history_of(Instance.objects.get(instance_id=instance_id))
    return {event.worker for event in history if isinstance(event, events.TaskCompletedEvent)}


def box(key: str) -> entities.EntityInstanceId:
    return entities.EntityInstanceId("box", key)


def contents(stage: Stage, key: str) -> Any:
    found = stage.client.get_entity(box(key))
    return None if found is None else found.get_typed_state(str)


def test_a_drained_worker_takes_on_nothing_and_works_again_when_it_may(stage: Stage) -> None:
    drained, other = start(stage, "drained"), start(stage, "other")
    drain(drained)
    ids = [stage.start(quick, number) for number in range(30)]
    assert [stage.output(instance_id) for instance_id in ids] == list(range(1, 31))
    assert set().union(*map(workers_of, ids)) == {"other"}
    assert load(drained)["turns_per_minute"] == load(drained)["instances"] == 0

    other.stop()
    waiting = stage.start(quick, 1)
    stage.client.signal_entity(box("a"), "put", "thing")
    # Nothing that it would take is left, whatever is in the tables.
    assert drained.wait_until_idle(TIMEOUT)
    assert stage.status(waiting).name == "PENDING"
    assert contents(stage, "a") is None

    mark(drained, is_draining=False)
    assert stage.output(waiting) == 2
    assert workers_of(waiting) == {"drained"}
    eventually(lambda: contents(stage, "a") == "thing")
    assert (row(drained).draining_since, row(drained).drained_at) == (None, None)


@pytest.mark.parametrize("kind", ["slow", "slow_async"])
def test_what_runs_ends_and_is_recorded_and_goes_on_elsewhere(stage: Stage, kind: str) -> None:
    worker = start(stage, "one")
    instance_id = stage.start(slow_then_quick, kind)
    gate.wait_for()
    mark(worker, is_draining=True)
    eventually(lambda: drains(worker))
    beaten = row(worker).last_heartbeat_at
    eventually(lambda: row(worker).last_heartbeat_at > beaten)
    assert not is_drained(worker)
    assert load(worker)["activities_running"] == 1

    gate.open()
    eventually(lambda: is_drained(worker))
    # Its result is recorded with the turn that takes it in; what that has called is anybody's.
    assert workers_of(instance_id) == {"one"}
    left = ActivityTask.objects.get()
    assert (left.name, left.lease_token) == ("add_one", None)

    start(stage, "two")
    assert stage.output(instance_id) == 3
    assert workers_of(instance_id) == {"one", "two"}


def test_what_is_leased_and_not_started_is_given_back(stage: Stage) -> None:
    worker = start(stage, concurrency_options=ConcurrencyOptions(maximum_thread_pool_workers=1))
    stage.start(fan, 4)
    gate.wait_for()
    eventually(lambda: ActivityTask.objects.count() == 4)
    mark(worker, is_draining=True)
    eventually(lambda: ActivityTask.objects.filter(lease_token__isnull=True).count() == 3)
    assert set(
        ActivityTask.objects.filter(lease_token__isnull=True).values_list("deliveries", flat=True)
    ) <= {
        0,
        1,  # given back before, for having waited long
    }
    gate.open()
    eventually(lambda: is_drained(worker))
    assert ActivityTask.objects.filter(lease_token__isnull=True).count() == ActivityTask.objects.count() == 3


def test_what_a_turn_leases_while_the_mark_comes_is_given_back_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PATIENCE_SECONDS", 600.0)
    worker = start(stage, concurrency_options=ConcurrencyOptions(maximum_thread_pool_workers=1))
    stage.start(fan, 1)
    gate.wait_for()
    mark(worker, is_draining=True)
    eventually(lambda: drains(worker))
    assert worker._running is not None
    late = factories.make_activity(
        Instance.objects.get(), 7, name="slow", lease_token=77, deliveries=1, worker=worker.identity
    )
    worker._running._pool.submit(
        [Leased(77, late.instance_id, "", late.execution_id, 7, "slow", "1", "default", None, clock.now())]
    )
    eventually(lambda: ActivityTask.objects.get(pk=late.pk).lease_token is None)


@pytest.mark.database("postgresql", "mysql")  # On SQLite, nobody can write a mark while an entity performs.
def test_an_entity_ends_its_turn_and_begins_none(stage: Stage) -> None:
    worker = start(stage)
    stage.client.signal_entity(box("a"), "put", "slow")
    gate.wait_for()
    eventually(lambda: load(worker)["entities"] == 1)
    mark(worker, is_draining=True)
    eventually(lambda: drains(worker))
    stage.client.signal_entity(box("b"), "put", "late")
    assert not is_drained(worker)
    gate.open()
    eventually(lambda: is_drained(worker))
    assert contents(stage, "a") == "slow"
    assert EntityOperation.objects.get().key == "b"
    mark(worker, is_draining=False)
    eventually(lambda: contents(stage, "b") == "late")


def test_it_may_work_again_before_it_is_drained(stage: Stage) -> None:
    worker = start(stage)
    held = stage.start(slow_then_quick, "slow")
    gate.wait_for()
    mark(worker, is_draining=True)
    eventually(lambda: drains(worker))
    mark(worker, is_draining=False)
    assert stage.output(stage.start(quick, 1)) == 2
    gate.open()
    assert stage.output(held) == 3
    assert row(worker).drained_at is None


def test_it_can_be_drained_over_and_over(stage: Stage) -> None:
    worker = start(stage)
    for number in range(5):
        drain(worker)
        instance_id = stage.start(quick, number)
        mark(worker, is_draining=False)
        assert stage.output(instance_id) == number + 1


def test_a_drained_worker_stops_at_once_and_starts_undrained(stage: Stage) -> None:
    worker = start(stage, poll_interval=600.0)
    drain(worker)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    stopping.join(TIMEOUT)
    assert not stopping.is_alive()
    assert not Worker.objects.exists()
    # The mark was that of the run that is over.
    worker.start()
    assert stage.output(stage.start(quick, 1)) == 2


def test_one_that_stops_is_not_let_work_again(stage: Stage) -> None:
    worker = start(stage)
    running = worker._running
    assert running is not None
    drain(worker)
    running._presence.leave()
    mark(worker, is_draining=False)
    eventually(lambda: running._presence._draining_since is None)
    assert drains(worker)
    waiting = stage.start(quick, 1)
    assert worker.wait_until_idle(TIMEOUT)
    assert stage.status(waiting).name == "PENDING"


# ------------------------------------------------------------------------------------- marks that come oddly


def test_a_mark_that_nobody_has_announced_is_seen_at_the_next_heartbeat(stage: Stage) -> None:
    worker = start(stage)
    Worker.objects.update(draining_since=clock.aware(clock.now()))
    eventually(lambda: is_drained(worker))
    Worker.objects.update(draining_since=None)
    assert stage.output(stage.start(quick, 1)) == 2


def test_an_announced_mark_does_not_wait_for_a_heartbeat(stage: Stage, settings: Any) -> None:
    settings.DURABLE_DJANGO = {"HEARTBEAT_SECONDS": 600.0, "LEASE_SECONDS": 1200.0}
    worker = start(stage)
    drain(worker)
    mark(worker, is_draining=False)
    assert stage.output(stage.start(quick, 1)) == 2


@pytest.mark.database("postgresql")
def test_nor_does_one_of_another_process(stage: Stage, settings: Any) -> None:
    settings.DURABLE_DJANGO = {"HEARTBEAT_SECONDS": 600.0, "LEASE_SECONDS": 1200.0}
    worker = start(stage)
    eventually(lambda: wakeup.hub("default").is_listening)
    Worker.objects.update(draining_since=clock.aware(clock.now()))
    changes = [f"changed:{workers.marked(str(worker.identity))}"]
    postgres.notify("default", wakeup.CHANNEL, "from:elsewhere", changes)
    eventually(lambda: is_drained(worker))


def test_a_worker_that_is_marked_while_it_starts_drains(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = workers.add

    def enter_and_be_marked(using: str, identity: workers.Identity, *rest: Any) -> None:
        enter(using, identity, *rest)
        assert workers.mark(using, identity.identity, is_draining=True)

    monkeypatch.setattr(workers, "add", enter_and_be_marked)
    worker = start(stage)
    eventually(lambda: is_drained(worker))


def test_a_worker_that_was_taken_for_dead_keeps_its_mark(stage: Stage) -> None:
    worker = start(stage)
    drain(worker)
    before = row(worker)
    before.delete()
    eventually(lambda: Worker.objects.filter(identity=worker.identity).exists())
    eventually(lambda: is_drained(worker))
    assert row(worker).pk != before.pk
    assert row(worker).draining_since == before.draining_since
    assert drains(worker)
    mark(worker, is_draining=False)
    assert stage.output(stage.start(quick, 1)) == 2


def test_a_draining_process_that_is_killed_is_buried_like_any_other(
    command_environment: dict[str, str], tmp_path: Path, stage: Stage
) -> None:
    settings = {"LEASE_SECONDS": 60, "HEARTBEAT_SECONDS": 0.2, "POLL_INTERVAL": 0.1}
    with Pack(command_environment, tmp_path / "log", **settings) as pack:
        pid = pack.start()
        eventually(lambda: Worker.objects.filter(pid=pid).exists())
        identity = Worker.objects.get(pid=pid).identity
        assert workers.mark("default", identity, is_draining=True)
        eventually(lambda: Worker.objects.filter(pid=pid, drained_at__isnull=False).exists())
        instance_id = stage.start("chain", 1)
        other = pack.start()
        assert stage.output(instance_id) == 1

        # As if it died on the way: with an activity in its hands, which no other worker knows.
        held = factories.make_activity(
            factories.make_instance("held"),
            1,
            name="unknown",
            lease_token=7,
            deliveries=1,
            worker=identity,
            visible_at=clock.aware(clock.now() + timedelta(hours=1)),
        )
        pack.kill(pid)
        eventually(lambda: not Worker.objects.filter(pid=pid).exists())
        assert Worker.objects.get().pid == other
        assert ActivityTask.objects.get(pk=held.pk).lease_token is None
