"""The client for event loops: the one for threads, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from asgiref.sync import sync_to_async

from durable_django.client.sync import DurableTaskClient
from durable_django.client.types import OrchestrationState
from durable_django.client.waiting import LOOK, waiting
from durable_django.core.serialization import DataConverter
from durable_django.store import wakeup

P = ParamSpec("P")
R = TypeVar("R")

_SLICE = 0.02
"""Seconds between two looks at a wake-up, which comes from another thread."""


def _awaited(
    method: Callable[Concatenate[DurableTaskClient, P], R],
) -> Callable[Concatenate[AsyncDurableTaskClient, P], Coroutine[Any, Any, R]]:
    """Make an asynchronous method of a client's method. It runs in the thread of Django's connections."""

    @wraps(method)
    async def call(self: AsyncDurableTaskClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await sync_to_async(method, thread_sensitive=True)(self._client, *args, **kwargs)

    call.__qualname__ = f"AsyncDurableTaskClient.{method.__name__}"
    return call


class AsyncDurableTaskClient:
    """`DurableTaskClient`, with every method a coroutine."""

    def __init__(
        self,
        *,
        default_version: str | None = None,
        data_converter: DataConverter | None = None,
        using: str | None = None,
    ) -> None:
        self._client = DurableTaskClient(
            default_version=default_version, data_converter=data_converter, using=using
        )

    @property
    def default_version(self) -> str | None:
        """The version of orchestrations that are started without one."""
        return self._client.default_version

    @property
    def using(self) -> str:
        """The database alias."""
        return self._client.using

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    close = _awaited(DurableTaskClient.close)
    schedule_new_orchestration = _awaited(DurableTaskClient.schedule_new_orchestration)
    schedule_new_orchestrations = _awaited(DurableTaskClient.schedule_new_orchestrations)
    get_orchestration_state = _awaited(DurableTaskClient.get_orchestration_state)
    get_all_orchestration_states = _awaited(DurableTaskClient.get_all_orchestration_states)
    list_instance_ids = _awaited(DurableTaskClient.list_instance_ids)
    get_orchestration_history = _awaited(DurableTaskClient.get_orchestration_history)
    raise_orchestration_event = _awaited(DurableTaskClient.raise_orchestration_event)
    terminate_orchestration = _awaited(DurableTaskClient.terminate_orchestration)
    suspend_orchestration = _awaited(DurableTaskClient.suspend_orchestration)
    resume_orchestration = _awaited(DurableTaskClient.resume_orchestration)
    rewind_orchestration = _awaited(DurableTaskClient.rewind_orchestration)
    restart_orchestration = _awaited(DurableTaskClient.restart_orchestration)
    purge_orchestration = _awaited(DurableTaskClient.purge_orchestration)
    purge_orchestrations_by = _awaited(DurableTaskClient.purge_orchestrations_by)
    signal_entity = _awaited(DurableTaskClient.signal_entity)
    get_entity = _awaited(DurableTaskClient.get_entity)
    get_all_entities = _awaited(DurableTaskClient.get_all_entities)
    clean_entity_storage = _awaited(DurableTaskClient.clean_entity_storage)

    async def wait_for_orchestration_start(
        self, instance_id: str, *, fetch_payloads: bool = False, timeout: float | None = 60
    ) -> OrchestrationState:
        """See `DurableTaskClient.wait_for_orchestration_start`. No thread waits."""
        return await self._wait(instance_id, "start", self._client._started, fetch_payloads, timeout)

    async def wait_for_orchestration_completion(
        self, instance_id: str, *, fetch_payloads: bool = True, timeout: float | None = 60
    ) -> OrchestrationState:
        """See `DurableTaskClient.wait_for_orchestration_completion`. No thread waits."""
        return await self._wait(instance_id, "complete", self._client._ended, fetch_payloads, timeout)

    async def _wait(
        self,
        instance_id: str,
        what: str,
        look: Callable[[str, bool], OrchestrationState | None],
        fetch_payloads: bool,
        timeout: float | None,
    ) -> OrchestrationState:
        await sync_to_async(self._client._check_outside_transaction)()
        steps = waiting(instance_id, what, timeout)
        with wakeup.waiter(self.using, instance_id) as hint:
            step = next(steps)
            try:
                while True:
                    if step is LOOK:
                        hint.clear()  # before the look, so that what comes after it is not missed
                        step = steps.send(await sync_to_async(look)(instance_id, fetch_payloads))
                    else:
                        step = steps.send(await _pause(hint, step))
            except StopIteration as end:
                state: OrchestrationState = end.value
                return state


async def _pause(hint: threading.Event, seconds: float) -> bool:
    """Wait until ``hint`` is set, and return whether it is."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not hint.is_set() and (remaining := until - loop.time()) > 0:
        await asyncio.sleep(min(remaining, _SLICE))
    return hint.is_set()
