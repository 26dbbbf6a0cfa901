"""The demo's orchestrations come to the same results, whoever runs their activities."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from durable_django.client import DurableTaskClient
from durable_django.history import TaskCompletedEvent, TaskScheduledEvent
from testproject.census.counting import Counts, count, source_files, total
from testproject.census.workflows import Census, source_census
from testproject.orders.workflows import Approval, Decision, Order, approve_order
from tests.engines.engines import ENGINES, QUEUE, Site, built

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

FOLDER = Path(__file__).parents[2] / "durable_django" / "core"
FILES = 30


@pytest.mark.parametrize("engine", ENGINES)
def test_orders_and_census(engine: str, site: Callable[..., Site]) -> None:
    with built(engine, site()) as house:
        try:
            check_orders()
            check_census(engine)
        except AssertionError as error:
            raise AssertionError(house.log()) from error


def check_orders() -> None:
    client = DurableTaskClient()
    orders = [
        Order(1, "Ada", Decimal("49.90")),
        Order(2, "Charles", Decimal(12_500), patience=60),
        Order(3, "Grace", Decimal(5_000), patience=2),
    ]
    ids = [client.schedule_new_orchestration(approve_order, input=order, queue=QUEUE) for order in orders]
    wait_until_asked(client, ids[1])
    client.raise_orchestration_event(ids[1], "approval", data=Approval("Margaret"))
    states = [client.wait_for_orchestration_completion(instance_id, timeout=60) for instance_id in ids]
    assert [state.get_output(Decision) for state in states] == [
        Decision(1, True, "small enough"),
        Decision(2, True, "approved by Margaret"),
        Decision(3, False, "nobody answered in time"),
    ]


def wait_until_asked(client: DurableTaskClient, instance_id: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        state = client.get_orchestration_state(instance_id)
        assert state is not None
        if state.get_custom_status() == "waiting for approval":
            return
        assert time.monotonic() < deadline, state
        time.sleep(0.02)


def check_census(engine: str) -> None:
    client = DurableTaskClient()
    census = Census(str(FOLDER), limit=FILES)
    instance_id = client.schedule_new_orchestration(source_census, input=census, queue=QUEUE)
    state = client.wait_for_orchestration_completion(instance_id, timeout=90)
    assert state.get_output(Counts) == total(count(FOLDER / path) for path in source_files(FOLDER)[:FILES])
    history = client.get_orchestration_history(instance_id)
    done = [event for event in history if isinstance(event, TaskCompletedEvent)]
    scheduled = [event for event in history if isinstance(event, TaskScheduledEvent)]
    assert sorted(event.task_scheduled_id for event in done) == sorted(event.event_id for event in scheduled)
    # The workers' own names are random; an engine's begin with what it is.
    names = {str(event.worker).partition("@")[0] for event in done}
    assert (names == {engine.partition(" ")[0]}) is (engine != "in process"), names
