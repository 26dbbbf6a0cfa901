"""Settings of the processes that these tests start; ``Q_CLUSTER`` in the environment is JSON."""

from __future__ import annotations

import json
import os
from typing import Any

import django

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django_q", "django_tasks_db", "tests.engines"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
DEBUG = False
Q_CLUSTER: dict[str, Any] = json.loads(os.environ["Q_CLUSTER"])
