"""Recorded histories against changed code."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

import pytest

from durable_django import history as public
from durable_django import task
from durable_django.client import DurableTaskClient
from durable_django.core.registry import Registry
from durable_django.history import HistoryEvent
from durable_django.testing import advance, drain, dump_history, load_history, replay_history, virtual_time

Steps = Generator[Any, Any, Any]

POLICY = task.RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=3)

registry = Registry()
attempts: list[int] = []


def charge(ctx: task.ActivityContext, amount: float) -> str:
    attempts.append(ctx.task_id)
    if len(attempts) < 2:
        raise ConnectionError("away")
    return f"charged {amount}"


def ship(ctx: task.ActivityContext, order: str) -> str:
    return f"shipped {order}"


def pack(ctx: task.OrchestrationContext, order: str) -> Steps:
    return (yield ctx.call_activity(ship, input=order))


def order(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(charge, input=9.5, retry_policy=POLICY)
    yield ctx.create_timer(timedelta(days=5))
    shipped = yield ctx.call_sub_orchestrator(pack, input=order_id)
    approval = yield ctx.wait_for_external_event("approved")
    ctx.send_event("somebody", "done")
    return [shipped, approval]


for orchestrator in (order, pack):
    registry.add_orchestrator(orchestrator)
for activity in (charge, ship):
    registry.add_activity(activity)


@pytest.fixture
def running(db: None) -> list[HistoryEvent]:
    """The history of an order that waits for its approval."""
    attempts.clear()
    client = DurableTaskClient()
    with virtual_time():
        client.schedule_new_orchestration(order, input="tea", instance_id="order-1")
        advance(timedelta(days=6), registry=registry)
    return client.get_orchestration_history("order-1")


@pytest.fixture
def finished(running: list[HistoryEvent]) -> list[HistoryEvent]:
    client = DurableTaskClient()
    client.raise_orchestration_event("order-1", "approved", data={"by": "ada"})
    drain(registry=registry)
    state = client.get_orchestration_state("order-1")
    assert state is not None
    assert state.get_output() == ["shipped tea", {"by": "ada"}]
    return client.get_orchestration_history("order-1")


class TestJson:
    def test_there_and_back(self, finished: list[HistoryEvent]) -> None:
        text = dump_history(finished)
        assert load_history(text) == finished
        assert json.loads(text)[1]["type"] == "ExecutionStartedEvent"
        assert json.loads(text)[1]["timestamp"] == finished[1].timestamp.isoformat()

    @pytest.mark.parametrize(
        "text",
        ['{"a": 1}', "[1]", '[{"type": "Nonsense"}]', '[{"type": "TimerFiredEvent", "fire_at": "?"}]', "x"],
    )
    def test_what_is_no_history(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"not a history|Expecting value"):
            load_history(text)

    def test_a_history_without_a_start(self, finished: list[HistoryEvent]) -> None:
        with pytest.raises(ValueError, match="ExecutionStartedEvent"):
            replay_history(order, finished[2:])


class TestReplay:
    def test_the_same_code_fits(self, running: list[HistoryEvent], finished: list[HistoryEvent]) -> None:
        for history in (running, finished, dump_history(running), dump_history(finished)):
            replay_history(order, history)
            replay_history("order", history, registry=registry)

    def test_it_leaves_the_history_alone(self, finished: list[HistoryEvent]) -> None:
        before = dump_history(finished)
        replay_history(order, finished)
        assert dump_history(finished) == before

    def test_every_beginning_of_the_history_fits(self, finished: list[HistoryEvent]) -> None:
        ends = [i for i, event in enumerate(finished) if isinstance(event, public.OrchestratorCompletedEvent)]
        for end in ends:
            replay_history(order, finished[: end + 1])

    def test_a_failed_execution(self, db: None) -> None:
        def failing(ctx: task.OrchestrationContext, _: None) -> Steps:
            yield ctx.create_timer(timedelta(0))
            raise ValueError("bad luck")

        def mended(ctx: task.OrchestrationContext, _: None) -> Steps:
            yield ctx.create_timer(timedelta(0))
            yield ctx.call_activity(ship)

        bench = Registry()
        bench.add_orchestrator(failing)
        client = DurableTaskClient()
        instance_id = client.schedule_new_orchestration(failing)
        drain(registry=bench)
        history = client.get_orchestration_history(instance_id)
        replay_history(failing, history)
        replay_history(mended, history)


def without_retries(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(charge, input=9.5)


def without_timer(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(charge, input=9.5, retry_policy=POLICY)
    yield ctx.call_sub_orchestrator(pack, input=order_id)


def other_activity(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(ship, input=9.5, retry_policy=POLICY)


def other_child(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(charge, input=9.5, retry_policy=POLICY)
    yield ctx.create_timer(timedelta(days=5))
    yield ctx.call_sub_orchestrator(pack, input=order_id, instance_id="mine")


def without_the_end(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(charge, input=9.5, retry_policy=POLICY)
    yield ctx.create_timer(timedelta(days=5))
    yield ctx.call_sub_orchestrator(pack, input=order_id)


def one_more_step(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield from order(ctx, order_id)
    yield ctx.call_activity(ship, input="thanks")


def one_more_event(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield from order(ctx, order_id)
    yield ctx.wait_for_external_event("thanks")


def buggy(ctx: task.OrchestrationContext, order_id: str) -> Steps:
    yield ctx.call_activity(charge, input=9.5, retry_policy=POLICY)
    yield ctx.create_timer(timedelta(days=5))
    yield ctx.call_sub_orchestrator(pack, input=order_id)
    raise ZeroDivisionError("oops")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (without_retries, "ConnectionError|create_timer"),
        (without_timer, "expected create_timer, found that the code now makes call_sub_orchestrator"),
        (other_activity, r"expected call_activity\('charge'\), found .* call_activity\('ship'\)"),
        (other_child, "expected call_sub_orchestrator.* found .* instance_id='mine'"),
        (without_the_end, "does not make this call"),
        (one_more_step, r"goes on with call_activity\('ship'\)"),
        (one_more_event, "expected COMPLETED, found RUNNING"),
        (buggy, "oops|does not make this call"),
    ],
)
def test_changed_code_does_not_fit(
    changed: Callable[..., Any], message: str, finished: list[HistoryEvent]
) -> None:
    with pytest.raises(task.NonDeterminismError, match=message):
        replay_history(changed, finished)


def test_code_that_fails_now(running: list[HistoryEvent]) -> None:
    with pytest.raises(
        task.NonDeterminismError, match=r"(?s)expected RUNNING, found FAILED: .*oops.*in buggy"
    ):
        replay_history(buggy, running)


def test_an_orchestrator_that_queries_the_database(running: list[HistoryEvent]) -> None:
    def curious(ctx: task.OrchestrationContext, order_id: str) -> Steps:
        DurableTaskClient().get_orchestration_state(order_id)
        yield from order(ctx, order_id)

    with pytest.raises(task.NonDeterminismError):
        replay_history(curious, running)
