"""What axe says about every page: in light, in dark, and on a telephone."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.models import Entity, Instance, InstanceStatus, Worker
from durable_django.store import clock
from tests import factories
from tests.browser.browsing import axe_violations
from tests.browser.conftest import Visit
from tests.browser.places import ENTITIES, INDEX, LIST, START, WORKERS, entity_page, instance_page, start_form
from tests.factories import NOW

pytestmark = pytest.mark.django_db(transaction=True)

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
STACK = 'Traceback (most recent call last):\n  File "shop/payments.py", line 41, in charge\n    raise Refused'
FAILURE = FailureDetails("the card was refused", "shop.payments.Refused", STACK)


def make_rows() -> None:
    present = clock.aware(clock.now())
    for status in InstanceStatus:
        make_instance(status)
    running = Instance.objects.get(instance_id="running")
    factories.make_child(running, "running-child-with-a-very-long-id-that-does-not-fit-anywhere" * 3, 4)
    factories.make_timer(running, 3)
    factories.make_activity(running, 2, name="pack_parcel", lease_token=1, visible_at=present)
    Entity.objects.create(
        name="stock",
        key="7",
        state=json.dumps({"left": 3}),
        lock_instance=running,
        last_modified_at=present,
    )
    for number, silent in enumerate((0, 3600)):
        Worker.objects.create(
            identity=str(number),
            name=f"press-{number}",
            host="here",
            pid=number,
            started_at=present,
            last_heartbeat_at=clock.aware(clock.now()) - timedelta(seconds=silent),
        )


def make_instance(status: InstanceStatus) -> None:
    """Make an instance that has something of everything."""
    has_failed, has_completed = status == InstanceStatus.FAILED, status == InstanceStatus.COMPLETED
    is_live = status in (InstanceStatus.RUNNING, InstanceStatus.SUSPENDED)
    instance = factories.make_instance(
        status.name.lower(),
        status,
        input=json.dumps({"customer": "Ada", "note": "x" * 500}),
        output=json.dumps({"sum": 12}) if has_completed else None,
        custom_status=json.dumps("packing"),
        tags={"customer": "Ada"},
        waiting_for=["approval"] if is_live else [],
        failure=json.dumps(FAILURE.to_dict()) if has_failed else None,
        completed_at=None if is_live or status == InstanceStatus.PENDING else clock.aware(clock.now()),
    )
    if status == InstanceStatus.PENDING:
        return
    soon, later = NOW + timedelta(seconds=5), NOW + timedelta(seconds=20)
    factories.add_history(
        instance,
        events.TaskScheduledEvent(1, NOW, "charge_card", input="1"),
        events.TaskCompletedEvent(-1, later, 1, "2", started_at=soon, finished_at=later),
        events.TaskScheduledEvent(2, NOW, "pack_parcel"),
        events.TimerCreatedEvent(3, NOW, later),
        events.SubOrchestrationInstanceCreatedEvent(4, NOW, "deliver", "deliver"),
        events.EventRaisedEvent(-1, later, "approval", json.dumps({"by": "Grace"})),
    )
    if has_failed:
        factories.add_history(instance, events.TaskFailedEvent(-1, later, 2, FAILURE))
        factories.fail(instance, failed_by=[instance.next_sequence - 1])


def all_pages() -> list[str]:
    """Return the address of every page."""
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
    ]


def confirm_selected(page: Page) -> None:
    """Come to the page that confirms what is done to several."""
    page.goto(LIST)
    for box in page.locator("input.action-select").all():
        box.check()
    page.locator("select[name=action]").select_option("Terminate")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("button", name="Terminate")).to_be_visible()


@pytest.mark.parametrize("look", LOOKS)
def test_pages_are_accessible(visit: Visit, look: str) -> None:
    make_rows()
    # axe puts styles into the page for a while, which the policy forbids.
    page = visit(bypass_csp=True, **LOOKS[look]).page()
    found = {path: faults for path in all_pages() if (page.goto(path), faults := axe_violations(page))[1]}
    confirm_selected(page)
    if faults := axe_violations(page):
        found["the confirmation"] = faults
    page.goto(instance_page("running", "event"))
    page.get_by_label("Data").fill("{")
    page.get_by_role("button", name="Send an event").click()
    expect(page.locator(".errorlist")).to_be_visible()
    if faults := axe_violations(page):
        found["a form with errors"] = faults
    assert not found, "\n\n".join("\n".join([path, *faults]) for path, faults in found.items())


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_page_is_wider_than_its_window(visit: Visit, width: int) -> None:
    make_rows()
    page = visit(viewport={"width": width, "height": 844}).page()
    for path in all_pages():
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_a_fault_would_be_seen(visit: Visit) -> None:
    page = visit(bypass_csp=True).page(INDEX)
    page.evaluate("document.querySelector('#content').append(new Image(9, 9))")
    assert [fault for fault in axe_violations(page) if "image-alt" in fault]
