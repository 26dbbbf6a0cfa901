"""Every pattern of the Durable Task guide (see ``patterns.py``), run by a real worker."""

from __future__ import annotations

import random
from collections import namedtuple
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from durable_django.client import OrchestrationStatus
from durable_django.history import ExecutionStartedEvent, TimerCreatedEvent, TimerFiredEvent
from durable_django.testing import VirtualClock
from tests.acceptance import patterns
from tests.acceptance.conftest import Stage, eventually
from tests.acceptance.patterns import (
    Order,
    activity_a,
    activity_b,
    batched_fanout_workflow,
    chained_workflow,
    check_job_status,
    child_orchestration,
    compare_version,
    continue_activity,
    delayed_workflow,
    eternal_orchestration,
    fanout_fanin_workflow,
    get_work_items,
    hello,
    monitoring_workflow,
    parent_orchestration,
    periodic_work,
    place_order,
    process_work_item,
    purchase_order_workflow,
    say_goodbye,
    say_hello,
    scheduled_activity,
    scheduled_workflow,
    send_approval_request,
    start_activity,
    versioned_orchestration,
)

RUNNING = OrchestrationStatus.RUNNING


@pytest.fixture(autouse=True)
def _trail() -> None:
    patterns.trail.clear()


def test_function_chaining(stage: Stage) -> None:
    worker = stage.worker(start=False)
    worker.add_orchestrator(chained_workflow)
    worker.add_activity(hello)
    worker.start()
    instance_id = stage.start(chained_workflow)
    assert stage.output(instance_id) == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]


def test_fan_out_fan_in(stage: Stage) -> None:
    stage.worker([fanout_fanin_workflow], [get_work_items, process_work_item])
    output = stage.output(stage.start(fanout_fanin_workflow))
    assert 2 <= len(output["work_items"]) == len(output["results"]) <= 10
    assert output["work_items"] == [f"work item {number}" for number in range(len(output["results"]))]
    assert all(0 <= result <= 10 for result in output["results"])
    assert output["total"] == sum(output["results"])


def test_batched_fan_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([25, *range(25)])
    monkeypatch.setattr(random, "randint", lambda low, high: next(numbers))
    stage.worker([batched_fanout_workflow], [get_work_items, process_work_item])
    assert stage.output(stage.start(batched_fanout_workflow)) == {"total": sum(range(25))}


class TestHumanInteraction:
    @pytest.fixture(autouse=True)
    def _worker(self, stage: Stage, durable_clock: VirtualClock) -> None:
        stage.worker([purchase_order_workflow], [send_approval_request, place_order])

    def test_small_orders_pass(self, stage: Stage) -> None:
        instance_id = stage.start(purchase_order_workflow, Order(999, "paper", 10))
        assert stage.output(instance_id) == "Auto-approved"

    def test_large_orders_are_approved(self, stage: Stage) -> None:
        client = stage.client
        instance_id = stage.start(purchase_order_workflow, Order(2000, "press", 1))
        stage.happened(instance_id, TimerCreatedEvent)
        assert stage.status(instance_id) is RUNNING

        Approval = namedtuple("Approval", ["approver"])
        approval_data = Approval("manager@company.com")
        client.raise_orchestration_event(instance_id, "approval_received", data=approval_data)

        assert stage.output(instance_id) == "Approved by 'manager@company.com'"

    def test_an_early_approval_counts(self, stage: Stage) -> None:
        instance_id = stage.start(purchase_order_workflow, Order(2000, "press", 1))
        stage.client.raise_orchestration_event(instance_id, "APPROVAL_received", data={"approver": "early"})
        assert stage.output(instance_id) == "Approved by 'early'"

    def test_nobody_approves(self, stage: Stage, durable_clock: VirtualClock) -> None:
        instance_id = stage.start(purchase_order_workflow, Order(2000, "press", 1))
        stage.happened(instance_id, TimerCreatedEvent)
        durable_clock.move(timedelta(hours=23))
        assert stage.status(instance_id) is RUNNING
        durable_clock.move(timedelta(hours=1))
        assert stage.output(instance_id) == "Canceled - approval timeout"


def test_durable_timers(stage: Stage, durable_clock: VirtualClock) -> None:
    stage.worker([delayed_workflow], [start_activity, continue_activity])
    instance_id = stage.start(delayed_workflow)
    stage.happened(instance_id, TimerCreatedEvent)
    assert patterns.trail == ["started"]
    durable_clock.move(timedelta(minutes=5))
    assert stage.output(instance_id) == "Done"
    assert patterns.trail == ["started", "continued"]


def test_scheduled_execution(stage: Stage, durable_clock: VirtualClock) -> None:
    stage.worker([scheduled_workflow], [scheduled_activity])
    at = durable_clock.now + timedelta(days=10)
    instance_id = stage.start(scheduled_workflow, at)
    assert stage.output(stage.start(scheduled_workflow, durable_clock.now - timedelta(days=1))) == "on time"
    stage.happened(instance_id, TimerCreatedEvent)
    durable_clock.move(timedelta(days=9))
    stage.happened(instance_id, TimerCreatedEvent, 2)  # Longer timers are chains of shorter ones.
    assert stage.status(instance_id) is RUNNING
    durable_clock.move(timedelta(days=1))
    assert stage.output(instance_id) == "on time"
    fired = [event for event in stage.history(instance_id) if isinstance(event, TimerFiredEvent)]
    assert fired[-1].timestamp == at


def test_sub_orchestrations(stage: Stage) -> None:
    stage.worker([parent_orchestration, child_orchestration], [activity_a, activity_b])
    instance_id = stage.start(parent_orchestration, ["x", "y", "z"])
    assert stage.output(instance_id) == ["b(a(x))", "b(a(y))", "b(a(z))"]
    assert len(stage.client.get_all_orchestration_states()) == 4


def test_an_eternal_orchestration(stage: Stage, durable_clock: VirtualClock) -> None:
    client = stage.client
    stage.worker([eternal_orchestration], [periodic_work])
    instance_id = client.schedule_new_orchestration(eternal_orchestration, input=0)
    executions = set()
    for iteration in range(4):
        eventually(partial(stage.has_input, instance_id, iteration))
        stage.happened(instance_id, TimerCreatedEvent)
        history = stage.history(instance_id)
        (started,) = (event for event in history if isinstance(event, ExecutionStartedEvent))
        assert started.orchestration_instance is not None
        executions.add(started.orchestration_instance.execution_id)
        durable_clock.move(timedelta(minutes=5))
    client.terminate_orchestration(instance_id, output="enough")
    state = stage.end(instance_id)
    assert (state.runtime_status, state.get_output()) == (OrchestrationStatus.TERMINATED, "enough")
    assert patterns.trail[:4] == [0, 1, 2, 3]
    assert len(executions) == 4


@pytest.mark.parametrize(
    ("statuses", "result"),
    [
        (["running", "running", "completed"], {"status": "success", "attempts": 3}),
        (["failed"], {"status": "failed", "attempts": 1}),
        (["running"] * 10, {"status": "timeout", "attempts": 10}),
    ],
)
def test_monitoring(
    stage: Stage, durable_clock: VirtualClock, statuses: list[str], result: dict[str, Any]
) -> None:
    patterns.job_statuses["job"] = list(statuses)
    stage.worker([monitoring_workflow], [check_job_status])
    instance_id = stage.start(monitoring_workflow, "job")
    waits = len(statuses) if statuses[-1] == "running" else len(statuses) - 1
    for number in range(1, waits + 1):
        stage.happened(instance_id, TimerCreatedEvent, number)
        durable_clock.move(timedelta(seconds=30))
    assert stage.output(instance_id) == result
    assert patterns.trail == ["job"] * len(statuses)


@pytest.mark.parametrize(
    ("version", "results"),
    [
        (None, ["Hello data!"]),
        ("1.0.0", ["Hello data!"]),
        ("1.10", ["Hello data!"]),
        ("2.0.0", ["Hello data!", "Goodbye data!"]),
        ("10.0", ["Hello data!", "Goodbye data!"]),
    ],
)
def test_versions(stage: Stage, version: str | None, results: list[str]) -> None:
    client = stage.client
    stage.worker([versioned_orchestration], [say_hello, say_goodbye])
    instance_id = client.schedule_new_orchestration("versioned_orchestration", input="data", version=version)
    assert stage.output(instance_id) == {"version": version, "results": results}


def test_the_comparison_helper() -> None:
    assert compare_version(None, "1") == -1
    assert compare_version("1.10", "1.9") == 1
    assert compare_version("same words", "same words") == 0
