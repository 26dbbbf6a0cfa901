"""The connection on which waiting clients listen, at the end of a test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import DEFAULT_DB_ALIAS

from durable_django.store import wakeup


@pytest.fixture(scope="session", autouse=True)
def listener_is_gone_before_the_database(django_db_setup: None) -> Iterator[None]:
    """Close the connection on which waiting clients listen: nobody can drop a database that is in use."""
    yield
    wakeup.hub(DEFAULT_DB_ALIAS).close()
