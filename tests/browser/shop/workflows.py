"""What the shop does all day."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from datetime import timedelta
from typing import Any

from durable_django import activity, entities, entity, orchestrator, task

Steps = Generator[task.Task[Any], Any, Any]

RETRY = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=400), max_number_of_attempts=5)
PRICES = "tea;price\nassam;8.20\ndarjeeling;12,9O\n"
_FOR_LONG = 3600.0
_heard_of: set[int] = set()


@orchestrator
def fulfil_order(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Steps:
    """Reserve, charge, pack and deliver; large orders wait for somebody's approval."""
    stock = entities.EntityInstanceId("stock", order["tea"])
    ctx.set_custom_status("reserving")
    left = yield ctx.call_entity(stock, "reserve", order["packets"])
    ctx.set_custom_status("charging the card")
    receipt = yield ctx.call_activity(charge_card, input=order, retry_policy=RETRY)
    invoice = ctx.call_activity(write_invoice, input=receipt)
    if order.get("is_large"):
        ctx.set_custom_status("waiting for approval")
        packed = ctx.call_activity(pack_parcel, input=order)
        patience = ctx.create_timer(timedelta(hours=21, minutes=20))
        yield task.when_any([ctx.wait_for_external_event("approval"), patience])
        yield packed
    ctx.set_custom_status("on its way")
    parcel = ctx.call_sub_orchestrator(deliver_parcel, input=order, instance_id=f"{ctx.instance_id}-parcel")
    yield task.when_all([parcel, invoice])
    ctx.set_custom_status("done")
    return {
        "receipt": receipt,
        "invoice": invoice.get_result(),
        "delivered_by": parcel.get_result(),
        "left_in_stock": left,
    }


@orchestrator
def deliver_parcel(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Steps:
    """Hand a parcel over, and wait until it is there."""
    yield ctx.call_activity(book_courier, input=order)
    if order.get("is_lost"):
        yield ctx.wait_for_external_event("delivered")
    yield ctx.create_timer(timedelta(milliseconds=700))
    return (yield ctx.call_activity(confirm_delivery, input=order))


@orchestrator
def import_prices(ctx: task.OrchestrationContext, supplier: str) -> Steps:
    """Read a supplier's list of prices."""
    text = yield ctx.call_activity(fetch_prices, input=supplier)
    return (yield ctx.call_activity(store_prices, input=text))


@orchestrator
def take_stock(ctx: task.OrchestrationContext, tea: str) -> Steps:
    """Count what is there, while nobody takes any away."""
    with (yield ctx.lock_entities([entities.EntityInstanceId("stock", tea)])):
        return (yield ctx.call_activity(count_shelves, input=tea))


@orchestrator
def remind_customer(ctx: task.OrchestrationContext, customer: str) -> Steps:
    """Ask a customer how the tea was, some days later."""
    yield ctx.create_timer(timedelta(days=3))
    return (yield ctx.call_activity(send_mail, input=customer))


@orchestrator
def send_newsletter(ctx: task.OrchestrationContext, customers: int) -> Steps:
    """Write to everybody."""
    return sum((yield task.when_all([ctx.call_activity(send_mail, input=str(n)) for n in range(customers)])))


# ------------------------------------------------------------------------------------- what is done


@activity
def charge_card(_: task.ActivityContext, order: dict[str, Any]) -> str:
    """Charge a card. Customers of a slow bank need some patience."""
    _take(0.1, 0.5)
    if order.get("bank") == "slow" and order["number"] not in _heard_of:
        _heard_of.add(order["number"])
        raise TimeoutError("the bank does not answer")
    return f"R-{order['number']}"


@activity
def write_invoice(_: task.ActivityContext, receipt: str) -> str:
    """Write an invoice."""
    _take(0.3, 0.9)
    return receipt.replace("R", "I")


@activity
def pack_parcel(_: task.ActivityContext, order: dict[str, Any]) -> None:
    """Pack a large parcel, which takes its time."""
    time.sleep(_FOR_LONG)


@activity
def book_courier(_: task.ActivityContext, order: dict[str, Any]) -> str:
    """Ask a courier to come."""
    _take(0.2, 0.6)
    return "booked"


@activity
def confirm_delivery(_: task.ActivityContext, order: dict[str, Any]) -> str:
    """Note that the parcel is there."""
    _take(0.1, 0.3)
    return "cargo bike"


@activity
def count_shelves(_: task.ActivityContext, tea: str) -> int:
    """Count the packets on the shelves."""
    time.sleep(_FOR_LONG)
    return 0


@activity
def send_mail(_: task.ActivityContext, customer: str) -> int:
    """Send a mail."""
    _take(0.02, 0.1)
    return 1


@activity
def fetch_prices(_: task.ActivityContext, supplier: str) -> str:
    """Fetch the list."""
    _take(0.1, 0.4)
    return PRICES


@activity
def store_prices(_: task.ActivityContext, text: str) -> dict[str, float]:
    """Read the list and keep it."""
    _take(0.1, 0.2)
    return dict(read_row(number, row) for number, row in enumerate(text.splitlines()[1:], start=2))


def read_row(number: int, row: str) -> tuple[str, float]:
    """Read one line of a list of prices."""
    tea, price = row.split(";")
    try:
        return tea, float(price)
    except ValueError as error:
        raise ValueError(f"line {number}: the price of {tea} is {price!r}") from error


def _take(least: float, most: float) -> None:
    time.sleep(random.uniform(least, most))


@entity
class Stock(entities.DurableEntity):
    """How many packets of a tea there are."""

    def fill(self, packets: int) -> None:
        """Put packets on the shelf."""
        self.set_state({"on_shelf": packets, "reserved": 0})

    def reserve(self, packets: int) -> int:
        """Reserve packets, and return how many are left."""
        state = self.get_state()
        state = {"on_shelf": state["on_shelf"] - packets, "reserved": state["reserved"] + packets}
        self.set_state(state)
        return int(state["on_shelf"])
