"""Takes the pictures of the admin: ``python -m tests.browser.screenshots [directory]``."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.core.management import call_command

if TYPE_CHECKING:
    from playwright.sync_api import Page

DIRECTORY = Path(__file__).parents[2] / "docs" / "images"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1360, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1360, "height": 800}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
_HIGHEST = {"light": 1100, "dark": 1100, "narrow": 1500}


def main() -> None:
    """Live through a day, and take a picture of each page in each look."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright keeps an event loop in this thread.
    django.setup()
    call_command("migrate", verbosity=0)

    from tests.browser.processes import server_process, worker_process
    from tests.browser.shop import day

    environment = dict(os.environ)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("worker-1", "worker-2"):
            stack.enter_context(worker_process(environment, logs / name, name))
        server = stack.enter_context(server_process(environment, logs / "server"))
        day.live_through()
        take_all(server, directory)


def take_all(server: str, directory: Path) -> None:
    """Take all pictures."""
    from django.contrib.auth.models import User
    from playwright.sync_api import sync_playwright

    from tests.browser import chromium
    from tests.browser.browsing import Visitor
    from tests.browser.places import INDEX, LIST, entity_page, instance_page
    from tests.browser.shop import day

    user = User.objects.create_superuser("grace", first_name="Grace")
    pages = {
        "overview": INDEX,
        "list": LIST,
        "instance-running": instance_page(day.RUNNING),
        "instance-failed": instance_page(day.FAILED),
        "instance-finished": instance_page(day.FINISHED),
        "entity": entity_page("stock", key="earl-grey"),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.find_or_raise(), args=list(chromium.ARGUMENTS)
        )
        for look, options in LOOKS.items():
            page = Visitor(browser, server, user, **options).page()
            for name, path in pages.items():
                page.goto(path)
                take(page, directory / f"{name}-{look}.png", _HIGHEST[look])
        browser.close()


def take(page: Page, path: Path, highest: int) -> None:
    """Take a picture of a page, from its top."""
    width, height = page.evaluate("[window.innerWidth, document.querySelector('#container').scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, highest)}
    page.screenshot(path=path, full_page=True, clip=clip)
    sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} KB\n")


if __name__ == "__main__":
    main()
