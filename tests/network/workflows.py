"""Orchestrations that stand still on one host, in whatever kind of transaction there is."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from django.contrib.auth.models import Group

import durable_django
from durable_django import entities, task
from tests.network import places

Steps = Generator[task.Task[Any], Any, Any]

GO_HOME = "go home"
"""The event for which an errand waits at last: until then, a second result would find it alive."""


@durable_django.activity
def hold(ctx: task.ActivityContext, gate: str) -> str:
    """Stand still outside any transaction."""
    places.stay(gate, ctx.orchestration_id)
    return f"through {gate}"


@durable_django.activity(local=True)
def hold_locally(ctx: task.ActivityContext, gate: str) -> str:
    """Stand still with the instance's row locked, and a row written that must be there once."""
    Group.objects.create(name=ctx.orchestration_id)
    places.stay(gate, ctx.orchestration_id)
    return f"through {gate}"


@durable_django.entity
class Tally(entities.DurableEntity):
    """What has been added, in order."""

    def __init__(self) -> None:
        self.set_state([])

    def add(self, item: str) -> int:
        """Add an item, and return how many there are."""
        state = [*self.get_state(), item]
        self.set_state(state)
        return len(state)

    def add_held(self, about: dict[str, str]) -> int:
        """Stand still with the entity's row locked, then add an item."""
        Group.objects.create(name=about["item"])
        places.stay(about["gate"], about["item"])
        return self.add(about["item"])


@durable_django.orchestrator
def errand(ctx: task.OrchestrationContext, gate: str) -> Steps:
    """Stand still in an activity."""
    result = yield ctx.call_activity(hold, input=gate)
    yield ctx.wait_for_external_event(GO_HOME)
    return result


@durable_django.orchestrator
def local_errand(ctx: task.OrchestrationContext, gate: str) -> Steps:
    """Stand still in a turn."""
    result = yield ctx.call_activity(hold_locally, input=gate)
    yield ctx.wait_for_external_event(GO_HOME)
    return result


@durable_django.orchestrator
def entity_errand(ctx: task.OrchestrationContext, gate: str) -> Steps:
    """Stand still in an entity's turn; return how many things its entity has been given."""
    tally = entities.EntityInstanceId("tally", ctx.instance_id)
    result = yield ctx.call_entity(tally, "add_held", {"gate": gate, "item": ctx.instance_id})
    yield ctx.wait_for_external_event(GO_HOME)
    return result


@durable_django.orchestrator
def count_up(ctx: task.OrchestrationContext, about: dict[str, Any]) -> Steps:
    """Add ``count`` items to an entity that many use, and signal as many others to it; return ``count``."""
    tally = entities.EntityInstanceId("tally", about["key"])
    for number in range(about["count"]):
        yield ctx.call_entity(tally, "add", f"{ctx.instance_id} call {number}")
        ctx.signal_entity(tally, "add", f"{ctx.instance_id} signal {number}")
    return about["count"]
