"""The well-known patterns, against the engine alone."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from durable_django import task
from tests.core.harness import RUNNING, START, Steps, World, raised


def hello(ctx: task.ActivityContext, name: str) -> str:
    return f"Hello {name}!"


def test_function_chaining() -> None:
    def chained_workflow(ctx: task.OrchestrationContext, _: Any) -> Steps:
        result1 = yield ctx.call_activity(hello, input="Tokyo")
        result2 = yield ctx.call_activity(hello, input="Seattle")
        result3 = yield ctx.call_activity(hello, input="London")
        return [result1, result2, result3]

    assert World(chained_workflow, activities=[hello]).run().output == (
        '["Hello Tokyo!", "Hello Seattle!", "Hello London!"]'
    )


def get_work_items(ctx: task.ActivityContext, _: Any) -> list[str]:
    return [f"work item {i}" for i in range(25)]


def process_work_item(ctx: task.ActivityContext, item: str) -> int:
    return int(item.rsplit(maxsplit=1)[-1])


def test_fan_out_and_fan_in() -> None:
    def fanout_fanin_workflow(ctx: task.OrchestrationContext, _: Any) -> Steps:
        work_items: list[str] = yield ctx.call_activity(get_work_items)
        tasks = [ctx.call_activity(process_work_item, input=item) for item in work_items]
        results: list[int] = yield task.when_all(tasks)
        return sum(results)

    assert World(fanout_fanin_workflow, activities=[get_work_items, process_work_item]).run().output == "300"


def test_batched_fan_out() -> None:
    def batched_fanout_workflow(ctx: task.OrchestrationContext, _: Any) -> Steps:
        work_items = yield ctx.call_activity(get_work_items)
        all_results: list[int] = []
        for i in range(0, len(work_items), 10):
            tasks = [ctx.call_activity(process_work_item, input=item) for item in work_items[i : i + 10]]
            all_results.extend((yield task.when_all(tasks)))
        return {"total": sum(all_results)}

    world = World(batched_fanout_workflow, activities=[get_work_items, process_work_item])
    assert world.run().output == '{"total": 300}'


@dataclass
class Order:
    cost: float
    product: str
    quantity: int


Approval = namedtuple("Approval", ["approver"])


def send_approval_request(ctx: task.ActivityContext, order: Order) -> None:
    assert order.cost > 1000


def place_order(ctx: task.ActivityContext, order: Order) -> str:
    return f"Order placed: {order.quantity}x {order.product}"


def purchase_order_workflow(ctx: task.OrchestrationContext, order: Order) -> Steps:
    if order.cost < 1000:
        return "Auto-approved"
    yield ctx.call_activity(send_approval_request, input=order)
    approval_event = ctx.wait_for_external_event("approval_received")
    timeout_event = ctx.create_timer(timedelta(hours=24))
    winner = yield task.when_any([approval_event, timeout_event])
    if winner == timeout_event:
        return "Canceled - approval timeout"
    yield ctx.call_activity(place_order, input=order)
    approval_details = approval_event.get_result()
    return f"Approved by '{approval_details.approver}'"


@pytest.mark.parametrize("live", [True, False])
def test_human_interaction(live: bool) -> None:
    def world() -> World:
        return World(purchase_order_workflow, activities=[send_approval_request, place_order], live=live)

    assert world().run(Order(10, "pen", 1)).output == '"Auto-approved"'
    assert world().run(Order(2000, "desk", 2)).output == '"Canceled - approval timeout"'
    approved = world()
    approved.begin(Order(2000, "desk", 2))
    approved.turn(approved.ready.popleft())
    data = approved.options.codec.dumps(Approval("manager@company.com"), "the data")
    outcome = approved.go_on(approved.turn(raised("Approval_Received", data)))
    assert outcome.output == '''"Approved by 'manager@company.com'"'''


def test_durable_timers() -> None:
    def scheduled_workflow(ctx: task.OrchestrationContext, scheduled_time: datetime) -> Steps:
        delay = scheduled_time - ctx.current_utc_datetime
        if delay > timedelta(0):
            yield ctx.create_timer(delay)
        return (yield ctx.call_activity(hello, input="then"))

    world = World(scheduled_workflow, activities=[hello])
    assert world.run(START + timedelta(days=10)).output == '"Hello then!"'
    assert world.now == START + timedelta(days=10)


def test_sub_orchestrations() -> None:
    def child_orchestration(ctx: task.OrchestrationContext, data: str) -> Steps:
        result1 = yield ctx.call_activity(hello, input=data)
        return (yield ctx.call_activity(hello, input=result1))

    def parent_orchestration(ctx: task.OrchestrationContext, items: list[str]) -> Steps:
        tasks = [ctx.call_sub_orchestrator(child_orchestration, input=item) for item in items]
        return (yield task.when_all(tasks))

    world = World(parent_orchestration, activities=[hello], children=[child_orchestration])
    assert world.run(["a", "b"]).output == '["Hello Hello a!!", "Hello Hello b!!"]'


def test_eternal_orchestrations() -> None:
    def eternal_orchestration(ctx: task.OrchestrationContext, iteration: int) -> Steps:
        yield ctx.call_activity(hello, input=str(iteration))
        yield ctx.create_timer(timedelta(minutes=5))
        ctx.continue_as_new(iteration + 1)

    world = World(eternal_orchestration, activities=[hello])
    outcome = world.run(0, generations=10)
    assert outcome.continue_as_new is not None
    assert outcome.continue_as_new.input == "10"
    assert world.now == START + timedelta(minutes=50)


def test_monitoring() -> None:
    answers = ["pending", "pending", "completed"]

    def monitoring_workflow(ctx: task.OrchestrationContext, job_id: str) -> Steps:
        for attempt in range(10):
            status = yield ctx.call_activity("check_job_status", input=job_id)
            if status == "completed":
                return {"status": "success", "attempts": attempt + 1}
            yield ctx.create_timer(timedelta(seconds=30))
        return {"status": "timeout"}

    def check_job_status(ctx: task.ActivityContext, job_id: str) -> str:
        return answers.pop(0)

    world = World(monitoring_workflow, activities=[check_job_status])
    assert world.run("job").output == '{"status": "success", "attempts": 3}'
    assert world.now == START + timedelta(minutes=1)


@pytest.mark.parametrize(("version", "length"), [(None, 1), ("1.0.0", 1), ("2.0.0", 2)])
def test_version_aware_orchestrations(version: str | None, length: int) -> None:
    def versioned_orchestration(ctx: task.OrchestrationContext, name: str) -> Steps:
        results = [(yield ctx.call_activity(hello, input=name))]
        if ctx.version is not None and ctx.version >= "2.0.0":
            results.append((yield ctx.call_activity(hello, input="bye")))
        return len(results)

    assert World(versioned_orchestration, activities=[hello], version=version).run("x").output == str(length)


def test_a_waiting_orchestration_shows_what_for() -> None:
    outcome = World(purchase_order_workflow).begin(Order(2000, "desk", 2))
    assert (outcome.status, outcome.waiting_for) == (RUNNING, [])
