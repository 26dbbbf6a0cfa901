"""Fixtures for pytest, loaded by pytest itself where durable_django is installed.

They need pytest-django. This module must not import Django when it is loaded: nobody has set it up yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from durable_django.core.registry import Registry
    from durable_django.testing import VirtualClock
    from durable_django.worker import DurableTaskWorker


@pytest.fixture
def durable_clock() -> Iterator[VirtualClock]:
    """The clock of durable_django, stopped for the test; ``testing.advance`` moves it."""
    from durable_django.testing import virtual_time

    with virtual_time() as clock:
        yield clock


@pytest.fixture
def durable_registry() -> Registry:
    """What ``durable_worker`` runs: all that the project has registered, unless a test overrides this."""
    from durable_django.core.registry import default_registry

    return default_registry


@pytest.fixture(scope="session")
def _durable_wakeups(django_db_setup: None) -> Iterator[None]:
    """Close the connections that listen before the test database is dropped."""
    from durable_django.conf import settings
    from durable_django.store import wakeup

    yield
    wakeup.hub(settings.DATABASE_ALIAS).close()


@pytest.fixture
def durable_worker(
    transactional_db: None, durable_registry: Registry, _durable_wakeups: None
) -> Iterator[DurableTaskWorker]:
    """A worker in threads of its own, started, and stopped after the test.

    The test runs without a surrounding transaction, as one with ``django_db(transaction=True)``, since the
    worker only sees what is committed. On SQLite the test database must be a file: set ``TEST["NAME"]``.
    """
    from django.db import connections

    from durable_django.conf import settings
    from durable_django.worker import DurableTaskWorker

    using = settings.DATABASE_ALIAS
    if getattr(connections[using], "is_in_memory_db", bool)():
        pytest.fail(
            f"The worker's threads cannot share a test database in memory: give DATABASES[{using!r}] a file, "
            'as in "TEST": {"NAME": BASE_DIR / "test.sqlite3"}.'
        )
    worker = DurableTaskWorker(registry=durable_registry, using=using)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
