"""Small transactions on PostgreSQL: what atomic() promises holds in a pipeline too."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import pytest
from django.db import DatabaseError, DataError, IntegrityError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.models import Worker
from durable_django.store import clock, pipeline, postgres, rows, wakeup

USING = "default"

pytestmark = pytest.mark.django_db(transaction=True, databases=[USING])

_FIELDS = ("identity", "name", "host", "pid", "pid_namespace", "started_at", "last_heartbeat_at")


def add(cursor: CursorWrapper, *identities: str) -> None:
    now = clock.to_database(USING, clock.now())
    rows.insert(cursor, Worker, _FIELDS, [(identity, "", "here", 1, "", now, now) for identity in identities])


def identities() -> list[str]:
    return sorted(Worker.objects.values_list("identity", flat=True))


def in_pipeline_mode() -> bool:
    return bool(connection.connection.pgconn.pipeline_status)


def test_postgresql_gets_a_pipeline_for_a_small_transaction_alone() -> None:
    with pipeline.begin(USING, small=True) as cursor:
        assert isinstance(cursor, postgres.PipelineCursor) == (connection.vendor == "postgresql")
    with pipeline.begin(USING, small=False) as cursor:
        assert not isinstance(cursor, postgres.PipelineCursor)
    with transaction.atomic(), pipeline.begin(USING, small=True) as cursor:
        assert not isinstance(cursor, postgres.PipelineCursor)


@pytest.mark.parametrize("key", ["PIPELINE", "LISTEN"])
def test_no_pipeline_where_sessions_are_not_ours(key: str, settings: Any) -> None:
    settings.DURABLE_DJANGO = {key: False}
    with pipeline.begin(USING, small=True) as cursor:
        assert not isinstance(cursor, postgres.PipelineCursor)


@pytest.mark.parametrize("count", [1, 3, 40, 150])
def test_rows_are_there_after_the_commit(count: int) -> None:
    names = [f"w{number:03}" for number in range(count)]
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, *names)
        assert connections[USING].in_atomic_block
    assert not connections[USING].in_atomic_block
    assert identities() == names


def test_many_rows_end_the_pipeline_and_not_the_transaction() -> None:
    with suppress(ZeroDivisionError), pipeline.begin(USING, small=True) as cursor:
        before = rows.ask(cursor, "SELECT CAST(%s AS integer)", [1])
        add(cursor, *(f"w{number}" for number in range(150)))
        after = rows.ask(cursor, "SELECT CAST(%s AS integer)", [2])
        add(cursor, "another")
        assert (before()[0][0], after()[0][0]) == (1, 2)
        assert connections[USING].in_atomic_block
        raise ZeroDivisionError
    assert identities() == []


@pytest.mark.database("postgresql")
def test_after_many_rows_the_pipeline_goes_on() -> None:
    many = [f"w{number:03}" for number in range(150)]
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, *many)
        add(cursor, "another")
        assert in_pipeline_mode()
    assert not in_pipeline_mode()
    assert identities() == ["another", *many]


@pytest.mark.database("postgresql")
def test_an_error_after_many_rows_takes_them_back_too() -> None:
    def fail() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            add(cursor, *(f"w{number}" for number in range(150)))
            cursor.execute("SELECT 1 / CAST(%s AS integer)", [0])
            add(cursor, "another")  # Raises here, or at the commit: as soon as the server has answered.

    with pytest.raises(DataError):
        fail()
    assert identities() == []
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, "next")
    assert identities() == ["next"]


def test_what_is_asked_at_once_is_answered_in_order() -> None:
    with pipeline.begin(USING, small=True) as cursor:
        first = rows.ask(cursor, "SELECT CAST(%s AS integer)", [1])
        second = rows.ask(cursor, "SELECT CAST(%s AS integer)", [2])
        assert [list(second()), list(first())] == [[(2,)], [(1,)]]


def test_an_error_of_the_code_rolls_all_back_and_the_connection_goes_on() -> None:
    hooks: list[str] = []

    def fail() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            add(cursor, "lost")
            transaction.on_commit(lambda: hooks.append("lost"), using=USING)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert identities() == []
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, "kept")
        transaction.on_commit(lambda: hooks.append("kept"), using=USING)
    assert identities() == ["kept"]
    assert hooks == ["kept"]


def test_an_error_of_the_database_is_djangos_and_nothing_after_it_is_committed() -> None:
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, "twin")

    def fail() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            for identity in ("before", "twin", "after"):
                add(cursor, identity)

    with pytest.raises(IntegrityError):
        fail()
    assert identities() == ["twin"]
    assert not connections[USING].in_atomic_block
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, "next")
    assert identities() == ["next", "twin"]


def test_a_savepoint_within_takes_back_its_own() -> None:
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, "outer")
        with suppress(ZeroDivisionError), transaction.atomic(USING):
            add(cursor, "inner")
            raise ZeroDivisionError
    assert identities() == ["outer"]


@pytest.mark.database("postgresql")
def test_a_connection_that_is_cut_is_replaced() -> None:
    def fail() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            add(cursor, "lost")
            connections[USING].connection.close()

    with pytest.raises(DatabaseError):
        fail()
    connections[USING].close()
    with pipeline.begin(USING, small=True) as cursor:
        add(cursor, "kept")
    assert identities() == ["kept"]


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("in_pipeline", [True, False])
def test_clients_are_told_by_the_commit(in_pipeline: bool) -> None:
    with closing(postgres.listen(USING, wakeup.CHANNEL, 10)) as heard:
        assert next(heard) is None, "it listens"
        with pipeline.begin(USING, small=in_pipeline) as cursor:
            assert wakeup.announce_within(cursor, ["order"], is_small=True)
        sender, *changes = str(next(heard)).split(postgres.SEPARATOR)
        assert (sender, changes) == (wakeup.hub(USING).sender, ["changed:order"])


def test_of_many_the_commit_tells_nobody() -> None:
    with pipeline.begin(USING, small=False) as cursor:
        assert not wakeup.announce_within(cursor, ["order"], is_small=False)


def test_nobody_is_told_where_nobody_can_listen(settings: Any) -> None:
    settings.DURABLE_DJANGO = {"LISTEN": False}
    with pipeline.begin(USING, small=True) as cursor:
        assert not wakeup.announce_within(cursor, ["order"], is_small=True)


@pytest.mark.database("postgresql")
def test_what_was_to_be_prepared_after_an_error_is_prepared_again() -> None:
    def fail() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            cursor.execute("SELECT 1 / %s::integer", [0])
            for number in range(4):
                add(cursor, f"lost{number}")

    for _ in range(3):
        with pytest.raises(DatabaseError):
            fail()
    for number in range(4):
        with pipeline.begin(USING, small=True) as cursor:
            add(cursor, f"kept{number}")
    assert identities() == ["kept0", "kept1", "kept2", "kept3"]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.database("postgresql")
def test_text_that_is_too_long_is_refused_and_not_cut_off(*, small: bool) -> None:
    def insert() -> None:
        with pipeline.begin(USING, small=small) as cursor:
            add(cursor, *(f"{number:03}{'x' * 253}" for number in range(20)))

    def rename() -> None:
        with pipeline.begin(USING, small=small) as cursor:
            renamed = [("y" * 256, pk) for pk in Worker.objects.values_list("pk", flat=True)]
            rows.update(cursor, Worker, ("name",), renamed)

    with pytest.raises(DatabaseError):
        insert()
    with pipeline.begin(USING, small=small) as cursor:
        add(cursor, "a", "b")
    with pytest.raises(DatabaseError):
        rename()
    assert list(Worker.objects.values_list("name", flat=True)) == ["", ""]


def test_what_is_written_ahead_is_there_after_the_commit() -> None:
    with pipeline.begin(USING, small=False) as cursor:
        with pipeline.ahead(cursor):
            add(cursor, "a")
            add(cursor, "b")
        assert identities() == ["a", "b"]
        add(cursor, *(f"w{number}" for number in range(150)))  # A COPY, where there is one.
    assert len(identities()) == 152


def add_ahead(*identities: str, then: Exception | None = None) -> None:
    with pipeline.begin(USING, small=False) as cursor:
        add(cursor, "before")
        with pipeline.ahead(cursor):
            for identity in identities:
                add(cursor, identity)
            if then is not None:
                raise then


def test_what_fails_ahead_is_djangos_error_and_nothing_is_committed() -> None:
    with pytest.raises(IntegrityError):
        add_ahead("a", "a", "b")
    assert identities() == []


def test_an_error_of_the_code_ahead_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        add_ahead("a", then=ZeroDivisionError())
    assert identities() == []


@pytest.mark.parametrize("key", ["PIPELINE", "LISTEN"])
def test_nothing_is_written_ahead_where_sessions_are_not_ours(key: str, settings: Any) -> None:
    settings.DURABLE_DJANGO = {key: False}
    with pipeline.begin(USING, small=False) as cursor, pipeline.ahead(cursor):
        add(cursor, "a")
        if connection.vendor == "postgresql":
            assert not in_pipeline_mode()
    assert identities() == ["a"]
