"""An order in the demo project's admin, from its start to its end."""

from __future__ import annotations

import json
import re

import pytest
from django.contrib.admin.models import LogEntry
from playwright.sync_api import Page, expect

from durable_django.client import DurableTaskClient
from durable_django.models import Instance, Message
from tests.browser.conftest import Visit
from tests.browser.places import INDEX, LIST, ORDER, expect_status, expect_waiting, instance_page

pytestmark = pytest.mark.django_db(transaction=True)

APPROVED = {"number": 7, "approved": True, "reason": "approved by Grace"}


def place_order(instance_id: str) -> None:
    DurableTaskClient().schedule_new_orchestration("approve_order", input=ORDER, instance_id=instance_id)


def start_in_the_form(page: Page, instance_id: str) -> None:
    page.goto(LIST)
    page.get_by_role("link", name="Start an orchestration").click()
    page.get_by_role("link", name="approve_order").click()
    box = page.get_by_label("Input")
    skeleton = json.loads(box.input_value())
    assert skeleton.keys() == ORDER.keys()
    box.fill(json.dumps(skeleton | ORDER))
    page.get_by_label("Instance id").fill(instance_id)
    page.get_by_role("button", name="Start approve_order").click()


def test_an_order_is_started_approved_and_finished(visit: Visit, worker: None) -> None:
    visitor = visit()
    page = visitor.page()
    start_in_the_form(page, "order-7")
    expect(page.get_by_text("The orchestration has been started.")).to_be_visible()
    page.evaluate("window.isTheSame = true")
    expect_waiting(page)
    assert json.loads(Instance.objects.get().input or "") == ORDER

    onlooker = visitor.page(instance_page("order-7"))
    onlooker.evaluate("window.isTheSame = true")
    expect_waiting(onlooker)

    page.get_by_role("link", name="Send an event").click()
    expect(page.get_by_label("Event")).to_have_value("approval")
    page.get_by_label("Data").fill('{"approver": ')
    page.get_by_role("button", name="Send an event").click()
    expect(page.locator(".errorlist")).to_contain_text("This is no JSON")
    expect(page.get_by_label("Data")).to_have_value('{"approver": ')
    assert not Message.objects.exists()
    assert not LogEntry.objects.filter(change_message__contains="approval").exists()

    page.get_by_label("Data").fill('{"approver": "Grace"}')
    page.get_by_role("button", name="Send an event").click()
    expect(page.get_by_text("The event has been sent.")).to_be_visible()
    for tab in (page, onlooker):
        expect_status(tab, "Completed")
        expect(tab.get_by_role("region", name="Output")).to_contain_text("approved by Grace")
        expect(tab.get_by_role("link", name="Send an event")).to_have_count(0)
    assert onlooker.evaluate("window.isTheSame"), "it has been loaded again"
    assert json.loads(Instance.objects.get().output or "") == APPROVED


def test_it_is_live_from_the_start(visit: Visit, worker: None) -> None:
    page = visit().page()
    start_in_the_form(page, "order-7")
    page.evaluate("window.isTheSame = true")
    expect_waiting(page)
    DurableTaskClient().raise_orchestration_event("order-7", "approval", data={"approver": "Grace"})
    expect_status(page, "Completed")
    assert page.evaluate("window.isTheSame"), "it has been loaded again"


def test_the_overview_is_live(visit: Visit, worker: None) -> None:
    page = visit().page(INDEX)
    page.evaluate("window.isTheSame = true")
    running = page.locator(".durable-counts li", has_text="Running")
    expect(running).to_have_text(re.compile(r"\b0$"))
    place_order("order-7")
    expect(running).to_have_text(re.compile(r"\b1$"))
    expect(page.get_by_role("region", name="Workers")).to_contain_text("alive")
    assert page.evaluate("window.isTheSame"), "it has been loaded again"


def test_it_works_without_scripts(visit: Visit, worker: None) -> None:
    place_order("order-7")
    page = visit(java_script_enabled=False).page(instance_page("order-7"))
    while page.get_by_text("waiting for event “approval”").count() == 0:
        page.reload()
    for part in ("State", "Timeline", "Input", "History"):
        expect(page.get_by_role("region", name=part)).to_be_visible()
    page.get_by_role("link", name="Send an event").click()
    page.get_by_label("Data").fill('{"approver": "Grace"}')
    page.get_by_role("button", name="Send an event").click()
    expect(page.get_by_text("The event has been sent.")).to_be_visible()
    while page.locator(".durable-state").get_by_text("Completed").count() == 0:
        page.reload()
    page.goto(LIST)
    expect(page.locator("#result_list")).to_contain_text("order-7")
    page.goto(INDEX)
    expect(page.get_by_role("region", name="Backlog")).to_contain_text("Activities to claim")
    expect(page.get_by_role("region", name="Ended within a day")).to_contain_text("1 ended")


def tab_to(page: Page, selector: str) -> None:
    """Press the tabulator until the element has the focus."""
    for _ in range(120):  # Django 6.1 puts the filters before the list
        page.keyboard.press("Tab")
        if page.locator(f"{selector}:focus").count():
            return
    pytest.fail(f"The tabulator never comes to {selector}.")


def test_the_keyboard_is_enough(visit: Visit, worker: None) -> None:
    place_order("order-7")
    page = visit().page(LIST)
    tab_to(page, f"a[href^='{instance_page('order-7')}']")
    page.keyboard.press("Enter")
    expect_waiting(page)
    tab_to(page, ".durable-buttons a[href$='/event/']")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Event")).to_have_value("approval")
    tab_to(page, "#id_data")
    page.keyboard.type('{"approver": "Grace"}')
    tab_to(page, "input[type=submit]")
    page.keyboard.press("Enter")
    expect_status(page, "Completed")
