"""Schedules from outside, with a real worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

from durable_django.client import (
    AsyncDurableTaskClient,
    DurableTaskClient,
    DurableTaskError,
    OrchestrationStatus,
)
from durable_django.scheduled import (
    AsyncScheduledTaskClient,
    ScheduleClientValidationError,
    ScheduleCreationOptions,
    ScheduledTaskClient,
    ScheduleInvalidTransitionError,
    ScheduleNotFoundError,
    ScheduleQuery,
    ScheduleStatus,
    ScheduleUpdateOptions,
)
from durable_django.task import OrchestrationContext
from durable_django.worker import DurableTaskWorker

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TO_COME = datetime(2200, 1, 1, tzinfo=UTC)


def report(ctx: OrchestrationContext, value: Any) -> Any:
    return value


def waits(ctx: OrchestrationContext, _: Any) -> Any:
    yield ctx.wait_for_external_event("go")


@pytest.fixture
def worker(_durable_wakeups: None) -> Iterator[DurableTaskWorker]:
    worker = DurableTaskWorker()
    worker.add_orchestrator(report)
    worker.add_orchestrator(waits)
    worker.configure_scheduled_tasks()
    with worker:
        worker.start()
        yield worker


@pytest.fixture
def client(_durable_wakeups: None) -> DurableTaskClient:
    return DurableTaskClient()


@pytest.fixture
def schedules(client: DurableTaskClient) -> ScheduledTaskClient:
    return ScheduledTaskClient(client, operation_timeout=15)


def options(schedule_id: str = "nightly", **more: Any) -> ScheduleCreationOptions:
    chosen: dict[str, Any] = {"interval": HOUR, "orchestration_name": "report"} | more
    return ScheduleCreationOptions(schedule_id, **chosen)


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.01)


@pytest.mark.usefixtures("worker")
class TestOneSchedule:
    def test_its_life(self, schedules: ScheduledTaskClient, client: DurableTaskClient) -> None:
        nightly = schedules.create_schedule(options(start_at=TO_COME, orchestration_input={"n": 1}))
        told = nightly.describe()
        assert (told.status, told.next_run_at, told.interval) == (ScheduleStatus.ACTIVE, TO_COME, HOUR)
        assert told.orchestration_input == {"n": 1}

        nightly.pause()
        assert nightly.describe().status is ScheduleStatus.PAUSED
        with pytest.raises(ScheduleInvalidTransitionError, match="is Paused"):
            nightly.pause()
        nightly.resume()
        with pytest.raises(ScheduleInvalidTransitionError, match="is Active"):
            nightly.resume()

        nightly.update(ScheduleUpdateOptions(interval=2 * HOUR))
        assert nightly.describe().interval == 2 * HOUR
        with pytest.raises(ScheduleClientValidationError, match=r"'nightly': start_at must not be after"):
            nightly.update(ScheduleUpdateOptions(end_at=LONG_AGO))

        nightly.delete()
        nightly.delete()
        assert schedules.get_schedule("nightly") is None
        for gone in (nightly.describe, nightly.pause, nightly.resume):
            with pytest.raises(ScheduleNotFoundError):
                gone()
        assert client.get_all_orchestration_states() == []

    def test_it_runs(self, schedules: ScheduledTaskClient, client: DurableTaskClient) -> None:
        second = timedelta(seconds=1)
        schedule = schedules.create_schedule(
            options(interval=second, orchestration_input=[7], start_immediately_if_late=True)
        )
        done: list[Any] = []

        def has_run_twice() -> bool:
            done[:] = client.list_instance_ids().items
            return len([found for found in done if found.startswith("nightly-")]) >= 2

        eventually(has_run_twice)
        schedule.delete()
        state = client.get_orchestration_state(min(found for found in done if found.startswith("nightly-")))
        assert state is not None
        assert state.get_output() == [7]

    def test_a_fixed_id_is_used_again_once_it_is_free(
        self, schedules: ScheduledTaskClient, client: DurableTaskClient
    ) -> None:
        schedule = schedules.create_schedule(
            options(
                interval=timedelta(seconds=1),
                orchestration_name="waits",
                orchestration_instance_id="the-one",
                start_immediately_if_late=True,
            )
        )
        client_state = client.get_orchestration_state

        def runs() -> int:
            return sum(found.startswith("nightly-") for found in client.list_instance_ids().items)

        eventually(lambda: runs() >= 2)
        first = client_state("the-one")
        assert first is not None
        assert first.runtime_status is OrchestrationStatus.RUNNING
        assert len(client.get_all_orchestration_states()) >= 3

        client.raise_orchestration_event("the-one", "go")
        eventually(lambda: (now := client_state("the-one")) and now.created_at > first.created_at)
        schedule.delete()

    def test_inside_a_transaction_nothing_is_written(
        self, schedules: ScheduledTaskClient, client: DurableTaskClient
    ) -> None:
        with transaction.atomic(), pytest.raises(DurableTaskError, match="inside atomic"):
            schedules.create_schedule(options())
        assert client.get_all_orchestration_states() == []

    def test_the_options_are_the_schedules_own(self, schedules: ScheduledTaskClient) -> None:
        with pytest.raises(ScheduleClientValidationError, match="those of schedule 'other'"):
            schedules.get_schedule_client("nightly").create(options("other"))


@pytest.mark.usefixtures("worker")
def test_lists(schedules: ScheduledTaskClient) -> None:
    for name in ("a-1", "a-2", "b-1"):
        schedules.create_schedule(options(name, start_at=TO_COME))
    schedules.get_schedule_client("a-2").pause()

    def ids(**query: Any) -> list[str]:
        return [found.schedule_id for found in schedules.list_schedules(ScheduleQuery(**query))]

    assert [found.schedule_id for found in schedules.list_schedules()] == ["a-1", "a-2", "b-1"]
    assert ids(page_size=1) == ["a-1", "a-2", "b-1"]
    assert ids(schedule_id_prefix="a-") == ["a-1", "a-2"]
    assert ids(status=ScheduleStatus.PAUSED) == ["a-2"]
    assert ids(status=ScheduleStatus.ACTIVE) == ["a-1", "b-1"]
    second = schedules.get_schedule_client("a-2").describe().created_at
    assert second is not None
    assert ids(created_from=second) == ["a-2", "b-1"]
    assert ids(created_to=second.replace(tzinfo=None)) == ["a-1"]


def test_without_a_worker_an_operation_times_out(client: DurableTaskClient) -> None:
    with pytest.raises(TimeoutError):
        ScheduledTaskClient(client, operation_timeout=0.05).create_schedule(options())


@pytest.mark.usefixtures("worker")
def test_the_same_is_there_for_event_loops() -> None:
    async def use() -> None:
        async with AsyncDurableTaskClient() as client:
            schedules = AsyncScheduledTaskClient(client, operation_timeout=15)
            nightly = await schedules.create_schedule(options(start_at=TO_COME))
            assert nightly.schedule_id == "nightly"
            await nightly.pause()
            with pytest.raises(ScheduleInvalidTransitionError):
                await nightly.pause()
            await nightly.resume()
            await nightly.update(ScheduleUpdateOptions(orchestration_name="other"))
            assert (await nightly.describe()).orchestration_name == "other"
            (found,) = await schedules.list_schedules()
            assert found == await schedules.get_schedule("nightly")
            await nightly.delete()
            assert await schedules.get_schedule("nightly") is None
            await sync_to_async(connections.close_all)()

    asyncio.run(use())
