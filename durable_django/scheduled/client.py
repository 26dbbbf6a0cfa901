"""Clients of schedules. Each change is a small orchestration, so that a refusal comes back as an error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from asgiref.sync import sync_to_async

from durable_django.client import (
    AsyncDurableTaskClient,
    DurableTaskClient,
    EntityQuery,
    OrchestrationState,
    OrchestrationStatus,
)
from durable_django.entities import EntityMetadata
from durable_django.scheduled.definitions import (
    CREATE,
    DELETE,
    PAUSE,
    RESUME,
    UPDATE,
    ScheduleState,
    execute_schedule_operation,
)
from durable_django.scheduled.errors import (
    ScheduleClientValidationError,
    ScheduleError,
    ScheduleInvalidTransitionError,
    ScheduleNotFoundError,
)
from durable_django.scheduled.options import (
    ENTITY_NAME,
    ScheduleCreationOptions,
    ScheduleDescription,
    ScheduleQuery,
    ScheduleStatus,
    ScheduleUpdateOptions,
    check_schedule_id,
    entity_id,
)

_OPERATION = execute_schedule_operation.__name__


class ScheduleClient:
    """Makes, changes and describes one schedule.

    A change needs a worker and waits for it, ``operation_timeout`` seconds at most; it is made outside
    transactions.

    Every method but `describe` raises:
        ScheduleNotFoundError: There is no such schedule. Not `create` and `delete`.
        ScheduleError: The change was refused.
        TimeoutError: No worker has made it in time; it may still come.
        DurableTaskError: Called in a transaction, where it could never succeed.
    """

    def __init__(self, client: DurableTaskClient, schedule_id: str, *, operation_timeout: float = 60) -> None:
        self._client = client
        self._schedule_id = check_schedule_id(schedule_id)
        self._timeout = operation_timeout

    @property
    def schedule_id(self) -> str:
        """The schedule's id."""
        return self._schedule_id

    def create(self, options: ScheduleCreationOptions) -> None:
        """Create the schedule, or replace the options of an existing one and activate it.

        Raises:
            ScheduleClientValidationError: The options are another schedule's.
        """
        _check_same(self._schedule_id, options)
        self._run(CREATE, options)

    def update(self, options: ScheduleUpdateOptions) -> None:
        """Change options, and plan the next run anew.

        Raises:
            ScheduleClientValidationError: ``start_at`` would be after ``end_at``.
        """
        self._run(UPDATE, options)

    def pause(self) -> None:
        """Start nothing until `resume`.

        Raises:
            ScheduleInvalidTransitionError: It is paused already.
        """
        self._run(PAUSE)

    def resume(self) -> None:
        """Go on with the next run of the grid.

        Raises:
            ScheduleInvalidTransitionError: It is not paused.
        """
        self._run(RESUME)

    def delete(self) -> None:
        """Delete the schedule; orchestrations that it has started stay. Nothing happens if there is none."""
        self._run(DELETE)

    def describe(self) -> ScheduleDescription:
        """Return the schedule as it is now.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
        """
        return _description(self._schedule_id, self._client.get_entity(entity_id(self._schedule_id)))

    def _run(self, operation: str, value: object = None) -> None:
        self._client._check_outside_transaction()  # before anything is written
        request = _request(self._schedule_id, operation, value)
        instance_id = self._client.schedule_new_orchestration(_OPERATION, input=request)
        state = self._client.wait_for_orchestration_completion(instance_id, timeout=self._timeout)
        self._client.purge_orchestration(instance_id)
        _raise_refusal(self._schedule_id, operation, state)


class ScheduledTaskClient:
    """Makes, finds and lists schedules; ``operation_timeout`` (seconds) is that of `ScheduleClient`."""

    def __init__(self, client: DurableTaskClient, *, operation_timeout: float = 60) -> None:
        self._client = client
        self._timeout = operation_timeout

    def get_schedule_client(self, schedule_id: str) -> ScheduleClient:
        """Return a client for a schedule, which need not exist."""
        return ScheduleClient(self._client, schedule_id, operation_timeout=self._timeout)

    def create_schedule(self, options: ScheduleCreationOptions) -> ScheduleClient:
        """Create a schedule, or replace an existing one; see `ScheduleClient.create`."""
        schedule = self.get_schedule_client(options.schedule_id)
        schedule.create(options)
        return schedule

    def get_schedule(self, schedule_id: str) -> ScheduleDescription | None:
        """Return a schedule as it is now; None if there is none."""
        try:
            return self.get_schedule_client(schedule_id).describe()
        except ScheduleNotFoundError:
            return None

    def list_schedules(self, schedule_query: ScheduleQuery | None = None) -> list[ScheduleDescription]:
        """Return the schedules that the query asks for, oldest first."""
        query = schedule_query or ScheduleQuery()
        return _matching(query, self._client.get_all_entities(_entity_query(query)))


class AsyncScheduleClient:
    """`ScheduleClient`, with every method a coroutine."""

    def __init__(
        self, client: AsyncDurableTaskClient, schedule_id: str, *, operation_timeout: float = 60
    ) -> None:
        self._client = client
        self._schedule_id = check_schedule_id(schedule_id)
        self._timeout = operation_timeout

    @property
    def schedule_id(self) -> str:
        """The schedule's id."""
        return self._schedule_id

    async def create(self, options: ScheduleCreationOptions) -> None:
        """See `ScheduleClient.create`."""
        _check_same(self._schedule_id, options)
        await self._run(CREATE, options)

    async def update(self, options: ScheduleUpdateOptions) -> None:
        """See `ScheduleClient.update`."""
        await self._run(UPDATE, options)

    async def pause(self) -> None:
        """See `ScheduleClient.pause`."""
        await self._run(PAUSE)

    async def resume(self) -> None:
        """See `ScheduleClient.resume`."""
        await self._run(RESUME)

    async def delete(self) -> None:
        """See `ScheduleClient.delete`."""
        await self._run(DELETE)

    async def describe(self) -> ScheduleDescription:
        """See `ScheduleClient.describe`."""
        return _description(self._schedule_id, await self._client.get_entity(entity_id(self._schedule_id)))

    async def _run(self, operation: str, value: object = None) -> None:
        await sync_to_async(self._client._client._check_outside_transaction)()
        request = _request(self._schedule_id, operation, value)
        instance_id = await self._client.schedule_new_orchestration(_OPERATION, input=request)
        state = await self._client.wait_for_orchestration_completion(instance_id, timeout=self._timeout)
        await self._client.purge_orchestration(instance_id)
        _raise_refusal(self._schedule_id, operation, state)


class AsyncScheduledTaskClient:
    """`ScheduledTaskClient`, with every method that asks or changes something a coroutine."""

    def __init__(self, client: AsyncDurableTaskClient, *, operation_timeout: float = 60) -> None:
        self._client = client
        self._timeout = operation_timeout

    def get_schedule_client(self, schedule_id: str) -> AsyncScheduleClient:
        """See `ScheduledTaskClient.get_schedule_client`."""
        return AsyncScheduleClient(self._client, schedule_id, operation_timeout=self._timeout)

    async def create_schedule(self, options: ScheduleCreationOptions) -> AsyncScheduleClient:
        """See `ScheduledTaskClient.create_schedule`."""
        schedule = self.get_schedule_client(options.schedule_id)
        await schedule.create(options)
        return schedule

    async def get_schedule(self, schedule_id: str) -> ScheduleDescription | None:
        """See `ScheduledTaskClient.get_schedule`."""
        try:
            return await self.get_schedule_client(schedule_id).describe()
        except ScheduleNotFoundError:
            return None

    async def list_schedules(self, schedule_query: ScheduleQuery | None = None) -> list[ScheduleDescription]:
        """See `ScheduledTaskClient.list_schedules`."""
        query = schedule_query or ScheduleQuery()
        return _matching(query, await self._client.get_all_entities(_entity_query(query)))


def _request(schedule_id: str, operation: str, value: object) -> dict[str, Any]:
    return {"schedule_id": schedule_id, "operation": operation, "input": value}


def _check_same(schedule_id: str, options: ScheduleCreationOptions) -> None:
    if options.schedule_id != schedule_id:
        raise ScheduleClientValidationError(
            schedule_id, f"the options are those of schedule {options.schedule_id!r}."
        )


def _raise_refusal(schedule_id: str, operation: str, state: OrchestrationState) -> None:
    """Do nothing if the operation was performed; else raise what it has raised."""
    if state.failure_details is not None:
        raise ScheduleError(f"{operation} failed: {state.failure_details.message}")
    if state.runtime_status is not OrchestrationStatus.COMPLETED:
        raise ScheduleError(f"{operation} did not complete: it is {state.runtime_status.name}.")
    refusal = state.get_output()
    if refusal is not None:
        _raise(schedule_id, operation, refusal["error_type"], refusal["message"])


def _raise(schedule_id: str, operation: str, error_type: str, message: str) -> NoReturn:
    match error_type.rpartition(".")[2]:
        case "ScheduleNotFoundError":
            raise ScheduleNotFoundError(schedule_id)
        case "ScheduleInvalidTransitionError":
            # Both of these operations are refused in one status alone: the one that they lead to.
            status = ScheduleStatus.PAUSED if operation == PAUSE else ScheduleStatus.ACTIVE
            raise ScheduleInvalidTransitionError(schedule_id, status, status, operation)
        case "ScheduleClientValidationError":
            raise ScheduleClientValidationError(schedule_id, message.partition(": ")[2])
    raise ScheduleError(f"{operation} failed: {message}")


def _description(schedule_id: str, found: EntityMetadata | None) -> ScheduleDescription:
    data = None if found is None else found.get_typed_state()
    if data is None:
        raise ScheduleNotFoundError(schedule_id)
    return ScheduleState.from_json(data).describe()


def _entity_query(query: ScheduleQuery) -> EntityQuery:
    return EntityQuery(
        instance_id_starts_with=f"@{ENTITY_NAME}@{query.schedule_id_prefix or ''}",
        page_size=query.page_size or ScheduleQuery.DEFAULT_PAGE_SIZE,
    )


def _matching(query: ScheduleQuery, found: Iterable[EntityMetadata]) -> list[ScheduleDescription]:
    states = (ScheduleState.from_json(data) for one in found if (data := one.get_typed_state()) is not None)
    return [
        state.describe()
        for state in states
        if (query.status is None or state.status is query.status)
        and (query.created_from is None or state.created_at >= query.created_from)
        and (query.created_to is None or state.created_at < query.created_to)
    ]


for _public in (ScheduleClient, ScheduledTaskClient, AsyncScheduleClient, AsyncScheduledTaskClient):
    _public.__module__ = "durable_django.scheduled"  # where users import them from
del _public
