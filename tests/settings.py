"""The demo project's settings on the database of the test run."""

from __future__ import annotations

from testproject import databases as project_databases
from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS
from tests import databases

DATABASES = {"default": project_databases.from_url(databases.url())}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Threads and processes must share the test database, so that it cannot live in memory.
    DATABASES["default"]["TEST"] = {"NAME": f"{DATABASES['default']['NAME']}.test"}

DEBUG = False
INSTALLED_APPS = [*INSTALLED_APPS, "django_q"]
Q_CLUSTER = {"orm": "default", "timeout": 30, "retry": 60, "poll": 0.02, "save_limit": 100}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
