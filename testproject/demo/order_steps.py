"""Orders from a CSV file: most are small, one large one is approved, another one is forgotten."""

from __future__ import annotations

import csv
import time
from decimal import Decimal
from pathlib import Path

from django.core.management.base import CommandError
from django.db import transaction

from durable_django.client import DurableTaskClient
from testproject import orders
from testproject.demo.report import Step
from testproject.demo.screen import Screen
from testproject.demo.workers import WorkerProcess
from testproject.orders.workflows import APPROVED_AT_ONCE, Approval, Decision, Order, approve_order

_CSV = Path(orders.__file__).with_name("orders.csv")
_PATIENCE_SECONDS = 3.0
_LONGEST_SECONDS = 60.0


def run(screen: Screen, worker: WorkerProcess) -> Step:
    """Have all orders decided, and check the decisions."""
    step = Step("orders")
    client = DurableTaskClient()
    placed = read_orders(_CSV)
    with transaction.atomic():  # All orchestrations start, or none.
        ids = {
            order.number: client.schedule_new_orchestration(approve_order, input=order) for order in placed
        }
    approved, forgotten = (order for order in placed if order.amount >= APPROVED_AT_ONCE)
    for order in (approved, forgotten):
        _wait_until_asked(client, worker, ids[order.number])
        screen.line(
            f"order {order.number} over {order.amount} waits for approval, {order.patience:g} s at most"
        )
    client.raise_orchestration_event(ids[approved.number], "approval", data=Approval("Margaret Hamilton"))
    screen.line(f"order {approved.number} gets it; nobody looks at order {forgotten.number}")

    decisions = {}
    for order in placed:
        state = client.wait_for_orchestration_completion(ids[order.number], timeout=_LONGEST_SECONDS)
        state.raise_if_failed()
        decisions[order.number] = state.get_output(Decision)
    screen.line()
    _show(screen, placed, decisions)
    screen.line()
    expected = {order.number: Decision(order.number, True, "small enough") for order in placed}
    expected[approved.number] = Decision(approved.number, True, "approved by Margaret Hamilton")
    expected[forgotten.number] = Decision(forgotten.number, False, "nobody answered in time")
    step.check(
        screen, decisions == expected, "small orders and the approved one go out, the forgotten one not"
    )
    step.end(f"{len(placed)} orders, 1 approved by an event, 1 timed out")
    return step


def read_orders(path: Path) -> list[Order]:
    """Read the orders from a CSV file."""
    with path.open(newline="") as file:
        return [
            Order(int(row["number"]), row["customer"], Decimal(row["amount"]), _PATIENCE_SECONDS)
            for row in csv.DictReader(file)
        ]


def _wait_until_asked(client: DurableTaskClient, worker: WorkerProcess, instance_id: str) -> None:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < deadline:
        state = client.get_orchestration_state(instance_id)
        if state is not None and state.serialized_custom_status is not None:
            return
        worker.check()
        time.sleep(0.02)
    raise CommandError(f"Nobody is asked about an order. The worker's log:\n{worker.last_words()}")


def _show(screen: Screen, placed: list[Order], decisions: dict[int, Decision | None]) -> None:
    rows = []
    for order in placed:
        decision = decisions[order.number]
        outcome = "approved" if decision and decision.approved else "declined"
        reason = decision.reason if decision else ""
        rows.append([str(order.number), order.customer, f"{order.amount:,.2f}", outcome, reason])
    screen.table(["order", "customer", "amount", "outcome", "because"], rows, right=[2])
