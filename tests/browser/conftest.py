from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, sync_playwright

from tests.browser import chromium
from tests.browser.browsing import Visitor
from tests.browser.processes import worker_process

# Playwright keeps an event loop in this thread, though its callers here are as synchronous as any test.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.browser.settings"}
Visit = Callable[..., Visitor]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.find_or_raise(), args=list(chromium.ARGUMENTS)
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(browser: Browser) -> None:
    """Let the browser come first, and go last.

    Django's connections belong to the event loop, which is Playwright's: those from before it could not be
    closed while it runs, and nobody can drop a database that is in use.
    """


@pytest.fixture
def visit(browser: Browser, live_server: Any) -> Iterator[Visit]:
    """Open windows: ``visit(user, color_scheme="dark")``; root is there if nobody else is."""
    visitors: list[Visitor] = []

    def open_window(user: User | None = None, **options: Any) -> Visitor:
        server = options.pop("server", live_server.url)
        if user is None:
            root = User.objects.filter(is_superuser=True).first()
            user = root or User.objects.create_superuser("root")
        visitors.append(Visitor(browser, server, user, **options))
        return visitors[-1]

    yield open_window
    # All windows are closed before the first problem is raised: their scripts ask the server again and again.
    problems = [problem for visitor in visitors for problem in _closed(visitor)]
    assert not problems, "\n".join(problems)


def _closed(visitor: Visitor) -> list[str]:
    visitor.close()
    return visitor.problems


@pytest.fixture
def worker(command_environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A worker process."""
    with worker_process(command_environment | SETTINGS, tmp_path / "worker.log"):
        yield
