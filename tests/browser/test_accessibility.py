"""What axe says about every page: in light, in dark, and on a telephone."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.browsing import axe_violations
from tests.browser.conftest import Visit
from tests.browser.places import INDEX, LIST, all_pages, instance_page
from tests.browser.rows import make_rows

pytestmark = pytest.mark.django_db(transaction=True)

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


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
