"""The settings of the test run, with a strict policy on all pages and the workflows of these tests."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as PROJECT_APPS
from tests.settings import MIDDLEWARE as PROJECT_MIDDLEWARE

INSTALLED_APPS = [*PROJECT_APPS, "tests.browser", "tests.browser.shop"]
MIDDLEWARE = ["tests.browser.policy.StrictPolicy", *PROJECT_MIDDLEWARE]
