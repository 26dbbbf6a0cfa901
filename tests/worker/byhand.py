"""A worker whose every step a test takes by hand, in the test's own thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import connections, transaction

from durable_django.client import DurableTaskClient
from durable_django.core import events
from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.models import ActivityBundle, ActivityTask, Instance, InstanceStatus, Message, Timer
from durable_django.store import retention
from durable_django.store.activities import Leased
from durable_django.store.scope import Scope
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.bundles import Bundles
from durable_django.worker.loop import TurnLoop
from durable_django.worker.options import WorkItemFilters, scope_of
from durable_django.worker.turns import TurnProcessor
from durable_django.worker.work import Work
from tests.factories import history_of

USING = "default"
_MOST_STEPS = 200
_PATIENCE_SECONDS = 10.0
T = TypeVar("T")
_STEERED = (events.ExecutionSuspendedEvent, events.ExecutionResumedEvent, events.ExecutionTerminatedEvent)


class HeldPool:
    """Stands for the activity pool: keeps what it is given until the test runs it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.capacity_on_loop: int | None = None
        self.leased: list[Leased] = []
        self.is_untried = False

    @property
    def free(self) -> int:
        return max(0, self.capacity - len(self.leased))

    @property
    def free_on_loop(self) -> int:
        return self.free if self.capacity_on_loop is None else self.capacity_on_loop

    @property
    def left(self) -> int:
        return 0

    @property
    def is_idle(self) -> bool:
        return not self.leased

    def submit(self, tasks: Sequence[Leased]) -> None:
        self.leased.extend(tasks)

    def tokens(self) -> list[int]:
        return [leased.token for leased in self.leased]


class HandWorker:
    """A `TurnLoop` over a real `TurnProcessor`, without threads."""

    def __init__(
        self,
        *functions: Callable[..., Any],
        name: str = "hand",
        activities: Iterable[Callable[..., Any]] = (),
        slots: int = 1000,
        filtered: bool = False,
        batch_instances: int | None = None,
    ) -> None:
        registry = Registry()
        for function in functions:
            registry.add_orchestrator(function)
        for activity in activities:
            registry.add_activity(activity)
        scope = scope_of(None, WorkItemFilters.of(registry)) if filtered else Scope()
        self.pool = HeldPool(slots)
        self.careful = False
        self.noted: list[int | None] = []
        self.ran: list[Leased] = []
        self.bundles = Bundles(USING, name)
        self.processor = TurnProcessor(
            USING,
            ExecutionOptions(registry),
            scope,
            worker=name,
            batch_instances=batch_instances,
            bundles=self.bundles,
        )
        self.runner = ActivityRunner(registry, PayloadCodec(), name)
        self.loop = TurnLoop(
            self.processor,
            self.pool,  # type: ignore[arg-type]
            poll_interval=lambda: 1.0,
            careful=lambda: self.careful,
            note=self.noted.append,
        )

    def step(self) -> None:
        """Look at everything once."""
        self.loop.hint()
        self.loop._wake.clear()
        self.loop.step()

    def run_activities(self, *names: str) -> list[ActivityResult]:
        """Run the leased activities (those called one of ``names``), and hand their results to the loop."""
        chosen = [leased for leased in self.pool.leased if not names or leased.name in names]
        self.pool.leased = [leased for leased in self.pool.leased if leased not in chosen]
        results = [self.runner.run(leased) for leased in chosen]
        self.ran += chosen
        for result in results:
            self.loop.deliver(result)
        return results

    def settle(self) -> None:
        """Step, and run activities, until nothing is left to do now."""
        for _ in range(_MOST_STEPS):
            self.step()
            if self.loop.is_idle.is_set() and not self.loop.has_results:
                return
            self.run_activities()
        raise AssertionError(f"not idle after {_MOST_STEPS} steps")

    def processed(self, results: Sequence[ActivityResult]) -> None:
        """Record results without a loop."""
        self.processor.run(Work(results))


def client() -> DurableTaskClient:
    return DurableTaskClient(using=USING)


def instance(instance_id: str) -> Instance:
    return Instance.objects.using(USING).get(instance_id=instance_id)


def status(instance_id: str) -> InstanceStatus:
    return InstanceStatus(instance(instance_id).status)


def output(instance_id: str) -> Any:
    """Return what an instance has returned; it must have completed."""
    found = instance(instance_id)
    assert found.status == InstanceStatus.COMPLETED, (found.get_status_display(), found.failure)
    return None if found.output is None else json.loads(found.output)


def elsewhere(code: Callable[[], T]) -> T:
    """Run code in another thread, on a connection of its own, as another process would; it must not block."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(code())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            outcome.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    assert not thread.is_alive(), "it is blocked"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


@contextmanager
def held_by_another(instance_id: str) -> Iterator[None]:
    """Hold an instance's row lock on another connection."""
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic(USING):
                no_key = connections[USING].features.has_select_for_no_key_update
                Instance.objects.select_for_update(no_key=no_key).get(instance_id=instance_id)
                locked.set()
                assert done.wait(60)
        finally:
            connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.join()


def failure(instance_id: str) -> dict[str, Any]:
    """Return why an instance has failed; it must have."""
    found = instance(instance_id)
    assert found.status == InstanceStatus.FAILED, found.get_status_display()
    assert found.failure is not None
    details: dict[str, Any] = json.loads(found.failure)
    return details


def assert_sound(instance_id: str) -> list[events.HistoryEvent]:
    """Check an instance's history, and return it: no gap, and at most one result for each decision."""
    history = history_of(instance(instance_id))
    # A pending one may be steered before it starts.
    begun = [event for event in history if not isinstance(event, _STEERED)]
    assert not begun or isinstance(begun[0], events.ExecutionStartedEvent), history
    for decisions, results in (
        (events.TaskScheduledEvent, (events.TaskCompletedEvent, events.TaskFailedEvent)),
        (
            events.SubOrchestrationInstanceCreatedEvent,
            (events.SubOrchestrationInstanceCompletedEvent, events.SubOrchestrationInstanceFailedEvent),
        ),
        (events.TimerCreatedEvent, (events.TimerFiredEvent,)),
    ):
        # A retry keeps the id of the first attempt, so that both are counted.
        scheduled = [event.event_id for event in history if isinstance(event, decisions)]
        answered = [_decision_of(event) for event in history if isinstance(event, results)]
        for task_id in set(answered):
            assert answered.count(task_id) <= scheduled.count(task_id), (instance_id, task_id, history)
    return history


def _decision_of(event: Any) -> int:
    return int(event.timer_id if isinstance(event, events.TimerFiredEvent) else event.task_scheduled_id)


def assert_tables_are_empty() -> None:
    """Check that nothing is left to be done, and nothing of what is done."""
    retention.sweep(USING)
    for model in (Message, Timer, ActivityTask, ActivityBundle):
        assert list(model._default_manager.using(USING).values()) == []
