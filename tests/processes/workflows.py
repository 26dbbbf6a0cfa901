"""What the workers of process tests run."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import Group

import durable_django
from durable_django import entities, task

Steps = Generator[task.Task[Any], Any, Any]

_RETRY = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=50)


@durable_django.activity
def add_one(ctx: task.ActivityContext, number: int) -> int:
    """Add one, slowly."""
    time.sleep(random.uniform(0, 0.01))
    return number + 1


@durable_django.activity
async def add_one_async(ctx: task.ActivityContext, number: int) -> int:
    """Add one, on the event loop."""
    return number + 1


@durable_django.activity
def fail_often(ctx: task.ActivityContext, number: int) -> int:
    """Fail two times in five."""
    if random.random() < 0.4:
        raise OSError("bad luck")
    return number + 1


@durable_django.activity(local=True)
def enter(ctx: task.ActivityContext, number: int) -> int:
    """Insert a row that must not be there yet, in the turn itself; return how many this instance has."""
    Group.objects.create(name=f"{ctx.orchestration_id} {number}")
    return Group.objects.filter(name__startswith=f"{ctx.orchestration_id} ").count()


@durable_django.orchestrator
def ledger(ctx: task.OrchestrationContext, length: int) -> Steps:
    """Return ``length``, by that many local activities, now one and now three at once, and others between."""
    number = 0
    while number < length:
        width = min(3 if number % 2 else 1, length - number)
        entries = [ctx.call_activity(enter, input=number + step) for step in range(width)]
        number = (yield task.when_all(entries))[-1]
        if number % 3 == 0:
            yield ctx.call_activity(add_one, input=number)
    return number


@durable_django.orchestrator
def chain(ctx: task.OrchestrationContext, length: int) -> Steps:
    """Return ``length``, by that many activities."""
    number = 0
    for _ in range(length):
        number = yield ctx.call_activity(add_one, input=number)
    return number


@durable_django.orchestrator
def fan_out(ctx: task.OrchestrationContext, width: int) -> Steps:
    """Return 1 to ``width``, by activities of both kinds."""
    calls = [
        ctx.call_activity(add_one if number % 2 else add_one_async, input=number) for number in range(width)
    ]
    return (yield task.when_all(calls))


@durable_django.orchestrator
def retries(ctx: task.OrchestrationContext, length: int) -> Steps:
    """Return ``length``, by activities that fail often."""
    number = 0
    for _ in range(length):
        number = yield ctx.call_activity(fail_often, input=number, retry_policy=_RETRY)
    return number


@durable_django.orchestrator
def naps(ctx: task.OrchestrationContext, count: int) -> Steps:
    """Return ``count`` if ``count`` timers of 30 ms have taken their time."""
    began = ctx.current_utc_datetime
    for _ in range(count):
        yield ctx.create_timer(timedelta(milliseconds=30))
    assert ctx.current_utc_datetime - began >= timedelta(milliseconds=30) * count
    return count


@durable_django.orchestrator
def family(ctx: task.OrchestrationContext, size: int) -> Steps:
    """Return the lengths of ``size`` children, each a chain longer than the last."""
    children = [ctx.call_sub_orchestrator(chain, input=length) for length in range(1, size + 1)]
    return (yield task.when_all(children))


@durable_django.orchestrator
def collector(ctx: task.OrchestrationContext, count: int) -> Steps:
    """Return the data of ``count`` events, in the order of their arrival."""
    seen = []
    for _ in range(count):
        seen.append((yield ctx.wait_for_external_event("number")))  # noqa: PERF401
    return seen


@durable_django.orchestrator
def relay(ctx: task.OrchestrationContext, state: dict[str, Any]) -> Steps:
    """Take one event in each execution and start over, until there are ``count``; return their data."""
    number = yield ctx.wait_for_external_event("number")
    number = (yield ctx.call_activity(add_one, input=number)) - 1
    seen = [*state["seen"], number]
    if len(seen) < state["count"]:
        ctx.continue_as_new({"seen": seen, "count": state["count"]}, save_events=True)
        return None
    return seen


@durable_django.orchestrator
def pingpong(ctx: task.OrchestrationContext, rounds: int) -> Steps:
    """Send a child events, and wait for its answers; return how many came back."""
    child = f"{ctx.instance_id}-child"
    done = ctx.call_sub_orchestrator(
        ponger, input={"to": ctx.instance_id, "rounds": rounds}, instance_id=child
    )
    for number in range(rounds):
        ctx.send_event(child, "ping", data=number)
        assert (yield ctx.wait_for_external_event("pong")) == number
    return (yield done)


@durable_django.orchestrator
def ponger(ctx: task.OrchestrationContext, about: dict[str, Any]) -> Steps:
    """Send back what comes."""
    for number in range(about["rounds"]):
        assert (yield ctx.wait_for_external_event("ping")) == number
        ctx.send_event(about["to"], "pong", data=number)
    return about["rounds"]


# ------------------------------------------------------------------------------------- the bank


@durable_django.entity
class Account(entities.DurableEntity):
    """A balance, and the ids of the transfers that have changed it."""

    def __init__(self) -> None:
        self.set_state({"balance": 100, "transfers": []})

    def get_balance(self) -> int:
        """Return the balance."""
        return int(self.get_state()["balance"])

    def set_balance(self, change: dict[str, Any]) -> None:
        """Replace the balance: whoever read it before must have had the lock since."""
        state = self.get_state()
        state["balance"] = change["balance"]
        state["transfers"].append(change["transfer"])
        self.set_state(state)


@durable_django.orchestrator
def transfer(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Steps:
    """Move an amount from one account to another."""
    source, target = (entities.EntityInstanceId("account", order[end]) for end in ("source", "target"))
    with (yield ctx.lock_entities([source, target])):
        balances = yield task.when_all(
            [ctx.call_entity(source, "get_balance"), ctx.call_entity(target, "get_balance")]
        )
        for account, balance in (
            (source, balances[0] - order["amount"]),
            (target, balances[1] + order["amount"]),
        ):
            change = {"balance": balance, "transfer": ctx.instance_id}
            yield ctx.call_entity(account, "set_balance", change)
    return "moved"


# ------------------------------------------------------------------------------------- killers


@durable_django.orchestrator
def killer(ctx: task.OrchestrationContext, after: int) -> Steps:
    """End the worker's process, after a few activities."""
    number = 0
    for _ in range(after):
        number = yield ctx.call_activity(add_one, input=number)
    os._exit(1)


@durable_django.entity
def grave(ctx: entities.EntityContext, mourner: str) -> list[str]:
    """End the worker's process, or remember who came."""
    if ctx.operation == "kill":
        os._exit(1)
    ctx.set_state([*ctx.get_state(list, []), mourner])
    return ctx.get_state(list, [])


@durable_django.orchestrator
def digger(ctx: task.OrchestrationContext, key: str) -> Steps:
    """Call what kills the worker, and go on."""
    target = entities.EntityInstanceId("grave", key)
    try:
        yield ctx.call_entity(target, "kill")
    except task.TaskFailedError as error:
        return [str(error), (yield ctx.call_entity(target, "visit", "digger"))]


@durable_django.orchestrator
def hanger(ctx: task.OrchestrationContext, _: Any) -> Steps:
    """Never pause."""
    yield ctx.call_activity(add_one, input=0)
    while True:
        time.sleep(0.01)


@durable_django.orchestrator
def slow(ctx: task.OrchestrationContext, seconds: float) -> Steps:
    """Hold the worker up, but only for a while."""
    time.sleep(seconds)
    return (yield ctx.wait_for_external_event("go"))
