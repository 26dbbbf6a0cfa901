"""Order approval as a durable workflow: an external event that races a timer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from durable_django import activity, orchestrator, task

APPROVED_AT_ONCE = Decimal(1000)
"""Orders below this amount need nobody's approval."""


@dataclass(frozen=True)
class Order:
    """An order, and how many seconds a human has to approve it if it is large."""

    number: int
    customer: str
    amount: Decimal
    patience: float = 24 * 3600.0


@dataclass(frozen=True)
class Approval:
    """What the external event ``approval`` brings."""

    approver: str


@dataclass(frozen=True)
class Decision:
    """What became of an order."""

    number: int
    approved: bool
    reason: str


@orchestrator
async def approve_order(ctx: task.OrchestrationContext, order: Order) -> Decision:
    """Approve a small order at once; wait for a human to approve a large one, but not for ever."""
    if order.amount < APPROVED_AT_ONCE:
        decision = Decision(order.number, True, "small enough")
    else:
        decision = await decide_by_human(ctx, order)
    await ctx.call_activity(tell_customer, input=decision)
    return decision


async def decide_by_human(ctx: task.OrchestrationContext, order: Order) -> Decision:
    """Let the event race the timer."""
    await ctx.call_activity(ask_for_approval, input=order)
    ctx.set_custom_status("waiting for approval")
    approval = ctx.wait_for_external_event("approval", data_type=Approval)
    timeout = ctx.create_timer(timedelta(seconds=order.patience))
    racers: list[task.Task[Any]] = [approval, timeout]
    winner = await task.when_any(racers)
    ctx.set_custom_status(None)
    if winner is timeout:
        return Decision(order.number, False, "nobody answered in time")
    timeout.cancel()
    return Decision(order.number, True, f"approved by {approval.get_result().approver}")


@activity
def ask_for_approval(_: task.ActivityContext, order: Order) -> str:
    """Ask a human. A real shop would send a mail with a link to a view that raises the event."""
    return f"Please approve order {order.number} by {order.customer}: {order.amount}"


@activity
def tell_customer(_: task.ActivityContext, decision: Decision) -> str:
    """Tell the customer."""
    outcome = "is on its way" if decision.approved else "was declined"
    return f"Your order {decision.number} {outcome}."
