"""Results that come when their execution has ended, started over, or been rewound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

from django.db import connections

from durable_django import task
from durable_django.history import SubOrchestrationInstanceCompletedEvent, TaskCompletedEvent
from tests.acceptance.conftest import TIMEOUT, Machine, Stage, eventually, listener, started

Context = task.OrchestrationContext
Steps = Generator[Any, Any, Any]


def test_continue_as_new_leaves_results_behind(stage: Stage, machine: Machine) -> None:
    def flow(ctx: Context, generation: int) -> Steps:
        if generation == 0:
            ctx.call_activity("slow", input="old")
            ctx.call_sub_orchestrator(listener, input="go", instance_id="kid")
            ctx.create_timer(timedelta(milliseconds=30))
            yield ctx.wait_for_external_event("next")
            ctx.continue_as_new(1)
            return None
        result = yield ctx.call_activity("work", input="new")
        return [result, (yield ctx.wait_for_external_event("end"))]

    stage.worker([flow, listener], machine.activities)
    instance_id = started(stage, flow, 0)
    eventually(lambda: machine.runs == ["old"])
    stage.client.wait_for_orchestration_start("kid", timeout=TIMEOUT)
    stage.client.raise_orchestration_event(instance_id, "next")
    eventually(lambda: stage.has_input(instance_id, 1))
    machine.gate.set()
    stage.client.raise_orchestration_event("kid", "go", data=1)
    assert stage.output("kid") == 1
    stage.client.raise_orchestration_event(instance_id, "end", data=2)
    assert stage.output(instance_id) == ["NEW", 2]
    history = stage.history(instance_id)
    assert sum(isinstance(event, TaskCompletedEvent) for event in history) == 1
    assert not any(isinstance(event, SubOrchestrationInstanceCompletedEvent) for event in history)


def rewindable(ctx: Context, _: None) -> Steps:
    child = ctx.call_sub_orchestrator(listener, input="go", instance_id="kid")
    slow = ctx.call_activity("slow", input="slow")
    timer = ctx.create_timer(timedelta(milliseconds=50))
    yield ctx.call_activity("work", input="weak")
    return [(yield child), (yield slow), (yield timer)]


def test_a_rewound_execution_gets_what_its_siblings_do(stage: Stage, machine: Machine) -> None:
    stage.worker([rewindable, listener], machine.activities)
    instance_id = stage.run(rewindable).instance_id
    stage.client.wait_for_orchestration_start("kid", timeout=TIMEOUT)
    machine.is_mended = True
    stage.client.rewind_orchestration(instance_id)
    machine.gate.set()
    stage.client.raise_orchestration_event("kid", "go", data=5)
    assert stage.output(instance_id) == [5, "SLOW", None]


def test_a_rewind_finds_what_came_after_the_failure(stage: Stage, machine: Machine) -> None:
    worker = stage.worker([rewindable, listener], machine.activities)
    instance_id = stage.run(rewindable).instance_id
    stage.client.wait_for_orchestration_start("kid", timeout=TIMEOUT)
    eventually(lambda: "slow" in machine.runs)
    machine.gate.set()
    stage.client.raise_orchestration_event("kid", "go", data=5)
    stage.end("kid")
    worker.stop()  # What was running is recorded by now, or dropped.
    worker.start()
    machine.is_mended = True
    stage.client.rewind_orchestration(instance_id)
    assert stage.output(instance_id) == [5, "SLOW", None]


def test_a_rewound_execution_is_replayed_by_another_worker(stage: Stage, machine: Machine) -> None:
    policy = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=2)

    def flow(ctx: Context, _: None) -> Steps:
        parts = [(yield ctx.call_activity("work", input="a"))]
        parts.append((yield ctx.call_activity("work", input="weak", retry_policy=policy)))
        parts.append((yield ctx.wait_for_external_event("go")))
        return [*parts, (yield ctx.call_activity("work", input="z"))]

    first = stage.worker([flow], machine.activities)
    instance_id = stage.run(flow).instance_id
    machine.is_mended = True
    stage.client.rewind_orchestration(instance_id)
    stage.happened(instance_id, TaskCompletedEvent, 2)
    first.stop()
    stage.worker([flow], machine.activities)
    stage.client.raise_orchestration_event(instance_id, "go", data=1)
    assert stage.output(instance_id) == ["A", "WEAK", 1, "Z"]
    assert machine.runs == ["a", "weak", "weak", "weak", "z"]


def test_a_restart_keeps_late_results_out(stage: Stage, machine: Machine) -> None:
    def flow(ctx: Context, _: None) -> Steps:
        slow = ctx.call_activity("slow", input="x")
        if (yield ctx.wait_for_external_event("e")) == "end":
            return "first"
        return (yield slow)

    stage.worker([flow], machine.activities)
    instance_id = started(stage, flow)
    eventually(lambda: machine.runs == ["x"])
    stage.client.raise_orchestration_event(instance_id, "e", data="end")
    assert stage.output(instance_id) == "first"
    stage.client.restart_orchestration(instance_id)
    eventually(lambda: machine.runs == ["x", "x"])
    stage.client.raise_orchestration_event(instance_id, "e", data="more")
    machine.gate.set()
    assert stage.output(instance_id) == "X"


def test_a_purged_id_is_used_again_while_its_activity_runs(stage: Stage, machine: Machine) -> None:
    def flow(ctx: Context, _: None) -> Steps:
        return (yield ctx.call_activity("slow", input="x"))

    stage.worker([flow], machine.activities)
    started(stage, flow, instance_id="id")
    eventually(lambda: machine.runs == ["x"])
    stage.client.terminate_orchestration("id")
    assert stage.client.purge_orchestration("id").deleted_instance_count == 1
    started(stage, flow, instance_id="id")
    eventually(lambda: machine.runs == ["x", "x"])
    machine.gate.set()
    assert stage.output("id") == "X"


def test_everybody_steers_at_once(stage: Stage) -> None:
    for _ in range(2):
        stage.worker([listener])
    ids = [stage.start(listener, "go") for _ in range(60)]

    def steer(operation: Callable[[str], None]) -> None:
        try:
            for instance_id in ids:
                operation(instance_id)
        finally:
            connections.close_all()

    operations: list[Callable[[str], None]] = [
        stage.client.suspend_orchestration,
        stage.client.resume_orchestration,
        lambda instance_id: stage.client.raise_orchestration_event(instance_id, "go", data=1),
    ]
    threads = [threading.Thread(target=steer, args=(operation,)) for operation in operations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for instance_id in ids:
        stage.client.resume_orchestration(instance_id)
    assert [stage.output(instance_id) for instance_id in ids] == [1] * 60
