"""What operators do to instances, in the browser; and what others cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from playwright.sync_api import Page, expect

from durable_django.client import DurableTaskClient
from durable_django.client.steering import ACTIONS
from durable_django.models import Entity, Instance, InstanceStatus
from durable_django.store import clock
from tests import factories
from tests.browser.browsing import make_user
from tests.browser.conftest import Visit
from tests.browser.places import (
    ENTITIES,
    INDEX,
    LIST,
    ORDER,
    START,
    WORKERS,
    entity_page,
    expect_status,
    expect_waiting,
    instance_page,
    start_form,
)

pytestmark = pytest.mark.django_db(transaction=True)


def place_orders(*instance_ids: str) -> None:
    for instance_id in instance_ids:
        DurableTaskClient().schedule_new_orchestration("approve_order", input=ORDER, instance_id=instance_id)


def do(page: Page, action: str, reason: str) -> None:
    """Press a button of an instance's page, and confirm."""
    page.get_by_role("link", name=action, exact=True).click()
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name=action, exact=True).click()
    expect(page.get_by_text(f"{action}: 1 done.")).to_be_visible()


def test_a_running_one_is_terminated(visit: Visit, worker: None) -> None:
    place_orders("order")
    page = visit().page(instance_page("order"))
    expect_waiting(page)
    page.get_by_role("link", name="Terminate", exact=True).click()
    page.get_by_label("Output").fill('{"by": "me"}')
    page.get_by_label("Reason").fill("out of stock")
    page.get_by_role("button", name="Terminate", exact=True).click()
    expect_status(page, "Terminated")
    expect(page.get_by_role("region", name="Output")).to_contain_text('"by": "me"')
    expect(page.get_by_role("link", name="Terminate", exact=True)).to_have_count(0)
    expect(page.get_by_role("link", name="Restart", exact=True)).to_be_visible()
    assert "out of stock" in LogEntry.objects.get().change_message


def test_one_is_suspended_and_resumed(visit: Visit, worker: None) -> None:
    place_orders("order")
    page = visit().page(instance_page("order"))
    expect_waiting(page)
    do(page, "Suspend", "stocktaking")
    expect_status(page, "Suspended")
    DurableTaskClient().raise_orchestration_event("order", "approval", data={"approver": "Grace"})
    page.reload()
    expect_status(page, "Suspended")
    do(page, "Resume", "all counted")
    expect_status(page, "Completed")


def test_a_failed_one_is_rewound_to_success(visit: Visit, worker: None, tmp_path: Path) -> None:
    terminal = tmp_path / "terminal"
    DurableTaskClient().schedule_new_orchestration("charge_card", input=str(terminal), instance_id="charge")
    page = visit().page(instance_page("charge"))
    expect_status(page, "Failed")
    failure = page.get_by_role("region", name="Failure")
    expect(failure).to_contain_text("the terminal does not answer")
    expect(failure.get_by_text("raise ConnectionError")).to_be_visible()
    terminal.touch()
    do(page, "Rewind", "it has been mended")
    expect_status(page, "Completed")
    expect(page.get_by_role("region", name="Output")).to_contain_text("charged")
    expect(failure).to_have_count(0)


def test_the_selected_are_suspended_once_that_is_confirmed(visit: Visit, worker: None) -> None:
    place_orders("first", "second", "third")
    factories.make_instance("done", InstanceStatus.COMPLETED, name="approve_order")
    visitor = visit()
    for name in ("first", "second", "third"):
        expect_waiting(visitor.page(instance_page(name)))
    page = visitor.page(LIST)
    for name in ("first", "third", "done"):
        page.get_by_role("row", name=name).get_by_role("checkbox").check()
    expect(page.locator(".action-counter")).to_have_text("3 of 4 selected")
    page.locator("select[name=action]").select_option("Suspend")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_text("This is done to 2 instances:")).to_be_visible()
    expect(page.locator("main li, #content li").get_by_text("first", exact=True)).to_be_visible()
    expect(page.get_by_text("1 other is in a status that does not allow it.")).to_be_visible()
    assert not Instance.objects.filter(status=InstanceStatus.SUSPENDED).exists()
    page.get_by_label("Reason").fill("stocktaking")
    page.get_by_role("button", name="Suspend").click()
    expect(page.get_by_text("Suspend: 2 done.")).to_be_visible()
    for name, status in (("first", "Suspended"), ("second", "Running"), ("third", "Suspended")):
        expect(page.get_by_role("row", name=name)).to_contain_text(status)


def test_those_without_permissions_only_look_on(visit: Visit) -> None:
    running = factories.make_instance("running", waiting_for=["approval"])
    factories.make_instance("failed", InstanceStatus.FAILED)
    Entity.objects.create(name="stock", key="7", state="1", last_modified_at=clock.aware(clock.now()))
    visitor = visit(make_user("view_instance", "view_entity", "view_worker"))
    page = visitor.page()
    for path, shown in (
        (INDEX, "Backlog"),
        (LIST, "running"),
        (instance_page("running"), "waiting for event"),
        (instance_page("failed"), "it broke"),
        (ENTITIES, "stock"),
        (entity_page("stock"), "stock"),
        (WORKERS, "0 workers"),
    ):
        page.goto(path)
        expect(page.locator("#content")).to_contain_text(shown)
        expect(page.locator(".durable-buttons a, .addlink, .actions, .submit-row input")).to_have_count(0)
    visitor.expected = ("403",)
    forbidden = [START, start_form("approve_order"), instance_page("running", "event")]
    forbidden += [instance_page("running", "act", action) for action in ACTIONS]
    forbidden += [entity_page("stock", "signal"), entity_page("stock", "clear")]
    forbidden.append(reverse("admin:durable_django_instance_add"))
    for path in forbidden:
        response = page.goto(path)
        assert response is not None
        assert response.status == 403, path
    running.refresh_from_db()
    assert running.status == InstanceStatus.RUNNING


def test_the_buttons_are_those_of_the_permissions(visit: Visit) -> None:
    factories.make_instance("running", waiting_for=["approval"])
    page = visit(make_user("view_instance", "terminate")).page(instance_page("running"))
    expect(page.locator(".durable-buttons a")).to_have_text(["Terminate"])


def test_whoever_sees_nothing_is_turned_away(visit: Visit) -> None:
    factories.make_instance("running", input=json.dumps("secret"))
    visitor = visit(make_user())
    visitor.expected = ("403",)
    page = visitor.page()
    for path in (LIST, instance_page("running"), instance_page("running", "payload", "input")):
        response = page.goto(path)
        assert response is not None
        assert response.status == 403
        expect(page.get_by_text("secret")).to_have_count(0)
