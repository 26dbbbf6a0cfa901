"""Running one activity: from its lease to its result. Nothing here raises; a failure is a result too."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from asgiref.sync import async_to_sync

from durable_django.core import events
from durable_django.core.calls import call
from durable_django.core.context import ActivityContext
from durable_django.core.errors import FailureDetails
from durable_django.core.interrupts import is_interrupt
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import clock
from durable_django.store.activities import Leased


class ActivityResult(NamedTuple):
    """What came of an activity: the event that the history is to keep of it."""

    leased: Leased
    event: events.TaskCompletedEvent | events.TaskFailedEvent

    def given_to(self, execution_id: str) -> ActivityResult:
        """Return the same result, for an execution that has got the activity from an earlier one."""
        return self._replace(leased=self.leased._replace(execution_id=execution_id))

    @property
    def failure(self) -> FailureDetails | None:
        """Why it failed, if it did."""
        event = self.event
        return event.failure_details if isinstance(event, events.TaskFailedEvent) else None


class ActivityRunner:
    """Runs activities out of a registry, on behalf of a worker."""

    def __init__(self, registry: Registry, codec: PayloadCodec, worker: str) -> None:
        self._registry = registry
        self._codec = codec
        self._worker = worker

    @property
    def has_async(self) -> bool:
        """Whether there are ``async def`` activities at all."""
        return any(registered.is_async for registered in self._registry.activities.values())

    def is_async(self, leased: Leased) -> bool:
        """Tell whether the activity belongs on an event loop."""
        registered = self._registry.activities.get(leased.name)
        return registered is not None and registered.is_async

    def run(self, leased: Leased) -> ActivityResult:
        """Run an activity in this thread; an ``async def`` one on an event loop of its own."""
        if self.is_async(leased):
            return async_to_sync(self.run_async)(leased)
        started_at = clock.now()
        try:
            payload = self.output(leased)
        except BaseException as error:  # Even SystemExit is the activity's, not the worker's.
            if is_interrupt(error):
                raise
            return self.result(leased, started_at, None, FailureDetails.from_exception(error))
        return self.result(leased, started_at, payload, None)

    async def run_async(self, leased: Leased) -> ActivityResult:
        """Run an ``async def`` activity on the present event loop."""
        started_at = clock.now()
        try:
            payload = self._written(leased, await self._call(leased))
        except BaseException as error:  # noqa: BLE001 - a cancellation is a failure like any other
            return self.result(leased, started_at, None, FailureDetails.from_exception(error))
        return self.result(leased, started_at, payload, None)

    def output(self, leased: Leased) -> str | None:
        """Run a plain activity and return what it returns, serialised; what it raises is raised."""
        return self._written(leased, self._call(leased))

    def _call(self, leased: Leased) -> Any:
        function = self._registry.activity(leased.name).fn
        context = ActivityContext(leased.instance_id, leased.task_id, self._worker)
        return call(function, context, leased.input, self._codec)

    def _written(self, leased: Leased, value: object) -> str | None:
        return self._codec.dumps(value, "the result of activity", leased.name)

    def result(
        self, leased: Leased, started_at: datetime, payload: str | None, failure: FailureDetails | None
    ) -> ActivityResult:
        """Return the result of an activity that has just ended."""
        now, task_id = clock.now(), leased.task_id
        ran = (self._worker, leased.queued_at, started_at, now)
        if failure is not None:
            return ActivityResult(leased, events.TaskFailedEvent(-1, now, task_id, failure, *ran))
        return ActivityResult(leased, events.TaskCompletedEvent(-1, now, task_id, payload, *ran))
