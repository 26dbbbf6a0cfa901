"""What becomes of the connections of a worker's threads between activities."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.signals import connection_created

from durable_django.worker import connections as kept
from tests.worker.byhand import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)


def query() -> Any:
    """Use the database, and return psycopg's or sqlite3's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return connection.connection


def test_a_connection_is_kept_for_the_next_activity() -> None:
    def run() -> bool:
        first = query()
        kept.tidy()
        is_kept = connection.connection is first
        kept.tidy()
        return is_kept and query() is first

    assert elsewhere(run)


def test_a_connection_is_closed_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Any:
        query()
        kept.tidy()
        assert connection.close_at is not None
        now = connection.close_at + 1
        monkeypatch.setattr("django.db.backends.base.base.time.monotonic", lambda: now)
        kept.tidy()
        return connection.connection

    assert elsewhere(run) is None


def test_a_new_connection_has_its_own_minute() -> None:
    def run() -> bool:
        first = query()
        kept.tidy()
        connection.close()
        second = query()
        kept.tidy()
        return connection.connection is second and second is not first

    assert elsewhere(run)


def test_a_transaction_that_was_left_open_ends_with_its_connection() -> None:
    def run() -> Any:
        query()
        transaction.set_autocommit(False)
        kept.tidy()
        return connection.connection

    assert elsewhere(run) is None


@pytest.mark.database("postgresql")
def test_a_connection_whose_server_is_gone_is_closed() -> None:
    def run() -> Any:
        query().close()
        with pytest.raises(DatabaseError):
            query()
        kept.tidy()
        return connection.connection

    assert elsewhere(run) is None


@pytest.mark.database("postgresql")
def test_a_connection_that_no_signal_told_of_is_looked_after_a_little_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("somebody else's receiver")

    def run() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(connection_created, "send", fail)
            with pytest.raises(RuntimeError):
                query()
        connection.connection.close()
        with pytest.raises(DatabaseError):
            query()
        kept._connected.looked_at -= 2.0
        kept.tidy()
        return connection.connection

    assert elsewhere(run) is None


def test_connections_of_others_are_left_alone() -> None:
    def run() -> bool:
        private: Any = connections.create_connection("default")
        private.connect()
        try:
            private.close_at = 0.0
            kept.tidy()
            return private.connection is not None
        finally:
            private.close()

    assert elsewhere(run)


def test_a_thread_without_connections_gets_none() -> None:
    def run() -> int:
        kept.tidy()
        return len(connections.all(initialized_only=True))

    assert elsewhere(run) == 0


def test_a_database_that_is_no_more_is_forgotten() -> None:
    def run() -> set[str]:
        query()
        kept._connected.aliases.add("tenant")
        kept.tidy()
        return kept._connected.aliases

    assert elsewhere(run) == {"default"}


def test_a_connection_that_cannot_be_looked_after_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("a backend of the project's")

    def run() -> None:
        query()
        own: Any = connections["default"]
        own.close_if_unusable_or_obsolete = fail
        kept.tidy()

    elsewhere(run)
    assert "The connection to 'default' could not be looked after" in caplog.text


@pytest.mark.parametrize("is_closed", [False, True])
def test_atomic_blocks_that_nobody_leaves_are_undone(is_closed: bool) -> None:
    def run() -> tuple[bool, bool, int]:
        query()
        transaction.atomic().__enter__()
        transaction.atomic().__enter__()
        Group.objects.create(name="lost")
        if is_closed:
            connection.close()
        is_left_open = kept.tidy()
        kept.leave_atomic_blocks()
        Group.objects.create(name="kept")
        return is_left_open, kept.tidy(), len(connection.savepoint_ids)

    assert elsewhere(run) == (True, False, 0)
    assert [group.name for group in Group.objects.all()] == ["kept"]
