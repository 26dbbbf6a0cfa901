"""Settings of the processes that these tests start; ``Q_CLUSTER`` in the environment is JSON."""

from __future__ import annotations

import json
import os
from typing import Any

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django_q", "tests.engines"]
DEBUG = False
Q_CLUSTER: dict[str, Any] = json.loads(os.environ["Q_CLUSTER"])
