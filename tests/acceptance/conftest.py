"""Real workers and a client, for tests that see no more than the public API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from durable_django import task
from durable_django.client import DurableTaskClient, OrchestrationState, OrchestrationStatus
from durable_django.history import HistoryEvent
from durable_django.worker import DurableTaskWorker

Function = Callable[..., Any]

TIMEOUT = 15.0


def eventually(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.005)


class Stage:
    """Workers and a client on the test's database."""

    def __init__(self) -> None:
        self.client = DurableTaskClient()
        self.workers: list[DurableTaskWorker] = []

    def worker(
        self,
        orchestrators: Sequence[Function] = (),
        activities: Sequence[Function] = (),
        *,
        start: bool = True,
        **options: Any,
    ) -> DurableTaskWorker:
        """A worker that knows these functions; it is stopped after the test."""
        worker = DurableTaskWorker(**options)
        for function in orchestrators:
            worker.add_orchestrator(function)
        for function in activities:
            worker.add_activity(function)
        self.workers.append(worker)
        if start:
            worker.start()
        return worker

    def start(self, orchestrator: Function | str, input: Any = None, **options: Any) -> str:
        return self.client.schedule_new_orchestration(orchestrator, input=input, **options)

    def run(self, orchestrator: Function | str, input: Any = None, **options: Any) -> OrchestrationState:
        """Start an orchestration and wait for its end."""
        return self.end(self.start(orchestrator, input, **options))

    def end(self, instance_id: str) -> OrchestrationState:
        return self.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)

    def output(self, instance_id: str) -> Any:
        """The output, once there is one."""
        state = self.end(instance_id)
        assert state.runtime_status is OrchestrationStatus.COMPLETED, state
        return state.get_output()

    def state(self, instance_id: str) -> OrchestrationState:
        state = self.client.get_orchestration_state(instance_id)
        assert state is not None
        return state

    def status(self, instance_id: str) -> OrchestrationStatus:
        return self.state(instance_id).runtime_status

    def has_input(self, instance_id: str, expected: Any) -> bool:
        return bool(self.state(instance_id).get_input() == expected)

    def history(self, instance_id: str) -> list[HistoryEvent]:
        return self.client.get_orchestration_history(instance_id)

    def happened(self, instance_id: str, kind: type[HistoryEvent], count: int = 1) -> None:
        """Wait until the history has ``count`` events of a kind."""
        eventually(lambda: sum(type(event) is kind for event in self.history(instance_id)) >= count)


@pytest.fixture
def stage(transactional_db: None, _durable_wakeups: None) -> Generator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        for worker in stage.workers:
            worker.stop()


def listener(ctx: task.OrchestrationContext, name: str) -> Generator[Any, Any, Any]:
    """An orchestrator that waits for one event."""
    return (yield ctx.wait_for_external_event(name))


def started(stage: Stage, orchestrator: Function, input: Any = None, **options: Any) -> str:
    instance_id = stage.start(orchestrator, input, **options)
    stage.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)
    return instance_id


class Machine:
    """An activity that fails until it is mended, and one that takes until it is let go."""

    def __init__(self) -> None:
        self.is_mended = False
        self.runs: list[str] = []
        self.gate = threading.Event()

    @property
    def activities(self) -> list[Function]:
        def work(ctx: task.ActivityContext, part: str) -> str:
            self.runs.append(part)
            if part == "weak" and not self.is_mended:
                raise ValueError(f"{part} broke")
            return part.upper()

        def slow(ctx: task.ActivityContext, part: str) -> str:
            self.runs.append(part)
            assert self.gate.wait(TIMEOUT)
            return part.upper()

        return [work, slow]


@pytest.fixture
def machine() -> Generator[Machine]:
    machine = Machine()
    yield machine
    machine.gate.set()
