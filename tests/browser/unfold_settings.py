"""The same with django-unfold, which brings templates and an admin site of its own."""

from __future__ import annotations

from tests.browser.settings import *  # noqa: F403
from tests.browser.settings import INSTALLED_APPS as PLAIN_APPS
from tests.settings import MIDDLEWARE as PROJECT_MIDDLEWARE

INSTALLED_APPS = ["unfold", *PLAIN_APPS]
# Alpine.js, which its pages are made of, evaluates expressions: the strict policy forbids that.
MIDDLEWARE = PROJECT_MIDDLEWARE
