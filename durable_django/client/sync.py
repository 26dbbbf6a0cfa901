"""The client for threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from django.db import connections
from django.db.models import Model

from durable_django import conf
from durable_django.client.checks import (
    check_count,
    check_prefix,
    check_query,
    check_reuse_policy,
    check_statuses,
    check_time,
    check_version,
    sought_id,
)
from durable_django.client.starts import Orchestrator, Start
from durable_django.client.types import (
    DEFAULT_STATES_PAGE_SIZE,
    CleanEntityStorageResult,
    EntityQuery,
    OrchestrationIdReusePolicy,
    OrchestrationQuery,
    OrchestrationState,
    Page,
    PurgeInstancesResult,
)
from durable_django.client.waiting import LOOK, waiting
from durable_django.conf import settings
from durable_django.core.entity import EntityInstanceId, check_entity_id, make_signal
from durable_django.core.entity_metadata import EntityMetadata
from durable_django.core.errors import DurableTaskError
from durable_django.core.events import HistoryEvent
from durable_django.core.ids import check_name
from durable_django.core.serialization import DataConverter, PayloadCodec
from durable_django.core.status import TERMINAL_STATUSES, OrchestrationStatus
from durable_django.store import (
    control,
    entities,
    entity_queries,
    operations,
    queries,
    rewinds,
    starts,
    wakeup,
)
from durable_django.store.entity_queries import EntityRow
from durable_django.store.queries import StateRow
from durable_django.store.subjects import Subject

_STARTED_STATUSES = frozenset(OrchestrationStatus) - {OrchestrationStatus.PENDING}


class DurableTaskClient:
    """Starts orchestrations, asks about them and steers them.

    What it writes is part of the caller's transaction, if there is one. A client holds nothing open, and
    threads may share it. An id that nothing can have is treated as one that nothing has.

    ``default_version`` is given to orchestrations that are started without one, ``data_converter`` writes and
    reads payloads, ``using`` is the database alias. None stands for what ``DEFAULT_VERSION``,
    ``DATA_CONVERTER`` and ``DATABASE_ALIAS`` in the settings say.
    """

    def __init__(
        self,
        *,
        default_version: str | None = None,
        data_converter: DataConverter | None = None,
        using: str | None = None,
    ) -> None:
        self.default_version = check_version(default_version)
        self._converter = data_converter
        self._alias = using

    @property
    def using(self) -> str:
        """The database alias."""
        return self._alias or settings.DATABASE_ALIAS

    def close(self) -> None:
        """Do nothing: there is nothing to close. For code that was written for clients of servers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------- start

    def schedule_new_orchestration(
        self,
        orchestrator: Orchestrator | str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        start_at: datetime | None = None,
        reuse_id_policy: OrchestrationIdReusePolicy | None = None,
        tags: Mapping[str, str] | None = None,
        version: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        subject: Model | None = None,
    ) -> str:
        """Start an orchestration, by function or by name, and return its instance id.

        An id that is not given is 32 random hexadecimal digits. Nothing runs before ``start_at`` (naive is
        UTC). Unless given, ``version`` is the client's default, ``queue`` and ``priority`` are the
        orchestrator's own. ``subject`` is the saved object that it is about, such as an order: the admin
        shows it with the object, and lists find it by the object.

        Raises:
            OrchestrationAlreadyExistsError: The id is taken, and ``reuse_id_policy`` does not list the status
                of its holder.
            PayloadError: The input is too large, or no database holds it.
            TypeError: The input cannot be serialized, or an argument is of the wrong type.
            ValueError: The id, the name or another argument is out of bounds.
        """
        replaceable = check_reuse_policy(reuse_id_policy)
        start = Start.checked(
            self._codec,
            orchestrator,
            version=version or self.default_version,
            queue=queue,
            priority=priority,
            tags=tags,
            start_at=start_at,
            subject=subject,
        )
        new = start.one(input, instance_id)
        starts.start(self.using, new, replaceable)
        return new.instance_id

    def schedule_new_orchestrations(
        self,
        orchestrator: Orchestrator | str,
        inputs: Iterable[Any],
        *,
        instance_ids: Iterable[str] | None = None,
        start_at: datetime | None = None,
        reuse_id_policy: OrchestrationIdReusePolicy | None = None,
        tags: Mapping[str, str] | None = None,
        version: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        subject: Model | None = None,
    ) -> list[str]:
        """Start an orchestration for each of ``inputs``, and return their instance ids in the same order.

        Either all are started or, if one is refused, none. It takes a few statements instead of one or two
        for each. ``instance_ids`` are as many as ``inputs``; the rest is the same for all, and as
        `schedule_new_orchestration` has it.

        Raises:
            OrchestrationAlreadyExistsError: Ids are taken, and ``reuse_id_policy`` does not list the status
                of their holders; or an id is given twice.
            PayloadError: An input is too large, or no database holds it.
            TypeError: An input cannot be serialized, or an argument is of the wrong type.
            ValueError: An id, the name or another argument is out of bounds, or there are not as many ids as
                inputs.
        """
        replaceable = check_reuse_policy(reuse_id_policy)
        start = Start.checked(
            self._codec,
            orchestrator,
            version=version or self.default_version,
            queue=queue,
            priority=priority,
            tags=tags,
            start_at=start_at,
            subject=subject,
        )
        new = start.many(inputs, instance_ids)
        if new:
            starts.start_all(self.using, new, replaceable)
        return [instance.instance_id for instance in new]

    # ---------------------------------------------------------------- ask

    def get_orchestration_state(
        self, instance_id: str, *, fetch_payloads: bool = True
    ) -> OrchestrationState | None:
        """Return an instance's state, or None; without ``fetch_payloads``, without input and output."""
        found = queries.state(self.using, sought_id(instance_id), payloads=fetch_payloads)
        return None if found is None else self._state(found)

    def get_all_orchestration_states(
        self, orchestration_query: OrchestrationQuery | None = None
    ) -> list[OrchestrationState]:
        """Return the state of every instance that the query asks for, oldest first."""
        query = check_query("orchestration_query", orchestration_query, OrchestrationQuery)
        found = queries.states(
            self.using,
            created_from=check_time("created_time_from", query.created_time_from),
            created_to=check_time("created_time_to", query.created_time_to),
            statuses=check_statuses(query.runtime_status),
            subject=None if query.subject is None else Subject.of(query.subject),
            payloads=query.fetch_inputs_and_outputs,
            page_size=check_count("max_instance_count", query.max_instance_count, DEFAULT_STATES_PAGE_SIZE),
        )
        return [self._state(row) for row in found]

    def list_instance_ids(
        self,
        runtime_status: Sequence[OrchestrationStatus] | None = None,
        completed_time_from: datetime | None = None,
        completed_time_to: datetime | None = None,
        page_size: int | None = None,
        continuation_token: str | None = None,
    ) -> Page[str]:
        """Return ids of terminal instances that ended in ``[completed_time_from, completed_time_to)``.

        They come in the order in which they ended, ``page_size`` (default 100) at a time.

        Raises:
            ValueError: ``continuation_token`` is none that this method has returned, or ``page_size`` is
                below 1.
        """
        items, token = queries.finished_ids(
            self.using,
            statuses=check_statuses(runtime_status),
            completed_from=check_time("completed_time_from", completed_time_from),
            completed_to=check_time("completed_time_to", completed_time_to),
            page_size=check_count("page_size", page_size, queries.DEFAULT_PAGE_SIZE),
            continuation_token=continuation_token,
        )
        return Page(items, token)

    def get_orchestration_history(
        self, instance_id: str, *, execution_id: str | None = None, for_work_item_processing: bool = False
    ) -> list[HistoryEvent]:
        """Return the history of the current execution, or of an earlier one (empty if there was none).

        ``for_work_item_processing`` changes nothing here.

        Raises:
            OrchestrationNotFoundError: There is no such instance.
        """
        earlier = execution_id and sought_id(execution_id, "execution_id")
        return queries.history(self.using, sought_id(instance_id), earlier)

    # ---------------------------------------------------------------- wait

    def wait_for_orchestration_start(
        self, instance_id: str, *, fetch_payloads: bool = False, timeout: float | None = 60
    ) -> OrchestrationState:
        """Wait until an instance is no longer pending, and return its state.

        ``timeout`` is in seconds; 0 looks once, None waits for ever.

        Raises:
            TimeoutError: It has not started in time, or there is no such instance.
            TypeError, ValueError: ``timeout`` is no such number.
            DurableTaskError: Called in a transaction, where it could never succeed.
        """
        return self._wait(instance_id, "start", self._started, fetch_payloads, timeout)

    def wait_for_orchestration_completion(
        self, instance_id: str, *, fetch_payloads: bool = True, timeout: float | None = 60
    ) -> OrchestrationState:
        """Wait until an instance has completed, failed or been terminated, and return its state.

        ``timeout`` is in seconds; 0 looks once, None waits for ever.

        Raises:
            TimeoutError: It has not ended in time, or there is no such instance.
            TypeError, ValueError: ``timeout`` is no such number.
            DurableTaskError: Called in a transaction, where it could never succeed.
        """
        return self._wait(instance_id, "complete", self._ended, fetch_payloads, timeout)

    def _wait(
        self,
        instance_id: str,
        what: str,
        look: Callable[[str, bool], OrchestrationState | None],
        fetch_payloads: bool,
        timeout: float | None,
    ) -> OrchestrationState:
        self._check_outside_transaction()
        steps = waiting(instance_id, what, timeout)
        with wakeup.waiter(self.using, instance_id) as hint:
            step = next(steps)
            try:
                while True:
                    if step is LOOK:
                        hint.clear()  # before the look, so that what comes after it is not missed
                        step = steps.send(look(instance_id, fetch_payloads))
                    else:
                        step = steps.send(hint.wait(step))
            except StopIteration as end:
                state: OrchestrationState = end.value
                return state

    def _check_outside_transaction(self) -> None:
        if connections[self.using].in_atomic_block:
            raise DurableTaskError(
                f"Waiting for an orchestration inside atomic() on {self.using!r} can never succeed: no "
                "worker sees what the transaction has written before it is committed. Wait after the block."
            )

    def _started(self, instance_id: str, fetch_payloads: bool) -> OrchestrationState | None:
        return self._look(instance_id, _STARTED_STATUSES, fetch_payloads)

    def _ended(self, instance_id: str, fetch_payloads: bool) -> OrchestrationState | None:
        return self._look(instance_id, TERMINAL_STATUSES, fetch_payloads)

    def _look(
        self, instance_id: str, statuses: Collection[OrchestrationStatus], fetch_payloads: bool
    ) -> OrchestrationState | None:
        found = queries.state(self.using, sought_id(instance_id), payloads=fetch_payloads, statuses=statuses)
        return None if found is None else self._state(found)

    # ---------------------------------------------------------------- steer

    def raise_orchestration_event(self, instance_id: str, event_name: str, *, data: Any = None) -> None:
        """Send an instance an external event. It never waits for a worker that holds the instance.

        An instance that has ended drops it.

        Raises:
            OrchestrationNotFoundError: There is no such instance.
        """
        name = check_name("event", event_name)
        text = self._codec.dumps(data, "the data of event", name)
        control.raise_event(self.using, sought_id(instance_id), name, text)

    def terminate_orchestration(
        self, instance_id: str, *, output: Any = None, recursive: bool = True
    ) -> None:
        """End an instance at once, and what it has started if ``recursive``; ``output`` becomes the output.

        Nothing happens if there is no such instance, or it has ended.
        """
        text = self._codec.dumps(output, "the output of orchestration", instance_id)
        control.terminate(self.using, sought_id(instance_id), text, recursive=recursive)

    def suspend_orchestration(self, instance_id: str) -> None:
        """Make an instance take in nothing until it is resumed; nothing happens if it has ended.

        Raises:
            OrchestrationNotFoundError: There is no such instance.
        """
        control.suspend(self.using, sought_id(instance_id))

    def resume_orchestration(self, instance_id: str) -> None:
        """Let a suspended instance go on; nothing happens if it is not suspended.

        Raises:
            OrchestrationNotFoundError: There is no such instance.
        """
        control.resume(self.using, sought_id(instance_id))

    def rewind_orchestration(self, instance_id: str, *, reason: str | None = None) -> None:
        """Take a failed instance, with its failed children, back to before the failure, and let it go on.

        Raises:
            OrchestrationNotFoundError: There is no such instance.
            OrchestrationStateConflictError: It has not failed.
        """
        if reason is not None:
            self._codec.check(reason, "the reason of a rewind")
        rewinds.rewind(self.using, sought_id(instance_id), reason)

    def restart_orchestration(self, instance_id: str, *, restart_with_new_instance_id: bool = False) -> str:
        """Start a finished instance from the beginning with its last input, and return its id.

        Raises:
            OrchestrationNotFoundError: There is no such instance.
            OrchestrationStateConflictError: It has not ended.
        """
        return control.restart(self.using, sought_id(instance_id), with_new_id=restart_with_new_instance_id)

    def purge_orchestration(self, instance_id: str, recursive: bool = True) -> PurgeInstancesResult:
        """Delete a finished instance, with its history, and its finished descendants if ``recursive``.

        Nothing is deleted if there is no such instance, or it has not ended.
        """
        return PurgeInstancesResult(
            control.purge(self.using, sought_id(instance_id), recursive=recursive), True
        )

    def purge_orchestrations_by(
        self,
        created_time_from: datetime | None = None,
        created_time_to: datetime | None = None,
        runtime_status: Sequence[OrchestrationStatus] | None = None,
        recursive: bool = False,
    ) -> PurgeInstancesResult:
        """Delete the finished instances created in ``[created_time_from, created_time_to)``, page by page.

        ``runtime_status`` None or empty is any.
        """
        count = control.purge_by(
            self.using,
            created_from=check_time("created_time_from", created_time_from),
            created_to=check_time("created_time_to", created_time_to),
            statuses=check_statuses(runtime_status),
            recursive=recursive,
        )
        return PurgeInstancesResult(count, True)

    # ---------------------------------------------------------------- entities

    def signal_entity(
        self,
        entity_instance_id: EntityInstanceId,
        operation_name: str,
        input: Any = None,
        signal_time: datetime | None = None,
    ) -> None:
        """Send an entity an operation, at ``signal_time`` (naive is UTC) or at once.

        The entity comes into being by it. The signal never waits for a worker that holds the entity.

        Raises:
            PayloadError: The input is too large, or no database holds it.
            TypeError: The input cannot be serialized, or the entity is no `EntityInstanceId`.
            ValueError: The operation has no name.
        """
        sent = make_signal(self._codec, entity_instance_id, operation_name, input, signal_time)
        operations.send(self.using, [operations.signal(sent)])

    def get_entity(
        self, entity_instance_id: EntityInstanceId, include_state: bool = True
    ) -> EntityMetadata | None:
        """Return what there is to know of an entity; None if it has neither a state nor a lock.

        Raises:
            TypeError: The entity is no `EntityInstanceId`.
        """
        check_entity_id(entity_instance_id)
        found = entity_queries.find(self.using, entity_instance_id, state=include_state)
        return None if found is None else self._metadata(found, include_state)

    def get_all_entities(self, entity_query: EntityQuery | None = None) -> list[EntityMetadata]:
        """Return every entity that the query asks for, in the order in which they came into being."""
        query = check_query("entity_query", entity_query, EntityQuery)
        found = entity_queries.select(
            self.using,
            prefix=check_prefix("instance_id_starts_with", query.instance_id_starts_with),
            modified_from=check_time("last_modified_from", query.last_modified_from),
            modified_to=check_time("last_modified_to", query.last_modified_to),
            state=query.include_state,
            transient=query.include_transient,
            page_size=check_count("page_size", query.page_size, entity_queries.DEFAULT_PAGE_SIZE),
        )
        return [self._metadata(row, query.include_state) for row in found]

    def clean_entity_storage(
        self, remove_empty_entities: bool = True, release_orphaned_locks: bool = True
    ) -> CleanEntityStorageResult:
        """Delete entities without state, lock and operations; release the locks of what has ended."""
        removed, released = entities.clean(
            self.using, remove_empty=remove_empty_entities, release_orphans=release_orphaned_locks
        )
        return CleanEntityStorageResult(removed, released)

    # ---------------------------------------------------------------- payloads

    @property
    def _codec(self) -> PayloadCodec:
        return PayloadCodec(self._converter or conf.data_converter(), settings.MAX_PAYLOAD_BYTES)

    def _state(self, row: StateRow) -> OrchestrationState:
        return OrchestrationState(
            row.instance_id,
            row.name,
            row.status,
            row.created_at,
            row.last_updated_at,
            row.input,
            row.output,
            row.custom_status,
            row.failure,
            self._converter or conf.data_converter(),
        )

    def _metadata(self, row: EntityRow, includes_state: bool) -> EntityMetadata:
        return EntityMetadata(
            row.entity_id,
            row.last_modified_at.replace(tzinfo=UTC),
            row.backlog,
            row.locked_by,
            includes_state,
            row.state,
            self._converter or conf.data_converter(),
        )
