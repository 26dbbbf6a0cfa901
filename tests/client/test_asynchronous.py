from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from durable_django.client import (
    AsyncDurableTaskClient,
    DurableTaskClient,
    OrchestrationNotFoundError,
    OrchestrationStatus,
)
from durable_django.models import Instance, InstanceStatus
from durable_django.store import clock, wakeup
from tests import factories
from tests.client.test_sync import WRONG_TIMEOUTS
from tests.factories import NOW

pytestmark = pytest.mark.django_db(transaction=True)


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine, then close the connection of the thread in which its database work was done."""

    async def run() -> None:
        try:
            await coroutine
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(run())


def public_methods(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_surface() -> None:
    asynchronous, sync = public_methods(AsyncDurableTaskClient), public_methods(DurableTaskClient)
    assert asynchronous == sync
    for name in asynchronous:
        assert inspect.iscoroutinefunction(getattr(AsyncDurableTaskClient, name))


def test_an_orchestration_is_started_steered_and_asked_about() -> None:
    async def run() -> None:
        async with AsyncDurableTaskClient(default_version="7") as client:
            assert (client.default_version, client.using) == ("7", "default")
            instance_id = await client.schedule_new_orchestration("flow", input=1)
            await client.raise_orchestration_event(instance_id, "approval", data=2)
            await client.suspend_orchestration(instance_id)
            state = await client.get_orchestration_state(instance_id)
            assert state is not None
            assert (state.runtime_status, state.get_input()) == (OrchestrationStatus.SUSPENDED, 1)
            await client.terminate_orchestration(instance_id, output="bye")
            done = await client.wait_for_orchestration_completion(instance_id, timeout=5)
            assert done.get_output() == "bye"
            assert (await client.purge_orchestration(instance_id)).deleted_instance_count == 1
            with pytest.raises(OrchestrationNotFoundError):
                await client.resume_orchestration(instance_id)

    finish(run())


@pytest.mark.parametrize("announce", [True, False])
def test_waiting_leaves_the_loop_and_the_thread_free(announce: bool) -> None:
    async def run() -> None:
        client = AsyncDurableTaskClient()
        instance_id = await client.schedule_new_orchestration("flow")
        waiting = asyncio.create_task(client.wait_for_orchestration_completion(instance_id, timeout=10))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await sync_to_async(complete)(instance_id, announce)
        assert time.monotonic() - began < 2
        state = await waiting
        assert state.runtime_status is OrchestrationStatus.COMPLETED

    finish(run())


def complete(instance_id: str, announce: bool) -> None:
    Instance.objects.update(status=InstanceStatus.COMPLETED, completed_at=clock.aware(NOW))
    if announce:
        wakeup.announce_changes("default", [instance_id])


def test_time_runs_out() -> None:
    async def run() -> None:
        client = AsyncDurableTaskClient()
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError, match="'nobody' to start"):
                await client.wait_for_orchestration_start("nobody", timeout=timeout)

    finish(run())


def test_a_wait_can_be_cancelled() -> None:
    async def run() -> None:
        client = AsyncDurableTaskClient()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.wait_for_orchestration_start("nobody"), 0.1)

    finish(run())


@pytest.mark.parametrize(("timeout", "kind", "words"), WRONG_TIMEOUTS)
def test_a_timeout_is_a_number_of_seconds(timeout: Any, kind: type[Exception], words: str) -> None:
    factories.make_instance("flow", InstanceStatus.COMPLETED)

    async def run() -> None:
        async with AsyncDurableTaskClient() as client:
            for wait in (client.wait_for_orchestration_start, client.wait_for_orchestration_completion):
                with pytest.raises(kind, match=f"timeout must be a number of {words}"):
                    await wait("flow", timeout=timeout)

    finish(run())


def test_nobody_has_an_id_that_nothing_can_have() -> None:
    async def run() -> None:
        async with AsyncDurableTaskClient() as client:
            assert await client.get_orchestration_state("a\x00") is None
            with pytest.raises(TimeoutError, match=r"'a\\x00'"):
                await client.wait_for_orchestration_completion("a\x00", timeout=0)

    finish(run())
