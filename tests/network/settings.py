"""Settings of the workers on the hosts of the network."""

from __future__ import annotations

from tests.processes.settings import *  # noqa: F403
from tests.processes.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.network"]
