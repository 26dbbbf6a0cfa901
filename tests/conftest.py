"""What every test may use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests import databases

if TYPE_CHECKING:
    from collections.abc import Sequence

pytest_plugins = ["durable_django.testing.plugin"]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("database"):
            if connection.vendor not in marker.args:
                item.add_marker(pytest.mark.skip(reason=f"needs {' or '.join(marker.args)}"))


@pytest.fixture
def command_environment(transactional_db: None) -> dict[str, str]:
    """The environment in which ``manage.py``, started by a test, works on the test's own database."""
    return os.environ | {
        "DATABASE_URL": databases.to_url(connection.settings_dict),
        "DJANGO_SETTINGS_MODULE": "testproject.settings",
        "PYTHONUNBUFFERED": "1",
    }
