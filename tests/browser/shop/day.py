"""An ordinary day: orders, deliveries and what goes wrong, spread over the last 24 hours."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from django.db.models import F

from durable_django.client import DurableTaskClient
from durable_django.entities import EntityInstanceId
from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus, Timer, Worker
from durable_django.store import clock
from tests.browser.shop import workflows

TEAS = ("assam", "ceylon", "darjeeling", "earl-grey", "genmaicha", "lapsang-souchong", "sencha")
CUSTOMERS = ("Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Grace", "Katherine", "Ken", "Margaret")
RUNNING, FAILED, FINISHED = "order-10482", "prices-himalaya-2026-11", "order-10477"

_SECONDS = 90.0
_TERMINAL = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)


def live_through() -> None:
    """Have a day of work done by the workers, which must be running."""
    client, dice = DurableTaskClient(), random.Random(7)
    for number, tea in enumerate(TEAS):
        client.signal_entity(EntityInstanceId("stock", tea), "fill", 120 + 35 * number)
    _wait_for_stocks(client)
    past = _past(client, dice)
    _wait(lambda: Instance.objects.filter(pk__in=_keys(past), status__in=_TERMINAL).count() == len(past))
    for instance_id, age in past.items():
        _move(instance_id, age)
    _recent(client)
    _wait(
        lambda: Instance.objects.filter(instance_id__in=[FAILED, FINISHED], status__in=_TERMINAL).count() == 2
    )
    _wait(lambda: ActivityTask.objects.filter(name__in=["pack_parcel", "count_shelves"]).count() == 2)
    _wait(lambda: Timer.objects.count() >= 5)
    _wait(lambda: Instance.objects.filter(instance_id=RUNNING, waiting_for__isnull=False).exists())
    _steer(client)
    _age()
    _rename_places()


def _past(client: DurableTaskClient, dice: random.Random) -> dict[str, timedelta]:
    """Start what has ended by now, and return how long ago that was."""
    started = {}
    for number in range(46):
        # More by day than by night.
        hours = min(23.8, abs(dice.gauss(6, 6)) + 0.2)
        order = _order(10420 + number, dice)
        started[_place(client, order)] = timedelta(hours=hours)
    for place, supplier in enumerate(("ceylon-direct", "uji", "assam-valley")):
        instance_id = f"prices-{supplier}-2026-11"
        client.schedule_new_orchestration("import_prices", input=supplier, instance_id=instance_id)
        started[instance_id] = timedelta(hours=4 + 5 * place)
    client.schedule_new_orchestration("send_newsletter", input=40, instance_id="newsletter-47")
    started["newsletter-47"] = timedelta(hours=9)
    return started


def _recent(client: DurableTaskClient) -> None:
    """Start what is shown in full, and what is still under way."""
    finished = {"number": 10477, "customer": "Margaret", "tea": "darjeeling", "packets": 3, "bank": "slow"}
    client.schedule_new_orchestration(
        "fulfil_order", input=finished, instance_id=FINISHED, tags={"customer": "Margaret", "channel": "web"}
    )
    client.schedule_new_orchestration(
        "import_prices", input="himalaya", instance_id=FAILED, tags={"supplier": "himalaya"}
    )
    large = {
        "number": 10482,
        "customer": "Katherine",
        "tea": "sencha",
        "packets": 48,
        "bank": "slow",
        "is_large": True,
    }
    client.schedule_new_orchestration(
        "fulfil_order", input=large, instance_id=RUNNING, tags={"customer": "Katherine", "channel": "trade"}
    )
    for number, tea in ((10474, "assam"), (10479, "ceylon"), (10481, "genmaicha")):
        lost = {"number": number, "customer": "Frances", "tea": tea, "packets": 2, "is_lost": True}
        client.schedule_new_orchestration("fulfil_order", input=lost, instance_id=f"order-{number}")
    client.schedule_new_orchestration("take_stock", input="earl-grey", instance_id="stocktaking-earl-grey")
    waiting = {"number": 10483, "customer": "Ken", "tea": "earl-grey", "packets": 1}
    client.schedule_new_orchestration("fulfil_order", input=waiting, instance_id="order-10483")
    for customer in ("ada", "alan", "barbara", "grace"):
        client.schedule_new_orchestration(
            "remind_customer", input=customer, instance_id=f"reminder-{customer}"
        )
    tomorrow = clock.now() + timedelta(hours=14)
    client.schedule_new_orchestration(
        "send_newsletter", input=40, instance_id="newsletter-48", start_at=tomorrow
    )


def _steer(client: DurableTaskClient) -> None:
    client.terminate_orchestration("reminder-alan", output="unsubscribed")
    client.suspend_orchestration("reminder-barbara")
    client.suspend_orchestration("order-10474")


def _order(number: int, dice: random.Random) -> dict[str, object]:
    return {
        "number": number,
        "customer": dice.choice(CUSTOMERS),
        "tea": dice.choice(TEAS),
        "packets": dice.randint(1, 4),
    }


def _place(client: DurableTaskClient, order: dict[str, object]) -> str:
    tags = {"customer": str(order["customer"]), "channel": "web"}
    return client.schedule_new_orchestration(
        "fulfil_order", input=order, instance_id=f"order-{order['number']}", tags=tags
    )


def _keys(instance_ids: dict[str, timedelta]) -> list[int]:
    return list(Instance.objects.filter(instance_id__in=instance_ids).values_list("pk", flat=True))


def _age() -> None:
    """Make older what is under way."""
    for instance_id, minutes in (
        (RUNNING, 160),
        ("order-10474", 305),
        ("order-10479", 215),
        ("order-10481", 173),
        ("stocktaking-earl-grey", 38),
        ("reminder-ada", 1150),
        ("reminder-alan", 900),
        ("reminder-barbara", 700),
        ("reminder-grace", 520),
    ):
        Instance.objects.filter(instance_id=instance_id).update(
            created_at=F("created_at") - timedelta(minutes=minutes)
        )


def _move(instance_id: str, age: timedelta) -> None:
    """Move an instance and its children into the past."""
    for instance in Instance.objects.filter(instance_id__startswith=instance_id):
        for name in ("created_at", "start_at", "completed_at", "last_updated_at"):
            setattr(instance, name, getattr(instance, name) - age)
        instance.save()
        HistoryEvent.objects.filter(instance=instance).update(timestamp=F("timestamp") - age)


def _rename_places() -> None:
    """Name files and hosts as a shop's own, not as those of whoever takes the pictures."""
    here, there = str(Path(workflows.__file__).parent), "/srv/shop"
    for instance in Instance.objects.filter(failure__contains=here):
        instance.failure = (instance.failure or "").replace(here, there)
        instance.save(update_fields=["failure"])
    for event in HistoryEvent.objects.filter(attributes__contains=here):
        event.attributes = (event.attributes or "").replace(here, there)
        event.save(update_fields=["attributes"])
    for number, worker in enumerate(Worker.objects.order_by("name"), start=1):
        Worker.objects.filter(pk=worker.pk).update(host=f"app-{number}.shop.example", pid=40 + number)


def _wait_for_stocks(client: DurableTaskClient) -> None:
    _wait(lambda: len(client.get_all_entities()) == len(TEAS))


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("The workers do not get there.")
        time.sleep(0.1)
