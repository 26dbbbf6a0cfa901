"""A worker whose connections are lost: what it does until it has new ones, and how it stops without."""

from __future__ import annotations

import logging
import threading
import time
from unittest.mock import Mock, patch

import pytest
from django.db import OperationalError, connection, connections

from durable_django.conf import settings
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.models import Worker
from durable_django.store import workers
from durable_django.worker import DurableTaskWorker
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.bundles import Bundles
from durable_django.worker.pool import ActivityPool
from durable_django.worker.upkeep import Upkeep, Watch

pytestmark = pytest.mark.django_db(transaction=True)

USING = "default"


def lose_connection() -> None:
    """Have the server end this thread's session, as a restart does, or an idle timeout on the way to it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    other = connections.create_connection(USING)
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    finally:
        other.close()


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("durable-")}


def join_activity_threads() -> None:
    """Wait for the only threads that a worker which stops does not wait for itself."""
    for thread in threading.enumerate():
        if thread.name.startswith("durable-activity"):
            thread.join(10.0)


@pytest.mark.database("postgresql")
def test_a_worker_whose_first_connection_was_lost_leaves_like_any_other() -> None:
    worker = DurableTaskWorker()
    worker.start()
    assert Worker.objects.count() == 1
    connection.settings_dict["CONN_HEALTH_CHECKS"], before = (
        False,
        connection.settings_dict["CONN_HEALTH_CHECKS"],
    )
    try:
        lose_connection()
        worker.stop()
    finally:
        connection.settings_dict["CONN_HEALTH_CHECKS"] = before
    assert not Worker.objects.exists()


def test_a_worker_stops_though_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    worker = DurableTaskWorker()
    worker.start()
    with (
        patch.object(workers, "remove", side_effect=OperationalError("away")),
        caplog.at_level(logging.WARNING),
    ):
        worker.stop()
    others = {name for name in names_of_threads() if not name.startswith("durable-activity")}
    join_activity_threads()
    assert Worker.objects.count() == 1  # For others to find dead.
    assert "The database is away" in caplog.text
    assert not {name for name in others | names_of_threads() if not name.startswith("durable-listen")}


def test_a_heartbeat_that_failed_is_made_up_for_soon() -> None:
    pool = ActivityPool(
        ActivityRunner(Registry(), PayloadCodec(), "w"), lambda _: None, threads=1, concurrent=1
    )
    beat = Mock(side_effect=[OperationalError("away"), None])
    upkeep = Upkeep(USING, "w", pool, Bundles(USING, "w"), Watch(), tend=lambda: False, beat=beat)
    with pytest.raises(OperationalError):
        upkeep._keep_up()
    assert upkeep._beat_at <= time.monotonic() + 1.0 < time.monotonic() + settings.HEARTBEAT_SECONDS
    upkeep._beat_at = 0.0
    upkeep._keep_up()
    assert beat.call_count == 2
    assert upkeep._beat_at > time.monotonic() + settings.HEARTBEAT_SECONDS - 1.0
