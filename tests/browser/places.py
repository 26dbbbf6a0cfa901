"""The addresses of the admin, and what is there to be seen."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from playwright.sync_api import Page, expect

from durable_django.models import Entity, Instance, InstanceStatus, Worker

LIST = reverse("admin:durable_django_instance_changelist")
START = reverse("admin:durable_django_instance_start")
INDEX = reverse("admin:app_list", args=["durable_django"])
ENTITIES = reverse("admin:durable_django_entity_changelist")
WORKERS = reverse("admin:durable_django_worker_changelist")
ORDER: dict[str, Any] = {"number": 7, "customer": "Ada", "amount": "2500", "patience": 3600}


def instance_page(instance_id: str, page: str = "change", *rest: str) -> str:
    """Return the address of an instance's page."""
    pk = Instance.objects.values_list("pk", flat=True).get(instance_id=instance_id)
    return reverse(f"admin:durable_django_instance_{page}", args=[pk, *rest])


def entity_page(name: str, page: str = "change", **which: str) -> str:
    """Return the address of an entity's page; of several of that name, say which."""
    pk = Entity.objects.values_list("pk", flat=True).get(name=name, **which)
    return reverse(f"admin:durable_django_entity_{page}", args=[pk])


def worker_page(page: str = "change") -> str:
    """Return the address of the first worker's page."""
    pk = Worker.objects.order_by("pk").values_list("pk", flat=True)[0]
    return reverse(f"admin:durable_django_worker_{page}", args=[pk])


def start_form(name: str) -> str:
    """Return the address of the form that starts an orchestration."""
    return reverse("admin:durable_django_instance_start_one", args=[name])


def all_pages() -> list[str]:
    """Return the address of every page, with the rows of `tests.browser.rows`."""
    return [
        INDEX,
        LIST,
        *(instance_page(status.name.lower()) for status in InstanceStatus),
        START,
        start_form("approve_order"),
        instance_page("running", "event"),
        instance_page("running", "act", "terminate"),
        ENTITIES,
        entity_page("stock"),
        entity_page("stock", "signal"),
        entity_page("stock", "clear"),
        WORKERS,
        worker_page(),
        worker_page("drain"),
    ]


def expect_status(page: Page, status: str) -> None:
    """Wait until an instance's page shows this status."""
    expect(page.locator(".durable-state .durable-badge")).to_have_text(status)


def expect_waiting(page: Page) -> None:
    """Wait until an order's page says that it waits for its approval."""
    expect(page.get_by_text("waiting for event “approval”")).to_be_visible()
