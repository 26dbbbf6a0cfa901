"""The admin under django-unfold, whose templates and admin site replace Django's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from durable_django.models import Message
from tests.browser.conftest import Visit
from tests.browser.places import INDEX, LIST, all_pages, entity_page, expect_status, instance_page
from tests.browser.processes import server_process
from tests.browser.rows import make_rows

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.browser.unfold_settings"}


@pytest.fixture
def unfold(command_environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """A server in a process of its own: its settings are others."""
    with server_process(command_environment | SETTINGS, tmp_path / "server.log") as address:
        yield address


def test_every_page_is_there(visit: Visit, unfold: str) -> None:
    make_rows()
    page = visit(server=unfold).page()
    for path in all_pages():
        response = page.goto(path)
        assert response is not None
        assert response.status == 200, path
        # This is how we know that these are its pages.
        assert page.locator("link[href*='unfold/']").count(), path
        assert page.locator("#content, main, #main").first.inner_text().strip(), path


def test_pages_show_what_they_have(visit: Visit, unfold: str) -> None:
    make_rows()
    page = visit(server=unfold).page(INDEX)
    expect(page.get_by_role("region", name="Now")).to_contain_text("Running")
    expect(page.get_by_role("region", name="Workers")).to_contain_text("silent for")
    page.goto(LIST)
    expect(page.get_by_role("link", name="Start an orchestration")).to_be_visible()
    expect(page.locator("#result_list")).to_contain_text("suspended")
    page.goto(instance_page("failed"))
    expect_status(page, "Failed")
    expect(page.get_by_role("region", name="Failure")).to_contain_text("shop/payments.py")
    for name in ("Rewind", "Restart", "Purge"):
        expect(page.get_by_role("link", name=name)).to_be_visible()
    page.goto(entity_page("stock"))
    expect(page.locator("body")).to_contain_text('"left": 3')
    for name in ("Send an operation", "Delete"):
        expect(page.get_by_role("link", name=name)).to_be_visible()


def test_forms_work(visit: Visit, unfold: str) -> None:
    make_rows()
    page = visit(server=unfold).page(LIST)
    page.get_by_role("link", name="Start an orchestration").click()
    page.get_by_role("link", name="approve_order").click()
    expect(page.get_by_label("Input")).to_have_value(re.compile('"customer"'))
    page.get_by_label("Instance id").fill("order-7")
    page.get_by_role("button", name="Start approve_order").click()
    expect_status(page, "Pending")

    page.goto(instance_page("running"))
    page.get_by_role("link", name="Send an event").click()
    page.get_by_label("Data").fill("{")
    page.get_by_role("button", name="Send an event").click()
    expect(page.get_by_text("This is no JSON")).to_be_visible()
    page.get_by_label("Data").fill('{"approver": "Grace"}')
    page.get_by_role("button", name="Send an event").click()
    expect_status(page, "Running")
    assert Message.objects.get().name == "approval"


def test_several_are_terminated(visit: Visit, unfold: str) -> None:
    make_rows()
    page = visit(server=unfold).page(LIST)
    for name in ("pending", "suspended"):
        page.locator("#result_list tr", has_text=name).locator("input.action-select").check()
    page.locator("select[name=action]").select_option("Terminate")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_text("This is done to 2 instances:")).to_be_visible()
    page.get_by_role("button", name="Terminate").click()
    expect(page.get_by_text("Terminate: 2 done.")).to_be_visible()
