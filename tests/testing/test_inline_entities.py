"""Entities in drains: operations, locks, and signals whose time comes."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import Any

import pytest

from durable_django import entities, task
from durable_django.client import DurableTaskClient
from durable_django.core.registry import Registry
from durable_django.testing import Drained, DrainError, advance, drain, virtual_time

pytestmark = pytest.mark.django_db

Steps = Generator[Any, Any, Any]

START = datetime(2026, 3, 1, 12)
DAY = timedelta(days=1)
CLOCK = entities.EntityInstanceId("alarm", "clock")


class Alarm(entities.DurableEntity):
    def rings(self) -> int:
        return self.get_state(int, 0)

    def ring(self, again: bool = False) -> None:
        self.set_state(self.rings() + 1)
        if again:
            self.signal_entity(CLOCK, "ring", again)

    def ring_daily(self) -> None:
        self.set_state(self.rings() + 1)
        self.signal_entity(CLOCK, "ring_daily", signal_time=self.due())

    def due(self) -> datetime:
        return START + self.rings() * DAY


def snooze(ctx: task.OrchestrationContext, _: Any) -> Steps:
    with (yield ctx.lock_entities([CLOCK])):
        yield ctx.call_entity(CLOCK, "ring")
        return (yield ctx.call_entity(CLOCK, "rings"))


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.add_entity(Alarm)
    registry.add_orchestrator(snooze)
    return registry


@pytest.mark.parametrize("replay", [False, True])
def test_a_drain_performs_operations(registry: Registry, replay: bool) -> None:
    client = DurableTaskClient()
    instance_id = client.schedule_new_orchestration(snooze)
    done = drain(registry=registry, replay=replay)
    assert (done.turns, done.operations) == (4, 4)
    state = client.get_orchestration_state(instance_id)
    assert state is not None
    assert state.get_output() == 1
    assert drain(registry=registry) == Drained()


def test_signals_come_at_their_time(registry: Registry) -> None:
    client = DurableTaskClient()
    with virtual_time(START) as clock:
        client.signal_entity(CLOCK, "ring_daily")
        assert drain(registry=registry) == Drained(operations=1)
        assert advance(10 * DAY, registry=registry) == Drained(operations=10)
        assert clock.now == START + 10 * DAY
    found = client.get_entity(CLOCK)
    assert found is not None
    assert found.get_typed_state(int) == 11


def test_an_entity_that_signals_itself_for_ever(registry: Registry) -> None:
    DurableTaskClient().signal_entity(CLOCK, "ring", True)
    with pytest.raises(DrainError, match="50 operations, 51 of them of entity @alarm@clock"):
        drain(registry=registry, max_turns=50)
