"""Errors that Python means for the process: out of code in a worker's threads, they are that code's own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_django import signals, task
from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.core.registry import Registry
from durable_django.entities import EntityInstanceId
from durable_django.worker import DurableTaskWorker

pytestmark = pytest.mark.django_db(transaction=True)

_PATIENCE_SECONDS = 30.0


def interrupt(ctx: task.ActivityContext, _: Any) -> None:
    raise KeyboardInterrupt


async def interrupt_async(ctx: task.ActivityContext, _: Any) -> None:
    raise KeyboardInterrupt


def locally(ctx: task.ActivityContext, _: Any) -> None:
    raise KeyboardInterrupt


def operation(ctx: Any, _: Any) -> None:
    raise KeyboardInterrupt


def caller(ctx: task.OrchestrationContext, name: str) -> Any:
    yield ctx.call_activity(name)


def of_entity(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.call_entity(EntityInstanceId("operation", "x"), "go")


def at_once(ctx: task.OrchestrationContext, _: Any) -> None:
    raise KeyboardInterrupt


def later(ctx: task.OrchestrationContext, _: Any) -> Any:
    yield ctx.call_activity(fine)
    raise KeyboardInterrupt


def fine(ctx: Any, _: Any) -> str:
    return "fine"


@pytest.fixture
def run() -> Iterator[Callable[..., OrchestrationStatus]]:
    """Start an orchestration for a real worker, and return how it ends."""
    registry = Registry()
    for orchestrator in (caller, of_entity, at_once, later):
        registry.add_orchestrator(orchestrator)
    registry.add_orchestrator(fine, name="other")
    for activity in (interrupt, interrupt_async, fine):
        registry.add_activity(activity)
    registry.add_activity(locally, local=True)
    registry.add_entity(operation)
    client = DurableTaskClient()

    def ends(name: str, argument: Any = None) -> OrchestrationStatus:
        instance_id = client.schedule_new_orchestration(name, input=argument)
        state = client.wait_for_orchestration_completion(instance_id, timeout=_PATIENCE_SECONDS)
        return state.runtime_status

    worker = DurableTaskWorker(registry=registry)
    worker.start()
    yield ends
    stopping = threading.Thread(target=worker.stop, daemon=True)
    stopping.start()
    stopping.join(_PATIENCE_SECONDS)
    assert not stopping.is_alive(), "it does not stop"


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("caller", "interrupt"),
        ("caller", "interrupt_async"),
        ("caller", "locally"),
        ("of_entity", None),
        ("at_once", None),
        ("later", None),
    ],
)
def test_an_interrupt_fails_what_has_raised_it_and_stops_nothing_else(
    run: Callable[..., OrchestrationStatus], name: str, argument: str | None
) -> None:
    assert run(name, argument) is OrchestrationStatus.FAILED
    assert run("other") is OrchestrationStatus.COMPLETED


def test_a_receiver_that_exits_stops_nothing_else(run: Callable[..., OrchestrationStatus]) -> None:
    heard: list[str] = []

    def leave(*, instance_id: str, **_: Any) -> None:
        heard.append(instance_id)
        raise SystemExit

    both = (signals.orchestration_started, signals.activity_failed)
    for signal in both:
        signal.connect(leave)
    try:
        assert run("caller", "interrupt") is OrchestrationStatus.FAILED
        assert run("other") is OrchestrationStatus.COMPLETED
        assert run("other") is OrchestrationStatus.COMPLETED
    finally:
        for signal in both:
            signal.disconnect(leave)
    # Each start once, and the failure: what has been done is not done, and told, again and again.
    assert sorted(Counter(heard).values()) == [1, 1, 2]
